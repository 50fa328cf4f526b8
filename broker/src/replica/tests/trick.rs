//! The real disk, with tricks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::env::disk::{Entry, Open, Space};
use crate::env::{Blocking, Clock, Disk, DiskFile, Env, Random, real};

/// An fsync that can be held up, a size that can be told, folders that fail, and an end of all after
/// so many changes.
#[derive(Clone)]
pub struct Trick(pub Arc<State>);

pub struct State {
    disk: Arc<dyn Disk>,
    held: Mutex<bool>,
    changed: Condvar,
    pub waiting: tokio::sync::Notify,
    pub available: Mutex<u64>,
    pub broken: Mutex<Option<PathBuf>>,
    /// Changes that are still made; then the process is as good as dead.
    left: Mutex<Option<u64>>,
}

struct TrickFile(Arc<dyn DiskFile>, Trick, PathBuf);

impl Trick {
    pub fn new() -> Self {
        Self(Arc::new(State {
            disk: real::env().disk,
            held: Mutex::new(false),
            changed: Condvar::new(),
            waiting: tokio::sync::Notify::new(),
            available: Mutex::new(1 << 40),
            broken: Mutex::new(None),
            left: Mutex::new(None),
        }))
    }
    pub fn env(&self) -> Env {
        self.env_of(1)
    }
    /// `seed` decides which ids are made up.
    pub fn env_of(&self, seed: u64) -> Env {
        let (net, random) = (real::env().net, Random::from_seed(seed));
        Env::new(Clock::Real, Arc::new(self.clone()), net, random, Blocking::Pool)
    }
    pub fn hold(&self, held: bool) {
        *self.0.held.lock() = held;
        self.0.changed.notify_all();
    }
    /// After `changes` more, nothing is changed any more.
    pub fn end_after(&self, changes: u64) {
        *self.0.left.lock() = Some(changes);
    }
    pub fn has_ended(&self) -> bool {
        *self.0.left.lock() == Some(0)
    }
    fn change(&self, path: &Path) -> io::Result<()> {
        self.check(path)?;
        match &mut *self.0.left.lock() {
            Some(0) => Err(io::Error::from_raw_os_error(5)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
    fn check(&self, path: &Path) -> io::Result<()> {
        match &*self.0.broken.lock() {
            Some(broken) if path.starts_with(broken) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }
}

impl Disk for Trick {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::Read || self.0.disk.exists(path) {
            self.check(path)?;
        } else {
            self.change(path)?;
        }
        let file = self.0.disk.open(path, how)?;
        Ok(Arc::new(TrickFile(file, self.clone(), path.to_owned())))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.check(dir)?;
        self.0.disk.list(dir)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.disk.exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(dir)?;
        self.0.disk.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(from)?;
        self.0.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(path)?;
        self.0.disk.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(dir)?;
        self.0.disk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(dir)?;
        self.0.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.check(path)?;
        self.0.disk.lock(path)
    }
    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { total: 1 << 41, available: *self.0.available.lock() })
    }
}

impl DiskFile for TrickFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.check(&self.2)?;
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.1.change(&self.2)?;
        self.0.write_all_at(parts, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.1.change(&self.2)?;
        self.0.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        let mut held = self.1.0.held.lock();
        while *held {
            self.1.0.waiting.notify_one();
            self.1.0.changed.wait(&mut held);
        }
        drop(held);
        self.1.change(&self.2)?;
        self.0.sync()
    }
}
