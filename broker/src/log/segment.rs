//! One segment: a `.log` file of batches with its two indexes, and that of aborted transactions.
//!
//! Invariants: `size` counts whole batches only and is published after they are written; the
//! entries that the active segment's indexes gain are in memory and reach the disk with
//! [`Segment::persist_indexes`]; a closed segment holds no memory beyond this struct and no open file. An index that is missing or
//! does not lead to a batch is rebuilt from the log, which is the truth.

mod replaced;

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};

use super::aborted::AbortedIndex;
use super::config::LogConfig;
use super::indexes::{Files, Indexes, first_timestamp, leads_to_a_batch};
use super::scan::{Scan, ScanError};
use super::tail_cache::fitting;
use crate::env::disk::{Open, read_full};
use crate::env::{Disk, DiskFile};
use crate::error::is_full;
use crate::types::{Millis, Offset};
use crate::wire::records::{BatchView, Batches, NO_TIMESTAMP};

/// Where the files of a partition are. The folder changes its name when the topic is deleted.
pub(super) struct Home {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: RwLock<PathBuf>,
}

impl Home {
    pub(super) fn path(&self, base: Offset, extension: &str) -> PathBuf {
        self.dir.read().join(format!("{base:020}.{extension}"))
    }
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.read().join(name)
    }
}

pub(super) struct Segment {
    pub(super) base: Offset,
    home: Arc<Home>,
    size: AtomicU64,
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    state: Mutex<Indexes>,
    aborted: Mutex<AbortedIndex>,
    /// The cleaner is putting it in the place of others: its files end with `.swap`.
    swapping: RwLock<bool>,
    /// The cleaner has put another in its place.
    retired: AtomicBool,
}

/// Where a batch lies, how large it is, and what it begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) position: u64,
    pub(super) size: usize,
    pub(super) base: Offset,
}

impl Segment {
    /// A new, empty active segment. What a crash left under the same name is emptied.
    pub(super) fn create(home: Arc<Home>, base: Offset, now: Millis) -> io::Result<Arc<Self>> {
        let file = home.disk.open(&home.path(base, "log"), Open::ReadWrite)?;
        if file.len()? > 0 {
            file.truncate(0)?;
        }
        for extension in ["index", "timeindex", "txnindex"] {
            let path = home.path(base, extension);
            if home.disk.exists(&path) {
                home.disk.remove_file(&path)?;
            }
        }
        let segment = Self::closed(home, base, 0);
        *segment.file.lock() = Some(file);
        *segment.state.lock() = Indexes { created: now, ..Indexes::empty(base) };
        *segment.aborted.lock() = AbortedIndex::empty();
        Ok(Arc::new(segment))
    }

