//! Who was heard of when: the memory of the active controller that is no record.
//!
//! After a restart of the controller every unfenced broker gets a full session before it is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::contact;
use super::decision::View;
use super::image::BrokerImage;
use crate::types::{BrokerEpoch, NodeId, Offset};

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

    pub fn touch(&mut self, id: NodeId, offset: Offset, now: Instant) {
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

    /// The broker has until then to be heard of.
    pub fn doubt(&mut self, id: NodeId, until: Instant) {
        if let Some(session) = self.brokers.get_mut(&id) {
            session.suspect_until.get_or_insert(until);
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

    /// The offset that the broker must have read to be unfenced; it is known from now on.
    pub fn registered_at(&mut self, id: NodeId, epoch: BrokerEpoch, now: Instant) -> Offset {
        if !self.brokers.contains_key(&id) {
            self.register(id, epoch, None, now);
        }
        self.brokers[&id].registered_at
    }

    /// It wants to stop: all others must first read up to `offset`, or what was said before.
    pub fn stopping(&mut self, id: NodeId, offset: Option<Offset>) {
        if let Some(session) = self.brokers.get_mut(&id) {
            session.shutdown_offset = offset.map(|it| *session.shutdown_offset.get_or_insert(it));
        }
    }

    pub fn all_saw_it_stop(&self, view: View<'_>, id: NodeId) -> bool {
        let offset = self.brokers.get(&id).and_then(|session| session.shutdown_offset);
        offset.is_some_and(|offset| offset <= self.lowest_active_offset(view))
    }

    /// What every active broker has read.
    fn lowest_active_offset(&self, view: View<'_>) -> Offset {
        let active = self.unfenced(view).filter(|(id, _)| view.image.is_active(*id));
        active.map(|(_, session)| session.metadata_offset).min().unwrap_or(Offset::MAX)
    }
}
