//! What the user reads of a cluster: the state of each broker, its quorum, and four conditions. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};
use k8s_openapi::jiff::Timestamp;

use super::layout::{Layout, Pool};
use super::settle::Refused;
use super::{ValidCluster, names};
use crate::kafka::Copies;
use crate::quorum::{self, Decision};
use crate::resources::{
    BrokerStatus, CONTROLLER_PORT, Finding, KafkaClusterStatus, QuorumStatus, VoterStatus,
};

pub const READY: &str = "Ready";
pub const PROGRESSING: &str = "Progressing";
pub const DEGRADED: &str = "Degraded";
pub const QUORUM: &str = "QuorumHealthy";

pub const SERVING: &str = "Serving";
pub const OUTDATED: &str = "Outdated";

/// What was seen of a cluster after its objects were applied.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    pub pods: &'a [Pod],
    pub set: &'a StatefulSet,
    /// The brokers' own answer, or why there is none.
    pub kafka: Result<&'a ottla_client::Cluster, String>,
    /// The leader's own answer, or why there is none.
    pub quorum: Result<&'a ottla_client::Quorum, String>,
    /// How the copies of all partitions are; none if no broker told.
    pub copies: Option<Copies>,
    pub now: Timestamp,
}

/// A pod that waits for its volume counts as unschedulable for its first moments.
const PATIENCE_SECONDS: i64 = 20;

/// One line per broker.
pub fn brokers(cluster: &ValidCluster, seen: &Seen<'_>) -> Vec<BrokerStatus> {
    cluster.node_ids().map(|id| broker(cluster, id, seen)).collect()
}

fn broker(cluster: &ValidCluster, id: i32, seen: &Seen<'_>) -> BrokerStatus {
    let name = names::pod(&cluster.name, id);
    let pod = seen.pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(&name));
    let registered =
        seen.kafka.as_ref().ok().and_then(|kafka| kafka.brokers.iter().find(|it| it.id == id));
    let (state, message) = match (pod, registered) {
        (None, _) => ("Missing", Some("there is no pod".to_owned())),
        (Some(pod), _) if trouble(pod, seen.now).is_some() => ("Failing", trouble(pod, seen.now)),
        (Some(pod), _) if !runs(pod) => ("Waiting", Some("the pod does not run yet".to_owned())),
        (Some(_), Some(node)) if node.fenced => ("Fenced", None),
        (Some(pod), Some(_)) if !is_ready(pod) => ("Starting", None),
        (Some(pod), Some(_)) if is_outdated(pod, seen.set) => (OUTDATED, None),
        (Some(_), Some(_)) => (SERVING, None),
        (Some(_), None) => ("Starting", None),
    };
    BrokerStatus {
        id,
        pod: name,
        node: pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()),
        rack: registered.and_then(|node| node.rack.clone()),
        state: state.to_owned(),
        message,
    }
}

/// Whether the broker serves clients, with whatever settings.
pub fn serves(broker: &BrokerStatus) -> bool {
    broker.state == SERVING || broker.state == OUTDATED
}

fn runs(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

/// Where the brokers that are ready can be asked: at their pods' own addresses, because names and
/// services take a moment to follow them.
pub fn reachable(cluster: &ValidCluster, pods: &[Pod]) -> String {
    let port = cluster.spec.listeners.first().map_or(crate::resources::CLIENT_PORT, |l| l.port);
    let is_broker =
        |pod: &Pod| node_id(cluster, pod).is_some_and(|id| Pool::of(id) == Pool::Brokers);
    let ready = pods.iter().filter(|pod| is_broker(pod) && runs(pod) && is_ready(pod));
    ready.filter_map(|pod| address(pod, port)).collect::<Vec<_>>().join(",")
}

/// Where those can be asked that should vote, whether or not they are ready: a controller that
/// waits for the others of its quorum is not, and has the more to tell.
pub fn controllers(cluster: &ValidCluster, pods: &[Pod]) -> String {
    let votes = |pod: &Pod| node_id(cluster, pod).is_some_and(|id| cluster.layout.votes(id));
    let running = pods.iter().filter(|pod| votes(pod) && runs(pod));
    running.filter_map(|pod| address(pod, CONTROLLER_PORT)).collect::<Vec<_>>().join(",")
}

fn node_id(cluster: &ValidCluster, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_ref()?;
    cluster.all_ids().find(|id| names::pod(&cluster.name, *id) == *name)
}

fn address(pod: &Pod, port: i32) -> Option<String> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
    Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
}

