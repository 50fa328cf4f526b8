//! A disk in memory that forgets, after a loss of power, what was never synced.
//!
//! Names follow an ordered journal, as on ext4 and xfs: after a loss of power the tree of names is
//! as it was at some moment since the last [`Disk::sync_dir`]. Contents follow no order: of each
//! unsynced page either the old bytes or the new remain, and the length is anything in between, so
//! that a tail may be torn, missing or filled with zeros. A size, if it is given one, is only told
//! ([`Disk::space`]): writes past it succeed, so that what keeps a reserve can be tested, and what
//! does not keep it shows. What else can go wrong is told to it by `disk_faults`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::Mutex;

use super::disk_faults::{Does, Faults};
use crate::env::disk::{Disk, DiskFile, Entry, Open, Space};
use crate::env::random::Random;

const PAGE: usize = 4096;

/// One node's disk. Clones share it.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    pub(super) faults: Arc<Mutex<Faults>>,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Arc<SimulatedFile>),
}

type Tree = OrdMap<PathBuf, Node>;

#[derive(Default)]
struct State {
    tree: Tree,
    /// The trees since the last sync, oldest first: any of them may be what a crash leaves.
    unsynced: Vec<Tree>,
    /// Who holds a lock: a number for each taking.
    locks: BTreeMap<PathBuf, u64>,
    locks_taken: u64,
    /// Of the volume, in bytes; `None`: without end.
    size: Option<u64>,
}

impl SimulatedDisk {
    /// A disk that never waits and never fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the volume so large, from now on; `None`: without end.
    pub fn set_size(&self, bytes: Option<u64>) {
        self.state.lock().size = bytes;
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// The process that used the disk has died: its locks are free, its writes are kept.
    pub fn end_of_process(&self) {
        self.state.lock().locks.clear();
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }

    /// Flips a bit in one of the files that `wanted` picks, at rest. Returns which file that was.
    pub fn rot(&self, random: &Random, wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let state = self.state.lock();
        let files: Vec<_> = state
            .tree
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(file) if wanted(path) && !file.content.lock().bytes.is_empty() => {
                    Some((path, file))
                }
                _ => None,
            })
            .collect();
        let (path, file) = files.get(random.below(files.len() as u64) as usize)?;
        let mut content = file.content.lock();
        let at = random.below(content.bytes.len() as u64) as usize;
        content.bytes[at] ^= 1 << random.below(8);
        Some((*path).clone())
    }

    /// The machine loses power: unsynced names and pages are kept or lost as `random` says.
    pub fn lose_power(&self, random: &Random) {
        let mut state = self.state.lock();
        let keep = random.below(state.unsynced.len() as u64 + 1) as usize;
        if keep < state.unsynced.len() {
            state.tree = state.unsynced[keep].clone();
        }
        state.unsynced.clear();
        state.locks.clear();
        for node in state.tree.values() {
            if let Node::File(file) = node {
                file.content.lock().lose_power(random);
            }
        }
    }

    /// All files and their contents, for comparing two runs.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state.lock();
        let files = state.tree.iter().filter_map(|(path, node)| match node {
            Node::Dir => None,
            Node::File(file) => Some((path.clone(), file.content.lock().bytes.clone())),
        });
        files.collect()
    }
}

impl State {
    fn change(&mut self, change: impl FnOnce(&mut Tree)) {
        self.unsynced.push(self.tree.clone());
        change(&mut self.tree);
    }

    fn used(&self) -> u64 {
        let of = |node: &Node| match node {
            Node::Dir => 0,
            Node::File(file) => file.content.lock().bytes.len() as u64,
        };
        self.tree.values().map(of).sum()
    }

