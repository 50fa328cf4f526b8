//! The topology of a streams group, and what becomes of it in a cluster: how many tasks each
//! subtopology has, how many partitions the internal topics have, and which are missing.
//!
//! Pure. The rules are Kafka's: a repartition topic has as many partitions as the widest input of a
//! subtopology that writes to it, unless it is fixed or copartitioned with others; a changelog has
//! as many as its subtopology has tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::copartition::enforce;
use crate::controller::Image;
use crate::coordinator::group::records::TopologyValue;
use crate::error::{ErrorCode, Refusal};
use crate::wire::streams::{
    DescribedSubtopology, DescribedTopology, Status, Subtopology, TopicInfo,
};
use crate::wire::streams::{KeyValue, Topology as SaidTopology};

pub const STALE_TOPOLOGY: i8 = 0;
pub const MISSING_SOURCE_TOPICS: i8 = 1;
pub const INCORRECTLY_PARTITIONED_TOPICS: i8 = 2;
pub const MISSING_INTERNAL_TOPICS: i8 = 3;
pub const SHUTDOWN_APPLICATION: i8 = 4;
pub const ASSIGNMENT_DELAYED: i8 = 5;

/// STREAMS_INVALID_TOPOLOGY, which `kafka-protocol` does not name.
pub const INVALID_TOPOLOGY: ErrorCode = ErrorCode::Unknown(130);

/// Partitions by topic.
pub(super) type Counts = BTreeMap<String, i32>;

/// As members say it, and as it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    pub epoch: i32,
    pub subtopologies: BTreeMap<String, Subtopology>,
}

