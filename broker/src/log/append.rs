//! Appending: judge the batches outside the lock, then place them with one write inside it.

use std::io;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::aborted::AbortedTransaction;
use super::config::{FlushPolicy, LogConfig};
use super::partition_log::{Log, Writer};
use super::producer_state::{self, Appending, Origin, Verdict};
use super::segment::Segment;
use crate::env::planted;
use crate::error::{ErrorCode, Fault, Refusal, is_full};
use crate::types::{LeaderEpoch, Millis, Offset};
use crate::wire::records::{
    BatchMut, BatchView, Batches, MAX_DECOMPRESSED, NO_TIMESTAMP, Record, Summary, TimestampType,
    recompress,
};

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub first_offset: Offset,
    pub last_offset: Offset,
    /// The broker's time where the topic asks for it, else -1: as a produce response has it.
    pub append_time: Millis,
    pub start_offset: Offset,
    pub max_timestamp: Millis,
    pub bytes: usize,
    pub records: usize,
    /// Nothing was written: an idempotent producer sent this batch before.
    pub duplicate: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A follower's append that would not go on where the log ends.
    #[error("the log ends at {end}, the batch begins at {first}")]
    Unexpected { end: Offset, first: Offset },
    /// This broker's disk failed or is full; nothing was appended.
    #[error("{0}")]
    Storage(String),
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Refused(refusal) => refusal,
            AppendError::Storage(why) => Self::new(ErrorCode::KafkaStorageError, why),
            AppendError::Unexpected { .. } => {
                Self::new(ErrorCode::InvalidRecord, error.to_string())
            }
        }
    }
}

fn refuse<T>(code: ErrorCode, message: String) -> Result<T, AppendError> {
    Err(AppendError::Refused(Refusal::new(code, message)))
}

