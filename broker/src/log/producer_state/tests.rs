use bytes::Bytes;

use super::*;
use crate::wire::records::BatchBuilder;

fn batch(id: i64, epoch: i16, sequence: i32, count: usize, offset: Offset) -> Bytes {
    let mut builder = BatchBuilder::new().producer(id, epoch, sequence).base_offset(offset);
    for _ in 0..count {
        builder.push(100, None, Some(b"v"));
    }
    builder.build()
}

fn append(state: &mut ProducerState, bytes: &Bytes) -> Result<Option<Offset>, ErrorCode> {
    let view = BatchView::first(bytes).unwrap();
    match state.check(std::iter::once(view), Origin::Client).map_err(|refusal| refusal.code)? {
        Verdict::Duplicate(batch) => Ok(Some(batch.first_offset())),
        Verdict::Append(changes) => {
            state.commit(changes, view.next_offset());
            Ok(None)
        }
    }
}

#[test]
fn sequences_epochs_and_duplicates_follow_kafkas_rules() {
    let mut state = ProducerState::default();
    // (epoch, sequence, records) → answer; offsets grow with what was appended.
    let out_of_order = Err(ErrorCode::OutOfOrderSequenceNumber);
    let cases = [
        ("an unknown producer starts anywhere", (0, 5, 3), Ok(None)),
        ("the next one follows", (0, 8, 2), Ok(None)),
        ("a gap", (0, 11, 1), out_of_order),
        ("a duplicate has its old offset", (0, 5, 3), Ok(Some(0))),
        ("a part of an old batch is no duplicate", (0, 5, 2), out_of_order),
        ("a new epoch starts at 0", (1, 3, 1), out_of_order),
        ("a new epoch at 0", (1, 0, 1), Ok(None)),
        ("an old epoch is fenced", (0, 10, 1), Err(ErrorCode::InvalidProducerEpoch)),
        ("no duplicates across epochs", (1, 8, 2), out_of_order),
        ("goes on", (1, 1, 1), Ok(None)),
    ];
    for (name, (epoch, sequence, count), expected) in cases {
        let offset = state.end;
        let got = append(&mut state, &batch(9, epoch, sequence, count, offset));
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn only_the_last_five_batches_are_known_as_duplicates() {
    let mut state = ProducerState::default();
    for n in 0..6 {
        append(&mut state, &batch(1, 0, n, 1, i64::from(n))).unwrap();
    }
    assert_eq!(append(&mut state, &batch(1, 0, 1, 1, 6)), Ok(Some(1)));
    assert!(append(&mut state, &batch(1, 0, 0, 1, 6)).is_err());
}

#[test]
fn sequence_numbers_wrap_around() {
    let mut state = ProducerState::default();
    append(&mut state, &batch(1, 0, i32::MAX - 1, 2, 0)).unwrap();
    assert_eq!(append(&mut state, &batch(1, 0, 0, 1, 2)), Ok(None));
    assert_eq!(append(&mut state, &batch(1, 0, i32::MAX - 1, 2, 3)), Ok(Some(0)));
}

#[test]
fn a_snapshot_holds_the_last_batch_of_each_producer_and_damage_is_noticed() {
    let mut state = ProducerState::default();
    append(&mut state, &batch(1, 0, 0, 2, 0)).unwrap();
    append(&mut state, &batch(2, 3, 7, 1, 2)).unwrap();
    let bytes = encode(&state.producers);
    let entries = decode(&bytes).unwrap();
    let read = ProducerState::from_snapshot(3, entries.clone(), 100, 1000);
    assert_eq!(read.producers, state.producers);
    let late = ProducerState::from_snapshot(3, entries, 1100, 1000);
    assert!(late.producers.is_empty(), "expired producers are not loaded");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(decode(&damaged).is_err());
        assert!(decode(&bytes[..at]).is_err());
    }
}

#[test]
fn markers_end_transactions() {
    let mut state = ProducerState::default();
    let mut builder = BatchBuilder::new().producer(4, 0, 0).transactional();
    builder.push(5, None, Some(b"v"));
    let bytes = builder.build();
    let view = BatchView::first(&bytes).unwrap();
    state.replay(&view);
    assert_eq!(state.first_undecided(), Some(0));
    let marker = EndTransactionMarker { committed: true, coordinator_epoch: 3 };
    state.replay(&BatchView::first(&BatchBuilder::end_transaction(4, 1, marker, 6)).unwrap());
    assert_eq!(state.first_undecided(), None);
    let producer = &state.producers()[&4];
    assert_eq!((producer.epoch, producer.coordinator_epoch), (1, 3));
    assert!(producer.batches.is_empty());
}
