//! kafka-cluster.sh: the cluster's id, its endpoints, and brokers that will not come back.

use ottla_client::Node;

use super::connect::{self, Asked, BOOTSTRAP, BOOTSTRAP_CONTROLLER, COMMAND_CONFIG};
use super::options::{Options, flag, value};
use super::{Stop, Tool, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-cluster",
    about: "The Kafka cluster tool.",
    examples: "
  kafka-cluster.sh cluster-id --bootstrap-server localhost:9092
  kafka-cluster.sh list-endpoints --bootstrap-server localhost:9092 --include-fenced-brokers
  kafka-cluster.sh unregister --bootstrap-server localhost:9092 --id 3",
    options: &[
        BOOTSTRAP.or("b"),
        BOOTSTRAP_CONTROLLER.or("C"),
        COMMAND_CONFIG.or("c"),
        value("config", "property file", "(DEPRECATED) Use --command-config instead."),
        value("id", "id", "unregister: the ID of the broker to unregister.").or("i"),
        flag(
            "include-fenced-brokers",
            "list-endpoints: whether to include fenced brokers when listing broker endpoints",
        ),
    ],
    run: |options| Box::pin(run(options)),
};

async fn run(options: Options) -> Result<(), Stop> {
    options.excludes("config", &["command-config"])?;
    let properties = match options.value("config")? {
        Some(path) => {
            say(
                "Option --config has been deprecated and will be removed in a future version. Use --command-config instead.",
            );
            connect::property_file(path)?
        }
        None => connect::command_config(&options)?,
    };
    let command = options.rest.first().map(String::as_str).unwrap_or_default();
    if !["cluster-id", "list-endpoints", "unregister"].contains(&command) {
        return Err(Stop::Usage(
            "a command is required: cluster-id, list-endpoints or unregister".into(),
        ));
    }
    if command == "unregister" {
        options.require("id")?;
    }
    let fenced = options.has("include-fenced-brokers");
    if fenced && options.has("bootstrap-controller") {
        return Err(Stop::Failed(
            "The option --include-fenced-brokers is only supported with --bootstrap-server option"
                .into(),
        ));
    }
    let asked = connect::either(&options, properties).await?;
    if command == "unregister" {
        let id: i32 = options.number("id")?.unwrap_or(-1);
        match &asked {
            Asked::Brokers(admin) => admin.unregister_broker(id).await?,
            Asked::Controllers(controllers) => controllers.unregister_broker(id).await?,
        }
        say(format_args!("Broker {id} is no longer registered."));
        return Ok(());
    }
    let cluster = match &asked {
        Asked::Brokers(admin) => admin.describe_cluster().await?,
        Asked::Controllers(controllers) => controllers.describe_cluster().await?,
    };
    if command == "cluster-id" {
        say(format_args!("Cluster ID: {}", cluster.id));
        return Ok(());
    }
    let brokers = matches!(asked, Asked::Brokers(_));
    let shown = cluster.brokers.iter().filter(|node| fenced || !node.fenced);
    for line in endpoints(&shown.collect::<Vec<_>>(), brokers) {
        say(line);
    }
    Ok(())
}

fn endpoints(nodes: &[&Node], brokers: bool) -> Vec<String> {
    let widest = |of: fn(&Node) -> Option<usize>| nodes.iter().filter_map(|node| of(node)).max();
    let host = widest(|node| Some(node.host.len())).unwrap_or(100);
    let rack = widest(|node| node.rack.as_ref().map(String::len)).unwrap_or(10);
    let line = |id: &str, at: &str, port: &str, zone: &str, state: &str, kind: &str| {
        let start = format!("{id:<10} {at:<host$} {port:<10} {zone:<rack$} ");
        if brokers {
            format!("{start}{state:<10} {kind:<15}")
        } else {
            format!("{start}{kind:<15}")
        }
    };
    let mut lines = vec![line("ID", "HOST", "PORT", "RACK", "STATE", "ENDPOINT_TYPE")];
    lines.extend(nodes.iter().map(|node| {
        line(
            &node.id.to_string(),
            &node.host,
            &node.port.to_string(),
            node.rack.as_deref().unwrap_or("null"),
            if node.fenced { "fenced" } else { "unfenced" },
            if brokers { "broker" } else { "controller" },
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_listed_in_kafkas_columns() {
        let node = Node { id: 1, host: "localhost".into(), port: 9092, rack: None, fenced: false };
        assert_eq!(
            endpoints(&[&node], true),
            [
                "ID         HOST      PORT       RACK       STATE      ENDPOINT_TYPE  ",
                "1          localhost 9092       null       unfenced   broker         ",
            ]
        );
        assert_eq!(
            endpoints(&[&node], false)[1],
            "1          localhost 9092       null       controller     "
        );
    }
}
