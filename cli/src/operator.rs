//! `ottla operator`: watches KafkaClusters and KafkaTopics and makes them so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use ottla_operator::process::{self, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  ottla operator --no-lease                        one operator, with your kubeconfig
  ottla operator --namespace shop --image ottla:1  for one namespace

The chart in charts/ottla runs it in Kubernetes, with the rights that it needs and no more.")]
pub struct Args {
    /// Look after this namespace only; all namespaces unless set
    #[arg(long, env = "OTTLA_WATCH_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The image of brokers whose manifest names none
    #[arg(long, env = "OTTLA_IMAGE", value_name = "IMAGE", default_value_t = default_image())]
    image: String,
    /// Where probes and metrics are served, by HTTP
    #[arg(long, env = "OTTLA_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Who this operator is among several; the host name unless set
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// The namespace of the Lease by which one of several operators leads
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "default")]
    lease_namespace: String,
    /// Lead without a Lease: for a single operator only
    #[arg(long)]
    no_lease: bool,
    /// Run nothing: ask this address whether an operator is ready, and exit with 0 when it is
    #[arg(long, value_name = "URL")]
    check: Option<String>,
    /// Seconds until a resource that is as it should be is looked at again
    #[arg(long, env = "OTTLA_RESYNC_SECONDS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    resync: u64,
}

fn default_image() -> String {
    format!("ottla:{}", env!("CARGO_PKG_VERSION"))
}

pub fn run(args: Args) -> ExitCode {
    if let Some(url) = args.check {
        return check(&url);
    }
    crate::logging::start();
    let options = Options {
        namespace: args.namespace.filter(|name| !name.is_empty()),
        image: args.image,
        listen: args.listen,
        identity: args.identity.unwrap_or_else(host_name),
        lease_namespace: (!args.no_lease).then_some(args.lease_namespace),
        resync: Duration::from_secs(args.resync),
    };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error),
        };
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        process::run(options, stop).await.map_err(Box::<dyn std::error::Error>::from)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("the operator ends: {error}");
    ExitCode::FAILURE
}

fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", name.trim(), std::process::id())
}

/// For `helm test`: the image holds no curl.
fn check(url: &str) -> ExitCode {
    match ask(url) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => {
            println!("{url}: ready");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprintln!("{url}: {}", answer.lines().next().unwrap_or("no answer"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{url}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(url: &str) -> std::io::Result<String> {
    let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "not http://HOST:PORT/…");
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').ok_or_else(wrong)?;
    let mut connection = TcpStream::connect(host)?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(connection, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
