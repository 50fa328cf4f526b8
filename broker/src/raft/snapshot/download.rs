//! Fetching a snapshot from the leader, chunk by chunk.
//!
//! Pure: the driver sends a FetchSnapshot for [`Download::position`], hands the answer in, and does
//! what [`Step`] says with a [`PartFile`](super::PartFile). An answer that does not fit what came
//! before starts everything over with a new Fetch, which names the snapshot that the leader has by
//! then; so does a leader that no longer has this one.

use bytes::Bytes;

use super::{Chunk, SnapshotId};

/// One snapshot on its way to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub id: SnapshotId,
    /// What we have; the next chunk starts here.
    position: u64,
    size: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Append this and ask for more.
    Append(Bytes),
    /// Append this: then it is whole, and is to be installed.
    Finish(Bytes),
    /// Give this download up and fetch again.
    StartOver(String),
}

impl Download {
    pub fn new(id: SnapshotId) -> Self {
        Self { id, position: 0, size: None }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn on_chunk(&mut self, chunk: Chunk) -> Step {
        let over = |what: String| Step::StartOver(what);
        if chunk.id != self.id {
            return over(format!("asked for snapshot {}, got {}", self.id, chunk.id));
        }
        if chunk.position != self.position {
            return over(format!("asked for byte {}, got {}", self.position, chunk.position));
        }
        let size = *self.size.get_or_insert(chunk.size);
        let end = self.position + chunk.bytes.len() as u64;
        if chunk.size != size || end > size {
            let sent = chunk.size;
            return over(format!("a snapshot of {size} bytes became one of {sent}, {end} sent"));
        }
        if chunk.bytes.is_empty() {
            return over(format!("nothing at byte {} of {size}", self.position));
        }
        self.position = end;
        if end == size { Step::Finish(chunk.bytes) } else { Step::Append(chunk.bytes) }
    }
}
