//! `quorum-state`: the epoch and vote that must survive, as Kafka writes it (JSON, data version 1).

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::messages::{Election, ReplicaKey};
use crate::env::Disk;
use crate::error::Fault;
use crate::log::{uuid_from_text, uuid_to_text};
use crate::types::{LeaderEpoch, NodeId};

pub const FILE: &str = "quorum-state";

/// Who leads in which epoch, as far as this node knows, and for whom it voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumState {
    pub leader_id: NodeId,
    pub leader_epoch: LeaderEpoch,
    /// -1: nobody.
    pub voted_id: NodeId,
    pub voted_directory: Uuid,
}

impl Default for QuorumState {
    fn default() -> Self {
        Self { leader_id: -1, leader_epoch: 0, voted_id: -1, voted_directory: Uuid::nil() }
    }
}

impl QuorumState {
    pub fn of(election: Election) -> Self {
        Self {
            leader_id: election.leader.unwrap_or(-1),
            leader_epoch: election.epoch,
            voted_id: election.voted.map_or(-1, |voted| voted.id),
            voted_directory: election.voted.map_or(Uuid::nil(), |voted| voted.directory),
        }
    }

    pub fn election(self) -> Election {
        let voted = ReplicaKey::new(self.voted_id, self.voted_directory);
        Election {
            epoch: self.leader_epoch.max(0),
            leader: (self.leader_id >= 0).then_some(self.leader_id),
            voted: (self.voted_id >= 0).then_some(voted),
        }
    }

    /// Reads the file in `folder`; none when it was never written. Understands both of Kafka's
    /// data versions.
    pub fn read(disk: &dyn Disk, folder: &Path) -> Result<Option<Self>, Fault> {
        let path = folder.join(FILE);
        if !disk.exists(&path) {
            return Ok(None);
        }
        let content = disk.read(&path).map_err(Fault::disk(&path))?;
        let text = String::from_utf8_lossy(&content);
        let number = |key: &str| field(&text, key)?.parse::<i32>().ok();
        match (number("leaderId"), number("leaderEpoch"), number("votedId")) {
            (Some(leader_id), Some(leader_epoch), Some(voted_id)) => Ok(Some(Self {
                leader_id,
                leader_epoch,
                voted_id,
                voted_directory: field(&text, "votedDirectoryId")
                    .and_then(|text| uuid_from_text(text.trim_matches('"')))
                    .unwrap_or_default(),
            })),
            _ => Err(Fault::Corrupt { path, what: "not a quorum state".into() }),
        }
    }

    /// Replaces the file; durable when this returns.
    pub fn write(&self, disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
        let path: PathBuf = folder.join(FILE);
        let text = format!(
            "{{\"leaderId\":{},\"leaderEpoch\":{},\"votedId\":{},\"votedDirectoryId\":\"{}\",\
             \"data_version\":1}}",
            self.leader_id,
            self.leader_epoch,
            self.voted_id,
            uuid_to_text(self.voted_directory),
        );
        disk.write_atomically(&path, text.as_bytes()).map_err(Fault::disk(path))
    }
}

/// The value of `key` in a flat JSON object of numbers and plain strings.
fn field<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    let quoted = format!("\"{key}\"");
    let rest = json[json.find(&quoted)? + quoted.len()..].trim_start().strip_prefix(':')?;
    let rest = rest.trim_start();
    Some(rest[..rest.find([',', '}'])?].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real;

    #[test]
    fn what_is_written_reads_back_and_kafkas_version_0_is_understood() {
        let env = real::env();
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(QuorumState::read(&*env.disk, folder.path()).unwrap(), None);
        let state = QuorumState {
            leader_id: 1,
            leader_epoch: 7,
            voted_id: 1,
            voted_directory: Uuid::from_u128(99 << 64),
        };
        state.write(&*env.disk, folder.path()).unwrap();
        assert_eq!(QuorumState::read(&*env.disk, folder.path()).unwrap(), Some(state));
        let of_kafka = br#"{"clusterId":"","leaderId":1,"leaderEpoch":1,"votedId":-1,"appliedOffset":0,"currentVoters":[{"voterId":1}],"data_version":0}"#;
        env.disk.write_atomically(&folder.path().join(FILE), of_kafka).unwrap();
        let read = QuorumState::read(&*env.disk, folder.path()).unwrap().unwrap();
        assert_eq!((read.leader_id, read.leader_epoch, read.voted_id), (1, 1, -1));
    }
}
