use bytes::Bytes;
use proptest::prelude::*;

use super::*;

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

fn three(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new().compression(compression).producer(7, 1, 10);
    builder.push(1000, Some(b"k"), Some(b"value"));
    builder.push_record(&NewRecord {
        timestamp: 1003,
        key: None,
        value: Some(&vec![b'x'; 100_000]),
        headers: &[("a", Some(b"1")), ("a", None)],
    });
    builder.push(999, Some(b""), None);
    builder.build()
}

#[test]
fn what_is_built_is_read_back_with_every_compression() {
    for id in 0..=4 {
        let bytes = three(Compression::from_id(id).unwrap());
        let batch = BatchView::first(&bytes).unwrap();
        batch.check_from_client().unwrap();
        assert_eq!(batch.size(), bytes.len());
        assert_eq!((batch.base_timestamp(), batch.max_timestamp()), (1000, 1003));
        assert_eq!((batch.base_sequence(), batch.last_sequence()), (10, 12));
        let records = batch.records(1 << 20).unwrap();
        let records: Vec<_> = records.iter().map(Result::unwrap).collect();
        assert_eq!(records.len(), 3);
        assert_eq!(records[1].value.unwrap().len(), 100_000);
        assert_eq!(records[1].headers.len(), 2, "duplicate header keys stay");
        assert_eq!((records[2].key, records[2].value), (Some(&b""[..]), None));
        assert_eq!((records[2].offset, records[2].timestamp, records[2].sequence), (2, 999, 12));
    }
}

#[test]
fn decompression_stops_at_its_bound() {
    for id in 1..=4 {
        let bytes = three(Compression::from_id(id).unwrap());
        let batch = BatchView::first(&bytes).unwrap();
        assert!(matches!(batch.records(1000), Err(RecordsError::TooLarge(1000))), "{id}");
    }
}

#[test]
fn a_raw_snappy_block_is_read_too() {
    let block = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
    let read = compression::decompress(Compression::Snappy, &block, 100).unwrap();
    assert_eq!(read, b"hello hello hello");
}

#[test]
fn offset_and_epoch_are_outside_the_crc_and_append_time_renews_it() {
    let mut bytes = three(Compression::None).try_into_mut().unwrap();
    let mut batch = BatchMut::first(&mut bytes).unwrap();
    batch.set_base_offset(100);
    batch.set_leader_epoch(5);
    assert!(batch.view().crc_is_right());
    batch.set_append_time(7777);
    let view = batch.view();
    assert!(view.crc_is_right());
    assert_eq!(view.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((view.last_offset(), view.leader_epoch(), view.max_timestamp()), (102, 5, 7777));
    let records = view.records(0).unwrap();
    assert!(records.iter().all(|record| record.unwrap().timestamp == 7777));
}

#[test]
fn sequences_wrap_to_zero() {
    let mut builder = BatchBuilder::new().producer(1, 0, i32::MAX - 1);
    for _ in 0..4 {
        builder.push(0, None, None);
    }
    let bytes = builder.build();
    assert_eq!(BatchView::first(&bytes).unwrap().last_sequence(), 1);
}

#[test]
fn a_cut_off_last_batch_is_left_out() {
    let one = three(Compression::None);
    let mut bytes = one.to_vec();
    bytes.extend_from_slice(&one[..one.len() - 1]);
    assert_eq!(Batches::whole(&bytes).unwrap(), one.len());
    let errors: Vec<_> = Batches::new(&bytes).filter_map(Result::err).collect();
    assert_eq!(errors, [RecordsError::Incomplete]);
}

#[test]
fn batches_that_a_client_may_not_send_are_refused() {
    let valid = three(Compression::None);
    let cases: &[(&str, Change<'_>, ErrorCode)] = &[
        ("magic", &|b| b[16] = 1, ErrorCode::InvalidRecord),
        ("crc", &|b| b[70] ^= 1, ErrorCode::CorruptMessage),
        ("length", &|b| b[11] = 0, ErrorCode::CorruptMessage),
        ("base offset", &|b| b[7] = 1, ErrorCode::InvalidRecord),
    ];
    for (name, change, code) in cases {
        let mut bytes = valid.to_vec();
        change(&mut bytes);
        if *name == "length" {
            bytes[8..12].copy_from_slice(&3i32.to_be_bytes());
        }
        let error = BatchView::first(&bytes).and_then(|b| b.check_from_client()).unwrap_err();
        assert_eq!(error.code(), *code, "{name}");
    }
    // With a right CRC, only the contents are wrong.
    let cases: &[(&str, Change<'_>)] = &[
        ("count", &|b| b[60] = 4),
        ("last offset delta", &|b| b[26] = 4),
        ("control", &|b| b[22] |= 0x20),
        ("compression", &|b| b[22] |= 7),
        ("sequence", &|b| b[53] = 0xff),
        ("record length", &|b| b[61] = 2),
    ];
    for (name, change) in cases {
        let mut bytes = valid.to_vec();
        change(&mut bytes);
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        assert!(BatchView::first(&bytes).unwrap().check_from_client().is_err(), "{name}");
    }
}

#[test]
fn control_records_say_what_they_are() {
    let marker = EndTransactionMarker { committed: false, coordinator_epoch: 9 };
    let bytes = BatchBuilder::end_transaction(5, 2, marker, 100);
    let batch = BatchView::first(&bytes).unwrap();
    assert!(batch.is_control() && batch.is_transactional());
    let records = batch.records(0).unwrap();
    let record = records.first().unwrap().unwrap();
    assert_eq!(EndTransactionMarker::of(&record), Some(marker));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        attributes in 0u8..8,
    ) {
        let mut bytes = bytes;
        let _ = Batches::new(&bytes).count();
        // The same, made to look like a batch so that the records are reached.
        if bytes.len() >= HEADER_LEN {
            let length = (bytes.len() - LOG_OVERHEAD) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[16] = 2;
            bytes[22] = attributes;
            bytes[57..59].copy_from_slice(&[0, 0]);
            let crc = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            let batch = BatchView::first(&bytes).unwrap();
            let _ = batch.check_from_client();
            if let Ok(records) = batch.records(1 << 16) {
                let _ = records.check_all();
                let _ = records.iter().count();
            }
        }
    }

    #[test]
    fn a_flipped_byte_of_a_compressed_batch_never_panics(
        id in 1u8..=4, at in 61usize..200, to in any::<u8>(),
    ) {
        let mut bytes = three(Compression::from_id(id).unwrap()).to_vec();
        let at = at % (bytes.len() - HEADER_LEN) + HEADER_LEN;
        bytes[at] = to;
        if let Ok(records) = BatchView::first(&bytes).unwrap().records(1 << 20) {
            let _ = records.iter().count();
        }
    }
}

#[test]
fn a_header_that_is_cut_off_anywhere_is_incomplete() {
    let mut builder = BatchBuilder::new();
    builder.push(0, None, Some(b"value"));
    let batch = builder.build();
    for len in 0..HEADER_LEN {
        assert_eq!(BatchView::header(&batch[..len]).err(), Some(RecordsError::Incomplete), "{len}");
    }
    assert!(BatchView::header(&batch[..HEADER_LEN]).is_ok());
}
