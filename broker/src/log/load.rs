//! Opening a partition's folder: of what lies below the recovery point nothing is read but names,
//! sizes, the newest producer snapshot and the ends of the active segment's indexes; what lies past
//! it is scanned, and a torn tail cut off.
//!
//! A segment before the recovery point is known by name and size only until somebody reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use super::config::LogConfig;
use super::epochs::Epochs;
use super::partition_log::{Log, Segments, Writer};
use super::producer_state::{self, ProducerState};
use super::scan::{Scan, ScanError};
use super::segment::{Home, Segment};
use super::shared::Shared;
use super::{checkpoint, cleaner};
use crate::env::disk::Entry;
use crate::env::planted;
use crate::error::Fault;
use crate::types::{Millis, NO_EPOCH, Offset, TopicPartition};
use crate::wire::records::BatchView;

/// What the directory's checkpoints say of a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) clean: bool,
    pub(super) recovery_point: Offset,
    pub(super) start: Offset,
}

/// The recovered or newly made parts of a log.
struct Loaded {
    segments: Segments,
    active: Arc<Segment>,
    unsynced: Vec<Arc<Segment>>,
    end: Offset,
}

/// What lies in a folder.
#[derive(Default)]
struct Found {
    /// Sizes of the segments, by first offset.
    segments: BTreeMap<Offset, u64>,
    /// Those with an index of aborted transactions.
    aborted: BTreeSet<Offset>,
    snapshots: BTreeSet<Offset>,
}

impl Found {
    fn segment(&self, home: &Arc<Home>, base: Offset, size: u64) -> Segment {
        if self.aborted.contains(&base) {
            Segment::closed_with_aborted(home.clone(), base, size)
        } else {
            Segment::closed(home.clone(), base, size)
        }
    }
}

/// Blocking. Opens the log in `folder` of the directory, or begins one there.
pub(super) fn open(
    shared: &Arc<Shared>,
    partition: TopicPartition,
    folder: &str,
    config: LogConfig,
    known: Known,
) -> Result<Arc<Log>, Fault> {
    let dir = shared.path.join(folder);
    let home = Arc::new(Home { disk: shared.env.disk.clone(), dir: RwLock::new(dir.clone()) });
    let now = shared.env.clock.wall_ms();
    let mut found = tidy(&home).map_err(Fault::disk(&dir))?;
    let topic_id =
        checkpoint::read_topic_id(&*home.disk, &home.file(checkpoint::PARTITION_METADATA))?;
    let mut epochs = epochs(&home, &found)?;
    let first = found.segments.first_key_value().map_or(0, |(base, _)| *base);
    let mut start = known.start.max(first);
    let trusted = if known.clean { Offset::MAX } else { known.recovery_point };
    let expiry = (now, config.producer_id_expiration_ms);
    let mut producers = newest_snapshot(&home, &mut found.snapshots, start, trusted, expiry)
        .map_err(Fault::disk(&dir))?;
    let recovery =
        Recovery { known, trusted, epochs: &mut epochs, producers: &mut producers, complete: None };
    let mut loaded = recovery.segments(&home, &found, &config, now).map_err(Fault::disk(&dir))?;
    let new = found.segments.is_empty() || start > loaded.end;
    if start > loaded.end {
        tracing::warn!(%partition, start, end = loaded.end, "all records lie before the log start");
        loaded = restart_at(&home, loaded, start, now).map_err(Fault::disk(&dir))?;
        producers = ProducerState::starting_at(start);
    }
    start = start.max(loaded.segments.first_key_value().map_or(0, |(base, _)| *base));
    epochs.truncate_from_end(loaded.end);
    epochs.truncate_from_start(start);
    let end = loaded.end;
    if producers.end > end {
        // The snapshot is of records that are gone.
        producers = newest_snapshot(&home, &mut found.snapshots, start, end, expiry)
            .map_err(Fault::disk(&dir))?;
    }
    // What is appended from here on is not covered by what the checkpoint says.
    shared.lower_recovery_point(&partition, end)?;
    let extra =
        remove_stray_snapshots(&home, &found.snapshots, &loaded).map_err(Fault::disk(&dir))?;
    let flushed = if known.clean { end } else { known.recovery_point.min(end) };
    let any_aborted = !found.aborted.is_empty() || producers.has_unreplicated();
    let unsynced = flushed < end || epochs.dirty;
    let log = Arc::new_cyclic(|me| Log {
        me: me.clone(),
        partition,
        topic_id: Mutex::new(topic_id),
        tail: shared.cache.tail(),
        shared: shared.clone(),
        home,
        config: ArcSwap::from_pointee(config),
        segments: ArcSwap::from_pointee(loaded.segments),
        epochs: Mutex::new(epochs),
        start: AtomicI64::new(start),
        end: AtomicI64::new(end),
        flushed: AtomicI64::new(flushed),
        unstable: AtomicI64::new(Offset::MAX),
        unreplicated: AtomicBool::new(false),
        any_aborted: AtomicBool::new(any_aborted),
        dirty: AtomicBool::new(false),
        truncations: AtomicI64::new(0),
        flushing: Mutex::new(()),
        deleted: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        listener: RwLock::new(None),
        extra_snapshot: Mutex::new(extra),
        held: AtomicI64::new(Offset::MAX),
        writer: Mutex::new(Writer {
            active: loaded.active,
            producers: ProducerState::default(),
            unsynced: loaded.unsynced,
            snapshots: Vec::new(),
            names: new || unsynced,
        }),
    });
    if producers.end < end && !planted!(ProducerStateNotRecovered) {
        log.replay_producers(&mut producers, end).map_err(Fault::disk(&dir))?;
    }
    {
        let mut writer = log.writer.lock();
        writer.producers = producers;
        log.publish_unstable(&writer);
    }
    // Most logs are as the last checkpoint left them: a start is no reason to sync them all.
    if new || unsynced {
        log.mark_dirty();
    }
    Ok(log)
}

