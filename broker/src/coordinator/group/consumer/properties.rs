//! What holds in a consumer group after any sequence of heartbeats, timers and failures of the log.
//!
//! After each step [`ConsumerGroup::check`](super::ConsumerGroup) runs: a partition has one holder.

use proptest::prelude::*;

use crate::coordinator::group::conversation::{Conversation, Log, Words};
use crate::coordinator::group::kind::Group;
use crate::error::ErrorCode;

#[derive(Debug, Clone)]
enum Move {
    Join {
        client: u8,
        is_static: bool,
        topics: &'static str,
    },
    /// With all that it was told to own, or nothing of it.
    Alive {
        client: u8,
        tells: bool,
        is_static: bool,
    },
    Leave {
        client: u8,
        is_static: bool,
    },
    /// A classic member joins or joins again, fetches its assignment, beats, or leaves.
    Classic {
        client: u8,
        what: &'static str,
    },
    Grow {
        topic: &'static str,
        partitions: i32,
    },
    Advance {
        seconds: i64,
    },
    Log(Log),
}

fn moves(classic: u32) -> impl Strategy<Value = Move> {
    let topics = prop_oneof![
        Just("topics=t"),
        Just("topics=t,u"),
        Just("topics=u"),
        Just("regex=[tu]"),
        Just("topics=t regex=u"),
        Just("topics=t assignor=range"),
    ];
    let what = prop_oneof![3 => Just("join"), 3 => Just("sync"), 1 => Just("heartbeat"), 1 => Just("leave")];
    prop_oneof![
        6 => (0..4u8, any::<bool>(), topics)
            .prop_map(|(client, is_static, topics)| Move::Join { client, is_static, topics }),
        12 => (0..4u8, any::<bool>(), any::<bool>())
            .prop_map(|(client, tells, is_static)| Move::Alive { client, tells, is_static }),
        2 => (0..4u8, any::<bool>()).prop_map(|(client, is_static)| Move::Leave { client, is_static }),
        classic => (0..3u8, what).prop_map(|(client, what)| Move::Classic { client, what }),
        2 => (prop_oneof![Just("t"), Just("u")], 1..9i32)
            .prop_map(|(topic, partitions)| Move::Grow { topic, partitions }),
        4 => (0..50i64).prop_map(|seconds| Move::Advance { seconds }),
        1 => Just(Move::Log(Log::Holds)),
        1 => Just(Move::Log(Log::Refuses(ErrorCode::NotEnoughReplicas))),
        3 => Just(Move::Log(Log::Commits)),
    ]
}

fn alive(conversation: &mut Conversation, line: &str) {
    let words = Words::of(line);
    let call = conversation.consumer_call(words.plain[1], &words);
    conversation.call(words.plain[1], call);
}

fn make(conversation: &mut Conversation, next: Move) {
    let instance = |client: u8, is_static: bool| {
        if is_static { format!(" instance=i{client}") } else { String::new() }
    };
    match next {
        Move::Join { client, is_static, topics } => {
            // It has given up all that it may have had.
            conversation.clients.remove(&format!("C{client}"));
            conversation.assigned.remove(&format!("C{client}"));
            let instance = instance(client, is_static);
            alive(conversation, &format!("alive C{client} epoch=0 {topics}{instance}"));
        }
        Move::Alive { client, tells, is_static } => {
            let owns = if tells { " owns=all" } else { "" };
            let instance = instance(client, is_static);
            if conversation.clients.contains_key(&format!("C{client}")) {
                alive(conversation, &format!("alive C{client}{owns}{instance}"));
            }
        }
        Move::Leave { client, is_static } => {
            let instance = instance(client, is_static);
            let epoch = if is_static { -2 } else { -1 };
            // It gives up all that it has before it goes, whenever it hears that it may.
            conversation.assigned.remove(&format!("C{client}"));
            alive(conversation, &format!("bye C{client} epoch={epoch}{instance}"));
        }
        Move::Classic { client, what } => {
            let name = format!("K{client}");
            let line = format!("{what} {name} protocols=range,sticky assign={name}:");
            conversation.command(&line);
        }
        Move::Grow { topic, partitions } => {
            let now = conversation.image.topic(topic).map_or(0, |it| it.partitions.len() as i32);
            conversation.create(topic, partitions.max(now), None);
        }
        Move::Advance { seconds } => conversation.advance(seconds * 1_000),
        Move::Log(log) => {
            conversation.log = log;
            if log == Log::Commits {
                conversation.commit();
            }
        }
    }
}

/// Whatever a member believes to own is held for it.
fn check_clients(conversation: &Conversation) -> Result<(), TestCaseError> {
    for group in conversation.shard.groups().filter_map(Group::as_consumer) {
        for (client, owned) in &conversation.assigned {
            let member = conversation.clients.get(client).and_then(|(id, _)| group.member(id));
            let Some(member) = member.filter(|member| !member.is_classic()) else { continue };
            let held: Vec<_> = member.held().collect();
            for (topic, partitions) in owned {
                for partition in partitions {
                    prop_assert!(held.contains(&(*topic, *partition)), "{client} {member:?}");
                }
            }
        }
    }
    Ok(())
}

fn start() -> Conversation {
    let mut conversation = Conversation::new();
    conversation.forgets = true;
    conversation.create("t", 3, None);
    conversation
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_partition_has_one_owner_and_the_group_comes_to_rest(
        moves in proptest::collection::vec(moves(0), 1..60)
    ) {
        let mut conversation = start();
        for next in moves {
            make(&mut conversation, next);
            check_clients(&conversation)?;
        }
        conversation.log = Log::Commits;
        conversation.commit();
        // Whoever was a member is none any more, finds out, and joins again.
        conversation.advance(60_000);
        for round in 0..12 {
            for client in 0..4u8 {
                let name = format!("C{client}");
                if !conversation.clients.contains_key(&name) && round < 4 {
                    alive(&mut conversation, &format!("alive {name} epoch=0 topics=t"));
                } else if conversation.clients.contains_key(&name) {
                    alive(&mut conversation, &format!("alive {name} owns=all"));
                }
                check_clients(&conversation)?;
            }
            conversation.advance(11_000);
        }
        let group = conversation.shard.groups().find_map(Group::as_consumer).unwrap();
        prop_assert_eq!(group.state().name(), "Stable", "{:?}", group);
        let owned: usize = group.members().map(|member| member.held().count()).sum();
        let wanted = group.topics.names().filter_map(|name| conversation.image.topic(name));
        prop_assert_eq!(owned, wanted.map(|topic| topic.partitions.len()).sum::<usize>());
        conversation.check_load();
        prop_assert!(conversation.open.is_empty());
    }

    #[test]
    fn members_of_both_protocols_share_a_group_and_it_loads_as_it_was(
        moves in proptest::collection::vec(moves(14), 1..60)
    ) {
        let mut conversation = start();
        conversation.settings.initial_rebalance_delay_ms = 0;
        for next in moves {
            make(&mut conversation, next);
            check_clients(&conversation)?;
        }
        conversation.log = Log::Commits;
        conversation.commit();
        conversation.check_load();
        for _ in 0..40 {
            conversation.advance(60_000);
        }
        prop_assert!(conversation.open.is_empty(), "still open: {:?}", conversation.open);
        prop_assert!(conversation.shard.groups().all(|group| group.validate_delete().is_ok()));
        conversation.check_load();
    }
}
