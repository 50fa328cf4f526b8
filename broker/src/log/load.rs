//! Opening a partition's folder: after a clean shutdown almost nothing is read; after a crash what
//! lies past the recovery point is scanned, and a torn tail cut off.
//!
//! A segment before the recovery point is known by name and size only until somebody reads it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use super::checkpoint;
use super::config::LogConfig;
use super::epochs::Epochs;
use super::partition_log::{Log, Segments, Writer};
use super::producer_state::{self, ProducerState};
use super::segment::{Home, Segment};
use super::shared::Shared;
use crate::env::disk::Entry;
use crate::error::Fault;
use crate::types::{Millis, Offset, TopicPartition};

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

/// Blocking. Opens the log in `folder` of the directory, or begins one there.
pub(super) fn open(
    shared: &Arc<Shared>,
    partition: TopicPartition,
    config: LogConfig,
    known: Known,
) -> Result<Arc<Log>, Fault> {
    let dir = shared.path.join(partition.to_string());
    let home = Arc::new(Home { disk: shared.env.disk.clone(), dir: RwLock::new(dir.clone()) });
    let now = shared.env.clock.wall_ms();
    let disk = &*home.disk;
    let bases = tidy(&home).map_err(Fault::disk(&dir))?;
    let topic_id = checkpoint::read_topic_id(disk, &home.file(checkpoint::PARTITION_METADATA))?;
    let saved = checkpoint::read_epochs(disk, &home.file(checkpoint::EPOCHS))?;
    let mut epochs = Epochs::from_entries(saved);
    let loaded = segments(&home, bases, &config, known, &mut epochs, now);
    let mut loaded = loaded.map_err(Fault::disk(&dir))?;
    let first = loaded.segments.first_key_value().map_or(0, |(base, _)| *base);
    let start = known.start.max(first);
    if start > loaded.end {
        tracing::warn!(%partition, start, end = loaded.end, "all records lie before the log start");
        loaded = restart_at(&home, loaded, start, now).map_err(Fault::disk(&dir))?;
    }
    epochs.truncate_from_end(loaded.end);
    epochs.truncate_from_start(start);
    let expire_after = config.producer_id_expiration_ms;
    remove_stray_snapshots(&home, &loaded).map_err(Fault::disk(&dir))?;
    let mut producers =
        newest_snapshot(&home, start, loaded.end, now, expire_after).map_err(Fault::disk(&dir))?;
    let flushed = if known.clean { loaded.end } else { known.recovery_point.min(loaded.end) };
    let end = loaded.end;
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
        dirty: AtomicBool::new(false),
        truncations: AtomicI64::new(0),
        flushing: Mutex::new(()),
        deleted: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        listener: RwLock::new(None),
        writer: Mutex::new(Writer {
            active: loaded.active,
            producers: ProducerState::default(),
            unsynced: loaded.unsynced,
            snapshots: Vec::new(),
            names: true,
        }),
    });
    log.replay_producers(&mut producers, end).map_err(Fault::disk(&dir))?;
    log.writer.lock().producers = producers;
    if !known.clean {
        log.mark_dirty();
    }
    Ok(log)
}

/// Removes what interrupted work left, and returns the segments by first offset with their sizes.
fn tidy(home: &Home) -> io::Result<BTreeMap<Offset, u64>> {
    let dir = home.dir.read().clone();
    let entries = home.disk.list(&dir)?;
    let mut bases = BTreeMap::new();
    for Entry { name, len, .. } in &entries {
        let ends = |suffix: &str| name.ends_with(suffix);
        if ends(".deleted") || ends(".cleaned") || ends(".tmp") {
            home.disk.remove_file(&dir.join(name))?;
        } else if ends(".swap") {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{name}: Kafka's cleaner was interrupted here; start and stop Kafka once"),
            ));
        } else if let Some(base) = base_of(name, ".log") {
            bases.insert(base, *len);
        }
    }
    for Entry { name, .. } in &entries {
        let orphan = [".index", ".timeindex", ".txnindex"]
            .iter()
            .find_map(|extension| base_of(name, extension))
            .is_some_and(|base| !bases.contains_key(&base));
        if orphan {
            home.disk.remove_file(&dir.join(name))?;
        }
    }
    Ok(bases)
}

