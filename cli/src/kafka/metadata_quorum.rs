//! kafka-metadata-quorum.sh: who leads and who votes, and changing the voters.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ottla_client::text::{id_text, parse_id};
use ottla_client::{Quorum, QuorumEndpoint, QuorumReplica};
use uuid::Uuid;

use super::connect::{self, Asked, BOOTSTRAP, BOOTSTRAP_CONTROLLER, COMMAND_CONFIG, Properties};
use super::options::{Options, flag, value};
use super::{Stop, Tool, print_table, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-metadata-quorum",
    about: "This tool describes kraft metadata quorum status.",
    examples: "
  kafka-metadata-quorum.sh --bootstrap-server localhost:9092 describe --status
  kafka-metadata-quorum.sh --bootstrap-server localhost:9092 describe --replication --human-readable
  kafka-metadata-quorum.sh --bootstrap-controller localhost:9093 --command-config controller.properties add-controller
  kafka-metadata-quorum.sh --bootstrap-server localhost:9092 remove-controller --controller-id 2 --controller-directory-id Yx0ZbW1sTDGmqtoBqnTgYQ",
    options: &[
        BOOTSTRAP,
        BOOTSTRAP_CONTROLLER,
        COMMAND_CONFIG,
        flag(
            "status",
            "describe: a short summary of the quorum status.",
        ),
        flag("replication", "describe: detailed information about the status of replication."),
        flag("human-readable", "describe --replication: times as how long ago they were."),
        flag("dry-run", "add-controller, remove-controller: say what would be done, do nothing."),
        value("controller-id", "id", "remove-controller: the id of the controller to remove.")
            .or("i"),
        value(
            "controller-directory-id",
            "directory id",
            "remove-controller: the directory id of the controller to remove.",
        )
        .or("d"),
    ],
    run: |options| Box::pin(run(options)),
};

async fn run(options: Options) -> Result<(), Stop> {
    let properties = connect::command_config(&options)?;
    match options.rest.first().map(String::as_str) {
        Some("describe") => describe(&options, properties).await,
        Some("add-controller") => add(&options, properties).await,
        Some("remove-controller") => remove(&options, properties).await,
        _ => Err(Stop::Usage(
            "a command is required: describe, add-controller or remove-controller".into(),
        )),
    }
}

