//! A share group: members take records of a topic, each partition over a connection of its own,
//! accept, release or reject them, forget them until the lock is over, and die.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::share_acknowledge_request::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
};
use kafka_protocol::messages::share_fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{
    GroupId, IncrementalAlterConfigsRequest, ShareAcknowledgeRequest, ShareFetchRequest,
    ShareGroupHeartbeatRequest,
};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::coordinators::OF_GROUPS;
use super::{RETRY, World, name, text};
use crate::simulation::history::{FinalLog, Place};
use crate::simulation::scenario::{HEARTBEAT, INPUT};
use crate::simulation::wire::Connection;

const GROUP: &str = "sharers";
/// Of each partition.
const HOLDERS: usize = 2;

/// What a holder says of a record, as ShareAcknowledge has it.
const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;

/// Somebody who takes records of one partition.
struct Holder {
    world: World,
    place: Place,
    topic: Uuid,
    member: String,
    connection: Option<Connection>,
    session: i32,
    random: StdRng,
}

impl World {
    pub(super) fn start_sharers(&self) {
        tokio::task::spawn_local(self.clone().be_sharer());
        let partitions = self.scenario.topic(INPUT).map_or(0, |topic| topic.partitions);
        for partition in 0..partitions {
            for number in 0..HOLDERS {
                tokio::task::spawn_local(self.clone().hold(partition, number));
            }
        }
    }

    /// The group begins at the start of the topic, and has a member for as long as the test lasts.
    async fn be_sharer(self) {
        let mut random = self.random("sharer");
        let id = Uuid::from_u128(random.random()).to_string();
        let (mut epoch, mut connection, mut set) = (0, None, false);
        while !self.over.get() {
            if !set {
                set = self.begin_at_the_start(&mut random).await.is_ok_and(|code| code == 0);
                sleep(RETRY).await;
                continue;
            }
            if connection.is_none() {
                connection = self.coordinator_of(GROUP, OF_GROUPS, &mut random).await.ok();
            }
            let request = ShareGroupHeartbeatRequest::default()
                .with_group_id(GroupId(text(GROUP)))
                .with_member_id(text(&id))
                .with_member_epoch(epoch)
                .with_subscribed_topic_names(Some(vec![name(INPUT)]));
            let answer = match &mut connection {
                Some(connection) => connection.call(&request, 1).await.ok(),
                None => None,
            };
            match answer {
                Some(answer) if answer.error_code == 0 => {
                    epoch = answer.member_epoch;
                    let topics = answer.assignment.iter().flat_map(|it| &it.topic_partitions);
                    let given = topics.flat_map(|it| &it.partitions).copied();
                    self.history.borrow_mut().shares.assigned.extend(given);
                }
                Some(answer) => {
                    self.trace.note(&format!("sharer refused: {}", answer.error_code));
                    (epoch, connection) = (0, None);
                }
                None => connection = None,
            }
            sleep(HEARTBEAT).await;
        }
    }

