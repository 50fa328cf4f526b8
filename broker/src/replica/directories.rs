//! In which log directory a replica lies: found at the start, chosen for a new one, told to the
//! controller, and lost when the directory fails (KIP-858).
//!
//! The image names a directory for each replica. What it says holds for a replica that is yet to be
//! made; for one that is here the disk is right, and the controller is told. A replica that should
//! be in a directory that is offline is not made anew in another: its records are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::assign_replicas_to_dirs_request::{
    DirectoryData, PartitionData, TopicData,
};
use kafka_protocol::messages::{AssignReplicasToDirsRequest, BrokerId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::context::{Assignments, Context};
use super::log_config;
use super::partition::Partition;
use super::partitions::Partitions;
use super::remote::ToController;
use crate::controller::image::{Image, PartitionImage, TopicImage};
use crate::error::Fault;
use crate::log::{LogConfig, LogDir};
use crate::types::{NodeId, TopicPartition};

/// The ids below are no directories, but say why there is none.
const FIRST_ID: u128 = 100;
/// The replica cannot be used.
pub const LOST: Uuid = Uuid::from_u128(2);

/// Before a request that failed is sent again: at first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// As many as Kafka sends in one request.
const PER_REQUEST: usize = 2250;

/// The directory that the image names for the replica of `broker`.
pub(super) fn assigned(image: &PartitionImage, broker: NodeId) -> Option<Uuid> {
    let at = image.replicas.iter().position(|id| *id == broker)?;
    image.directories.get(at).copied()
}

impl Partitions {
    /// The logs on the disks that `image` gives this broker, with their settings.
    pub(super) fn found_of(&self, image: &Image) -> Vec<(Arc<LogDir>, TopicPartition, LogConfig)> {
        let mut configs = BTreeMap::<Arc<str>, LogConfig>::new();
        let mut found = Vec::new();
        for (dir, id) in self.dirs.unopened() {
            let ours = image
                .partition(&id.topic, id.partition)
                .is_some_and(|it| it.replicas.contains(&self.context.me));
            if ours {
                let resolve = || log_config::of_topic(image, &self.context.settings, &id.topic);
                let config = configs.entry(id.topic.clone()).or_insert_with(resolve).clone();
                found.push((dir, id, config));
            }
        }
        found
    }

    /// Blocking. Opens or creates the log of a replica.
    pub(super) fn open(
        &self,
        image: &Image,
        topic: &TopicImage,
        id: &TopicPartition,
        replica: &PartitionImage,
    ) -> Result<Arc<Partition>, Fault> {
        let assigned = assigned(replica, self.context.me);
        let dir = self.home(topic.id, id, assigned)?;
        let config = log_config::of_topic(image, &self.context.settings, &id.topic);
        let log = dir.create(id, Some(topic.id), config.clone())?;
        // Only now: of a log that begins, the checkpoint may have told of another topic of the name.
        let known = dir.high_watermark(id).unwrap_or(0);
        log.set_config(config);
        self.moves.forget_wish(id);
        let moving = self.resume_move(id, topic.id, &log, assigned)?;
        if !moving && assigned != Some(dir.directory_id()) {
            self.context.assign(topic.id, id.partition, dir.directory_id());
        }
        let partition = Partition::new(id.clone(), topic.id, log, known, self.context.clone());
        self.insert(&partition);
        Ok(partition)
    }

    /// Where the replica lies, or is to lie. What is in its place and another's is set aside.
    fn home(
        &self,
        topic_id: Uuid,
        id: &TopicPartition,
        assigned: Option<Uuid>,
    ) -> Result<Arc<LogDir>, Fault> {
        let mut holders = Vec::new();
        for dir in self.dirs.online().filter(|dir| dir.holds(id)) {
            if dir.topic_id(id)?.is_none_or(|found| found == topic_id) {
                holders.push(dir);
            } else {
                tracing::warn!(partition = %id, "stray: of another topic of that name; set aside");
                dir.set_aside(id)?;
            }
        }
        if holders.len() > 1 {
            let (moved, left) = moved_away(id, holders);
            holders = left;
            for dir in moved {
                tracing::info!(partition = %id, dir = %dir.path().display(), "has moved away; removed");
                if !dir.delete(id)? {
                    dir.remove_found(id)?;
                }
            }
        }
        holders.sort_by_key(|dir| Some(dir.directory_id()) != assigned);
        for other in holders.split_off(holders.len().min(1)) {
            tracing::warn!(partition = %id, dir = %other.path().display(), "stray: it is in two log directories; set aside");
            other.set_aside(id)?;
        }
        if let Some(dir) = holders.pop() {
            return Ok(dir.clone());
        }
        if let Some(dir) = self.abandoned(topic_id, id, assigned)? {
            return Ok(dir);
        }
        let directory = assigned.filter(|directory| directory.as_u128() >= FIRST_ID);
        let named = self.moves.wish(id).or(directory).and_then(|it| self.dirs.by_id(it));
        if let Some(dir) = named.filter(|dir| dir.why_offline().is_none()) {
            return Ok(dir.clone());
        }
        let offline = || Fault::Start(format!("the log directory of {id} is offline"));
        if directory.is_some() && self.dirs.any_offline() {
            return Err(offline());
        }
        self.dirs.emptiest().cloned().ok_or_else(offline)
    }

    /// A future replica without the one that it was to follow. It is the partition's if it had
    /// caught up, which the image tells, and that other one is not in a directory that may return.
    fn abandoned(
        &self,
        topic_id: Uuid,
        id: &TopicPartition,
        assigned: Option<Uuid>,
    ) -> Result<Option<Arc<LogDir>>, Fault> {
        let found: Vec<_> = self.dirs.online().filter(|dir| dir.found_future(id)).collect();
        if !found.is_empty() && self.dirs.any_offline() {
            return Err(Fault::Start(format!("the log directory of {id} is offline")));
        }
        let mut home = None;
        for dir in found {
            let ours = dir.future_topic_id(id)?.is_none_or(|it| it == topic_id);
            if ours && assigned == Some(dir.directory_id()) {
                tracing::warn!(partition = %id, "what it was moved from is gone; its copy is used");
                dir.promote(id)?;
                home = Some(dir.clone());
            } else {
                tracing::warn!(partition = %id, "stray: a copy of what is not here; set aside");
                dir.set_future_aside(id)?;
            }
        }
        Ok(home)
    }

    /// A replica that the image gives this broker cannot be used.
    pub(super) fn failed(&self, id: &TopicPartition, topic_id: Uuid, fault: &Fault) {
        let first = self.offline.write().insert(id.clone(), fault.is_full()).is_none();
        if first {
            tracing::error!(partition = %id, %fault, "the replica cannot be used");
        }
        // What a directory has lost, the heartbeats tell; a lack of space passes.
        if first && matches!(fault, Fault::Corrupt { .. }) {
            self.context.assign(topic_id, id.partition, LOST);
        }
    }

    /// Blocking. Tries again what could not be made for lack of space.
    pub fn retry_after_full(&self) {
        let waiting: Vec<_> = {
            let offline = self.offline.read();
            offline.iter().filter(|(_, full)| **full).map(|(id, _)| id.clone()).collect()
        };
        if !waiting.is_empty() {
            self.apply_again(waiting);
        }
    }

    /// Blocking. Nothing in `dir` can be read or written any more: who asks is told so.
    pub fn on_offline(&self, dir: &LogDir) {
        let mut lost = Vec::new();
        for log in dir.logs().into_iter().chain(dir.futures()) {
            let id = log.partition();
            let Some(partition) = self.get(&id.topic, id.partition) else { continue };
            if !Arc::ptr_eq(&partition.log(), &log) {
                continue;
            }
            self.offline.write().insert(id.clone(), false);
            self.take_out(id);
            partition.retire();
            lost.push(id.clone());
        }
        tracing::error!(dir = %dir.path().display(), partitions = lost.len(), "replicas are offline");
        self.tell(&[], &lost);
        self.refetch.notify_one();
    }

    /// Blocking. Sets aside what the image does not name, or names for other brokers. After the
    /// first image, there is none of that.
    pub(super) fn set_aside_strays(&self, image: &Image) {
        let me = self.context.me;
        let unclaimed = |id: &TopicPartition| {
            let partition = image.partition(&id.topic, id.partition);
            partition.is_none_or(|it| !it.replicas.contains(&me))
        };
        for (dir, id) in self.dirs.unopened() {
            if !unclaimed(&id) {
                continue;
            }
            tracing::warn!(partition = %id, "stray: in no image for this broker; set aside");
            if let Err(fault) = dir.set_aside(&id) {
                tracing::error!(partition = %id, %fault, "could not be set aside");
            }
        }
        for dir in self.dirs.online() {
            for id in dir.unopened_futures().into_iter().filter(unclaimed) {
                tracing::warn!(partition = %id, "stray: a copy, in no image for this broker; set aside");
                if let Err(fault) = dir.set_future_aside(&id) {
                    tracing::error!(partition = %id, %fault, "could not be set aside");
                }
            }
        }
    }
}

/// Of those that hold the replica, the ones from which it was moved to another of them.
fn moved_away<'a>(
    id: &TopicPartition,
    holders: Vec<&'a Arc<LogDir>>,
) -> (Vec<&'a Arc<LogDir>>, Vec<&'a Arc<LogDir>>) {
    let ids: Vec<_> = holders.iter().map(|dir| dir.directory_id()).collect();
    let mut left = ids.clone();
    for dir in &holders {
        let to = dir.moved_to(id).filter(|to| *to != dir.directory_id());
        if to.is_some_and(|to| left.contains(&to)) {
            left.retain(|it| *it != dir.directory_id());
        }
    }
    holders.into_iter().partition(|dir| !left.contains(&dir.directory_id()))
}

