//! One round of the cleaner over one log, step by step.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::filter::{LastBatch, Left, Rules, filter};
use super::offset_map::OffsetMap;
use super::output::{self, Output};
use super::plan::{Candidate, group};
use super::transactions::Transactions;
use crate::error::Fault;
use crate::log::config::LogConfig;
use crate::log::partition_log::Log;
use crate::log::scan::{Scan, ScanError};
use crate::log::segment::Segment;
use crate::types::{Millis, Offset};
use crate::wire::records::{BatchView, MAX_DECOMPRESSED, RecordsError};

/// About how much one step reads.
const STEP: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CleanerSettings {
    /// `log.cleaner.dedupe.buffer.size`
    pub dedupe_buffer_size: u64,
    /// `log.cleaner.io.buffer.load.factor`
    pub load_factor: f64,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It read and wrote so many bytes.
    More(u64),
    /// All below this offset is clean.
    Done(Offset),
}

/// Why a round came to no end.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The log was truncated, deleted or cut by retention meanwhile: nothing is wrong.
    #[error("the log has changed")]
    Changed,
    /// This log cannot be cleaned; others can.
    #[error("{0}")]
    Uncleanable(String),
    #[error(transparent)]
    Fault(#[from] Fault),
}

pub struct Cleaning {
    log: Arc<Log>,
    config: Arc<LogConfig>,
    candidate: Candidate,
    now: Millis,
    truncations: i64,
    map: OffsetMap,
    transactions: Transactions,
    phase: Phase,
    bytes: (u64, u64),
}

enum Phase {
    /// Reading the dirty part.
    Index { dirty: Vec<Arc<Segment>>, at: usize, position: u64 },
    /// Writing anew.
    Rewrite { groups: Vec<Vec<Arc<Segment>>>, end: Offset, at: Option<Box<Group>> },
}

/// The group that is being written.
struct Group {
    old: Vec<Arc<Segment>>,
    at: usize,
    position: u64,
    output: Output,
    producers: BTreeMap<i64, LastBatch>,
}

impl Cleaning {
    /// Blocking. `candidate` is what [`Log::cleanable`] said just now.
    pub fn begin(
        log: Arc<Log>,
        candidate: Candidate,
        settings: CleanerSettings,
        now: Millis,
    ) -> Result<Self, Trouble> {
        let truncations = log.truncations.load(Ordering::Acquire);
        output::discard_all(&log.home).map_err(|error| wrong(&log, error))?;
        let mut transactions = Transactions::default();
        let range = (candidate.first_dirty, candidate.up_to);
        transactions.expect(aborted(&log, range)?);
        let mut dirty = log.segments_from(candidate.first_dirty);
        dirty.retain(|segment| segment.base < candidate.up_to);
        let position = match dirty.first() {
            Some(first) => start_in(first, candidate.first_dirty).map_err(|it| wrong(&log, it))?,
            None => return Err(Trouble::Changed),
        };
        Ok(Self {
            config: log.config(),
            candidate,
            now,
            truncations,
            map: OffsetMap::new(settings.dedupe_buffer_size, settings.load_factor),
            transactions,
            phase: Phase::Index { dirty, at: 0, position },
            bytes: (0, 0),
            log,
        })
    }

    /// The bytes read and written so far.
    pub fn bytes(&self) -> (u64, u64) {
        self.bytes
    }

    /// Blocking. The next step, after an error none.
    pub fn step(&mut self) -> Result<Progress, Trouble> {
        let done = match self.phase {
            Phase::Index { .. } => self.index(),
            Phase::Rewrite { .. } => self.rewrite(),
        };
        done.map_err(|trouble| self.explain(trouble))
    }

    /// What fails because the log has changed under the cleaner is no trouble of the log.
    fn explain(&self, trouble: Trouble) -> Trouble {
        if let Phase::Rewrite { at: Some(group), .. } = &self.phase
            && let Err(error) = output::discard(&self.log.home, group.output.base)
        {
            tracing::warn!(partition = %self.log.partition, %error, "cannot tidy up");
        }
        let changed = self.log.truncations.load(Ordering::Acquire) != self.truncations
            || self.log.deleted.load(Ordering::Acquire);
        if changed { Trouble::Changed } else { trouble }
    }

