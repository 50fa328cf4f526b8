//! Moves between the log directories of a broker: the part of kafka-reassign-partitions.sh that the
//! `log_dirs` of a plan ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use ottla_client::{Admin, ErrorCode, TopicPartition};
use tokio::time::{Instant, sleep};

use super::{Stop, say};

/// What Kafka's tool waits between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A replica; printed as Kafka's tool does it. Ordered as its lists are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Replica {
    broker: i32,
    at: TopicPartition,
}

impl Replica {
    pub(super) fn new(at: TopicPartition, broker: i32) -> Self {
        Self { broker, at }
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at, self.broker)
    }
}

/// Replicas and the directories that they are to be in.
pub(super) type Targets = BTreeMap<Replica, String>;

/// How far a move is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Move {
    Completed,
    /// From, and to.
    Active(String, String),
    /// Where the replica is.
    Cancelled(String),
    /// It is coming, and nothing is there to come from.
    MissingLogDir,
    MissingReplica,
}

impl Move {
    fn of(target: &str, current: Option<&String>, future: Option<&String>) -> Self {
        match (current, future) {
            (None, None) => Self::MissingReplica,
            (None, Some(_)) => Self::MissingLogDir,
            (Some(current), Some(future)) => Self::Active(current.clone(), future.clone()),
            (Some(current), None) if current == target => Self::Completed,
            (Some(current), None) => Self::Cancelled(current.clone()),
        }
    }

    fn tell(&self, replica: &Replica, target: &str) -> String {
        let Replica { broker, at } = replica;
        match self {
            Self::Completed => format!("Reassignment of replica {replica} completed successfully."),
            Self::Active(_, future) if future == target => {
                format!("Reassignment of replica {replica} is still in progress.")
            }
            Self::Active(_, future) => format!(
                "Partition {at} on broker {broker} is being moved to log dir {future} instead of {target}."
            ),
            Self::Cancelled(current) => format!(
                "Partition {at} on broker {broker} is not being moved from log dir {current} to {target}."
            ),
            Self::MissingLogDir => format!(
                "Partition {at} is not found in any live log dir on broker {broker}. There is likely an offline log directory on the broker."
            ),
            Self::MissingReplica => format!(
                "Partition {at} cannot be found in any live log directory on broker {broker}."
            ),
        }
    }
}

/// How far the moves to `targets` are, as the brokers say.
async fn states(admin: &Admin, targets: &Targets) -> Result<BTreeMap<Replica, Move>, Stop> {
    let (mut current, mut future) = (BTreeMap::new(), BTreeMap::new());
    for broker in targets.keys().map(|it| it.broker).collect::<BTreeSet<_>>() {
        let mut asked = BTreeMap::<String, Vec<i32>>::new();
        for replica in targets.keys().filter(|it| it.broker == broker) {
            asked.entry(replica.at.topic.to_string()).or_default().push(replica.at.partition);
        }
        let asked: Vec<_> = asked.into_iter().collect();
        for dir in admin.log_dirs(broker, Some(&asked)).await.map_err(failed)? {
            for (at, _, _, is_future) in dir.replicas {
                let places = if is_future { &mut future } else { &mut current };
                places.insert(Replica { broker, at }, dir.path.clone());
            }
        }
    }
    let state = |(replica, target): (&Replica, &String)| {
        (replica.clone(), Move::of(target, current.get(replica), future.get(replica)))
    };
    Ok(targets.iter().map(state).collect())
}

fn failed(message: impl fmt::Display) -> Stop {
    Stop::Failed(format!("Error: {message}"))
}

/// Prints how far the moves are.
pub(super) async fn verify(admin: &Admin, targets: &Targets) -> Result<(), Stop> {
    let states = states(admin, targets).await?;
    let lines: Vec<_> =
        targets.iter().map(|(replica, target)| states[replica].tell(replica, target)).collect();
    say(lines.join("\n"));
    Ok(())
}

/// Starts the moves. A replica that is yet to come to its broker is waited for.
pub(super) async fn execute(
    admin: &Admin,
    mut pending: Targets,
    timeout: Duration,
) -> Result<(), Stop> {
    let deadline = Instant::now() + timeout;
    loop {
        for broker in pending.keys().map(|it| it.broker).collect::<BTreeSet<_>>() {
            let of_broker = pending.iter().filter(|(it, _)| it.broker == broker);
            let wanted = of_broker.map(|(it, path)| (it.at.clone(), path.clone())).collect();
            for (at, result) in admin.alter_log_dirs(broker, &wanted).await.map_err(failed)? {
                let replica = Replica { broker, at };
                match result {
                    Ok(()) => {
                        if let Some(path) = pending.remove(&replica) {
                            say(format_args!(
                                "Successfully started moving log directory to {path} for replica {} with broker {broker} ",
                                replica.at
                            ));
                        }
                    }
                    Err(error) if error.code() == Some(ErrorCode::ReplicaNotAvailable) => {}
                    Err(error) => {
                        return Err(failed(format!("Failed to alter dir for {replica}: {error}")));
                    }
                }
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let names: Vec<_> = pending.keys().map(ToString::to_string).collect();
            return Err(Stop::Failed(format!(
                "Timed out before log directory move{} could be started for: {}",
                if names.len() == 1 { "" } else { "s" },
                names.join(",")
            )));
        }
        sleep(PAUSE).await;
    }
}

/// Has the replicas that are on their way stay where they are.
pub(super) async fn cancel(
    admin: &Admin,
    targets: &Targets,
    timeout: Duration,
) -> Result<(), Stop> {
    let mut back = Targets::new();
    for (replica, state) in states(admin, targets).await? {
        if let Move::Active(current, _) = state {
            back.insert(replica, current);
        }
    }
    if back.is_empty() {
        say("None of the specified partition moves are active.");
        return Ok(());
    }
    execute(admin, back, timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_move_is_told_in_kafkas_words() {
        let replica = Replica::new(TopicPartition::new("t", 3), 1);
        let (a, b, c) = ("/a".to_owned(), "/b".to_owned(), "/c".to_owned());
        let cases = [
            (Some(&b), None, "Reassignment of replica t-3-1 completed successfully."),
            (Some(&a), Some(&b), "Reassignment of replica t-3-1 is still in progress."),
            (
                Some(&a),
                Some(&c),
                "Partition t-3 on broker 1 is being moved to log dir /c instead of /b.",
            ),
            (Some(&a), None, "Partition t-3 on broker 1 is not being moved from log dir /a to /b."),
            (None, None, "Partition t-3 cannot be found in any live log directory on broker 1."),
        ];
        for (current, future, expected) in cases {
            assert_eq!(Move::of("/b", current, future).tell(&replica, "/b"), expected);
        }
    }
}