    /// A segment of which only name and size are known.
    pub(super) fn closed(home: Arc<Home>, base: Offset, size: u64) -> Self {
        Self {
            base,
            home,
            size: AtomicU64::new(size),
            file: Mutex::default(),
            state: Mutex::new(Indexes::closed(base)),
            aborted: Mutex::new(AbortedIndex::closed(false)),
            swapping: RwLock::new(false),
            retired: AtomicBool::new(false),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn path(&self, extension: &str) -> PathBuf {
        if *self.swapping.read() {
            return self.home.path(self.base, &format!("{extension}.swap"));
        }
        self.home.path(self.base, extension)
    }

    /// The log file: the one that is held open, or opened for this use.
    pub(super) fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        match &*self.file.lock() {
            Some(file) => Ok(file.clone()),
            None => self.home.disk.open(&self.path("log"), Open::Read),
        }
    }

    /// Whether `bytes` more, up to `last_offset`, belong into a new segment.
    pub(super) fn is_due(
        &self,
        config: &LogConfig,
        bytes: u64,
        last_offset: Offset,
        max_timestamp: Millis,
        now: Millis,
    ) -> bool {
        let size = self.size();
        let mut state = self.state.lock();
        if state.first.is_none() && size > 0 {
            // Once after a start. If that cannot be read, time is counted from the start.
            state.first = self.file().and_then(|file| first_timestamp(&*file, size)).ok().flatten();
        }
        let waited = match state.first {
            Some(first) if first >= 0 => max_timestamp.saturating_sub(first),
            _ => now - state.created,
        };
        let full = size + bytes > config.segment_bytes
            || waited > config.segment_ms
            || state.offsets.is_full(config.segment_index_bytes, 0)
            || state.times.is_full(config.segment_index_bytes, 1);
        size > 0 && full || last_offset - self.base > i64::from(i32::MAX)
    }

    /// Writes whole batches at the end. On failure the file is cut back; if that fails too, the
    /// second error says that the segment can no longer be trusted.
    pub(super) fn append(
        &self,
        bytes: &[u8],
        interval: u64,
    ) -> Result<(), (io::Error, Option<io::Error>)> {
        let position = self.size();
        let file = self.file().map_err(|error| (error, None))?;
        if let Err(error) = file.write_all_at(&[IoSlice::new(bytes)], position) {
            return Err((error, file.truncate(position).err()));
        }
        let mut state = self.state.lock();
        let mut at = position;
        for batch in Batches::new(bytes).map_while(Result::ok) {
            state.note(at, &batch, interval);
            at += batch.size() as u64;
        }
        self.size.store(position + bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Where the batch that holds `offset`, or the next after it, lies; `None` past the end.
    pub(super) fn locate(&self, offset: Offset, end: u64) -> io::Result<Option<Place>> {
        match self.try_locate(offset, end) {
            Err(ScanError::Damaged(..)) if self.rebuild()? => {
                self.try_locate(offset, end).map_err(ScanError::into_io)
            }
            other => other.map_err(ScanError::into_io),
        }
    }

    fn try_locate(&self, offset: Offset, end: u64) -> Result<Option<Place>, ScanError> {
        let start = {
            let state = self.state.lock();
            match state.offsets.lookup(&*self.home.disk, &self.path("index"), offset) {
                Ok(position) => position,
                Err(error) => return Err(ScanError::index(error)),
            }
        };
        if start >= end {
            if start == 0 {
                return Ok(None);
            }
            return Err(ScanError::index(io::Error::other("an entry beyond the end")));
        }
        let file = self.file()?;
        let mut scan = Scan::new(&*file, start, end);
        while let Some((position, batch)) = scan.next_header()? {
            if position == start && start > 0 && batch.base_offset() > offset
                || batch.base_offset() < self.base
            {
                return Err(ScanError::index(io::Error::other("an entry that leads elsewhere")));
            }
            if batch.last_offset() >= offset {
                let (size, base) = (batch.size(), batch.base_offset());
                return Ok(Some(Place { position, size, base }));
            }
        }
        Ok(None)
    }

    /// Whole batches from the one that holds `from`; `None` when there is none in this segment.
    pub(super) fn read(
        &self,
        from: Offset,
        max: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> io::Result<Option<Bytes>> {
        let end = self.size();
        let Some(Place { position, size: first, .. }) = self.locate(from, end)? else {
            return Ok(None);
        };
        if first > max && !at_least_one {
            return Ok(Some(Bytes::new()));
        }
        let length = (max.max(first) as u64).min(end - position) as usize;
        let mut buffer = BytesMut::zeroed(length);
        let read = read_full(&*self.file()?, &mut buffer, position)?;
        let fits = fitting(&buffer[..read], max, up_to, at_least_one);
        buffer.truncate(fits);
        Ok(Some(buffer.freeze()))
    }

    /// The largest timestamp of the first batch, if there is one.
    pub(super) fn first_timestamp(&self) -> io::Result<Option<Millis>> {
        let size = self.size();
        let mut state = self.state.lock();
        if state.first.is_none() && size > 0 {
            state.first = first_timestamp(&*self.file()?, size)?;
        }
        Ok(state.first)
    }

    /// The last offset and timestamp of the batch with the largest timestamp.
    pub(super) fn largest_timestamp(&self) -> io::Result<(Millis, Offset)> {
        let mut state = self.state.lock();
        if let Some(largest) = state.largest {
            return Ok(largest);
        }
        // A segment that was closed properly has it as the last entry.
        let last = state.times.last(&*self.home.disk, &self.path("timeindex"));
        let largest = match last {
            Ok(Some(largest)) => largest,
            Ok(None) | Err(_) => self.scan_for_largest()?,
        };
        state.largest = Some(largest);
        Ok(largest)
    }

    fn scan_for_largest(&self) -> io::Result<(Millis, Offset)> {
        let file = self.file()?;
        let mut scan = Scan::new(&*file, 0, self.size());
        let mut largest = (NO_TIMESTAMP, self.base);
        while let Some((_, batch)) = scan.next_header().map_err(ScanError::into_io)? {
            if batch.max_timestamp() > largest.0 {
                largest = (batch.max_timestamp(), batch.last_offset());
            }
        }
        Ok(largest)
    }

    /// A position before which no record of `timestamp` or later, at or after `from`, is.
    pub(super) fn position_of_timestamp(&self, timestamp: Millis, from: Offset) -> u64 {
        let state = self.state.lock();
        let disk = &*self.home.disk;
        let offset =
            state.times.lookup(disk, &self.path("timeindex"), timestamp).unwrap_or(self.base);
        let position =
            state.offsets.lookup(disk, &self.path("index"), offset.max(from)).unwrap_or(0);
        if position < self.size() { position } else { 0 }
    }

    /// No more appends come: the time index gets its last entry.
    pub(super) fn seal(&self) {
        self.state.lock().enter_time();
    }

    /// Makes the records durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file()?.sync().map_err(|error| {
            // The system may have dropped what it found no room for: this does not pass.
            if is_full(&error) { io::Error::other(format!("fsync: {error}")) } else { error }
        })
    }

    /// Writes what the index files lack, and syncs them.
    pub(super) fn persist_indexes(&self) -> io::Result<()> {
        let unsynced = self.write_indexes()?;
        for file in unsynced.iter().flatten() {
            file.sync()?;
        }
        let [.., aborted] = &unsynced;
        let new = aborted.is_some() && !self.aborted.lock().is_named();
        if new {
            self.home.disk.sync_dir(&self.home.dir.read())?;
        }
        let mut state = self.state.lock();
        // Entries that came meanwhile are written, and marked again, by the next call.
        let [offsets, times, aborted] = &unsynced;
        state.offsets.synced |= offsets.is_some();
        state.times.synced |= times.is_some();
        if aborted.is_some() {
            self.aborted.lock().mark_synced(new);
        }
        Ok(())
    }

    /// Writes what the index files lack, and creates them, without syncing.
    pub(super) fn write_index_files(&self) -> io::Result<()> {
        self.write_indexes().map(|_| ())
    }

    /// Returns the files that are not synced yet.
    fn write_indexes(&self) -> io::Result<[Option<Arc<dyn DiskFile>>; 3]> {
        let mut state = self.state.lock();
        let disk = &*self.home.disk;
        Ok([
            state.offsets.write(disk, &self.path("index"))?,
            state.times.write(disk, &self.path("timeindex"))?,
            self.aborted.lock().write(disk, &self.path("txnindex"))?,
        ])
    }

    /// After all of a sealed segment was synced: gives back its memory and its open file.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.offsets.close();
        state.times.close();
        self.aborted.lock().close();
        *self.file.lock() = None;
    }