async fn describe(options: &Options, properties: Properties) -> Result<(), Stop> {
    let (status, replication) = (options.has("status"), options.has("replication"));
    let wrong = match (status, replication) {
        (true, true) => Some(
            "Only one of --status or --replication should be specified with describe sub-command",
        ),
        (false, false) => {
            Some("One of --status or --replication must be specified with describe sub-command")
        }
        (true, false) if options.has("human-readable") => {
            Some("The option --human-readable is only supported along with --replication")
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        return Err(Stop::Failed(wrong.to_owned()));
    }
    let asked = connect::either(options, properties).await?;
    let quorum = match &asked {
        Asked::Brokers(admin) => admin.describe_quorum().await?,
        Asked::Controllers(controllers) => controllers.describe_quorum().await?,
    };
    if replication {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        let human = options.has("human-readable");
        print_table(&replicas(&quorum, human.then_some(now as i64))?);
        return Ok(());
    }
    let cluster = match &asked {
        Asked::Brokers(admin) => admin.describe_cluster().await?,
        Asked::Controllers(controllers) => controllers.describe_cluster().await?,
    };
    say(summary(&cluster.id, &quorum)?);
    Ok(())
}

fn leader(quorum: &Quorum) -> Result<&QuorumReplica, Stop> {
    let leader = quorum.voters.iter().find(|voter| voter.id == quorum.leader);
    leader.ok_or_else(|| Stop::Failed(format!("node {} leads, but has no vote", quorum.leader)))
}

fn summary(cluster: &str, quorum: &Quorum) -> Result<String, Stop> {
    let leader = leader(quorum)?;
    let behind = quorum.voters.iter().min_by_key(|voter| voter.log_end_offset).unwrap_or(leader);
    let lag = leader.log_end_offset - behind.log_end_offset;
    let lag_ms = match (leader.last_caught_up, behind.last_caught_up) {
        _ if leader.id == behind.id => 0,
        (Some(leader), Some(behind)) => leader - behind,
        _ => -1,
    };
    let list = |replicas: &[QuorumReplica]| {
        replicas.iter().map(|replica| node(quorum, replica)).collect::<Vec<_>>().join(", ")
    };
    Ok(format!(
        "ClusterId:              {cluster}\n\
         LeaderId:               {}\n\
         LeaderEpoch:            {}\n\
         HighWatermark:          {}\n\
         MaxFollowerLag:         {lag}\n\
         MaxFollowerLagTimeMs:   {lag_ms}\n\
         CurrentVoters:          [{}]\n\
         CurrentObservers:       [{}]",
        quorum.leader,
        quorum.epoch,
        quorum.high_watermark,
        list(&quorum.voters),
        list(&quorum.observers),
    ))
}

fn node(quorum: &Quorum, replica: &QuorumReplica) -> String {
    let mut text = format!("{{\"id\": {}", replica.id);
    if !replica.directory.is_nil() {
        text.push_str(&format!(", \"directoryId\": \"{}\"", id_text(replica.directory)));
    }
    let endpoints = quorum.endpoints.get(&replica.id).map(Vec::as_slice).unwrap_or_default();
    if !endpoints.is_empty() {
        let all: Vec<_> = endpoints.iter().map(|one| format!("\"{}\"", address(one))).collect();
        text.push_str(&format!(", \"endpoints\": [{}]", all.join(", ")));
    }
    text + "}"
}

fn address(endpoint: &QuorumEndpoint) -> String {
    let QuorumEndpoint { listener, host, port } = endpoint;
    if host.contains(':') {
        format!("{listener}://[{host}]:{port}")
    } else {
        format!("{listener}://{host}:{port}")
    }
}

/// One row per replica, the leader first; times as they are, or as how long before `now`.
fn replicas(quorum: &Quorum, now: Option<i64>) -> Result<Vec<[String; 7]>, Stop> {
    let leader = leader(quorum)?;
    let time = |millis: Option<i64>| match (millis, now) {
        (None, _) => "-1".to_owned(),
        (Some(millis), None) => millis.to_string(),
        // Two clocks may differ by a little: what is just now is not in the future.
        (Some(millis), Some(now)) => format!("{} ms ago", (now - millis).max(0)),
    };
    let row = |replica: &QuorumReplica, status: &str| {
        [
            replica.id.to_string(),
            id_text(replica.directory),
            replica.log_end_offset.to_string(),
            (leader.log_end_offset - replica.log_end_offset).to_string(),
            time(replica.last_fetch),
            time(replica.last_caught_up),
            status.to_owned(),
        ]
    };
    let head = [
        "NodeId",
        "DirectoryId",
        "LogEndOffset",
        "Lag",
        "LastFetchTimestamp",
        "LastCaughtUpTimestamp",
        "Status",
    ];
    let mut table = vec![head.map(str::to_owned), row(leader, "Leader")];
    let followers = quorum.voters.iter().filter(|voter| voter.id != quorum.leader);
    table.extend(followers.map(|replica| row(replica, "Follower")));
    table.extend(quorum.observers.iter().map(|replica| row(replica, "Observer")));
    Ok(table)
}

async fn add(options: &Options, properties: Properties) -> Result<(), Stop> {
    if !options.has("command-config") {
        return Err(Stop::Failed(
            "You must supply the configuration file of the controller you are adding when using \
             add-controller."
                .into(),
        ));
    }
    let id = controller_id(&properties)?;
    let directory = directory_id(&metadata_directory(&properties)?)?;
    let endpoints = endpoints(&properties)?;
    let dry = options.has("dry-run");
    if !dry {
        match connect::either(options, properties).await? {
            Asked::Brokers(admin) => admin.add_raft_voter(id, directory, &endpoints).await?,
            Asked::Controllers(all) => all.add_raft_voter(id, directory, &endpoints).await?,
        }
    }
    say(format_args!(
        "{} controller {id} with directory id {} and endpoints: {}",
        if dry { "DRY RUN of adding" } else { "Added" },
        id_text(directory),
        endpoints.iter().map(address).collect::<Vec<_>>().join(", ")
    ));
    Ok(())
}

const VALID: &str = "Is this a valid controller configuration file?";

fn controller_id(properties: &Properties) -> Result<i32, Stop> {
    let Some(id) = properties.get("node.id") else {
        return Err(Stop::Failed(format!("node.id not found in configuration file. {VALID}")));
    };
    let id: i32 = id.parse().map_err(|_| Stop::Failed(format!("node.id {id:?} is no number")))?;
    if id < 0 {
        return Err(Stop::Failed(format!("node.id was negative in configuration file. {VALID}")));
    }
    if !properties.get("process.roles").is_some_and(|roles| roles.contains("controller")) {
        return Err(Stop::Failed(format!(
            "process.roles did not contain 'controller' in configuration file. {VALID}"
        )));
    }
    Ok(id)
}

fn metadata_directory(properties: &Properties) -> Result<String, Stop> {
    let first = |text: &String| text.split(',').next().unwrap_or_default().trim().to_owned();
    let found = properties
        .get("metadata.log.dir")
        .cloned()
        .or_else(|| properties.get("log.dirs").map(first))
        .or_else(|| properties.get("log.dir").cloned());
    found.ok_or_else(|| {
        Stop::Failed(format!("Neither metadata.log.dir nor log.dirs were found. {VALID}"))
    })
}

fn directory_id(folder: &str) -> Result<Uuid, Stop> {
    let path = Path::new(folder).join("meta.properties");
    let unreadable = || Stop::Failed(format!("Unable to read meta.properties from {folder}"));
    let path = path.to_str().ok_or_else(unreadable)?;
    let properties = connect::property_file(path).map_err(|_| unreadable())?;
    let id = properties.get("directory.id").and_then(|text| parse_id(text));
    id.ok_or_else(|| Stop::Failed(format!("No directory id found in {folder}")))
}

fn endpoints(properties: &Properties) -> Result<Vec<QuorumEndpoint>, Stop> {
    let Some(names) = properties.get("controller.listener.names") else {
        return Err(Stop::Failed(format!("controller.listener.names was not found. {VALID}")));
    };
    let mut found = Vec::new();
    for name in names.split(',').map(|name| name.trim().to_uppercase()) {
        let lists = ["advertised.listeners", "listeners"].map(|key| properties.get(key));
        let mut all = lists.into_iter().flatten().flat_map(|list| list.split(','));
        let endpoint = all.find_map(|text| {
            let (listener, address) = text.trim().split_once("://")?;
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let host = if host.is_empty() { "localhost" } else { host };
            (listener.to_uppercase() == name).then_some(())?;
            Some(QuorumEndpoint {
                listener: name.clone(),
                host: host.to_owned(),
                port: port.parse().ok()?,
            })
        });
        found.push(endpoint.ok_or_else(|| {
            Stop::Failed(format!("Cannot find information about controller listener name: {name}"))
        })?);
    }
    Ok(found)
}

async fn remove(options: &Options, properties: Properties) -> Result<(), Stop> {
    options.require("controller-id")?;
    let id: i32 = options.number("controller-id")?.unwrap_or(-1);
    if id < 0 {
        return Err(Stop::Failed(format!("Invalid negative --controller-id: {id}")));
    }
    let text = options.require("controller-directory-id")?;
    let directory = parse_id(text).ok_or_else(|| {
        Stop::Failed(format!(
            "Failed to parse --controller-directory-id: {text:?} is not 22 characters of base64"
        ))
    })?;
    let dry = options.has("dry-run");
    if !dry {
        match connect::either(options, properties).await? {
            Asked::Brokers(admin) => admin.remove_raft_voter(id, directory).await?,
            Asked::Controllers(all) => all.remove_raft_voter(id, directory).await?,
        }
    }
    say(format_args!(
        "{} KRaft controller {id} with directory id {}",
        // With the blank that Kafka's tool has there.
        if dry { "DRY RUN of removing " } else { "Removed " },
        id_text(directory)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum() -> Quorum {
        let replica = |id: i32, end, caught_up| QuorumReplica {
            id,
            directory: Uuid::from_u128(id as u128),
            log_end_offset: end,
            last_fetch: Some(1000 + end),
            last_caught_up: caught_up,
        };
        let endpoint =
            QuorumEndpoint { listener: "CONTROLLER".into(), host: "::1".into(), port: 9093 };
        Quorum {
            leader: 1,
            epoch: 5,
            high_watermark: 90,
            voters: vec![replica(0, 80, Some(1500)), replica(1, 100, Some(2000))],
            observers: vec![replica(4, 70, None)],
            endpoints: [(1, vec![endpoint])].into(),
        }
    }

    #[test]
    fn a_summary_is_written_as_kafka_writes_it() {
        let text = summary("id", &quorum()).expect("a leader");
        let lines: Vec<_> = text.lines().map(|line| line.split_at(24).1).collect();
        assert_eq!(lines[..6], ["id", "1", "5", "90", "20", "500"]);
        assert_eq!(
            lines[6],
            "[{\"id\": 0, \"directoryId\": \"AAAAAAAAAAAAAAAAAAAAAA\"}, \
             {\"id\": 1, \"directoryId\": \"AAAAAAAAAAAAAAAAAAAAAQ\", \
             \"endpoints\": [\"CONTROLLER://[::1]:9093\"]}]"
                .replace(", \"directoryId\": \"AAAAAAAAAAAAAAAAAAAAAA\"", "")
        );
        assert_eq!(lines[7], "[{\"id\": 4, \"directoryId\": \"AAAAAAAAAAAAAAAAAAAABA\"}]");
    }

    #[test]
    fn replicas_are_shown_with_the_leader_first_and_times_as_asked() {
        let rows = replicas(&quorum(), Some(2500)).expect("a leader");
        let column = |at: usize| rows[1..].iter().map(|row| row[at].as_str()).collect::<Vec<_>>();
        assert_eq!(column(0), ["1", "0", "4"]);
        assert_eq!(column(3), ["0", "20", "30"]);
        assert_eq!(column(5), ["500 ms ago", "1000 ms ago", "-1"]);
        assert_eq!(column(6), ["Leader", "Follower", "Observer"]);
    }

    #[test]
    fn a_controller_is_added_from_its_own_settings() {
        let properties = |text: &str| -> Properties {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(k, v)| (k.into(), v.into()))
                .collect()
        };
        let settings = properties(
            "node.id=3\nprocess.roles=controller\ncontroller.listener.names=C\n\
             listeners=C://:9093,A://:9092\nlog.dirs=/a,/b",
        );
        assert_eq!(controller_id(&settings).ok(), Some(3));
        assert_eq!(metadata_directory(&settings).ok().as_deref(), Some("/a"));
        let found = endpoints(&settings).expect("a listener");
        assert_eq!(found.iter().map(address).collect::<Vec<_>>(), ["C://localhost:9093"]);
        for wrong in ["", "node.id=3", "node.id=-1\nprocess.roles=controller"] {
            assert!(matches!(controller_id(&properties(wrong)), Err(Stop::Failed(_))), "{wrong}");
        }
    }
}
