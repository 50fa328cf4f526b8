//! Groups while their coordinators are restarted, one broker after the other.
//!
//! `rolling --bootstrap A,B,C --restart COMMAND` runs 20 groups of 10 members, half of them by the
//! classic and half by the consumer protocol. Each member commits and fetches the offsets of its
//! partitions four times a second over a connection of its own. Then every broker is restarted in
//! turn, first asked to end (TERM), in a second round killed (KILL): COMMAND gets the broker's
//! number and the signal. A group stalls while no member of it commits, or while none fetches.
//!
//! Kept: no stall longer than `--limit-ms`; a fetched offset is never below one whose commit was
//! acknowledged before. Prints `ok NAME` or `FAIL NAME: why` per claim. The members read no records.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, OffsetCommitRequest, OffsetFetchRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_client::{Admin, Client, Connection, ErrorCode, NewTopic, Options};
use ottla_tests::group::{Member, assigned};
use parking_lot::Mutex;

const TURN: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(1);
const BACKOFF: Duration = Duration::from_millis(50);
const CONNECT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Parser, Clone)]
struct Args {
    #[arg(long, value_delimiter = ',')]
    bootstrap: Vec<String>,
    #[arg(long)]
    restart: String,
    #[arg(long, default_value_t = 20)]
    groups: usize,
    #[arg(long, default_value_t = 10)]
    members: usize,
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    #[arg(long, value_delimiter = ',', default_value = "TERM,KILL")]
    signals: Vec<String>,
    #[arg(long, default_value_t = 5_000)]
    limit_ms: u128,
    /// Between the return of one broker and the restart of the next.
    #[arg(long, default_value_t = 8)]
    settle_s: u64,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What a group has reached, and how long it stood still.
struct Ledger {
    /// By partition: the highest offset whose commit was acknowledged, and the last one tried.
    acknowledged: Vec<i64>,
    tried: Vec<i64>,
    last_commit: Instant,
    last_fetch: Instant,
    longest: Duration,
    joined: usize,
    lost: Vec<String>,
    refused: BTreeMap<String, usize>,
}

struct Group {
    name: String,
    classic: bool,
    ledger: Mutex<Ledger>,
}

impl Group {
    fn new(name: String, classic: bool, partitions: usize) -> Self {
        let now = Instant::now();
        let ledger = Ledger {
            acknowledged: vec![-1; partitions],
            tried: vec![-1; partitions],
            last_commit: now,
            last_fetch: now,
            longest: Duration::ZERO,
            joined: 0,
            lost: Vec::new(),
            refused: BTreeMap::new(),
        };
        Self { name, classic, ledger: Mutex::new(ledger) }
    }

    fn title(&self) -> String {
        format!("{} ({})", self.name, if self.classic { "classic" } else { "consumer" })
    }

    fn try_next(&self, partition: i32) -> i64 {
        let mut ledger = self.ledger.lock();
        ledger.tried[partition as usize] += 1;
        ledger.tried[partition as usize]
    }

    fn committed(&self, partition: i32, offset: i64) {
        let mut ledger = self.ledger.lock();
        let now = Instant::now();
        let pause = now - ledger.last_commit;
        ledger.longest = ledger.longest.max(pause);
        ledger.last_commit = now;
        let known = &mut ledger.acknowledged[partition as usize];
        *known = (*known).max(offset);
    }

    fn fetched(&self, partition: i32, offset: i64, at_least: i64) {
        let mut ledger = self.ledger.lock();
        let now = Instant::now();
        let pause = now - ledger.last_fetch;
        ledger.longest = ledger.longest.max(pause);
        ledger.last_fetch = now;
        if offset < at_least {
            let what = format!("{}-{partition} is at {offset} after {at_least}", self.name);
            ledger.lost.push(what);
        }
    }

    fn mark(&self) {
        let mut ledger = self.ledger.lock();
        let now = Instant::now();
        (ledger.last_commit, ledger.last_fetch, ledger.longest) = (now, now, Duration::ZERO);
    }

    fn longest(&self) -> Duration {
        let ledger = self.ledger.lock();
        let now = Instant::now();
        ledger.longest.max(now - ledger.last_commit).max(now - ledger.last_fetch)
    }