/// A topology in a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    pub epoch: i32,
    /// `None` when its topics do not fit.
    pub subtopologies: Option<BTreeMap<String, ConfiguredSubtopology>>,
    /// By name: internal topics that are not there.
    pub missing: BTreeMap<String, InternalTopic>,
    /// Why there can be no tasks.
    pub problem: Option<Status>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ConfiguredSubtopology {
    pub tasks: i32,
    pub source_topics: BTreeSet<String>,
    pub repartition_sources: BTreeMap<String, InternalTopic>,
    pub repartition_sinks: BTreeSet<String>,
    pub changelogs: BTreeMap<String, InternalTopic>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InternalTopic {
    pub partitions: i32,
    /// 0 for the broker's default.
    pub replication_factor: i16,
    pub configs: BTreeMap<String, String>,
}

/// Why a topology cannot be configured: told as a status, or refused outright.
#[derive(Debug)]
pub(super) enum Trouble {
    Status(Status),
    Refused(Refusal),
}

impl Trouble {
    pub fn status(code: i8, detail: String) -> Self {
        Self::Status(Status { code, detail })
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Refused(Refusal::new(INVALID_TOPOLOGY, message))
    }

    /// What Kafka meets with an exception of no special kind.
    pub fn unknown() -> Self {
        Self::Refused(ErrorCode::UnknownServerError.into())
    }
}

impl Topology {
    /// A subtopology that comes twice is refused, as Kafka does, without a special error.
    pub fn said(topology: &SaidTopology) -> Result<Self, Refusal> {
        let (epoch, count) = (topology.epoch, topology.subtopologies.len());
        let each = topology.subtopologies.iter().map(|it| (it.id.clone(), it.clone()));
        let subtopologies: BTreeMap<_, _> = each.collect();
        if epoch < 0 || subtopologies.len() < count {
            return Err(ErrorCode::UnknownServerError.into());
        }
        Ok(Self { epoch, subtopologies })
    }

    pub fn from_value(value: TopologyValue) -> Self {
        let each = value.subtopologies.into_iter().map(|it| (it.id.clone(), it));
        Self { epoch: value.epoch, subtopologies: each.collect() }
    }

    /// All topics that it reads or keeps state in.
    pub fn required_topics(&self) -> BTreeSet<String> {
        let mut topics = BTreeSet::new();
        for it in self.subtopologies.values() {
            topics.extend(it.source_topics.iter().cloned());
            let internal = it.repartition_sources.iter().chain(&it.changelogs);
            topics.extend(internal.map(|topic| topic.name.clone()));
        }
        topics
    }

    /// The subtopology that reads `topic`.
    pub fn reader_of(&self, topic: &str) -> Option<&str> {
        let reads = |it: &&Subtopology| {
            it.source_topics.iter().any(|its| its == topic)
                || it.repartition_sources.iter().any(|its| its.name == topic)
        };
        self.subtopologies.values().find(reads).map(|it| it.id.as_str())
    }

    /// What it is in the cluster of `image`.
    pub fn configure(&self, image: &Image) -> Result<Configured, Refusal> {
        let (subtopologies, missing, problem) = match self.try_configure(image) {
            Ok((subtopologies, missing)) => {
                let problem = (!missing.is_empty()).then(|| Status {
                    code: MISSING_INTERNAL_TOPICS,
                    detail: format!("Internal topics are missing: {}", summary(missing.keys())),
                });
                (Some(subtopologies), missing, problem)
            }
            Err(Trouble::Status(status)) => (None, BTreeMap::new(), Some(status)),
            Err(Trouble::Refused(refusal)) => return Err(refusal),
        };
        Ok(Configured { epoch: self.epoch, subtopologies, missing, problem })
    }

    #[allow(clippy::type_complexity)]
    fn try_configure(
        &self,
        image: &Image,
    ) -> Result<(BTreeMap<String, ConfiguredSubtopology>, BTreeMap<String, InternalTopic>), Trouble>
    {
        let sources = self.subtopologies.values().flat_map(|it| &it.source_topics);
        let absent: BTreeSet<_> = sources.filter(|name| image.topic(name).is_none()).collect();
        if !absent.is_empty() {
            let detail = format!("Source topics {} are missing.", summary(absent.into_iter()));
            return Err(Trouble::status(MISSING_SOURCE_TOPICS, detail));
        }
        let mut counts = self.repartition_counts(image)?;
        for subtopology in self.subtopologies.values() {
            for group in copartitioned(subtopology)? {
                let changed = enforce(self, &group, |topic| partitions(image, &counts, topic))?;
                counts.extend(changed);
            }
        }
        let mut widths = BTreeMap::new();
        for (id, subtopology) in &self.subtopologies {
            let width = width(subtopology, |topic| partitions(image, &counts, topic))?;
            let changelogs = subtopology.changelogs.iter().map(|it| (it.name.clone(), width));
            counts.extend(changelogs);
            widths.insert(id.clone(), width);
        }
        let mut subtopologies = BTreeMap::new();
        for (id, subtopology) in &self.subtopologies {
            // A later subtopology may have decided about what this one reads.
            let tasks = width(subtopology, |topic| partitions(image, &counts, topic))?;
            let configured = ConfiguredSubtopology {
                tasks,
                source_topics: subtopology.source_topics.iter().cloned().collect(),
                repartition_sources: internal(&subtopology.repartition_sources, &counts)?,
                repartition_sinks: subtopology.repartition_sinks.iter().cloned().collect(),
                changelogs: internal(&subtopology.changelogs, &counts)?,
            };
            subtopologies.insert(id.clone(), configured);
        }
        let missing = missing(&subtopologies, image)?;
        Ok((subtopologies, missing))
    }

    /// How many partitions each repartition topic has, by what is written into it.
    fn repartition_counts(&self, image: &Image) -> Result<Counts, Trouble> {
        let mut counts = Counts::new();
        for topic in self.repartition_sources().filter(|it| it.partitions != 0) {
            counts.insert(topic.name.clone(), topic.partitions);
        }
        loop {
            let (mut progress, mut left) = (false, false);
            for subtopology in self.subtopologies.values() {
                for sink in &subtopology.repartition_sinks {
                    if counts.contains_key(sink) {
                        continue;
                    }
                    let internal = subtopology.repartition_sources.iter();
                    let internal = internal.filter_map(|it| counts.get(&it.name).copied());
                    let external = subtopology.source_topics.iter();
                    let external = external.filter_map(|it| partitions(image, &counts, it));
                    match internal.chain(external).max() {
                        Some(count) => {
                            counts.insert(sink.clone(), count);
                            progress = true;
                        }
                        None => left = true,
                    }
                }
            }
            if !left {
                break;
            }
            if !progress {
                return Err(Trouble::invalid(
                    "Failed to compute number of partitions for all repartition topics. There may \
                     be loops in the topology that cannot be resolved.",
                ));
            }
        }
        if self.repartition_sources().any(|it| !counts.contains_key(&it.name)) {
            return Err(Trouble::invalid(
                "Failed to compute number of partitions for all repartition topics, because a \
                 repartition source topic is never used as a sink topic.",
            ));
        }
        Ok(counts)
    }

    pub(super) fn repartition_sources(&self) -> impl Iterator<Item = &TopicInfo> {
        self.subtopologies.values().flat_map(|it| &it.repartition_sources)
    }

    pub fn describe(&self) -> DescribedTopology {
        let each = self.subtopologies.values().map(|it| {
            let mut described = DescribedSubtopology {
                id: it.id.clone(),
                source_topics: it.source_topics.clone(),
                repartition_sinks: it.repartition_sinks.clone(),
                changelogs: it.changelogs.clone(),
                repartition_sources: it.repartition_sources.clone(),
            };
            described.source_topics.sort_unstable();
            described.repartition_sinks.sort_unstable();
            described.changelogs.sort_by(|a, b| a.name.cmp(&b.name));
            described.repartition_sources.sort_by(|a, b| a.name.cmp(&b.name));
            described
        });
        DescribedTopology { epoch: self.epoch, subtopologies: Some(each.collect()) }
    }
}

impl Configured {
    pub fn is_ready(&self) -> bool {
        self.problem.is_none()
    }

    pub fn describe(&self) -> DescribedTopology {
        let each = self.subtopologies.iter().flatten().map(|(id, it)| DescribedSubtopology {
            id: id.clone(),
            source_topics: it.source_topics.iter().cloned().collect(),
            repartition_sinks: it.repartition_sinks.iter().cloned().collect(),
            changelogs: it.changelogs.iter().map(described).collect(),
            repartition_sources: it.repartition_sources.iter().map(described).collect(),
        });
        DescribedTopology { epoch: self.epoch, subtopologies: Some(each.collect()) }
    }
}

fn described((name, topic): (&String, &InternalTopic)) -> TopicInfo {
    TopicInfo {
        name: name.clone(),
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        configs: super::member::pairs(&topic.configs),
    }
}

/// What there is decides, then what was decided.
fn partitions(image: &Image, counts: &Counts, topic: &str) -> Option<i32> {
    let there = image.topic(topic).map(|it| it.partitions.len() as i32);
    there.or_else(|| counts.get(topic).copied())
}

/// The most partitions of a topic that the subtopology reads.
fn width(subtopology: &Subtopology, count: impl Fn(&str) -> Option<i32>) -> Result<i32, Trouble> {
    let internal = subtopology.repartition_sources.iter().map(|it| &it.name);
    let mut widest = None;
    for topic in subtopology.source_topics.iter().chain(internal) {
        widest = widest.max(Some(count(topic).ok_or_else(Trouble::unknown)?));
    }
    widest.ok_or_else(|| {
        Trouble::invalid(format!("No source topics found for subtopology {}", subtopology.id))
    })
}

/// The topics of each copartition group, by name.
fn copartitioned(subtopology: &Subtopology) -> Result<Vec<BTreeSet<String>>, Trouble> {
    let groups = subtopology.copartition_groups.iter().map(|group| {
        let external = group.source_topics.iter().map(|at| {
            let name = usize::try_from(*at).ok().and_then(|at| subtopology.source_topics.get(at));
            name.cloned().ok_or_else(Trouble::unknown)
        });
        let internal = group.repartition_sources.iter().map(|at| {
            let at = usize::try_from(*at).ok();
            let topic = at.and_then(|at| subtopology.repartition_sources.get(at));
            topic.map(|it| it.name.clone()).ok_or_else(Trouble::unknown)
        });
        external.chain(internal).collect()
    });
    groups.collect()
}

fn internal(
    topics: &[TopicInfo],
    counts: &Counts,
) -> Result<BTreeMap<String, InternalTopic>, Trouble> {
    let each = topics.iter().map(|topic| {
        let partitions = match topic.partitions {
            0 => *counts.get(&topic.name).ok_or_else(Trouble::unknown)?,
            fixed => fixed,
        };
        let configs = topic.configs.iter();
        let configs = configs.map(|KeyValue { key, value }| (key.clone(), value.clone()));
        let internal = InternalTopic {
            partitions,
            replication_factor: topic.replication_factor,
            configs: configs.collect(),
        };
        Ok((topic.name.clone(), internal))
    });
    each.collect()
}

/// The internal topics that are not there; those that are must fit.
fn missing(
    subtopologies: &BTreeMap<String, ConfiguredSubtopology>,
    image: &Image,
) -> Result<BTreeMap<String, InternalTopic>, Trouble> {
    let mut wanted = BTreeMap::new();
    for it in subtopologies.values() {
        let topics = it.repartition_sources.iter().chain(&it.changelogs);
        wanted.extend(topics.map(|(name, topic)| (name.clone(), topic.clone())));
    }
    let mut missing = BTreeMap::new();
    for (name, topic) in wanted {
        let Some(there) = image.topic(&name) else {
            missing.insert(name, topic);
            continue;
        };
        let (expected, found) = (topic.partitions, there.partitions.len());
        if found as i32 != expected {
            let detail = format!(
                "Existing topic {name} has different number of partitions: expected {expected}, \
                 found {found}"
            );
            return Err(Trouble::status(INCORRECTLY_PARTITIONED_TOPICS, detail));
        }
    }
    Ok(missing)
}

/// The first few of many names.
fn summary<'a>(names: impl Iterator<Item = &'a String>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = names.map(String::as_str).collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} additional topics"),
    }
}

/// Shared, as groups are cloned.
pub type SharedTopology = Arc<Topology>;