    fn index(&mut self) -> Result<Progress, Trouble> {
        let Phase::Index { dirty, at, position } = &mut self.phase else {
            return Ok(Progress::More(0));
        };
        let segment = dirty[*at].clone();
        let mut reader = Reader::open(&self.log, &segment, *position)?;
        let (first_dirty, map) = (self.candidate.first_dirty, &mut self.map);
        let mut full = false;
        let ended = reader.step(|batch| {
            full = !index_batch(batch, first_dirty, map, &mut self.transactions)?;
            Ok(!full)
        })?;
        *position = reader.position;
        if ended && !full {
            let next = dirty.get(*at + 1).map_or(self.candidate.up_to, |next| next.base);
            map.saw(next - 1);
            (*at, *position) = (*at + 1, 0);
        }
        let read = reader.read;
        self.bytes.0 += read;
        if full || *at == dirty.len() {
            self.end_index()?;
        }
        Ok(Progress::More(read))
    }

    fn end_index(&mut self) -> Result<(), Trouble> {
        let end = self.map.latest() + 1;
        if end <= self.candidate.first_dirty {
            return Err(Trouble::Uncleanable(
                "the keys of one batch do not fit log.cleaner.dedupe.buffer.size".into(),
            ));
        }
        let all = self.log.segments.load();
        let old: Vec<_> = all.range(..end).map(|(_, segment)| segment.clone()).collect();
        let old = old.into_iter().filter(|it| it.base < self.candidate.up_to).collect();
        let groups = group(old, self.candidate.up_to, self.config.segment_bytes);
        let groups = groups.into_iter().rev().collect();
        self.transactions = Transactions::default();
        self.phase = Phase::Rewrite { groups, end, at: None };
        Ok(())
    }

    fn rewrite(&mut self) -> Result<Progress, Trouble> {
        let Phase::Rewrite { groups, end, at } = &mut self.phase else {
            return Ok(Progress::More(0));
        };
        let Some(group) = at else {
            let Some(old) = groups.pop() else { return Ok(Progress::Done(*end)) };
            *at = Some(Box::new(Group::begin(&self.log, old, &self.config)?));
            return Ok(Progress::More(0));
        };
        let segment = group.old[group.at].clone();
        if group.position == 0 {
            let next = self.log.segments.load().range(segment.base + 1..).next().map(|it| *it.0);
            let range = (segment.base, next.unwrap_or(Offset::MAX));
            self.transactions.expect(aborted(&self.log, range)?);
        }
        let rules = Rules {
            newest: &self.map,
            up_to: self.candidate.up_to,
            now: self.now,
            delete_retention_ms: self.config.delete_retention_ms,
            producers: &group.producers,
        };
        let (transactions, output) = (&mut self.transactions, &mut group.output);
        let mut written = 0;
        let mut reader = Reader::open(&self.log, &segment, group.position)?;
        let ended = reader.step(|batch| {
            let (left, aborted) = filter(batch, &rules, transactions)?;
            if let Some(aborted) = aborted {
                output.note_aborted(aborted);
            }
            let left = match &left {
                Left::Nothing => return Ok(true),
                Left::Same => *batch,
                Left::Less(bytes) => BatchView::first(bytes)?,
            };
            written += left.size() as u64;
            output.push(&left).map(|()| true).map_err(Stop::Io)
        })?;
        group.position = reader.position;
        let moved = reader.read + written;
        self.bytes = (self.bytes.0 + reader.read, self.bytes.1 + written);
        if ended {
            (group.at, group.position) = (group.at + 1, 0);
        }
        if group.at == group.old.len()
            && let Some(group) = at.take()
        {
            self.end_group(*group)?;
        }
        Ok(Progress::More(moved))
    }

    fn end_group(&mut self, group: Group) -> Result<(), Trouble> {
        let Group { old, output, .. } = group;
        let base = output.base;
        let new = output.finish().map_err(|error| wrong(&self.log, error))?;
        if !self.log.swap_in(&old, Arc::new(new), self.truncations)? {
            output::discard(&self.log.home, base).map_err(|error| wrong(&self.log, error))?;
            return Err(Trouble::Changed);
        }
        // The swap itself counts as two.
        self.truncations += 2;
        Ok(())
    }

    /// Blocking. After [`Progress::Done`]: the next round begins where this one has ended.
    pub fn remember(&self, end: Offset) -> Result<(), Trouble> {
        Ok(self.log.shared.set_cleaned(&self.log.partition, Some(end))?)
    }
}

