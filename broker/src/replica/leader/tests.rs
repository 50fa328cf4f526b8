use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LAG: Millis = 30_000;

/// Active brokers and their epochs.
type Active = BTreeMap<NodeId, BrokerEpoch>;

impl Brokers for Active {
    fn active(&self, id: NodeId) -> Option<BrokerEpoch> {
        self.get(&id).copied()
    }
}

fn all_active() -> Active {
    [(1, 101), (2, 102), (3, 103)].into()
}

fn partition(isr: &[NodeId]) -> PartitionImage {
    PartitionImage {
        replicas: vec![1, 2, 3],
        directories: Vec::new(),
        isr: isr.to_vec(),
        adding: Vec::new(),
        removing: Vec::new(),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        leader: 1,
        recovering: false,
        leader_epoch: 5,
        partition_epoch: 7,
    }
}

fn leader(isr: &[NodeId]) -> Leader {
    let rules = Rules { min_insync_replicas: 1, lag_time_max: LAG };
    Leader::new(1, &partition(isr), 10, 10, 10, rules, 0)
}

fn fetch(replica: NodeId, offset: Offset) -> ReplicaFetch {
    ReplicaFetch { replica, broker_epoch: i64::from(replica) + 100, offset, log_start: 0 }
}

fn members(effects: &Effects) -> Option<Vec<NodeId>> {
    effects.iter().find_map(|effect| match effect {
        Effect::ProposeIsr(it) => Some(it.isr.iter().map(|(id, _)| *id).collect()),
        Effect::HighWatermark(_) => None,
    })
}

#[test]
fn the_high_watermark_waits_for_every_member_of_the_isr_and_for_the_own_disk() {
    let brokers = all_active();
    let mut leader = leader(&[1, 2, 3]);
    leader.on_append(15);
    assert_eq!(leader.on_fetch(fetch(2, 15), &brokers, 1), Some(vec![]));
    assert_eq!(leader.on_fetch(fetch(3, 15), &brokers, 1), Some(vec![]), "not synced here yet");
    assert_eq!(leader.on_synced(13, &brokers, 1), [Effect::HighWatermark(13)]);
    assert_eq!(leader.on_synced(15, &brokers, 1), [Effect::HighWatermark(15)]);
}

#[test]
fn a_stranger_is_no_replica() {
    assert_eq!(leader(&[1]).on_fetch(fetch(9, 10), &all_active(), 1), None);
}

