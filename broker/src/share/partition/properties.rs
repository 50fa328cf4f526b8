//! Whatever members, the clock and the coordinator do: no record has two holders, none is lost
//! before its time, and what was written is enough to go on.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BATCH: i64 = 4;
const RECORDS: i64 = 40;
const LIMITS: Limits = Limits { deliveries: 3, in_flight: 24, lock_ms: 100, renew: true };

#[derive(Debug, Clone)]
enum Event {
    Fetch { member: usize, max: i64, exact: bool },
    Ack { member: usize, from: i64, len: i64, kind: AckType },
    Leave { member: usize },
    Written(bool),
    Time(Millis),
    LogStart(Offset),
    Reload,
}

fn events() -> impl Strategy<Value = Event> {
    use AckType::{Accept, Gap, Reject, Release, Renew};
    let kind = proptest::sample::select(vec![Accept, Accept, Accept, Release, Reject, Gap, Renew]);
    prop_oneof![
        6 => (0..3usize, 1..12i64, any::<bool>())
            .prop_map(|(member, max, exact)| Event::Fetch { member, max, exact }),
        6 => (0..3usize, 0..20i64, 1..9i64, kind)
            .prop_map(|(member, from, len, kind)| Event::Ack { member, from, len, kind }),
        1 => (0..3usize).prop_map(|member| Event::Leave { member }),
        5 => proptest::bool::weighted(0.8).prop_map(Event::Written),
        2 => (0..120i64).prop_map(Event::Time),
        1 => (0..RECORDS).prop_map(Event::LogStart),
        1 => Just(Event::Reload),
    ]
}

/// What the share coordinator keeps: by offset.
#[derive(Default)]
struct Kept {
    start: Offset,
    states: BTreeMap<Offset, (RecordState, i16)>,
}

impl Kept {
    fn take(&mut self, write: &StateWrite) {
        assert!(write.start >= self.start, "the start moves back");
        self.start = write.start;
        for batch in &write.batches {
            for offset in batch.first..=batch.last {
                self.states.insert(offset, (batch.state, batch.deliveries));
            }
        }
        self.states = self.states.split_off(&write.start);
    }

    fn state(&self) -> LoadedState {
        let batches = self.states.iter().map(|(at, (state, deliveries))| StateBatch {
            first: *at,
            last: *at,
            state: *state,
            deliveries: *deliveries,
        });
        LoadedState { state_epoch: 0, start: self.start, batches: batches.collect() }
    }
}

struct World {
    it: SharePartition,
    kept: Kept,
    on_its_way: Option<StateWrite>,
    now: Millis,
    log_start: Offset,
    /// By record: who has it, until when, and what the member said that is not decided yet.
    holders: BTreeMap<Offset, (usize, Millis)>,
    asked: BTreeMap<Token, (Vec<Offset>, bool)>,
    next_token: Token,
    done: std::collections::BTreeSet<Offset>,
    deliveries: BTreeMap<Offset, i16>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    fn carry_out(&mut self, effects: Effects) {
        if let Some(write) = effects.write {
            assert!(self.on_its_way.replace(write).is_none(), "two writes at once");
        }
        for (token, answer) in effects.answers {
            let Some((offsets, finishes)) = self.asked.remove(&token) else { continue };
            for offset in offsets {
                if answer.is_ok() {
                    self.holders.remove(&offset);
                    if finishes {
                        self.done.insert(offset);
                    }
                }
            }
        }
    }

    fn fetch(&mut self, member: usize, max: i64, exact: bool) {
        let Some(from) = self.it.begin_fetch(&LIMITS) else { return };
        self.it.end_fetch();
        if from < self.log_start {
            return self.it.log_start_moved(self.log_start);
        }
        let first = from / BATCH * BATCH;
        let log: Vec<_> = (first..RECORDS)
            .step_by(BATCH as usize)
            .map(|base| LogBatch { base, last: base + BATCH - 1, aborted: false })
            .collect();
        let mode = if exact { Mode::RecordLimit } else { Mode::BatchOptimized };
        let ask = Ask { member: NAMES[member].into(), mode, batch_size: 5, max_records: max, from };
        let got = self.it.acquire(&ask, &log, &LIMITS, self.now);
        if exact {
            assert!(got.count <= max);
        }
        for it in got.records {
            for offset in it.first..=it.last {
                let holder = (member, self.now + LIMITS.lock_ms);
                if let Some((_, until)) = self.holders.insert(offset, holder) {
                    assert!(until <= self.now, "{offset} has two holders");
                }
                assert!(!self.done.contains(&offset), "{offset} is done");
                assert!(it.deliveries <= LIMITS.deliveries);
                let before = self.deliveries.insert(offset, it.deliveries);
                assert!(before.is_none_or(|before| before <= it.deliveries));
            }
        }
    }

