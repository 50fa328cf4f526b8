//! What holds after any sequence of requests, timers and failures of the log.

use std::collections::BTreeMap;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{GroupId, HeartbeatRequest, LeaveGroupRequest};
use proptest::prelude::*;

use super::call::Call;
use super::conversation::{Conversation, Log, Words, text};
use super::kind::Group;
use super::settings::GroupSettings;
use crate::error::ErrorCode;

#[derive(Debug, Clone)]
enum Move {
    Join { client: u8, version: i16, is_static: bool, protocols: &'static str },
    Sync { client: u8 },
    Heartbeat { client: u8 },
    Leave { client: u8 },
    Forget { client: u8 },
    Advance { seconds: i64 },
    Log(Log),
    Delete,
}

fn moves() -> impl Strategy<Value = Move> {
    let protocols = prop_oneof![Just("range"), Just("range,sticky"), Just("sticky,range")];
    prop_oneof![
        8 => (0..4u8, 0..10i16, any::<bool>(), protocols).prop_map(
            |(client, version, is_static, protocols)| {
                Move::Join { client, version, is_static, protocols }
            }
        ),
        6 => (0..4u8).prop_map(|client| Move::Sync { client }),
        2 => (0..4u8).prop_map(|client| Move::Heartbeat { client }),
        2 => (0..4u8).prop_map(|client| Move::Leave { client }),
        1 => (0..4u8).prop_map(|client| Move::Forget { client }),
        4 => (0..70i64).prop_map(|seconds| Move::Advance { seconds }),
        1 => Just(Move::Log(Log::Holds)),
        1 => Just(Move::Log(Log::Refuses(ErrorCode::NotEnoughReplicas))),
        3 => Just(Move::Log(Log::Commits)),
        1 => Just(Move::Delete),
    ]
}

fn make(conversation: &mut Conversation, next: Move) {
    let group = GroupId(text("g"));
    match next {
        Move::Join { client, version, is_static, protocols } => {
            let name = format!("C{client}");
            let mut line = format!("join {name} v={version} protocols={protocols}");
            if is_static {
                line.push_str(" instance=i");
                line.push_str(&client.to_string());
            }
            let call = conversation.join_call(&name, &Words::of(&line));
            conversation.call(&name, call);
        }
        Move::Sync { client } => {
            let name = format!("C{client}");
            let line = format!("sync {name} assign=C0:a,C1:b,C2:c,C3:d");
            let call = conversation.sync_call(&name, &Words::of(&line));
            conversation.call(&name, call);
        }
        Move::Heartbeat { client } => {
            let name = format!("C{client}");
            let (id, generation) = conversation.member(&name);
            let request = HeartbeatRequest::default().with_group_id(group).with_member_id(id);
            let request = request.with_generation_id(generation);
            conversation.call(&name, Call::Heartbeat(request));
        }
        Move::Leave { client } => {
            let name = format!("C{client}");
            let member = MemberIdentity::default().with_member_id(conversation.member(&name).0);
            let request = LeaveGroupRequest::default().with_group_id(group);
            conversation.call(&name, Call::Leave(request.with_members(vec![member])));
        }
        Move::Forget { client } => {
            conversation.clients.remove(&format!("C{client}"));
        }
        Move::Advance { seconds } => conversation.advance(seconds * 1_000),
        Move::Log(log) => {
            conversation.log = log;
            if log == Log::Commits {
                conversation.commit();
            }
        }
        Move::Delete => conversation.call("someone", Call::Delete { groups: vec![group] }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// After each step, [`ClassicGroup::check`](super::classic::ClassicGroup) runs. In the end,
    /// when the log commits and time goes on, nobody waits any more.
    #[test]
    fn every_request_is_answered_and_no_member_is_in_two_states(
        moves in proptest::collection::vec(moves(), 1..60)
    ) {
        let mut conversation = Conversation::new();
        conversation.settings = GroupSettings { max_size: 3, ..GroupSettings::default() };
        let mut generation = BTreeMap::new();
        for next in moves {
            make(&mut conversation, next);
            for group in conversation.shard.groups().filter_map(Group::as_classic) {
                // A group that was deleted, or never stored, may begin anew.
                let before = generation.insert(group.id.clone(), group.generation);
                prop_assert!(group.generation == 0 || before.unwrap_or(0) <= group.generation);
            }
        }
        conversation.log = Log::Commits;
        conversation.commit();
        for _ in 0..40 {
            conversation.advance(60_000);
        }
        prop_assert!(conversation.open.is_empty(), "still open: {:?}", conversation.open);
        prop_assert!(conversation.shard.groups().all(|group| group.validate_delete().is_ok()));
    }
}
