//! What a setting is: its name, type, default, allowed values, and how far Ottla supports it.
//!
//! The definitions are tables of text, `broker.table`, `topic.table` and `group.table`, read once. Refusals of
//! values carry Kafka's wording, because clients and scripts match on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    List,
    Class,
    Password,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    High,
    Medium,
    Low,
}

/// Whether, and for whom, a setting can change while the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    ReadOnly,
    PerBroker,
    ClusterWide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Used,
    /// Ottla has nothing to tune here.
    NoEffect,
    NotYet,
    /// Ignoring it would silently break a promise: setting it stops the start.
    Refused,
}

/// The values that a setting may take, beyond its type.
#[derive(Debug, Clone, PartialEq)]
enum Allowed {
    Any,
    AtLeast(&'static str),
    Between(&'static str, &'static str),
    BetweenOr(i64, i64, i64),
    OneOf(Vec<&'static str>),
    OneOfAnyCase(Vec<&'static str>),
    /// `*`, or partition:broker pairs.
    Replicas,
}

#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Option<&'static str>,
    pub importance: Importance,
    pub update: Update,
    pub support: Support,
    /// Not shown by DescribeConfigs.
    pub internal: bool,
    pub doc: &'static str,
    /// The broker settings that a topic setting falls back to; the first that is set wins.
    pub synonyms: Vec<&'static str>,
    allowed: Allowed,
}

/// Why a value is not accepted, in Kafka's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub name: String,
    pub value: String,
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid value {} for configuration {}: {}", self.value, self.name, self.why)
    }
}

pub type Definitions = BTreeMap<&'static str, Definition>;

/// All broker settings by name.
pub fn broker() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> =
        LazyLock::new(|| rows(include_str!("broker.table")).map(broker_row).collect());
    &TABLE
}

/// All topic settings by name.
pub fn topic() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> =
        LazyLock::new(|| rows(include_str!("topic.table")).map(topic_row).collect());
    &TABLE
}

/// All settings of groups by name.
pub fn group() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> =
        LazyLock::new(|| rows(include_str!("group.table")).map(topic_row).collect());
    &TABLE
}

impl Definition {
    /// Checks `value` against type and allowed values.
    pub fn check(&self, value: &str) -> Result<(), Invalid> {
        match self.kind {
            Kind::Boolean => match value.trim().to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => Err(self.invalid(value, "Expected value to be either true or false")),
            },
            Kind::Short => self.number(value, value.trim().parse::<i16>().ok().map(i64::from)),
            Kind::Int => self.number(value, value.trim().parse::<i32>().ok().map(i64::from)),
            Kind::Long => self.number(value, value.trim().parse::<i64>().ok()),
            Kind::Double => self.double(value),
            Kind::List => self.list(value),
            Kind::String | Kind::Class | Kind::Password => self.one(value.trim()),
        }
    }

    /// Whether its value must never be shown.
    pub fn sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    fn invalid(&self, value: impl fmt::Display, why: impl Into<String>) -> Invalid {
        Invalid { name: self.name.to_owned(), value: value.to_string(), why: why.into() }
    }

    fn number(&self, text: &str, parsed: Option<i64>) -> Result<(), Invalid> {
        let Some(number) = parsed else {
            return Err(self.not_a_number(text));
        };
        let bound = |text: &str| text.parse::<i64>().unwrap_or_default();
        match &self.allowed {
            Allowed::AtLeast(min) | Allowed::Between(min, _) if number < bound(min) => {
                Err(self.invalid(number, format!("Value must be at least {min}")))
            }
            Allowed::Between(_, max) if number > bound(max) => {
                Err(self.invalid(number, format!("Value must be no more than {max}")))
            }
            Allowed::BetweenOr(min, max, or)
                if number != *or && !(*min..=*max).contains(&number) =>
            {
                let why = format!("Value must be between {min} and {max} or equal to {or}");
                Err(self.invalid(number, why))
            }
            _ => Ok(()),
        }
    }

    fn double(&self, text: &str) -> Result<(), Invalid> {
        let Ok(number) = text.trim().parse::<f64>() else {
            return Err(self.not_a_number(text));
        };
        let bound = |text: &str| text.parse::<f64>().unwrap_or_default();
        match self.allowed {
            Allowed::Between(min, _) if number < bound(min) => {
                Err(self.invalid(format!("{number:?}"), format!("Value must be at least {min}")))
            }
            Allowed::Between(_, max) if number > bound(max) => {
                Err(self
                    .invalid(format!("{number:?}"), format!("Value must be no more than {max}")))
            }
            _ => Ok(()),
        }
    }

    fn not_a_number(&self, text: &str) -> Invalid {
        let kind = format!("{:?}", self.kind).to_uppercase();
        self.invalid(text.trim(), format!("Not a number of type {kind}"))
    }

    fn list(&self, value: &str) -> Result<(), Invalid> {
        let items = split_list(value);
        if self.allowed == Allowed::Replicas {
            return self.replicas(&items);
        }
        items.into_iter().try_for_each(|item| self.one(item))
    }

    fn one(&self, value: &str) -> Result<(), Invalid> {
        let fits = match &self.allowed {
            Allowed::OneOf(names) => names.contains(&value),
            Allowed::OneOfAnyCase(names) => names.iter().any(|n| n.eq_ignore_ascii_case(value)),
            _ => true,
        };
        match &self.allowed {
            Allowed::OneOf(names) if !fits => {
                Err(self.invalid(value, format!("String must be one of: {}", names.join(", "))))
            }
            Allowed::OneOfAnyCase(names) if !fits => {
                let names = names.join(", ");
                let why = format!("String must be one of (case insensitive): {names}");
                Err(self.invalid(value, why))
            }
            _ => Ok(()),
        }
    }

    fn replicas(&self, items: &[&str]) -> Result<(), Invalid> {
        let pair = |item: &str| {
            item.split_once(':').is_some_and(|(partition, broker)| {
                let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
                digits(partition) && digits(broker)
            })
        };
        if items == ["*"] || items.iter().all(|item| pair(item)) {
            return Ok(());
        }
        let why = format!(
            "{} must be the literal '*' or a list of replicas in the following format: \
             [partitionId]:[brokerId],[partitionId]:[brokerId],...",
            self.name
        );
        Err(self.invalid(format!("[{}]", items.join(", ")), why))
    }
}

