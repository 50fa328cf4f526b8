//! The care of a cluster's voters, for the operator and for `ottla up`.
//!
//! [`decide`] is pure: what the leader says of the quorum goes in, one step comes out, and the next
//! step only after the quorum has been looked at again. So it does not matter where whoever takes
//! the steps is killed. A step is taken only when the voters that remain have a majority that keeps
//! up, so that it cannot cost the quorum its leader.
//!
//! A disk is a voter, not a node: a node that comes back with an empty disk follows as an observer
//! with a new directory id, its old identity loses its vote first, and then the new one gets it.
//! Deliberately absent: giving a quorum that has lost its majority a new one. No step here can
//! found a cluster.

use std::fmt;

use ottla_client::text::id_text;
use ottla_client::{Quorum, QuorumEndpoint, QuorumReplica};
use uuid::Uuid;

use crate::resources::VoterStatus;

/// A replica that has not fetched for longer counts as away: followers fetch at least twice a
/// second, and leaders wait no longer than two seconds before they doubt.
const AWAY_MS: i64 = 5_000;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// All that should vote do, and keep up, and nobody else.
    Settled,
    /// Nothing can be done now, in words for a person.
    Waits(String),
    Change(Change),
}

/// One change of the voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add {
        id: i32,
        directory: Uuid,
    },
    /// `replaced`: by the same node with another disk.
    Remove {
        id: i32,
        directory: Uuid,
        replaced: bool,
    },
}

impl Change {
    /// The reason of its Event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Add { .. } => "VoterAdded",
            Self::Remove { .. } => "VoterRemoved",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { id, directory } => {
                write!(f, "node {id} votes now (directory {})", id_text(*directory))
            }
            Self::Remove { id, directory, replaced: true } => write!(
                f,
                "node {id} has a new disk: its old one (directory {}) has no vote any more",
                id_text(*directory)
            ),
            Self::Remove { id, directory, replaced: false } => {
                write!(f, "node {id} has no vote any more (directory {})", id_text(*directory))
            }
        }
    }
}

/// The one step that brings the voters of `quorum` closer to `wanted`.
pub fn decide(wanted: impl Iterator<Item = i32> + Clone, quorum: &Quorum) -> Decision {
    let look = Look { quorum, now: leaders_clock(quorum) };
    let mut waits = None;
    for id in wanted.clone() {
        match look.step_of(id) {
            Decision::Settled => {}
            Decision::Waits(why) => waits = waits.or(Some(why)),
            change @ Decision::Change(_) => return change,
        }
    }
    if let Some(why) = waits {
        return Decision::Waits(why);
    }
    let unwanted = quorum.voters.iter().find(|voter| wanted.clone().all(|id| id != voter.id));
    unwanted.map_or(Decision::Settled, |voter| look.remove(voter, false))
}

/// Whether enough voters keep up for anything to be decided: a leader that lost the others does not
/// know it at once.
pub fn has_majority(quorum: &Quorum) -> bool {
    let look = Look { quorum, now: leaders_clock(quorum) };
    is_majority(look.keeping_up(None), quorum.voters.len())
}

/// The voters, as a status shows them.
pub fn voters(quorum: &Quorum) -> Vec<VoterStatus> {
    let look = Look { quorum, now: leaders_clock(quorum) };
    let state = |voter: &QuorumReplica| match voter {
        _ if voter.id == quorum.leader => "Leader",
        _ if look.keeps_up(voter) => "Follower",
        _ => "Behind",
    };
    let mut all: Vec<_> = quorum
        .voters
        .iter()
        .map(|voter| VoterStatus {
            id: voter.id,
            directory_id: id_text(voter.directory),
            state: state(voter).to_owned(),
        })
        .collect();
    all.sort_by_key(|voter| voter.id);
    all
}

/// Where a voter is reached, as the others are told.
pub fn endpoint(host: String, port: i32) -> QuorumEndpoint {
    QuorumEndpoint {
        listener: crate::cluster::build::properties::CONTROLLER_LISTENER.to_owned(),
        host,
        port: u16::try_from(port).unwrap_or_default(),
    }
}

/// All times are the leader's; it is always up to date with itself.
fn leaders_clock(quorum: &Quorum) -> i64 {
    let all = quorum.voters.iter().chain(&quorum.observers);
    all.filter_map(|replica| replica.last_fetch.max(replica.last_caught_up)).max().unwrap_or(0)
}

struct Look<'a> {
    quorum: &'a Quorum,
    now: i64,
}

