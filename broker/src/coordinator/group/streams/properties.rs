//! What holds in a streams group after any sequence of heartbeats, timers and failures of the log.
//!
//! After each step [`StreamsGroup::check`](super::StreamsGroup) runs: a task is active once, and in
//! a process in one role.

use proptest::prelude::*;

use super::tasks::{Tasks, plain};
use crate::coordinator::group::conversation::{Conversation, Log, Words};
use crate::coordinator::group::conversation_streams::app;
use crate::coordinator::group::kind::Group;
use crate::error::ErrorCode;

const CLIENTS: u8 = 5;

#[derive(Debug, Clone)]
enum Move {
    Join {
        client: u8,
    },
    /// With all that it was told to have, or nothing of it.
    Work {
        client: u8,
        tells: bool,
    },
    Leave {
        client: u8,
    },
    Grow {
        topic: &'static str,
        partitions: i32,
    },
    Standbys(i32),
    Advance {
        seconds: i64,
    },
    Log(Log),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0..CLIENTS).prop_map(|client| Move::Join { client }),
        14 => (0..CLIENTS, any::<bool>()).prop_map(|(client, tells)| Move::Work { client, tells }),
        2 => (0..CLIENTS).prop_map(|client| Move::Leave { client }),
        1 => (prop_oneof![Just("t"), Just("u")], 1..6i32)
            .prop_map(|(topic, partitions)| Move::Grow { topic, partitions }),
        1 => (0..3i32).prop_map(Move::Standbys),
        4 => (0..50i64).prop_map(|seconds| Move::Advance { seconds }),
        1 => Just(Move::Log(Log::Holds)),
        1 => Just(Move::Log(Log::Refuses(ErrorCode::NotEnoughReplicas))),
        3 => Just(Move::Log(Log::Commits)),
    ]
}

/// Two members share a process.
fn work(conversation: &mut Conversation, client: u8, rest: &str) {
    let line = format!("work C{client} process=p{} {rest}", client / 2);
    let words = Words::of(&line);
    let call = conversation.streams_call(words.plain[1], &words);
    conversation.call(words.plain[1], call);
}

fn make(conversation: &mut Conversation, next: Move) {
    match next {
        Move::Join { client } => {
            // It has given up all that it may have had.
            conversation.clients.remove(&format!("C{client}"));
            conversation.crew.told.remove(&format!("C{client}"));
            work(conversation, client, "epoch=0");
        }
        Move::Work { client, tells } => {
            if conversation.clients.contains_key(&format!("C{client}")) {
                work(conversation, client, if tells { "owns=all" } else { "" });
            }
        }
        Move::Leave { client } => {
            // It gives up all that it has before it goes, whenever it hears that it may.
            conversation.crew.told.remove(&format!("C{client}"));
            work(conversation, client, "epoch=-1");
        }
        Move::Grow { topic, partitions } => {
            let now = conversation.image.topic(topic).map_or(0, |it| it.partitions.len() as i32);
            conversation.create(topic, partitions.max(now), None);
            if let Some(changelog) = (topic == "t").then_some("store")
                && conversation.image.topic(changelog).is_some()
            {
                conversation.create(changelog, partitions.max(now), None);
            }
        }
        Move::Standbys(count) => {
            conversation.settings.streams.standby_replicas.default = count;
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

/// Whatever a member believes to run is held for it.
fn check_clients(conversation: &Conversation) -> Result<(), TestCaseError> {
    for group in conversation.shard.groups() {
        let Group::Streams(group) = group else { continue };
        for (client, told) in &conversation.crew.told {
            let known = conversation.clients.get(client);
            let Some(member) = known.and_then(|(id, _)| group.member(id)) else { continue };
            let (held, revoking) = (plain(&member.held.active), plain(&member.revoking.active));
            for (id, partitions) in &told.active {
                for partition in partitions {
                    let has = [&held, &revoking]
                        .iter()
                        .any(|all| all.get(id).is_some_and(|its| its.contains(partition)));
                    prop_assert!(has, "{client} {told:?} {member:?}");
                }
            }
        }
    }
    Ok(())
}

fn tasks(tasks: &Tasks) -> usize {
    tasks.values().flatten().count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_task_is_active_once_and_the_group_comes_to_rest(
        moves in proptest::collection::vec(moves(), 1..60),
        patience in prop_oneof![Just(0), Just(3_000)],
    ) {
        let mut conversation = Conversation::new();
        conversation.forgets = true;
        conversation.crew.makes_topics = true;
        conversation.crew.app = Some(app(1, ["0:t,+store", "1:u"].into_iter()));
        conversation.settings.streams.initial_rebalance_delay.default = patience;
        conversation.create("t", 3, None);
        conversation.create("u", 2, None);
        for next in moves {
            make(&mut conversation, next);
            check_clients(&conversation)?;
        }
        conversation.log = Log::Commits;
        conversation.commit();
        // Of two that grew at different times, the changelog follows.
        if conversation.image.topic("store").is_some() {
            let tasks = conversation.image.topic("t").map_or(0, |it| it.partitions.len() as i32);
            conversation.create("store", tasks, None);
        }
        // Whoever was a member is none any more, finds out, and joins again.
        conversation.advance(60_000);
        for round in 0..14 {
            for client in 0..CLIENTS {
                if !conversation.clients.contains_key(&format!("C{client}")) && round < 4 {
                    work(&mut conversation, client, "epoch=0");
                } else if conversation.clients.contains_key(&format!("C{client}")) {
                    work(&mut conversation, client, "owns=all");
                }
                check_clients(&conversation)?;
            }
            conversation.advance(11_000);
        }
        let group = conversation.shard.groups().next().unwrap();
        prop_assert_eq!(group.state_name(), "Stable", "{:?}", group);
        let Group::Streams(group) = group else { panic!("{group:?}") };
        let count = |topic: &str| conversation.image.topic(topic).unwrap().partitions.len();
        let active: usize = group.members().map(|it| tasks(&plain(&it.held.active))).sum();
        prop_assert_eq!(active, count("t") + count("u"));
        // Three processes: as many standbys as asked for.
        let standby: usize = group.members().map(|it| tasks(&it.held.standby)).sum();
        let wanted = conversation.settings.streams.standby_replicas.default as usize;
        prop_assert_eq!(standby, count("t") * wanted);
        conversation.check_streams_load();
        prop_assert!(conversation.open.is_empty());
    }
}
