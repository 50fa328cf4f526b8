//! Puts a cleaned segment in the place of those that it stands for, so that a crash at any step
//! leaves either them or it.
//!
//! The order is Kafka's, made safe against a loss of any rename that was not synced:
//! 1. the new files are durable as `.cleaned`: while there is one, a start goes back;
//! 2. they are renamed to `.swap`: from here on, a start goes forward;
//! 3. the old `.log` files are renamed to `.deleted`, then their indexes;
//! 4. the new `.log` gets its final name, then its indexes.
//!
//! Readers see the new segment from step 2 on. A reader that had found an old one opens files by
//! name, so it fails or reads something else; the count of truncations tells it, and it asks again.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::output::{CLEANED, EXTENSIONS, SWAP};
use crate::env::Disk;
use crate::env::disk::Open;
use crate::error::Fault;
use crate::log::load;
use crate::log::partition_log::Log;
use crate::log::scan::{Scan, ScanError};
use crate::log::segment::{Home, Segment};
use crate::types::Offset;

impl Log {
    /// Blocking. Replaces `old` by `new`, whose files end with `.cleaned`. `false`: the log has
    /// changed since `truncations` was read, so nothing was done.
    pub(super) fn swap_in(
        &self,
        old: &[Arc<Segment>],
        new: Arc<Segment>,
        truncations: i64,
    ) -> Result<bool, Fault> {
        let _no_flush = self.flushing.lock();
        let segments = self.segments.load_full();
        let same =
            |old: &Arc<Segment>| segments.get(&old.base).is_some_and(|now| Arc::ptr_eq(old, now));
        let unchanged = self.truncations.load(Ordering::Acquire) == truncations
            && !self.deleted.load(Ordering::Acquire)
            && old.iter().all(same);
        if !unchanged {
            return Ok(false);
        }
        // Half a swap is not a log that goes on: a start finishes it.
        self.do_swap(old, &new).map_err(Fault::disk(self.dir())).inspect_err(|fault| {
            self.shared.fail(fault);
        })?;
        Ok(true)
    }

    fn do_swap(&self, old: &[Arc<Segment>], new: &Arc<Segment>) -> io::Result<()> {
        let (home, disk) = (&*self.home, &*self.home.disk);
        let sync = || disk.sync_dir(&self.dir());
        for extension in EXTENSIONS {
            rename(
                home,
                new.base,
                &format!("{extension}.{CLEANED}"),
                &format!("{extension}.{SWAP}"),
            )?;
        }
        sync()?;
        for segment in old {
            segment.retire();
        }
        {
            let _no_roll = self.writer.lock();
            self.publish_segments(|segments| {
                for segment in old {
                    segments.remove(&segment.base);
                }
                segments.insert(new.base, new.clone());
            });
        }
        if new.has_aborted() {
            self.any_aborted.store(true, Ordering::Release);
        }
        let due = self.shared.env.clock.wall_ms() + self.config.load().file_delete_delay_ms;
        let mut doomed = Vec::new();
        // An index without its log is removed at a start, but a log without its index is read.
        for extensions in [&EXTENSIONS[..1], &EXTENSIONS[1..]] {
            for segment in old {
                for extension in extensions {
                    let to = format!("{extension}.deleted");
                    if rename(home, segment.base, extension, &to)? {
                        doomed.push(home.path(segment.base, &to));
                    }
                }
            }
            sync()?;
        }
        self.truncations.fetch_add(1, Ordering::AcqRel);
        new.take_final_name(|| {
            rename(home, new.base, &format!("log.{SWAP}"), "log")?;
            sync()?;
            for extension in &EXTENSIONS[1..] {
                rename(home, new.base, &format!("{extension}.{SWAP}"), extension)?;
            }
            sync()
        })?;
        self.truncations.fetch_add(1, Ordering::AcqRel);
        for at in load::snapshots(home)? {
            if at != new.base && old.iter().any(|segment| segment.base == at) {
                rename(home, at, "snapshot", "snapshot.deleted")?;
                doomed.push(home.path(at, "snapshot.deleted"));
            }
        }
        self.shared.remove_later(doomed, due);
        Ok(())
    }
}

/// Returns whether there was such a file.
fn rename(home: &Home, base: Offset, from: &str, to: &str) -> io::Result<bool> {
    match home.disk.rename(&home.path(base, from), &home.path(base, to)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Blocking. Before the files of `dir` are looked at: brings a swap that was interrupted to an end,
/// or removes its traces; the one that Kafka's cleaner left as well.
pub(in crate::log) fn finish_swaps(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let names: Vec<_> = disk.list(dir)?.into_iter().map(|entry| entry.name).collect();
    let parse = |name: &str, suffix: &str| {
        let (base, extension) = name.strip_suffix(suffix)?.strip_suffix('.')?.split_once('.')?;
        Some((base.parse::<Offset>().ok()?, extension.to_owned()))
    };
    let cleaned: Vec<_> = names.iter().filter_map(|name| parse(name, CLEANED)).collect();
    let mut swaps: BTreeSet<_> = names.iter().filter_map(|name| parse(name, SWAP)).collect();
    if cleaned.is_empty() && swaps.is_empty() {
        return Ok(());
    }
    tracing::warn!(dir = %dir.display(), "a cleaner was interrupted here");
    let path = |base: Offset, name: &str| dir.join(format!("{base:020}.{name}"));
    if let Some(first) = cleaned.iter().map(|(base, _)| *base).min() {
        // Its files are not whole yet: what it stands for is still there.
        let kept = swaps.iter().filter(|(base, _)| *base < first).cloned().collect();
        for (base, extension) in swaps.difference(&kept) {
            disk.remove_file(&path(*base, &format!("{extension}.{SWAP}")))?;
        }
        disk.sync_dir(dir)?;
        for (base, extension) in &cleaned {
            disk.remove_file(&path(*base, &format!("{extension}.{CLEANED}")))?;
        }
        swaps = kept;
    }
    for (base, _) in swaps.iter().filter(|(_, extension)| extension == "log") {
        let end = end_of(disk, &path(*base, &format!("log.{SWAP}")), *base)?;
        for name in &names {
            let Some((at, extension)) = name.split_once('.') else { continue };
            let Ok(at) = at.parse::<Offset>() else { continue };
            if (*base..end).contains(&at) && EXTENSIONS.contains(&extension) {
                disk.remove_file(&dir.join(name))?;
            }
        }
        disk.sync_dir(dir)?;
        disk.rename(&path(*base, &format!("log.{SWAP}")), &path(*base, "log"))?;
    }
    disk.sync_dir(dir)?;
    for (base, extension) in swaps.iter().filter(|(_, extension)| extension != "log") {
        disk.rename(&path(*base, &format!("{extension}.{SWAP}")), &path(*base, extension))?;
    }
    disk.sync_dir(dir)
}

/// Where the segment ends; past its base at least.
fn end_of(disk: &dyn Disk, path: &Path, base: Offset) -> io::Result<Offset> {
    let file = disk.open(path, Open::Read)?;
    let mut scan = Scan::new(&*file, 0, file.len()?);
    let mut end = base + 1;
    while let Some((_, batch)) = scan.next_header().map_err(ScanError::into_io)? {
        end = end.max(batch.next_offset());
    }
    Ok(end)
}
