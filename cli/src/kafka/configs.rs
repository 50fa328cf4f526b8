//! kafka-configs.sh: describe and change settings of topics, brokers and groups.

use ottla_client::{Admin, ConfigEntry, ConfigOp, ConfigSource, Error, Resource, ResourceType};

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::consumer_groups::java_words;
use super::options::{Options, flag, perhaps, value};
use super::{Stop, Tool, complain, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-configs",
    about: "This tool helps to manipulate and describe entity config for a topic, broker or group",
    examples: "
  kafka-configs.sh --bootstrap-server localhost:9092 --describe --topic orders --all
  kafka-configs.sh --bootstrap-server localhost:9092 --alter --topic orders --add-config 'retention.ms=86400000,cleanup.policy=[compact,delete]'
  kafka-configs.sh --bootstrap-server localhost:9092 --alter --broker-defaults --add-config log.retention.hours=48",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        flag("alter", "Alter the configuration for the entity."),
        flag("describe", "List configs for the given entity."),
        flag("all", "List all configs for the given entity, including static configs if available."),
        value("entity-type", "String", "Type of entity: topics, brokers or groups"),
        value("entity-name", "String", "Name of entity: topic name, broker id, group id"),
        flag("entity-default", "Default entity name for brokers"),
        value("topic", "topic name", "The topic's name."),
        value("broker", "broker id", "The broker's ID."),
        flag("broker-defaults", "The config defaults for all brokers."),
        value("group", "group name", "The group's name."),
        value("add-config", "String", "Key Value pairs of configs to add. Square brackets can be used to group values which contain commas: 'k1=v1,k2=[v1,v2,v2],k3=v3'."),
        value("add-config-file", "String", "Path to a properties file with configs to add."),
        value("delete-config", "String", "config keys to remove 'k1,k2'"),
        flag("force", "Suppress console prompts; there are none."),
        perhaps("user", "String", "Not supported: there are no user configs yet."),
        flag("user-defaults", "Not supported: there are no user configs yet."),
        perhaps("client", "String", "Not supported: there are no client quotas yet."),
        flag("client-defaults", "Not supported: there are no client quotas yet."),
        perhaps("ip", "String", "Not supported: there are no connection quotas yet."),
        flag("ip-defaults", "Not supported: there are no connection quotas yet."),
    ],
    run: |options| Box::pin(run(options)),
};

/// The thing whose settings are meant; `None`: all of the kind.
struct Entity {
    kind: Kind,
    name: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Broker,
    Group,
}

impl Kind {
    fn singular(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Broker => "broker",
            Self::Group => "group",
        }
    }

    fn resource(self, name: &str) -> Resource {
        let kind = match self {
            Self::Topic => ResourceType::Topic,
            Self::Broker => ResourceType::Broker,
            Self::Group => ResourceType::Group,
        };
        Resource { kind, name: name.to_owned() }
    }

    /// Where a value of its own comes from; all others are inherited.
    fn own_source(self, name: &str) -> ConfigSource {
        match self {
            Self::Topic => ConfigSource::DynamicTopic,
            Self::Broker if name.is_empty() => ConfigSource::DynamicDefaultBroker,
            Self::Broker => ConfigSource::DynamicBroker,
            Self::Group => ConfigSource::Group,
        }
    }
}

async fn run(options: Options) -> Result<(), Stop> {
    let entity = check(&options)?;
    let admin = connect::admin(&options).await?;
    if options.has("alter") {
        alter(&admin, &options, &entity).await
    } else {
        describe(&admin, &options, &entity).await
    }
}

fn check(options: &Options) -> Result<Entity, Stop> {
    let usage = |words: &str| Err(Stop::Usage(words.to_owned()));
    if options.has("alter") == options.has("describe") {
        return usage("Command must include exactly one action: --describe, --alter");
    }
    for unsupported in ["user", "user-defaults", "client", "client-defaults", "ip", "ip-defaults"] {
        if options.has(unsupported) {
            return Err(Stop::Failed(format!(
                "--{unsupported} is not supported: there are no quotas and users yet"
            )));
        }
    }
    let entity = entity(options)?;
    if options.has("alter") {
        let changes = ["add-config", "add-config-file", "delete-config"];
        if !changes.iter().any(|name| options.has(name)) {
            return usage(
                "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter",
            );
        }
        if options.has("add-config") && options.has("add-config-file") {
            return usage("Only one of --add-config or --add-config-file must be specified");
        }
        if entity.name.is_none() {
            return usage(
                "an entity name must be specified with --alter of topics, brokers or groups",
            );
        }
    }
    Ok(entity)
}

fn entity(options: &Options) -> Result<Entity, Stop> {
    let short = [("topic", Kind::Topic), ("broker", Kind::Broker), ("group", Kind::Group)];
    let mut found = Vec::new();
    for (flag, kind) in short {
        if let Some(name) = options.value(flag)? {
            found.push(Entity { kind, name: Some(name.to_owned()) });
        }
    }
    if options.has("broker-defaults") {
        found.push(Entity { kind: Kind::Broker, name: Some(String::new()) });
    }
    if let Some(kind) = options.value("entity-type")? {
        let kind = match kind {
            "topics" => Kind::Topic,
            "brokers" => Kind::Broker,
            "groups" => Kind::Group,
            "clients" | "users" | "ips" | "client-metrics" | "broker-loggers" => {
                return Err(Stop::Failed(format!("--entity-type {kind} is not supported yet")));
            }
            other => {
                return Err(Stop::Usage(format!(
                    "Invalid entity type {other}, the entity type must be one of topics, brokers, groups"
                )));
            }
        };
        let name = match options.value("entity-name")? {
            Some(name) => Some(name.to_owned()),
            None => options.has("entity-default").then(String::new),
        };
        found.push(Entity { kind, name });
    }
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Stop::Usage("At least one entity type must be specified".into())),
        (Some(_), false) => Err(Stop::Usage(
            "Only 'users' and 'clients' entity types may be specified together".into(),
        )),
        (Some(one), true) => {
            let broker_id =
                one.name.as_ref().filter(|name| one.kind == Kind::Broker && !name.is_empty());
            if let Some(name) = broker_id.filter(|name| name.parse::<i32>().is_err()) {
                return Err(Stop::Usage(format!(
                    "The entity name for brokers must be a valid integer broker id, but it is: {name}"
                )));
            }
            Ok(one)
        }
    }
}

