//! Which snapshots lie next to the log.
//!
//! The newest is read to its end when the folder is opened, because the log may be cut for its
//! sake; the others are known by their names and sizes. One that turns out not to be whole gets
//! another name, is reported, and is not used again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::write::PartFile;
use super::{Contents, Header, Kind, SnapshotId, SnapshotReader, SnapshotWriter};
use crate::env::disk::{Open, read_full};
use crate::env::{Disk, Env};
use crate::error::{ErrorCode, Fault, Refusal};
use crate::types::Millis;

/// No chunk is larger, whatever is asked for.
const MAX_CHUNK: u64 = 8 << 20;

pub struct Snapshots {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Sizes in bytes.
    known: BTreeMap<SnapshotId, u64>,
    newest: Option<Contents>,
}

/// A part of a snapshot's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub id: SnapshotId,
    /// Of the whole file.
    pub size: u64,
    pub position: u64,
    pub bytes: Bytes,
}

impl Snapshots {
    /// Lists the folder, removes what was left half-written, and reads the newest to its end.
    /// Blocks.
    pub fn open(disk: &Arc<dyn Disk>, folder: &Path) -> Result<Self, Fault> {
        let snapshots =
            Self { disk: disk.clone(), folder: folder.to_path_buf(), inner: Mutex::default() };
        let entries = disk.list(folder).map_err(Fault::disk(folder))?;
        let mut known = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            match SnapshotId::parse(&entry.name) {
                Some((id, Kind::Whole)) => {
                    known.insert(id, entry.len);
                }
                Some((_, Kind::Part | Kind::Deleted)) => {
                    let path = folder.join(&entry.name);
                    disk.remove_file(&path).map_err(Fault::disk(path))?;
                }
                None => {}
            }
        }
        snapshots.inner.lock().known = known;
        snapshots.find_newest()?;
        Ok(snapshots)
    }

    /// Reads from the newest back until one is whole.
    fn find_newest(&self) -> Result<(), Fault> {
        let mut inner = self.inner.lock();
        while let Some((&id, _)) = inner.known.last_key_value() {
            let path = self.path(id);
            let file = self.disk.open(&path, Open::Read).map_err(Fault::disk(&path))?;
            match super::read::check(&*file, &path, id) {
                Ok(contents) => {
                    inner.newest = Some(contents);
                    return Ok(());
                }
                Err(fault @ Fault::Corrupt { .. }) => {
                    tracing::error!(%fault, "this snapshot is not used; it is kept as .corrupt");
                    inner.known.remove(&id);
                    let aside = self.folder.join(id.corrupt_name());
                    self.disk.rename(&path, &aside).map_err(Fault::disk(&aside))?;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// The newest; the bootstrap snapshot counts.
    pub fn newest(&self) -> Option<Contents> {
        self.inner.lock().newest.clone()
    }

    /// The newest that holds an image.
    pub fn newest_image(&self) -> Option<Contents> {
        self.newest().filter(|it| it.id != SnapshotId::BOOTSTRAP)
    }

    pub fn oldest_id(&self) -> Option<SnapshotId> {
        self.inner.lock().known.first_key_value().map(|(id, _)| *id)
    }

    /// Oldest first, with their sizes.
    pub fn all(&self) -> Vec<(SnapshotId, u64)> {
        self.inner.lock().known.iter().map(|(id, size)| (*id, *size)).collect()
    }

    pub fn contains(&self, id: SnapshotId) -> bool {
        self.inner.lock().known.contains_key(&id)
    }

    /// To write one of our own; [`Self::add`] it when it is finished.
    pub fn begin(
        &self,
        env: &Env,
        id: SnapshotId,
        header: &Header,
    ) -> Result<SnapshotWriter, Fault> {
        SnapshotWriter::begin(env, &self.folder, id, header)
    }

    /// To write the leader's.
    pub fn begin_part(&self, id: SnapshotId) -> Result<PartFile, Fault> {
        PartFile::create(&self.disk, &self.folder, id)
    }

    pub fn add(&self, contents: Contents) {
        let mut inner = self.inner.lock();
        inner.known.insert(contents.id, contents.size);
        if inner.newest.as_ref().is_none_or(|newest| newest.id <= contents.id) {
            inner.newest = Some(contents);
        }
    }

    pub fn reader(&self, id: SnapshotId) -> Result<SnapshotReader, Fault> {
        SnapshotReader::open(&*self.disk, &self.folder, id)
    }

    /// When the last record that a snapshot stands for was written.
    pub(in crate::raft) fn timestamp(&self, id: SnapshotId) -> Result<Millis, Fault> {
        if let Some(newest) = self.newest().filter(|it| it.id == id) {
            return Ok(newest.last_contained_timestamp);
        }
        self.reader(id)?.last_contained_timestamp()
    }

    /// Deletes those before `id`, and returns them. Blocks.
    pub(in crate::raft) fn delete_before(&self, id: SnapshotId) -> Result<Vec<SnapshotId>, Fault> {
        let old: Vec<_> = {
            let mut inner = self.inner.lock();
            let kept = inner.known.split_off(&id);
            std::mem::replace(&mut inner.known, kept).into_keys().collect()
        };
        for id in &old {
            let path = self.path(*id);
            self.disk.remove_file(&path).map_err(Fault::disk(path))?;
        }
        Ok(old)
    }

    /// At most `max_bytes` of a snapshot from `position` on. Blocks.
    ///
    /// # Errors
    /// SNAPSHOT_NOT_FOUND (the bootstrap snapshot is never sent), POSITION_OUT_OF_RANGE,
    /// KAFKA_STORAGE_ERROR when it cannot be read.
    pub fn chunk(&self, id: SnapshotId, position: i64, max_bytes: i32) -> Result<Chunk, Refusal> {
        let size = self.inner.lock().known.get(&id).copied();
        let Some(size) = size.filter(|_| id != SnapshotId::BOOTSTRAP) else {
            return Err(ErrorCode::SnapshotNotFound.into());
        };
        let Some(position) = u64::try_from(position).ok().filter(|position| *position < size)
        else {
            return Err(ErrorCode::PositionOutOfRange.into());
        };
        let wanted =
            (size - position).min(u64::from(max_bytes.max(0).unsigned_abs())).min(MAX_CHUNK);
        let path = self.path(id);
        let read = || {
            let file = self.disk.open(&path, Open::Read)?;
            let mut bytes = BytesMut::zeroed(wanted as usize);
            let read = read_full(&*file, &mut bytes, position)?;
            bytes.truncate(read);
            Ok::<_, std::io::Error>(bytes.freeze())
        };
        match read() {
            Ok(bytes) => Ok(Chunk { id, size, position, bytes }),
            // It was deleted just now.
            Err(_) if !self.contains(id) => Err(ErrorCode::SnapshotNotFound.into()),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read a snapshot");
                Err(ErrorCode::KafkaStorageError.into())
            }
        }
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.folder.join(id.file_name())
    }
}
