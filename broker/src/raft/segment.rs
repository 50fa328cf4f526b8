//! One file of the metadata log, and where its batches lie.
//!
//! A scan checks every batch. Index files are not kept (Kafka rebuilds them when it opens the
//! folder); those that Kafka left are deleted with their segment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::disk::{Open, read_full};
use crate::env::{Disk, DiskFile};
use crate::error::Fault;
use crate::types::{LeaderEpoch, Millis, Offset};
use crate::wire::records::{BatchView, Batches, RecordsError};

pub(super) struct Segment {
    pub base: Offset,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub batches: Vec<At>,
    pub len: u64,
    /// Of its first batch.
    pub first_timestamp: Option<Millis>,
}

/// Where one batch lies.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub last: Offset,
    pub position: u64,
    pub size: usize,
}

/// What a segment's file tells when it is opened.
pub(super) struct Scanned {
    pub segment: Segment,
    /// The first offset of each epoch that begins in it.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// What follows the last sound batch, if anything does.
    pub torn: Option<RecordsError>,
}

const LOG: &str = "log";
/// What Kafka keeps next to a segment.
const COMPANIONS: [&str; 4] = ["index", "timeindex", "txnindex", "snapshot"];

impl Segment {
    /// A new one, or what a crash left of one that holds nothing.
    pub fn create(disk: &dyn Disk, folder: &Path, base: Offset) -> Result<Self, Fault> {
        let path = folder.join(format!("{base:020}.{LOG}"));
        let file = disk.open(&path, Open::ReadWrite).map_err(Fault::disk(&path))?;
        file.truncate(0).map_err(Fault::disk(&path))?;
        disk.sync_dir(folder).map_err(Fault::disk(folder))?;
        Ok(Self { base, path, file, batches: Vec::new(), len: 0, first_timestamp: None })
    }

    /// The base offset, if that is a segment's name.
    pub fn base_of(name: &str) -> Option<Offset> {
        let stem = name.strip_suffix(LOG)?.strip_suffix('.')?;
        (stem.len() == 20).then(|| stem.parse().ok())?
    }

    /// Finds the batches of a file.
    pub fn scan(disk: &dyn Disk, folder: &Path, base: Offset) -> Result<Scanned, Fault> {
        let path = folder.join(format!("{base:020}.{LOG}"));
        let file = disk.open(&path, Open::ReadWrite).map_err(Fault::disk(&path))?;
        let len = file.len().map_err(Fault::disk(&path))?;
        let mut content = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = read_full(&*file, &mut content, 0).map_err(Fault::disk(&path))?;
        content.truncate(read);
        let mut segment =
            Self { base, path, file, batches: Vec::new(), len: 0, first_timestamp: None };
        let (mut epochs, mut torn) = (Vec::<(LeaderEpoch, Offset)>::new(), None);
        for batch in Batches::new(&content) {
            match batch.and_then(|batch| batch.check().map(|()| batch)) {
                Ok(batch) if batch.base_offset() == segment.end() => {
                    let epoch = batch.leader_epoch();
                    if epochs.last().is_none_or(|(last, _)| *last < epoch) {
                        epochs.push((epoch, batch.base_offset()));
                    }
                    segment.add(&batch);
                }
                Ok(_) => {
                    torn = Some(RecordsError::Corrupt("offsets are not contiguous".into()));
                    break;
                }
                Err(error) => {
                    torn = Some(error);
                    break;
                }
            }
        }
        Ok(Scanned { segment, epochs, torn })
    }

    /// The offset after the last record.
    pub fn end(&self) -> Offset {
        self.batches.last().map_or(self.base, |batch| batch.last + 1)
    }

    /// Takes note of a batch that was written at the end.
    pub fn add(&mut self, batch: &BatchView<'_>) {
        let size = batch.size();
        self.batches.push(At { last: batch.last_offset(), position: self.len, size });
        self.first_timestamp.get_or_insert(batch.max_timestamp());
        self.len += size as u64;
    }

    /// Cuts off everything from `offset` on, and the rest of a batch that it cuts.
    pub fn truncate_to(&mut self, offset: Offset) -> Result<(), Fault> {
        let keep = self.batches.partition_point(|batch| batch.last < offset);
        let len = self.batches.get(keep).map_or(self.len, |batch| batch.position);
        self.file.truncate(len).map_err(Fault::disk(&self.path))?;
        self.batches.truncate(keep);
        self.len = len;
        if keep == 0 {
            self.first_timestamp = None;
        }
        Ok(())
    }

    /// Bytes of the batches that end after `offset`.
    pub fn bytes_from(&self, offset: Offset) -> u64 {
        let first = self.batches.partition_point(|batch| batch.last < offset);
        self.batches.get(first).map_or(0, |batch| self.len - batch.position)
    }

    /// Deletes the file, durably.
    pub fn delete(&self, disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
        for companion in COMPANIONS {
            let path = self.path.with_extension(companion);
            if disk.exists(&path) {
                disk.remove_file(&path).map_err(Fault::disk(&path))?;
            }
        }
        disk.remove_file(&self.path).map_err(Fault::disk(&self.path))?;
        disk.sync_dir(folder).map_err(Fault::disk(folder))
    }
}
