//! A member, and the members of a group with what is derived from them kept in step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;

use crate::coordinator::group::effects::Token;
use crate::coordinator::group::records::MemberMetadata;
use crate::wire::message::Field;

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// Name and metadata, the most preferred first.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    /// The JoinGroup that waits for the others. Changed by [`Members`] only, which counts it.
    pub(super) parked_join: Option<Token>,
    /// The SyncGroup that waits for the leader.
    pub(super) parked_sync: Option<Token>,
    /// In its first JoinGroup: expires even while it waits, because its client may have gone.
    pub(super) is_new: bool,
}

/// A member that nobody waits for.
#[derive(Debug)]
pub struct Standing {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
}

impl Member {
    pub fn standing(it: Standing) -> Self {
        Self {
            id: it.id,
            instance_id: it.instance_id,
            client_id: it.client_id,
            client_host: it.client_host,
            rebalance_timeout_ms: it.rebalance_timeout_ms,
            session_timeout_ms: it.session_timeout_ms,
            protocols: it.protocols,
            assignment: it.assignment,
            parked_join: None,
            parked_sync: None,
            is_new: false,
        }
    }

    pub(super) fn from_record(record: MemberMetadata, protocol: Option<&str>) -> Self {
        let timeout = match record.rebalance_timeout {
            -1 => record.session_timeout,
            timeout => timeout,
        };
        let protocol = protocol.unwrap_or_default().to_owned();
        Self::standing(Standing {
            id: record.member_id,
            instance_id: record.group_instance_id,
            client_id: record.client_id,
            client_host: record.client_host,
            rebalance_timeout_ms: timeout,
            session_timeout_ms: record.session_timeout,
            protocols: vec![(protocol, record.subscription)],
            assignment: record.assignment,
        })
    }

    /// What the member said about `protocol`; empty for none.
    pub fn subscription(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// A client may name a protocol twice; it counts once.
    fn distinct_protocols(&self) -> impl Iterator<Item = &str> {
        let names = self.protocols.iter().map(|(name, _)| name.as_str());
        names.enumerate().filter_map(|(at, name)| {
            let earlier = &self.protocols[..at];
            (!earlier.iter().any(|(other, _)| other == name)).then_some(name)
        })
    }

    /// Whether it asks for just what it is known to ask for.
    pub(super) fn matches(&self, protocols: &[JoinGroupRequestProtocol]) -> bool {
        self.protocols.len() == protocols.len()
            && self
                .protocols
                .iter()
                .zip(protocols)
                .all(|((name, data), asked)| **name == *asked.name && *data == asked.metadata)
    }

    /// Its silence is explained: it waits for us.
    pub(super) fn may_be_silent(&self) -> bool {
        !self.is_new && (self.parked_join.is_some() || self.parked_sync.is_some())
    }
}

/// Copies out of the request, whose frame would else live as long as the member.
pub(super) fn owned(protocols: &[JoinGroupRequestProtocol]) -> Vec<(String, Bytes)> {
    let copy = |asked: &JoinGroupRequestProtocol| {
        (asked.name.to_string(), Bytes::copy_from_slice(&asked.metadata))
    };
    protocols.iter().map(copy).collect()
}

/// The members by id, with counts that would be costly to derive each time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Members {
    by_id: BTreeMap<String, Member>,
    by_instance: BTreeMap<String, String>,
    /// How many members know a protocol.
    supporters: BTreeMap<String, usize>,
    parked_joins: usize,
}

impl Members {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn get(&self, id: &str) -> Option<&Member> {
        self.by_id.get(id)
    }

    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    pub fn ids(&self) -> Vec<String> {
        self.by_id.keys().cloned().collect()
    }

    pub(super) fn first_id(&self) -> Option<String> {
        self.by_id.keys().next().cloned()
    }

    /// The id of the member that holds an instance id.
    pub fn static_id(&self, instance: &str) -> Option<&str> {
        self.by_instance.get(instance).map(String::as_str)
    }

    pub(super) fn parked_joins(&self) -> usize {
        self.parked_joins
    }

