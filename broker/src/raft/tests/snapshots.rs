//! Patience while a snapshot is on its way: neither side takes the other for dead.

use super::world::{Payload, World, voter};
use crate::raft::messages::{At, Event, FetchId};

fn at(now: i64) -> At {
    At { now, random: 3 }
}

/// Node 0 leads 1 and 2, and has trimmed what 2 lacks; 2 is about to ask for the snapshot.
fn behind() -> (World, FetchId) {
    let mut world = World::new(&[0, 1, 2], &[0, 1, 2]);
    let deadline = world.nodes[&0].raft.role().deadline();
    world.step(0, Event::Tick, at(deadline));
    deliver(&mut world, |_, _| true);
    assert!(world.leads(0));
    world.append(0, 7, at(deadline));
    deliver(&mut world, |from, to| from != 2 && to != 2);
    world.snapshot(0);
    let loads = |world: &World| {
        world.messages.iter().find_map(|message| match message.payload {
            Payload::Load(id, _) => Some(id),
            _ => None,
        })
    };
    for _ in 0..100 {
        if let Some(id) = loads(&world) {
            return (world, id);
        }
        let next = world.messages.iter().find(|it| (it.from, it.to) == (2, 0) || it.to == 2);
        let message = next.cloned().unwrap();
        world.deliver(&message, at(deadline));
    }
    panic!("node 2 asks for no snapshot: {world:#?}");
}

fn deliver(world: &mut World, wanted: impl Fn(i32, i32) -> bool) {
    for _ in 0..100 {
        for message in world.messages.clone() {
            if wanted(message.from, message.to) && world.messages.contains(&message) {
                world.deliver(&message, at(world.nodes[&0].raft.role().deadline().min(100)));
            }
        }
    }
}

#[test]
fn a_leader_counts_a_voter_that_gathers_its_snapshot() {
    let (mut world, _) = behind();
    let raft = &world.nodes[&0].raft;
    let deadline = raft.role().leader().unwrap().quorum_deadline;
    let (epoch, key) = (raft.epoch(), voter(2).key);
    world.step(0, Event::SnapshotAsked(key, epoch), at(deadline - 1));
    // One of an earlier epoch, and one that is no voter, do not count.
    world.step(0, Event::Tick, at(deadline));
    assert!(world.leads(0));
    let later = world.nodes[&0].raft.role().leader().unwrap().quorum_deadline;
    assert!(later > deadline);
    world.step(0, Event::SnapshotAsked(key, epoch - 1), at(later - 1));
    world.step(0, Event::SnapshotAsked(voter(3).key, epoch), at(later - 1));
    world.step(0, Event::Tick, at(later));
    assert!(!world.leads(0));
}

#[test]
fn a_follower_waits_as_long_as_parts_of_the_snapshot_come_and_no_longer() {
    let (mut world, id) = behind();
    let deadline = |world: &World| world.nodes[&2].raft.role().deadline();
    let first = deadline(&world);
    world.step(2, Event::Loading(id), at(first - 1));
    world.step(2, Event::Tick, at(first));
    assert_eq!(world.nodes[&2].raft.role().name(), "follower");
    assert!(world.nodes[&2].raft.is_fetching(id));
    let end = deadline(&world);
    world.step(2, Event::Tick, at(end));
    assert_eq!(world.nodes[&2].raft.role().name(), "prospective");
    // What comes now is of no use any more.
    assert!(!world.nodes[&2].raft.is_fetching(id));
    let before = world.nodes[&2].raft.deadline();
    world.step(2, Event::Loading(id), at(end));
    world.step(2, Event::Loaded(id), at(end));
    assert_eq!(world.nodes[&2].raft.deadline(), before);
    assert_eq!(world.loads, 0);
}

#[test]
fn a_download_that_failed_is_followed_by_a_fetch() {
    let (mut world, id) = behind();
    world.messages.clear();
    world.step(2, Event::FetchFailed(id), at(200));
    let again = world.nodes[&2].raft.deadline();
    world.step(2, Event::Tick, at(again));
    let fetches =
        |it: &super::world::Message| it.from == 2 && matches!(it.payload, Payload::Fetch(..));
    assert!(world.messages.iter().any(fetches));
}
