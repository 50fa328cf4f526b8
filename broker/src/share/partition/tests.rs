//! The rules of a share partition, one by one.

use super::*;

const LIMITS: Limits = Limits { deliveries: 5, in_flight: 2000, lock_ms: 30_000, renew: true };

fn fresh(start: Offset) -> SharePartition {
    SharePartition::load(0, &LoadedState { start, ..LoadedState::default() }).unwrap()
}

fn member(name: &str) -> Member {
    name.into()
}

fn logged(ranges: &[(Offset, Offset)]) -> Vec<LogBatch> {
    ranges
        .iter()
        .map(|(base, last)| LogBatch { base: *base, last: *last, aborted: false })
        .collect()
}

fn ask(name: &str, max_records: i64, from: Offset) -> Ask {
    let mode = Mode::BatchOptimized;
    Ask { member: member(name), mode, batch_size: 500, max_records, from }
}

fn got(first: Offset, last: Offset, deliveries: i16) -> Acquired {
    Acquired { first, last, deliveries }
}

fn ack(first: Offset, last: Offset, kind: AckType) -> AckBatch {
    AckBatch { first, last, types: vec![kind] }
}

/// Acknowledges and writes; the answer.
fn acked(
    it: &mut SharePartition,
    name: &str,
    acks: &[AckBatch],
    now: Millis,
) -> Result<(), Refusal> {
    let effects = it.acknowledge(1, name, acks, &LIMITS, now);
    if let [(_, answer)] = &effects.answers[..] {
        return answer.clone();
    }
    assert!(effects.write.is_some());
    let effects = it.written(&Ok(()), &LIMITS, now);
    effects.answers[0].1.clone()
}

#[test]
fn whole_batches_of_the_log_are_acquired_even_if_they_hold_more() {
    let mut it = fresh(0);
    let log = logged(&[(0, 9), (10, 19), (20, 29)]);
    let acquired = it.acquire(&ask("a", 12, 0), &log, &LIMITS, 0);
    assert_eq!(acquired, Acquisition { records: vec![got(0, 19, 1)], count: 20 });
    assert_eq!((it.start(), it.end(), it.begin_fetch(&LIMITS)), (0, 19, Some(20)));
}

#[test]
fn batches_are_cut_where_the_log_cuts_and_the_batch_size_is_reached() {
    let mut it = fresh(0);
    let log = logged(&[(0, 3), (4, 7), (8, 11), (12, 12)]);
    let ask = Ask { batch_size: 5, ..ask("a", 100, 0) };
    let acquired = it.acquire(&ask, &log, &LIMITS, 0);
    assert_eq!(acquired.records, [got(0, 7, 1), got(8, 12, 1)]);
}

#[test]
fn with_a_record_limit_not_one_more_is_acquired_and_the_rest_waits_for_others() {
    let mut it = fresh(0);
    let log = logged(&[(0, 9)]);
    let exact = |name, from| Ask { mode: Mode::RecordLimit, ..ask(name, 3, from) };
    assert_eq!(it.acquire(&exact("a", 0), &log, &LIMITS, 0).records, [got(0, 2, 1)]);
    assert_eq!(it.begin_fetch(&LIMITS), Some(3));
    assert_eq!(it.acquire(&exact("b", 3), &log, &LIMITS, 0).records, [got(3, 5, 1)]);
    assert_eq!(it.end(), 9);
}

#[test]
fn nobody_gets_what_another_has() {
    let mut it = fresh(0);
    let log = logged(&[(0, 9)]);
    assert_eq!(it.acquire(&ask("a", 100, 0), &log, &LIMITS, 0).count, 10);
    assert_eq!(it.acquire(&ask("b", 100, 0), &log, &LIMITS, 0), Acquisition::default());
    let refusal = acked(&mut it, "b", &[ack(0, 9, AckType::Accept)], 0).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::InvalidRecordState);
}

#[test]
fn an_acknowledgement_is_answered_only_when_it_is_written() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    let effects = it.acknowledge(7, "a", &[ack(0, 4, AckType::Accept)], &LIMITS, 0);
    assert!(effects.answers.is_empty());
    let state = RecordState::Acknowledged;
    let batches = vec![StateBatch { first: 0, last: 4, state, deliveries: 1 }];
    let write = effects.write.unwrap();
    assert_eq!(write, StateWrite { state_epoch: 0, leader_epoch: 0, start: 0, done: 5, batches });
    let more = it.acknowledge(8, "a", &[ack(5, 9, AckType::Accept)], &LIMITS, 0);
    assert_eq!(more, Effects::default(), "one write at a time");
    let first = it.written(&Ok(()), &LIMITS, 0);
    assert_eq!(first.answers, [(7, Ok(()))]);
    assert_eq!((it.start(), it.done()), (5, 5), "the next is on its way");
    assert_eq!(first.write.unwrap().start, 5);
    assert_eq!(it.written(&Ok(()), &LIMITS, 0).answers, [(8, Ok(()))]);
    assert_eq!((it.start(), it.end(), it.done()), (10, 10, 0));
}