impl Look<'_> {
    fn step_of(&self, id: i32) -> Decision {
        let voter = self.quorum.voters.iter().find(|voter| voter.id == id);
        let disk = self.quorum.observers.iter().find(|observer| {
            observer.id == id && !observer.directory.is_nil() && self.keeps_up(observer)
        });
        match (voter, disk) {
            // An identity that still fetches is alive, whatever else goes by its id.
            (Some(voter), _) if self.keeps_up(voter) => Decision::Settled,
            (Some(voter), Some(_)) if !self.fetches(voter) => self.remove(voter, true),
            (Some(_), _) => Decision::Waits(format!("voter {id} is away or behind")),
            (None, Some(disk)) => self.add(disk),
            (None, None) => {
                Decision::Waits(format!("node {id} does not vote yet: it is away or catches up"))
            }
        }
    }

    fn add(&self, disk: &QuorumReplica) -> Decision {
        let (id, directory) = (disk.id, disk.directory);
        let voters = self.quorum.voters.len() + 1;
        if is_majority(self.keeping_up(None) + 1, voters) {
            return Decision::Change(Change::Add { id, directory });
        }
        Decision::Waits(format!(
            "node {id} is to vote, but too few of the voters keep up for a change"
        ))
    }

    fn remove(&self, voter: &QuorumReplica, replaced: bool) -> Decision {
        let (id, directory) = (voter.id, voter.directory);
        let voters = self.quorum.voters.len() - 1;
        if voters > 0 && is_majority(self.keeping_up(Some(voter)), voters) {
            return Decision::Change(Change::Remove { id, directory, replaced });
        }
        Decision::Waits(format!(
            "node {id} is to lose its old vote, but too few of the other voters keep up"
        ))
    }

    /// How many voters keep up, `without` one.
    fn keeping_up(&self, without: Option<&QuorumReplica>) -> usize {
        let voters = self.quorum.voters.iter();
        voters.filter(|voter| Some(*voter) != without && self.keeps_up(voter)).count()
    }

    /// It fetches, and it has what is committed or had everything a moment ago.
    fn keeps_up(&self, replica: &QuorumReplica) -> bool {
        let quorum = self.quorum;
        let leads = replica.id == quorum.leader && quorum.voters.contains(replica);
        let recent = |time: Option<i64>| time.is_some_and(|time| time >= self.now - AWAY_MS);
        leads
            || self.fetches(replica)
                && (replica.log_end_offset >= quorum.high_watermark
                    || recent(replica.last_caught_up))
    }

    fn fetches(&self, replica: &QuorumReplica) -> bool {
        let leads = replica.id == self.quorum.leader && self.quorum.voters.contains(replica);
        leads || replica.last_fetch.is_some_and(|time| time >= self.now - AWAY_MS)
    }
}