    fn require_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            None => Ok(()),
            Some(parent) if parent.as_os_str().is_empty() || parent == Path::new("/") => Ok(()),
            Some(parent) => match self.tree.get(parent) {
                Some(Node::Dir) => Ok(()),
                Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
                None => Err(ErrorKind::NotFound.into()),
            },
        }
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        match (state.tree.get(path), how) {
            (Some(Node::Dir), _) => Err(ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), Open::CreateNew) => Err(ErrorKind::AlreadyExists.into()),
            (Some(Node::File(file)), _) => Ok(file.clone()),
            (None, Open::Read) => Err(ErrorKind::NotFound.into()),
            (None, _) => {
                state.require_parent(path)?;
                self.faults.lock().allow(Does::Write { grows: true })?;
                let file = Arc::new(SimulatedFile {
                    content: Mutex::default(),
                    faults: self.faults.clone(),
                });
                state.change(|tree| {
                    tree.insert(path.to_owned(), Node::File(file.clone()));
                });
                Ok(file)
            }
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state.lock();
        if !matches!(state.tree.get(dir), Some(Node::Dir)) {
            return Err(ErrorKind::NotFound.into());
        }
        let below = state.tree.range(dir.to_owned()..).skip(1);
        let entries = below
            .take_while(|(path, _)| path.starts_with(dir))
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, node)| Entry {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                is_dir: matches!(node, Node::Dir),
                len: match node {
                    Node::Dir => 0,
                    Node::File(file) => file.content.lock().bytes.len() as u64,
                },
            });
        Ok(entries.collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.state.lock().tree.contains_key(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let missing: Vec<PathBuf> = dir
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !state.tree.contains_key(*path))
            .map(Path::to_owned)
            .collect();
        for path in missing.into_iter().rev() {
            state.change(|tree| {
                tree.insert(path, Node::Dir);
            });
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.require_parent(to)?;
        let moved = subtree(&state.tree, from);
        if moved.is_empty() {
            return Err(ErrorKind::NotFound.into());
        }
        state.change(|tree| {
            for (path, node) in moved {
                tree.remove(&path);
                let below = path.strip_prefix(from).unwrap_or(Path::new(""));
                let target =
                    if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
                tree.insert(target, node);
            }
        });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.tree.get(path) {
            None => Err(ErrorKind::NotFound.into()),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            Some(Node::File(_)) => {
                state.change(|tree| {
                    tree.remove(path);
                });
                Ok(())
            }
        }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let gone = subtree(&state.tree, dir);
        if gone.is_empty() {
            return Err(ErrorKind::NotFound.into());
        }
        state.change(|tree| {
            for (path, _) in gone {
                tree.remove(&path);
            }
        });
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.faults.lock().allow(Does::SyncNames)?;
        // An ordered journal: what came before in any folder is durable, too.
        self.state.lock().unsynced.clear();
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        let Some(total) = state.size else {
            return Ok(Space { total: u64::MAX, available: u64::MAX });
        };
        Ok(Space { total, available: total.saturating_sub(state.used()) })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.open(path, Open::ReadWrite)?;
        let mut state = self.state.lock();
        if state.locks.contains_key(path) {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.locks_taken += 1;
        let number = state.locks_taken;
        state.locks.insert(path.to_owned(), number);
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned(), number }))
    }
}

fn subtree(tree: &Tree, top: &Path) -> Vec<(PathBuf, Node)> {
    tree.range(top.to_owned()..)
        .take_while(|(path, _)| path.starts_with(top))
        .map(|(path, node)| (path.clone(), node.clone()))
        .collect()
}

struct Lock {
    disk: SimulatedDisk,
    path: PathBuf,
    number: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}

struct SimulatedFile {
    content: Mutex<Content>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// What to put back, newest last, to have the content of the last sync again.
    undo: Vec<Undo>,
}

struct Undo {
    offset: usize,
    old: Vec<u8>,
    old_len: usize,
}

impl Content {
    /// Notes what lies at `range` before it changes, or the whole tail before it is cut.
    fn remember(&mut self, offset: usize, len: usize) {
        let end = (offset + len).min(self.bytes.len());
        let old = self.bytes.get(offset.min(end)..end).unwrap_or_default().to_vec();
        self.undo.push(Undo { offset, old, old_len: self.bytes.len() });
    }