/// Removes what interrupted work left, and returns what there is.
fn tidy(home: &Home) -> io::Result<Found> {
    let dir = home.dir.read().clone();
    cleaner::finish_swaps(&*home.disk, &dir)?;
    let entries = home.disk.list(&dir)?;
    let mut found = Found::default();
    for Entry { name, len, .. } in &entries {
        let ends = |suffix: &str| name.ends_with(suffix);
        if ends(".deleted") || ends(".tmp") {
            home.disk.remove_file(&dir.join(name))?;
        } else if let Some(base) = base_of(name, ".log") {
            found.segments.insert(base, *len);
        } else if let Some(at) = base_of(name, ".snapshot") {
            found.snapshots.insert(at);
        } else if let Some(base) = base_of(name, ".txnindex") {
            found.aborted.insert(base);
        }
    }
    for Entry { name, .. } in &entries {
        let orphan = [".index", ".timeindex", ".txnindex"]
            .iter()
            .find_map(|extension| base_of(name, extension))
            .is_some_and(|base| !found.segments.contains_key(&base));
        if orphan {
            home.disk.remove_file(&dir.join(name))?;
        }
    }
    Ok(found)
}

/// The checkpoint of the epochs. One that cannot be read is built anew from all batches.
fn epochs(home: &Arc<Home>, found: &Found) -> Result<Epochs, Fault> {
    let path = home.file(checkpoint::EPOCHS);
    let fault = match checkpoint::read_epochs(&*home.disk, &path) {
        Ok(saved) => return Ok(Epochs::from_entries(saved)),
        Err(fault @ Fault::Corrupt { .. }) => fault,
        Err(fault) => return Err(fault),
    };
    tracing::warn!(%fault, "the leader epochs are read from the log");
    let mut epochs = Epochs::default();
    for (base, size) in &found.segments {
        let segment = found.segment(home, *base, *size);
        let file = segment.file().map_err(Fault::disk(&path))?;
        let mut scan = Scan::new(&*file, 0, *size);
        // What is damaged is cut off later, and its epochs with it.
        while let Some((_, batch)) = match scan.next_header() {
            Ok(next) => next,
            Err(ScanError::Damaged(..)) => None,
            Err(ScanError::Io(error)) => return Err(Fault::Disk { path, source: error }),
        } {
            enter(&mut epochs, &batch);
        }
    }
    epochs.dirty = true;
    Ok(epochs)
}

fn enter(epochs: &mut Epochs, batch: &BatchView<'_>) {
    if batch.leader_epoch() > epochs.latest().unwrap_or(NO_EPOCH) {
        epochs.assign(batch.leader_epoch(), batch.base_offset());
    }
}

fn base_of(name: &str, extension: &str) -> Option<Offset> {
    name.strip_suffix(extension).filter(|base| base.len() == 20)?.parse().ok()
}

/// Brings the segments, the epochs and the producers of a log to where its end is.
struct Recovery<'a> {
    known: Known,
    /// Below, nothing can be missing or torn.
    trusted: Offset,
    epochs: &'a mut Epochs,
    producers: &'a mut ProducerState,
    /// The scan has shown every batch since the producers' snapshot; `None`: it has not begun.
    complete: Option<bool>,
}

