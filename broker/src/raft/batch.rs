//! Metadata records as batches, and batches as metadata records.

use bytes::Bytes;

use crate::types::{LeaderEpoch, Millis, Offset};
use crate::wire::message::Malformed;
use crate::wire::metadata::Record;
use crate::wire::metadata::control::Control;
use crate::wire::records::{BatchBuilder, Batches, MAX_DECOMPRESSED, RecordsError};

/// Where a batch goes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub offset: Offset,
    pub epoch: LeaderEpoch,
    pub now: Millis,
}

/// One batch of records, which become true together.
pub fn of_records(records: &[Record], at: Place) -> Bytes {
    let mut builder = BatchBuilder::new().base_offset(at.offset).leader_epoch(at.epoch);
    for record in records {
        builder.push(at.now, None, Some(&record.to_frame()));
    }
    builder.build()
}

/// One batch of control records.
pub fn of_controls(controls: &[Control], at: Place) -> Bytes {
    let mut builder = BatchBuilder::new().base_offset(at.offset).leader_epoch(at.epoch).control();
    for control in controls {
        builder.push(at.now, Some(&control.key()), Some(&control.value()));
    }
    builder.build()
}

/// What stands at one offset of the metadata log.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Record(Record),
    Control(Control),
}

/// The entries of one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub epoch: LeaderEpoch,
    pub last_offset: Offset,
    /// When it was written.
    pub timestamp: Millis,
    pub entries: Vec<(Offset, Entry)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Batch(#[from] RecordsError),
    #[error("offset {0}: {1}")]
    Record(Offset, Malformed),
}

/// Reads all batches in `bytes`; a cut-off last one is left out.
pub fn decode(bytes: &[u8]) -> Result<Vec<Decoded>, Unreadable> {
    let whole = Batches::whole(bytes)?;
    let mut all = Vec::new();
    for batch in Batches::new(&bytes[..whole]) {
        let batch = batch?;
        batch.check()?;
        let mut entries = Vec::new();
        let records = batch.records(MAX_DECOMPRESSED)?;
        for record in &records {
            let record = record?;
            let (key, value) = (record.key.unwrap_or(&[]), record.value.unwrap_or(&[]));
            let malformed = |error| Unreadable::Record(record.offset, error);
            if batch.is_control() {
                let control = Control::read(key, value).map_err(malformed)?;
                entries.extend(control.map(|it| (record.offset, Entry::Control(it))));
            } else {
                let read = Record::from_frame(value).map_err(malformed)?;
                entries.push((record.offset, Entry::Record(read)));
            }
        }
        all.push(Decoded {
            epoch: batch.leader_epoch(),
            last_offset: batch.last_offset(),
            timestamp: batch.max_timestamp(),
            entries,
        });
    }
    Ok(all)
}