/// Whether the pod was made from an older template than the StatefulSet has now.
fn is_outdated(pod: &Pod, set: &StatefulSet) -> bool {
    let made_from = pod.metadata.labels.as_ref().and_then(|it| it.get("controller-revision-hash"));
    let newest = set.status.as_ref().and_then(|status| status.update_revision.as_ref());
    matches!((made_from, newest), (Some(made_from), Some(newest)) if made_from != newest)
}

/// Why a pod will not run by waiting alone, as far as Kubernetes tells.
fn trouble(pod: &Pod, now: Timestamp) -> Option<String> {
    const PATIENT: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    let status = pod.status.as_ref()?;
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        let since = condition.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
        condition.type_ == "PodScheduled"
            && condition.reason.as_deref() == Some("Unschedulable")
            && now.as_second() - since >= PATIENCE_SECONDS
    });
    if let Some(condition) = unschedulable {
        return Some(format!("no node takes the pod: {}", condition.message.as_deref()?));
    }
    let waiting = |waiting: &ContainerStateWaiting| {
        let reason = waiting.reason.clone()?;
        let message = waiting.message.clone().map(|it| format!(": {it}")).unwrap_or_default();
        (!PATIENT.contains(&reason.as_str())).then(|| format!("{reason}{message}"))
    };
    let states = status.container_statuses.iter().flatten();
    states.filter_map(|it| it.state.as_ref()?.waiting.as_ref()).find_map(waiting)
}

/// What is shown of the quorum. Of one that nobody leads, the voters as last heard.
pub fn quorum(seen: &Seen<'_>, founded: bool, before: Option<&QuorumStatus>) -> QuorumStatus {
    match &seen.quorum {
        Ok(quorum) => QuorumStatus {
            founded,
            leader: Some(quorum.leader),
            epoch: Some(quorum.epoch),
            voters: quorum::voters(quorum),
        },
        Err(_) => QuorumStatus {
            founded,
            leader: None,
            epoch: before.and_then(|before| before.epoch),
            voters: before
                .map(|before| before.voters.iter().map(unknown).collect())
                .unwrap_or_default(),
        },
    }
}

fn unknown(voter: &VoterStatus) -> VoterStatus {
    VoterStatus { state: "Unknown".to_owned(), ..voter.clone() }
}

/// The four conditions of a cluster whose objects are in place.
pub fn findings(
    cluster: &ValidCluster,
    brokers: &[BrokerStatus],
    seen: &Seen<'_>,
    refused: &[Refused],
) -> Vec<Finding> {
    let quorum = quorum_healthy(cluster.layout, seen);
    vec![
        ready(brokers, seen, &quorum),
        progressing(brokers, seen, &quorum),
        degraded(brokers, refused),
        quorum,
    ]
}

const NO_QUORUM: &str = "NoQuorum";
const VOTER_MISSING: &str = "VoterMissing";

fn quorum_healthy(layout: Layout, seen: &Seen<'_>) -> Finding {
    let quorum = match &seen.quorum {
        Ok(quorum) => quorum,
        Err(why) => return Finding::new(QUORUM, false, NO_QUORUM, why.clone()),
    };
    if !quorum::has_majority(quorum) {
        let told = format!("node {} led, but lost the majority of the voters", quorum.leader);
        return Finding::new(QUORUM, false, NO_QUORUM, told);
    }
    let told = |voters: usize| {
        let more = if voters == 1 { "" } else { "s" };
        format!("node {} leads; {voters} node{more} vote", quorum.leader)
    };
    if layout == Layout::Static {
        let told = format!("{}, as this cluster was made by an earlier version", told(1));
        return Finding::new(QUORUM, true, "OneVoter", told);
    }
    match quorum::decide(layout.voters(), quorum) {
        Decision::Settled => Finding::new(QUORUM, true, "AllVote", told(quorum.voters.len())),
        Decision::Waits(why) => Finding::new(QUORUM, false, VOTER_MISSING, why),
        Decision::Change(_) => {
            let told = format!("{}; the voters are being changed", told(quorum.voters.len()));
            Finding::new(QUORUM, false, VOTER_MISSING, told)
        }
    }
}

