//! Where `kafka-reassign-partitions.sh --generate` proposes to put replicas: leaders in turn, and
//! neighbours in different racks.

use std::collections::BTreeMap;

use ottla_client::Node;

use super::reassign_partitions::Assignment;

/// The brokers in an order in which neighbours are of different racks, as far as there are any.
pub(super) fn by_racks(brokers: &[Node]) -> Vec<i32> {
    let mut racks: BTreeMap<&Option<String>, Vec<i32>> = BTreeMap::new();
    for broker in brokers {
        racks.entry(&broker.rack).or_default().push(broker.id);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or_default();
    let turn = |at: usize| racks.values().filter_map(move |rack| rack.get(at).copied());
    (0..longest).flat_map(turn).collect()
}

/// As many replicas of each partition as before, on neighbours in `brokers`, the leaders in turn.
pub(super) fn place(
    current: &Assignment,
    brokers: &[i32],
    start: usize,
) -> Result<Assignment, String> {
    let mut proposed = Assignment::new();
    for (turn, (at, replicas)) in current.iter().enumerate() {
        if replicas.len() > brokers.len() {
            return Err(format!(
                "The target replication factor of {} cannot be reached because only {} broker(s) are registered.",
                replicas.len(),
                brokers.len()
            ));
        }
        let placed = (0..replicas.len()).map(|next| brokers[(start + turn + next) % brokers.len()]);
        proposed.insert(at.clone(), placed.collect());
    }
    Ok(proposed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ottla_client::TopicPartition;

    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    #[test]
    fn a_proposal_spreads_leaders_and_racks() {
        let node = |id: i32, rack: &str| Node {
            id,
            host: "h".into(),
            port: 1,
            rack: Some(rack.into()),
            fenced: false,
        };
        let brokers = by_racks(&[node(0, "a"), node(1, "a"), node(2, "b"), node(3, "b")]);
        assert_eq!(brokers, [0, 2, 1, 3]);
        let current: Assignment = (0..4).map(|partition| (at(partition), vec![9, 8])).collect();
        let proposed = place(&current, &brokers, 1).expect("enough brokers");
        let leaders: BTreeSet<i32> = proposed.values().map(|replicas| replicas[0]).collect();
        assert_eq!(leaders.len(), 4);
        for replicas in proposed.values() {
            assert_ne!(replicas[0] / 2, replicas[1] / 2, "{replicas:?} share a rack");
        }
        assert!(place(&current, &[1], 0).is_err());
    }
}