    fn ack(&mut self, member: usize, from: i64, len: i64, kind: AckType) {
        let first = self.it.start() + from;
        let last = first + len - 1;
        let acks = [AckBatch { first, last, types: vec![kind] }];
        let token = self.next_token;
        self.next_token += 1;
        let renews = kind == AckType::Renew;
        let finishes = !matches!(kind, AckType::Release | AckType::Renew);
        let offsets = if renews { Vec::new() } else { (first..=last).collect() };
        self.asked.insert(token, (offsets, finishes));
        let effects = self.it.acknowledge(token, NAMES[member], &acks, &LIMITS, self.now);
        if renews && effects.answers.iter().any(|(_, answer)| answer.is_ok()) {
            for offset in first..=last {
                if let Some((_, until)) = self.holders.get_mut(&offset) {
                    *until = self.now + LIMITS.lock_ms;
                }
            }
        }
        self.carry_out(effects);
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Fetch { member, max, exact } => self.fetch(member, max, exact),
            Event::Ack { member, from, len, kind } => self.ack(member, from, len, kind),
            Event::Leave { member } => {
                let token = self.next_token;
                self.next_token += 1;
                let theirs = self.holders.iter().filter(|(_, (holder, _))| *holder == member);
                let offsets = theirs.map(|(offset, _)| *offset).collect();
                self.asked.insert(token, (offsets, false));
                let effects = self.it.release_all(token, NAMES[member], &LIMITS, self.now);
                self.carry_out(effects);
            }
            Event::Written(ok) => {
                let Some(write) = self.on_its_way.take() else { return };
                let result = if ok { Ok(()) } else { Err(ErrorCode::UnknownServerError.into()) };
                if ok {
                    self.kept.take(&write);
                }
                let effects = self.it.written(&result, &LIMITS, self.now);
                self.carry_out(effects);
            }
            Event::Time(ms) => {
                self.now += ms;
                let due = self.it.next_lock().is_some_and(|at| at <= self.now);
                if due {
                    let effects = self.it.expire(&LIMITS, self.now);
                    self.carry_out(effects);
                }
            }
            Event::LogStart(offset) => self.log_start = self.log_start.max(offset),
            Event::Reload => {
                self.on_its_way = None;
                self.asked.clear();
                self.holders.clear();
                self.deliveries.clear();
                self.it = SharePartition::load(1, &self.kept.state()).unwrap();
            }
        }
        assert!(self.it.done() >= 0, "done is {}", self.it.done());
        assert!(i64::from(self.it.done()) <= self.it.in_flight().max(0));
    }

    /// Delivers and accepts until nothing is left.
    fn drain(&mut self) {
        for _ in 0..4 * RECORDS {
            self.step(&Event::Written(true));
            self.step(&Event::Time(LIMITS.lock_ms));
            self.step(&Event::Written(true));
            self.fetch(0, 100, false);
            let mine: Vec<_> = self
                .holders
                .iter()
                .filter(|(_, (holder, until))| *holder == 0 && *until > self.now)
                .map(|(offset, _)| *offset)
                .collect();
            for offset in mine {
                let from = offset - self.it.start();
                if from >= 0 {
                    self.ack(0, from, 1, AckType::Accept);
                    self.step(&Event::Written(true));
                    self.step(&Event::Written(true));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_record_has_two_holders_and_none_is_forgotten(
        events in proptest::collection::vec(events(), 0..60)
    ) {
        let it = SharePartition::load(0, &LoadedState::default()).unwrap();
        let mut world = World {
            it,
            kept: Kept::default(),
            on_its_way: None,
            now: 0,
            log_start: 0,
            holders: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            done: std::collections::BTreeSet::new(),
            deliveries: BTreeMap::new(),
        };
        for event in &events {
            world.step(event);
        }
        world.drain();
        prop_assert_eq!(world.it.start(), RECORDS, "all is delivered in the end");
        prop_assert_eq!(world.it.done(), 0);
    }
}