#[test]
fn what_could_not_be_written_is_as_before() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    it.acknowledge(7, "a", &[ack(0, 9, AckType::Accept)], &LIMITS, 0);
    let refusal = Refusal::from(ErrorCode::CoordinatorNotAvailable);
    let effects = it.written(&Err(refusal.clone()), &LIMITS, 10);
    assert_eq!(effects.answers, [(7, Err(refusal))]);
    assert_eq!((it.start(), it.done()), (0, 0));
    assert_eq!(acked(&mut it, "a", &[ack(0, 9, AckType::Accept)], 20), Ok(()));
}

#[test]
fn a_lock_that_runs_out_while_a_write_fails_is_gone() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    it.acknowledge(7, "a", &[ack(0, 9, AckType::Accept)], &LIMITS, 0);
    assert_eq!(it.expire(&LIMITS, 30_000), Effects::default(), "its change is not decided");
    it.written(&Err(ErrorCode::UnknownServerError.into()), &LIMITS, 30_001);
    assert_eq!(it.begin_fetch(&LIMITS), Some(0));
    assert_eq!(
        it.acquire(&ask("b", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0).records,
        [got(0, 9, 2)]
    );
}

#[test]
fn a_lock_runs_out_and_the_records_are_delivered_again_and_counted() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    assert_eq!(it.next_lock(), Some(30_000));
    let effects = it.expire(&LIMITS, 30_000);
    let state = RecordState::Available;
    let batches = vec![StateBatch { first: 0, last: 9, state, deliveries: 1 }];
    assert_eq!(effects.write.unwrap().batches, batches);
    assert!(effects.wake);
    assert_eq!(it.next_lock(), None);
    let again = it.acquire(&ask("b", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    assert_eq!(again.records, [got(0, 9, 2)]);
}

#[test]
fn a_record_whose_deliveries_are_used_up_is_delivered_no_more() {
    let mut it = fresh(0);
    let limits = Limits { deliveries: 2, ..LIMITS };
    for deliveries in 1..=2 {
        let got_it = it.acquire(&ask("a", 100, 0), &logged(&[(0, 0)]), &limits, 0);
        assert_eq!(got_it.records, [got(0, 0, deliveries)]);
        it.acknowledge(1, "a", &[ack(0, 0, AckType::Release)], &limits, 0);
        it.written(&Ok(()), &limits, 0);
    }
    assert_eq!((it.start(), it.end()), (1, 1));
}

#[test]
fn records_that_fail_again_and_again_come_in_smaller_portions_and_at_last_alone() {
    let mut it = fresh(0);
    let mut portions = Vec::new();
    for _ in 0..5 {
        let got_it = it.acquire(&ask("a", 100, 0), &logged(&[(0, 7)]), &LIMITS, 0);
        portions.push(got_it.count);
        let first = got_it.records[0].first;
        let last = got_it.records.last().unwrap().last;
        acked(&mut it, "a", &[ack(first, last, AckType::Release)], 0).unwrap();
    }
    assert_eq!(portions, [8, 8, 8, 4, 1]);
}

#[test]
fn a_member_says_its_word_on_each_record() {
    use AckType::{Accept, Gap, Reject, Release};
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 3)]), &LIMITS, 0);
    let each = AckBatch { first: 0, last: 3, types: vec![Accept, Release, Reject, Gap] };
    assert_eq!(acked(&mut it, "a", &[each], 0), Ok(()));
    assert_eq!((it.start(), it.done()), (1, 2));
    assert_eq!(it.begin_fetch(&LIMITS), Some(1));
    let again = it.acquire(&ask("b", 100, 1), &logged(&[(0, 3)]), &LIMITS, 0);
    assert_eq!(again.records, [got(1, 1, 2)]);
}

#[test]
fn an_acknowledgement_counts_whole_or_not_at_all() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    let acks = [ack(0, 4, AckType::Accept), ack(5, 12, AckType::Accept)];
    let refusal = acked(&mut it, "a", &acks, 0).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::InvalidRequest);
    assert_eq!((it.start(), it.done()), (0, 0));
    assert_eq!(acked(&mut it, "a", &[ack(0, 9, AckType::Accept)], 0), Ok(()));
}

#[test]
fn a_lock_is_renewed_where_the_group_allows_it() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    assert_eq!(acked(&mut it, "a", &[ack(0, 9, AckType::Renew)], 20_000), Ok(()));
    assert_eq!(it.expire(&LIMITS, 30_000), Effects::default());
    assert_eq!(it.next_lock(), Some(50_000));
    let limits = Limits { renew: false, ..LIMITS };
    let effects = it.acknowledge(1, "a", &[ack(0, 9, AckType::Renew)], &limits, 0);
    assert_eq!(effects.answers[0].1.clone().unwrap_err().code, ErrorCode::InvalidRecordState);
}

