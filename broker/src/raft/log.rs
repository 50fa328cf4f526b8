//! The file of the metadata log: `__cluster_metadata-0/00000000000000000000.log`.
//!
//! Offsets and epochs are given by the caller, leader or observer; this appends, reads, syncs and
//! truncates. Opening scans the file, checks every batch and cuts off a torn end. Where each batch
//! lies is kept in memory: the log holds metadata only.
//! Invariant: batches are contiguous in offsets, and epochs never fall.
//! Deliberately absent so far: more than one segment, index files (Kafka rebuilds them when it
//! opens the folder), snapshots. Not a [`crate::log::Log`]: it must be read before the directory's
//! other logs are opened, because their settings stand in it.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::messages::{LogEnd, LogView};
use crate::env::disk::{Open, read_full};
use crate::env::{Disk, DiskFile, Env};
use crate::error::Fault;
use crate::types::{LeaderEpoch, NO_EPOCH, Offset};
use crate::wire::records::{BatchView, Batches, RecordsError};

impl LogView for MetadataLog {
    fn end(&self) -> LogEnd {
        let inner = self.inner.lock();
        let epoch = inner.epochs.last().map_or(0, |(epoch, _)| *epoch);
        LogEnd { epoch, offset: inner.end_offset() }
    }

    fn end_of_epoch(&self, epoch: LeaderEpoch) -> LogEnd {
        let (epoch, offset) = self.end_of_epoch(epoch);
        LogEnd { epoch: epoch.max(0), offset }
    }

    fn start_offset(&self) -> Offset {
        self.start_offset()
    }

    fn snapshot(&self) -> Option<LogEnd> {
        None
    }
}

/// The folder's name inside of the metadata log directory.
pub const FOLDER: &str = "__cluster_metadata-0";
const SEGMENT: &str = "00000000000000000000.log";

pub struct MetadataLog {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    file: Arc<dyn DiskFile>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    batches: Vec<At>,
    len: u64,
    /// The first offset of each epoch.
    epochs: Vec<(LeaderEpoch, Offset)>,
}

/// Where one batch lies.
#[derive(Clone, Copy)]
struct At {
    last: Offset,
    position: u64,
    size: usize,
}

impl Inner {
    fn end_offset(&self) -> Offset {
        self.batches.last().map_or(0, |batch| batch.last + 1)
    }

    fn add(&mut self, batch: &BatchView<'_>) {
        let epoch = batch.leader_epoch();
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.push((epoch, batch.base_offset()));
        }
        let size = batch.size();
        let position = self.len;
        self.batches.push(At { last: batch.last_offset(), position, size });
        self.len += size as u64;
    }
}

impl MetadataLog {
    /// Opens or creates the log below `log_dir`. Blocks.
    pub fn open(env: &Env, log_dir: &Path) -> Result<Self, Fault> {
        let disk = env.disk.clone();
        let folder = log_dir.join(FOLDER);
        disk.create_dir_all(&folder).map_err(Fault::disk(&folder))?;
        write_partition_metadata(&*disk, &folder)?;
        refuse_later_start(&*disk, &folder)?;
        let path = folder.join(SEGMENT);
        let file = disk.open(&path, Open::ReadWrite).map_err(Fault::disk(&path))?;
        disk.sync_dir(&folder).map_err(Fault::disk(&folder))?;
        disk.sync_dir(log_dir).map_err(Fault::disk(log_dir))?;
        let inner = scan(&*file, &path)?;
        let log = Self { disk, folder, file, inner: Mutex::new(inner) };
        log.sync()?;
        Ok(log)
    }

    pub fn start_offset(&self) -> Offset {
        0
    }

    pub fn end_offset(&self) -> Offset {
        self.inner.lock().end_offset()
    }

    pub fn last_epoch(&self) -> LeaderEpoch {
        self.inner.lock().epochs.last().map_or(NO_EPOCH, |(epoch, _)| *epoch)
    }