    async fn begin_at_the_start(&self, random: &mut StdRng) -> io::Result<i16> {
        let config = AlterableConfig::default()
            .with_name(text("share.auto.offset.reset"))
            .with_config_operation(0)
            .with_value(Some(text("earliest")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(32)
            .with_resource_name(text(GROUP))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.any_connection(random).await?.call(&request, 1).await?;
        Ok(answer.responses.first().map_or(-1, |result| result.error_code))
    }

    async fn hold(self, partition: i32, number: usize) {
        let mut random = self.random(&format!("holder {partition} {number}"));
        while !self.over.get() && !self.history.borrow().shares.assigned.contains(&partition) {
            sleep(RETRY).await;
        }
        while !self.over.get() {
            let id = Uuid::from_u128(random.random());
            let mut holder = Holder {
                place: (INPUT.to_owned(), partition),
                topic: Uuid::nil(),
                member: id.to_string(),
                connection: None,
                session: 0,
                random: self.random(&format!("{id}")),
                world: self.clone(),
            };
            let until = Instant::now() + Duration::from_millis(random.random_range(1_000..9_000));
            while !self.over.get() && (Instant::now() < until || self.calm.get()) {
                if holder.turn().await.is_err() {
                    (holder.connection, holder.session) = (None, 0);
                    sleep(RETRY).await;
                }
            }
            sleep(Duration::from_millis(random.random_range(20..1_000))).await;
        }
    }

    /// Every record comes to somebody, once nothing strikes any more.
    pub async fn all_were_shared(
        &self,
        logs: &BTreeMap<Place, FinalLog>,
        end: Instant,
    ) -> Result<(), String> {
        let first = self.scenario.topic(INPUT).map_or(0, |topic| topic.partitions);
        loop {
            let mut missing = None;
            for ((topic, partition), log) in logs {
                if topic != INPUT || *partition >= first {
                    continue;
                }
                let history = self.history.borrow();
                let lacks =
                    log.records.keys().find(|it| !history.shares.was_delivered(*partition, **it));
                missing = missing.or(lacks.map(|offset| (*partition, *offset)));
            }
            let Some((partition, offset)) = missing else { return Ok(()) };
            if Instant::now() >= end {
                return Err(format!("stuck: nobody of {GROUP} was given {partition}@{offset}"));
            }
            sleep(RETRY).await;
        }
    }
}

impl Holder {
    /// Takes some records and says something of them.
    async fn turn(&mut self) -> io::Result<()> {
        if self.topic.is_nil() {
            let found = self.world.metadata(Some(&[INPUT]), &mut self.random).await?;
            self.topic = found.topics.first().map(|it| it.topic_id).unwrap_or_default();
        }
        if self.connection.is_none() {
            let found = self.world.to_leader(&self.place, &mut self.random).await;
            self.connection = found.map(|(connection, _)| connection);
        }
        let taken = self.fetch().await?;
        if taken.is_empty() {
            sleep(Duration::from_millis(60)).await;
            return Ok(());
        }
        let calm = self.world.calm.get();
        match self.random.random_range(0..20) {
            // It dies, or forgets what it has.
            0 if !calm => return Err(io::Error::other("it dies")),
            1 if !calm => sleep(Duration::from_millis(self.random.random_range(500..4_000))).await,
            _ => {}
        }
        for (first, last) in taken {
            let kind = match self.random.random_range(0..10) {
                0 if !calm => REJECT,
                1 | 2 if !calm => RELEASE,
                _ => ACCEPT,
            };
            self.acknowledge(first, last, kind).await?;
        }
        Ok(())
    }

    async fn fetch(&mut self) -> io::Result<Vec<(i64, i64)>> {
        let partition = FetchPartition::default().with_partition_index(self.place.1);
        let topic =
            FetchTopic::default().with_topic_id(self.topic).with_partitions(vec![partition]);
        let request = ShareFetchRequest::default()
            .with_group_id(Some(GroupId(text(GROUP))))
            .with_member_id(Some(text(&self.member)))
            .with_share_session_epoch(self.session)
            .with_max_wait_ms(200)
            .with_min_bytes(1)
            .with_max_bytes(2_000)
            .with_max_records(20)
            .with_batch_size(20)
            .with_topics(if self.session == 0 { vec![topic] } else { vec![] });
        let asked = self.world.history.borrow_mut().shares.moment();
        let connection = self.connection.as_mut().ok_or_else(|| io::Error::other("no leader"))?;
        let answer = connection.call(&request, 1).await?;
        let by_leader = self.world.leads(INPUT, self.place.1, &connection.host);
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("refused: {}", answer.error_code)));
        }
        self.session += 1;
        let mut taken = Vec::new();
        for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != 0 {
                let code = partition.error_code;
                return Err(io::Error::other(format!("partition refused: {code}")));
            }
            let acquired = partition.acquired_records.iter();
            taken.extend(acquired.map(|it| (it.first_offset, it.last_offset)));
        }
        for (first, last) in &taken {
            let (member, partition) = (&self.member, self.place.1);
            self.world.trace.note(&format!("{member} takes {partition}@{first}..{last}"));
            for offset in *first..=*last {
                let mut history = self.world.history.borrow_mut();
                let judged = history.shares.taken(partition, offset, member, asked, by_leader);
                drop(history);
                if let Err(what) = judged {
                    self.world.violate(what);
                }
            }
        }
        Ok(taken)
    }

    async fn acknowledge(&mut self, first: i64, last: i64, kind: i8) -> io::Result<()> {
        let batch = AcknowledgementBatch::default()
            .with_first_offset(first)
            .with_last_offset(last)
            .with_acknowledge_types(vec![kind]);
        let partition = AcknowledgePartition::default()
            .with_partition_index(self.place.1)
            .with_acknowledgement_batches(vec![batch]);
        let topic =
            AcknowledgeTopic::default().with_topic_id(self.topic).with_partitions(vec![partition]);
        let request = ShareAcknowledgeRequest::default()
            .with_group_id(Some(GroupId(text(GROUP))))
            .with_member_id(Some(text(&self.member)))
            .with_share_session_epoch(self.session)
            .with_topics(vec![topic]);
        let partition = self.place.1;
        let lost: BTreeSet<i64> = {
            let mut history = self.world.history.borrow_mut();
            if kind != RELEASE {
                (first..=last).for_each(|it| history.shares.settles(partition, it, &self.member));
            }
            let gone = |it: &i64| !history.shares.is_held(partition, *it, &self.member);
            (first..=last).filter(gone).collect()
        };
        let connection = self.connection.as_mut().ok_or_else(|| io::Error::other("no leader"))?;
        let answer = connection.call(&request, 1).await?;
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("refused: {}", answer.error_code)));
        }
        self.session += 1;
        let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
        let code = partitions.next().map_or(0, |partition| partition.error_code);
        let member = &self.member;
        self.world
            .trace
            .note(&format!("{member} says {kind} of {partition}@{first}..{last}: {code}"));
        if code != 0 {
            return Ok(());
        }
        // What lies before the first record in flight is nobody's any more, as in Kafka: that is
        // not said to who comes late.
        let history = self.world.history.borrow();
        let open = |it: &i64| !history.shares.may_be_settled(partition, *it, member);
        let lost: BTreeSet<i64> = lost.into_iter().filter(open).collect();
        drop(history);
        if !lost.is_empty() {
            self.world.violate(format!(
                "holders: {member} may say {kind} of {partition}@{lost:?}, which another was given"
            ));
        }
        let mut history = self.world.history.borrow_mut();
        for offset in (first..=last).filter(|_| kind != RELEASE) {
            history.shares.settled(partition, offset);
        }
        Ok(())
    }
}