fn ready(brokers: &[BrokerStatus], seen: &Seen<'_>, quorum: &Finding) -> Finding {
    let serving = brokers.iter().filter(|broker| serves(broker)).count();
    let told = format!("{serving} of {} brokers serve", brokers.len());
    if quorum.reason == NO_QUORUM {
        let told = format!("{told}; {}", quorum.message);
        return Finding::new(READY, false, NO_QUORUM, told);
    }
    if serving < brokers.len() {
        return match &seen.kafka {
            Err(why) if seen.pods.iter().filter(|pod| is_ready(pod)).count() >= brokers.len() => {
                Finding::new(READY, None, "NoAnswer", format!("the brokers do not answer: {why}"))
            }
            _ => Finding::new(READY, false, "BrokersNotServing", told),
        };
    }
    let copies = seen.copies.unwrap_or_default();
    if copies.leaderless > 0 || copies.offline > 0 {
        let told = format!(
            "{told}; of {} partitions, {} have no leader and {} a copy that is offline",
            copies.partitions, copies.leaderless, copies.offline
        );
        return Finding::new(READY, false, "ReplicasOffline", told);
    }
    if quorum.holds != Some(true) {
        let told = format!("{told}; {}", quorum.message);
        return Finding::new(READY, false, quorum.reason, told);
    }
    Finding::new(READY, true, "AllBrokersServe", told)
}

fn progressing(brokers: &[BrokerStatus], seen: &Seen<'_>, quorum: &Finding) -> Finding {
    let ids = |state: &dyn Fn(&BrokerStatus) -> bool| {
        let ids: Vec<_> =
            brokers.iter().filter(|it| state(it)).map(|it| it.id.to_string()).collect();
        ids.join(", ")
    };
    let starting = ids(&|broker| !serves(broker) && broker.state != "Failing");
    if !starting.is_empty() {
        let told = format!("waiting for broker {starting} to serve");
        return Finding::new(PROGRESSING, true, "BrokersStarting", told);
    }
    if quorum.holds != Some(true) {
        return Finding::new(PROGRESSING, true, quorum.reason, quorum.message.clone());
    }
    if let Some(copies) = seen.copies.filter(|copies| copies.lagging > 0) {
        let told =
            format!("copies of {} of {} partitions catch up", copies.lagging, copies.partitions);
        return Finding::new(PROGRESSING, true, "ReplicasCatchUp", told);
    }
    let outdated = ids(&|broker| broker.state == OUTDATED);
    if !outdated.is_empty() {
        let told = format!(
            "broker {outdated} runs with older settings. Restarting brokers one by one is not \
             built yet: delete one pod, wait for Ready, delete the next"
        );
        return Finding::new(PROGRESSING, false, "RestartNeeded", told);
    }
    Finding::new(PROGRESSING, false, "Settled", "nothing to do")
}

fn degraded(brokers: &[BrokerStatus], refused: &[Refused]) -> Finding {
    let failing: Vec<_> = brokers
        .iter()
        .filter(|broker| broker.state == "Failing")
        .map(|it| format!("{}: {}", it.pod, it.message.as_deref().unwrap_or("fails")))
        .collect();
    if !failing.is_empty() {
        return Finding::new(DEGRADED, true, "BrokersFailing", failing.join("; "));
    }
    if !refused.is_empty() {
        return Finding::new(DEGRADED, true, "ChangeNotSupported", in_words(refused));
    }
    Finding::new(DEGRADED, false, "AsWanted", "")
}

