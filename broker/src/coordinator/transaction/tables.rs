//! What each request comes to in each state, as Kafka 4.3.1 decides.

use proptest::prelude::*;

use super::call::Call;
use super::conversation::{Conversation, Log, place};
use super::state::{BUMPS_EPOCH, Decision, Known, OLD_CLIENT, Producer, State, Transaction};
use crate::error::ErrorCode::{self, ConcurrentTransactions, InvalidTxnState, ProducerFenced};

/// Producer 7 in epoch 5, in a state that it came to by way of version 2.
fn known(state: State) -> Known {
    let at = Transaction {
        epoch: 5,
        last_epoch: 4,
        state,
        started: 0,
        client_version: BUMPS_EPOCH,
        previous_producer_id: 7,
        ..Transaction::created(7, 60_000, 0)
    };
    Known::new(at)
}

#[derive(Debug, PartialEq)]
enum Told {
    Prepares(State),
    Again,
    Refused(ErrorCode),
}

fn told(decision: Decision) -> Told {
    match decision {
        Decision::Write(to) => Told::Prepares(to.state),
        Decision::Already => Told::Again,
        Decision::Refuse(code) => Told::Refused(code),
        Decision::NeedsProducerId => panic!("epoch 5 is not the last one"),
    }
}

#[test]
fn ends_of_version_2_are_told_from_their_retries_by_the_epoch() {
    use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
    let (fenced, invalid) = (Told::Refused(ProducerFenced), Told::Refused(InvalidTxnState));
    let busy = || Told::Refused(ConcurrentTransactions);
    let prepares = Told::Prepares;
    // State, commit, what a retry (epoch 4) and what the current epoch is told.
    let table = [
        (Ongoing, true, &fenced, &prepares(PrepareCommit)),
        (Ongoing, false, &fenced, &prepares(PrepareAbort)),
        (Empty, true, &fenced, &invalid),
        (Empty, false, &fenced, &prepares(PrepareAbort)),
        (PrepareCommit, true, &busy(), &fenced),
        (PrepareCommit, false, &invalid, &fenced),
        (PrepareAbort, true, &invalid, &fenced),
        (PrepareAbort, false, &busy(), &fenced),
        (CompleteCommit, true, &Told::Again, &invalid),
        (CompleteCommit, false, &invalid, &prepares(PrepareAbort)),
        (CompleteAbort, true, &invalid, &invalid),
        (CompleteAbort, false, &Told::Again, &prepares(PrepareAbort)),
    ];
    for (state, commit, retry, current) in table {
        let end = |epoch| {
            let producer = Producer { id: 7, epoch };
            told(known(state).end(producer, commit, BUMPS_EPOCH, None, 1))
        };
        assert_eq!(&end(4), retry, "{state:?}, commit {commit}, retry");
        assert_eq!(&end(5), current, "{state:?}, commit {commit}, current");
        assert_eq!(end(3), fenced, "{state:?}, commit {commit}, old");
    }
}

#[test]
fn ends_of_older_clients_are_told_from_their_retries_by_the_state() {
    use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
    let invalid = || Told::Refused(InvalidTxnState);
    let busy = || Told::Refused(ConcurrentTransactions);
    // State, what a commit and what an abort is told.
    let table = [
        (Ongoing, Told::Prepares(PrepareCommit), Told::Prepares(PrepareAbort)),
        (Empty, invalid(), invalid()),
        (PrepareCommit, busy(), invalid()),
        (PrepareAbort, invalid(), busy()),
        (CompleteCommit, Told::Again, invalid()),
        (CompleteAbort, invalid(), Told::Again),
    ];
    for (state, commit, abort) in table {
        let end = |epoch, commit| told(known(state).end_old(Producer { id: 7, epoch }, commit, 1));
        assert_eq!(end(5, true), commit, "{state:?}");
        assert_eq!(end(5, false), abort, "{state:?}");
        assert_eq!(end(4, true), Told::Refused(ProducerFenced), "{state:?}");
    }
}

#[test]
fn the_epoch_moves_on_with_every_end_of_version_2_and_stays_with_older_clients() {
    let producer = Producer { id: 7, epoch: 5 };
    let ended = |decision: Decision| match decision {
        Decision::Write(to) => {
            let done = to.completed(2);
            (to.epoch, to.last_epoch, done.epoch, done.state)
        }
        other => panic!("{other:?}"),
    };
    let new = known(State::Ongoing).end(producer, true, BUMPS_EPOCH, None, 1);
    assert_eq!(ended(new), (6, 5, 6, State::CompleteCommit));
    let old = known(State::Ongoing).end_old(producer, false, 1);
    assert_eq!(ended(old), (5, 4, 5, State::CompleteAbort));
}

