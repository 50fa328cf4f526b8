//! Walks over the batches of a segment file, header by header or with all their bytes.

use std::io;

use crate::env::DiskFile;
use crate::env::disk::read_full;
use crate::types::Offset;
use crate::wire::records::{BatchView, HEADER_LEN, RecordsError};

/// Bytes read at once: few at first, as most scans end soon, and more with each read.
const FIRST_WINDOW: usize = 256;
const WINDOW: usize = 64 << 10;

#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    /// From this position on there is no whole and right batch.
    Damaged(u64, RecordsError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ScanError {
    /// An index is missing or wrong: the log must be asked.
    pub(super) fn index(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                Self::Damaged(0, RecordsError::Corrupt(error.to_string()))
            }
            _ => Self::Io(error),
        }
    }
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Damaged(position, error) => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no right batch at position {position}: {error}"),
            ),
        }
    }
}

pub(super) struct Scan<'a> {
    file: &'a dyn DiskFile,
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
    /// How much the next read asks for.
    ahead: usize,
}

impl<'a> Scan<'a> {
    /// Over the bytes `position..end` of `file`.
    pub(super) fn new(file: &'a dyn DiskFile, position: u64, end: u64) -> Self {
        Self { file, position, end, window: Vec::new(), window_at: position, ahead: FIRST_WINDOW }
    }

    /// The next batch's position and header. The batch is inside the bounds as a whole.
    pub(super) fn next_header(&mut self) -> Result<Option<(u64, BatchView<'_>)>, ScanError> {
        let Some((position, _)) = self.advance()? else { return Ok(None) };
        let header = &self.window[(position - self.window_at) as usize..];
        match BatchView::header(header) {
            Ok(batch) => Ok(Some((position, batch))),
            Err(error) => Err(ScanError::Damaged(position, error)),
        }
    }

    /// The next batch with all its bytes, its CRC and counts checked.
    pub(super) fn next_whole(&mut self) -> Result<Option<(u64, BatchView<'_>)>, ScanError> {
        self.next_checked_from(Offset::MIN)
    }

    /// As [`Self::next_whole`] for a batch that reaches to `trusted` or beyond, else only its header.
    pub(super) fn next_checked_from(
        &mut self,
        trusted: Offset,
    ) -> Result<Option<(u64, BatchView<'_>)>, ScanError> {
        let Some((position, size)) = self.advance()? else { return Ok(None) };
        if self.last_offset_at(position) < trusted {
            let header = &self.window[(position - self.window_at) as usize..];
            return BatchView::header(header)
                .map(|batch| Some((position, batch)))
                .map_err(|error| ScanError::Damaged(position, error));
        }
        if !self.has(position, size) {
            self.fill(position, size)?;
        }
        let bytes = &self.window[(position - self.window_at) as usize..];
        let batch = BatchView::first(bytes).and_then(|batch| batch.check().map(|()| batch));
        match batch {
            Ok(batch) => Ok(Some((position, batch))),
            Err(error) => Err(ScanError::Damaged(position, error)),
        }
    }

    fn last_offset_at(&self, position: u64) -> Offset {
        let header = &self.window[(position - self.window_at) as usize..];
        BatchView::header(header).map_or(Offset::MAX, |batch| batch.last_offset())
    }

    fn advance(&mut self) -> Result<Option<(u64, usize)>, ScanError> {
        let position = self.position;
        let left = self.end - position;
        if left == 0 {
            return Ok(None);
        }
        if left < HEADER_LEN as u64 {
            return Err(ScanError::Damaged(position, RecordsError::Incomplete));
        }
        if !self.has(position, HEADER_LEN) {
            self.fill(position, HEADER_LEN)?;
        }
        let header = &self.window[(position - self.window_at) as usize..];
        let size = match BatchView::header(header) {
            Ok(batch) => batch.size(),
            Err(error) => return Err(ScanError::Damaged(position, error)),
        };
        if size as u64 > left {
            return Err(ScanError::Damaged(position, RecordsError::Incomplete));
        }
        self.position = position + size as u64;
        Ok(Some((position, size)))
    }

    fn has(&self, position: u64, length: usize) -> bool {
        position >= self.window_at
            && position + length as u64 <= self.window_at + self.window.len() as u64
    }

    /// Reads `length` bytes from `position` on, or more.
    fn fill(&mut self, position: u64, length: usize) -> io::Result<()> {
        let length = (length.max(self.ahead) as u64).min(self.end - position) as usize;
        self.ahead = (self.ahead * 2).min(WINDOW);
        self.window.resize(length, 0);
        let read = read_full(self.file, &mut self.window, position)?;
        self.window.truncate(read);
        self.window_at = position;
        Ok(())
    }
}
