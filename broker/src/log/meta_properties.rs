//! `meta.properties`: to which cluster and node a log directory belongs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use uuid::Uuid;

use super::checkpoint::{uuid_from_text, uuid_to_text};
use crate::env::Disk;
use crate::error::Fault;
use crate::types::NodeId;

pub(super) const FILE: &str = "meta.properties";

/// Version 1, as KRaft writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaProperties {
    pub cluster_id: String,
    pub node_id: NodeId,
    /// Random, made with the directory: a wiped disk has another one.
    pub directory_id: Uuid,
}

impl MetaProperties {
    /// `None` when there is no such file: the directory is new.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, Fault> {
        let path = dir.join(FILE);
        if !disk.exists(&path) {
            return Ok(None);
        }
        let content = disk.read(&path).map_err(Fault::disk(&path))?;
        Self::parse(&String::from_utf8_lossy(&content))
            .map(Some)
            .map_err(|what| Fault::Corrupt { path, what })
    }

    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Fault> {
        let path = dir.join(FILE);
        let mut content = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(content, "#");
        let _ = writeln!(content, "cluster.id={}", self.cluster_id);
        let _ = writeln!(content, "directory.id={}", uuid_to_text(self.directory_id));
        let _ = writeln!(content, "node.id={}", self.node_id);
        let _ = writeln!(content, "version=1");
        disk.write_atomically(&path, content.as_bytes()).map_err(Fault::disk(path))
    }

    fn parse(content: &str) -> Result<Self, String> {
        let entries: BTreeMap<_, _> = content
            .lines()
            .filter(|line| !line.starts_with(['#', '!']))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let get = |key: &str| entries.get(key).copied().ok_or_else(|| format!("no {key}"));
        if get("version")? != "1" {
            return Err(format!("version {} is not 1", get("version")?));
        }
        Ok(Self {
            // Java's Properties writes a backslash before '=' and ':' only; ids have neither.
            cluster_id: get("cluster.id")?.to_owned(),
            node_id: get("node.id")?.parse().map_err(|_| "node.id is not a number".to_owned())?,
            directory_id: uuid_from_text(get("directory.id")?)
                .ok_or_else(|| "directory.id is not a UUID".to_owned())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_own_file_is_read() {
        let text = "#\n#Sat Nov 21 10:00:00 UTC 2026\ncluster.id=MkU3OEVBNTcwNTJENDM2Qk\n\
                    directory.id=AAAAAAAAAAAAAAAAAAAAAQ\nnode.id=3\nversion=1\n";
        let meta = MetaProperties::parse(text).unwrap();
        assert_eq!((meta.node_id, meta.directory_id), (3, Uuid::from_u128(1)));
        assert_eq!(meta.cluster_id, "MkU3OEVBNTcwNTJENDM2Qk");
        assert!(MetaProperties::parse(&text.replace("version=1", "version=0")).is_err());
        assert!(MetaProperties::parse(&text.replace("node.id=3", "")).is_err());
    }
}