    /// The end of `epoch`, or of the largest epoch below it: what a follower's log is compared
    /// with. (-1, 0) when there is none.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        let inner = self.inner.lock();
        let after = inner.epochs.partition_point(|(other, _)| *other <= epoch);
        let end = inner.epochs.get(after).map_or_else(|| inner.end_offset(), |(_, start)| *start);
        match after.checked_sub(1) {
            Some(found) => (inner.epochs[found].0, end),
            None => (NO_EPOCH, 0),
        }
    }

    /// Appends batches that continue the log. Durable after [`Self::sync`].
    pub fn append(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut inner = self.inner.lock();
        let mut expected = inner.end_offset();
        let mut views = Vec::new();
        for batch in Batches::new(bytes) {
            let batch = batch.map_err(|error| self.corrupt(&error.to_string()))?;
            let (first, epoch) = (batch.base_offset(), batch.leader_epoch());
            let fits = first == expected
                && inner.epochs.last().is_none_or(|(last, _)| *last <= epoch)
                && batch.last_offset() >= first;
            if !fits {
                let what = format!("a batch at {first} of epoch {epoch} cannot follow {expected}");
                return Err(self.corrupt(&what));
            }
            expected = batch.last_offset() + 1;
            views.push(batch);
        }
        self.file
            .write_all_at(&[IoSlice::new(bytes)], inner.len)
            .map_err(Fault::disk(self.path()))?;
        let epochs = inner.epochs.len();
        for batch in &views {
            inner.add(batch);
        }
        if inner.epochs.len() != epochs {
            self.write_epochs(&inner)?;
        }
        Ok(())
    }

    /// Makes all that was appended durable. Blocks; returns the end offset that is now durable.
    pub fn sync(&self) -> Result<Offset, Fault> {
        let end = self.end_offset();
        self.file.sync().map_err(Fault::disk(self.path()))?;
        Ok(end)
    }

    /// Whole batches from the one that holds `from` on, below `up_to`: at least one if there is
    /// one, then as many as `max_bytes` allow. Blocks.
    pub fn read(&self, from: Offset, up_to: Offset, max_bytes: usize) -> Result<Bytes, Fault> {
        let (position, size) = {
            let inner = self.inner.lock();
            let first = inner.batches.partition_point(|batch| batch.last < from);
            let mut size = 0;
            for batch in &inner.batches[first..] {
                if batch.last >= up_to || (size > 0 && size + batch.size > max_bytes) {
                    break;
                }
                size += batch.size;
            }
            (inner.batches.get(first).map_or(0, |batch| batch.position), size)
        };
        let mut bytes = BytesMut::zeroed(size);
        let read =
            read_full(&*self.file, &mut bytes, position).map_err(Fault::disk(self.path()))?;
        if read < size {
            return Err(self.corrupt("the file is shorter than what was appended"));
        }
        Ok(bytes.freeze())
    }

    /// Forgets everything from `offset` on, and the rest of a batch that it cuts.
    pub fn truncate_to(&self, offset: Offset) -> Result<(), Fault> {
        let mut inner = self.inner.lock();
        let keep = inner.batches.partition_point(|batch| batch.last < offset);
        let len = inner.batches.get(keep).map_or(inner.len, |batch| batch.position);
        self.file.truncate(len).map_err(Fault::disk(self.path()))?;
        inner.batches.truncate(keep);
        inner.len = len;
        let end = inner.end_offset();
        inner.epochs.retain(|(_, start)| *start < end);
        self.write_epochs(&inner)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self) -> PathBuf {
        self.folder.join(SEGMENT)
    }

    fn corrupt(&self, what: &str) -> Fault {
        Fault::Corrupt { path: self.path(), what: what.into() }
    }

    fn write_epochs(&self, inner: &Inner) -> Result<(), Fault> {
        let path = self.folder.join("leader-epoch-checkpoint");
        let entries = inner.epochs.iter().map(|(epoch, start)| format!("{epoch} {start}\n"));
        let text = format!("0\n{}\n{}", inner.epochs.len(), entries.collect::<String>());
        self.disk.write_atomically(&path, text.as_bytes()).map_err(Fault::disk(path))
    }
}

fn write_partition_metadata(disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
    let path = folder.join("partition.metadata");
    if disk.exists(&path) {
        return Ok(());
    }
    let text = b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ";
    disk.write_atomically(&path, text).map_err(Fault::disk(path))
}

/// A log of another software's making may have been cut at a snapshot.
fn refuse_later_start(disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
    let entries = disk.list(folder).map_err(Fault::disk(folder))?;
    let is_segment = |name: &str| Path::new(name).extension().is_some_and(|it| it == "log");
    match entries.iter().find(|entry| is_segment(&entry.name) && entry.name != SEGMENT) {
        None => Ok(()),
        Some(entry) => Err(Fault::Start(format!(
            "{}: a metadata log of several segments, or one that starts at a snapshot, cannot be \
             read yet",
            folder.join(&entry.name).display()
        ))),
    }
}

/// Finds the batches of a file; what follows the last sound one is cut off if it is a torn end.
fn scan(file: &dyn DiskFile, path: &Path) -> Result<Inner, Fault> {
    let len = file.len().map_err(Fault::disk(path))?;
    let mut content = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = read_full(file, &mut content, 0).map_err(Fault::disk(path))?;
    content.truncate(read);
    let mut inner = Inner::default();
    let mut batches = Batches::new(&content);
    let mut torn: Option<RecordsError> = None;
    for batch in batches.by_ref() {
        let checked = batch.and_then(|batch| batch.check().map(|()| batch));
        match checked {
            Ok(batch) if batch.base_offset() == inner.end_offset() || inner.batches.is_empty() => {
                inner.add(&batch);
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
    if let Some(error) = torn {
        tracing::warn!(
            path = %path.display(), at = inner.len, %error,
            "the end of the metadata log was not written whole; it is cut off"
        );
        file.truncate(inner.len).map_err(Fault::disk(path))?;
    }
    Ok(inner)
}
