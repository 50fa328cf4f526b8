//! Share sessions: a member names its partitions to each leader once, and then only what changed.
//!
//! Invariants: a member of a group has one session at most, which ends with its connection; the
//! epoch of a session tells a lost or repeated request from the next one; there are at most
//! `group.share.max.share.sessions` of them, and none makes room for another.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

use crate::error::ErrorCode;

/// A partition as requests of share groups name it.
pub type TopicIdPartition = (Uuid, i32);

pub const INITIAL_EPOCH: i32 = 0;
pub const FINAL_EPOCH: i32 = -1;

/// Group and member.
pub type SessionKey = (String, String);

#[derive(Debug)]
struct Session {
    /// With whether the next answer must name the partition.
    partitions: IndexMap<TopicIdPartition, bool, FxBuildHasher>,
    /// The epoch of the next request.
    epoch: i32,
    connection: u64,
}

/// What a fetch is to read.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    pub partitions: Vec<TopicIdPartition>,
    /// Partitions without news may be left out of the answer.
    pub incremental: bool,
}

#[derive(Debug)]
pub struct Sessions {
    sessions: BTreeMap<SessionKey, Session>,
    most: usize,
}

fn next(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl Sessions {
    pub fn new(most: usize) -> Self {
        Self { sessions: BTreeMap::new(), most }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A ShareFetch with its epoch, and what it adds and forgets. The last one of a session reads
    /// nothing; the session ends with [`Sessions::end`].
    pub fn begin(
        &mut self,
        key: &SessionKey,
        epoch: i32,
        named: &[TopicIdPartition],
        forgotten: &[TopicIdPartition],
        acknowledges: bool,
        connection: u64,
    ) -> Result<Begun, ErrorCode> {
        if epoch == FINAL_EPOCH {
            let _known = self.sessions.get(key).ok_or(ErrorCode::ShareSessionNotFound)?;
            return Ok(Begun { partitions: Vec::new(), incremental: false });
        }
        if epoch == INITIAL_EPOCH {
            if acknowledges {
                return Err(ErrorCode::InvalidRequest);
            }
            self.sessions.remove(key);
            if self.sessions.len() >= self.most {
                return Err(ErrorCode::ShareSessionLimitReached);
            }
            let partitions = named.iter().map(|it| (*it, false)).collect();
            let session = Session { partitions, epoch: next(epoch), connection };
            let begun = Begun { partitions: named.to_vec(), incremental: false };
            self.sessions.insert(key.clone(), session);
            return Ok(begun);
        }
        let session = self.advance(key, epoch)?;
        for partition in named {
            session.partitions.entry(*partition).or_insert(true);
        }
        for partition in forgotten {
            session.partitions.shift_remove(partition);
        }
        let partitions = session.partitions.keys().copied().collect();
        Ok(Begun { partitions, incremental: true })
    }

    /// A ShareAcknowledge with its epoch.
    pub fn acknowledge(&mut self, key: &SessionKey, epoch: i32) -> Result<(), ErrorCode> {
        match epoch {
            INITIAL_EPOCH => Err(ErrorCode::InvalidShareSessionEpoch),
            FINAL_EPOCH if self.sessions.contains_key(key) => Ok(()),
            FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
            _ => self.advance(key, epoch).map(|_| ()),
        }
    }

    fn advance(&mut self, key: &SessionKey, epoch: i32) -> Result<&mut Session, ErrorCode> {
        let session = self.sessions.get_mut(key).ok_or(ErrorCode::ShareSessionNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        session.epoch = next(epoch);
        Ok(session)
    }

    /// Whether an answer of the session has to name a partition.
    pub fn tells(
        &mut self,
        key: &SessionKey,
        partition: &TopicIdPartition,
        has_records: bool,
        failed: bool,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let Some(due) = session.partitions.get_mut(partition) else { return true };
        let tells = has_records || failed || *due;
        *due = failed;
        if has_records && let Some((key, due)) = session.partitions.shift_remove_entry(partition) {
            session.partitions.insert(key, due);
        }
        tells
    }

    /// Ends a session; its partitions.
    pub fn end(&mut self, key: &SessionKey) -> Option<Vec<TopicIdPartition>> {
        let session = self.sessions.remove(key)?;
        Some(session.partitions.into_keys().collect())
    }

    /// The sessions of a connection.
    pub fn of_connection(&self, connection: u64) -> Vec<SessionKey> {
        let theirs = self.sessions.iter().filter(|(_, session)| session.connection == connection);
        theirs.map(|(key, _)| key.clone()).collect()
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.sessions.keys().any(|(of, _)| of == group)
    }

    /// Share groups are switched off.
    pub fn clear(&mut self) {
        self.sessions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(member: &str) -> SessionKey {
        ("g".into(), member.into())
    }

    fn at(partition: i32) -> TopicIdPartition {
        (Uuid::from_u128(1), partition)
    }

    fn open(sessions: &mut Sessions, member: &str, partitions: &[i32]) -> Result<Begun, ErrorCode> {
        let named: Vec<_> = partitions.iter().map(|it| at(*it)).collect();
        sessions.begin(&key(member), 0, &named, &[], false, 7)
    }

    #[test]
    fn a_session_remembers_what_was_named_and_takes_changes() {
        let mut sessions = Sessions::new(9);
        let begun = open(&mut sessions, "m", &[0, 1]).unwrap();
        assert_eq!(begun, Begun { partitions: vec![at(0), at(1)], incremental: false });
        let begun = sessions.begin(&key("m"), 1, &[at(2)], &[at(0)], false, 7).unwrap();
        assert_eq!(begun, Begun { partitions: vec![at(1), at(2)], incremental: true });
        assert_eq!(sessions.end(&key("m")).map(|all| all.len()), Some(2));
        assert_eq!(sessions.end(&key("m")), None);
    }

    #[test]
    fn a_lost_or_repeated_request_is_told_from_the_next_one() {
        let mut sessions = Sessions::new(9);
        let unknown = sessions.begin(&key("m"), 1, &[], &[], false, 7);
        assert_eq!(unknown, Err(ErrorCode::ShareSessionNotFound));
        open(&mut sessions, "m", &[0]).unwrap();
        sessions.acknowledge(&key("m"), 1).unwrap();
        let again = sessions.begin(&key("m"), 1, &[], &[], false, 7);
        assert_eq!(again, Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(sessions.acknowledge(&key("m"), 0), Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(sessions.acknowledge(&key("m"), 2), Ok(()));
        assert_eq!(sessions.acknowledge(&key("m"), -1), Ok(()));
        assert_eq!(sessions.acknowledge(&key("x"), -1), Err(ErrorCode::ShareSessionNotFound));
    }

    #[test]
    fn the_first_request_of_a_session_has_nothing_to_acknowledge() {
        let begun = Sessions::new(9).begin(&key("m"), 0, &[at(0)], &[], true, 7);
        assert_eq!(begun, Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn there_are_no_more_sessions_than_the_limit_and_none_makes_room() {
        let mut sessions = Sessions::new(1);
        open(&mut sessions, "m", &[0]).unwrap();
        open(&mut sessions, "m", &[0]).unwrap();
        assert_eq!(open(&mut sessions, "n", &[0]), Err(ErrorCode::ShareSessionLimitReached));
        assert_eq!(
            (sessions.of_connection(7), sessions.of_connection(8)),
            (vec![key("m")], vec![])
        );
    }

    #[test]
    fn only_news_is_told_and_what_was_added_once() {
        let mut sessions = Sessions::new(9);
        open(&mut sessions, "m", &[0, 1]).unwrap();
        sessions.begin(&key("m"), 1, &[at(2)], &[], false, 7).unwrap();
        let mut tells =
            |partition, records, failed| sessions.tells(&key("m"), &at(partition), records, failed);
        assert!(!tells(0, false, false));
        assert!(tells(0, true, false));
        assert!(tells(2, false, false));
        assert!(!tells(2, false, false));
        assert!(tells(1, false, true));
        assert!(tells(1, false, false), "it works again, which is news");
        assert!(!tells(1, false, false));
        let begun = sessions.begin(&key("m"), 2, &[], &[], false, 7).unwrap();
        assert_eq!(begun.partitions, [at(1), at(2), at(0)], "who was served goes to the end");
    }
}
