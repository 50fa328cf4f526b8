//! A disk in memory that can lose, after a crash, all that was not synced, and that can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::env::disk::{Entry, Open};
use crate::env::{Blocking, Clock, Disk, DiskFile, Env, Random};

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
pub struct Faults {
    /// Bytes until the disk is full.
    pub room: Option<usize>,
    pub sync_fails: bool,
    /// Changes until the power is gone: from then on all fail.
    pub changes: Option<usize>,
}

/// A name that changed and was not synced.
enum Change {
    Created(PathBuf, Arc<Mutex<Content>>),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    /// The names that a crash leaves.
    durable: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
    /// What `durable` lacks, in order.
    changes: Vec<Change>,
    syncs: usize,
}

#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    pub faults: Arc<Mutex<Faults>>,
}

struct MemoryFile(Arc<Mutex<Content>>, MemoryDisk);

impl MemoryDisk {
    pub fn env(&self) -> Env {
        let net = crate::env::real::env().net;
        Env::new(Clock::Real, Arc::new(self.clone()), net, Random::from_seed(1), Blocking::Inline)
    }

    /// Power fails: names and bytes that were not synced are gone, but for some that were written
    /// by chance: `luck` decides how many, and what they look like.
    pub fn crash(&self, luck: u64) {
        let mut state = self.state.lock();
        state.changes.clear();
        state.files = state.durable.clone();
        let mut luck = luck | 1;
        for content in state.files.values() {
            let mut content = content.lock();
            luck = luck.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let survives = content.now.starts_with(&content.synced);
            let new = content.now.len().saturating_sub(content.synced.len());
            let keep = if survives && new > 0 { (luck >> 33) as usize % (new + 1) } else { 0 };
            let mut after = content.synced.clone();
            if keep > 0 {
                let tail = content.now[after.len()..after.len() + keep].to_vec();
                after.extend(tail);
                // Sometimes the length is there and the bytes are not.
                if luck >> 60 & 1 == 1 {
                    let torn = after.len() - keep / 2;
                    after[torn..].fill(0);
                }
            }
            content.now.clone_from(&after);
            content.synced = after;
        }
    }

    /// As [`Self::crash`], but of the names that were not synced some have changed: `luck` decides
    /// for each.
    pub fn crash_with_some_names(&self, luck: u64) {
        let mut state = self.state.lock();
        let State { durable, changes, .. } = &mut *state;
        let mut dice = luck | 1;
        for change in changes.drain(..) {
            dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if dice >> 40 & 1 == 0 {
                continue;
            }
            match change {
                Change::Created(path, content) => drop(durable.insert(path, content)),
                Change::Renamed(from, to) => {
                    if let Some(content) = durable.remove(&from) {
                        durable.insert(to, content);
                    }
                }
                Change::Removed(path) => drop(durable.remove(&path)),
            }
        }
        drop(state);
        self.crash(luck);
    }

    /// Counts a change; an error when the power is gone.
    fn change(&self) -> io::Result<()> {
        match &mut self.faults.lock().changes {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub fn syncs(&self) -> usize {
        self.state.lock().syncs
    }

    fn get(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        self.state.lock().files.get(path).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let content = match (state.files.get(path), how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content.clone(),
            (None, Open::Read) => return Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                self.change()?;
                let content = Arc::default();
                state.files.insert(path.into(), Arc::clone(&content));
                state.changes.push(Change::Created(path.into(), Arc::clone(&content)));
                content
            }
        };
        Ok(Arc::new(MemoryFile(content, self.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state.lock();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let files = state.files.iter().filter(|(path, _)| path.parent() == Some(dir)).map(
            |(path, content)| Entry {
                name: name(path),
                is_dir: false,
                len: content.lock().now.len() as u64,
            },
        );
        let dirs = state.dirs.iter().filter(|path| path.parent() == Some(dir));
        let dirs = dirs.map(|path| Entry { name: name(path), is_dir: true, len: 0 });
        let mut entries: Vec<_> = files.chain(dirs).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state.lock();
        state.files.contains_key(path) || state.dirs.contains(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.dirs.extend(dir.ancestors().map(PathBuf::from));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.dirs.remove(from) {
            state.dirs.insert(to.into());
            let State { files, durable, .. } = &mut *state;
            for names in [files, durable] {
                *names = std::mem::take(names)
                    .into_iter()
                    .map(|(path, content)| match path.strip_prefix(from) {
                        Ok(rest) => (to.join(rest), content),
                        Err(_) => (path, content),
                    })
                    .collect();
            }
            return Ok(());
        }
        if state.files.contains_key(from) {
            self.change()?;
        }
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.into(), content);
        state.changes.push(Change::Renamed(from.into(), to.into()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change()?;
        state.files.remove(path);
        state.changes.push(Change::Removed(path.into()));
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.files.retain(|path, _| !path.starts_with(dir));
        state.durable.retain(|path, _| !path.starts_with(dir));
        state.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        let mut state = self.state.lock();
        state.changes.retain(|change| {
            let (Change::Created(path, _) | Change::Renamed(path, _) | Change::Removed(path)) =
                change;
            path.parent() != Some(dir)
        });
        state.durable.retain(|path, _| path.parent() != Some(dir));
        let now: Vec<_> = state
            .files
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, content)| (path.clone(), content.clone()))
            .collect();
        state.durable.extend(now);
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.get(path)?.lock().now.clone())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock();
        let rest = content.now.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.1.change()?;
        let mut at = offset as usize;
        for part in parts {
            let mut faults = self.1.faults.lock();
            let room = faults.room.unwrap_or(usize::MAX);
            let length = part.len().min(room);
            if let Some(left) = &mut faults.room {
                *left -= length;
            }
            drop(faults);
            let mut content = self.0.lock();
            let end = (at + length).max(content.now.len());
            content.now.resize(end, 0);
            content.now[at..at + length].copy_from_slice(&part[..length]);
            if length < part.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            at += length;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if len < self.0.lock().now.len() as u64 {
            self.1.change()?;
        }
        self.0.lock().now.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.faults.lock().sync_fails {
            return Err(io::Error::other("I/O error"));
        }
        self.1.change()?;
        let mut content = self.0.lock();
        content.synced = content.now.clone();
        drop(content);
        self.1.state.lock().syncs += 1;
        Ok(())
    }
}