fn base_of(name: &str, extension: &str) -> Option<Offset> {
    name.strip_suffix(extension).filter(|base| base.len() == 20)?.parse().ok()
}

fn segments(
    home: &Arc<Home>,
    bases: BTreeMap<Offset, u64>,
    config: &LogConfig,
    known: Known,
    epochs: &mut Epochs,
    now: Millis,
) -> io::Result<Loaded> {
    let mut segments: Segments = bases
        .into_iter()
        .map(|(base, size)| (base, Arc::new(Segment::closed(home.clone(), base, size))))
        .collect();
    if segments.is_empty() {
        let active = Segment::create(home.clone(), known.start, now)?;
        segments.insert(active.base, active.clone());
        return Ok(Loaded { segments, end: active.base, active, unsynced: Vec::new() });
    }
    let trusted = if known.clean { Offset::MAX } else { known.recovery_point };
    let first = segments.range(..=trusted).next_back().map(|(base, _)| *base);
    let scanned: Vec<_> =
        segments.range(first.unwrap_or(Offset::MIN)..).map(|(_, s)| s.clone()).collect();
    let mut unsynced = Vec::new();
    for segment in scanned {
        let mut end = segment.base;
        let cut =
            segment.activate(trusted, !known.clean, config.index_interval_bytes, now, |batch| {
                end = batch.next_offset();
                if epochs.latest().is_none_or(|latest| batch.leader_epoch() > latest) {
                    epochs.assign(batch.leader_epoch(), batch.base_offset());
                }
            })?;
        if cut > 0 {
            tracing::warn!(
                dir = %home.dir.read().display(), segment = segment.base, end, bytes = cut,
                "cut off a torn tail"
            );
        }
        let next = segments.range(segment.base + 1..).next().map(|(base, _)| *base);
        // A segment begins where the one before ends: else that lost its tail, be it at the end of
        // a batch, and what follows would lie behind a gap.
        let broken = cut > 0 || next.is_some_and(|next| end != next);
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
pub(super) fn snapshots(home: &Home) -> io::Result<BTreeMap<Offset, u64>> {
    let dir = home.dir.read().clone();
    let entries = home.disk.list(&dir)?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| Some((base_of(&entry.name, ".snapshot")?, entry.len)))
        .collect())
}

/// Those that belong to no segment, but for the newest, as Kafka does.
fn remove_stray_snapshots(home: &Home, loaded: &Loaded) -> io::Result<()> {
    let all = snapshots(home)?;
    let newest = all.range(..=loaded.end).next_back().map(|(at, _)| *at);
    for at in all.keys() {
        if *at > loaded.end || Some(*at) != newest && !loaded.segments.contains_key(at) {
            home.disk.remove_file(&home.path(*at, "snapshot"))?;
        }
    }
    Ok(())
}

/// The state of the newest readable snapshot above `start` and not above `end`. Newer ones are of
/// records that are gone: they are removed, and so are damaged ones.
pub(super) fn newest_snapshot(
    home: &Home,
    start: Offset,
    end: Offset,
    now: Millis,
    expire_after: Millis,
) -> io::Result<ProducerState> {
    for at in snapshots(home)?.into_keys().rev() {
        let path = home.path(at, "snapshot");
        if at <= end && at <= start {
            break;
        }
        if at <= end {
            match producer_state::decode(&home.disk.read(&path)?) {
                Ok(entries) => {
                    return Ok(ProducerState::from_snapshot(at, entries, now, expire_after));
                }
                Err(why) => tracing::warn!(path = %path.display(), why, "removed a snapshot"),
            }
        }
        home.disk.remove_file(&path)?;
    }
    Ok(ProducerState::starting_at(start))
}