async fn alter(admin: &Admin, options: &Options, entity: &Entity) -> Result<(), Stop> {
    let mut changes = Vec::new();
    let added = match (options.value("add-config")?, options.value("add-config-file")?) {
        (Some(text), _) => parse_pairs(text)?,
        (None, Some(path)) => connect::property_file(path)?.into_iter().collect(),
        (None, None) => Vec::new(),
    };
    changes.extend(added.into_iter().map(|(key, value)| (ConfigOp::Set, key, Some(value))));
    let deleted = options.value("delete-config")?.unwrap_or_default();
    let deleted = deleted.split(',').map(str::trim).filter(|key| !key.is_empty());
    changes.extend(deleted.map(|key| (ConfigOp::Delete, key.to_owned(), None)));
    let name = entity.name.as_deref().unwrap_or_default();
    match admin.alter_configs(&entity.kind.resource(name), changes).await {
        Ok(()) if name.is_empty() => {
            say("Completed updating default config for brokers in the cluster.");
        }
        Ok(()) => {
            say(format_args!("Completed updating config for {} {name}.", entity.kind.singular()));
        }
        Err(error) => return Err(failed(&error)),
    }
    Ok(())
}

fn failed(error: &Error) -> Stop {
    complain("Error while executing config command");
    Stop::Failed(java_words(error))
}

/// `k1=v1,k2=[a,b]`: brackets group values that contain commas.
fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, Stop> {
    let mut parts = vec![String::new()];
    let mut inside = false;
    for letter in text.chars() {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            ',' if !inside => parts.push(String::new()),
            other => parts.last_mut().into_iter().for_each(|part| part.push(other)),
        }
    }
    let pair = |part: &String| match part.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(Stop::Failed(
            "Invalid entity config: all configs to be added must be in the format \"key=val\"."
                .into(),
        )),
    };
    parts.iter().filter(|part| !part.trim().is_empty()).map(pair).collect()
}

async fn describe(admin: &Admin, options: &Options, entity: &Entity) -> Result<(), Stop> {
    let existing = existing(admin, entity.kind).await?;
    let names = match &entity.name {
        Some(name) if name.is_empty() || existing.contains(name) => vec![name.clone()],
        Some(name) => {
            let kind = entity.kind.singular();
            say(format_args!("The {kind} '{name}' doesn't exist and doesn't have dynamic config."));
            return Ok(());
        }
        None if entity.kind == Kind::Broker => {
            existing.into_iter().chain([String::new()]).collect()
        }
        None => existing,
    };
    let all = options.has("all");
    for name in names {
        let entries = admin
            .describe_configs(&entity.kind.resource(&name))
            .await
            .map_err(|error| failed(&error))?;
        match (name.is_empty(), all) {
            (true, _) => say("Default configs for brokers in the cluster are:"),
            (false, true) => {
                say(format_args!("All configs for {} {name} are:", entity.kind.singular()));
            }
            (false, false) => {
                say(format_args!("Dynamic configs for {} {name} are:", entity.kind.singular()));
            }
        }
        let mut entries: Vec<ConfigEntry> = entries
            .into_iter()
            .filter(|entry| all || entry.source == entity.kind.own_source(&name))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.iter().for_each(print_entry);
    }
    Ok(())
}

/// The names of all entities of a kind, in order.
async fn existing(admin: &Admin, kind: Kind) -> Result<Vec<String>, Stop> {
    let mut names: Vec<String> = match kind {
        Kind::Topic => admin.topics(None).await?.into_iter().map(|topic| topic.name).collect(),
        Kind::Broker => {
            let mut ids: Vec<i32> =
                admin.describe_cluster().await?.brokers.iter().map(|node| node.id).collect();
            ids.sort_unstable();
            return Ok(ids.iter().map(ToString::to_string).collect());
        }
        Kind::Group => {
            let mut names: Vec<String> =
                admin.list_groups(&[], &[]).await?.into_iter().map(|group| group.id).collect();
            // Brokers before 4.1 cannot list what has settings without existing.
            names.extend(admin.config_resources(ResourceType::Group).await.unwrap_or_default());
            names
        }
    };
    names.sort();
    names.dedup();
    Ok(names)
}

fn print_entry(entry: &ConfigEntry) {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".into());
    let synonyms: Vec<String> = entry
        .synonyms
        .iter()
        .map(|synonym| {
            format!("{}:{}={}", synonym.source.name(), synonym.name, text(&synonym.value))
        })
        .collect();
    say(format_args!(
        "  {}={} sensitive={} synonyms={{{}}}",
        entry.name,
        text(&entry.value),
        entry.sensitive,
        synonyms.join(", ")
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_group_values_with_commas() {
        let pairs = |text: &str| parse_pairs(text).ok().map(|pairs| format!("{pairs:?}"));
        assert_eq!(
            pairs("a=1,b=[x,y],c=").as_deref(),
            Some(r#"[("a", "1"), ("b", "x,y"), ("c", "")]"#)
        );
        assert_eq!(pairs("a=b=c").as_deref(), Some(r#"[("a", "b=c")]"#));
        assert_eq!(pairs("a"), None);
    }
}
