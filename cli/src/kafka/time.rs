//! Times as Kafka's tools take them: ISO 8601 date-times and durations, in milliseconds.

/// Milliseconds since 1970 of `YYYY-MM-DDThh:mm:ss.sss`, with `Z` or `+hh:mm`; without: UTC.
pub(crate) fn parse_datetime(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a date-time: write it as YYYY-MM-DDThh:mm:ss.sss");
    let (date, rest) = text.split_once('T').ok_or_else(wrong)?;
    let (time, zone) = match rest.find(['Z', '+', '-']) {
        Some(at) => rest.split_at(at),
        None => (rest, "Z"),
    };
    let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    let numbers = |text: &str, separator: char| {
        text.split(separator).map(number).collect::<Result<Vec<_>, _>>()
    };
    let [year, month, day] = numbers(date, '-')?[..] else { return Err(wrong()) };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (hour, minute, second) = match numbers(clock, ':')?[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return Err(wrong()),
    };
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let millis = number(&format!("{fraction:0<3}")[..3])?;
    let zone_minutes = match zone.split_at_checked(1) {
        Some(("Z", "")) => 0,
        Some((sign, offset)) => {
            let digits: String = offset.chars().filter(|letter| *letter != ':').collect();
            let (hours, minutes) = match digits.len() {
                2 => (number(&digits)?, 0),
                4 => (number(&digits[..2])?, number(&digits[2..])?),
                _ => return Err(wrong()),
            };
            (hours * 60 + minutes) * if sign == "-" { -1 } else { 1 }
        }
        None => return Err(wrong()),
    };
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - zone_minutes;
    Ok((minutes * 60 + second) * 1000 + millis)
}

/// Days from 1970-01-01 in the Gregorian calendar, years counted from March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Milliseconds of `PnDTnHnMnS`.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let wrong =
        || format!("{text:?} is not a duration: write it as PnDTnHnMnS, for example PT1H30M");
    let rest = text.strip_prefix(['P', 'p']).ok_or_else(wrong)?;
    let (days, clock) =
        rest.split_once(['T', 't']).map_or((rest, ""), |(days, clock)| (days, clock));
    let mut millis = 0.0;
    let mut any = false;
    for (part, units) in
        [(days, &[('D', 86_400.0)][..]), (clock, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)])]
    {
        let mut number = String::new();
        for letter in part.chars() {
            if letter.is_ascii_digit() || matches!(letter, '.' | '-') {
                number.push(letter);
                continue;
            }
            let unit = units
                .iter()
                .find(|(unit, _)| unit.eq_ignore_ascii_case(&letter))
                .ok_or_else(wrong)?;
            millis += number.parse::<f64>().map_err(|_| wrong())? * unit.1 * 1000.0;
            number.clear();
            any = true;
        }
        if !number.is_empty() {
            return Err(wrong());
        }
    }
    if any { Ok(millis as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times_are_read_with_and_without_a_zone() {
        let table = [
            ("1970-01-01T00:00:00.000", Some(0)),
            ("1970-01-01T01:00:00.5+01:00", Some(500)),
            ("2000-03-01T00:00:00Z", Some(951_868_800_000)),
            ("2026-11-21T12:34:56.789", Some(1_795_264_496_789)),
            ("2024-02-29T00:00-0130", Some(1_709_170_200_000)),
            ("2024-13-01T00:00:00", None),
            ("2024-01-01", None),
            ("yesterday", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_datetime(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn durations_add_up() {
        let table = [
            ("P1D", Some(86_400_000)),
            ("PT1H30M", Some(5_400_000)),
            ("P1DT0.5S", Some(86_400_500)),
            ("P", None),
            ("PT5", None),
            ("1D", None),
            ("P1H", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text).ok(), expected, "{text}");
        }
    }
}
