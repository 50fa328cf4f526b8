//! Our table of request shapes says what Kafka's own schemas say, field by field.
//!
//! Part of the `wire` layer: reads the schemas out of `kafka-clients-*.jar` in the folder that
//! `OTTLA_KAFKA_JARS` names, puts them into our notation, and compares. A missing folder is a
//! failure. `OTTLA_WRITE=1` writes the table anew instead; a person reads the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use ottla_broker::wire::schema;
use serde_json::Value;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../broker/src/wire/requests.schema");

#[test]
fn every_request_has_the_shape_that_kafka_gives_it() {
    let jar = client_jar();
    let schemas = json_files(&jar, "common/message/", "Request.json");
    assert!(schemas.len() > 80, "{}: only {} schemas", jar.display(), schemas.len());
    let mut requests: Vec<Value> = schemas.iter().map(|text| parse(text)).collect();
    requests.retain(|request| request["validVersions"] != "none");
    requests.sort_by_key(|request| request["apiKey"].as_i64());
    let mut table: String = schema::TEXT
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|l| format!("{l}\n"))
        .collect();
    for request in &requests {
        write_request(&mut table, request);
    }
    if std::env::var_os("OTTLA_WRITE").is_some() {
        std::fs::write(TABLE, &table).unwrap();
    }
    for (number, (ours, kafkas)) in schema::TEXT.lines().zip(table.lines()).enumerate() {
        assert_eq!(ours, kafkas, "requests.schema, line {}", number + 1);
    }
    assert_eq!(schema::TEXT, table);
}

fn client_jar() -> PathBuf {
    let folder = std::env::var_os("OTTLA_KAFKA_JARS")
        .expect("OTTLA_KAFKA_JARS must name a folder with the jars of Kafka");
    let entries = std::fs::read_dir(&folder).expect("the folder that OTTLA_KAFKA_JARS names");
    let mut jars: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    jars.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("kafka-clients-") && name.ends_with(".jar")
    });
    assert_eq!(jars.len(), 1, "one kafka-clients-*.jar in {folder:?}, found {jars:?}");
    jars.remove(0)
}

/// The texts of the files in a zip archive whose names begin and end so.
fn json_files(archive: &Path, begin: &str, end: &str) -> Vec<String> {
    let bytes = std::fs::read(archive).unwrap();
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    // The end of the central directory is the last record; its comment may follow.
    let directory_end =
        (0..=bytes.len() - 22).rev().find(|at| bytes[*at..].starts_with(b"PK\x05\x06"));
    let directory_end = directory_end.expect("a zip archive");
    let mut at = u32_at(directory_end + 16);
    let mut files = Vec::new();
    for _ in 0..u16_at(directory_end + 10) {
        let method = u16_at(at + 10);
        let packed = u32_at(at + 20);
        let (name_len, extra_len, comment_len) =
            (u16_at(at + 28), u16_at(at + 30), u16_at(at + 32));
        let local = u32_at(at + 42);
        let name = String::from_utf8_lossy(&bytes[at + 46..at + 46 + name_len]).into_owned();
        at += 46 + name_len + extra_len + comment_len;
        if !name.starts_with(begin) || !name.ends_with(end) {
            continue;
        }
        let data = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        let data = &bytes[data..data + packed];
        let mut text = String::new();
        match method {
            0 => text.push_str(std::str::from_utf8(data).unwrap()),
            8 => drop(DeflateDecoder::new(data).read_to_string(&mut text).unwrap()),
            other => panic!("{name}: compression method {other}"),
        }
        files.push(text);
    }
    files
}

/// Reads JSON with comments to the ends of lines.
fn parse(text: &str) -> Value {
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_string = false;
        let mut before = ' ';
        let comment = line.char_indices().find(|(at, c)| {
            in_string ^= *c == '"' && before != '\\';
            before = *c;
            !in_string && line[*at..].starts_with("//")
        });
        plain.push_str(&line[..comment.map_or(line.len(), |(at, _)| at)]);
        plain.push('\n');
    }
    serde_json::from_str(&plain).unwrap()
}

fn write_request(table: &mut String, request: &Value) {
    let flexible = request["flexibleVersions"].as_str().unwrap_or("none");
    let text = |name: &str| request[name].as_str().unwrap().to_owned();
    writeln!(table, "{} {} {} {flexible}", text("name"), request["apiKey"], text("validVersions"))
        .unwrap();
    let common = request["commonStructs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let common: BTreeMap<&str, &Value> =
        common.iter().map(|shape| (shape["name"].as_str().unwrap(), &shape["fields"])).collect();
    write_fields(table, &request["fields"], &common, 1);
}

fn write_fields(table: &mut String, fields: &Value, common: &BTreeMap<&str, &Value>, depth: usize) {
    const PLAIN: [&str; 12] = [
        "bool", "int8", "int16", "uint16", "int32", "uint32", "int64", "float64", "string", "uuid",
        "bytes", "records",
    ];
    for field in fields.as_array().unwrap() {
        let text = |name: &str| field[name].as_str();
        let kind = text("type").unwrap();
        let (array, element) = match kind.strip_prefix("[]") {
            Some(element) => ("[]", element),
            None => ("", kind),
        };
        let plain = PLAIN.contains(&element);
        let shown = if plain { element } else { "{}" };
        let (name, versions) = (text("name").unwrap(), text("versions").unwrap());
        write!(table, "{:depth$}{name} {versions} {array}{shown}", "").unwrap();
        if let Some(nullable) = text("nullableVersions") {
            write!(table, " null {nullable}").unwrap();
        }
        if let Some(tag) = field["tag"].as_i64() {
            write!(table, " tag {tag} {}", text("taggedVersions").unwrap()).unwrap();
        }
        assert!(field["flexibleVersions"].is_null(), "{name}: a field with flexible versions");
        table.push('\n');
        if !plain {
            let inner = if field["fields"].is_array() { &field["fields"] } else { common[element] };
            write_fields(table, inner, common, depth + 1);
        }
    }
}
