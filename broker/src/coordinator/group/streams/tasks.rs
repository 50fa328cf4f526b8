//! Tasks: a subtopology and a partition of its topics. A member holds them in one of three roles.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::group::records::CurrentTasks;
use crate::wire::streams::TaskIds;

/// Partitions by subtopology; no subtopology without partitions.
pub type Tasks = BTreeMap<String, BTreeSet<i32>>;

/// Partitions by subtopology, each with the epoch in which it was assigned.
pub type TasksSince = BTreeMap<String, BTreeMap<i32, i32>>;

/// What a member shall hold, or says that it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskSet {
    pub active: Tasks,
    pub standby: Tasks,
    pub warmup: Tasks,
}

/// What a member holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub active: TasksSince,
    pub standby: Tasks,
    pub warmup: Tasks,
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.standby.is_empty() && self.warmup.is_empty()
    }

    /// In which epoch an active task was assigned.
    pub fn active_since(&self, subtopology: &str, partition: i32) -> Option<i32> {
        self.active.get(subtopology)?.get(&partition).copied()
    }

    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        for (subtopology, its) in other.active {
            self.active.entry(subtopology).or_default().extend(its);
        }
        for (all, more) in [(&mut self.standby, other.standby), (&mut self.warmup, other.warmup)] {
            for (subtopology, its) in more {
                all.entry(subtopology).or_default().extend(its);
            }
        }
        self
    }

    /// As the record of the current assignment has them; without epochs of their own, `epoch`
    /// counts for all.
    pub fn from_record(
        active: Vec<CurrentTasks>,
        standby: Vec<CurrentTasks>,
        warmup: Vec<CurrentTasks>,
        epoch: i32,
    ) -> Self {
        let since = active.into_iter().map(|it| {
            let epochs = it.assignment_epochs.filter(|all| all.len() == it.partitions.len());
            let epochs = epochs.unwrap_or_else(|| vec![epoch; it.partitions.len()]);
            (it.subtopology, it.partitions.into_iter().zip(epochs).collect())
        });
        let plain = |all: Vec<CurrentTasks>| {
            let each = all.into_iter();
            each.map(|it| (it.subtopology, it.partitions.into_iter().collect())).collect()
        };
        Self { active: since.collect(), standby: plain(standby), warmup: plain(warmup) }
    }

    pub fn active_record(&self) -> Vec<CurrentTasks> {
        let each = self.active.iter().map(|(subtopology, its)| CurrentTasks {
            subtopology: subtopology.clone(),
            partitions: its.keys().copied().collect(),
            assignment_epochs: Some(its.values().copied().collect()),
        });
        each.collect()
    }
}

/// Without the epochs.
pub fn plain(tasks: &TasksSince) -> Tasks {
    tasks.iter().map(|(id, its)| (id.clone(), its.keys().copied().collect())).collect()
}

pub fn to_record(tasks: &Tasks) -> Vec<CurrentTasks> {
    let each = tasks.iter().map(|(subtopology, its)| CurrentTasks {
        subtopology: subtopology.clone(),
        partitions: its.iter().copied().collect(),
        assignment_epochs: None,
    });
    each.collect()
}

pub fn to_ids(tasks: &Tasks) -> Vec<TaskIds> {
    let each = tasks.iter().map(|(subtopology, its)| TaskIds {
        subtopology: subtopology.clone(),
        partitions: its.iter().copied().collect(),
    });
    each.collect()
}

pub fn from_ids(ids: &[TaskIds]) -> Tasks {
    let mut tasks = Tasks::new();
    for it in ids {
        tasks.entry(it.subtopology.clone()).or_default().extend(&it.partitions);
    }
    tasks.retain(|_, its| !its.is_empty());
    tasks
}

/// Whether the two have a task in common.
pub fn meet(these: &Tasks, those: &Tasks) -> bool {
    these.iter().any(|(id, its)| those.get(id).is_some_and(|other| !its.is_disjoint(other)))
}

impl TaskSet {
    /// Whether a task is in the same role in both.
    pub fn meets(&self, held: &Held) -> bool {
        meet(&self.active, &plain(&held.active))
            || meet(&self.standby, &held.standby)
            || meet(&self.warmup, &held.warmup)
    }
}
