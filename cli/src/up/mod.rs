//! `ottla up`: the clusters and topics of manifest files as local processes.
//!
//! The same validation and the same topic logic as in the operator; where that applies objects,
//! this starts processes. Deliberately absent: scaling a cluster and removing one while it runs.

mod books;
mod manifests;
mod plan;
mod ports;
mod process;
mod supervisor;
mod topics;
mod voters;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval};

use books::Books;
use manifests::Manifests;
use ottla_operator::cluster::{Layout, ValidCluster};
use plan::ClusterPlan;
use supervisor::Supervisor;

/// How often the files are looked at for edits.
const LOOK: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  ottla up examples/quickstart.yaml
  ottla up cluster.yaml topics.yaml --port 19092 --data /tmp/ottla

The files are watched: an edit is applied while the brokers run. Ctrl-C stops all brokers cleanly;
the next `ottla up` with the same --data goes on where they stopped.")]
pub struct Args {
    /// Manifest files with KafkaCluster and KafkaTopic resources
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The first broker's port; the others follow; between themselves they use ports from 500 and from 1000 above
    #[arg(long, default_value_t = 9092, value_parser = clap::value_parser!(u16).range(1..=63000))]
    port: u16,
    /// Folder of the brokers' data, settings and logs; survives restarts
    #[arg(long, default_value = ".ottla", value_name = "DIR")]
    data: PathBuf,
}

/// Prints one line of progress; a closed standard output is no reason to stop.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, $($words)*).and_then(|()| out.flush());
    }};
}
pub(crate) use say;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Manifest(String),
    #[error(transparent)]
    Port(#[from] ports::Taken),
    #[error("cannot write to {path}: {source}. Choose another folder with --data", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("another `ottla up` runs in {path}: stop it or choose another folder with --data", path = path.display())]
    Running { path: PathBuf },
    #[error("{node} of {cluster} cannot be started: {source}")]
    Start { cluster: String, node: String, source: io::Error },
    #[error("{0}")]
    Runtime(#[from] io::Error),
}

pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(up(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("ottla: {error}");
    ExitCode::FAILURE
}

async fn up(args: Args) -> Result<(), Error> {
    let mut stop = Stop::listen()?;
    let mut text = manifests::read(&args.files).map_err(Error::Manifest)?;
    let manifests = Manifests::parse(&text).map_err(Error::Manifest)?;
    let _lock = lock(&args.data)?;
    let plans = plan(&manifests, &args, &[])?;
    ports::check(plans.iter().flat_map(ClusterPlan::ports))?;

    let mut clusters = Vec::new();
    let outcome = tokio::select! {
        biased;
        () = stop.asked() => Ok(()),
        outcome = bring_up(&plans, &mut clusters) => outcome,
    };
    if outcome.is_ok() && !stop.was_asked {
        follow_edits(&args, &mut clusters, &mut text, &mut stop).await;
    }
    for cluster in clusters {
        cluster.stop().await;
    }
    outcome
}

/// Starts everything and says how to use it.
async fn bring_up(plans: &[ClusterPlan], clusters: &mut Vec<Cluster>) -> Result<(), Error> {
    for plan in plans {
        let mut cluster = Cluster { plan: plan.clone(), nodes: Vec::new(), care: None };
        let started = Instant::now();
        let launched = cluster.launch();
        clusters.push(cluster);
        launched?;
        topics::wait_until_serving(plan).await;
        say!("{}: all brokers serve after {:.1} s", plan.name, started.elapsed().as_secs_f32());
        topics::apply(plan).await;
        if let Some(care) = clusters.last_mut().and_then(|cluster| cluster.care.as_mut()) {
            care.settled().await;
        }
        let voters: Vec<_> = plan.books.layout.voters().map(|id| id.to_string()).collect();
        say!("{}: {} after {:.1} s", plan.name, vote(&voters), started.elapsed().as_secs_f32());
        greet(plan);
    }
    Ok(())
}

fn vote(voters: &[String]) -> String {
    match voters {
        [one] => format!("node {one} is the controller"),
        all => format!("nodes {} vote", all.join(", ")),
    }
}

fn greet(plan: &ClusterPlan) {
    let bootstrap = format!("127.0.0.1:{}", plan.brokers[0].port);
    let topic = plan.topics.first().map_or("my-topic", |topic| topic.name.as_str());
    say!("\nKafka cluster \"{}\" is ready. Bootstrap address: {bootstrap}\nTry:", plan.name);
    say!("  ottla kafka-topics.sh --bootstrap-server {bootstrap} --describe");
    say!(
        "  echo hello | ottla kafka-console-producer.sh --bootstrap-server {bootstrap} --topic {topic}"
    );
    say!(
        "  ottla kafka-console-consumer.sh --bootstrap-server {bootstrap} --topic {topic} --from-beginning\n"
    );
}

/// Applies edits of the files until we are asked to stop.
async fn follow_edits(
    args: &Args,
    clusters: &mut [Cluster],
    text: &mut Vec<(PathBuf, String)>,
    stop: &mut Stop,
) {
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => return,
            _ = look.tick() => {}
        }
        // An editor may replace the file: it is looked at again.
        let Ok(now) = manifests::read(&args.files) else { continue };
        if now == *text {
            continue;
        }
        *text = now;
        match Manifests::parse(text)
            .map_err(Error::Manifest)
            .and_then(|new| plan(&new, args, clusters))
        {
            Err(error) => say!("the edit is not applied: {error}"),
            Ok(plans) => tokio::select! {
                biased;
                () = stop.asked() => return,
                () = apply_edit(&plans, clusters) => {}
            },
        }
    }
}