/// Tells the controller where replicas lie; one request at a time, until it has been accepted.
pub async fn run(
    partitions: Arc<Partitions>,
    controller: Arc<dyn ToController>,
    stop: CancellationToken,
) {
    let context = partitions.context.clone();
    let mut back_off = BACK_OFF.0;
    loop {
        let assignments = context.take_assignments(PER_REQUEST);
        if assignments.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = context.assigned.notified() => continue,
            }
        }
        let answered = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            answered = send(&context, &*controller, &assignments) => answered,
        };
        match answered {
            Ok(()) => back_off = BACK_OFF.0,
            Err(error) => {
                tracing::debug!(error, "AssignReplicasToDirs failed; it is sent again");
                context.assign_again(assignments);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = context.env.clock.sleep(back_off) => {}
                }
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
        }
    }
}

async fn send(
    context: &Context,
    controller: &dyn ToController,
    assignments: &Assignments,
) -> Result<(), String> {
    let response = controller.assign_replicas_to_dirs(request(context, assignments)).await?;
    if let Some(code) = response.error_code.err() {
        return Err(format!("{code:?}"));
    }
    // What is refused one by one is of topics that are gone, or of replicas that moved away.
    let mut refused = BTreeSet::new();
    for directory in &response.directories {
        for topic in &directory.topics {
            for partition in topic.partitions.iter().filter(|it| it.error_code != 0) {
                refused.insert((topic.topic_id, partition.partition_index));
            }
        }
    }
    tracing::debug!(count = assignments.len(), ?refused, "told the controller of directories");
    Ok(())
}

fn request(context: &Context, assignments: &Assignments) -> AssignReplicasToDirsRequest {
    let mut directories = BTreeMap::<Uuid, BTreeMap<Uuid, Vec<PartitionData>>>::new();
    for ((topic, partition), directory) in assignments {
        let topics = directories.entry(*directory).or_default();
        let data = PartitionData::default().with_partition_index(*partition);
        topics.entry(*topic).or_default().push(data);
    }
    let directories = directories.into_iter().map(|(id, topics)| {
        let topics = topics.into_iter().map(|(id, partitions)| {
            TopicData::default().with_topic_id(id).with_partitions(partitions)
        });
        DirectoryData::default().with_id(id).with_topics(topics.collect())
    });
    AssignReplicasToDirsRequest::default()
        .with_broker_id(BrokerId(context.me))
        .with_broker_epoch(context.broker_epoch())
        .with_directories(directories.collect())
}
