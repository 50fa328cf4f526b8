//! How much a restart after a crash reads, and how soon a broker serves again.
//!
//! `restart simulated` cuts the power of a simulated disk under a broker with many partitions, and
//! counts what the next start reads. `restart load` and `restart serving` are the client's part of
//! `tests/bench/restart`, which does the same to real files, with Kafka beside it.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures::StreamExt;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, ProduceRequest, TopicName};
use ottla_broker::broker::Broker;
use ottla_broker::config::{Settings, properties};
use ottla_broker::coordinator::topic::TopicCreator;
use ottla_broker::env::disk::{Entry, Open};
use ottla_broker::env::simulated::SimulatedDisk;
use ottla_broker::env::{Blocking, Clock, Disk, DiskFile, Env, Random, real};
use ottla_broker::log::Origin;
use ottla_broker::wire::records::BatchBuilder;
use ottla_client::{Client, Options};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Cut the power under a broker on a simulated disk; count what the restart reads
    Simulated {
        #[arg(long, default_value_t = 10_000)]
        partitions: i32,
        /// Kilobytes in each partition
        #[arg(long, default_value_t = 200)]
        kb: usize,
    },
    /// Produce so many bytes to partition 0 of a topic
    Fill { bootstrap: String, topic: String, bytes: usize },
    /// Produce to all partitions of a topic until the broker is gone
    Load { bootstrap: String, topic: String, partitions: i32 },
    /// Print after how many seconds since SINCE (a Unix time) every leader answered, and after how
    /// many each had taken a record with acks=all
    Serving { bootstrap: String, topic: String, partitions: i32, since: f64 },
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Simulated { partitions, kb } => simulated(partitions, kb),
        Verb::Fill { bootstrap, topic, bytes } => {
            runtime().block_on(fill(&bootstrap, &topic, bytes))
        }
        Verb::Load { bootstrap, topic, partitions } => {
            runtime().block_on(load(&bootstrap, &topic, partitions))
        }
        Verb::Serving { bootstrap, topic, partitions, since } => {
            runtime().block_on(serving(&bootstrap, &topic, partitions, since))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be made")
}

// --- simulated ---------------------------------------------------------------------------------

/// A disk that counts the bytes read from it.
#[derive(Clone)]
struct Counting(SimulatedDisk, Arc<AtomicU64>);

struct CountingFile(Arc<dyn DiskFile>, Arc<AtomicU64>);

impl Disk for Counting {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CountingFile(self.0.open(path, how)?, self.1.clone())))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entries = self.0.list(dir)?;
        // About what names and sizes take up on a disk.
        let bytes: usize = entries.iter().map(|entry| entry.name.len() + 8).sum();
        self.1.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(entries)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock(path)
    }
}

impl DiskFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.0.read_at(buffer, offset)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
    fn write_all_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_all_at(parts, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

const TOPIC: &str = "many";

fn settings() -> Result<Settings, String> {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|it| it.to_string())?;
        listener.local_addr().map(|at| at.port()).map_err(|it| it.to_string())
    };
    let (port, controller) = (free()?, free()?);
    let text = format!(
        "node.id=0\nprocess.roles=broker,controller\ncluster.id=c2ltdWxhdGVkLWNsdXN0ZXI\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         controller.quorum.voters=0@127.0.0.1:{controller}\nlog.dirs=/data\n\
         log.flush.offset.checkpoint.interval.ms=1000\ncontroller.quorum.fetch.timeout.ms=60000\n\
         broker.session.timeout.ms=60000\noffsets.topic.num.partitions=1\n"
    );
    let given = properties::parse(&text)?;
    Settings::load(given).map(|loaded| loaded.settings).map_err(|fault| fault.to_string())
}

/// One life of the broker: everything of it ends with the runtime.
fn live<F, T>(disk: &Counting, life: impl FnOnce(Arc<Broker>) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let runtime = runtime();
    let (net, random) = (real::env().net, Random::from_seed(1));
    let env = Env::new(Clock::Real, Arc::new(disk.clone()), net, random, Blocking::Pool);
    let outcome = runtime.block_on(async {
        let broker = Broker::start(env, settings()?).await.map_err(|fault| fault.to_string())?;
        broker.lifecycle.unfenced().await;
        life(broker).await
    });
    runtime.shutdown_timeout(Duration::from_mins(1));
    disk.0.end_of_process();
    outcome
}

