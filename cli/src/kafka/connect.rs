//! From the command line to a cluster: bootstrap address, property files, patience.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ottla_client::{Admin, Client, Controllers, Error};

use super::options::{Opt, Options, value};
use super::{Stop, complain};

/// Names the cluster where `--bootstrap-server` is left out; the image sets it to the pod's own broker.
pub(crate) const BOOTSTRAP_VARIABLE: &str = "OTTLA_BOOTSTRAP";

pub(crate) const BOOTSTRAP: Opt = value(
    "bootstrap-server",
    "server to connect to",
    "REQUIRED: The Kafka server to connect to, HOST:PORT, several with commas between them. \
     May be left out where the environment variable OTTLA_BOOTSTRAP holds it.",
);

pub(crate) const COMMAND_CONFIG: Opt = value(
    "command-config",
    "command config property file",
    "Property file containing configs to be passed to Admin Client.",
);

pub(crate) const BOOTSTRAP_CONTROLLER: Opt = value(
    "bootstrap-controller",
    "controller to connect to",
    "A comma-separated list of host:port pairs of controllers, in place of --bootstrap-server.",
);

/// Whom a tool asks that can ask either.
pub(crate) enum Asked {
    Brokers(Admin),
    Controllers(Controllers),
}

pub(crate) type Properties = BTreeMap<String, String>;

/// The bootstrap address from the first of `names` that is given, else from the environment.
pub(crate) fn bootstrap(options: &Options, names: &[&str]) -> Result<Option<String>, Stop> {
    for name in names {
        if let Some(address) = options.value(name)? {
            return Ok(Some(address.to_owned()));
        }
    }
    Ok(std::env::var(BOOTSTRAP_VARIABLE).ok().filter(|address| !address.is_empty()))
}

/// A Java property file: `key=value` or `key: value`, `#` and `!` comments, `\` at the end continues.
pub(crate) fn property_file(path: &str) -> Result<Properties, Stop> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Stop::Failed(format!("cannot read {path}: {error}")))?;
    Ok(parse_properties(&text))
}

fn parse_properties(text: &str) -> Properties {
    let mut properties = Properties::new();
    let mut line = String::new();
    for part in text.lines() {
        line.push_str(part.trim_start());
        if line.ends_with('\\') && !line.starts_with(['#', '!']) {
            line.pop();
            continue;
        }
        if !line.trim().is_empty() && !line.starts_with(['#', '!']) {
            let at = line.find(['=', ':']).unwrap_or(line.len());
            let value = line.get(at + 1..).unwrap_or_default().trim();
            properties.insert(line[..at].trim().to_owned(), value.to_owned());
        }
        line.clear();
    }
    properties
}

/// The properties of `--command-config`, if it is given.
pub(crate) fn command_config(options: &Options) -> Result<Properties, Stop> {
    options.value("command-config")?.map_or_else(|| Ok(Properties::new()), property_file)
}

/// Takes a property out of `properties` as milliseconds.
pub(crate) fn take_millis(
    properties: &mut Properties,
    key: &str,
) -> Result<Option<Duration>, Stop> {
    Ok(take_number::<u64>(properties, key)?.map(Duration::from_millis))
}

pub(crate) fn take_number<T: std::str::FromStr>(
    properties: &mut Properties,
    key: &str,
) -> Result<Option<T>, Stop> {
    let Some(text) = properties.remove(key) else { return Ok(None) };
    let parsed = text.trim().parse();
    parsed.map(Some).map_err(|_| {
        Stop::Failed(format!("Invalid value {text} for configuration {key}: not a number"))
    })
}

/// Says which properties nobody took; refuses those that would weaken security if they were ignored.
pub(crate) fn check_left_over(properties: &Properties) -> Result<(), Stop> {
    for (key, value) in properties {
        if key == "security.protocol" && value != "PLAINTEXT" {
            return Err(Stop::Failed(format!(
                "security.protocol={value} is not supported yet: only PLAINTEXT is"
            )));
        }
        if key.starts_with("sasl.") || key.starts_with("ssl.") {
            return Err(Stop::Failed(format!(
                "{key} is not supported yet: only PLAINTEXT connections are"
            )));
        }
        if key != "security.protocol" {
            complain(format_args!("WARNING: the property {key} has no effect here"));
        }
    }
    Ok(())
}

pub(crate) fn client_options(
    properties: &mut Properties,
    client_id: &str,
) -> Result<ottla_client::Options, Stop> {
    let mut options = ottla_client::Options {
        client_id: client_id.to_owned(),
        ..ottla_client::Options::default()
    };
    if let Some(id) = properties.remove("client.id") {
        options.client_id = id;
    }
    if let Some(timeout) = take_millis(properties, "request.timeout.ms")? {
        options.request_timeout = timeout;
    }
    if let Some(timeout) = take_millis(properties, "default.api.timeout.ms")? {
        options.api_timeout = timeout;
    }
    if let Some(timeout) = take_millis(properties, "socket.connection.setup.timeout.ms")? {
        options.connect_timeout = timeout;
    }
    Ok(options)
}

/// Connects as an admin tool does: `--bootstrap-server`, `--command-config`.
pub(crate) async fn admin(options: &Options) -> Result<Admin, Stop> {
    let mut properties = command_config(options)?;
    let from_file = properties.remove("bootstrap.servers");
    let Some(bootstrap) = bootstrap(options, &["bootstrap-server"])?.or(from_file) else {
        return Err(Stop::Usage("Missing required argument \"[bootstrap-server]\"".into()));
    };
    let client = client_options(&mut properties, "adminclient")?;
    check_left_over(&properties)?;
    Ok(Admin::of(connect(&bootstrap, client).await?))
}

/// Connects to the brokers of `--bootstrap-server` or the controllers of `--bootstrap-controller`,
/// with those of `properties` that are a client's.
pub(crate) async fn either(options: &Options, mut properties: Properties) -> Result<Asked, Stop> {
    options.excludes("bootstrap-server", &["bootstrap-controller"])?;
    let client = client_options(&mut properties, "adminclient")?;
    if let Some(controllers) = options.value("bootstrap-controller")? {
        return Ok(Asked::Controllers(Controllers::at(controllers, client)?));
    }
    let Some(bootstrap) = bootstrap(options, &["bootstrap-server"])? else {
        return Err(Stop::Usage(
            "one of the arguments --bootstrap-server --bootstrap-controller is required".into(),
        ));
    };
    Ok(Asked::Brokers(Admin::of(connect(&bootstrap, client).await?)))
}

/// Connects, with Kafka's patience: a cluster that is starting is waited for, and the user is told.
pub(crate) async fn connect(
    bootstrap: &str,
    options: ottla_client::Options,
) -> Result<Client, Error> {
    let deadline = Instant::now() + options.api_timeout;
    let mut told = false;
    loop {
        match Client::connect(bootstrap, options.clone()).await {
            Err(error) if error.is_retriable() && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    complain(format_args!(
                        "WARN {error}; trying for {} s. Is the broker up, and is this its address?",
                        options.api_timeout.as_secs()
                    ));
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_files_are_read_as_java_reads_them() {
        let text = "# comment\na=1\n b : two words \n\nlong=x\\\n  y\n!no=1\nempty=\nbare\n";
        let properties = parse_properties(text);
        let expected =
            [("a", "1"), ("b", "two words"), ("bare", ""), ("empty", ""), ("long", "xy")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(properties, expected.into());
    }
}