fn is_majority(count: usize, of: usize) -> bool {
    count > of / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    /// `ID` (keeps up), `ID!` (away), `ID<` (fetches, but behind), `ID?` (never fetched), each with
    /// `.N` for its Nth disk.
    fn replica(text: &str) -> QuorumReplica {
        let how = text.chars().last().filter(|c| !c.is_ascii_digit());
        let text = text.trim_end_matches(['!', '<', '?']);
        let (id, disk) = text.split_once('.').unwrap_or((text, "1"));
        let id: i32 = id.parse().unwrap();
        let (end, fetched, caught_up) = match how {
            None => (100, Some(NOW - 400), Some(NOW - 400)),
            Some('!') => (90, Some(NOW - 60_000), Some(NOW - 60_000)),
            Some('<') => (10, Some(NOW - 100), Some(NOW - 60_000)),
            Some(_) => (0, None, None),
        };
        QuorumReplica {
            id,
            directory: Uuid::from_u128(disk.parse::<u128>().unwrap() << 32 | id as u128),
            log_end_offset: end,
            last_fetch: fetched,
            last_caught_up: caught_up,
        }
    }

    /// The first voter leads.
    fn quorum(voters: &str, observers: &str) -> Quorum {
        let all = |text: &str| text.split_whitespace().map(replica).collect::<Vec<_>>();
        let mut quorum = Quorum {
            voters: all(voters),
            observers: all(observers),
            epoch: 3,
            high_watermark: 100,
            ..Quorum::default()
        };
        quorum.leader = quorum.voters[0].id;
        quorum.voters[0].last_fetch = Some(NOW);
        quorum.voters[0].last_caught_up = Some(NOW);
        quorum
    }

    fn told(wanted: std::ops::Range<i32>, voters: &str, observers: &str) -> String {
        let disk = |directory: &Uuid| directory.as_u128() >> 32;
        match decide(wanted, &quorum(voters, observers)) {
            Decision::Settled => "settled".to_owned(),
            Decision::Waits(why) => format!("waits: {why}"),
            Decision::Change(Change::Add { id, directory }) => {
                format!("add {id}.{}", disk(&directory))
            }
            Decision::Change(Change::Remove { id, directory, .. }) => {
                format!("remove {id}.{}", disk(&directory))
            }
        }
    }

    #[test]
    fn a_founder_is_joined_one_by_one() {
        assert_eq!(told(0..3, "0", "1 2"), "add 1.1");
        assert_eq!(told(0..3, "0 1", "2"), "add 2.1");
        assert_eq!(told(0..3, "0 1 2", "3 4"), "settled");
        assert_eq!(told(0..1, "0", "1"), "settled");
        assert_eq!(told(0..3, "0", "2"), "add 2.1");
    }

    #[test]
    fn nobody_gets_a_vote_before_it_has_caught_up() {
        let waits = "waits: node 1 does not vote yet: it is away or catches up";
        for observers in ["", "1<", "1!", "1?"] {
            assert_eq!(told(0..2, "0", observers), waits, "{observers:?}");
        }
    }

    #[test]
    fn a_new_disk_takes_the_vote_of_the_old_one_in_two_steps() {
        assert_eq!(told(0..3, "1 2 0!", "0.2"), "remove 0.1");
        assert_eq!(told(0..3, "1 2", "0.2"), "add 0.2");
        assert_eq!(told(0..3, "1 2 0.2", ""), "settled");
    }

    #[test]
    fn an_old_identity_keeps_its_vote_until_the_new_disk_has_caught_up() {
        let waits = "waits: voter 0 is away or behind";
        for observers in ["", "0.2<", "0.2!", "0.2?"] {
            assert_eq!(told(0..3, "1 2 0!", observers), waits, "{observers:?}");
        }
    }

    #[test]
    fn an_identity_that_still_fetches_never_loses_its_vote_to_a_namesake() {
        assert_eq!(told(0..3, "1 2 0", "0.2"), "settled");
        assert_eq!(told(0..3, "1 2 0<", "0.2"), "waits: voter 0 is away or behind");
    }

    #[test]
    fn no_change_is_made_that_would_leave_too_few_voters_that_keep_up() {
        let few = "waits: node 0 is to lose its old vote, but too few of the other voters keep up";
        assert_eq!(told(0..3, "1 2! 0!", "0.2"), few);
        assert_eq!(told(0..2, "1 0!", "0.2"), "remove 0.1", "one remains, and it leads");
        let few = "waits: node 3 is to vote, but too few of the voters keep up for a change";
        assert_eq!(told(3..4, "1 2! 0!", "3"), few);
        assert_eq!(told(0..5, "1 2 3 4! 0!", "0.2"), "remove 0.1");
    }

    #[test]
    fn a_voter_too_many_goes_last() {
        assert_eq!(told(0..3, "0 1 7", "2"), "add 2.1");
        assert_eq!(told(0..3, "0 1 2 7", ""), "remove 7.1");
        assert_eq!(told(0..3, "0 1 2! 7", ""), "waits: voter 2 is away or behind");
        assert_eq!(told(0..3, "7 0 1 2", ""), "remove 7.1", "also when it leads");
    }

    #[test]
    fn every_start_comes_to_rest_with_the_wanted_voters() {
        for (voters, observers) in
            [("0", "1 2"), ("1 2 0!", "0.2"), ("0 1 2! 7", "2.2"), ("5", "0 1 2"), ("0 1 2", "")]
        {
            let mut quorum = quorum(voters, observers);
            for step in 0.. {
                assert!(step < 8, "{voters} | {observers} never comes to rest");
                match decide(0..3, &quorum) {
                    Decision::Settled => break,
                    Decision::Waits(why) => panic!("{voters} | {observers}: {why}"),
                    Decision::Change(Change::Add { id, directory }) => {
                        let at = |it: &QuorumReplica| it.id == id && it.directory == directory;
                        let from = quorum.observers.iter().position(at).unwrap();
                        let disk = quorum.observers.remove(from);
                        assert!(quorum.voters.iter().all(|voter| voter.id != id), "two of {id}");
                        quorum.voters.push(disk);
                    }
                    Decision::Change(Change::Remove { id, .. }) => {
                        quorum.voters.retain(|voter| voter.id != id);
                        quorum.leader = quorum.voters[0].id;
                    }
                }
            }
            let mut ids: Vec<_> = quorum.voters.iter().map(|voter| voter.id).collect();
            ids.sort_unstable();
            assert_eq!(ids, [0, 1, 2]);
        }
    }

    #[test]
    fn a_leader_that_lost_the_others_has_no_majority() {
        for (voters, expected) in
            [("0", true), ("0 1! 2", true), ("0 1! 2!", false), ("0 1!", false), ("0 1? 2?", false)]
        {
            assert_eq!(has_majority(&quorum(voters, "")), expected, "{voters}");
        }
    }

    #[test]
    fn a_status_names_who_leads_and_who_is_behind() {
        let states: Vec<_> =
            voters(&quorum("1 2! 0", "")).into_iter().map(|it| (it.id, it.state)).collect();
        let expected = [(0, "Follower"), (1, "Leader"), (2, "Behind")];
        assert_eq!(states, expected.map(|(id, state)| (id, state.to_owned())));
    }
}
