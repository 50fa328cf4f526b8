//! The classic protocol of a [`Membership`]: eager rebalances, one of the members assigns.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::member::{Membership, virtual_now};
use super::{name, text};

const PROTOCOL: &str = "sim";
/// Not shorter than a session, and not as long as a call may take.
const REBALANCE_TIMEOUT_MS: i32 = 4_500;
/// Of the two messages that members exchange.
const VERSION: i16 = 1;

fn encoded(message: &impl Encodable) -> io::Result<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    message.encode(&mut bytes, VERSION).map_err(io::Error::other)?;
    Ok(bytes.freeze())
}

impl Membership {
    pub(super) async fn classic_beat(&mut self) -> io::Result<()> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.epoch)
            .with_member_id(text(&self.id));
        let sent = virtual_now();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match connection.call(&request, 4).await?.error_code {
            0 => self.heard(sent),
            // REBALANCE_IN_PROGRESS
            27 if self.busy => {}
            27 => self.give_up(),
            code => self.classic_refused(code),
        }
        Ok(())
    }

    fn classic_refused(&mut self, code: i16) {
        self.note(&format!("is refused: {code}"));
        match code {
            // ILLEGAL_GENERATION
            22 => {
                self.cast_out(code);
                self.give_up();
            }
            // UNKNOWN_MEMBER_ID
            25 => {
                self.cast_out(code);
                self.give_up();
                self.id.clear();
            }
            27 => self.give_up(),
            _ => self.connection = None,
        }
    }

    /// Joins and takes what it is assigned.
    pub(super) async fn rejoin(&mut self) -> io::Result<()> {
        self.give_up();
        let partitions = self.partitions();
        let session = self.world.scenario.session().as_millis() as i32;
        let topics = vec![text(&self.topic)];
        let metadata = encoded(&ConsumerProtocolSubscription::default().with_topics(topics))?;
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text(PROTOCOL)).with_metadata(metadata);
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(session)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(text(&self.id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let answer = connection.call(&request, 7).await?;
        match answer.error_code {
            0 => {}
            // MEMBER_ID_REQUIRED
            79 => {
                self.id = answer.member_id.to_string();
                return Ok(());
            }
            code => {
                self.classic_refused(code);
                return Ok(());
            }
        }
        self.id = answer.member_id.to_string();
        let assignments = self.assign(&answer, partitions)?;
        self.sync(answer.generation_id, assignments).await?;
        self.counted = partitions;
        Ok(())
    }

    /// The leader deals the partitions out in turn; others have nothing to say.
    fn assign(
        &self,
        answer: &JoinGroupResponse,
        partitions: i32,
    ) -> io::Result<Vec<SyncGroupRequestAssignment>> {
        if answer.leader != answer.member_id {
            return Ok(Vec::new());
        }
        let ids: BTreeSet<&str> = answer.members.iter().map(|it| &*it.member_id).collect();
        let mut dealt: BTreeMap<&str, Vec<i32>> = ids.iter().map(|id| (*id, Vec::new())).collect();
        for (partition, id) in (0..partitions).zip(ids.iter().cycle()) {
            dealt.entry(id).or_default().push(partition);
        }
        let assignment = |(id, partitions): (&str, Vec<i32>)| {
            let topic =
                TopicPartition::default().with_topic(name(&self.topic)).with_partitions(partitions);
            let message =
                ConsumerProtocolAssignment::default().with_assigned_partitions(vec![topic]);
            let bytes = encoded(&message)?;
            let to = SyncGroupRequestAssignment::default().with_member_id(text(id));
            Ok(to.with_assignment(bytes))
        };
        dealt.into_iter().map(assignment).collect()
    }

    async fn sync(
        &mut self,
        generation: i32,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> io::Result<()> {
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(generation)
            .with_member_id(text(&self.id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text(PROTOCOL)))
            .with_assignments(assignments);
        let sent = virtual_now();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let mut answer = connection.call(&request, 5).await?;
        if answer.error_code != 0 {
            self.classic_refused(answer.error_code);
            return Ok(());
        }
        let mut assigned = BTreeSet::new();
        if answer.assignment.len() > 2 {
            let version = answer.assignment.get_i16();
            let message = ConsumerProtocolAssignment::decode(&mut answer.assignment, version);
            let message = message.map_err(io::Error::other)?;
            assigned.extend(message.assigned_partitions.into_iter().flat_map(|it| it.partitions));
        }
        (self.joined, self.entries, self.epoch) = (true, self.entries + 1, generation);
        self.heard(sent);
        self.take(sent, assigned, generation);
        Ok(())
    }

    pub(super) async fn classic_leave(&mut self) -> io::Result<i16> {
        let member = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_members(vec![member]);
        let Some(connection) = &mut self.connection else { return Ok(-1) };
        Ok(connection.call(&request, 4).await?.error_code)
    }
}