    pub(in super::super) fn insert(&mut self, member: Member) {
        self.remove(&member.id);
        if let Some(instance) = &member.instance_id {
            self.by_instance.insert(instance.clone(), member.id.clone());
        }
        for protocol in member.distinct_protocols() {
            *self.supporters.entry(protocol.to_owned()).or_default() += 1;
        }
        self.parked_joins += usize::from(member.parked_join.is_some());
        self.by_id.insert(member.id.clone(), member);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.by_id.remove(id)?;
        if let Some(instance) = &member.instance_id
            && self.by_instance.get(instance).map(String::as_str) == Some(id)
        {
            self.by_instance.remove(instance);
        }
        for protocol in member.distinct_protocols() {
            if let Some(count) = self.supporters.get_mut(protocol) {
                *count -= 1;
                if *count == 0 {
                    self.supporters.remove(protocol);
                }
            }
        }
        self.parked_joins -= usize::from(member.parked_join.is_some());
        Some(member)
    }

    /// Changes a member, and with it all that is derived.
    pub(super) fn change(&mut self, id: &str, change: impl FnOnce(&mut Member)) {
        if let Some(mut member) = self.remove(id) {
            change(&mut member);
            self.insert(member);
        }
    }

    /// Takes the parked JoinGroup of a member.
    pub(super) fn take_join(&mut self, id: &str) -> Option<Token> {
        let token = self.by_id.get_mut(id)?.parked_join.take()?;
        self.parked_joins -= 1;
        Some(token)
    }

    /// Takes the parked SyncGroup of a member.
    pub(super) fn take_sync(&mut self, id: &str) -> Option<Token> {
        self.by_id.get_mut(id)?.parked_sync.take()
    }

    /// Parks a SyncGroup; returns the one that was parked before.
    pub(super) fn park_sync(&mut self, id: &str, token: Token) -> Option<Token> {
        self.by_id.get_mut(id)?.parked_sync.replace(token)
    }

    pub(in super::super) fn set_assignment(&mut self, id: &str, assignment: Bytes) {
        if let Some(member) = self.by_id.get_mut(id) {
            member.assignment = assignment;
        }
    }

    pub(super) fn no_longer_new(&mut self, id: &str) {
        if let Some(member) = self.by_id.get_mut(id) {
            member.is_new = false;
        }
    }

    /// The longest that any member asks for.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        let longest = self.iter().map(|member| member.rebalance_timeout_ms).max();
        i64::from(longest.unwrap_or(0).max(0))
    }

    /// Whether each member knows one of `protocols`.
    pub(super) fn support_any<'a>(&self, mut protocols: impl Iterator<Item = &'a str>) -> bool {
        protocols.any(|protocol| self.supporters.get(protocol).copied().unwrap_or(0) == self.len())
    }

    /// The protocol that most members prefer among those that all know; `None` without one.
    pub(super) fn vote(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.iter() {
            let mut names = member.protocols.iter().map(|(name, _)| name.as_str());
            let vote = names.find(|name| self.supporters.get(*name) == Some(&self.len()))?;
            *votes.entry(vote).or_default() += 1;
        }
        // Of equals, `max_by_key` takes the last: turned around, the first by name.
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    /// The union of the topics in the members' consumer subscriptions; `None` if one is unreadable.
    pub(super) fn subscribed_topics(&self, protocol: &str) -> Option<BTreeSet<String>> {
        let mut topics = BTreeSet::new();
        for member in self.iter() {
            // A version, then what all versions of the subscription begin with: topics.
            let subscription = member.subscription(Some(protocol));
            let mut input = &subscription[..];
            i16::take(&mut input, 0, false).ok()?;
            topics.extend(Vec::<String>::take(&mut input, 0, false).ok()?);
        }
        Some(topics)
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut again = Self::default();
        for member in self.iter() {
            again.insert(member.clone());
        }
        assert_eq!(*self, again, "what is derived from the members is in step");
        let statics = self.iter().filter(|member| member.instance_id.is_some()).count();
        assert_eq!(statics, self.by_instance.len(), "an instance id names one member");
    }
}
