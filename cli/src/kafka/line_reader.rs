//! From a line to a record: key, headers and null markers, by the reader's properties.

use ottla_client::ProducerRecord;
use ottla_client::records::Header;
use regex::bytes::Regex;

use super::Stop;
use super::connect::Properties;

pub(crate) struct LineReader {
    parse_key: bool,
    key_separator: String,
    parse_headers: bool,
    headers_delimiter: String,
    headers_separator: Regex,
    headers_key_separator: String,
    ignore_error: bool,
    null_marker: Option<String>,
    line: usize,
}

impl LineReader {
    pub(crate) fn new(properties: &Properties) -> Result<Self, Stop> {
        let text = |key: &str, default: &str| {
            properties.get(key).cloned().unwrap_or_else(|| default.to_owned())
        };
        let truth = |key: &str| {
            properties.get(key).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
        };
        let separator = text("headers.separator", ",");
        let (key_separator, delimiter) =
            (text("key.separator", "\t"), text("headers.delimiter", "\t"));
        let key_value = text("headers.key.separator", ":");
        let marker = properties.get("null.marker").cloned();
        let mut distinct = vec![
            ("headers.delimiter", "headers.separator", &delimiter, &separator),
            ("headers.delimiter", "headers.key.separator", &delimiter, &key_value),
            ("headers.separator", "headers.key.separator", &separator, &key_value),
        ];
        if let Some(marker) = &marker {
            distinct.push(("null.marker", "key.separator", marker, &key_separator));
            distinct.push(("null.marker", "headers.separator", marker, &separator));
            distinct.push(("null.marker", "headers.delimiter", marker, &delimiter));
            distinct.push(("null.marker", "headers.key.separator", marker, &key_value));
        }
        if let Some((one, other, ..)) = distinct.iter().find(|(_, _, a, b)| a == b) {
            return Err(Stop::Failed(format!("{one} and {other} may not be equal")));
        }
        let headers_separator = Regex::new(&separator).map_err(|error| {
            Stop::Failed(format!("headers.separator is an invalid regex: {error}"))
        })?;
        Ok(Self {
            parse_key: truth("parse.key"),
            key_separator,
            parse_headers: truth("parse.headers"),
            headers_delimiter: delimiter,
            headers_separator,
            headers_key_separator: key_value,
            ignore_error: truth("ignore.error"),
            null_marker: marker,
            line: 0,
        })
    }

    /// The record in the next line. Without the separator that is asked for: an error, unless ignored.
    pub(crate) fn record(&mut self, topic: &str, line: Vec<u8>) -> Result<ProducerRecord, Stop> {
        self.line += 1;
        let mut rest = &line[..];
        let headers = self.part(
            self.parse_headers,
            &mut rest,
            &self.headers_delimiter,
            "headers delimiter",
            &line,
        )?;
        let key =
            self.part(self.parse_key, &mut rest, &self.key_separator, "key separator", &line)?;
        let headers = match headers.filter(|headers| !self.is_null(headers)) {
            Some(headers) => self.headers(headers)?,
            None => Vec::new(),
        };
        Ok(ProducerRecord {
            topic: topic.to_owned(),
            key: key.and_then(|key| self.value(key)),
            value: self.value(rest),
            headers,
            ..ProducerRecord::default()
        })
    }

    fn is_null(&self, bytes: &[u8]) -> bool {
        self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == bytes)
    }

    fn value(&self, bytes: &[u8]) -> Option<bytes::Bytes> {
        (!self.is_null(bytes)).then(|| bytes.to_vec().into())
    }

    fn part<'a>(
        &self,
        enabled: bool,
        rest: &mut &'a [u8],
        separator: &str,
        name: &str,
        line: &[u8],
    ) -> Result<Option<&'a [u8]>, Stop> {
        if !enabled {
            return Ok(None);
        }
        match find(rest, separator.as_bytes()) {
            Some(at) => {
                let part = &rest[..at];
                *rest = &rest[at + separator.len()..];
                Ok(Some(part))
            }
            None if self.ignore_error => Ok(None),
            None => Err(Stop::Failed(format!(
                "No {name} found on line number {}: '{}'",
                self.line,
                String::from_utf8_lossy(line)
            ))),
        }
    }

    fn headers(&self, text: &[u8]) -> Result<Vec<Header>, Stop> {
        let mut headers = Vec::new();
        for pair in self.headers_separator.split(text) {
            let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match find(pair, self.headers_key_separator.as_bytes()) {
                Some(at) if self.is_null(&pair[..at]) => {
                    let marker = self.null_marker.as_deref().unwrap_or_default();
                    return Err(Stop::Failed(format!(
                        "Header keys should not be equal to the null marker '{marker}' as they can't be null"
                    )));
                }
                Some(at) => {
                    let value = &pair[at + self.headers_key_separator.len()..];
                    headers.push(Header { key: words(&pair[..at]), value: self.value(value) });
                }
                None if self.ignore_error => headers.push(Header { key: words(pair), value: None }),
                None => {
                    return Err(Stop::Failed(format!(
                        "No header key separator found in pair '{}' on line number {}",
                        words(pair),
                        self.line
                    )));
                }
            }
        }
        Ok(headers)
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: &str, line: &str) -> String {
        let pair = |text: &str| {
            text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        };
        let record = LineReader::new(&properties.split(' ').filter_map(pair).collect())
            .and_then(|mut reader| reader.record("t", line.as_bytes().to_vec()));
        let text = |bytes: Option<&bytes::Bytes>| {
            bytes.map_or_else(
                || "null".to_owned(),
                |bytes| String::from_utf8_lossy(bytes).into_owned(),
            )
        };
        match record {
            Ok(record) => {
                let headers = record
                    .headers
                    .iter()
                    .map(|one| format!("{}:{}", one.key, text(one.value.as_ref())));
                let headers: Vec<String> = headers.collect();
                format!(
                    "[{}] {} {}",
                    headers.join(","),
                    text(record.key.as_ref()),
                    text(record.value.as_ref())
                )
            }
            Err(Stop::Failed(message)) => message,
            Err(_) => "stopped".into(),
        }
    }

    #[test]
    fn lines_are_read_as_kafkas_line_reader_reads_them() {
        let table = [
            ("", "a\tb", "[] null a\tb"),
            ("parse.key=true", "a\tb\tc", "[] a b\tc"),
            ("parse.key=TRUE key.separator=:", "a:b", "[] a b"),
            (
                "parse.key=true key.separator=:",
                "ab",
                "No key separator found on line number 1: 'ab'",
            ),
            ("parse.key=true key.separator=: ignore.error=true", "ab", "[] null ab"),
            ("parse.headers=true", "h:1,h:2\tv", "[h:1,h:2] null v"),
            ("parse.headers=true parse.key=true", "h:1\tk\tv", "[h:1] k v"),
            ("parse.headers=true null.marker=NULL", "NULL\tNULL", "[] null null"),
            ("parse.headers=true null.marker=N", "h:N\tv", "[h:null] null v"),
            (
                "parse.headers=true",
                "h\tv",
                "No header key separator found in pair 'h' on line number 1",
            ),
            ("parse.headers=true ignore.error=true", "h\tv", "[h:null] null v"),
            (
                "headers.separator=:",
                "v",
                "headers.separator and headers.key.separator may not be equal",
            ),
        ];
        for (properties, line, expected) in table {
            assert_eq!(read(properties, line), expected, "{properties} on {line}");
        }
    }
}
