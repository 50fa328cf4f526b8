//! Which brokers hold a new partition.
//!
//! Striped like Kafka's: partitions start at consecutive racks, each rack hands out its brokers in
//! turn, and the stripe shifts by one broker with every round, so that leaders and followers are
//! both spread. Fenced brokers are used only when a rack has no other; never as the first replica.
//! At most one replica per broker, by construction.

use std::collections::BTreeMap;

use super::image::Image;
use crate::env::Random;
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;

/// A broker that may get replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    pub id: NodeId,
    pub rack: Option<String>,
    pub fenced: bool,
}

/// All registered brokers, except those that are about to leave.
pub fn usable(image: &Image) -> Vec<Usable> {
    image
        .brokers()
        .filter(|broker| !broker.in_controlled_shutdown || broker.fenced)
        .map(|broker| Usable {
            id: broker.id,
            rack: broker.rack.as_deref().map(str::to_owned),
            fenced: broker.fenced,
        })
        .collect()
}

/// The brokers of one rack, handed out in turn.
#[derive(Default)]
struct Ring {
    brokers: Vec<NodeId>,
    round: usize,
    shift: usize,
    given: usize,
}

impl Ring {
    fn next(&mut self, round: usize) -> Option<NodeId> {
        if self.brokers.is_empty() {
            return None;
        }
        if self.round != round {
            self.round = round;
            self.given = 0;
            self.shift = (self.shift + 1) % self.brokers.len();
        }
        if self.given == self.brokers.len() {
            return None;
        }
        let broker = self.brokers[(self.given + self.shift) % self.brokers.len()];
        self.given += 1;
        Some(broker)
    }
}

#[derive(Default)]
struct Rack {
    unfenced: Ring,
    fenced: Ring,
}

struct Stripe<'a> {
    random: &'a Random,
    racks: Vec<Rack>,
    unfenced: usize,
    round: usize,
    offset: usize,
}

impl<'a> Stripe<'a> {
    fn new(brokers: &[Usable], random: &'a Random) -> Self {
        let mut by_rack = BTreeMap::<Option<&str>, Rack>::new();
        for broker in brokers {
            let rack = by_rack.entry(broker.rack.as_deref()).or_default();
            let ring = if broker.fenced { &mut rack.fenced } else { &mut rack.unfenced };
            ring.brokers.push(broker.id);
        }
        let mut racks: Vec<Rack> = by_rack.into_values().collect();
        for ring in racks.iter_mut().flat_map(|rack| [&mut rack.unfenced, &mut rack.fenced]) {
            ring.brokers.sort_unstable();
            ring.shift = random.below(ring.brokers.len() as u64) as usize;
        }
        let offset = random.below(racks.len() as u64) as usize;
        let unfenced = brokers.iter().filter(|broker| !broker.fenced).count();
        Self { random, racks, unfenced, round: 0, offset }
    }

    /// One partition. There are enough brokers, and one of them is unfenced: the caller looked.
    fn next(&mut self, replicas: usize) -> Vec<NodeId> {
        if self.round == self.unfenced && self.unfenced > 1 {
            self.shuffle();
            self.round = 0;
        }
        let racks = self.racks.len();
        self.offset %= racks;
        let mut placed = Vec::with_capacity(replicas);
        let mut first = None;
        for step in 0..racks {
            let rack = (self.offset + step) % racks;
            if let Some(broker) = self.racks[rack].unfenced.next(self.round) {
                placed.push(broker);
                first = Some(rack);
                break;
            }
        }
        let mut rack = self.offset;
        while placed.len() < replicas {
            // The rack of the leader has given one already in this turn.
            if first.take_if(|first| *first == rack).is_none() {
                let rack = &mut self.racks[rack];
                let next = rack.unfenced.next(self.round).or_else(|| rack.fenced.next(self.round));
                placed.extend(next);
            }
            rack = (rack + 1) % racks;
        }
        self.round += 1;
        self.offset += 1;
        placed
    }

    fn shuffle(&mut self) {
        let random = self.random;
        shuffle(&mut self.racks, random);
        for rack in &mut self.racks {
            shuffle(&mut rack.unfenced.brokers, random);
            shuffle(&mut rack.fenced.brokers, random);
        }
    }
}

fn shuffle<T>(items: &mut [T], random: &Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

/// Places `partitions` partitions of `replicas` replicas each, or says as Kafka does why not.
pub fn place(
    brokers: &[Usable],
    partitions: usize,
    replicas: i16,
    random: &Random,
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    let refuse = |why: String| {
        Err(Refusal::new(
            ErrorCode::InvalidReplicationFactor,
            format!("Unable to replicate the partition {replicas} time(s): {why}"),
        ))
    };
    if replicas <= 0 {
        return refuse(format!(
            "Invalid replication factor {replicas}: the replication factor must be positive."
        ));
    }
    if brokers.iter().all(|broker| broker.fenced) {
        return refuse("All brokers are currently fenced.".into());
    }
    if replicas as usize > brokers.len() {
        return refuse(format!(
            "The target replication factor of {replicas} cannot be reached because only {} \
             broker(s) are registered.",
            brokers.len()
        ));
    }
    let mut stripe = Stripe::new(brokers, random);
    Ok((0..partitions).map(|_| stripe.next(replicas as usize)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn broker(id: NodeId, rack: u8, fenced: bool) -> Usable {
        Usable { id, rack: Some(format!("r{rack}")), fenced }
    }

    #[test]
    fn too_many_replicas_are_refused_in_kafkas_words() {
        let brokers = [broker(0, 0, false), broker(1, 0, false), broker(2, 0, false)];
        let refusal = place(&brokers, 1, 4, &Random::from_seed(1)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidReplicationFactor);
        assert_eq!(
            refusal.message,
            "Unable to replicate the partition 4 time(s): The target replication factor of 4 \
             cannot be reached because only 3 broker(s) are registered."
        );
    }

    #[test]
    fn three_partitions_on_three_brokers_have_three_leaders() {
        let brokers: Vec<_> = (0..3).map(|id| broker(id, id as u8, false)).collect();
        for seed in 0..20 {
            let placed = place(&brokers, 3, 3, &Random::from_seed(seed)).unwrap();
            let leaders: BTreeSet<_> = placed.iter().map(|replicas| replicas[0]).collect();
            assert_eq!(leaders.len(), 3, "{placed:?}");
        }
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_lead_from_the_unfenced_and_span_racks(
            racks in prop::collection::vec((0u8..4, any::<bool>()), 1..9),
            partitions in 1usize..20, replicas in 1i16..5, seed in any::<u64>(),
        ) {
            let mut brokers: Vec<_> = racks.iter().enumerate()
                .map(|(id, (rack, fenced))| broker(id as i32, *rack, *fenced)).collect();
            brokers[0].fenced = false;
            prop_assume!(replicas as usize <= brokers.len());
            let names: BTreeSet<_> = brokers.iter().map(|it| it.rack.clone()).collect();
            let placed = place(&brokers, partitions, replicas, &Random::from_seed(seed)).unwrap();
            prop_assert_eq!(placed.len(), partitions);
            for assignment in placed {
                let distinct: BTreeSet<_> = assignment.iter().collect();
                prop_assert_eq!(distinct.len(), replicas as usize);
                prop_assert!(!brokers[assignment[0] as usize].fenced);
                let spanned: BTreeSet<_> =
                    assignment.iter().map(|id| brokers[*id as usize].rack.clone()).collect();
                prop_assert_eq!(spanned.len(), names.len().min(replicas as usize));
            }
        }
    }
}