#[test]
fn a_fence_moves_the_epoch_on_once_whatever_the_version() {
    for level in [OLD_CLIENT, 1, BUMPS_EPOCH] {
        match known(State::Ongoing).fence(None, level, 1) {
            Decision::Write(to) => {
                assert_eq!((to.epoch, to.state), (6, State::PrepareAbort), "level {level}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_fence_that_failed_is_tried_again_with_the_same_epoch_by_older_levels() {
    let mut known = known(State::Ongoing);
    let epoch = |decision| match decision {
        Decision::Write(to) => to.epoch,
        other => panic!("{other:?}"),
    };
    assert_eq!(epoch(known.fence(None, 1, 1)), 6);
    known.failed_fence = true;
    assert_eq!(epoch(known.fence(None, 1, 1)), 6);
}

/// What clients and the world do to a coordinator.
#[derive(Debug, Clone)]
enum Deed {
    Init { client: u8, again: bool },
    Add { client: u8, partition: i32 },
    End { client: u8, commit: bool, version: i16 },
    Log(bool),
    Refuse,
    Marks(bool),
    Sweep(i64),
    Reload,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => (0..2u8, any::<bool>()).prop_map(|(client, again)| Deed::Init { client, again }),
        4 => (0..2u8, 0..3).prop_map(|(client, partition)| Deed::Add { client, partition }),
        4 => (0..2u8, any::<bool>(), any::<bool>()).prop_map(|(client, commit, old)| Deed::End {
            client,
            commit,
            version: if old { OLD_CLIENT } else { BUMPS_EPOCH },
        }),
        2 => any::<bool>().prop_map(Deed::Log),
        1 => Just(Deed::Refuse),
        2 => any::<bool>().prop_map(Deed::Marks),
        1 => (0..100i64).prop_map(Deed::Sweep),
        1 => Just(Deed::Reload),
    ]
}

fn act(conversation: &mut Conversation, deed: Deed) {
    let id = || "tx".to_owned();
    let who = |client: u8| format!("c{client}");
    let nobody = Producer { id: -1, epoch: -1 };
    let known = |conversation: &Conversation, client: u8| {
        conversation.clients.get(&who(client)).copied().unwrap_or(nobody)
    };
    match deed {
        Deed::Init { client, again } => {
            let expected = conversation.clients.get(&who(client)).copied().filter(|_| again);
            let call =
                Call::Init { transactional_id: id(), timeout_ms: 30_000, expected, fresh: None };
            conversation.call(&who(client), call);
        }
        Deed::Add { client, partition } => {
            let producer = known(conversation, client);
            let partitions = [place(&format!("t-{partition}"))].into();
            let call =
                Call::Add { transactional_id: id(), producer, partitions, version: BUMPS_EPOCH };
            conversation.call(&who(client), call);
        }
        Deed::End { client, commit, version } => {
            let producer = known(conversation, client);
            let fresh = None;
            let call = Call::End { transactional_id: id(), producer, commit, version, fresh };
            conversation.call(&who(client), call);
        }
        Deed::Log(holds) => {
            conversation.log = if holds { Log::Holds } else { Log::Commits };
            if !holds {
                conversation.commit();
            }
        }
        Deed::Refuse => {
            // Only what is not on its way can be refused.
            conversation.log = Log::Commits;
            conversation.commit();
            conversation.log = Log::Refuses(ErrorCode::NotEnoughReplicas);
        }
        Deed::Marks(at_once) => {
            conversation.marks = at_once;
            conversation.mark(&[]);
        }
        Deed::Sweep(seconds) => {
            conversation.advance(seconds * 1_000);
            conversation.sweep();
        }
        Deed::Reload => conversation.reload(),
    }
}

/// Who may follow on whom in the log.
fn follows(from: &Transaction, to: &Transaction) -> bool {
    use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
    let allowed = match to.state {
        Empty => matches!(from.state, Empty | CompleteCommit | CompleteAbort),
        Ongoing => matches!(from.state, Empty | Ongoing | CompleteCommit | CompleteAbort),
        PrepareCommit => from.state == Ongoing,
        PrepareAbort => !matches!(from.state, PrepareCommit | PrepareAbort),
        CompleteCommit => from.state == PrepareCommit,
        CompleteAbort => from.state == PrepareAbort,
        _ => false,
    };
    let forward = to.producer_id != from.producer_id || to.epoch >= from.epoch;
    allowed && forward
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn an_outcome_once_prepared_stands_and_every_call_is_answered(
        deeds in proptest::collection::vec(deeds(), 1..40),
        level in 0..=2i16,
    ) {
        let mut conversation = Conversation::new(level);
        for deed in deeds {
            act(&mut conversation, deed);
        }
        let log: Vec<Transaction> =
            conversation.stored.iter().filter_map(|it| Some(it.transaction.clone()?.0)).collect();
        for pair in log.windows(2) {
            prop_assert!(follows(&pair[0], &pair[1]), "{:?}\n{:?}", pair[0], pair[1]);
        }
        conversation.log = Log::Commits;
        conversation.commit();
        conversation.marks = true;
        conversation.mark(&[]);
        conversation.advance(1_000);
        prop_assert!(conversation.open.is_empty(), "{:?}", conversation.open);
        let last = conversation.stored.iter().rev().find_map(|it| it.transaction.clone());
        prop_assert!(last.is_none_or(|(it, _)| !it.state.is_prepared()));
    }
}