    /// Makes this the active segment: indexes and file open for writing. Trusts what the index
    /// says of offsets below `indexed`, if it makes sense, and scans what follows, with CRCs from
    /// `trusted` on. Bytes that are no whole, right batch are cut off; `visit` sees each batch
    /// scanned. Returns how many bytes were cut off.
    pub(super) fn activate(
        &self,
        indexed: Offset,
        trusted: Offset,
        interval: u64,
        now: Millis,
        mut visit: impl FnMut(&BatchView<'_>),
    ) -> io::Result<u64> {
        let file = self.home.disk.open(&self.path("log"), Open::ReadWrite)?;
        let length = file.len()?;
        let aborted = AbortedIndex::load(&*self.home.disk, &self.path("txnindex"), trusted)?;
        *self.aborted.lock() = aborted;
        let mut state = self.state.lock();
        let place = self.with_index_files(|files| state.load(self.base, files, indexed));
        let start = match place {
            Some(place) if leads_to_a_batch(&*file, place, length, self.base)? => place.1,
            _ => {
                state.forget(self.base);
                0
            }
        };
        let mut scan = Scan::new(&*file, start, length);
        let mut next = self.base;
        let valid = loop {
            match scan.next_checked_from(trusted) {
                Ok(Some((position, batch))) if batch.base_offset() >= next => {
                    next = batch.next_offset();
                    state.note(position, &batch, interval);
                    visit(&batch);
                }
                Ok(Some((position, _))) | Err(ScanError::Damaged(position, _)) => break position,
                Ok(None) => break length,
                Err(ScanError::Io(error)) => return Err(error),
            }
        };
        state.created = now;
        if valid < length {
            file.truncate(valid)?;
            file.sync()?;
        }
        self.size.store(valid, Ordering::Release);
        *self.file.lock() = Some(file);
        Ok(length - valid)
    }

    fn with_index_files<T>(&self, use_them: impl FnOnce(&Files<'_>) -> T) -> T {
        let (offsets, times) = (self.path("index"), self.path("timeindex"));
        use_them(&Files { disk: &*self.home.disk, offsets: &offsets, times: &times })
    }

    /// Builds the indexes anew. Returns whether that can help: one that is wholly in memory is right.
    fn rebuild(&self) -> io::Result<bool> {
        let mut state = self.state.lock();
        if self.retired.load(Ordering::Acquire) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let open = state.offsets.is_open();
        if open && !state.offsets.is_in_part_on_disk() {
            return Ok(false);
        }
        tracing::warn!(segment = %self.path("log").display(), "rebuilding the indexes");
        let disk = &*self.home.disk;
        let file = self.file()?;
        let mut fresh = Indexes { created: state.created, ..Indexes::empty(self.base) };
        let mut scan = Scan::new(&*file, 0, self.size());
        while let Some((position, batch)) = scan.next_header().map_err(ScanError::into_io)? {
            fresh.note(position, &batch, 4096);
        }
        if open {
            *state = fresh;
            return Ok(true);
        }
        fresh.enter_time();
        for (path, bytes) in [("index", fresh.offsets.bytes()), ("timeindex", fresh.times.bytes())]
        {
            disk.write_atomically(&self.path(path), bytes)?;
        }
        state.largest = fresh.largest;
        Ok(true)
    }

    /// Removes all from `offset` on; a batch that reaches over it goes as a whole. The segment must
    /// be active. Returns the new end offset.
    pub(super) fn truncate_to(&self, offset: Offset) -> io::Result<Offset> {
        let end = self.size();
        let place = self.locate(offset, end)?;
        let position = place.map_or(end, |place| place.position);
        let offset = place.map_or(offset, |place| place.base.min(offset));
        let file = self.file()?;
        self.aborted.lock().truncate_to(offset);
        let mut state = self.state.lock();
        let from = self.with_index_files(|files| state.truncate_to(files, self.base, offset))?;
        file.truncate(position)?;
        self.size.store(position, Ordering::Release);
        if position == 0 {
            state.first = None;
        }
        // What the time index does not know lies behind its last entry.
        let mut largest = state.largest.unwrap_or((NO_TIMESTAMP, self.base));
        let mut scan = Scan::new(&*file, from, position);
        while let Some((_, batch)) = scan.next_header().map_err(ScanError::into_io)? {
            if batch.max_timestamp() > largest.0 {
                largest = (batch.max_timestamp(), batch.last_offset());
            }
        }
        state.largest = Some(largest);
        Ok(offset)
    }

    /// Renames the files to `.deleted`; returns their new paths. Missing ones are skipped.
    pub(super) fn mark_deleted(&self) -> io::Result<Vec<PathBuf>> {
        let mut renamed = Vec::new();
        for extension in ["log", "index", "timeindex", "txnindex"] {
            let from = self.path(extension);
            let to = self.path(&format!("{extension}.deleted"));
            match self.home.disk.rename(&from, &to) {
                Ok(()) => renamed.push(to),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(renamed)
    }
}
