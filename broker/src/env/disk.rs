//! The disk as the broker sees it: positioned reads and writes, fsync, and atomic replacement.
//!
//! All calls block. A write that was not followed by [`DiskFile::sync`] may be lost or torn by a
//! crash; a name that was not followed by [`Disk::sync_dir`] may be lost, too. The simulated disk
//! makes use of both.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
    /// Bytes; 0 for a folder.
    pub len: u64,
}

/// The size of a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What this process may still use.
    pub available: u64,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Must exist; reads only.
    Read,
    /// Reads and writes; created when missing.
    ReadWrite,
    /// Reads and writes; must not exist.
    CreateNew,
}

pub trait Disk: Send + Sync {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Sorted by name, so that every run sees the same order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    fn exists(&self, path: &Path) -> bool;
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Atomic; replaces `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock `path` for the life of the returned value; `WouldBlock` when
    /// another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// Of the volume that `path` is on; a disk that does not say so has no end.
    fn space(&self, _path: &Path) -> io::Result<Space> {
        Ok(Space { total: u64::MAX, available: u64::MAX })
    }

    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Open::Read)?;
        let mut content = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let read = read_full(&*file, &mut content, 0)?;
        content.truncate(read);
        Ok(content)
    }

    /// Replaces a file so that a crash leaves the old content or the new, never a mix.
    fn write_atomically(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.open(&temporary, Open::ReadWrite)?;
        file.truncate(0)?;
        file.write_all_at(&[IoSlice::new(content)], 0)?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_dir(path.parent().unwrap_or_else(|| Path::new(".")))
    }
}

pub trait DiskFile: Send + Sync {
    /// Reads at most `buffer.len()` bytes from `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `parts`, one after the other, from `offset` on.
    fn write_all_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
}

/// Fills `buffer` from `offset` as far as the file reaches; returns how many bytes that was.
pub fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
