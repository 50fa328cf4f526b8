//! Brokers come, stay and go: registration, heartbeats, fencing, controlled shutdown.
//!
//! What must survive is a record; who was heard of when is not, and lives in [`Sessions`].
//!
//! A broker is in one of four states. Fenced → unfenced once it has caught up with its own
//! registration; unfenced → controlled shutdown when it asks to stop and still leads; → shut down
//! when it leads nothing and all others have seen that; any → fenced when it asks for it or its
//! session ends.

use kafka_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest,
};
use tokio::time::Instant;

use super::decision::{Decision, ELR_FEATURE, TRANSACTION_FEATURE, TRANSACTION_VERSION, View};
use super::driver::Core;
use super::sessions::Sessions;
use super::{directories, election};
use crate::error::{ErrorCode, Refusal};
use crate::types::{BrokerEpoch, NodeId, Offset};
use crate::wire::metadata::{
    BrokerRegistrationChangeRecord, EndPoint, FeatureRange, METADATA_VERSION, Record,
    RegisterBrokerRecord, UnregisterBrokerRecord,
};

/// Decisions that change the sessions, too, which are no records.
impl Core {
    pub fn register_broker(
        &mut self,
        request: &BrokerRegistrationRequest,
        contact: Option<u64>,
        now: Instant,
    ) -> Result<Decision<i64>, Refusal> {
        let next_offset = self.next_offset();
        let decision = register(self.view(), &self.sessions, request, next_offset, now)?;
        self.sessions.register(request.broker_id.0, decision.response, contact, now);
        Ok(decision)
    }

    pub fn unregister_broker(&mut self, id: NodeId) -> Result<Decision<()>, Refusal> {
        let decision = unregister(self.view(), id)?;
        self.sessions.remove(id);
        Ok(decision)
    }

    pub fn heartbeat(
        &mut self,
        request: &BrokerHeartbeatRequest,
        contact: Option<u64>,
        now: Instant,
    ) -> Result<Decision<BrokerHeartbeatResponse>, Refusal> {
        let end = self.next_offset();
        let (view, sessions) = self.parts();
        let decision = heartbeat(view, sessions, request, end, now)?;
        sessions.hold(request.broker_id.0, contact);
        Ok(decision)
    }
}

/// A registration: the record, and the broker's epoch. `next_offset` is where the record will be.
pub fn register(
    view: View<'_>,
    sessions: &Sessions,
    request: &BrokerRegistrationRequest,
    next_offset: Offset,
    now: Instant,
) -> Result<Decision<BrokerEpoch>, Refusal> {
    let id = request.broker_id.0;
    check_registration(view, request)?;
    let existing = view.image.broker(id);
    let same = existing.filter(|broker| broker.incarnation == request.incarnation_id);
    if let Some(broker) = existing
        && same.is_none()
        && !broker.fenced
        && sessions.is_held(id, now)
    {
        return Err(Refusal::new(
            ErrorCode::DuplicateBrokerRegistration,
            "Another broker is registered with that broker id.",
        ));
    }
    let mut records = Vec::new();
    let mut record = RegisterBrokerRecord {
        broker_id: id,
        is_migrating_zk_broker: false,
        incarnation_id: request.incarnation_id,
        broker_epoch: next_offset,
        end_points: request.listeners.iter().map(end_point).collect(),
        features: features(request),
        rack: request.rack.as_ref().map(ToString::to_string),
        fenced: true,
        in_controlled_shutdown: false,
        log_dirs: request.log_dirs.clone(),
        cordoned_log_dirs: None,
    };
    if let Some(broker) = same {
        // The same process amends what it said, for example its features.
        record.fenced = broker.fenced;
        record.in_controlled_shutdown = broker.in_controlled_shutdown;
        record.broker_epoch = broker.epoch;
    } else if let Some(before) = existing {
        // What the earlier incarnation led, if it was never fenced, has to go to others first.
        records = if before.epoch == request.previous_broker_epoch {
            election::remove_broker(view, id)
        } else {
            election::remove_unclean_broker(view, id)
        };
        record.broker_epoch += records.len() as Offset;
    }
    let epoch = record.broker_epoch;
    records.push(record.into());
    Ok(Decision::new(records, epoch))
}