async fn apply_edit(plans: &[ClusterPlan], clusters: &mut [Cluster]) {
    for cluster in clusters.iter_mut() {
        if let Some(plan) = plans.iter().find(|plan| plan.name == cluster.plan.name) {
            cluster.change(plan).await;
        } else {
            say!(
                "{}: no longer in the files, but it runs until `ottla up` stops",
                cluster.plan.name
            );
        }
    }
    for plan in plans {
        if clusters.iter().all(|cluster| cluster.plan.name != plan.name) {
            say!("{}: a new cluster starts with the next `ottla up`", plan.name);
        }
    }
}

struct Cluster {
    plan: ClusterPlan,
    /// In the order of the plan's nodes.
    nodes: Vec<Supervisor>,
    care: Option<voters::Care>,
}

impl Cluster {
    fn launch(&mut self) -> Result<(), Error> {
        for node in self.plan.nodes() {
            let failed = |source| {
                let (cluster, node) = (self.plan.name.clone(), node.title());
                Error::Start { cluster, node, source }
            };
            self.nodes.push(Supervisor::start(&self.plan.name, node.clone()).map_err(failed)?);
        }
        self.care = Some(voters::Care::start(&self.plan));
        Ok(())
    }

    /// Goes over to `plan`: brokers one by one where their settings changed, then the topics.
    async fn change(&mut self, plan: &ClusterPlan) {
        if plan.brokers.len() != self.plan.brokers.len() {
            say!(
                "{}: {} brokers run; scaling to {} while they run is not built yet: stop, then start again",
                plan.name,
                self.plan.brokers.len(),
                plan.brokers.len()
            );
            return;
        }
        for ((node, old), running) in plan.nodes().zip(self.plan.nodes()).zip(&self.nodes) {
            if node == old {
                continue;
            }
            say!("{}: new settings for {}: it is restarted", plan.name, node.title());
            if let Err(error) = running.restart(node.clone()).await {
                say!("{}: {} cannot be restarted: {error}", plan.name, node.title());
                return;
            }
            topics::wait_until_in_sync(plan).await;
        }
        for old in &self.plan.topics {
            if plan.topics.iter().all(|topic| topic.name != old.name) {
                say!(
                    "{}: topic {} is no longer in the files; its data stays until you delete it with kafka-topics.sh --delete",
                    plan.name,
                    old.name
                );
            }
        }
        topics::apply(plan).await;
        self.plan = plan.clone();
    }

