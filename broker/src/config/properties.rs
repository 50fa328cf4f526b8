//! Java's properties format, as server.properties is written in it.
//!
//! Comments (`#`, `!`), continuation lines (a backslash at the end), `=`, `:` or blanks between key
//! and value, and the escapes `\t \n \r \f \uXXXX`; any other escaped character stands for itself.
//! The last of two lines with the same key wins. A `\u` without four hexadecimal digits is an error.

use std::collections::BTreeMap;

pub type Properties = BTreeMap<String, String>;

/// Reads the whole of a properties file.
pub fn parse(text: &str) -> Result<Properties, String> {
    let mut properties = Properties::new();
    for (number, line) in logical_lines(text) {
        let (key, value) = split(&line);
        let unescaped = |text| unescape(text).map_err(|why| format!("line {number}: {why}"));
        properties.insert(unescaped(key)?, unescaped(value)?);
    }
    Ok(properties)
}

/// Lines with their continuations joined, without comments and blank lines, numbered from 1.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let natural = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    for (number, line) in natural.enumerate() {
        let line = line.trim_start_matches([' ', '\t', '\u{c}']);
        if open.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let continued = line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        let content = if continued { &line[..line.len() - 1] } else { line };
        let (first, mut joined) = open.take().unwrap_or((number + 1, String::new()));
        joined.push_str(content);
        if continued {
            open = Some((first, joined));
        } else {
            lines.push((first, joined));
        }
    }
    lines.extend(open);
    lines
}

/// Splits at the first `=`, `:` or blank that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|(_, c)| {
            let ends = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\u{c}');
            escaped = *c == '\\' && !escaped;
            ends
        })
        .map_or(line.len(), |(at, _)| at);
    let blank = [' ', '\t', '\u{c}'];
    let rest = line[end..].trim_start_matches(blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches(blank))
}

fn unescape(text: &str) -> Result<String, String> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    // UTF-16, because a character beyond the basic plane is written as two \u escapes.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut units, c);
            continue;
        }
        match chars.next().unwrap_or('\\') {
            't' => push(&mut units, '\t'),
            'n' => push(&mut units, '\n'),
            'r' => push(&mut units, '\r'),
            'f' => push(&mut units, '\u{c}'),
            'u' => {
                let digits: String = chars.by_ref().take(4).collect();
                let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                units.push(unit.ok_or_else(|| format!("\\u{digits} is not a \\uXXXX escape"))?);
            }
            other => push(&mut units, other),
        }
    }
    Ok(String::from_utf16_lossy(&units))
}

fn push(units: &mut Vec<u16>, c: char) {
    units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    fn pair(key: &str, value: &str) -> Vec<(String, String)> {
        vec![(key.to_owned(), value.to_owned())]
    }

    #[test]
    fn keys_end_at_the_first_separator_that_is_not_escaped() {
        for line in ["a=b c", "a = b c", "a: b c", "a b c", "  a\t=\tb c"] {
            assert_eq!(parsed(line), pair("a", "b c"), "{line}");
        }
        assert_eq!(parsed("a\\=b\\ c\\:d = e"), pair("a=b c:d", "e"));
        assert_eq!(parsed("a==b"), pair("a", "=b"));
        assert_eq!(parsed("alone"), pair("alone", ""));
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_the_last_value_wins() {
        assert_eq!(parsed("# a=1\n! a=2\n\n  \r\na=3\r\na=4 \n"), pair("a", "4 "));
    }

    #[test]
    fn an_odd_backslash_at_the_end_continues_a_line_even_into_a_comment_sign() {
        assert_eq!(parsed("a=1,\\\n   2,\\\n#3"), pair("a", "1,2,#3"));
        assert_eq!(parsed("a=1\\\\\nb=2").len(), 2);
        assert_eq!(parsed("a=1\\"), pair("a", "1"));
    }

    #[test]
    fn escapes_stand_for_their_characters() {
        assert_eq!(parsed(r"a=\t\u00e9\ud83d\ude00\q\\"), pair("a", "\té😀q\\"));
        assert_eq!(parse("ok=1\nbad=\\u12").unwrap_err(), "line 2: \\u12 is not a \\uXXXX escape");
    }
}
