//! Fetch sessions (KIP-227): a client names its partitions once and then only what changed; the
//! answer holds only partitions that have something new.
//!
//! Invariants: the cache holds at most `max.incremental.fetch.session.cache.slots` sessions; a
//! session's epoch tells a lost or repeated request from the next one; a session belongs to the
//! kind of caller that made it. A full cache gives a client no session, which only makes its
//! fetches longer: an old one makes room when it was idle for two minutes, or smaller; a
//! follower's always makes room among consumers'.

use std::collections::BTreeMap;
use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use tokio::time::Instant;

use crate::env::Random;
use crate::error::ErrorCode;
use crate::types::Offset;

/// How long an unused session is safe from newer ones, as in Kafka.
const SAFE: Duration = Duration::from_mins(2);

const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

/// One partition as a client asks for it; `K` is how that client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub fetch_offset: Offset,
    pub max_bytes: i32,
    pub current_leader_epoch: i32,
    pub last_fetched_epoch: i32,
    pub log_start_offset: Offset,
}

/// What a client was last told of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub high_watermark: Offset,
    pub log_start_offset: Offset,
}

#[derive(Debug, Clone)]
struct Entry {
    asked: Asked,
    told: Option<Told>,
}

type Entries<K> = IndexMap<K, Entry, FxBuildHasher>;

struct Session<K> {
    entries: Entries<K>,
    /// The epoch of the next request.
    epoch: i32,
    follower: bool,
    used: Instant,
}

/// What one fetch is to read, and how its answer is to be framed.
#[derive(Debug)]
pub struct Fetch<K> {
    /// In the answer: 0 for none.
    pub session_id: i32,
    /// In the order in which to serve.
    pub partitions: Vec<(K, Asked)>,
    /// Partitions without news may be left out of the answer.
    pub incremental: bool,
}

/// All sessions of this broker.
pub struct Sessions<K> {
    sessions: BTreeMap<i32, Session<K>>,
    slots: usize,
    random: Random,
}