/// The items of a comma-separated list, trimmed; an empty text is an empty list.
pub fn split_list(value: &str) -> Vec<&str> {
    let value = value.trim();
    if value.is_empty() { Vec::new() } else { value.split(',').map(str::trim).collect() }
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split('|').map(str::trim).collect())
}

fn broker_row(cells: Vec<&'static str>) -> (&'static str, Definition) {
    let [name, kind, default, importance, update, allowed, support, doc] = cells[..] else {
        panic!("broker.table: a row with {} cells: {cells:?}", cells.len());
    };
    let definition = Definition {
        importance: match importance {
            "high" => Importance::High,
            "medium" => Importance::Medium,
            _ => Importance::Low,
        },
        update: match update {
            "cluster-wide" => Update::ClusterWide,
            "per-broker" => Update::PerBroker,
            _ => Update::ReadOnly,
        },
        ..row(name, kind, default, allowed, support, doc)
    };
    (name, definition)
}

fn topic_row(cells: Vec<&'static str>) -> (&'static str, Definition) {
    let [name, kind, default, allowed, synonyms, support, doc] = cells[..] else {
        panic!("topic.table: a row with {} cells: {cells:?}", cells.len());
    };
    let synonyms = synonyms.split_whitespace().filter(|name| *name != "-").collect();
    (name, Definition { synonyms, ..row(name, kind, default, allowed, support, doc) })
}

fn row(
    name: &'static str,
    kind: &str,
    default: &'static str,
    allowed: &'static str,
    support: &str,
    doc: &'static str,
) -> Definition {
    Definition {
        name,
        kind: match kind {
            "boolean" => Kind::Boolean,
            "int" => Kind::Int,
            "short" => Kind::Short,
            "long" => Kind::Long,
            "double" => Kind::Double,
            "list" => Kind::List,
            "class" => Kind::Class,
            "password" => Kind::Password,
            "string" => Kind::String,
            other => panic!("settings table: {name} has the unknown type {other}"),
        },
        default: match default {
            "-" => None,
            "\"\"" => Some(""),
            text => Some(text),
        },
        importance: Importance::Medium,
        update: Update::ReadOnly,
        support: match support.trim_start_matches("internal ") {
            "used" => Support::Used,
            "no-effect" => Support::NoEffect,
            "not-yet" => Support::NotYet,
            "refused" => Support::Refused,
            other => panic!("settings table: {name} has the unknown support {other}"),
        },
        internal: support.starts_with("internal "),
        doc,
        synonyms: Vec::new(),
        allowed: allowed_of(name, allowed),
    }
}

