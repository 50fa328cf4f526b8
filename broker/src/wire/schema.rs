//! The shapes of all requests, read once from `requests.schema`.
//!
//! The table holds facts of Kafka 4.3.1's own schemas in our notation; a test of the `wire` layer
//! compares it with Kafka's. Only what is needed to walk a body is kept: no defaults, no docs.

use std::sync::LazyLock;

/// A range of versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    min: i16,
    max: i16,
}

impl Versions {
    const NONE: Self = Self { min: 1, max: 0 };

    pub fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// `3+`, `3-5`, `3` or `none`.
    fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self::NONE);
        }
        if let Some(min) = text.strip_suffix('+') {
            return Some(Self { min: min.parse().ok()?, max: i16::MAX });
        }
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        Some(Self { min: min.parse().ok()?, max: max.parse().ok()? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// So many bytes.
    Fixed(usize),
    String,
    /// Also records: a length of four bytes when not flexible.
    Bytes,
    Array(Box<Type>),
    Struct(Vec<Field>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub versions: Versions,
    pub nullable: Versions,
    /// The tag, and the versions in which the field is tagged.
    pub tag: Option<(u32, Versions)>,
    pub kind: Type,
}

impl Field {
    /// Whether the field stands in its place among the others in `version`.
    pub fn is_plain_in(&self, version: i16) -> bool {
        self.versions.contains(version)
            && !self.tag.is_some_and(|(_, tagged)| tagged.contains(version))
    }

    pub fn has_tag_in(&self, tag: u32, version: i16) -> bool {
        self.tag.is_some_and(|(own, tagged)| own == tag && tagged.contains(version))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub name: &'static str,
    pub key: i16,
    pub versions: Versions,
    pub flexible: Versions,
    pub fields: Vec<Field>,
}

/// The request with API key `key`.
pub fn request(key: i16) -> Option<&'static Request> {
    static TABLE: LazyLock<Vec<Request>> = LazyLock::new(|| parse(include_str!("requests.schema")));
    TABLE.binary_search_by_key(&key, |request| request.key).ok().map(|at| &TABLE[at])
}

/// The text of the table, for the test that compares it with Kafka's schemas.
pub const TEXT: &str = include_str!("requests.schema");

fn parse(text: &'static str) -> Vec<Request> {
    let lines: Vec<Line> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| Line {
            depth: line.len() - line.trim_start().len(),
            words: line.split_whitespace().collect(),
        })
        .collect();
    let mut at = 0;
    let mut requests = Vec::new();
    while at < lines.len() {
        let Some(mut request) = lines[at].request() else {
            panic!("requests.schema: {:?}", lines[at].words);
        };
        at += 1;
        request.fields = fields(&lines, &mut at, 1);
        requests.push(request);
    }
    requests.sort_by_key(|request| request.key);
    requests
}

struct Line {
    depth: usize,
    words: Vec<&'static str>,
}

impl Line {
    fn request(&self) -> Option<Request> {
        let [name, key, versions, flexible] = self.words[..] else { return None };
        Some(Request {
            name,
            key: key.parse().ok()?,
            versions: Versions::parse(versions)?,
            flexible: Versions::parse(flexible)?,
            fields: Vec::new(),
        })
    }

    fn field(&self) -> Option<Field> {
        let mut words = self.words.iter().copied();
        let mut field = Field {
            name: words.next()?,
            versions: Versions::parse(words.next()?)?,
            kind: kind(words.next()?)?,
            nullable: Versions::NONE,
            tag: None,
        };
        while let Some(word) = words.next() {
            match word {
                "null" => field.nullable = Versions::parse(words.next()?)?,
                "tag" => {
                    field.tag =
                        Some((words.next()?.parse().ok()?, Versions::parse(words.next()?)?));
                }
                _ => return None,
            }
        }
        Some(field)
    }
}

fn fields(lines: &[Line], at: &mut usize, depth: usize) -> Vec<Field> {
    let mut fields = Vec::new();
    while *at < lines.len() && lines[*at].depth == depth {
        let Some(mut field) = lines[*at].field() else {
            panic!("requests.schema: {:?}", lines[*at].words);
        };
        *at += 1;
        let inner = match &mut field.kind {
            Type::Array(element) => &mut **element,
            other => other,
        };
        if let Type::Struct(inner) = inner {
            *inner = self::fields(lines, at, depth + 1);
        }
        fields.push(field);
    }
    fields
}

fn kind(text: &str) -> Option<Type> {
    if let Some(element) = text.strip_prefix("[]") {
        return Some(Type::Array(Box::new(kind(element)?)));
    }
    Some(match text {
        "bool" | "int8" => Type::Fixed(1),
        "int16" | "uint16" => Type::Fixed(2),
        "int32" | "uint32" => Type::Fixed(4),
        "int64" | "float64" => Type::Fixed(8),
        "uuid" => Type::Fixed(16),
        "string" => Type::String,
        "bytes" | "records" => Type::Bytes,
        "{}" => Type::Struct(Vec::new()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiKey;

    #[test]
    fn every_request_that_can_be_decoded_has_a_shape_with_the_same_flexible_versions() {
        for key in ApiKey::iter() {
            let shape = request(key as i16);
            let versions = key.valid_versions();
            if versions.is_empty() {
                continue;
            }
            let Some(shape) = shape else { panic!("{key:?} has no shape") };
            for version in versions.min..=versions.max {
                let flexible = key.request_header_version(version) == 2;
                assert_eq!(shape.flexible.contains(version), flexible, "{key:?} {version}");
            }
        }
    }
}