fn check_registration(view: View<'_>, request: &BrokerRegistrationRequest) -> Result<(), Refusal> {
    let invalid = |what: &str| Err(Refusal::new(ErrorCode::InvalidRegistration, what));
    if *request.cluster_id != *view.image.cluster_id {
        return Err(Refusal::new(
            ErrorCode::InconsistentClusterId,
            format!(
                "Expected cluster ID {}, but got cluster ID {}",
                view.image.cluster_id, request.cluster_id
            ),
        ));
    }
    if request.is_migrating_zk_broker {
        return Err(Refusal::new(
            ErrorCode::BrokerIdNotRegistered,
            "Controller does not support registering ZK brokers.",
        ));
    }
    if request.log_dirs.is_empty() {
        return invalid("No directories specified in request");
    }
    for (index, directory) in request.log_dirs.iter().enumerate() {
        if directory.as_u128() < directories::FIRST_FREE {
            return invalid("Reserved directory ID in request");
        }
        if request.log_dirs[..index].contains(directory) {
            return invalid("Duplicate directory ID in request");
        }
        for other in view.image.brokers() {
            if other.id != request.broker_id.0 && other.directories.contains(directory) {
                return invalid(&format!(
                    "Broker {} is already registered with directory {directory}",
                    other.id
                ));
            }
        }
    }
    check_features(view, request)
}

/// The broker has to support what is finalized, be it 0.
fn check_features(view: View<'_>, request: &BrokerRegistrationRequest) -> Result<(), Refusal> {
    let check = |name: &str, level: i16, min: i16, max: i16| {
        if (min..=max).contains(&level) {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::UnsupportedVersion,
            format!(
                "Unable to register because the broker does not support finalized version {level} \
                 of {name}. The broker wants a version between {min} and {max}, inclusive."
            ),
        ))
    };
    for feature in &request.features {
        let level = view.image.feature(&feature.name);
        let (min, max) = (feature.min_supported_version, feature.max_supported_version);
        check(&feature.name, level, min, max)?;
    }
    let told = |name: &str| request.features.iter().any(|feature| &*feature.name == name);
    if !told("metadata.version") {
        return Err(Refusal::new(
            ErrorCode::InvalidRegistration,
            "Request features do not contain 'metadata.version'",
        ));
    }
    for (name, level) in view.image.features().filter(|(name, _)| !told(name)) {
        check(name, level, 0, 0)?;
    }
    Ok(())
}

fn end_point(
    listener: &kafka_protocol::messages::broker_registration_request::Listener,
) -> EndPoint {
    EndPoint {
        name: listener.name.to_string(),
        host: listener.host.to_string(),
        port: listener.port,
        security_protocol: listener.security_protocol,
    }
}

fn features(request: &BrokerRegistrationRequest) -> Vec<FeatureRange> {
    let range =
        |feature: &kafka_protocol::messages::broker_registration_request::Feature| FeatureRange {
            name: feature.name.to_string(),
            min_supported_version: feature.min_supported_version,
            max_supported_version: feature.max_supported_version,
        };
    request.features.iter().map(range).collect()
}

