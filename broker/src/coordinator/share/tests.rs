//! What the share coordinator keeps, answers and refuses.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::records::{Record, ShareKey, StateBatch};
use super::settings::ShareSettings;
use super::shard::{Answer, Call, Changes, Shard, State, Summary, What};
use crate::error::ErrorCode;

const SETTINGS: ShareSettings = ShareSettings {
    updates_per_snapshot: 2,
    cold_after: Duration::from_mins(5),
    prune_interval: Duration::from_mins(5),
    write_timeout: Duration::from_secs(5),
};

fn key(partition: i32) -> ShareKey {
    ShareKey { group: "g:1".into(), topic_id: Uuid::from_u128(7), partition }
}

fn ask(shard: &mut Shard, what: What) -> (Vec<Record>, Answer) {
    let (records, answer) = shard.handle(Call { key: key(0), what }, true, &SETTINGS, 100);
    shard.commit_up_to(shard.written());
    (records, answer)
}

fn initialized() -> Shard {
    let mut shard = Shard::default();
    ask(&mut shard, What::Initialize { state_epoch: 1, start: 10 });
    shard
}

fn batch(first: i64, last: i64, state: i8) -> StateBatch {
    StateBatch { first, last, state, deliveries: 1 }
}

fn changes(start: i64, batches: Vec<StateBatch>) -> What {
    What::Write(Changes { state_epoch: 1, leader_epoch: 0, start, done: 1, batches })
}

fn code(answer: &Answer) -> Option<ErrorCode> {
    match answer {
        Answer::Read(result) => result.as_ref().err(),
        Answer::Done(result) => result.as_ref().err(),
        Answer::Summary(result) => result.as_ref().err(),
    }
    .map(|refusal| refusal.code)
}