impl Log {
    /// Appends one or more whole batches as the leader of `epoch`: assigns offsets, checks sizes,
    /// timestamps and producers. When `batches` is the only handle to its bytes they are patched
    /// in place; else they are copied once, which also lets go of the frame they came in.
    pub fn append_as_leader(
        &self,
        batches: Bytes,
        epoch: LeaderEpoch,
        appending: impl Into<Appending>,
        now: Millis,
    ) -> Result<Appended, AppendError> {
        let mut appending = appending.into();
        let origin = appending.origin;
        let config = self.config.load_full();
        appending.verified &= config.verify_transactions;
        let mut bytes = prepare(batches, &config, origin, now)?;
        let mut writer = self.writer.lock();
        let first_offset = self.end.load(Ordering::Relaxed);
        let mut next = first_offset;
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let mut batch = BatchMut::first(rest).map_err(Refusal::from)?;
            if origin == Origin::Raft && batch.view().leader_epoch() != epoch {
                return refuse(
                    ErrorCode::InvalidRecord,
                    format!("a batch of epoch {}, not {epoch}", batch.view().leader_epoch()),
                );
            }
            batch.set_base_offset(next);
            batch.set_leader_epoch(epoch);
            next = batch.view().next_offset();
            let size = batch.view().size();
            rest = &mut rest[size..];
        }
        let bytes = bytes.freeze();
        let append_time = match config.timestamp_type {
            TimestampType::CreateTime => NO_TIMESTAMP,
            TimestampType::LogAppendTime => now,
        };
        let views = || Batches::new(&bytes).map_while(Result::ok);
        let changes = match writer.producers.check(views(), appending)? {
            Verdict::Append(changes) => changes,
            Verdict::Duplicate(before) => {
                return Ok(Appended {
                    first_offset: before.first_offset(),
                    last_offset: before.last_offset,
                    // Whatever the topic asks for: Kafka tells the time of the first one.
                    append_time: before.timestamp,
                    start_offset: self.start_offset(),
                    max_timestamp: before.timestamp,
                    bytes: 0,
                    records: 0,
                    duplicate: true,
                });
            }
        };
        let mut appended = self.place(&mut writer, &config, &bytes, now)?;
        let aborted = writer.producers.commit(changes, next);
        self.note_aborted(&writer, &aborted);
        self.publish_unstable(&writer);
        appended.append_time = append_time;
        drop(writer);
        self.mark_dirty();
        Ok(appended)
    }

    /// Appends batches that a leader's log has, with their offsets and epochs. A cut-off last
    /// batch, with which a fetch response may end, is left out.
    pub fn append_as_follower(&self, batches: Bytes) -> Result<Appended, AppendError> {
        let config = self.config.load_full();
        let whole = Batches::whole(&batches).map_err(Refusal::from)?;
        let batches = batches.slice(..whole);
        let mut last = None;
        for batch in Batches::new(&batches).map_while(Result::ok) {
            batch.check().map_err(Refusal::from)?;
            if last.is_some_and(|last| batch.base_offset() <= last) {
                return refuse(ErrorCode::InvalidRecord, "offsets do not ascend".into());
            }
            last = Some(batch.last_offset());
        }
        let mut writer = self.writer.lock();
        let end = self.end.load(Ordering::Relaxed);
        let mut total = Appended::nothing(end, self.start_offset());
        if batches.is_empty() {
            return Ok(total);
        }
        let first = BatchView::first(&batches).map_err(Refusal::from)?.base_offset();
        if first < end {
            return Err(AppendError::Unexpected { end, first });
        }
        total.first_offset = first;
        let now = self.shared.env.clock.wall_ms();
        let mut rest = batches;
        while !rest.is_empty() {
            let run = rest.split_to(run_length(&rest, config.segment_bytes));
            let part = self.place(&mut writer, &config, &run, now)?;
            for batch in Batches::new(&run).map_while(Result::ok) {
                if !planted!(FollowerKeepsNoProducerState) {
                    let aborted = writer.producers.replay(&batch);
                    self.note_aborted(&writer, &aborted);
                }
            }
            self.publish_unstable(&writer);
            total.last_offset = part.last_offset;
            total.bytes += part.bytes;
            total.records += part.records;
            total.max_timestamp = total.max_timestamp.max(part.max_timestamp);
        }
        drop(writer);
        self.mark_dirty();
        Ok(total)
    }

    /// Writes `bytes`, whose headers are final, and publishes them.
    fn place(
        &self,
        writer: &mut Writer,
        config: &LogConfig,
        bytes: &Bytes,
        now: Millis,
    ) -> Result<Appended, AppendError> {
        if let Some(why) = self.shared.why_offline() {
            return Err(AppendError::Storage(format!("the log directory is offline: {why}")));
        }
        if self.deleted.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Storage("the log was deleted or closed".into()));
        }
        let end = self.end.load(Ordering::Relaxed);
        let full = self.shared.take_room(bytes.len(), self.is_internal());
        full.map_err(AppendError::Storage)?;
        let mut appended = Appended::nothing(end, self.start_offset());
        appended.max_timestamp = Millis::MIN;
        for (index, batch) in Batches::new(bytes).map_while(Result::ok).enumerate() {
            if index == 0 {
                appended.first_offset = batch.base_offset();
            }
            appended.last_offset = batch.last_offset();
            appended.max_timestamp = appended.max_timestamp.max(batch.max_timestamp());
            appended.records += batch.count().max(0) as usize;
        }
        appended.bytes = bytes.len();
        let (last, newest) = (appended.last_offset, appended.max_timestamp);
        if writer.active.is_due(config, bytes.len() as u64, last, newest, now) {
            // At the end, not at the first offset, so that recovery can tell a gap that a leader's
            // cleaner made from a lost tail; unless the gap is too wide for the index.
            let too_wide = last - end > i64::from(i32::MAX);
            let base = if too_wide { appended.first_offset } else { end };
            self.roll(writer, base, now).map_err(|error| self.storage(error))?;
        }
        let written = writer.active.append(bytes, config.index_interval_bytes);
        if let Err((error, cut_back)) = written {
            if let Some(error) = cut_back {
                self.shared.fail(&Fault::Disk { path: self.dir(), source: error });
            }
            return Err(self.storage(error));
        }
        {
            let mut epochs = self.epochs.lock();
            for batch in Batches::new(bytes).map_while(Result::ok) {
                epochs.assign(batch.leader_epoch(), batch.base_offset());
            }
        }
        self.tail.push(appended.first_offset, last + 1, bytes.clone());
        self.end.store(last + 1, Ordering::Release);
        Ok(appended)
    }

    /// Begins a new segment at `base`, at or past the end. Syncing the old one is the flusher's.
    pub(super) fn roll(&self, writer: &mut Writer, base: Offset, now: Millis) -> io::Result<()> {
        let config = self.config.load();
        if config.compact && config.flush == FlushPolicy::Sync {
            // Recovery takes a gap in a compacted log for the cleaner's work, so a crash must not
            // leave one: what follows a segment is written when that is durable.
            writer.active.sync()?;
        }
        let new = Segment::create(self.home.clone(), base, now)?;
        let old = std::mem::replace(&mut writer.active, new.clone());
        old.seal();
        if old.base == base {
            // An empty segment begins where its successor does: there is only one such file.
            writer.unsynced.retain(|segment| segment.base != base);
        } else {
            writer.unsynced.push(old);
        }
        writer.names = true;
        if writer.producers.end > writer.producers.snapshot_at {
            let end = writer.producers.end;
            let snapshot = producer_state::encode(writer.producers.producers());
            writer.snapshots.push((end, snapshot));
            writer.producers.snapshot_at = end;
        }
        self.publish_segments(|segments| {
            segments.insert(base, new);
        });
        self.mark_dirty();
        Ok(())
    }

    /// The active segment has the markers of what was just appended.
    fn note_aborted(&self, writer: &Writer, aborted: &[AbortedTransaction]) {
        if !aborted.is_empty() {
            writer.active.note_aborted(aborted);
            self.any_aborted.store(true, Ordering::Release);
        }
    }

    /// A full disk is told to the client and may pass; any other error takes the directory offline.
    fn storage(&self, error: io::Error) -> AppendError {
        let why = format!("{}: {error}", self.dir().display());
        if !is_full(&error) {
            self.shared.fail(&Fault::Disk { path: self.dir(), source: error });
        }
        AppendError::Storage(why)
    }
}

