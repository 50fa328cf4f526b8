//! The roles as they are shipped, in worlds of our making: transcripts, chaos, and a model.

mod chaos;
mod model;
mod snapshots;
mod transcripts;
mod world;

/// `ControlRecordUtils` of Kafka 4.3.1 knows version 0 only: a record with directories breaks it.
#[test]
fn a_leader_change_is_of_the_version_that_kafka_reads_also_with_directories() {
    use crate::raft::messages::{At, Effect, Event};
    use crate::wire::metadata::control::Control;
    let mut node = world::World::new(&[0], &[0]).nodes.remove(&0).unwrap();
    let at = At { now: node.raft.deadline(), random: 3 };
    let effects = node.raft.step(Event::Tick, &node.log, at);
    let appended = effects.iter().find_map(|effect| match effect {
        Effect::Append(controls) => Some(controls),
        _ => None,
    });
    let [Control::LeaderChange(change), Control::KRaftVersion(_), Control::Voters(_)] =
        &appended.unwrap()[..]
    else {
        panic!("{appended:?}");
    };
    assert_eq!(change.version, 0);
}
