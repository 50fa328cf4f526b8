//! Room on the volume: records are refused before it is full, so that what frees space, and what
//! the cluster needs to move away, can still be written.
//!
//! The volume is asked when so much was appended that the answer may have changed, and once a
//! second while there is too little. Records of clients and of leaders may use all but the reserve,
//! those of internal topics, which are few, half of the reserve. Deletion, rolls, checkpoints and
//! the metadata log may use all of it. When space returns, so does service, without any help.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::env::Disk;
use crate::env::disk::Space;

/// With no setting the reserve is this part of the volume,
const PART: u64 = 20;
/// but not more than this.
const MOST: u64 = 1 << 30;

/// What is known of a directory's volume.
pub(super) struct Room {
    /// -1: a part of the volume.
    wanted: i64,
    reserve: AtomicI64,
    /// The volume had so much when it was asked last, less what was appended since.
    left: AtomicI64,
    /// What may be appended before it is asked again.
    until_asked: AtomicI64,
    /// Something was refused, and nothing has been admitted since.
    refusing: AtomicBool,
}

impl Room {
    pub(super) fn new(wanted: i64) -> Self {
        Self {
            wanted,
            reserve: AtomicI64::new(0),
            left: AtomicI64::new(i64::MAX),
            until_asked: AtomicI64::new(0),
            refusing: AtomicBool::new(false),
        }
    }

    /// Asks the volume. One that cannot be asked is treated as one that has no end: writing to it
    /// will tell.
    pub(super) fn ask(&self, disk: &dyn Disk, path: &Path) -> Option<Space> {
        let space = disk.space(path).ok();
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let Space { total, available } =
            space.unwrap_or(Space { total: u64::MAX, available: u64::MAX });
        let reserve = if self.wanted >= 0 { self.wanted } else { bytes((total / PART).min(MOST)) };
        self.reserve.store(reserve, Ordering::Relaxed);
        self.left.store(bytes(available), Ordering::Relaxed);
        self.until_asked.store((reserve / 16).max(1 << 16), Ordering::Relaxed);
        space
    }

    fn floor(&self, internal: bool) -> i64 {
        let reserve = self.reserve.load(Ordering::Relaxed);
        if internal { reserve / 2 } else { reserve }
    }

    /// Whether there is room for more than the reserve.
    pub(super) fn is_enough(&self, internal: bool) -> bool {
        self.left.load(Ordering::Relaxed) > self.floor(internal)
    }

    /// Takes `bytes` of what is left, or says why not.
    pub(super) fn take(
        &self,
        bytes: usize,
        internal: bool,
        disk: &dyn Disk,
        path: &Path,
    ) -> Result<(), String> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.until_asked.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            self.ask(disk, path);
        }
        let left = self.left.load(Ordering::Relaxed);
        let floor = self.floor(internal);
        if left.saturating_sub(bytes) < floor {
            let why = format!(
                "{}: the volume is almost full: {left} bytes are left, of which {floor} are kept in \
                 reserve (ottla.log.reserve.bytes); nothing is taken until space is freed",
                path.display()
            );
            if !self.refusing.swap(true, Ordering::Relaxed) {
                tracing::error!("{why}");
            }
            return Err(why);
        }
        self.left.fetch_sub(bytes, Ordering::Relaxed);
        if self.refusing.swap(false, Ordering::Relaxed) {
            tracing::info!(dir = %path.display(), left, "there is room again");
        }
        Ok(())
    }
}