impl Appended {
    fn nothing(end: Offset, start_offset: Offset) -> Self {
        Self {
            first_offset: end,
            last_offset: end - 1,
            append_time: NO_TIMESTAMP,
            start_offset,
            max_timestamp: NO_TIMESTAMP,
            bytes: 0,
            records: 0,
            duplicate: false,
        }
    }
}

/// How many bytes at the start belong into one segment at most: whole batches, at least one.
fn run_length(bytes: &[u8], segment_bytes: u64) -> usize {
    let mut length = 0;
    let mut base = None;
    for batch in Batches::new(bytes).map_while(Result::ok) {
        let base = *base.get_or_insert(batch.base_offset());
        let too_far = batch.last_offset() - base > i64::from(i32::MAX);
        if length > 0 && ((length + batch.size()) as u64 > segment_bytes || too_far) {
            break;
        }
        length += batch.size();
    }
    length
}

/// Checks all that can be checked without the log, and makes the bytes ours to patch.
fn prepare(
    batches: Bytes,
    config: &LogConfig,
    origin: Origin,
    now: Millis,
) -> Result<BytesMut, AppendError> {
    let mut renew = false;
    let mut recode = false;
    if batches.is_empty() {
        return refuse(ErrorCode::InvalidRecord, "a produce request without a record batch".into());
    }
    for batch in Batches::new(&batches) {
        let batch = batch.map_err(Refusal::from)?;
        if origin != Origin::Raft && batch.size() > config.max_message_bytes {
            return refuse(
                ErrorCode::MessageTooLarge,
                format!(
                    "the record batch has {} bytes, {} are allowed",
                    batch.size(),
                    config.max_message_bytes
                ),
            );
        }
        let summary = if origin == Origin::Client {
            batch.check_from_client().map_err(Refusal::from)?
        } else {
            batch.check().map_err(Refusal::from)?;
            None
        };
        if origin != Origin::Raft && !batch.is_control() {
            check_contents(&batch, summary, config, origin, now)?;
            renew |= config.timestamp_type == TimestampType::LogAppendTime;
            renew |= summary.is_some_and(|found| found.max_timestamp != batch.max_timestamp());
            recode |= config.compression.is_some_and(|how| how.id() != batch.compression_id());
        }
    }
    if origin != Origin::Raft && batches.len() as u64 > config.segment_bytes {
        return refuse(
            ErrorCode::RecordListTooLarge,
            format!("{} bytes do not fit a segment of {}", batches.len(), config.segment_bytes),
        );
    }
    let mut bytes = match (recode, config.compression) {
        (true, Some(how)) => recompress(&batches, how).map_err(Refusal::from)?,
        _ => batches.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
    };
    if renew {
        renew_timestamps(&mut bytes, config, now)?;
    }
    Ok(bytes)
}

