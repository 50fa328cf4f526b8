//! What tells one log directory from another, and what the names of its folders mean.

use std::path::Path;

use super::dir::LogDirOptions;
use super::meta_properties::MetaProperties;
use crate::env::Env;
use crate::error::Fault;
use crate::types::{BrokerEpoch, TopicPartition};

pub(super) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// Ends the names of folders that go, that nobody claims, and that are not complete yet.
pub(super) const DELETED: &str = "delete";
pub(super) const STRAY: &str = "stray";
pub(super) const FUTURE: &str = "future";

/// Reads `meta.properties`, or writes it into a directory that is new.
pub(super) fn identify(env: &Env, options: &LogDirOptions) -> Result<MetaProperties, Fault> {
    let path = &options.path;
    let Some(meta) = MetaProperties::read(&*env.disk, path)? else {
        let meta = MetaProperties {
            cluster_id: options.cluster_id.clone(),
            node_id: options.node_id,
            directory_id: env.random.uuid(),
        };
        meta.write(&*env.disk, path)?;
        return Ok(meta);
    };
    let wrong = |what: &str, theirs: &str, ours: &str| {
        Fault::Start(format!(
            "{}: the log directory belongs to {what} {theirs}, not to {ours}",
            path.display()
        ))
    };
    if meta.cluster_id != options.cluster_id {
        return Err(wrong("cluster", &meta.cluster_id, &options.cluster_id));
    }
    if meta.node_id != options.node_id {
        return Err(wrong("node", &meta.node_id.to_string(), &options.node_id.to_string()));
    }
    Ok(meta)
}

/// The marker's broker epoch; -1 when it has none that can be read, as an older Kafka leaves it.
pub(super) fn read_clean_shutdown(env: &Env, dir: &Path) -> Option<BrokerEpoch> {
    let path = dir.join(CLEAN_SHUTDOWN);
    if !env.disk.exists(&path) {
        return None;
    }
    let content = env.disk.read(&path).unwrap_or_default();
    let content = String::from_utf8_lossy(&content).into_owned();
    let epoch = content.split("\"brokerEpoch\"").nth(1).and_then(|rest| {
        let digits = rest.trim_start_matches([':', ' ']);
        let length = digits.find(|c: char| c != '-' && !c.is_ascii_digit());
        digits[..length.unwrap_or(digits.len())].parse().ok()
    });
    Some(epoch.unwrap_or(-1))
}

/// What a folder of a log directory is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Folder {
    Partition(TopicPartition),
    /// A replica that is to take the place of one in another directory.
    Future(TopicPartition),
    Deleted,
    /// Set aside for a person to look at.
    Stray,
    /// The metadata log, which is kept by `raft` and needed before any other log is open.
    Metadata,
    Unknown,
}

impl Folder {
    pub(super) fn of(name: &str) -> Self {
        let ends = |with: &str| name.strip_suffix(with).and_then(|name| name.strip_suffix('-'));
        if name == crate::raft::log::FOLDER {
            Self::Metadata
        } else if ends(DELETED).is_some() {
            Self::Deleted
        } else if ends(STRAY).is_some() {
            Self::Stray
        } else if let Some(name) = ends(FUTURE) {
            let partition = name.rsplit_once('.').and_then(|(name, _)| partition(name));
            partition.map_or(Self::Unknown, Self::Future)
        } else {
            partition(name).map_or(Self::Unknown, Self::Partition)
        }
    }
}

/// `<topic>-<partition>`
fn partition(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    let partition: u32 = partition.parse().ok()?;
    let partition = i32::try_from(partition).ok()?;
    (!topic.is_empty()).then(|| TopicPartition::new(topic, partition))
}

/// `<topic>-<partition>.<id>-<suffix>`, within the 255 bytes of a file name.
pub(super) fn renamed(env: &Env, partition: &TopicPartition, suffix: &str) -> String {
    let end = format!(".{}-{suffix}", env.random.uuid().simple());
    let mut name = partition.to_string();
    name.truncate(255 - end.len());
    name + &end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_say_what_they_are() {
        let id = || TopicPartition::new("a.b-c", 7);
        let cases = [
            ("a.b-c-7", Folder::Partition(id())),
            ("a.b-c-7.0123456789abcdef0123456789abcdef-future", Folder::Future(id())),
            ("a.b-c-7.0123456789abcdef0123456789abcdef-delete", Folder::Deleted),
            ("a.b-c-7.0123456789abcdef0123456789abcdef-stray", Folder::Stray),
            ("__cluster_metadata-0", Folder::Metadata),
            ("lost+found", Folder::Unknown),
            ("-1", Folder::Unknown),
            ("a--1", Folder::Partition(TopicPartition::new("a-", 1))),
            ("a-99999999999", Folder::Unknown),
        ];
        for (name, expected) in cases {
            assert_eq!(Folder::of(name), expected, "{name}");
        }
    }
}
