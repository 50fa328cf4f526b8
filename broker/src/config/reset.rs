//! Where a share group begins in a partition that it has not read before.

use crate::types::Millis;

/// Where a group begins that has no start offset yet: `share.auto.offset.reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    Latest,
    Earliest,
    /// With the first record that is not older.
    ByDuration(Millis),
}

impl Reset {
    /// `latest`, `earliest` or `by_duration:` with an ISO-8601 duration; case does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "latest" => Some(Self::Latest),
            "earliest" => Some(Self::Earliest),
            _ => duration(text.strip_prefix("by_duration:")?).map(Self::ByDuration),
        }
    }
}

/// An ISO-8601 duration of days, hours, minutes and seconds, not negative; in milliseconds.
fn duration(text: &str) -> Option<Millis> {
    let rest = text.strip_prefix('p')?;
    let (days, time) = match rest.split_once('t') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    if days.is_empty() && time.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    for (mut part, units) in
        [(days, &[('d', 86_400_000)][..]), (time, &[('h', 3_600_000), ('m', 60_000), ('s', 1_000)])]
    {
        for (unit, millis) in units {
            let Some((number, rest)) = part.split_once(*unit) else { continue };
            let value = match number.split_once('.') {
                Some((whole, fraction)) if *unit == 's' && !fraction.is_empty() => {
                    let digits = format!("{fraction:0<3}");
                    let tail: i64 =
                        digits.parse::<u64>().ok().map(|_| digits.get(..3))??.parse().ok()?;
                    whole.parse::<u32>().ok().map(i64::from)? * 1_000 + tail
                }
                _ => i64::from(number.parse::<u32>().ok()?).checked_mul(*millis)?,
            };
            total = total.checked_add(value)?;
            part = rest;
        }
        if !part.is_empty() {
            return None;
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_begins_where_its_setting_says() {
        assert_eq!(Reset::parse("Latest"), Some(Reset::Latest));
        assert_eq!(Reset::parse(" earliest"), Some(Reset::Earliest));
        for (text, millis) in [
            ("by_duration:PT0S", 0),
            ("by_duration:P1D", 86_400_000),
            ("by_duration:P1DT2H3M4.005S", 93_784_005),
            ("BY_DURATION:pt1.5s", 1_500),
        ] {
            assert_eq!(Reset::parse(text), Some(Reset::ByDuration(millis)), "{text}");
        }
        for wrong in [
            "",
            "by_duration",
            "by_duration:",
            "by_duration:P",
            "by_duration:PT",
            "none",
            "by_duration:1H",
            "by_duration:PT-1H",
            "by_duration:PT1H2",
            "by_duration:P1H",
        ] {
            assert_eq!(Reset::parse(wrong), None, "{wrong}");
        }
    }
}
