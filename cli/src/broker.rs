//! `ottla broker`: one broker, from a settings file or from the environment.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ottla_broker::broker::Broker;
use ottla_broker::config::{Loaded, Properties, Settings, environment, properties};
use ottla_broker::env::{Env, real};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, error, info, warn};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  ottla broker --config server.properties
  ottla broker --config server.properties --override log.dirs=/data
  KAFKA_NODE_ID=1 KAFKA_LISTENERS=PLAINTEXT://:9092 ottla broker

Settings are Kafka's. Environment variables named KAFKA_… (KAFKA_LOG_DIRS is log.dirs) add to the
file and win over it; --override wins over both. OTTLA_LOG sets the level of the log: info, debug.")]
pub struct Args {
    /// Settings file, in the format of Kafka's server.properties
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One more setting, as key=value; may be repeated
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// A file with the broker's rack, where no setting can tell it in advance; without it, or while
    /// it is empty, there is none
    #[arg(long, value_name = "FILE")]
    rack_file: Option<PathBuf>,
    /// Stop cleanly when standard input is closed: when the process that holds it has gone
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub fn run(args: Args) -> ExitCode {
    crate::logging::start();
    let loaded = match load(&args) {
        Ok(loaded) => loaded,
        Err(why) => return fail(&why),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let control = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let env = real::env().with_control(control.handle().clone());
    let ended = runtime.block_on(serve(env, loaded.settings, args.stop_with_stdin));
    // A read of standard input may never end: it is no reason to stay.
    runtime.shutdown_background();
    control.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    error!("{why}");
    ExitCode::FAILURE
}

/// File, environment and overrides, each winning over what comes before.
fn load(args: &Args) -> Result<Loaded, String> {
    let mut given = match &args.config {
        Some(path) => read(path)?,
        None => Properties::default(),
    };
    let found = environment(std::env::vars());
    if !found.skipped.is_empty() {
        debug!(skipped = ?found.skipped, "variables that mean nothing to a broker without a JVM");
    }
    given.extend(found.properties);
    if let Some(rack) = args.rack_file.as_deref().and_then(rack) {
        given.insert("broker.rack".to_owned(), rack);
    }
    for one in &args.overrides {
        let (key, value) =
            one.split_once('=').ok_or(format!("--override {one:?}: expected KEY=VALUE"))?;
        given.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    let loaded = Settings::load(given).map_err(|fault| fault.to_string())?;
    for warning in found.warnings.iter().chain(&loaded.warnings) {
        warn!("{warning}");
    }
    Ok(loaded)
}

fn read(path: &Path) -> Result<Properties, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    properties::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn rack(path: &Path) -> Option<String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            warn!("{} cannot be read, this broker has no rack: {error}", path.display());
            return None;
        }
    };
    Some(text.trim().to_owned()).filter(|rack| !rack.is_empty())
}

/// Runs the broker until a signal, the end of standard input, or a fault of its own.
async fn serve(env: Env, settings: Settings, stop_with_stdin: bool) -> Result<(), String> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let asked = async {
        tokio::select! {
            biased;
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            () = stdin_closed(), if stop_with_stdin => "end of standard input",
        }
    };
    tokio::pin!(asked);
    let starting = Broker::start(env, settings);
    let broker = tokio::select! {
        biased;
        why = &mut asked => {
            info!("stopped by {why} before it served");
            return Ok(());
        }
        started = starting => started.map_err(|fault| fault.to_string())?,
    };
    tokio::select! {
        biased;
        why = &mut asked => info!("stopping: {why}"),
        ended = broker.ended() => return ended.map_err(|fault| fault.to_string()),
    }
    broker.shut_down().await;
    info!("stopped");
    Ok(())
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