/// Timestamps within bounds, keys where the topic is compacted.
fn check_contents(
    batch: &BatchView<'_>,
    summary: Option<Summary>,
    config: &LogConfig,
    origin: Origin,
    now: Millis,
) -> Result<(), AppendError> {
    if config.compact && origin == Origin::Client {
        let found = if let Some(found) = summary {
            found
        } else {
            let records = batch.records(MAX_DECOMPRESSED).map_err(Refusal::from)?;
            records.summary().map_err(Refusal::from)?
        };
        if found.null_keys {
            let message = "a compacted topic cannot accept a message without a key";
            let refusal = Refusal::new(ErrorCode::InvalidRecord, message);
            return Err(refusal.of_records(at_fault(batch, |it| it.key.is_none())).into());
        }
    }
    if config.timestamp_type == TimestampType::LogAppendTime || origin != Origin::Client {
        return Ok(());
    }
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        let message = "a producer should not set the timestamp type to LogAppendTime";
        let refusal = Refusal::new(ErrorCode::InvalidTimestamp, message);
        return Err(refusal.of_records(at_fault(batch, |_| true)).into());
    }
    // The records of a compressed batch stay closed: its header has to answer for them.
    let (oldest, newest) = summary.map_or_else(
        || (batch.base_timestamp(), batch.max_timestamp()),
        |found| (found.min_timestamp, found.max_timestamp),
    );
    let out_of_range = |time: Millis| {
        time != NO_TIMESTAMP
            && (now.saturating_sub(time) > config.timestamp_before_max_ms
                || time.saturating_sub(now) > config.timestamp_after_max_ms)
    };
    if out_of_range(oldest) || out_of_range(newest) {
        let message = format!(
            "timestamps {oldest} to {newest} are out of range: {} before and {} after {now} are allowed",
            config.timestamp_before_max_ms, config.timestamp_after_max_ms
        );
        let refusal = Refusal::new(ErrorCode::InvalidTimestamp, message);
        return Err(refusal.of_records(at_fault(batch, |it| out_of_range(it.timestamp))).into());
    }
    Ok(())
}

/// The indexes of the records that a refusal is about. A batch that cannot be opened has none.
fn at_fault(batch: &BatchView<'_>, wrong: impl Fn(&Record<'_>) -> bool) -> Vec<i32> {
    let Ok(records) = batch.records(MAX_DECOMPRESSED) else { return Vec::new() };
    let indexes = (0..).zip(records.iter().map_while(Result::ok));
    indexes.filter(|(_, record)| wrong(record)).map(|(index, _)| index).collect()
}

fn renew_timestamps(bytes: &mut [u8], config: &LogConfig, now: Millis) -> Result<(), AppendError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut batch = BatchMut::first(rest).map_err(Refusal::from)?;
        let size = batch.view().size();
        if config.timestamp_type == TimestampType::LogAppendTime {
            batch.set_append_time(now);
        } else if batch.view().compression_id() == 0 {
            let found = batch
                .view()
                .records(0)
                .and_then(|records| records.summary())
                .map_err(Refusal::from)?;
            if found.max_timestamp != batch.view().max_timestamp() {
                batch.set_max_timestamp(found.max_timestamp);
            }
        }
        rest = &mut rest[size..];
    }
    Ok(())
}
