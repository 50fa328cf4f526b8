//! Control records of a KRaft log: key = (version 0, type) as two 16-bit numbers, value = message.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::message;
use crate::wire::message::{Field, Malformed, Message};

message! {
    /// A leader's first record in its epoch.
    pub struct LeaderChange (0, 1, flexible 0) {
        version: i16 [from 0],
        leader_id: i32 [from 0],
        voters: Vec<ChangeVoter> [from 0],
        granting_voters: Vec<ChangeVoter> [from 0],
    }

    pub struct ChangeVoter {
        voter_id: i32 [from 0],
        voter_directory_id: Uuid [from 1],
    }

    /// Opens a snapshot.
    pub struct SnapshotHeader (0, 0, flexible 0) {
        version: i16 [from 0],
        last_contained_log_timestamp: i64 [from 0],
    }

    /// Ends a snapshot: one without it is not whole.
    pub struct SnapshotFooter (0, 0, flexible 0) {
        version: i16 [from 0],
    }

    pub struct KRaftVersion (0, 0, flexible 0) {
        version: i16 [from 0],
        kraft_version: i16 [from 0],
    }

    /// The voters, in quorums whose voters can change (kraft.version 1).
    pub struct Voters (0, 0, flexible 0) {
        version: i16 [from 0],
        voters: Vec<Voter> [from 0],
    }

    pub struct Voter {
        voter_id: i32 [from 0],
        voter_directory_id: Uuid [from 0],
        endpoints: Vec<VoterEndpoint> [from 0],
        kraft_version_feature: KRaftVersionRange [from 0],
    }

    pub struct VoterEndpoint {
        name: String [from 0],
        host: String [from 0],
        port: u16 [from 0],
    }

    pub struct KRaftVersionRange {
        min_supported_version: i16 [from 0],
        max_supported_version: i16 [from 0],
    }
}

/// A control record of the metadata log or of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    LeaderChange(LeaderChange),
    SnapshotHeader(SnapshotHeader),
    SnapshotFooter(SnapshotFooter),
    KRaftVersion(KRaftVersion),
    Voters(Voters),
}

impl Control {
    fn kind(&self) -> i16 {
        match self {
            Self::LeaderChange(_) => 2,
            Self::SnapshotHeader(_) => 3,
            Self::SnapshotFooter(_) => 4,
            Self::KRaftVersion(_) => 5,
            Self::Voters(_) => 6,
        }
    }

    pub fn key(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(4);
        out.put_i16(0);
        out.put_i16(self.kind());
        out.freeze()
    }

    pub fn value(&self) -> Bytes {
        match self {
            Self::LeaderChange(message) => message.to_bytes(message.version),
            Self::SnapshotHeader(message) => message.to_bytes(message.version),
            Self::SnapshotFooter(message) => message.to_bytes(message.version),
            Self::KRaftVersion(message) => message.to_bytes(message.version),
            Self::Voters(message) => message.to_bytes(message.version),
        }
    }

    /// Reads a control record; `None` for a type that is none of ours.
    pub fn read(mut key: &[u8], value: &[u8]) -> Result<Option<Self>, Malformed> {
        let _version = i16::take(&mut key, 0, false)?;
        let kind = i16::take(&mut key, 0, false)?;
        // Each message starts with its own version.
        let version = i16::take(&mut &*value, 0, false)?;
        let input = &mut &*value;
        Ok(Some(match kind {
            2 => Self::LeaderChange(Message::decode(input, version)?),
            3 => Self::SnapshotHeader(Message::decode(input, version)?),
            4 => Self::SnapshotFooter(Message::decode(input, version)?),
            5 => Self::KRaftVersion(Message::decode(input, version)?),
            6 => Self::Voters(Message::decode(input, version)?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_change_reads_back_in_the_version_it_names() {
        let voter = ChangeVoter { voter_id: 1, voter_directory_id: Uuid::nil() };
        let change = Control::LeaderChange(LeaderChange {
            version: 0,
            leader_id: 1,
            voters: vec![voter.clone()],
            granting_voters: vec![voter],
        });
        assert_eq!(&change.key()[..], [0, 0, 0, 2]);
        let value = [0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 0];
        assert_eq!(&change.value()[..], value);
        assert_eq!(Control::read(&change.key(), &value), Ok(Some(change)));
    }

    #[test]
    fn a_control_record_of_another_kind_is_none() {
        assert_eq!(Control::read(&[0, 0, 0, 1], &[0, 0, 0]), Ok(None));
    }
}
