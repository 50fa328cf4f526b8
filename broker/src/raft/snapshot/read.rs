//! Reads a snapshot batch by batch, and says precisely what is wrong with one that is not whole.
//!
//! Memory is bounded by the largest batch. A length is believed only as far as the file reaches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{KRaftState, SnapshotId};
use crate::env::disk::{Open, read_full};
use crate::env::{Disk, DiskFile};
use crate::error::Fault;
use crate::raft::batch::{self, Decoded, Entry};
use crate::types::{Millis, Offset};
use crate::wire::metadata::control::Control;
use crate::wire::records::{BatchView, HEADER_LEN};

/// What there is to know about a snapshot without its records.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    pub id: SnapshotId,
    /// Bytes.
    pub size: u64,
    /// Of the last record of the log that it stands for.
    pub last_contained_timestamp: Millis,
    /// The voters, when those are kept in the log.
    pub kraft: Option<KRaftState>,
}

/// Walks over a snapshot. Ends after its footer; anything else is an error.
pub struct SnapshotReader {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    len: u64,
    walk: Walk,
}

/// Where we are, and what was seen so far.
#[derive(Default)]
struct Walk {
    position: u64,
    next_offset: Offset,
    header: Option<Millis>,
    kraft: Option<KRaftState>,
    footer: bool,
}

impl SnapshotReader {
    pub fn open(disk: &dyn Disk, folder: &Path, id: SnapshotId) -> Result<Self, Fault> {
        let path = folder.join(id.file_name());
        let file = disk.open(&path, Open::Read).map_err(Fault::disk(&path))?;
        let len = file.len().map_err(Fault::disk(&path))?;
        Ok(Self { file, path, len, walk: Walk::default() })
    }

    /// Of the last record of the log that this stands for. Reads the first batch, if none was read.
    pub(super) fn last_contained_timestamp(&mut self) -> Result<Millis, Fault> {
        if self.walk.header.is_none() {
            self.next_batch()?;
        }
        Ok(self.walk.header.unwrap_or_default())
    }

    /// The next batch; none after the footer. Blocks.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] with the position of what is wrong, [`Fault::Disk`].
    pub fn next_batch(&mut self) -> Result<Option<Decoded>, Fault> {
        let Some(bytes) = self.walk.next(&*self.file, &self.path, self.len)? else {
            return Ok(None);
        };
        let at = self.walk.position - bytes.len() as u64;
        let corrupt = |what: String| corrupt(&self.path, at, &what);
        let mut decoded = batch::decode(&bytes).map_err(|error| corrupt(error.to_string()))?;
        decoded.pop().map(Some).ok_or_else(|| corrupt("an empty batch".into()))
    }
}

/// Reads all of `file` and checks that it is a whole snapshot. Blocks.
///
/// # Errors
/// As [`SnapshotReader::next_batch`].
pub(super) fn check(file: &dyn DiskFile, path: &Path, id: SnapshotId) -> Result<Contents, Fault> {
    let size = file.len().map_err(Fault::disk(path))?;
    let mut walk = Walk::default();
    while walk.next(file, path, size)?.is_some() {}
    let last_contained_timestamp = walk.header.unwrap_or_default();
    Ok(Contents { id, size, last_contained_timestamp, kraft: walk.kraft })
}

fn corrupt(path: &Path, position: u64, what: &str) -> Fault {
    Fault::Corrupt { path: path.to_path_buf(), what: format!("at byte {position}: {what}") }
}

impl Walk {
    /// The bytes of the next batch, checked; none after the footer, at the end of the file.
    fn next(
        &mut self,
        file: &dyn DiskFile,
        path: &Path,
        len: u64,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let wrong = |what: &str| corrupt(path, self.position, what);
        if self.position == len {
            return match (self.header, self.footer) {
                (_, true) => Ok(None),
                (None, _) => Err(wrong("the snapshot is empty")),
                (Some(_), false) => Err(wrong("it ends without a footer: not written whole")),
            };
        }
        if self.footer {
            return Err(wrong("there is more after the footer"));
        }
        let mut head = [0; HEADER_LEN];
        let read = read_full(file, &mut head, self.position).map_err(Fault::disk(path))?;
        let size = match BatchView::header(&head[..read]) {
            Ok(header) => header.size(),
            Err(error) => return Err(wrong(&error.to_string())),
        };
        if size as u64 > len - self.position {
            return Err(wrong(&format!("a batch of {size} bytes reaches beyond the end")));
        }
        let mut bytes = vec![0; size];
        let read = read_full(file, &mut bytes, self.position).map_err(Fault::disk(path))?;
        if read < size {
            return Err(wrong("the file has become shorter"));
        }
        self.see(&bytes).map_err(|what| corrupt(path, self.position, &what))?;
        self.position += size as u64;
        Ok(Some(bytes))
    }

    fn see(&mut self, bytes: &[u8]) -> Result<(), String> {
        let batch = BatchView::first(bytes).map_err(|error| error.to_string())?;
        batch.check().map_err(|error| error.to_string())?;
        if batch.base_offset() != self.next_offset {
            let (is, expected) = (batch.base_offset(), self.next_offset);
            return Err(format!("a batch at offset {is}, where {expected} is expected"));
        }
        self.next_offset = batch.next_offset();
        if batch.is_control() {
            self.see_controls(bytes)?;
        }
        if self.header.is_none() {
            return Err("it does not start with a snapshot header".to_owned());
        }
        Ok(())
    }

    fn see_controls(&mut self, bytes: &[u8]) -> Result<(), String> {
        let decoded = batch::decode(bytes).map_err(|error| error.to_string())?;
        let entries = decoded.into_iter().flat_map(|batch| batch.entries);
        for (offset, entry) in entries {
            let Entry::Control(control) = entry else { continue };
            match control {
                Control::SnapshotHeader(header) if offset == 0 => {
                    self.header = Some(header.last_contained_log_timestamp);
                }
                Control::SnapshotHeader(_) => return Err("a second snapshot header".to_owned()),
                Control::SnapshotFooter(_) => self.footer = true,
                Control::KRaftVersion(it) => self.kraft_mut().kraft_version = it.kraft_version,
                Control::Voters(voters) => self.kraft_mut().voters = Some(voters),
                Control::LeaderChange(_) => return Err("a change of leaders".to_owned()),
            }
        }
        Ok(())
    }

    fn kraft_mut(&mut self) -> &mut KRaftState {
        self.kraft.get_or_insert(KRaftState { kraft_version: 0, voters: None })
    }
}