    fn lose_power(&mut self, random: &Random) {
        if self.undo.is_empty() {
            return;
        }
        let newest = self.bytes.clone();
        let mut changed = BTreeSet::new();
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            let end = self.bytes.len().max(undo.old_len);
            changed.extend(undo.offset / PAGE..end.div_ceil(PAGE));
            self.bytes.resize(undo.old_len, 0);
            self.bytes[undo.offset.min(undo.old_len)..][..undo.old.len()]
                .copy_from_slice(&undo.old);
        }
        let (short, long) =
            (self.bytes.len().min(newest.len()), self.bytes.len().max(newest.len()));
        let len = short + random.below((long - short) as u64 + 1) as usize;
        self.bytes.resize(len, 0);
        for page in changed {
            let start = page * PAGE;
            let end = ((page + 1) * PAGE).min(len).min(newest.len());
            if start < end && random.below(2) == 0 {
                self.bytes[start..end].copy_from_slice(&newest[start..end]);
            }
        }
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.lock().allow(Does::Read)?;
        let content = self.content.lock();
        let from = (offset as usize).min(content.bytes.len());
        let read = buffer.len().min(content.bytes.len() - from);
        buffer[..read].copy_from_slice(&content.bytes[from..from + read]);
        Ok(read)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        let offset = offset as usize;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let grows = (offset + len).saturating_sub(content.bytes.len());
        self.faults.lock().allow(Does::Write { grows: grows > 0 })?;
        content.remember(offset, len);
        if grows > 0 {
            content.bytes.resize(offset + len, 0);
        }
        let mut at = offset;
        for part in parts {
            content.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().bytes.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.faults.lock().allow(Does::Write { grows: false })?;
        let mut content = self.content.lock();
        let len = len as usize;
        let cut = content.bytes.len().saturating_sub(len);
        content.remember(len, cut);
        content.bytes.resize(len, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let allowed = self.faults.lock().allow(Does::Sync);
        let mut content = self.content.lock();
        if let Err(error) = allowed {
            // As on Linux: what could not be written leaves the page cache, and a second try that
            // finds nothing left to write succeeds.
            let random = self.faults.lock().random();
            content.lose_power(&random);
            return Err(error);
        }
        content.undo.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &SimulatedDisk, path: &str, bytes: &[u8], offset: u64) -> Arc<dyn DiskFile> {
        let file = disk.open(Path::new(path), Open::ReadWrite).unwrap();
        file.write_all_at(&[IoSlice::new(bytes)], offset).unwrap();
        file
    }

    #[test]
    fn what_was_synced_survives_a_loss_of_power_and_the_rest_is_old_new_or_zero() {
        for seed in 0..200 {
            let disk = SimulatedDisk::new();
            disk.create_dir_all(Path::new("/d")).unwrap();
            let file = write(&disk, "/d/f", &[1; 5000], 0);
            file.sync().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            write(&disk, "/d/f", &[2; 9000], 5000);
            disk.lose_power(&Random::from_seed(seed));
            let bytes = disk.read(Path::new("/d/f")).unwrap();
            assert!(bytes.len() >= 5000 && bytes.len() <= 14000, "seed {seed}: {}", bytes.len());
            assert!(bytes[..5000].iter().all(|byte| *byte == 1), "seed {seed}");
            assert!(bytes[5000..].iter().all(|byte| *byte == 0 || *byte == 2), "seed {seed}");
        }
    }

    #[test]
    fn names_return_to_a_moment_since_the_last_sync() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let disk = SimulatedDisk::new();
            disk.create_dir_all(Path::new("/d")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            write(&disk, "/d/a", b"a", 0);
            disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
            disk.lose_power(&Random::from_seed(seed));
            let names: Vec<_> =
                disk.list(Path::new("/d")).unwrap().into_iter().map(|entry| entry.name).collect();
            seen.insert(names);
        }
        let expected: BTreeSet<Vec<String>> =
            [vec![], vec!["a".to_owned()], vec!["b".to_owned()]].into();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_renamed_folder_takes_its_files_along() {
        let disk = SimulatedDisk::new();
        disk.create_dir_all(Path::new("/d/t-0")).unwrap();
        write(&disk, "/d/t-0/log", b"x", 0);
        disk.rename(Path::new("/d/t-0"), Path::new("/d/t-0.x-delete")).unwrap();
        assert!(!disk.exists(Path::new("/d/t-0/log")));
        assert_eq!(disk.read(Path::new("/d/t-0.x-delete/log")).unwrap(), b"x");
    }

    #[test]
    fn what_files_take_is_missing_from_the_volume_until_they_are_removed() {
        let disk = SimulatedDisk::new();
        let space = || disk.space(Path::new("/")).unwrap();
        assert_eq!(space().available, u64::MAX);
        disk.set_size(Some(1000));
        write(&disk, "/f", &[1; 300], 100);
        assert_eq!(space(), Space { total: 1000, available: 600 });
        write(&disk, "/g", &[1; 700], 0);
        assert_eq!(space().available, 0);
        disk.remove_file(Path::new("/f")).unwrap();
        assert_eq!((space().available, disk.used()), (300, 700));
    }

    #[test]
    fn a_lock_has_one_holder() {
        let disk = SimulatedDisk::new();
        let lock = disk.lock(Path::new("/.lock")).unwrap();
        assert_eq!(
            disk.lock(Path::new("/.lock")).err().map(|error| error.kind()),
            Some(ErrorKind::WouldBlock)
        );
        drop(lock);
        assert!(disk.lock(Path::new("/.lock")).is_ok());
    }
}