impl<K: Clone + Eq + std::hash::Hash> Sessions<K> {
    pub fn new(slots: usize, random: Random) -> Self {
        Self { sessions: BTreeMap::new(), slots, random }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes a request's session fields, the partitions that it names and those that it forgets.
    pub fn begin(
        &mut self,
        (session_id, epoch): (i32, i32),
        named: Vec<(K, Asked)>,
        forgotten: &[K],
        follower: bool,
        now: Instant,
    ) -> Result<Fetch<K>, ErrorCode> {
        if epoch == FINAL_EPOCH || epoch == INITIAL_EPOCH {
            self.sessions.remove(&session_id);
            let id = match epoch {
                FINAL_EPOCH => 0,
                _ => self.open(&named, follower, now),
            };
            return Ok(Fetch { session_id: id, partitions: named, incremental: false });
        }
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return Err(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.epoch = next(epoch);
        session.used = now;
        for (partition, asked) in named {
            match session.entries.get_mut(&partition) {
                Some(entry) => entry.asked = asked,
                None => {
                    session.entries.insert(partition, Entry { asked, told: None });
                }
            }
        }
        for partition in forgotten {
            session.entries.shift_remove(partition);
        }
        if session.entries.is_empty() {
            // Nothing left to ask for: as Kafka does, the session ends and the id is 0.
            self.sessions.remove(&session_id);
            return Ok(Fetch { session_id: 0, partitions: Vec::new(), incremental: false });
        }
        let partitions = session.entries.iter();
        let partitions = partitions.map(|(key, entry)| (key.clone(), entry.asked.clone()));
        Ok(Fetch { session_id, partitions: partitions.collect(), incremental: true })
    }

    /// Whether an answer with these figures has news for the session, records and errors aside;
    /// from now on it has been told.
    pub fn tell(&mut self, session_id: i32, partition: &K, told: Told) -> bool {
        let entry = self
            .sessions
            .get_mut(&session_id)
            .and_then(|session| session.entries.get_mut(partition));
        match entry {
            Some(entry) => entry.told.replace(told) != Some(told),
            None => true,
        }
    }

    /// A partition that was served goes to the end, so that the others get their turn.
    pub fn served(&mut self, session_id: i32, partition: &K) {
        if let Some(session) = self.sessions.get_mut(&session_id)
            && let Some((key, entry)) = session.entries.shift_remove_entry(partition)
        {
            session.entries.insert(key, entry);
        }
    }

    /// The error answers that need not be repeated are no reason to keep silent next time.
    pub fn failed(&mut self, session_id: i32, partition: &K) {
        if let Some(session) = self.sessions.get_mut(&session_id)
            && let Some(entry) = session.entries.get_mut(partition)
        {
            entry.told = None;
        }
    }

    fn open(&mut self, named: &[(K, Asked)], follower: bool, now: Instant) -> i32 {
        if named.is_empty() || !self.make_room(named.len(), follower, now) {
            return 0;
        }
        let id = loop {
            let id = (self.random.below(i32::MAX as u64 - 1) + 1) as i32;
            if !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let entries = named
            .iter()
            .map(|(key, asked)| (key.clone(), Entry { asked: asked.clone(), told: None }))
            .collect();
        let session = Session { entries, epoch: next(INITIAL_EPOCH), follower, used: now };
        self.sessions.insert(id, session);
        id
    }

    fn make_room(&mut self, size: usize, follower: bool, now: Instant) -> bool {
        if self.slots == 0 {
            return false;
        }
        if self.sessions.len() < self.slots {
            return true;
        }
        let stale = |session: &Session<K>| now.duration_since(session.used) > SAFE;
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
        let victim =
            oldest.filter(|(_, session)| stale(session)).map(|(id, _)| *id).or_else(|| {
                self.sessions
                    .iter()
                    .filter(|(_, session)| {
                        !session.follower && (follower || session.entries.len() < size)
                    })
                    .min_by_key(|(_, session)| session.entries.len())
                    .map(|(id, _)| *id)
            });
        match victim {
            Some(id) => {
                self.sessions.remove(&id);
                true
            }
            None => false,
        }
    }
}

fn next(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(fetch_offset: Offset) -> Asked {
        Asked {
            fetch_offset,
            max_bytes: 100,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            log_start_offset: -1,
        }
    }

    fn sessions(slots: usize) -> Sessions<&'static str> {
        Sessions::new(slots, Random::from_seed(1))
    }

    fn open(sessions: &mut Sessions<&'static str>, names: &[&'static str], now: Instant) -> i32 {
        let named = names.iter().map(|name| (*name, asked(0))).collect();
        sessions.begin((0, 0), named, &[], false, now).unwrap().session_id
    }

    #[test]
    fn a_session_remembers_what_was_asked_and_takes_changes() {
        let (mut sessions, now) = (sessions(10), Instant::now());
        let id = open(&mut sessions, &["a", "b"], now);
        let fetch = sessions.begin((id, 1), vec![("a", asked(5))], &["b"], false, now).unwrap();
        assert!(fetch.incremental);
        assert_eq!(fetch.partitions, [("a", asked(5))]);
    }

    #[test]
    fn a_lost_or_repeated_request_is_told_from_the_next_one() {
        let (mut sessions, now) = (sessions(10), Instant::now());
        let id = open(&mut sessions, &["a"], now);
        assert!(sessions.begin((id, 1), vec![], &[], false, now).is_ok());
        let again = sessions.begin((id, 1), vec![], &[], false, now).unwrap_err();
        assert_eq!(again, ErrorCode::InvalidFetchSessionEpoch);
        let unknown = sessions.begin((id + 1, 1), vec![], &[], false, now).unwrap_err();
        assert_eq!(unknown, ErrorCode::FetchSessionIdNotFound);
    }

    #[test]
    fn epoch_minus_one_ends_a_session_and_is_a_full_fetch_without_one() {
        let (mut sessions, now) = (sessions(10), Instant::now());
        let id = open(&mut sessions, &["a"], now);
        let last = sessions.begin((id, -1), vec![("a", asked(1))], &[], false, now).unwrap();
        assert_eq!((last.session_id, last.partitions.len(), last.incremental), (0, 1, false));
        assert!(sessions.is_empty());
    }

    #[test]
    fn only_news_is_told() {
        let (mut sessions, now) = (sessions(10), Instant::now());
        let id = open(&mut sessions, &["a"], now);
        let told = Told { high_watermark: 3, log_start_offset: 0 };
        assert!(sessions.tell(id, &"a", told));
        assert!(!sessions.tell(id, &"a", told));
        assert!(sessions.tell(id, &"a", Told { high_watermark: 4, ..told }));
        sessions.failed(id, &"a");
        assert!(sessions.tell(id, &"a", Told { high_watermark: 4, ..told }));
    }

    #[test]
    fn who_was_served_goes_to_the_end() {
        let (mut sessions, now) = (sessions(10), Instant::now());
        let id = open(&mut sessions, &["a", "b", "c"], now);
        sessions.served(id, &"a");
        let fetch = sessions.begin((id, 1), vec![], &[], false, now).unwrap();
        assert_eq!(fetch.partitions.iter().map(|(name, _)| *name).collect::<String>(), "bca");
    }

    #[test]
    fn a_full_cache_makes_room_only_at_the_cost_of_the_idle_and_the_small() {
        let (mut sessions, now) = (sessions(2), Instant::now());
        assert_ne!(open(&mut sessions, &["a"], now), 0);
        assert_ne!(open(&mut sessions, &["a", "b"], now), 0);
        assert_eq!(open(&mut sessions, &["a"], now), 0, "not larger than any");
        assert_ne!(open(&mut sessions, &["a", "b", "c"], now), 0, "larger than the smallest");
        assert_eq!(sessions.len(), 2);
        let later = now + SAFE + Duration::from_secs(1);
        assert_ne!(open(&mut sessions, &["a"], later), 0, "the others were idle");
        let follower = sessions.begin((0, 0), vec![("z", asked(0))], &[], true, later).unwrap();
        assert_ne!(follower.session_id, 0, "followers come first");
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn the_epoch_wraps_to_one() {
        assert_eq!((next(1), next(i32::MAX)), (2, 1));
    }
}
