//! The small text files: offset checkpoints of a log directory, epochs and identity of a partition.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use uuid::Uuid;

use crate::env::Disk;
use crate::error::Fault;
use crate::types::{LeaderEpoch, Offset, TopicPartition};

pub(super) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
pub(super) const LOG_STARTS: &str = "log-start-offset-checkpoint";
pub(super) const CLEANED: &str = "cleaner-offset-checkpoint";
pub(super) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
pub(super) const EPOCHS: &str = "leader-epoch-checkpoint";
pub(super) const PARTITION_METADATA: &str = "partition.metadata";

/// Offsets by partition, as four of the files hold them.
pub type Offsets = BTreeMap<TopicPartition, Offset>;

/// The lines after the version and the count, which must both be right; none when there is no file.
fn lines(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, Fault> {
    if !disk.exists(path) {
        return Ok(Vec::new());
    }
    let content = disk.read(path).map_err(Fault::disk(path))?;
    let corrupt = |what: &str| Fault::Corrupt { path: path.into(), what: what.into() };
    let content = String::from_utf8(content).map_err(|_| corrupt("not UTF-8"))?;
    if content.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = content.lines();
    if lines.next() != Some("0") {
        return Err(corrupt("the version is not 0"));
    }
    let count: usize = lines
        .next()
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| corrupt("the second line is not a count"))?;
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).map(String::from).collect();
    if lines.len() != count {
        return Err(corrupt(&format!("{count} entries promised, {} found", lines.len())));
    }
    Ok(lines)
}

fn bad_line(path: &Path, line: &str) -> Fault {
    Fault::Corrupt { path: path.into(), what: format!("the line {line:?} cannot be read") }
}

pub(super) fn read_offsets(disk: &dyn Disk, path: &Path) -> Result<Offsets, Fault> {
    let mut offsets = Offsets::new();
    for line in lines(disk, path)? {
        let mut words = line.split(' ');
        let entry = (|| {
            let topic = words.next()?;
            let partition = words.next()?.parse().ok()?;
            let offset: Offset = words.next()?.parse().ok()?;
            (words.next().is_none()).then(|| (TopicPartition::new(topic, partition), offset))
        })();
        let (partition, offset) = entry.ok_or_else(|| bad_line(path, &line))?;
        offsets.insert(partition, offset);
    }
    Ok(offsets)
}

/// As [`read_offsets`]; none when the file is damaged. To start from nothing is slow and right.
pub(super) fn read_offsets_or_none(disk: &dyn Disk, path: &Path) -> Result<Offsets, Fault> {
    match read_offsets(disk, path) {
        Err(fault @ Fault::Corrupt { .. }) => {
            tracing::warn!(%fault, "the checkpoint is not used");
            Ok(Offsets::new())
        }
        other => other,
    }
}

pub(super) fn write_offsets(disk: &dyn Disk, path: &Path, offsets: &Offsets) -> Result<(), Fault> {
    let mut content = format!("0\n{}\n", offsets.len());
    for (at, offset) in offsets {
        // Writing to a String cannot fail.
        let _ = writeln!(content, "{} {} {offset}", at.topic, at.partition);
    }
    disk.write_atomically(path, content.as_bytes()).map_err(Fault::disk(path))
}

pub(super) fn read_epochs(
    disk: &dyn Disk,
    path: &Path,
) -> Result<Vec<(LeaderEpoch, Offset)>, Fault> {
    lines(disk, path)?
        .iter()
        .map(|line| {
            let (epoch, offset) = line.split_once(' ').ok_or_else(|| bad_line(path, line))?;
            match (epoch.parse(), offset.parse()) {
                (Ok(epoch), Ok(offset)) => Ok((epoch, offset)),
                _ => Err(bad_line(path, line)),
            }
        })
        .collect()
}

pub(super) fn write_epochs(
    disk: &dyn Disk,
    path: &Path,
    entries: &[(LeaderEpoch, Offset)],
) -> Result<(), Fault> {
    let mut content = format!("0\n{}\n", entries.len());
    for (epoch, offset) in entries {
        let _ = writeln!(content, "{epoch} {offset}");
    }
    disk.write_atomically(path, content.as_bytes()).map_err(Fault::disk(path))
}

pub(super) fn read_topic_id(disk: &dyn Disk, path: &Path) -> Result<Option<Uuid>, Fault> {
    if !disk.exists(path) {
        return Ok(None);
    }
    let content = disk.read(path).map_err(Fault::disk(path))?;
    let content = String::from_utf8_lossy(&content);
    content
        .lines()
        .find_map(|line| line.strip_prefix("topic_id: "))
        .and_then(|id| uuid_from_text(id.trim()))
        .map(Some)
        .ok_or_else(|| Fault::Corrupt { path: path.into(), what: "no topic_id".into() })
}

pub(super) fn write_topic_id(disk: &dyn Disk, path: &Path, id: Uuid) -> Result<(), Fault> {
    let content = format!("version: 0\ntopic_id: {}", uuid_to_text(id));
    disk.write_atomically(path, content.as_bytes()).map_err(Fault::disk(path))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Kafka's text form of a UUID: URL-safe base64 without padding, 22 characters.
pub fn uuid_to_text(id: Uuid) -> String {
    let bits = id.as_u128();
    let mut text = String::with_capacity(22);
    for index in 0..21 {
        text.push(char::from(ALPHABET[(bits >> (122 - 6 * index)) as usize & 63]));
    }
    text.push(char::from(ALPHABET[(bits << 4) as usize & 63]));
    text
}

/// The reverse of [`uuid_to_text`]; `None` for what is not such a text.
pub fn uuid_from_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (index, byte) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        bits = if index < 21 { bits << 6 | value } else { bits << 2 | value >> 4 };
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_kafkas_text_form() {
        // What Kafka's kafka-storage.sh prints for these bytes.
        let id = Uuid::from_u128(0x4dbb_3f3f_0d8c_4f1e_9f4b_2a51_6e7d_8c90);
        let text = uuid_to_text(id);
        assert_eq!((text.len(), uuid_from_text(&text)), (22, Some(id)));
        assert_eq!(uuid_to_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(uuid_to_text(Uuid::max()), "_____________________w");
        assert_eq!(uuid_from_text("AAAAAAAAAAAAAAAAAAAAA!"), None);
    }

    #[test]
    fn offsets_and_epochs_survive_a_round_trip_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let env = crate::env::real::env();
        let path = folder.path().join(RECOVERY_POINTS);
        assert_eq!(read_offsets(&*env.disk, &path).unwrap(), Offsets::new());
        let offsets = Offsets::from([
            (TopicPartition::new("a.b_c-d", 3), 17),
            (TopicPartition::new("z", 0), 0),
        ]);
        write_offsets(&*env.disk, &path, &offsets).unwrap();
        assert_eq!(env.disk.read(&path).unwrap(), b"0\n2\na.b_c-d 3 17\nz 0 0\n");
        assert_eq!(read_offsets(&*env.disk, &path).unwrap(), offsets);
        env.disk.write_atomically(&path, b"0\n3\na 0 1\n").unwrap();
        assert!(read_offsets(&*env.disk, &path).is_err());
        write_epochs(&*env.disk, &path, &[(1, 0), (5, 70)]).unwrap();
        assert_eq!(read_epochs(&*env.disk, &path).unwrap(), [(1, 0), (5, 70)]);
    }
}
