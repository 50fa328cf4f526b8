//! Brokers come, stay and go: registration, heartbeats, fencing, controlled shutdown.
//!
//! What must survive is a record; who was heard of when is not, and lives in [`Sessions`]. After a
//! restart of the controller every unfenced broker gets a full session before it is judged.
//!
//! A broker is in one of four states. Fenced → unfenced once it has caught up with its own
//! registration; unfenced → controlled shutdown when it asks to stop and still leads; → shut down
//! when it leads nothing and all others have seen that; any → fenced when it asks for it or its
//! session ends.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest,
};
use tokio::time::Instant;

use super::contact;
use super::decision::{Decision, ELR_FEATURE, View};
use super::driver::Core;
use super::election;
use super::image::BrokerImage;
use crate::error::{ErrorCode, Refusal};
use crate::types::{BrokerEpoch, NodeId, Offset};
use crate::wire::metadata::{
    BrokerRegistrationChangeRecord, EndPoint, FeatureRange, METADATA_VERSION, Record,
    RegisterBrokerRecord,
};

/// Who was heard of when, and how far they have read the metadata log. In memory only.
pub struct Sessions {
    timeout: Duration,
    brokers: BTreeMap<NodeId, Session>,
    /// May be dead: to be probed.
    suspects: Vec<NodeId>,
}

struct Session {
    /// Until then it counts as alive, if it is unfenced.
    valid_until: Instant,
    /// The open connection over which it heartbeats, by number.
    contact: Option<u64>,
    /// That connection has closed: it has until then to be heard of again.
    suspect_until: Option<Instant>,
    metadata_offset: Offset,
    /// The offset that all others must have read before it may stop.
    shutdown_offset: Option<Offset>,
    /// The offset of its registration, which it must have read to be unfenced.
    registered_at: Offset,
}

impl Session {
    fn deadline(&self) -> Instant {
        self.suspect_until.map_or(self.valid_until, |suspect| suspect.min(self.valid_until))
    }
}