#[test]
fn a_follower_that_stops_fetching_leaves_the_isr_and_the_rest_goes_on() {
    let brokers = all_active();
    let mut leader = leader(&[1, 2, 3]);
    leader.on_append(11);
    leader.on_synced(11, &brokers, 0);
    leader.on_fetch(fetch(2, 11), &brokers, 100);
    assert_eq!(leader.on_tick(&brokers, LAG), []);
    let effects = leader.on_tick(&brokers, LAG + 1);
    let [Effect::ProposeIsr(proposal)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(proposal.isr, [(1, 101), (2, 102)]);
    assert_eq!((proposal.leader_epoch, proposal.partition_epoch), (5, 7));
    assert_eq!(leader.on_tick(&brokers, LAG + 2), [], "one proposal at a time");
    assert_eq!(leader.high_watermark(), 10, "until it is accepted, the old set counts");
    let effects = leader.on_isr_accepted(5, &[1, 2], 8, &brokers, LAG + 3);
    assert_eq!(effects, [Effect::HighWatermark(11)]);
}

#[test]
fn a_follower_at_the_end_stays_however_long_nothing_is_written() {
    let brokers = all_active();
    let mut leader = leader(&[1, 2]);
    leader.on_fetch(fetch(2, 10), &brokers, 0);
    assert_eq!(leader.on_tick(&brokers, 10 * LAG), []);
}

#[test]
fn a_follower_that_has_caught_up_joins_if_it_is_active_and_the_same_that_registered() {
    // who is active, the epoch that fetches, the offset, whether it may join
    let cases = [
        (all_active(), 102, 10, true),
        (all_active(), -1, 10, true),
        (all_active(), 102, 9, false),
        (all_active(), 99, 10, false),
        ([(1, 101)].into(), 102, 10, false),
    ];
    for (brokers, broker_epoch, offset, joins) in cases {
        let mut leader = leader(&[1]);
        let fetch = ReplicaFetch { broker_epoch, offset, ..fetch(2, 0) };
        let effects = leader.on_fetch(fetch, &brokers, 1).unwrap();
        assert_eq!(members(&effects).is_some(), joins, "{brokers:?} {fetch:?}");
    }
}

#[test]
fn past_the_high_watermark_is_not_enough_before_the_start_of_the_epoch() {
    let rules = Rules { min_insync_replicas: 1, lag_time_max: LAG };
    let mut leader = Leader::new(1, &partition(&[1]), 10, 8, 5, rules, 0);
    assert_eq!(members(&leader.on_fetch(fetch(2, 9), &all_active(), 1).unwrap()), None);
    assert!(members(&leader.on_fetch(fetch(2, 10), &all_active(), 2).unwrap()).is_some());
}

#[test]
fn while_a_follower_is_about_to_join_the_high_watermark_waits_for_it() {
    let brokers = all_active();
    let mut leader = leader(&[1]);
    leader.on_fetch(fetch(2, 10), &brokers, 1);
    leader.on_append(20);
    assert_eq!(leader.on_synced(20, &brokers, 2), []);
    assert_eq!(leader.on_fetch(fetch(2, 18), &brokers, 3), Some(vec![Effect::HighWatermark(18)]));
}

#[test]
fn below_min_insync_replicas_the_high_watermark_stands_still() {
    let brokers = all_active();
    let mut leader = leader(&[1]);
    leader.rules.min_insync_replicas = 2;
    leader.on_append(20);
    assert_eq!(leader.on_synced(20, &brokers, 2), []);
    assert!(!leader.has_enough_replicas());
    leader.on_fetch(fetch(2, 20), &brokers, 3);
    let effects = leader.on_isr_accepted(5, &[1, 2], 8, &brokers, 4);
    assert_eq!(effects, [Effect::HighWatermark(20)]);
}

#[test]
fn min_insync_replicas_is_never_more_than_there_are_replicas() {
    let mut leader = leader(&[1, 2, 3]);
    leader.rules.min_insync_replicas = 9;
    assert_eq!(leader.min_insync_replicas(), 3);
}

#[test]
fn each_refusal_of_the_controller_has_its_own_sequel() {
    use ErrorCode::*;
    // code, whether to send again, whether the proposal still counts
    let cases = [
        (OperationNotAttempted, false, false),
        (IneligibleReplica, false, false),
        (InvalidUpdateVersion, false, true),
        (FencedLeaderEpoch, false, true),
        (UnknownTopicId, false, true),
        (RequestTimedOut, true, true),
        (NotController, true, true),
    ];
    for (code, again, counts) in cases {
        let brokers = all_active();
        let mut leader = leader(&[1]);
        let effects = leader.on_fetch(fetch(2, 10), &brokers, 1).unwrap();
        let [Effect::ProposeIsr(proposal)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(leader.on_isr_refused(proposal, code), again, "{code:?}");
        assert_eq!(leader.is_proposing(), counts, "{code:?}");
    }
}

#[test]
fn a_late_answer_does_not_withdraw_the_proposal_that_came_after_it() {
    let brokers = all_active();
    let mut leader = leader(&[1, 2]);
    // A shrinking ISR is accepted, and the image tells of it before the answer does.
    let shrunk = PartitionImage { partition_epoch: 8, ..partition(&[1]) };
    leader.on_image(&shrunk, &brokers, 1);
    leader.on_append(20);
    // The follower is back, and proposed, while the leader's own records are not synced yet.
    leader.on_fetch(fetch(2, 10), &brokers, 2).unwrap();
    assert!(leader.is_proposing());
    assert_eq!(leader.on_isr_accepted(5, &[1], 8, &brokers, 3), []);
    assert!(leader.is_proposing());
    // The follower does not have them: they are not committed.
    assert_eq!(leader.on_synced(20, &brokers, 4), []);
}

#[test]
fn an_older_state_of_the_partition_is_no_news() {
    let brokers = all_active();
    let mut leader = leader(&[1, 2]);
    assert_eq!(leader.on_isr_accepted(5, &[1], 6, &brokers, 1), []);
    assert_eq!(leader.on_isr_accepted(4, &[1], 9, &brokers, 1), []);
    leader.on_image(&PartitionImage { partition_epoch: 6, ..partition(&[1]) }, &brokers, 1);
    assert_eq!(leader.isr(), [1, 2]);
}

#[test]
fn a_leader_elected_uncleanly_first_says_that_it_has_recovered() {
    let rules = Rules { min_insync_replicas: 1, lag_time_max: LAG };
    let image = PartitionImage { recovering: true, ..partition(&[1]) };
    let mut leader = Leader::new(1, &image, 10, 10, 10, rules, 0);
    assert_eq!(leader.on_fetch(fetch(2, 10), &all_active(), 1), Some(vec![]), "nobody joins yet");
    let effects = leader.on_tick(&all_active(), 2);
    let [Effect::ProposeIsr(proposal)] = &effects[..] else { panic!("{effects:?}") };
    assert!(!proposal.recovering);
}

#[derive(Debug, Clone)]
enum Event {
    Append(u8),
    Sync(u8),
    Fetch(NodeId, u8),
    Tick(u16),
    Accept,
    Refuse(u8),
    Fence(NodeId),
    Unfence(NodeId),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_u8..9).prop_map(Event::Append),
        (0_u8..9).prop_map(Event::Sync),
        (2_i32..4, 0_u8..6).prop_map(|(id, behind)| Event::Fetch(id, behind)),
        (1_u16..40_000).prop_map(Event::Tick),
        Just(Event::Accept),
        (0_u8..3).prop_map(Event::Refuse),
        (2_i32..4).prop_map(Event::Fence),
        (2_i32..4).prop_map(Event::Unfence),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold(
        events in prop::collection::vec(event(), 1..120),
        min in 1_usize..4,
    ) {
        let mut brokers = all_active();
        let mut leader = leader(&[1, 2, 3]);
        leader.rules.min_insync_replicas = min;
        let (mut log_end, mut synced, mut now, mut epoch) = (10, 10, 0, 7);
        let mut ends: BTreeMap<NodeId, Offset> = BTreeMap::new();
        let mut proposed: Option<Proposal> = None;
        for event in events {
            let before = leader.high_watermark();
            let effects = match event {
                Event::Append(n) => {
                    log_end += i64::from(n);
                    leader.on_append(log_end);
                    Vec::new()
                }
                Event::Sync(n) => {
                    synced = log_end.min(synced + i64::from(n));
                    leader.on_synced(synced, &brokers, now)
                }
                Event::Fetch(id, behind) => {
                    // A follower goes forward only, up to what the leader has written.
                    let end = (log_end - i64::from(behind)).max(ends.get(&id).copied().unwrap_or(0));
                    ends.insert(id, end);
                    leader.on_fetch(fetch(id, end), &brokers, now).unwrap()
                }
                Event::Tick(ms) => {
                    now += i64::from(ms);
                    leader.on_tick(&brokers, now)
                }
                Event::Accept => match proposed.take() {
                    Some(it) => {
                        epoch += 1;
                        let isr: Vec<NodeId> = it.isr.iter().map(|(id, _)| *id).collect();
                        leader.on_isr_accepted(5, &isr, epoch, &brokers, now)
                    }
                    None => Vec::new(),
                },
                Event::Refuse(n) => {
                    let code = [ErrorCode::IneligibleReplica, ErrorCode::NotController][usize::from(n) % 2];
                    if let Some(it) = proposed.take()
                        && leader.on_isr_refused(&it, code) {
                        proposed = Some(it);
                    }
                    Vec::new()
                }
                Event::Fence(id) => {
                    brokers.remove(&id);
                    Vec::new()
                }
                Event::Unfence(id) => {
                    brokers.insert(id, i64::from(id) + 100);
                    Vec::new()
                }
            };
            let high_watermark = leader.high_watermark();
            prop_assert!(high_watermark >= before);
            prop_assert!(high_watermark <= synced);
            if high_watermark > before {
                for id in leader.isr().iter().filter(|id| **id != 1) {
                    prop_assert!(ends.get(id).is_some_and(|end| *end >= high_watermark));
                }
            }
            for effect in effects {
                let Effect::ProposeIsr(it) = effect else { continue };
                prop_assert!(proposed.is_none(), "two at once");
                let old: BTreeSet<NodeId> = leader.isr().iter().copied().collect();
                for (id, _) in it.isr.iter().filter(|(id, _)| !old.contains(id)) {
                    prop_assert!(ends[id] >= before && ends[id] >= leader.epoch_start);
                    prop_assert!(brokers.contains_key(id));
                }
                prop_assert!(it.has(1));
                proposed = Some(it);
            }
        }
    }
}