fn state(shard: &mut Shard) -> State {
    match ask(shard, What::Read { leader_epoch: -1 }).1 {
        Answer::Read(state) => state.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_share_partition_is_read_and_written_only_once_it_is_initialized() {
    let mut shard = Shard::default();
    for what in [What::Read { leader_epoch: 0 }, changes(10, vec![])] {
        let (records, answer) = ask(&mut shard, what);
        assert_eq!((records.len(), code(&answer)), (0, Some(ErrorCode::InvalidRequest)));
    }
    let expected = Summary { state_epoch: 0, leader_epoch: 0, start: -1, done: -1 };
    assert_eq!(ask(&mut shard, What::Summarize).1, Answer::Summary(Ok(expected)));
    assert_eq!(state(&mut initialized()), State { state_epoch: 1, start: 10, batches: vec![] });
}

#[test]
fn what_is_written_adds_up_and_every_so_often_it_is_a_snapshot() {
    let mut shard = initialized();
    let kinds: Vec<bool> = (0..4)
        .map(|n| {
            let what = changes(10, vec![batch(10 + n, 10 + n, 2)]);
            matches!(ask(&mut shard, what).0[0], Record::Snapshot(..))
        })
        .collect();
    assert_eq!(kinds, [false, false, true, false]);
    assert_eq!(state(&mut shard).batches, [batch(10, 13, 2)]);
    ask(&mut shard, changes(13, vec![]));
    assert_eq!(
        state(&mut shard),
        State { state_epoch: 1, start: 13, batches: vec![batch(13, 13, 2)] }
    );
}

#[test]
fn old_leaders_and_old_states_are_fenced() {
    let mut shard = initialized();
    let (records, answer) = ask(&mut shard, What::Read { leader_epoch: 5 });
    assert_eq!((records.len(), code(&answer)), (1, None), "the new leader is kept");
    assert_eq!(ask(&mut shard, What::Read { leader_epoch: 5 }).0.len(), 0);
    let (_, answer) = ask(&mut shard, What::Read { leader_epoch: 4 });
    assert_eq!(code(&answer), Some(ErrorCode::FencedLeaderEpoch));
    assert_eq!(code(&ask(&mut shard, changes(10, vec![])).1), Some(ErrorCode::FencedLeaderEpoch));
    ask(&mut shard, What::Initialize { state_epoch: 2, start: 0 });
    let of_before = Changes { state_epoch: 1, leader_epoch: 9, start: 0, done: 0, batches: vec![] };
    let (_, answer) = ask(&mut shard, What::Write(of_before));
    assert_eq!(code(&answer), Some(ErrorCode::FencedStateEpoch));
    let (_, answer) = ask(&mut shard, What::Initialize { state_epoch: 1, start: 0 });
    assert_eq!(code(&answer), Some(ErrorCode::FencedStateEpoch));
}

#[test]
fn a_partition_that_does_not_exist_is_refused() {
    let mut shard = initialized();
    for what in [What::Read { leader_epoch: 0 }, changes(10, vec![]), What::Delete] {
        let (_, answer) = shard.handle(Call { key: key(0), what }, false, &SETTINGS, 0);
        assert_eq!(code(&answer), Some(ErrorCode::UnknownTopicOrPartition));
    }
}

#[test]
fn what_is_deleted_is_gone_and_deleting_it_again_is_no_news() {
    let mut shard = initialized();
    assert_eq!(ask(&mut shard, What::Delete).0, [Record::Snapshot(key(0), None)]);
    assert!(shard.is_empty());
    assert_eq!(ask(&mut shard, What::Delete), (vec![], Answer::Done(Ok(()))));
}

#[test]
fn a_deleted_topic_takes_its_states_along() {
    let mut shard = initialized();
    assert_eq!(shard.forget_topics(&[("t".into(), Uuid::from_u128(8))], 9), []);
    let gone = shard.forget_topics(&[("t".into(), Uuid::from_u128(7))], 9);
    assert_eq!(gone, [Record::Snapshot(key(0), None)]);
}

#[test]
fn what_could_not_be_appended_never_was() {
    let mut shard = initialized();
    let before = state(&mut shard);
    let write = shard.written();
    shard.handle(Call { key: key(0), what: changes(12, vec![]) }, true, &SETTINGS, 0);
    let what = What::Initialize { state_epoch: 0, start: 0 };
    shard.handle(Call { key: key(1), what }, true, &SETTINGS, 0);
    shard.take_back(write + 1);
    assert_eq!((state(&mut shard), shard.len(), shard.written()), (before, 1, write));
}

#[test]
fn only_what_comes_after_all_newest_snapshots_is_needed() {
    let mut shard = Shard::default();
    let initialize = |shard: &mut Shard, partition, base| {
        let what = What::Initialize { state_epoch: 0, start: 0 };
        shard.handle(Call { key: key(partition), what }, true, &SETTINGS, 100);
        let write = shard.written();
        shard.appended_at(write, write, base);
        assert_eq!(shard.needed_from(), None, "not committed yet");
        shard.commit_up_to(write);
    };
    initialize(&mut shard, 0, 5);
    initialize(&mut shard, 1, 6);
    assert_eq!(shard.needed_from(), Some(5));
    initialize(&mut shard, 0, 9);
    assert_eq!(shard.needed_from(), Some(6));
    // Both are as old as can be: they are written anew, and all before is of no use.
    let records = shard.snapshot_cold(10, &SETTINGS, 100 + 300_000);
    assert_eq!(records.len(), 2);
    let write = shard.written();
    shard.appended_at(write, write, 20);
    shard.commit_up_to(write);
    assert_eq!(shard.needed_from(), Some(20));
    assert_eq!(shard.snapshot_cold(10, &SETTINGS, 200 + 300_000), [], "nothing has changed since");
}

#[test]
fn a_share_partition_is_named_as_kafka_names_it() {
    let name = key(3).coordinator_key();
    assert_eq!(name, "g:1:AAAAAAAAAAAAAAAAAAAABw:3");
    assert_eq!(ShareKey::from_coordinator_key(&name), Some(key(3)));
    for wrong in ["g", "g:AAAAAAAAAAAAAAAAAAAABw", ":AAAAAAAAAAAAAAAAAAAABw:1", "g:x:1"] {
        assert_eq!(ShareKey::from_coordinator_key(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn replay_yields_what_the_shard_held(
        steps in proptest::collection::vec((0..3i32, 0..5u8, 0..20i64, 0..3usize), 0..40),
    ) {
        let (mut shard, mut log) = (Shard::default(), Vec::new());
        for (partition, kind, at, state) in steps {
            let what = match kind {
                0 => What::Initialize { state_epoch: at as i32 / 8, start: at },
                1 => What::Read { leader_epoch: at as i32 / 8 },
                2 if at == 0 => What::Delete,
                _ => What::Write(Changes {
                    state_epoch: -1,
                    leader_epoch: -1,
                    start: at / 2,
                    done: 0,
                    batches: vec![batch(at, at + 2, [0, 2, 4][state])],
                }),
            };
            log.extend(shard.handle(Call { key: key(partition), what }, true, &SETTINGS, 0).0);
        }
        let mut again = Shard::default();
        for record in log {
            let (key, value) = record.encode().unwrap();
            again.take(Record::decode(&key, value.as_deref()).unwrap(), None);
        }
        for partition in 0..3 {
            for what in [What::Summarize, What::Read { leader_epoch: -1 }] {
                let call = Call { key: key(partition), what };
                let was = shard.handle(call.clone(), true, &SETTINGS, 0);
                prop_assert_eq!(again.handle(call, true, &SETTINGS, 0), was);
            }
        }
    }
}
