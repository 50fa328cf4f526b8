//! How the console consumer prints a record.

use ottla_client::ConsumerRecord;

use super::Stop;
use super::connect::Properties;

#[derive(Debug)]
pub(crate) struct Formatter {
    timestamp: bool,
    partition: bool,
    offset: bool,
    delivery: bool,
    epoch: bool,
    headers: bool,
    key: bool,
    value: bool,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null_literal: String,
    key_type: Type,
    value_type: Type,
    header_type: Type,
}

/// What bytes are read as, by Kafka's deserializer of that name.
#[derive(Debug, Clone, Copy)]
enum Type {
    Bytes,
    Number { bytes: usize },
}

impl Type {
    fn of(properties: &Properties, key: &str) -> Result<Self, Stop> {
        let Some(class) = properties.get(key) else { return Ok(Self::Bytes) };
        match class.strip_prefix("org.apache.kafka.common.serialization.").unwrap_or(class) {
            "StringDeserializer" => Ok(Self::Bytes),
            "ShortDeserializer" => Ok(Self::Number { bytes: 2 }),
            "IntegerDeserializer" => Ok(Self::Number { bytes: 4 }),
            "LongDeserializer" => Ok(Self::Number { bytes: 8 }),
            _ => Err(Stop::Usage(format!(
                "{class} is not supported as {key}: use StringDeserializer, ShortDeserializer, \
                 IntegerDeserializer or LongDeserializer"
            ))),
        }
    }

    fn write(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Number { bytes: width } if bytes.len() == width => {
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
                let number =
                    bytes.iter().fold(sign, |number: i64, byte| number << 8 | i64::from(*byte));
                out.extend_from_slice(number.to_string().as_bytes());
            }
            _ => out.extend_from_slice(bytes),
        }
    }
}

/// Writes one part of a record.
type Part<'a> = &'a dyn Fn(&mut Vec<u8>);

impl Formatter {
    pub(crate) fn new(properties: &Properties) -> Result<Self, Stop> {
        let truth = |key: &str| {
            properties.get(key).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
        };
        let text = |key: &str, default: &str| {
            properties.get(key).cloned().unwrap_or_else(|| default.to_owned())
        };
        Ok(Self {
            timestamp: truth("print.timestamp"),
            partition: truth("print.partition"),
            offset: truth("print.offset"),
            delivery: truth("print.delivery"),
            epoch: truth("print.epoch"),
            headers: truth("print.headers"),
            key: truth("print.key"),
            value: !properties.contains_key("print.value") || truth("print.value"),
            key_separator: text("key.separator", "\t"),
            line_separator: text("line.separator", "\n"),
            headers_separator: text("headers.separator", ","),
            null_literal: text("null.literal", "null"),
            key_type: Type::of(properties, "key.deserializer")?,
            value_type: Type::of(properties, "value.deserializer")?,
            header_type: Type::of(properties, "headers.deserializer")?,
        })
    }

    /// Appends `record`: the parts that are wanted, in Kafka's order. The line separator follows the
    /// value, or whatever comes last without it, but not a key.
    pub(crate) fn write(&self, record: &ConsumerRecord, out: &mut Vec<u8>) {
        let parts: [(bool, Part<'_>); 8] = [
            (self.timestamp, &|out| {
                let kind = if record.log_append_time { "LogAppendTime" } else { "CreateTime" };
                let words = match record.timestamp {
                    -1 => "NO_TIMESTAMP".to_owned(),
                    time => format!("{kind}:{time}"),
                };
                out.extend_from_slice(words.as_bytes());
            }),
            (self.partition, &|out| {
                out.extend_from_slice(format!("Partition:{}", record.partition).as_bytes());
            }),
            (self.offset, &|out| {
                out.extend_from_slice(format!("Offset:{}", record.offset).as_bytes());
            }),
            // Kafka's console consumer hands its formatter neither delivery count nor leader epoch.
            (self.delivery, &|out| out.extend_from_slice(b"Delivery:NOT_PRESENT")),
            (self.epoch, &|out| out.extend_from_slice(b"Epoch:NOT_PRESENT")),
            (self.headers, &|out| self.write_headers(record, out)),
            (self.key, &|out| self.write_bytes(self.key_type, record.key.as_deref(), out)),
            (self.value, &|out| self.write_bytes(self.value_type, record.value.as_deref(), out)),
        ];
        for (at, (_, write)) in parts.iter().enumerate().filter(|(_, (wanted, _))| *wanted) {
            write(out);
            let more = parts[at + 1..].iter().any(|(wanted, _)| *wanted);
            let separator = if more { &self.key_separator } else { &self.line_separator };
            out.extend_from_slice(separator.as_bytes());
        }
    }

    fn write_bytes(&self, kind: Type, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
        match bytes {
            Some(bytes) => kind.write(bytes, out),
            None => out.extend_from_slice(self.null_literal.as_bytes()),
        }
    }

    fn write_headers(&self, record: &ConsumerRecord, out: &mut Vec<u8>) {
        if record.headers.is_empty() {
            out.extend_from_slice(b"NO_HEADERS");
        }
        for (at, header) in record.headers.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(self.headers_separator.as_bytes());
            }
            out.extend_from_slice(header.key.as_bytes());
            out.push(b':');
            self.write_bytes(self.header_type, header.value.as_deref(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_client::records::Header;

    use super::*;

    fn printed(properties: &str) -> String {
        let header = |key: &str, value: Option<&'static [u8]>| Header {
            key: key.into(),
            value: value.map(bytes::Bytes::from_static),
        };
        let record = ConsumerRecord {
            topic: "t".into(),
            partition: 2,
            offset: 7,
            leader_epoch: 3,
            timestamp: 1000,
            log_append_time: false,
            key: Some("k".into()),
            value: None,
            headers: vec![header("a", Some(b"1")), header("a", None)],
        };
        let pair = |text: &str| {
            text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        };
        let mut out = Vec::new();
        Formatter::new(&properties.split(' ').filter_map(pair).collect())
            .expect("valid")
            .write(&record, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn records_are_printed_as_kafka_prints_them() {
        let table = [
            ("", "null\n"),
            ("null.literal=-", "-\n"),
            ("print.key=true", "k\tnull\n"),
            ("print.key=true print.value=false", "k\n"),
            (
                "print.timestamp=true print.partition=true print.offset=true",
                "CreateTime:1000\tPartition:2\tOffset:7\tnull\n",
            ),
            ("print.headers=true key.separator=| headers.separator=;", "a:1;a:null|null\n"),
            ("print.value=false", ""),
        ];
        for (properties, expected) in table {
            assert_eq!(printed(properties), expected, "{properties}");
        }
    }
}
