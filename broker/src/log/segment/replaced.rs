//! What the cleaner and transactions ask of a segment: to change its names, to give way to another,
//! and which transactions were aborted in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, RwLock};

use super::{Home, Segment};
use crate::log::aborted::{AbortedIndex, AbortedTransaction};
use crate::types::Offset;

impl Segment {
    /// As [`Self::closed`], with an index of aborted transactions on the disk.
    pub(in crate::log) fn closed_with_aborted(home: Arc<Home>, base: Offset, size: u64) -> Self {
        let aborted = Mutex::new(AbortedIndex::closed(true));
        Self { aborted, ..Self::closed(home, base, size) }
    }

    /// A closed segment whose files end with `.swap`.
    pub(in crate::log) fn being_swapped(
        home: Arc<Home>,
        base: Offset,
        size: u64,
        with_aborted: bool,
    ) -> Self {
        let aborted = Mutex::new(AbortedIndex::closed(with_aborted));
        Self { aborted, swapping: RwLock::new(true), ..Self::closed(home, base, size) }
    }

    /// Runs `rename`, which takes `.swap` off the names of the files; who opens them meanwhile waits.
    pub(in crate::log) fn take_final_name(
        &self,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut swapping = self.swapping.write();
        rename()?;
        *swapping = false;
        Ok(())
    }

    /// Its files are about to be another segment's: from here on nothing is written to them.
    pub(in crate::log) fn retire(&self) {
        let _not_while_rebuilding = self.state.lock();
        self.retired.store(true, Ordering::Release);
    }

    /// Enters transactions whose abort marker lies here. Nothing if the segment is closed.
    pub(in crate::log) fn note_aborted(&self, aborted: &[AbortedTransaction]) {
        let mut index = self.aborted.lock();
        for entry in aborted {
            index.append(*entry);
        }
    }

    pub(in crate::log) fn has_aborted(&self) -> bool {
        self.aborted.lock().is_present()
    }

    /// As [`AbortedIndex::collect`]. `cold`: may wait for the disk; else `None` where it would.
    pub(in crate::log) fn aborted_in(
        &self,
        range: (Offset, Offset),
        cold: bool,
        found: &mut Vec<AbortedTransaction>,
    ) -> io::Result<Option<bool>> {
        let index = self.aborted.lock();
        if index.is_present() && !index.is_open() && !cold {
            return Ok(None);
        }
        index.collect(&*self.home.disk, &self.path("txnindex"), range, found).map(Some)
    }
}
