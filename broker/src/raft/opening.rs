//! What a replica finds on its disk and in its settings when it is opened, and what is sound.

use std::path::Path;

use super::batch::{self, Entry};
use super::log::MetadataLog;
use super::messages::ReplicaKey;
use super::snapshot::Contents;
use super::voters::{BEFORE_THE_LOG, Endpoint, History, Voter, VoterSet};
use super::{founding, log, state};
use crate::config::Settings;
use crate::env::Env;
use crate::error::Fault;
use crate::log::uuid_to_text;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::metadata::control::{Control, KRaftVersion};
use crate::wire::records::{BatchView, Batches};

/// The kraft.versions that this software supports.
pub const KRAFT_VERSIONS: (i16, i16) = (0, 1);
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Where other nodes find this one's controller. A listener on every address has to be named: as
/// the settings' voters name this node, or as its broker is advertised, or as this very machine.
pub fn endpoints(settings: &Settings) -> Vec<Endpoint> {
    let listeners = &settings.listeners;
    let is_named = |host: &str| !matches!(host, "" | "0.0.0.0" | "::");
    let voter = settings.quorum.voters.iter().find(|voter| voter.id == settings.node_id);
    let broker = listeners.advertised.iter().find(|it| it.listener == listeners.inter_broker);
    let broker = broker.map(|it| it.host.as_str()).filter(|host| is_named(host));
    let host = voter.map(|voter| voter.host.as_str()).or(broker).unwrap_or("localhost");
    let endpoint = |it: &crate::config::Endpoint| Endpoint {
        listener: it.listener.clone(),
        host: if is_named(&it.host) { it.host.clone() } else { host.to_owned() },
        port: it.port,
    };
    listeners.advertised_controller.iter().map(endpoint).collect()
}

/// The voters before the log: the founding checkpoint's, else those of the settings; then the log's.
pub(super) fn history(
    env: &Env,
    settings: &Settings,
    metadata: &MetadataLog,
) -> Result<History, Fault> {
    let fixed = settings.quorum.voters.iter().map(|voter| Voter {
        key: ReplicaKey::new(voter.id, uuid::Uuid::nil()),
        endpoints: vec![Endpoint {
            listener: settings.listeners.controller.first().cloned().unwrap_or_default(),
            host: voter.host.clone(),
            port: voter.port,
        }],
        versions: KRAFT_VERSIONS,
    });
    let mut history = History::fixed(VoterSet::of(fixed));
    for control in founding::read(&*env.disk, metadata.folder())? {
        history.replay(BEFORE_THE_LOG, &control);
    }
    let mut from = metadata.start_offset();
    if let Some(newest) = metadata.snapshots().newest_image() {
        note_contents(&mut history, &newest);
        from = newest.id.end_offset;
    }
    while from < metadata.end_offset() {
        let bytes = metadata.read(from, metadata.end_offset(), CHUNK)?;
        for (offset, control) in controls(&bytes) {
            history.replay(offset, &control);
        }
        let last = Batches::new(&bytes).filter_map(Result::ok).last();
        from = last.map_or(metadata.end_offset(), |batch| batch.next_offset());
    }
    Ok(history)
}

/// What a snapshot says of the quorum holds from its last record on.
pub(super) fn note_contents(history: &mut History, contents: &Contents) {
    let Some(kraft) = &contents.kraft else { return };
    let at = contents.id.end_offset - 1;
    let kraft_version = kraft.kraft_version;
    history.replay(at, &Control::KRaftVersion(KRaftVersion { version: 0, kraft_version }));
    if let Some(voters) = &kraft.voters {
        history.replay(at, &Control::Voters(voters.clone()));
    }
}

/// The control records in whole batches.
pub(super) fn controls(bytes: &[u8]) -> Vec<(Offset, Control)> {
    let mut found = Vec::new();
    for batch in Batches::new(bytes).filter_map(Result::ok).filter(BatchView::is_control) {
        let decoded = batch::decode(batch.bytes()).unwrap_or_default();
        for (offset, entry) in decoded.into_iter().flat_map(|it| it.entries) {
            if let Entry::Control(control) = entry {
                found.push((offset, control));
            }
        }
    }
    found
}

/// How many bytes are whole batches that continue the log.
pub(super) fn sound(
    bytes: &[u8],
    mut expected: Offset,
    mut epoch: LeaderEpoch,
    current: LeaderEpoch,
) -> Result<usize, String> {
    let whole = Batches::whole(bytes).map_err(|error| error.to_string())?;
    for batch in Batches::new(&bytes[..whole]) {
        let batch = batch.map_err(|error| error.to_string())?;
        batch.check().map_err(|error| error.to_string())?;
        let (first, of) = (batch.base_offset(), batch.leader_epoch());
        if first != expected || of < epoch || of > current {
            return Err(format!("a batch at {first} of epoch {of} cannot follow {expected}"));
        }
        (expected, epoch) = (batch.next_offset(), of);
    }
    Ok(whole)
}

/// The voters of a new cluster: its founder.
pub fn founders(settings: &Settings, me: ReplicaKey) -> VoterSet {
    VoterSet::of([Voter { key: me, endpoints: endpoints(settings), versions: KRAFT_VERSIONS }])
}

/// Whether a metadata directory has nothing that a founder would overwrite.
pub fn is_empty(env: &Env, dir: &Path) -> Result<bool, Fault> {
    let folder = dir.join(log::FOLDER);
    if !env.disk.exists(&folder) {
        return Ok(true);
    }
    let entries = env.disk.list(&folder).map_err(Fault::disk(&folder))?;
    let counts = |name: &str| name == state::FILE || name.ends_with(".checkpoint");
    let holds = entries.iter().any(|it| {
        counts(&it.name)
            || (Path::new(&it.name).extension().is_some_and(|e| e == "log") && it.len > 0)
    });
    Ok(!holds)
}

/// For messages: id and directory.
pub fn name(key: ReplicaKey) -> String {
    format!("{}@{}", key.id, uuid_to_text(key.directory))
}