#[test]
fn a_member_that_goes_gives_all_back() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 3, 0), &logged(&[(0, 2)]), &LIMITS, 0);
    it.acquire(&ask("b", 3, 3), &logged(&[(3, 5)]), &LIMITS, 0);
    it.release_all(1, "a", &LIMITS, 0);
    it.written(&Ok(()), &LIMITS, 0);
    assert_eq!(it.begin_fetch(&LIMITS), Some(0));
    let again = it.acquire(&ask("c", 10, 0), &logged(&[(0, 5)]), &LIMITS, 0);
    assert_eq!(again.records, [got(0, 2, 2)]);
}

#[test]
fn no_more_than_the_limit_is_in_flight_but_holes_are_filled() {
    let limits = Limits { in_flight: 10, ..LIMITS };
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 4)]), &limits, 0);
    it.acquire(&ask("a", 100, 5), &logged(&[(5, 9)]), &limits, 0);
    assert_eq!(it.begin_fetch(&limits), None);
    it.acknowledge(1, "a", &[ack(5, 9, AckType::Release)], &limits, 0);
    it.written(&Ok(()), &limits, 0);
    assert_eq!(it.begin_fetch(&limits), Some(5));
    let log = logged(&[(5, 9), (10, 14)]);
    assert_eq!(it.acquire(&ask("b", 100, 5), &log, &limits, 0).records, [got(5, 9, 2)]);
}

#[test]
fn one_fetch_at_a_time_has_its_turn() {
    let mut it = fresh(3);
    assert_eq!(it.begin_fetch(&LIMITS), Some(3));
    assert_eq!(it.begin_fetch(&LIMITS), None);
    it.end_fetch();
    assert_eq!(it.begin_fetch(&LIMITS), Some(3));
}

#[test]
fn the_start_moves_with_that_of_the_log() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    acked(&mut it, "a", &[ack(2, 4, AckType::Accept), ack(5, 6, AckType::Release)], 0).unwrap();
    it.log_start_moved(6);
    assert_eq!((it.start(), it.end(), it.done()), (6, 9, 0));
    assert_eq!(acked(&mut it, "a", &[ack(0, 1, AckType::Accept)], 0), Ok(()), "gone anyway");
    it.log_start_moved(20);
    assert_eq!((it.start(), it.end()), (20, 20));
    assert_eq!(it.begin_fetch(&LIMITS), Some(20));
}

#[test]
fn what_compaction_took_is_not_waited_for() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    acked(&mut it, "a", &[ack(0, 9, AckType::Release)], 0).unwrap();
    let got_it = it.acquire(&ask("a", 100, 0), &logged(&[(20, 29)]), &LIMITS, 0);
    assert_eq!(got_it.records, [got(20, 29, 1)]);
    acked(&mut it, "a", &[ack(20, 29, AckType::Accept)], 0).unwrap();
    assert_eq!((it.start(), it.end(), it.done()), (30, 30, 0));
}

#[test]
fn a_read_committed_group_passes_over_aborted_records() {
    let mut it = fresh(0);
    let mut log = logged(&[(0, 4), (5, 9), (10, 14)]);
    log[1].aborted = true;
    let got_it = it.acquire(&ask("a", 100, 0), &log, &LIMITS, 0);
    assert_eq!(got_it, Acquisition { records: vec![got(0, 4, 1), got(10, 14, 1)], count: 10 });
    assert_eq!(it.done(), 5);
    acked(&mut it, "a", &[ack(0, 4, AckType::Accept)], 0).unwrap();
    assert_eq!((it.start(), it.done()), (10, 0));
}

#[test]
fn state_that_was_kept_is_taken_up_and_its_holes_are_filled_first() {
    use RecordState::{Acknowledged, Available};
    let batch = |first, last, state, deliveries| StateBatch { first, last, state, deliveries };
    let batches = vec![batch(5, 7, Acknowledged, 1), batch(10, 12, Available, 2)];
    let loaded = LoadedState { state_epoch: 3, start: 2, batches };
    let mut it = SharePartition::load(1, &loaded).unwrap();
    assert_eq!((it.start(), it.end(), it.done()), (2, 12, 3));
    assert_eq!(it.begin_fetch(&LIMITS), Some(2));
    let got_it = it.acquire(&ask("a", 100, 2), &logged(&[(0, 20)]), &LIMITS, 0);
    let expected = [got(2, 4, 1), got(8, 9, 1), got(10, 12, 3), got(13, 20, 1)];
    assert_eq!(got_it.records, expected);
    it.end_fetch();
    assert_eq!(it.begin_fetch(&LIMITS), Some(21));
    let backwards = vec![batch(1, 0, Available, 1)];
    let loaded = LoadedState { batches: backwards, ..LoadedState::default() };
    assert!(SharePartition::load(1, &loaded).is_err());
}

#[test]
fn who_waits_when_the_leadership_goes_is_told() {
    let mut it = fresh(0);
    it.acquire(&ask("a", 100, 0), &logged(&[(0, 9)]), &LIMITS, 0);
    it.acknowledge(1, "a", &[ack(0, 4, AckType::Accept)], &LIMITS, 0);
    it.acknowledge(2, "a", &[ack(5, 9, AckType::Accept)], &LIMITS, 0);
    let told: Vec<_> = it.fence().answers.into_iter().map(|(token, _)| token).collect();
    assert_eq!(told, [1, 2]);
}
