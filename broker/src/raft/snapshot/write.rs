//! Writes a snapshot: to a `.part` file, synced, then renamed, then the folder synced.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{self, Contents};
use super::{KRaftState, SnapshotId};
use crate::env::disk::Open;
use crate::env::{Disk, DiskFile, Env};
use crate::error::Fault;
use crate::types::{Millis, Offset};
use crate::wire::metadata::Record;
use crate::wire::metadata::control::{Control, KRaftVersion, SnapshotFooter, SnapshotHeader};
use crate::wire::records::BatchBuilder;

/// A batch of records is closed once it has grown to this; one record may go beyond.
const BATCH_BYTES: usize = 256 << 10;

/// How a snapshot opens.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// Of the last record that the snapshot stands for.
    pub last_contained_timestamp: Millis,
    /// `None` with kraft.version 0, whose voters stand in the settings.
    pub kraft: Option<KRaftState>,
}

/// A snapshot that is being written or fetched. Dropped before [`PartFile::finish`], it is deleted.
pub struct PartFile {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    pub id: SnapshotId,
    len: u64,
    finished: bool,
}

impl PartFile {
    /// Blocks.
    pub fn create(disk: &Arc<dyn Disk>, folder: &Path, id: SnapshotId) -> Result<Self, Fault> {
        disk.create_dir_all(folder).map_err(Fault::disk(folder))?;
        let mut paths = (0..).map(|number| folder.join(id.part_name(number)));
        let path = paths.find(|path| !disk.exists(path)).unwrap_or_default();
        let file = disk.open(&path, Open::ReadWrite).map_err(Fault::disk(&path))?;
        let folder = folder.to_path_buf();
        Ok(Self { disk: disk.clone(), folder, path, file, id, len: 0, finished: false })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Blocks.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file
            .write_all_at(&[IoSlice::new(bytes)], self.len)
            .map_err(Fault::disk(&self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the whole content, makes it durable, and gives it its name. Blocks.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when it is not a whole snapshot: then nothing is left of it.
    pub fn finish(mut self) -> Result<Contents, Fault> {
        let path = self.path.clone();
        let contents = read::check(&*self.file, &path, self.id)?;
        self.file.sync().map_err(Fault::disk(&path))?;
        let whole = self.folder.join(self.id.file_name());
        self.disk.rename(&path, &whole).map_err(Fault::disk(&whole))?;
        self.finished = true;
        self.disk.sync_dir(&self.folder).map_err(Fault::disk(&self.folder))?;
        Ok(contents)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be deleted now is when the log is opened next.
            let _ = self.disk.remove_file(&self.path);
        }
    }
}

/// Turns records into a snapshot.
pub struct SnapshotWriter {
    part: PartFile,
    now: Millis,
    next_offset: Offset,
    batch: BatchBuilder,
}

impl SnapshotWriter {
    /// Blocks, as all of this does.
    pub fn begin(env: &Env, folder: &Path, id: SnapshotId, header: &Header) -> Result<Self, Fault> {
        let part = PartFile::create(&env.disk, folder, id)?;
        let now = env.clock.wall_ms();
        let batch = BatchBuilder::new();
        let mut writer = Self { part, now, next_offset: 0, batch };
        let mut controls = vec![Control::SnapshotHeader(SnapshotHeader {
            version: 0,
            last_contained_log_timestamp: header.last_contained_timestamp,
        })];
        if let Some(kraft) = &header.kraft {
            let kraft_version = kraft.kraft_version;
            controls.push(Control::KRaftVersion(KRaftVersion { version: 0, kraft_version }));
            controls.extend(kraft.voters.clone().map(Control::Voters));
        }
        writer.write_controls(&controls)?;
        Ok(writer)
    }

    pub fn push(&mut self, record: &Record) -> Result<(), Fault> {
        if self.batch.is_empty() {
            self.batch = self.new_batch();
        }
        self.batch.push(self.now, None, Some(&record.to_frame()));
        if self.batch.size() >= BATCH_BYTES { self.close_batch() } else { Ok(()) }
    }

    /// The snapshot is durable, and has its name, once this has returned.
    pub fn finish(mut self) -> Result<Contents, Fault> {
        self.close_batch()?;
        self.write_controls(&[Control::SnapshotFooter(SnapshotFooter { version: 0 })])?;
        self.part.finish()
    }

    fn new_batch(&self) -> BatchBuilder {
        BatchBuilder::new().base_offset(self.next_offset).leader_epoch(self.part.id.epoch)
    }

    fn write_controls(&mut self, controls: &[Control]) -> Result<(), Fault> {
        let mut batch = self.new_batch().control();
        for control in controls {
            batch.push(self.now, Some(&control.key()), Some(&control.value()));
        }
        self.batch = batch;
        self.close_batch()
    }

    fn close_batch(&mut self) -> Result<(), Fault> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.next_offset += batch.count() as Offset;
        self.part.append(&batch.build())
    }
}
