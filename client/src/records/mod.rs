//! Record batches: reading and writing them as the Java client does.
//!
//! Only magic 2 is written and read. Headers keep their order and their duplicates. A batch is
//! checked (length, CRC, magic) before a record of it is looked at; the last batch of a fetch may
//! be cut off, and is then left for the next fetch.

mod compression;
mod decode;
mod encode;
mod varint;

use bytes::Bytes;

pub use compression::Compression;
pub use decode::{Aborted, Decoded, decode};
pub use encode::{Stamp, encode, size_of};

/// Bytes of a batch before its records.
pub(crate) const BATCH_HEADER: usize = 61;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: String,
    pub value: Option<Bytes>,
}

/// A record to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// A record as a partition holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub leader_epoch: i32,
    pub timestamp: i64,
    /// Whether the broker set the timestamp, and not the producer.
    pub log_append_time: bool,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: usize) -> Vec<NewRecord> {
        let header = |key: &str, value: Option<&'static [u8]>| Header {
            key: key.into(),
            value: value.map(Bytes::from_static),
        };
        (0..count)
            .map(|at| NewRecord {
                timestamp: 1_700_000_000_000 + at as i64 * 7,
                key: (at % 3 != 0).then(|| Bytes::from(format!("key-{at}"))),
                value: (at % 5 != 0).then(|| Bytes::from("v".repeat(at * 37 % 5000))),
                headers: vec![header("a", Some(b"1")), header("a", Some(b"2")), header("n", None)],
            })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_back_with_every_codec() {
        for compression in Compression::ALL {
            let records = sample(120);
            let batch = encode(&records, compression, None).expect("encodes");
            let decoded = decode(&batch, 0, &[]).expect("decodes");
            assert_eq!(decoded.next_offset, 120, "{compression:?}");
            assert_eq!(decoded.records.len(), 120);
            for (at, (read, written)) in decoded.records.iter().zip(&records).enumerate() {
                assert_eq!(read.offset, at as i64);
                assert_eq!(read.timestamp, written.timestamp);
                assert_eq!(
                    (&read.key, &read.value, &read.headers),
                    (&written.key, &written.value, &written.headers)
                );
            }
        }
    }

    #[test]
    fn records_before_the_asked_offset_are_skipped() {
        let batch = encode(&sample(10), Compression::None, None).expect("encodes");
        let decoded = decode(&batch, 7, &[]).expect("decodes");
        assert_eq!(
            decoded.records.iter().map(|record| record.offset).collect::<Vec<_>>(),
            [7, 8, 9]
        );
    }

    #[test]
    fn a_cut_off_batch_is_left_for_the_next_fetch() {
        let batch = encode(&sample(10), Compression::None, None).expect("encodes");
        let mut two = batch.to_vec();
        two.extend_from_slice(&batch[..batch.len() - 1]);
        let decoded = decode(&Bytes::from(two), 0, &[]).expect("decodes");
        assert_eq!((decoded.records.len(), decoded.next_offset), (10, 10));
    }

    #[test]
    fn a_flipped_bit_anywhere_after_the_crc_is_noticed() {
        let batch = encode(&sample(3), Compression::None, None).expect("encodes");
        for at in 21..batch.len() {
            let mut bad = batch.to_vec();
            bad[at] ^= 1;
            assert!(decode(&Bytes::from(bad), 0, &[]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn aborted_transactions_are_left_out_until_their_marker() {
        let stamp = Stamp { producer_id: 9, epoch: 0, sequence: 0 };
        let mut batch =
            encode(&sample(2), Compression::None, Some(stamp)).expect("encodes").to_vec();
        batch[22] |= 0x10; // transactional
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let batch = Bytes::from(batch);
        assert_eq!(decode(&batch, 0, &[]).expect("decodes").records.len(), 2);
        let aborted = [Aborted { producer_id: 9, first_offset: 0 }];
        let decoded = decode(&batch, 0, &aborted).expect("decodes");
        assert_eq!((decoded.records.len(), decoded.next_offset), (0, 2));
    }
}