impl Group {
    fn begin(log: &Log, old: Vec<Arc<Segment>>, config: &LogConfig) -> Result<Self, Trouble> {
        let output = Output::create(log.home.clone(), old[0].base, config.index_interval_bytes)
            .map_err(|error| wrong(log, error))?;
        let producers = log.producers();
        let producers = producers.iter().map(|(id, it)| (*id, LastBatch::of(it))).collect();
        Ok(Self { old, at: 0, position: 0, output, producers })
    }
}

/// Why a walk over batches ends early.
enum Stop {
    Io(io::Error),
    Damaged(RecordsError),
}

impl From<RecordsError> for Stop {
    fn from(error: RecordsError) -> Self {
        Self::Damaged(error)
    }
}

/// A part of a segment that is being read.
struct Reader<'a> {
    log: &'a Log,
    file: Arc<dyn crate::env::DiskFile>,
    base: Offset,
    size: u64,
    position: u64,
    read: u64,
}

impl<'a> Reader<'a> {
    fn open(log: &'a Log, segment: &Segment, position: u64) -> Result<Self, Trouble> {
        let file = segment.file().map_err(|error| wrong(log, error))?;
        Ok(Self { log, file, base: segment.base, size: segment.size(), position, read: 0 })
    }

    /// Shows whole batches to `see` until it says `false` or a step's worth is read. Returns whether
    /// the segment has ended.
    fn step(
        &mut self,
        mut see: impl FnMut(&BatchView<'_>) -> Result<bool, Stop>,
    ) -> Result<bool, Trouble> {
        let start = self.position;
        let mut scan = Scan::new(&*self.file, start, self.size);
        while self.read < STEP {
            let seen = match scan.next_whole() {
                Ok(None) => return Ok(true),
                Ok(Some((position, batch))) => {
                    let seen = see(&batch).map_err(|stop| (position, stop));
                    self.position = position + batch.size() as u64;
                    self.read = self.position - start;
                    seen
                }
                Err(ScanError::Damaged(position, error)) => Err((position, Stop::Damaged(error))),
                Err(ScanError::Io(error)) => Err((self.position, Stop::Io(error))),
            };
            match seen {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err((_, Stop::Io(error))) => return Err(wrong(self.log, error)),
                Err((position, Stop::Damaged(error))) => {
                    return Err(Trouble::Uncleanable(format!(
                        "segment {} at position {position}: {error}",
                        self.base
                    )));
                }
            }
        }
        Ok(self.position == self.size)
    }
}

/// `false`: a key found no room any more.
fn index_batch(
    batch: &BatchView<'_>,
    first_dirty: Offset,
    map: &mut OffsetMap,
    transactions: &mut Transactions,
) -> Result<bool, Stop> {
    if batch.is_control() {
        transactions.on_control(batch)?;
    } else if !transactions.on_data(batch) {
        let records = batch.records(MAX_DECOMPRESSED)?;
        for record in records.raw()? {
            if let Some(key) = record.key
                && record.offset >= first_dirty
                && !map.put(key, record.offset)
            {
                return Ok(false);
            }
        }
    }
    if batch.last_offset() >= first_dirty {
        map.saw(batch.last_offset());
    }
    Ok(true)
}

fn aborted(
    log: &Log,
    (from, up_to): (Offset, Offset),
) -> Result<Vec<crate::log::AbortedTransaction>, Trouble> {
    let found = log.collect_aborted(from, up_to, true).map_err(|error| wrong(log, error))?;
    Ok(found.unwrap_or_default())
}

/// Where the batch that holds `offset` begins.
fn start_in(segment: &Segment, offset: Offset) -> io::Result<u64> {
    let size = segment.size();
    Ok(segment.locate(offset, size)?.map_or(size, |place| place.position))
}

/// An error of the device concerns the whole directory; a full disk, and damaged data, do not.
fn wrong(log: &Log, error: io::Error) -> Trouble {
    let fault = Fault::Disk { path: log.dir(), source: error };
    log.shared.fail_if_broken(&fault);
    match &fault {
        Fault::Disk { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            Trouble::Uncleanable(fault.to_string())
        }
        _ => Trouble::Fault(fault),
    }
}
