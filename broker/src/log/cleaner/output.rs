//! The segment that the cleaner writes: files that end with `.cleaned` until they are swapped in.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::BytesMut;

use crate::env::DiskFile;
use crate::env::disk::Open;
use crate::log::aborted::{self, AbortedTransaction};
use crate::log::indexes::Indexes;
use crate::log::segment::{Home, Segment};
use crate::types::Offset;
use crate::wire::records::BatchView;

pub(super) const CLEANED: &str = "cleaned";
pub(super) const SWAP: &str = "swap";
/// What a segment may have, the records first.
pub(super) const EXTENSIONS: [&str; 4] = ["log", "index", "timeindex", "txnindex"];
/// So much is written at once.
const BUFFER: usize = 512 << 10;

pub(super) struct Output {
    pub(super) base: Offset,
    home: Arc<Home>,
    file: Arc<dyn DiskFile>,
    written: u64,
    buffer: BytesMut,
    indexes: Indexes,
    interval: u64,
    aborted: Vec<AbortedTransaction>,
}

impl Output {
    pub(super) fn create(home: Arc<Home>, base: Offset, interval: u64) -> io::Result<Self> {
        let path = home.path(base, &format!("log.{CLEANED}"));
        let file = home.disk.open(&path, Open::ReadWrite)?;
        file.truncate(0)?;
        Ok(Self {
            base,
            home,
            file,
            written: 0,
            buffer: BytesMut::new(),
            indexes: Indexes::empty(base),
            interval,
            aborted: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, batch: &BatchView<'_>) -> io::Result<()> {
        let position = self.written + self.buffer.len() as u64;
        self.indexes.note(position, batch, self.interval);
        self.buffer.extend_from_slice(batch.bytes());
        if self.buffer.len() >= BUFFER { self.write() } else { Ok(()) }
    }

    pub(super) fn note_aborted(&mut self, transaction: AbortedTransaction) {
        self.aborted.push(transaction);
    }

    fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&[IoSlice::new(&self.buffer)], self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the files durable, under their names that end with `.cleaned`. The segment that is
    /// returned says that they end with `.swap`, which is the next step.
    pub(super) fn finish(mut self) -> io::Result<Segment> {
        self.write()?;
        self.file.sync()?;
        self.indexes.enter_time();
        let save = |extension: &str, bytes: &[u8]| {
            let path = self.home.path(self.base, &format!("{extension}.{CLEANED}"));
            let file = self.home.disk.open(&path, Open::ReadWrite)?;
            file.truncate(0)?;
            if !bytes.is_empty() {
                file.write_all_at(&[IoSlice::new(bytes)], 0)?;
            }
            file.sync()
        };
        save("index", self.indexes.offsets.bytes())?;
        save("timeindex", self.indexes.times.bytes())?;
        if !self.aborted.is_empty() {
            save("txnindex", &aborted::encode(&self.aborted))?;
        }
        self.home.disk.sync_dir(&self.home.dir.read())?;
        let aborted = !self.aborted.is_empty();
        Ok(Segment::being_swapped(self.home.clone(), self.base, self.written, aborted))
    }
}

/// Removes what an attempt that came to nothing has left.
pub(super) fn discard(home: &Home, base: Offset) -> io::Result<()> {
    for extension in EXTENSIONS {
        let path = home.path(base, &format!("{extension}.{CLEANED}"));
        match home.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The same, whatever it was about: a start that finds `.cleaned` files takes a swap back.
pub(super) fn discard_all(home: &Home) -> io::Result<()> {
    let dir = home.dir.read().clone();
    let entries = home.disk.list(&dir)?;
    let mut left = entries.iter().filter(|entry| entry.name.ends_with(".cleaned"));
    left.try_for_each(|entry| home.disk.remove_file(&dir.join(&entry.name)))
}