fn batch(sequence: i32, size: usize) -> Bytes {
    let mut builder = BatchBuilder::new().producer(7, 0, sequence);
    builder.push(1_700_000_000_000, Some(b"key"), Some(&vec![7; size]));
    builder.build()
}

/// Waits until the recovery points on the disk cover what was produced. This and the other waits here
/// look again and again, because a broker tells nobody of such steps; where a time is measured, the
/// pause (1 ms, or 5 with a real broker) is part of it.
async fn checkpointed(disk: &Counting, partitions: i32, offset: i64) -> Result<(), String> {
    let begun = Instant::now();
    let line = format!(" {offset}");
    while begun.elapsed() < Duration::from_mins(5) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let content = disk.0.read(Path::new("/data/recovery-point-offset-checkpoint"));
        let content = String::from_utf8(content.unwrap_or_default()).unwrap_or_default();
        let covered = content.lines().filter(|it| it.starts_with(TOPIC) && it.ends_with(&line));
        if covered.count() as i32 == partitions {
            return Ok(());
        }
    }
    Err("the recovery points were not written within five minutes".to_owned())
}

fn simulated(partitions: i32, kb: usize) -> Result<(), String> {
    const BATCH: usize = 10_000;
    let batches = (kb * 1000 / BATCH) as i32;
    let reads = Arc::new(AtomicU64::new(0));
    let disk = Counting(SimulatedDisk::new(), reads.clone());
    let filled = Instant::now();
    live(&disk, async |broker| {
        let topic = CreatableTopic::default()
            .with_name(TopicName(TOPIC.into()))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        broker.link.create(topic).await.map_err(|refusal| refusal.to_string())?;
        while (broker.partitions.all().len() as i32) < partitions {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for n in 0..batches {
            append_to_all(&broker, &batch(n, BATCH)).await?;
        }
        checkpointed(&disk, partitions, i64::from(batches)).await?;
        // Some more, of which only a part is waited for.
        append_to_all(&broker, &batch(batches, 50)).await?;
        for partition in broker.partitions.all().iter().step_by(10) {
            let more = partition.append(batch(batches + 1, 50), true, -1, Origin::Client);
            drop(more.map_err(|refusal| refusal.to_string())?);
        }
        Ok(())
    })?;
    disk.0.lose_power(&Random::from_seed(7));
    let on_disk: u64 = disk.0.files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    println!(
        "{partitions} partitions, {:.1} MB on the disk, filled in {:.1} s; power is cut",
        on_disk as f64 / 1e6,
        filled.elapsed().as_secs_f64()
    );
    reads.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    live(&disk, async |broker| {
        while (broker.partitions.all().iter().filter(|it| it.is_leader()).count() as i32)
            < partitions
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (read, took) = (reads.load(Ordering::Relaxed), begun.elapsed());
        let share = read as f64 / on_disk as f64 * 100.0;
        println!(
            "served again after {:.2} s, {:.2} MB read: {share:.3} % of what is there",
            took.as_secs_f64(),
            read as f64 / 1e6
        );
        for partition in broker.partitions.all().iter().filter(|it| &*it.id.topic == TOPIC) {
            let end = partition.log().end_offset();
            if end <= i64::from(batches) {
                return Err(format!("{}: acknowledged records are lost: {end}", partition.id));
            }
        }
        if share < 1.0 { Ok(()) } else { Err("that is not less than 1 %".to_owned()) }
    })
}

async fn append_to_all(broker: &Broker, batch: &Bytes) -> Result<(), String> {
    let mut tickets = Vec::new();
    for partition in broker.partitions.all().iter().filter(|it| &*it.id.topic == TOPIC) {
        let ticket = partition.append(batch.clone(), true, -1, Origin::Client);
        tickets.push(ticket.map_err(|refusal| refusal.to_string())?);
    }
    for ticket in tickets {
        ticket.committed().await.map_err(|code| format!("{code:?}"))?;
    }
    Ok(())
}

// --- against a broker --------------------------------------------------------------------------

async fn connect(bootstrap: &str) -> Result<Client, String> {
    let options = Options {
        client_id: "restart".into(),
        connect_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_secs(5),
        api_timeout: Duration::from_secs(5),
        ..Options::default()
    };
    Client::connect(bootstrap, options).await.map_err(|error| error.to_string())
}

/// One record for each of the partitions.
fn produce(topic: &str, partitions: impl Iterator<Item = i32>, value: usize) -> ProduceRequest {
    let mut builder = BatchBuilder::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    builder.push(now as i64, Some(b"key"), Some(&vec![7; value]));
    let batch = builder.build();
    let partitions = partitions.map(|index| {
        PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()))
    });
    let topic = TopicProduceData::default()
        .with_name(TopicName(topic.to_owned().into()))
        .with_partition_data(partitions.collect());
    ProduceRequest::default().with_acks(-1).with_timeout_ms(5000).with_topic_data(vec![topic])
}

