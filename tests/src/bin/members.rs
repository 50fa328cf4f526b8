//! Many members join one group: how long until its assignment is stable.
//!
//! `members --bootstrap HOST:PORT --protocol classic|consumer [--members N] [--partitions N]` makes
//! a topic, lets N members join at once, each over a connection of its own and with the heartbeats
//! of a real client, and prints one line: the protocol, the number of members, and the seconds from
//! the first request until the group is Stable and every member knows its part of the assignment.
//! The members do not read. Run it against Kafka and against Ottla to compare them.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use kafka_protocol::messages::{GroupId, HeartbeatRequest, ListGroupsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_client::{Admin, Client, Connection, NewTopic, Options};
use ottla_tests::group::Member;
use parking_lot::Mutex;

const TIMEOUT: Duration = Duration::from_mins(2);
/// As the Java client has it.
const CLASSIC_HEARTBEAT: Duration = Duration::from_secs(3);
const MEMBER_ID_REQUIRED: i16 = 79;
const REBALANCE_IN_PROGRESS: i16 = 27;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Classic,
    Consumer,
}

#[derive(Parser)]
struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long, value_enum)]
    protocol: Protocol,
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    #[arg(long, default_value_t = 1_000)]
    partitions: i32,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the members know: in which epoch each is, once it has its assignment.
#[derive(Default)]
struct Known(Mutex<BTreeMap<usize, i32>>);

impl Known {
    fn set(&self, member: usize, epoch: i32) {
        self.0.lock().insert(member, epoch);
    }

    fn clear(&self, member: usize) {
        self.0.lock().remove(&member);
    }

    /// All of `members` are in one epoch.
    fn agree(&self, members: usize) -> bool {
        let known = self.0.lock();
        let first = known.values().next();
        known.len() == members && known.values().all(|epoch| Some(epoch) == first)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(took) => {
            let (protocol, members) = (args.protocol, args.members);
            println!("{protocol:?} {members} members stable after {:.3} s", took.as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Outcome<Duration> {
    let client = Client::connect(&args.bootstrap, Options::default()).await?;
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let (topic, group) = (format!("members-{nanos}"), format!("members-group-{nanos}"));
    let admin = Admin::of(Client::connect(&args.bootstrap, Options::default()).await?);
    let new = NewTopic {
        name: topic.clone(),
        partitions: Some(args.partitions),
        replication: Some(1),
        assignment: None,
        configs: BTreeMap::new(),
    };
    admin.create_topic(new, false).await?;
    let coordinator = client.coordinator(&group).await?;
    let nodes = client.brokers();
    let node = nodes.iter().find(|node| node.id == coordinator).ok_or("no coordinator")?;
    let watch = open(&node.address()).await?;
    let known = Arc::new(Known::default());
    let member = Member {
        number: 0,
        group: GroupId(StrBytes::from_string(group.clone())),
        topic: TopicName(StrBytes::from_string(topic)),
        partitions: args.partitions,
        session_ms: 45_000,
    };
    // Connections first: how fast they are made is another question.
    let mut connections = Vec::with_capacity(args.members);
    for _ in 0..args.members {
        connections.push(open(&node.address()).await?);
    }
    let start = Instant::now();
    for (number, connection) in connections.into_iter().enumerate() {
        let member = Member { number, ..member.clone() };
        let (protocol, known) = (args.protocol, known.clone());
        tokio::spawn(async move {
            let ended = match protocol {
                Protocol::Classic => classic(&member, &known, &connection).await,
                Protocol::Consumer => consumer(&member, &known, &connection).await,
            };
            if let Err(error) = ended {
                eprintln!("member {number} ends: {error}");
            }
        });
    }
    let stable = || async {
        let listed = watch.call(&ListGroupsRequest::default()).await?;
        let mut groups = listed.groups.iter().filter(|it| it.group_id.as_str() == group);
        Outcome::Ok(groups.any(|it| it.group_state.as_str() == "Stable"))
    };
    while start.elapsed() < Duration::from_secs(args.patience) {
        if known.agree(args.members) && stable().await? {
            return Ok(start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let known = known.0.lock().len();
    Err(format!("not stable after {} s: {known} members know their part", args.patience).into())
}

async fn open(address: &str) -> Outcome<Connection> {
    Ok(Connection::open(address, "members", TIMEOUT, TIMEOUT).await?)
}

async fn consumer(member: &Member, known: &Known, connection: &Connection) -> Outcome<()> {
    let id = StrBytes::from_string(format!("member-{:05}", member.number));
    let mut request = member.arriving(&id);
    loop {
        let answer = connection.call(&request).await?;
        if answer.error_code != 0 {
            let message = answer.error_message.as_deref().unwrap_or_default();
            return Err(format!("{} {message}", answer.error_code).into());
        }
        request = member.following(&id, &answer);
        if answer.assignment.is_some() {
            // It has given up at once what it had to.
            known.clear(member.number);
            continue;
        }
        known.set(member.number, answer.member_epoch);
        tokio::time::sleep(Duration::from_millis(answer.heartbeat_interval_ms.max(1) as u64)).await;
    }
}

async fn classic(member: &Member, known: &Known, connection: &Connection) -> Outcome<()> {
    let mut id = StrBytes::default();
    loop {
        known.clear(member.number);
        let joined = connection.call(&member.joining(&id)).await?;
        if joined.error_code == MEMBER_ID_REQUIRED {
            id = joined.member_id;
            continue;
        }
        if joined.error_code == REBALANCE_IN_PROGRESS {
            continue;
        }
        if joined.error_code != 0 {
            return Err(format!("JoinGroup: {}", joined.error_code).into());
        }
        id = joined.member_id.clone();
        let synced = connection.call(&member.syncing(&joined)).await?;
        if synced.error_code == REBALANCE_IN_PROGRESS {
            continue;
        }
        if synced.error_code != 0 {
            return Err(format!("SyncGroup: {}", synced.error_code).into());
        }
        known.set(member.number, joined.generation_id);
        let beat = HeartbeatRequest::default()
            .with_group_id(member.group.clone())
            .with_member_id(id.clone())
            .with_generation_id(joined.generation_id);
        loop {
            tokio::time::sleep(CLASSIC_HEARTBEAT).await;
            match connection.call(&beat).await?.error_code {
                0 => {}
                REBALANCE_IN_PROGRESS => break,
                code => return Err(format!("Heartbeat: {code}").into()),
            }
        }
    }
}