    /// Every partition is somebody's.
    fn is_whole(&self) -> bool {
        self.ledger.lock().acknowledged.iter().all(|offset| *offset >= 0)
    }
}

/// One member: what it is in its group, whichever broker coordinates that.
struct Life {
    member: Member,
    group: Arc<Group>,
    brokers: Vec<String>,
    id: StrBytes,
    /// Generation or member epoch; -1 when it has to join.
    epoch: i32,
    owned: Vec<i32>,
}

impl Life {
    async fn live(mut self) {
        loop {
            if let Err(why) = self.session().await {
                *self.group.ledger.lock().refused.entry(why.to_string()).or_default() += 1;
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    /// All that happens with one coordinator, until it is no more.
    async fn session(&mut self) -> Outcome<()> {
        let connection = self.coordinator().await?;
        let mut beaten: Option<Instant> = None;
        loop {
            if self.epoch < 0 {
                if self.group.classic {
                    self.join_classic(&connection).await?;
                } else {
                    self.beat_consumer(&connection, true).await?;
                }
                beaten = Some(Instant::now());
            } else if beaten.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
                if self.group.classic {
                    self.beat_classic(&connection).await?;
                } else {
                    self.beat_consumer(&connection, false).await?;
                }
                beaten = Some(Instant::now());
            }
            if self.epoch >= 0 && !self.owned.is_empty() {
                self.commit(&connection).await?;
                self.fetch(&connection).await?;
            }
            if self.epoch >= 0 {
                tokio::time::sleep(TURN).await;
            }
        }
    }

    async fn coordinator(&mut self) -> Outcome<Connection> {
        self.brokers.rotate_left(1);
        let any = open(&self.brokers[0]).await?;
        let key = StrBytes::from_string(self.group.name.clone());
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![key]);
        let answer = any.call(&request).await?;
        let found = answer.coordinators.first().ok_or("no coordinator in the answer")?;
        check("FindCoordinator", found.error_code)?;
        Ok(open(&format!("{}:{}", found.host, found.port)).await?)
    }

    /// What a refusal means for the member; an error ends the session with this coordinator.
    fn refused(&mut self, what: &str, code: i16) -> Outcome<()> {
        match code.err() {
            Some(ErrorCode::UnknownMemberId) => {
                self.epoch = -1;
                self.owned.clear();
                if self.group.classic {
                    self.id = StrBytes::default();
                }
            }
            Some(
                ErrorCode::RebalanceInProgress
                | ErrorCode::IllegalGeneration
                | ErrorCode::FencedMemberEpoch,
            ) => self.epoch = -1,
            // The next heartbeat brings the epoch.
            Some(ErrorCode::StaleMemberEpoch) => {}
            _ => return check(what, code),
        }
        *self.group.ledger.lock().refused.entry(format!("{what}: {code}")).or_default() += 1;
        Ok(())
    }

    async fn join_classic(&mut self, connection: &Connection) -> Outcome<()> {
        let joined = connection.call(&self.member.joining(&self.id)).await?;
        if joined.error_code.err() == Some(ErrorCode::MemberIdRequired) {
            self.id = joined.member_id;
            return Ok(());
        }
        if joined.error_code != 0 {
            return self.refused("JoinGroup", joined.error_code);
        }
        self.id = joined.member_id.clone();
        let synced = connection.call(&self.member.syncing(&joined)).await?;
        if synced.error_code != 0 {
            return self.refused("SyncGroup", synced.error_code);
        }
        self.group.ledger.lock().joined += 1;
        self.epoch = joined.generation_id;
        self.owned = assigned(&synced.assignment);
        Ok(())
    }

    async fn beat_classic(&mut self, connection: &Connection) -> Outcome<()> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.member.group.clone())
            .with_member_id(self.id.clone())
            .with_generation_id(self.epoch);
        let answer = connection.call(&request).await?;
        if answer.error_code == 0 { Ok(()) } else { self.refused("Heartbeat", answer.error_code) }
    }

    async fn beat_consumer(&mut self, connection: &Connection, joins: bool) -> Outcome<()> {
        let mut request = self.member.arriving(&self.id);
        if !joins {
            request.member_epoch = self.epoch;
            request.topic_partitions = None;
        }
        loop {
            let answer = connection.call(&request).await?;
            if answer.error_code != 0 {
                return self.refused("ConsumerGroupHeartbeat", answer.error_code);
            }
            if joins && self.epoch < 0 {
                self.group.ledger.lock().joined += 1;
            }
            self.epoch = answer.member_epoch;
            let Some(assignment) = &answer.assignment else { return Ok(()) };
            let partitions = assignment.topic_partitions.iter().flat_map(|it| &it.partitions);
            self.owned = partitions.copied().collect();
            request = self.member.following(&self.id, &answer);
        }
    }