/// The refused changes, for a condition or an Event.
pub fn in_words(refused: &[Refused]) -> String {
    let one = |refused: &Refused| format!("{} {}", refused.field, refused.message);
    refused.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The conditions of a cluster that cannot be worked on: nothing that runs is touched.
pub fn blocked(
    before: &KafkaClusterStatus,
    reason: &'static str,
    message: String,
    waits: bool,
) -> Vec<Finding> {
    let ready = before.conditions.get(READY).map_or("False", |it| it.status.as_str()) == "True";
    let told = if ready { "the brokers run as before" } else { "the brokers were not started" };
    vec![
        Finding::new(READY, ready, if ready { "AllBrokersServe" } else { reason }, told),
        Finding::new(PROGRESSING, waits, reason, message.clone()),
        Finding::new(DEGRADED, !waits, reason, message),
        Finding::new(QUORUM, None, reason, "nobody was asked"),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::cluster::build;
    use crate::cluster::tests::demo;
    use k8s_openapi::api::apps::v1::StatefulSetStatus;
    use ottla_client::{Cluster, Node, Quorum, QuorumReplica};
    use serde_json::json;

    fn now() -> Timestamp {
        Timestamp::from_second(1000).unwrap()
    }

    fn set() -> StatefulSet {
        let mut set = build::stateful_set::stateful_set(&demo(), Pool::Brokers, "id", "image");
        let update_revision = Some("new".to_owned());
        set.status = Some(StatefulSetStatus { update_revision, ..Default::default() });
        set
    }

    fn pod(id: i32, revision: &str, phase: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("demo-broker-{id}"),
                "labels": { "controller-revision-hash": revision },
            },
            "spec": { "nodeName": format!("node-{id}"), "containers": [] },
            "status": {
                "phase": phase,
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        }))
        .unwrap()
    }

    fn kafka(fenced: &[bool]) -> Cluster {
        let node = |(id, fenced): (usize, &bool)| Node {
            id: id as i32,
            host: "h".to_owned(),
            port: 9092,
            rack: Some("a".to_owned()),
            fenced: *fenced,
        };
        let brokers = fenced.iter().enumerate().map(node).collect();
        Cluster { id: "id".to_owned(), controller: Some(0), brokers }
    }

    /// A quorum of which all is well.
    fn seen_by() -> Seen<'static> {
        static QUORUM: LazyLock<Quorum> = LazyLock::new(|| voting(&[0, 1, 2]));
        static SET: LazyLock<StatefulSet> = LazyLock::new(set);
        Seen {
            pods: &[],
            set: &SET,
            kafka: Err("not asked".to_owned()),
            quorum: Ok(&QUORUM),
            copies: None,
            now: now(),
        }
    }

    /// These have a vote and keep up, the first leads.
    fn voting(ids: &[i32]) -> Quorum {
        let replica = |id: &i32| QuorumReplica {
            id: *id,
            directory: uuid::Uuid::from_u128(*id as u128 + 1),
            log_end_offset: 7,
            last_fetch: Some(1000),
            last_caught_up: Some(1000),
        };
        let voters = ids.iter().map(replica).collect();
        Quorum { leader: ids[0], epoch: 4, high_watermark: 7, voters, ..Quorum::default() }
    }

    fn told(
        seen: &Seen<'_>,
        refused: &[Refused],
    ) -> (Vec<String>, Vec<(Option<bool>, &'static str)>) {
        let brokers = brokers(&demo(), seen);
        let conditions = findings(&demo(), &brokers, seen, refused);
        (
            brokers.into_iter().map(|broker| broker.state).collect(),
            conditions.into_iter().take(3).map(|it| (it.holds, it.reason)).collect(),
        )
    }

    #[test]
    fn a_cluster_is_ready_when_kubernetes_and_kafka_both_say_so() {
        let pods: Vec<_> = (0..3).map(|id| pod(id, "new", "Running", true)).collect();
        let (set, answer) = (set(), kafka(&[false, false, false]));
        let seen = Seen { pods: &pods, set: &set, kafka: Ok(&answer), ..seen_by() };
        let (states, conditions) = told(&seen, &[]);
        assert_eq!(states, ["Serving", "Serving", "Serving"]);
        assert_eq!(
            conditions,
            [(Some(true), "AllBrokersServe"), (Some(false), "Settled"), (Some(false), "AsWanted")]
        );
        assert_eq!(brokers(&demo(), &seen)[1].node.as_deref(), Some("node-1"));
    }

    #[test]
    fn each_broker_tells_how_far_it_is() {
        let pods = [
            pod(0, "new", "Running", true),
            pod(1, "new", "Running", false),
            pod(2, "new", "Pending", false),
        ];
        let (set, answer) = (set(), kafka(&[false, true]));
        let seen = Seen { pods: &pods, set: &set, kafka: Ok(&answer), ..seen_by() };
        let (states, conditions) = told(&seen, &[]);
        assert_eq!(states, ["Serving", "Fenced", "Waiting"]);
        assert_eq!(conditions[0], (Some(false), "BrokersNotServing"));
        assert_eq!(conditions[1], (Some(true), "BrokersStarting"));
        let seen = Seen { pods: &[], set: &set, kafka: Err("no address".to_owned()), ..seen_by() };
        assert_eq!(told(&seen, &[]).0, ["Missing", "Missing", "Missing"]);
    }

    #[test]
    fn a_pod_that_cannot_run_degrades_the_cluster_with_its_reason() {
        let mut failing = pod(1, "new", "Pending", false);
        failing.status = Some(
            serde_json::from_value(json!({ "containerStatuses": [{
                "name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } },
            }]}))
            .unwrap(),
        );
        let pods = [pod(0, "new", "Running", true), failing, pod(2, "new", "Running", true)];
        let (set, answer) = (set(), kafka(&[false, true, false]));
        let seen = Seen { pods: &pods, set: &set, kafka: Ok(&answer), ..seen_by() };
        let (states, conditions) = told(&seen, &[]);
        assert_eq!(states[1], "Failing");
        assert_eq!(conditions[2], (Some(true), "BrokersFailing"));
        let message = &brokers(&demo(), &seen)[1].message;
        assert_eq!(message.as_deref(), Some("ImagePullBackOff: no such image"));
    }

    #[test]
    fn a_pod_may_wait_for_its_volume_a_moment_before_it_counts_as_unschedulable() {
        let unscheduled = |since: &str| {
            let mut pod = pod(0, "new", "Pending", false);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(json!([{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/3 nodes", "lastTransitionTime": since,
            }]))
            .unwrap();
            pod
        };
        let fresh = trouble(&unscheduled("1970-01-01T00:16:30Z"), now());
        let lasting = trouble(&unscheduled("1970-01-01T00:16:00Z"), now());
        assert_eq!((fresh, lasting.as_deref()), (None, Some("no node takes the pod: 0/3 nodes")));
    }

    #[test]
    fn older_settings_and_refused_changes_are_told_while_the_cluster_stays_ready() {
        let mut pods: Vec<_> = (0..3).map(|id| pod(id, "new", "Running", true)).collect();
        pods[1] = pod(1, "old", "Running", true);
        let (set, answer) = (set(), kafka(&[false, false, false]));
        let seen = Seen { pods: &pods, set: &set, kafka: Ok(&answer), ..seen_by() };
        let refused = [Refused { field: "spec.replicas", message: "is 5".to_owned() }];
        let (states, conditions) = told(&seen, &refused);
        assert_eq!(states[1], "Outdated");
        assert_eq!(
            conditions,
            [
                (Some(true), "AllBrokersServe"),
                (Some(false), "RestartNeeded"),
                (Some(true), "ChangeNotSupported")
            ]
        );
    }

    #[test]
    fn brokers_that_are_ready_are_asked_at_their_pods_addresses() {
        let mut pods = vec![pod(0, "new", "Running", true), pod(1, "new", "Running", false)];
        for pod in &mut pods {
            pod.status.as_mut().unwrap().pod_ip = Some("10.0.0.7".to_owned());
        }
        assert_eq!(reachable(&demo(), &pods), "10.0.0.7:9092");
        pods[0].status.as_mut().unwrap().pod_ip = Some("fd00::7".to_owned());
        assert_eq!(reachable(&demo(), &pods), "[fd00::7]:9092");
        assert_eq!(reachable(&demo(), &[]), "");
    }

    #[test]
    fn ready_is_unknown_when_ready_pods_do_not_answer() {
        let pods: Vec<_> = (0..3).map(|id| pod(id, "new", "Running", true)).collect();
        let set = set();
        let seen = Seen { pods: &pods, set: &set, kafka: Err("timed out".to_owned()), ..seen_by() };
        assert_eq!(told(&seen, &[]).1[0], (None, "NoAnswer"));
    }

    /// Ready and QuorumHealthy of three brokers that serve.
    fn quorum_told(
        quorum: Result<&Quorum, String>,
        copies: Option<Copies>,
    ) -> [(Option<bool>, &'static str); 2] {
        let pods: Vec<_> = (0..3).map(|id| pod(id, "new", "Running", true)).collect();
        let answer = kafka(&[false, false, false]);
        let seen = Seen { pods: &pods, kafka: Ok(&answer), quorum, copies, ..seen_by() };
        let conditions = findings(&demo(), &brokers(&demo(), &seen), &seen, &[]);
        [0, 3].map(|at| (conditions[at].holds, conditions[at].reason))
    }

    #[test]
    fn brokers_that_serve_do_not_make_a_cluster_ready_without_its_quorum() {
        let fine = [(Some(true), "AllBrokersServe"), (Some(true), "AllVote")];
        assert_eq!(quorum_told(Ok(&voting(&[1, 0, 2])), None), fine);
        let none = [(Some(false), "NoQuorum"), (Some(false), "NoQuorum")];
        assert_eq!(quorum_told(Err("no controller leads".to_owned()), None), none);
        let mut alone = voting(&[0, 1, 2]);
        for voter in &mut alone.voters[1..] {
            voter.last_fetch = None;
        }
        assert_eq!(quorum_told(Ok(&alone), None), none);
        let missing = [(Some(false), "VoterMissing"), (Some(false), "VoterMissing")];
        assert_eq!(quorum_told(Ok(&voting(&[1, 2])), None), missing);
    }

    #[test]
    fn an_offline_copy_makes_a_cluster_not_ready_and_one_that_catches_up_does_not() {
        let whole = voting(&[0, 1, 2]);
        let copies = |offline, lagging| Copies { partitions: 9, leaderless: 0, offline, lagging };
        let ready = |copies| quorum_told(Ok(&whole), Some(copies))[0];
        assert_eq!(ready(copies(1, 1)), (Some(false), "ReplicasOffline"));
        assert_eq!(ready(copies(0, 1)), (Some(true), "AllBrokersServe"));
    }

    #[test]
    fn of_a_quorum_that_nobody_leads_the_voters_are_shown_as_last_heard() {
        let whole = voting(&[1, 0, 2]);
        let before = quorum(&Seen { quorum: Ok(&whole), ..seen_by() }, true, None);
        assert_eq!((before.leader, before.epoch), (Some(1), Some(4)));
        let lost = Seen { quorum: Err("gone".to_owned()), ..seen_by() };
        let after = quorum(&lost, true, Some(&before));
        assert_eq!((after.leader, after.founded), (None, true));
        assert!(after.voters.iter().all(|voter| voter.state == "Unknown"));
        assert_eq!(after.voters.len(), 3);
    }

    #[test]
    fn controllers_are_asked_also_when_they_are_not_ready() {
        let mut pods = vec![pod(0, "new", "Running", false), pod(3, "new", "Running", true)];
        for pod in &mut pods {
            pod.status.as_mut().unwrap().pod_ip = Some("10.0.0.7".to_owned());
        }
        let mut cluster = demo();
        cluster.spec.replicas = 4;
        assert_eq!(controllers(&cluster, &pods), "10.0.0.7:9093");
        assert_eq!(reachable(&cluster, &pods), "10.0.0.7:9092");
    }
}