    /// Those without a vote first, so that they can hand over their leaders; the voters at once,
    /// as the last one of them could not be sure of anything.
    async fn stop(mut self) {
        drop(self.care.take());
        let layout = self.plan.books.layout;
        let nodes = self.plan.nodes().map(|node| node.id).zip(self.nodes);
        let (voters, rest): (Vec<_>, Vec<_>) = nodes.partition(|(id, _)| layout.votes(*id));
        for wave in [rest, voters] {
            futures::future::join_all(wave.into_iter().map(|(_, node)| node.stop())).await;
        }
    }
}

/// Ctrl-C or SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    was_asked: bool,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            was_asked: false,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        if !self.was_asked {
            say!("stopping all brokers");
        }
        self.was_asked = true;
    }
}

/// One `ottla up` per folder.
fn lock(data: &Path) -> Result<File, Error> {
    let folder = |source| Error::Folder { path: data.to_owned(), source };
    fs::create_dir_all(data).map_err(folder)?;
    let file = File::create(data.join("lock")).map_err(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Running { path: data.to_owned() }),
        Err(TryLockError::Error(source)) => Err(folder(source)),
    }
}

/// What the manifests ask for. Who votes in a cluster of those `running` stays as it is.
fn plan(
    manifests: &Manifests,
    args: &Args,
    running: &[Cluster],
) -> Result<Vec<ClusterPlan>, Error> {
    let data = std::path::absolute(&args.data)
        .map_err(|source| Error::Folder { path: args.data.clone(), source })?;
    let mut base = args.port;
    let mut plans = Vec::new();
    for cluster in &manifests.clusters {
        let folder = data.join(&cluster.name);
        let books = match running.iter().find(|running| running.plan.name == cluster.name) {
            Some(running) => running.plan.books.clone(),
            None => books(cluster, &folder, base)?,
        };
        let id = cluster_id(&folder)?;
        let topics = manifests.topics_of(&cluster.name);
        plans.push(ClusterPlan::new(cluster, topics, &id, base, &data, books));
        base = base.saturating_add(u16::try_from(cluster.spec.replicas).unwrap_or(u16::MAX));
    }
    Ok(plans)
}

/// What the folder says of its quorum; a manifest that says otherwise is told so.
fn books(cluster: &ValidCluster, folder: &Path, base: u16) -> Result<Books, Error> {
    let port = base.saturating_add(plan::CONTROLLER);
    let books = Books::open(folder, cluster.layout, port)
        .map_err(|source| Error::Folder { path: folder.to_owned(), source })?;
    if let Layout::Combined { voters } = books.layout
        && voters > cluster.spec.replicas
    {
        return Err(Error::Manifest(format!(
            "KafkaCluster {:?}: spec.replicas is {}, but {voters} brokers of {} vote and all of them \
             are needed: raise it, or choose another folder with --data",
            cluster.name,
            cluster.spec.replicas,
            folder.display()
        )));
    }
    let earlier = books.layout == Layout::Static;
    if earlier {
        say!("{}: made by an earlier version, it keeps its one controller, node 0", cluster.name);
    } else if books.layout != cluster.layout {
        say!(
            "{}: its voters stay {}: {} can be had in a new --data folder only",
            cluster.name,
            books.layout,
            cluster.layout
        );
    }
    Ok(books)
}

/// The id of the cluster whose data lie in `folder`; made once, when there is none.
fn cluster_id(folder: &Path) -> Result<String, Error> {
    let failed = |source| Error::Folder { path: folder.to_owned(), source };
    let path = folder.join("cluster.id");
    match fs::read_to_string(&path) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(failed)?;
            let id = ottla_operator::cluster::identity::generate();
            fs::write(&path, format!("{id}\n")).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}