    async fn commit(&mut self, connection: &Connection) -> Outcome<()> {
        let offsets: Vec<_> = self.owned.iter().map(|it| (*it, self.group.try_next(*it))).collect();
        let partitions = offsets.iter().map(|(partition, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
        });
        let topic = OffsetCommitRequestTopic::default()
            .with_name(self.member.topic.clone())
            .with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(self.member.group.clone())
            .with_member_id(self.id.clone())
            .with_generation_id_or_member_epoch(self.epoch)
            .with_topics(vec![topic]);
        let answer = connection.call(&request).await?;
        for one in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            if one.error_code != 0 {
                return self.refused("OffsetCommit", one.error_code);
            }
            let (partition, offset) = offsets
                .iter()
                .find(|(partition, _)| *partition == one.partition_index)
                .ok_or("an answer for a partition that was not asked about")?;
            self.group.committed(*partition, *offset);
        }
        Ok(())
    }

    async fn fetch(&mut self, connection: &Connection) -> Outcome<()> {
        let at_least = self.group.ledger.lock().acknowledged.clone();
        let mut request = fetching(&self.member, self.owned.clone());
        if !self.group.classic {
            request.groups[0].member_id = Some(self.id.clone());
            request.groups[0].member_epoch = self.epoch;
        }
        let answer = connection.call(&request).await?;
        let group = answer.groups.first().ok_or("no group in the answer")?;
        if group.error_code != 0 {
            return self.refused("OffsetFetch", group.error_code);
        }
        for one in group.topics.iter().flat_map(|topic| &topic.partitions) {
            if one.error_code != 0 {
                return self.refused("OffsetFetch", one.error_code);
            }
            let at_least = at_least[one.partition_index as usize];
            self.group.fetched(one.partition_index, one.committed_offset, at_least);
        }
        Ok(())
    }
}

fn fetching(member: &Member, partitions: Vec<i32>) -> OffsetFetchRequest {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(member.topic.clone())
        .with_partition_indexes(partitions);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(member.group.clone())
        .with_member_epoch(-1)
        .with_topics(Some(vec![topic]));
    OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true)
}

fn check(what: &str, code: i16) -> Outcome<()> {
    code.err().map_or(Ok(()), |code| Err(format!("{what}: {code:?}").into()))
}

