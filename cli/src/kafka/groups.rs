//! kafka-groups.sh: the groups of every type, in one list.

use ottla_client::GroupListing;

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::consumer_groups::TYPES;
use super::options::{Options, flag, value};
use super::{Stop, Tool, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-groups",
    about: "This tool helps to list groups of all types.",
    examples: "
  kafka-groups.sh --bootstrap-server localhost:9092 --list
  kafka-groups.sh --bootstrap-server localhost:9092 --list --share",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        flag("list", "List the groups."),
        value(
            "group-type",
            "type",
            "Filter the groups based on group type. Valid types are: 'classic', 'consumer', 'share' and 'streams'.",
        ),
        value("protocol", "protocol", "Filter the groups based on protocol type."),
        flag(
            "consumer",
            "Filter the groups to show all kinds of consumer groups, including classic and simple consumer groups.",
        ),
        flag("share", "Filter the groups to show share groups."),
        flag("streams", "Filter the groups to show streams groups."),
    ],
    run: |options| Box::pin(run(options)),
};

/// As wide as Kafka's columns are at least.
const WIDTH: usize = 20;

async fn run(options: Options) -> Result<(), Stop> {
    let wanted = Wanted::of(&options)?;
    let outcome = match connect::admin(&options).await {
        Ok(admin) => admin.list_groups(&[], &[]).await.map_err(Stop::from),
        Err(stop) => Err(stop),
    };
    match outcome {
        Ok(groups) => print(groups.iter().filter(|group| wanted.is(group)).collect()),
        Err(Stop::Failed(message)) => {
            say(format_args!("Error while executing groups command : {message}"));
            return Err(Stop::Exit(1));
        }
        Err(other) => return Err(other),
    }
    Ok(())
}

/// Which groups are listed.
enum Wanted {
    All,
    OfType { kind: &'static str, protocol: Option<String> },
    OfProtocol(String),
    Consumers,
}

impl Wanted {
    fn of(options: &Options) -> Result<Self, Stop> {
        if !options.has("list") {
            return Err(Stop::Usage("Command must include exactly one action: --list.".into()));
        }
        let kind =
            match options.value("group-type")? {
                None => None,
                Some(text) => Some(type_named(text).ok_or_else(|| {
                    Stop::Failed("--group-type must be a valid group type.".into())
                })?),
            };
        options.excludes("consumer", &["group-type", "protocol", "share", "streams"])?;
        options.excludes("share", &["consumer", "group-type", "protocol", "streams"])?;
        options.excludes("streams", &["consumer", "group-type", "protocol", "share"])?;
        let protocol = options.value("protocol")?.map(ToOwned::to_owned);
        let of_type = |kind| Self::OfType { kind, protocol: None };
        Ok(match (kind, protocol) {
            (Some(kind), protocol) => Self::OfType { kind, protocol },
            (None, Some(protocol)) => Self::OfProtocol(protocol),
            (None, None) if options.has("consumer") => Self::Consumers,
            (None, None) if options.has("share") => of_type("Share"),
            (None, None) if options.has("streams") => of_type("Streams"),
            (None, None) => Self::All,
        })
    }

    fn is(&self, group: &GroupListing) -> bool {
        let is_kind = |kind: &str| group.kind.eq_ignore_ascii_case(kind);
        match self {
            Self::All => true,
            Self::OfType { kind, protocol } => {
                is_kind(kind) && protocol.as_ref().is_none_or(|name| *name == group.protocol_type)
            }
            Self::OfProtocol(name) => *name == group.protocol_type,
            Self::Consumers => {
                matches!(group.protocol_type.as_str(), "consumer" | "") || is_kind("Consumer")
            }
        }
    }
}

fn type_named(text: &str) -> Option<&'static str> {
    TYPES.iter().copied().find(|kind| kind.eq_ignore_ascii_case(text))
}

fn print(groups: Vec<&GroupListing>) {
    let row = |group: &GroupListing| {
        let kind = type_named(&group.kind).unwrap_or("Unknown");
        [group.id.clone(), kind.to_owned(), group.protocol_type.clone()]
    };
    let rows: Vec<[String; 3]> = groups.into_iter().map(row).collect();
    let width = rows.iter().flatten().map(String::len).max().unwrap_or(0).max(WIDTH);
    say(format_args!("{:<width$} {:<width$} {:<width$}", "GROUP", "TYPE", "PROTOCOL"));
    for [id, kind, protocol] in &rows {
        say(format_args!("{id:<width$} {kind:<width$} {protocol:<width$} "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose_groups_by_type_and_protocol() {
        let group = |kind: &str, protocol: &str| GroupListing {
            id: "g".into(),
            protocol_type: protocol.into(),
            state: "Stable".into(),
            kind: kind.into(),
        };
        let groups = [
            group("classic", "consumer"),
            group("classic", ""),
            group("classic", "connect"),
            group("consumer", "consumer"),
            group("share", "share"),
            group("streams", "streams"),
        ];
        let of_type = |kind, protocol: Option<&str>| Wanted::OfType {
            kind,
            protocol: protocol.map(Into::into),
        };
        let table = [
            (Wanted::All, "yyyyyy"),
            (Wanted::Consumers, "yy-y--"),
            (of_type("Classic", None), "yyy---"),
            (of_type("Classic", Some("connect")), "--y---"),
            (of_type("Share", None), "----y-"),
            (Wanted::OfProtocol("consumer".into()), "y--y--"),
        ];
        for (wanted, expected) in table {
            let chosen: String =
                groups.iter().map(|group| if wanted.is(group) { 'y' } else { '-' }).collect();
            assert_eq!(chosen, expected);
        }
    }
}