/// The feature ranges that our own nodes support.
pub fn supported_features() -> Vec<(&'static str, i16, i16)> {
    vec![
        ("kraft.version", 0, 1),
        ("metadata.version", METADATA_VERSION, METADATA_VERSION),
        (ELR_FEATURE, 0, 1),
        (TRANSACTION_FEATURE, 0, TRANSACTION_VERSION),
        ("group.version", 0, 1),
        ("share.version", 0, 1),
        ("streams.version", 0, 1),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fenced,
    Unfenced,
    ControlledShutdown,
    ShutdownNow,
}

impl State {
    fn fenced(self) -> bool {
        matches!(self, Self::Fenced | Self::ShutdownNow)
    }
}

/// A heartbeat: perhaps a change of state, and what the broker should know of itself.
///
/// `end_offset` is the end of the metadata log, before the records of this decision.
pub fn heartbeat(
    view: View<'_>,
    sessions: &mut Sessions,
    request: &BrokerHeartbeatRequest,
    end_offset: Offset,
    now: Instant,
) -> Result<Decision<BrokerHeartbeatResponse>, Refusal> {
    let id = request.broker_id.0;
    view.check_broker_epoch(id, request.broker_epoch)?;
    let registered_at = sessions.registered_at(id, request.broker_epoch, now);
    let caught_up = request.current_metadata_offset >= registered_at;
    let (current, next) = next_state(view, sessions, request, caught_up);
    let mut records = Vec::new();
    if current != next {
        match next {
            State::Fenced | State::ShutdownNow => records = fence(view, id),
            State::Unfenced => records = unfence(view, id),
            State::ControlledShutdown => records = controlled_shutdown(view, id),
        }
    }
    records.extend(directories::on_heartbeat(view, request)?);
    sessions.touch(id, request.current_metadata_offset, now);
    let last = end_offset + records.len() as Offset - 1;
    sessions.stopping(id, (next == State::ControlledShutdown).then_some(last));
    let response = BrokerHeartbeatResponse::default()
        .with_is_caught_up(caught_up)
        .with_is_fenced(next.fenced())
        .with_should_shut_down(next == State::ShutdownNow);
    Ok(Decision::new(records, response))
}

fn next_state(
    view: View<'_>,
    sessions: &Sessions,
    request: &BrokerHeartbeatRequest,
    caught_up: bool,
) -> (State, State) {
    let id = request.broker_id.0;
    let broker = view.image.broker(id);
    let current = match broker {
        Some(broker) if !broker.fenced && broker.in_controlled_shutdown => {
            State::ControlledShutdown
        }
        Some(broker) if !broker.fenced => State::Unfenced,
        _ => State::Fenced,
    };
    let next = match current {
        State::Fenced if request.want_shut_down => State::ShutdownNow,
        State::Fenced if !request.want_fence && caught_up => State::Unfenced,
        State::Unfenced if request.want_fence => {
            if request.want_shut_down {
                State::ShutdownNow
            } else {
                State::Fenced
            }
        }
        State::Unfenced if request.want_shut_down => {
            if election::leads_any(view.image, id) {
                State::ControlledShutdown
            } else {
                State::ShutdownNow
            }
        }
        State::ControlledShutdown => {
            if sessions.all_saw_it_stop(view, id) && !election::leads_any(view.image, id) {
                State::ShutdownNow
            } else {
                State::ControlledShutdown
            }
        }
        unchanged => unchanged,
    };
    (current, next)
}

/// Forgets a broker, which has gone for good or has nothing to say any more. What it held stays
/// assigned to it.
pub fn unregister(view: View<'_>, id: NodeId) -> Result<Decision<()>, Refusal> {
    let Some(broker) = view.image.broker(id) else {
        return Err(Refusal::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("Broker ID {id} is not currently registered"),
        ));
    };
    let mut records = election::remove_broker(view, id);
    records.push(UnregisterBrokerRecord { broker_id: id, broker_epoch: broker.epoch }.into());
    Ok(Decision::new(records, ()))
}

/// Takes a broker out of service: out of every ISR and leadership first.
pub fn fence(view: View<'_>, id: NodeId) -> Vec<Record> {
    let mut records = election::remove_broker(view, id);
    records.push(change(view, id, |it| it.fenced = 1));
    records
}

fn unfence(view: View<'_>, id: NodeId) -> Vec<Record> {
    let mut records = vec![change(view, id, |it| it.fenced = -1)];
    records.extend(election::add_broker(view, id));
    records
}

fn controlled_shutdown(view: View<'_>, id: NodeId) -> Vec<Record> {
    let mut records = vec![change(view, id, |it| it.in_controlled_shutdown = 1)];
    records.extend(election::remove_broker(view, id));
    records
}

pub(super) fn change(
    view: View<'_>,
    broker_id: NodeId,
    set: impl FnOnce(&mut BrokerRegistrationChangeRecord),
) -> Record {
    let broker_epoch = view.image.broker(broker_id).map_or(-1, |broker| broker.epoch);
    let mut record =
        BrokerRegistrationChangeRecord { broker_id, broker_epoch, ..Default::default() };
    set(&mut record);
    record.into()
}