async fn open(address: &str) -> Outcome<Connection> {
    Ok(Connection::open(address, "rolling", CONNECT, PATIENCE).await?)
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            println!("FAIL rolling: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Outcome<bool> {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let topic = format!("rolling-{nanos}");
    let admin = Admin::of(Client::connect(&args.bootstrap[0], Options::default()).await?);
    let new = NewTopic {
        name: topic.clone(),
        partitions: Some(args.members as i32),
        replication: Some(3),
        assignment: None,
        configs: BTreeMap::new(),
    };
    admin.create_topic(new, false).await?;
    let mut groups = Vec::new();
    let mut members = Vec::new();
    let mut tasks = Vec::new();
    for index in 0..args.groups {
        let name = format!("rolling-{index}-{nanos}");
        let group = Arc::new(Group::new(name.clone(), index % 2 == 0, args.members));
        let member = Member {
            number: 0,
            group: GroupId(StrBytes::from_string(name)),
            topic: TopicName(StrBytes::from_string(topic.clone())),
            partitions: args.members as i32,
            session_ms: 30_000,
        };
        for number in 0..args.members {
            let mut brokers = args.bootstrap.clone();
            brokers.rotate_left((index + number) % args.bootstrap.len());
            let id = if group.classic { String::new() } else { format!("member-{number}") };
            let (id, epoch) = (StrBytes::from_string(id), -1);
            let (member, group) = (Member { number, ..member.clone() }, group.clone());
            let life = Life { member, group, brokers, id, epoch, owned: Vec::new() };
            tasks.push(tokio::spawn(life.live()));
        }
        groups.push(group);
        members.push(member);
    }
    let start = Instant::now();
    while !groups.iter().all(|group| group.is_whole()) {
        if start.elapsed() > PATIENCE {
            report(&groups);
            return Err("not every group has all its partitions".into());
        }
        tokio::time::sleep(TURN).await;
    }
    let all = args.groups * args.members;
    println!("{all} members of {} groups commit after {:?}", args.groups, start.elapsed());
    let mut good = true;
    for signal in &args.signals {
        for broker in 0..args.brokers {
            good &= restart(args, &groups, broker, signal).await?;
        }
    }
    for task in &tasks {
        task.abort();
    }
    report(&groups);
    Ok(nothing_is_lost(args, &groups, &members).await? && good)
}

/// Restarts one broker and tells how long the groups stood still.
async fn restart(args: &Args, groups: &[Arc<Group>], broker: usize, signal: &str) -> Outcome<bool> {
    tokio::time::sleep(Duration::from_secs(args.settle_s)).await;
    groups.iter().for_each(|group| group.mark());
    let words: Vec<String> = args.restart.split(' ').map(str::to_owned).collect();
    let last = [broker.to_string(), signal.to_owned()];
    let begun = Instant::now();
    let ended = tokio::task::spawn_blocking(move || {
        Command::new(&words[0]).args(&words[1..]).args(last).status()
    });
    if !ended.await??.success() {
        return Err(format!("broker {broker} was not restarted").into());
    }
    while open(&args.bootstrap[broker]).await.is_err() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("broker {broker} does not come back").into());
        }
        tokio::time::sleep(BACKOFF).await;
    }
    let back = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(args.settle_s)).await;
    let mut stalls: Vec<_> = groups.iter().map(|it| (it.longest().as_millis(), it)).collect();
    stalls.sort_by_key(|(stall, _)| *stall);
    let (median, (worst, whose)) = (stalls[stalls.len() / 2].0, &stalls[stalls.len() - 1]);
    let what = format!(
        "rolling: broker {broker} is restarted with {signal}, and back after {} ms: \
         stalls of {median} ms at the median, {worst} ms at most",
        back.as_millis()
    );
    let good = *worst <= args.limit_ms;
    if good {
        println!("ok {what}");
    } else {
        println!("FAIL {what}, of {}; the limit is {} ms", whose.title(), args.limit_ms);
    }
    Ok(good)
}

/// Fetches all offsets once more and compares them with what was acknowledged.
async fn nothing_is_lost(args: &Args, groups: &[Arc<Group>], members: &[Member]) -> Outcome<bool> {
    let client = Client::connect(&args.bootstrap[0], Options::default()).await?;
    let nodes = client.brokers();
    let mut checked = 0;
    for (group, member) in groups.iter().zip(members) {
        let coordinator = client.coordinator(&group.name).await?;
        let node = nodes.iter().find(|node| node.id == coordinator).ok_or("no coordinator")?;
        let connection = open(&node.address()).await?;
        let answer = connection.call(&fetching(member, (0..member.partitions).collect())).await?;
        for one in answer.groups.iter().flat_map(|it| &it.topics).flat_map(|it| &it.partitions) {
            check("OffsetFetch", one.error_code)?;
            let mut ledger = group.ledger.lock();
            let index = one.partition_index as usize;
            let (acknowledged, tried) = (ledger.acknowledged[index], ledger.tried[index]);
            if one.committed_offset < acknowledged || one.committed_offset > tried {
                ledger.lost.push(format!(
                    "{}-{index} ends at {}, acknowledged {acknowledged}, tried {tried}",
                    group.name, one.committed_offset
                ));
            }
            checked += 1;
        }
    }
    let lost: Vec<_> = groups.iter().flat_map(|it| it.ledger.lock().lost.clone()).collect();
    let commits: i64 = groups.iter().flat_map(|it| it.ledger.lock().acknowledged.clone()).sum();
    let what =
        format!("rolling: no committed offset is lost ({checked} offsets, {commits} commits)");
    if lost.is_empty() && checked == args.groups * args.members {
        println!("ok {what}");
        return Ok(true);
    }
    println!("FAIL {what}: {} times; {}", lost.len(), lost[..lost.len().min(5)].join("; "));
    Ok(false)
}

fn report(groups: &[Arc<Group>]) {
    let mut joined = [0, 0];
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for group in groups {
        let ledger = group.ledger.lock();
        joined[usize::from(group.classic)] += ledger.joined;
        for (why, count) in &ledger.refused {
            *refused.entry(why.clone()).or_default() += count;
        }
    }
    println!("members joined {} times (consumer) and {} times (classic)", joined[0], joined[1]);
    for (why, count) in refused {
        eprintln!("{count:>7} {why}");
    }
}