impl Recovery<'_> {
    fn segments(
        mut self,
        home: &Arc<Home>,
        found: &Found,
        config: &LogConfig,
        now: Millis,
    ) -> io::Result<Loaded> {
        let mut segments: Segments = found
            .segments
            .iter()
            .map(|(base, size)| (*base, Arc::new(found.segment(home, *base, *size))))
            .collect();
        if segments.is_empty() {
            let active = Segment::create(home.clone(), self.known.start, now)?;
            segments.insert(active.base, active.clone());
            return Ok(Loaded { segments, end: active.base, active, unsynced: Vec::new() });
        }
        let first = segments.range(..=self.trusted).next_back().map(|(base, _)| *base);
        let scanned: Vec<_> =
            segments.range(first.unwrap_or(Offset::MIN)..).map(|(_, s)| s.clone()).collect();
        // Only a cleaner leaves gaps: in a compacted log, or in one that was.
        let mut gaps = config.compact;
        let mut unsynced = Vec::new();
        for segment in scanned {
            let (end, cut) = self.scan(&segment, config.index_interval_bytes, now, &mut gaps)?;
            if cut > 0 {
                tracing::warn!(
                    dir = %home.dir.read().display(), segment = segment.base, end, bytes = cut,
                    "cut off a torn tail"
                );
            }
            let next = segments.range(segment.base + 1..).next().map(|(base, _)| *base);
            // Else a segment begins where the one before ends: if not, that lost its tail, be it at
            // the end of a batch, and what follows would lie behind a gap.
            let broken = cut > 0 || !gaps && next.is_some_and(|next| end != next);
            if broken {
                for (_, after) in segments.split_off(&(segment.base + 1)) {
                    tracing::warn!(segment = after.base, "removed a segment after the torn one");
                    for path in after.mark_deleted()? {
                        home.disk.remove_file(&path)?;
                    }
                }
            }
            if segments.last_key_value().is_some_and(|(base, _)| *base == segment.base) {
                return Ok(Loaded { segments, active: segment, unsynced, end });
            }
            segment.seal();
            unsynced.push(segment);
        }
        Err(io::Error::other("the last segment was not among those to open"))
    }

    /// Opens one segment and scans it from the recovery point on, or from where the producers are
    /// known. Returns its end and how many bytes were cut off.
    fn scan(
        &mut self,
        segment: &Segment,
        interval: u64,
        now: Millis,
        gaps: &mut bool,
    ) -> io::Result<(Offset, u64)> {
        let snapshot = self.producers.end;
        let indexed =
            if snapshot >= segment.base { self.trusted.min(snapshot) } else { self.trusted };
        let mut end = None;
        let mut aborted = Vec::new();
        let Self { epochs, producers, trusted, complete, .. } = self;
        let cut = segment.activate(indexed, *trusted, interval, now, |batch| {
            *gaps |= end.is_some_and(|end| batch.base_offset() > end);
            end = Some(batch.next_offset());
            enter(epochs, batch);
            // Of a control batch below the recovery point only the header was read: what it says,
            // and what follows, is replayed later.
            let header_only = batch.is_control() && batch.last_offset() < *trusted;
            let complete = complete.get_or_insert(batch.base_offset() <= producers.end);
            *complete &= !header_only;
            if *complete
                && !planted!(ProducerStateNotRecovered)
                && batch.base_offset() >= producers.end
            {
                aborted.extend(producers.replay(batch));
            }
        })?;
        if !planted!(AbortedIndexNotRecovered) {
            segment.note_aborted(&aborted);
        }
        Ok((end.unwrap_or(segment.base), cut))
    }
}

fn restart_at(home: &Arc<Home>, old: Loaded, start: Offset, now: Millis) -> io::Result<Loaded> {
    for segment in old.segments.values() {
        for path in segment.mark_deleted()? {
            home.disk.remove_file(&path)?;
        }
    }
    let active = Segment::create(home.clone(), start, now)?;
    let segments = Segments::from([(start, active.clone())]);
    Ok(Loaded { segments, active, unsynced: Vec::new(), end: start })
}

/// The producer snapshots of a partition, oldest first.
pub(super) fn snapshots(home: &Home) -> io::Result<BTreeSet<Offset>> {
    let dir = home.dir.read().clone();
    let entries = home.disk.list(&dir)?;
    Ok(entries.into_iter().filter_map(|entry| base_of(&entry.name, ".snapshot")).collect())
}

/// Removes those that are of records that are gone or that belong to no segment, as Kafka does, but
/// for the newest. Returns that if it belongs to none.
fn remove_stray_snapshots(
    home: &Home,
    found: &BTreeSet<Offset>,
    loaded: &Loaded,
) -> io::Result<Option<Offset>> {
    let newest = found.range(..=loaded.end).next_back().copied();
    let belongs = |at: &Offset| loaded.segments.contains_key(at);
    for at in found {
        if *at > loaded.end || Some(*at) != newest && !belongs(at) {
            home.disk.remove_file(&home.path(*at, "snapshot"))?;
        }
    }
    Ok(newest.filter(|at| !belongs(at)))
}

/// The state of the newest readable snapshot above `start` and not above `end`; damaged ones are
/// removed.
pub(super) fn newest_snapshot(
    home: &Home,
    found: &mut BTreeSet<Offset>,
    start: Offset,
    end: Offset,
    (now, expire_after): (Millis, Millis),
) -> io::Result<ProducerState> {
    while let Some(at) = found.range(..=end).next_back().copied().filter(|at| *at > start) {
        let path = home.path(at, "snapshot");
        match producer_state::decode(&home.disk.read(&path)?) {
            Ok(entries) => {
                return Ok(ProducerState::from_snapshot(at, entries, now, expire_after));
            }
            Err(why) => tracing::warn!(path = %path.display(), why, "removed a snapshot"),
        }
        home.disk.remove_file(&path)?;
        found.remove(&at);
    }
    Ok(ProducerState::starting_at(start))
}
