//! kafka-features.sh describe: which features the cluster knows, and at which level each is.
//!
//! Deliberately absent: upgrade, downgrade and disable. Features are fixed when a cluster is founded.

use super::connect::{self, Asked, BOOTSTRAP, BOOTSTRAP_CONTROLLER, COMMAND_CONFIG};
use super::options::{Options, value};
use super::{Stop, Tool, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-features",
    about: "This tool manages feature flags in Kafka.",
    examples: "
  kafka-features.sh --bootstrap-server localhost:9092 describe",
    options: &[
        BOOTSTRAP,
        BOOTSTRAP_CONTROLLER,
        COMMAND_CONFIG,
        value("node-id", "id", "describe: the broker to ask; any, if not specified."),
    ],
    run: |options| Box::pin(run(options)),
};

/// The names of `metadata.version`'s levels, from [`FIRST`] on.
const METADATA_VERSIONS: [&str; 25] = [
    "3.3-IV3", "3.4-IV0", "3.5-IV0", "3.5-IV1", "3.5-IV2", "3.6-IV0", "3.6-IV1", "3.6-IV2",
    "3.7-IV0", "3.7-IV1", "3.7-IV2", "3.7-IV3", "3.7-IV4", "3.8-IV0", "3.9-IV0", "4.0-IV0",
    "4.0-IV1", "4.0-IV2", "4.0-IV3", "4.1-IV0", "4.1-IV1", "4.2-IV0", "4.2-IV1", "4.3-IV0",
    "4.4-IV0",
];
const FIRST: i16 = 7;

async fn run(options: Options) -> Result<(), Stop> {
    match options.rest.first().map(String::as_str) {
        Some("describe") => {}
        Some(other @ ("upgrade" | "downgrade" | "disable")) => {
            return Err(Stop::Failed(format!(
                "{other} is not supported: features are fixed when a cluster is founded"
            )));
        }
        _ => return Err(Stop::Usage("a command is required: describe".into())),
    }
    let node: Option<i32> = options.number("node-id")?;
    let properties = connect::command_config(&options)?;
    let features = match connect::either(&options, properties).await? {
        Asked::Brokers(admin) => admin.features(node).await?,
        Asked::Controllers(controllers) => controllers.features().await?,
    };
    let epoch = features.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    for (name, (lowest, highest)) in &features.supported {
        let level = |level: i16| level_name(name, level);
        say(format_args!(
            "Feature: {name:<40}  SupportedMinVersion: {:<15}  SupportedMaxVersion: {:<15}  FinalizedVersionLevel: {:<15}  Epoch: {epoch}",
            level(*lowest),
            level(*highest),
            level(features.finalized.get(name).copied().unwrap_or(0)),
        ));
    }
    Ok(())
}

fn level_name(feature: &str, level: i16) -> String {
    if feature != "metadata.version" {
        return level.to_string();
    }
    let name = usize::try_from(level - FIRST).ok().and_then(|at| METADATA_VERSIONS.get(at));
    name.map_or_else(|| format!("UNKNOWN {level}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_metadata_have_names() {
        let table = [(7, "3.3-IV3"), (21, "3.9-IV0"), (30, "4.3-IV0"), (0, "UNKNOWN 0")];
        for (level, name) in table {
            assert_eq!(level_name("metadata.version", level), name);
        }
        assert_eq!(level_name("kraft.version", 1), "1");
    }
}
