//! Who votes: sets of voters, and their history by offset of the log.
//!
//! A set takes effect as soon as its record is in the log, committed or not (KIP-853), so the
//! history is cut when the log is. With kraft.version 0 the voters are those of the settings and
//! have no directories: an id is enough to be one of them. With kraft.version 1 id and directory
//! count: a node whose disk was replaced is another replica, and no voter.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::messages::ReplicaKey;
use crate::env::planted;
use crate::types::{NodeId, Offset};
use crate::wire::metadata::control::{
    self, Control, KRaftVersion, KRaftVersionRange, VoterEndpoint,
};

/// Where a node's controller listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub listener: String,
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Voter {
    pub key: ReplicaKey,
    pub endpoints: Vec<Endpoint>,
    /// The kraft.versions that it supports.
    pub versions: (i16, i16),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct VoterSet(BTreeMap<NodeId, Voter>);

impl VoterSet {
    pub fn of(voters: impl IntoIterator<Item = Voter>) -> Self {
        Self(voters.into_iter().map(|voter| (voter.key.id, voter)).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Voter> {
        self.0.values()
    }

    pub fn get(&self, id: NodeId) -> Option<&Voter> {
        self.0.get(&id)
    }

    /// Whether that replica, with that disk, is one of the voters.
    pub fn has(&self, key: ReplicaKey) -> bool {
        self.get(key.id).is_some_and(|voter| {
            voter.key.directory.is_nil()
                || voter.key.directory == key.directory
                || planted!(WipedVoterKeepsIdentity)
        })
    }

    /// More than half.
    pub fn majority(&self) -> usize {
        self.len() / 2 + 1
    }

    #[must_use]
    pub fn with(&self, voter: Voter) -> Self {
        let mut voters = self.0.clone();
        voters.insert(voter.key.id, voter);
        Self(voters)
    }

    #[must_use]
    pub fn without(&self, id: NodeId) -> Self {
        let mut voters = self.0.clone();
        voters.remove(&id);
        Self(voters)
    }

    pub fn to_record(&self) -> Control {
        let endpoint = |it: &Endpoint| VoterEndpoint {
            name: it.listener.clone(),
            host: it.host.clone(),
            port: it.port,
        };
        let voter = |it: &Voter| control::Voter {
            voter_id: it.key.id,
            voter_directory_id: it.key.directory,
            endpoints: it.endpoints.iter().map(endpoint).collect(),
            kraft_version_feature: KRaftVersionRange {
                min_supported_version: it.versions.0,
                max_supported_version: it.versions.1,
            },
        };
        Control::Voters(control::Voters { version: 0, voters: self.iter().map(voter).collect() })
    }

    fn of_record(record: &control::Voters) -> Self {
        let endpoint = |it: &VoterEndpoint| Endpoint {
            listener: it.name.clone(),
            host: it.host.clone(),
            port: it.port,
        };
        Self::of(record.voters.iter().map(|it| Voter {
            key: ReplicaKey::new(it.voter_id, it.voter_directory_id),
            endpoints: it.endpoints.iter().map(endpoint).collect(),
            versions: (
                it.kraft_version_feature.min_supported_version,
                it.kraft_version_feature.max_supported_version,
            ),
        }))
    }
}

/// The offset of what the log itself does not hold: the settings, or the founding checkpoint.
pub const BEFORE_THE_LOG: Offset = -1;

/// The voter sets and kraft.versions of a log, each with the offset of its record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct History {
    sets: Vec<(Offset, VoterSet)>,
    versions: Vec<(Offset, i16)>,
}

impl History {
    /// Before any record: the voters of the settings, which never change by themselves.
    pub fn fixed(voters: VoterSet) -> Self {
        Self { sets: vec![(BEFORE_THE_LOG, voters)], versions: vec![(BEFORE_THE_LOG, 0)] }
    }

    /// Without what the log says.
    #[must_use]
    pub fn before_the_log(&self) -> Self {
        let mut history = self.clone();
        history.truncate(0);
        history
    }

    pub fn current(&self) -> &VoterSet {
        // The first entry is never taken away.
        &self.sets[self.sets.len() - 1].1
    }

    /// The offset of the record that made the current set.
    pub fn changed_at(&self) -> Offset {
        self.sets[self.sets.len() - 1].0
    }

    pub fn kraft_version(&self) -> i16 {
        self.versions[self.versions.len() - 1].1
    }

    /// The set that held at the end offset `end`, and its kraft.version: for a snapshot.
    pub fn at(&self, end: Offset) -> (&VoterSet, i16) {
        let set = self.sets.iter().rfind(|(at, _)| *at < end).unwrap_or(&self.sets[0]);
        let version = self.versions.iter().rfind(|(at, _)| *at < end).unwrap_or(&self.versions[0]);
        (&set.1, version.1)
    }

    /// Takes note of a control record at `offset`.
    pub fn replay(&mut self, offset: Offset, control: &Control) {
        match control {
            Control::Voters(record) => self.sets.push((offset, VoterSet::of_record(record))),
            Control::KRaftVersion(record) => self.versions.push((offset, record.kraft_version)),
            _ => {}
        }
    }

    /// The log was cut: what stood at `end` or later is not true any more.
    pub fn truncate(&mut self, end: Offset) {
        self.sets.retain(|(at, _)| *at < end);
        self.versions.retain(|(at, _)| *at < end);
    }

    /// The records that say the same in a log of its own.
    pub fn to_records(voters: &VoterSet, kraft_version: i16) -> Vec<Control> {
        let version = Control::KRaftVersion(KRaftVersion { version: 0, kraft_version });
        vec![version, voters.to_record()]
    }

    /// In a quorum of changing voters a replica is known by its directory, else by its id alone.
    pub fn key(&self, id: NodeId, directory: Uuid) -> ReplicaKey {
        ReplicaKey::new(id, if self.kraft_version() == 0 { Uuid::nil() } else { directory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(id: NodeId, directory: u128) -> Voter {
        let host = format!("node-{id}");
        Voter {
            key: ReplicaKey::new(id, Uuid::from_u128(directory)),
            endpoints: vec![Endpoint { listener: "CONTROLLER".into(), host, port: 9093 }],
            versions: (0, 1),
        }
    }

    #[test]
    fn a_replaced_disk_is_no_voter_when_directories_count() {
        let fixed = VoterSet::of([voter(1, 0)]);
        assert!(fixed.has(ReplicaKey::new(1, Uuid::from_u128(9))));
        let dynamic = VoterSet::of([voter(1, 7)]);
        assert!(dynamic.has(ReplicaKey::new(1, Uuid::from_u128(7))));
        assert!(!dynamic.has(ReplicaKey::new(1, Uuid::from_u128(9))));
        assert!(!dynamic.has(ReplicaKey::new(2, Uuid::from_u128(7))));
    }

    #[test]
    fn a_voters_record_reads_back_and_is_forgotten_with_the_log_that_held_it() {
        let mut history = History::fixed(VoterSet::default());
        let set = VoterSet::of([voter(1, 7), voter(2, 8)]);
        for (offset, control) in (1..).zip(History::to_records(&set, 1)) {
            history.replay(offset, &control);
        }
        assert_eq!((history.current(), history.kraft_version()), (&set, 1));
        assert_eq!(history.at(2), (&VoterSet::default(), 1));
        history.truncate(2);
        assert_eq!((history.current(), history.kraft_version()), (&VoterSet::default(), 1));
        history.truncate(0);
        assert_eq!(history.kraft_version(), 0);
    }
}