impl Sessions {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, brokers: BTreeMap::new(), suspects: Vec::new() }
    }

    /// Gives every broker of a freshly loaded image a full session. Any of them may have died
    /// together with the controller before this one.
    pub fn load<'a>(&mut self, brokers: impl Iterator<Item = &'a BrokerImage>, now: Instant) {
        for broker in brokers {
            // The epoch is the offset of the registration.
            self.register(broker.id, broker.epoch, None, now);
            self.suspects.push(broker.id);
        }
    }

    pub fn register(
        &mut self,
        id: NodeId,
        registered_at: Offset,
        contact: Option<u64>,
        now: Instant,
    ) {
        let session = Session {
            valid_until: now + self.timeout,
            contact,
            suspect_until: None,
            metadata_offset: -1,
            shutdown_offset: None,
            registered_at,
        };
        self.brokers.insert(id, session);
    }

    pub fn remove(&mut self, id: NodeId) {
        self.brokers.remove(&id);
    }

    fn touch(&mut self, id: NodeId, offset: Offset, now: Instant) {
        if let Some(session) = self.brokers.get_mut(&id) {
            session.valid_until = now + self.timeout;
            session.suspect_until = None;
            session.metadata_offset = offset;
        }
    }

    /// The broker was heard of over this connection, and answered.
    pub fn hold(&mut self, id: NodeId, contact: Option<u64>) {
        if let Some(session) = self.brokers.get_mut(&id) {
            session.contact = contact;
        }
    }

    /// A connection has closed. If it was the one over which a broker heartbeats, that may be dead.
    pub fn closed(&mut self, contact: u64, now: Instant) {
        let held = self.brokers.iter_mut().find(|(_, it)| it.contact == Some(contact));
        if let Some((id, session)) = held {
            session.contact = None;
            session.suspect_until.get_or_insert(now + contact::GRACE);
            self.suspects.push(*id);
        }
    }

    /// Brokers to look for, each once.
    pub fn take_suspects(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.suspects)
    }

    /// The process that registered in `epoch` is gone, unless it was heard of since.
    pub fn declare_dead(&mut self, id: NodeId, epoch: BrokerEpoch, now: Instant) {
        let gone = |it: &Session| it.registered_at == epoch && it.contact.is_none();
        if self.brokers.get(&id).is_some_and(gone) {
            self.end(id, now);
        }
    }

    /// Ends the session.
    pub fn end(&mut self, id: NodeId, now: Instant) {
        if let Some(session) = self.brokers.get_mut(&id) {
            session.suspect_until = Some(now);
        }
    }

    /// Gives everybody more time.
    pub fn extend(&mut self, by: Duration) {
        for session in self.brokers.values_mut() {
            session.valid_until += by;
            session.suspect_until = session.suspect_until.map(|at| at + by);
        }
    }

    /// Does a process that lives, as far as we know, have this id?
    pub fn is_held(&self, id: NodeId, now: Instant) -> bool {
        self.brokers.get(&id).is_some_and(|it| it.contact.is_some() && it.deadline() >= now)
    }

    /// When the next of the unfenced brokers has to have been heard of.
    pub fn next_deadline(&self, view: View<'_>) -> Option<Instant> {
        self.unfenced(view).map(|(_, session)| session.deadline()).min()
    }

    /// The unfenced brokers whose session has ended.
    pub fn stale(&self, view: View<'_>, now: Instant) -> Vec<NodeId> {
        self.unfenced(view)
            .filter(|(_, session)| session.deadline() < now)
            .map(|(id, _)| id)
            .collect()
    }

    fn unfenced<'a>(&'a self, view: View<'a>) -> impl Iterator<Item = (NodeId, &'a Session)> {
        let fenced = move |id| view.image.broker(id).is_none_or(|broker| broker.fenced);
        self.brokers.iter().map(|(id, it)| (*id, it)).filter(move |(id, _)| !fenced(*id))
    }

    /// What every active broker has read.
    fn lowest_active_offset(&self, view: View<'_>) -> Offset {
        let active = self.unfenced(view).filter(|(id, _)| view.image.is_active(*id));
        active.map(|(_, session)| session.metadata_offset).min().unwrap_or(Offset::MAX)
    }
}

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
        if directory.as_u128() < 100 {
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
    for (name, level) in view.image.features() {
        let range = request.features.iter().find(|feature| &*feature.name == name);
        let (min, max) = range
            .map_or((0, 0), |range| (range.min_supported_version, range.max_supported_version));
        if level < min || level > max {
            return Err(Refusal::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "Unable to register because the broker does not support finalized version \
                     {level} of {name}. The broker wants a version between {min} and {max}, \
                     inclusive."
                ),
            ));
        }
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
        ("kraft.version", 0, 0),
        ("metadata.version", METADATA_VERSION, METADATA_VERSION),
        (ELR_FEATURE, 0, 1),
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
    if !sessions.brokers.contains_key(&id) {
        sessions.register(id, request.broker_epoch, None, now);
    }
    let registered_at = sessions.brokers[&id].registered_at;
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
    sessions.touch(id, request.current_metadata_offset, now);
    if let Some(session) = sessions.brokers.get_mut(&id) {
        if next == State::ControlledShutdown {
            let last = end_offset + records.len() as Offset - 1;
            session.shutdown_offset.get_or_insert(last);
        } else {
            session.shutdown_offset = None;
        }
    }
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
        State::Unfenced | State::ControlledShutdown if request.want_fence => {
            if request.want_shut_down { State::ShutdownNow } else { State::Fenced }
        }
        State::Unfenced if request.want_shut_down => {
            if election::leads_any(view.image, id) {
                State::ControlledShutdown
            } else {
                State::ShutdownNow
            }
        }
        State::ControlledShutdown => {
            let seen_by_all = sessions.brokers[&id]
                .shutdown_offset
                .is_some_and(|offset| offset <= sessions.lowest_active_offset(view));
            if seen_by_all && !election::leads_any(view.image, id) {
                State::ShutdownNow
            } else {
                State::ControlledShutdown
            }
        }
        unchanged => unchanged,
    };
    (current, next)
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

fn change(
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