fn allowed_of(name: &str, text: &'static str) -> Allowed {
    if let Some(names) = text.strip_prefix("one of ") {
        return match names.strip_suffix(" (any case)") {
            Some(names) => Allowed::OneOfAnyCase(names.split(',').collect()),
            None => Allowed::OneOf(names.split(',').collect()),
        };
    }
    if let Some((range, or)) = text.split_once(" or ") {
        let (min, max) = range.split_once("..").unwrap_or((range, range));
        let number = |text: &str| text.parse().unwrap_or_default();
        return Allowed::BetweenOr(number(min), number(max), number(or));
    }
    if let Some((min, max)) = text.split_once("..") {
        return Allowed::Between(min, max);
    }
    match text {
        "-" => Allowed::Any,
        "replicas" => Allowed::Replicas,
        _ => match text.strip_prefix(">=") {
            Some(min) => Allowed::AtLeast(min),
            None => panic!("settings table: {name} has the unknown range {text}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for definition in broker().values().chain(topic().values()).chain(group().values()) {
            if let Some(default) = definition.default {
                assert_eq!(definition.check(default), Ok(()), "{}", definition.name);
            }
        }
        assert!(broker().len() > 350, "{}", broker().len());
        assert_eq!(topic().len(), 35);
    }

    #[test]
    fn every_synonym_is_a_broker_setting() {
        for definition in topic().values().chain(group().values()) {
            for synonym in &definition.synonyms {
                assert!(broker().contains_key(synonym), "{synonym}");
            }
        }
    }

    #[test]
    fn every_setting_says_what_it_is_for_and_the_tables_are_sorted() {
        for table in
            [include_str!("broker.table"), include_str!("topic.table"), include_str!("group.table")]
        {
            let names: Vec<_> = rows(table).map(|cells| cells[0]).collect();
            assert!(names.is_sorted());
        }
        for definition in broker().values().chain(topic().values()) {
            assert!(definition.doc.ends_with('.'), "{}", definition.name);
        }
    }

    #[test]
    fn refusals_use_the_words_of_kafka() {
        let cases = [
            (
                "retention.ms",
                "abc",
                "Invalid value abc for configuration retention.ms: Not a number of type LONG",
            ),
            (
                "retention.ms",
                "-5",
                "Invalid value -5 for configuration retention.ms: Value must be at least -1",
            ),
            (
                "retention.ms",
                "",
                "Invalid value  for configuration retention.ms: Not a number of type LONG",
            ),
            (
                "cleanup.policy",
                "delete,none",
                "Invalid value none for configuration cleanup.policy: String must be one of: compact, delete",
            ),
            (
                "preallocate",
                "yes",
                "Invalid value yes for configuration preallocate: Expected value to be either true or false",
            ),
            (
                "min.cleanable.dirty.ratio",
                "2",
                "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            (
                "min.cleanable.dirty.ratio",
                "x",
                "Invalid value x for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE",
            ),
            (
                "segment.bytes",
                "99999999999",
                "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT",
            ),
            (
                "segment.bytes",
                "1",
                "Invalid value 1 for configuration segment.bytes: Value must be at least 1048576",
            ),
            (
                "compression.gzip.level",
                "0",
                "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
            ),
            (
                "leader.replication.throttled.replicas",
                "1:2,3",
                "Invalid value [1:2, 3] for configuration leader.replication.throttled.replicas: leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
            ),
        ];
        for (name, value, message) in cases {
            let refused = topic()[name].check(value).map_err(|invalid| invalid.to_string());
            assert_eq!(refused, Err(message.to_owned()));
        }
    }

    #[test]
    fn what_kafka_accepts_is_accepted() {
        for (name, value) in [
            ("cleanup.policy", ""),
            ("cleanup.policy", "delete, compact"),
            ("unclean.leader.election.enable", "TRUE"),
            ("retention.ms", " 5 "),
            ("retention.bytes", "-2"),
            ("compression.gzip.level", "-1"),
            ("leader.replication.throttled.replicas", "*"),
        ] {
            assert_eq!(topic()[name].check(value), Ok(()), "{name}={value}");
        }
    }
}
