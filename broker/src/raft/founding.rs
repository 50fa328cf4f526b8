//! The founding of a cluster: a checkpoint that names the first voter.
//!
//! `00000000000000000000-0000000000.checkpoint`, as `kafka-storage.sh format --standalone` writes
//! it: it holds kraft.version and voters, stands before the log, and is never sent to others. The
//! first leader repeats it in the log. It is written whole or not at all, so that a node either
//! has founded a cluster or has not.

use std::path::Path;

use super::batch::{self, Entry, Place};
use super::voters::{History, VoterSet};
use crate::env::{Disk, Env};
use crate::error::Fault;
use crate::wire::metadata::control::{Control, SnapshotFooter, SnapshotHeader};

const FILE: &str = "00000000000000000000-0000000000.checkpoint";

/// Writes the checkpoint; durable when this returns. Blocks.
pub fn write(env: &Env, folder: &Path, voters: &VoterSet) -> Result<(), Fault> {
    let disk = &*env.disk;
    disk.create_dir_all(folder).map_err(Fault::disk(folder))?;
    let header = SnapshotHeader { version: 0, last_contained_log_timestamp: 0 };
    let mut first = vec![Control::SnapshotHeader(header)];
    first.extend(History::to_records(voters, 1));
    let place = Place { offset: 0, epoch: 0, now: env.clock.wall_ms() };
    let mut content = batch::of_controls(&first, place).to_vec();
    let footer = Control::SnapshotFooter(SnapshotFooter { version: 0 });
    let place = Place { offset: first.len() as i64, ..place };
    content.extend_from_slice(&batch::of_controls(&[footer], place));
    let path = folder.join(FILE);
    disk.write_atomically(&path, &content).map_err(Fault::disk(path))
}

/// The control records of the checkpoint; none when there is no such file.
pub fn read(disk: &dyn Disk, folder: &Path) -> Result<Vec<Control>, Fault> {
    let path = folder.join(FILE);
    if !disk.exists(&path) {
        return Ok(Vec::new());
    }
    let content = disk.read(&path).map_err(Fault::disk(&path))?;
    let batches = batch::decode(&content)
        .map_err(|error| Fault::Corrupt { path: path.clone(), what: error.to_string() })?;
    let entries = batches.into_iter().flat_map(|batch| batch.entries);
    Ok(entries
        .filter_map(|(_, entry)| match entry {
            Entry::Control(control) => Some(control),
            Entry::Record(_) => None,
        })
        .collect())
}