async fn fill(bootstrap: &str, topic: &str, bytes: usize) -> Result<(), String> {
    const BATCH: usize = 16_000;
    let client = connect(bootstrap).await?;
    let connection = client.to_any().await.map_err(|error| error.to_string())?;
    for _ in 0..bytes / BATCH {
        let answer = connection.call(&produce(topic, 0..1, BATCH)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let refused = answer.responses.iter().flat_map(|it| &it.partition_responses);
        if let Some(refused) = refused.into_iter().find(|it| it.error_code != 0) {
            return Err(format!("the broker refused a record: {}", refused.error_code));
        }
    }
    Ok(())
}

async fn load(bootstrap: &str, topic: &str, partitions: i32) -> Result<(), String> {
    let client = connect(bootstrap).await?;
    let rounds = (0..8).map(|part| {
        let client = &client;
        async move {
            loop {
                let wanted = (0..partitions).filter(|index| index % 8 == part);
                let connection = client.to_any().await.map_err(|error| error.to_string())?;
                let request = produce(topic, wanted, 1000);
                connection.call(&request).await.map_err(|error| error.to_string())?;
            }
        }
    });
    let mut rounds: futures::stream::FuturesUnordered<_> = rounds.collect();
    rounds.next().await.unwrap_or(Ok(()))
}

async fn serving(bootstrap: &str, topic: &str, partitions: i32, since: f64) -> Result<(), String> {
    let since = UNIX_EPOCH + Duration::from_secs_f64(since);
    let seconds = || SystemTime::now().duration_since(since).map_or(0.0, |it| it.as_secs_f64());
    let told =
        || async { all_tell_their_ends(&connect(bootstrap).await?, topic, partitions).await };
    until(told).await?;
    let answered = seconds();
    let taken = || async { all_take_a_record(&connect(bootstrap).await?, topic, partitions).await };
    until(taken).await?;
    println!("{answered:.3} {:.3}", seconds());
    Ok(())
}

async fn until<F>(mut attempt: impl FnMut() -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let begun = Instant::now();
    let mut last = String::new();
    while begun.elapsed() < Duration::from_mins(15) {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("not within 15 minutes: {last}"))
}

/// Every partition's leader has to be here and to answer.
async fn all_tell_their_ends(client: &Client, topic: &str, partitions: i32) -> Result<(), String> {
    let connection = client.to_any().await.map_err(|error| error.to_string())?;
    let asked = (0..partitions).map(|index| {
        ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1)
    });
    let asked = ListOffsetsTopic::default()
        .with_name(TopicName(topic.to_owned().into()))
        .with_partitions(asked.collect());
    let request =
        ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
    let ends = connection.call(&request).await.map_err(|error| error.to_string())?;
    let mut codes = BTreeMap::<i16, usize>::new();
    for partition in ends.topics.iter().flat_map(|topic| &topic.partitions) {
        *codes.entry(partition.error_code).or_default() += 1;
    }
    if codes.len() == 1 && codes.get(&0) == Some(&(partitions as usize)) {
        return Ok(());
    }
    Err(format!("ListOffsets: {codes:?}"))
}

async fn all_take_a_record(client: &Client, topic: &str, partitions: i32) -> Result<(), String> {
    let connection = client.to_any().await.map_err(|error| error.to_string())?;
    let answer = connection.call(&produce(topic, 0..partitions, 100)).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let codes = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
    match codes.filter(|it| it.error_code != 0).count() {
        0 => Ok(()),
        refused => Err(format!("Produce: {refused} partitions refused it")),
    }
}
