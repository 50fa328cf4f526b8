//! Settings of groups: each within the bounds that the broker sets.

use std::collections::BTreeMap;

use super::Settings;
use super::definition;
use super::reset::Reset;

/// The settings that a group may choose between a smallest and a largest: by prefix of the group's
/// and of the broker's names.
const KINDS: &[(&str, &str)] =
    &[("consumer", "group.consumer"), ("share", "group.share"), ("streams", "group.streams")];

/// What has a smallest and a largest value.
const BOUNDED: [&str; 6] = [
    "heartbeat.interval.ms",
    "session.timeout.ms",
    "assignment.interval.ms",
    "record.lock.duration.ms",
    "delivery.count.limit",
    "partition.max.record.locks",
];

/// Refuses a value of a name that groups do not have, or that its type does not allow.
pub fn validate(name: &str, value: &str) -> Result<(), String> {
    let definition = definition::group().get(name);
    let definition = definition.ok_or_else(|| format!("Unknown group config name: {name}"))?;
    definition.check(value).map_err(|refused| refused.to_string())?;
    if name == "share.auto.offset.reset" && Reset::parse(value).is_none() {
        return Err(format!(
            "Invalid value {value} for configuration {name}: Value must be latest, earliest or \
             by_duration: with an ISO-8601 duration that is not negative"
        ));
    }
    Ok(())
}

/// Refuses values beyond the broker's bounds, and sessions that end before a heartbeat is due.
pub fn validate_all(set: &BTreeMap<&str, &str>, settings: &Settings) -> Result<(), String> {
    for (kind, broker) in KINDS {
        for what in BOUNDED {
            let Some(value) = set.get(format!("{kind}.{what}").as_str()).and_then(|it| number(it))
            else {
                continue;
            };
            let bound = |end: &str| {
                let name = format!("{broker}.{end}.{what}");
                (settings.value(&name).and_then(number), name)
            };
            let ((min, min_name), (max, max_name)) = (bound("min"), bound("max"));
            if min.is_some_and(|min| value < min) {
                return Err(format!("{kind}.{what} must be greater than or equal to {min_name}"));
            }
            if max.is_some_and(|max| value > max) {
                return Err(format!("{kind}.{what} must be less than or equal to {max_name}"));
            }
        }
        let effective = |what: &str| {
            let own = set.get(format!("{kind}.{what}").as_str()).copied();
            let name = format!("{broker}.{what}");
            own.or_else(|| settings.value(&name)).and_then(number)
        };
        let (session, heartbeat) =
            (effective("session.timeout.ms"), effective("heartbeat.interval.ms"));
        if session.zip(heartbeat).is_some_and(|(session, heartbeat)| session <= heartbeat) {
            return Err(format!(
                "{kind}.session.timeout.ms must be greater than {kind}.heartbeat.interval.ms"
            ));
        }
    }
    let standbys = set.get("streams.num.standby.replicas").and_then(|it| number(it));
    let most = settings.value("group.streams.max.standby.replicas").and_then(number);
    if standbys.zip(most).is_some_and(|(standbys, most)| standbys > most) {
        return Err("streams.num.standby.replicas must be less than or equal to \
                    group.streams.max.standby.replicas"
            .to_owned());
    }
    Ok(())
}

fn number(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_sets_only_what_there_is_within_the_bounds_of_the_broker() {
        let settings = Settings::for_test("group.consumer.min.session.timeout.ms=1000");
        for (name, value, refused) in [
            ("consumer.session.timeout.ms", "50000", None),
            (
                "consumer.session.timeout.ms",
                "4000",
                Some("must be greater than consumer.heartbeat"),
            ),
            (
                "consumer.session.timeout.ms",
                "999",
                Some("greater than or equal to group.consumer.min"),
            ),
            (
                "consumer.session.timeout.ms",
                "60001",
                Some("less than or equal to group.consumer.max"),
            ),
            ("consumer.heartbeat.interval.ms", "4999", Some("greater than or equal to")),
            ("consumer.assignment.interval.ms", "0", None),
            ("consumer.assignment.interval.ms", "15001", Some("less than or equal to")),
            ("consumer.session.timeout.ms", "soon", Some("Not a number")),
            ("streams.num.standby.replicas", "2", None),
            ("streams.num.standby.replicas", "3", Some("less than or equal to group.streams.max")),
            ("streams.session.timeout.ms", "60001", Some("less than or equal to group.streams")),
            ("streams.initial.rebalance.delay.ms", "0", None),
            ("streams.initial.rebalance.delay.ms", "-1", Some("at least 0")),
            ("retention.ms", "5", Some("Unknown group config name: retention.ms")),
        ] {
            let result = validate(name, value)
                .and_then(|()| validate_all(&[(name, value)].into(), &settings));
            match refused {
                None => assert_eq!(result, Ok(()), "{name}={value}"),
                Some(words) => assert!(result.unwrap_err().contains(words), "{name}={value}"),
            }
        }
    }
}
