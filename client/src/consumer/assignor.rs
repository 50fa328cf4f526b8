//! Who reads what: the group leader's decision, the same that a Java leader would take.

use std::collections::BTreeMap;

use crate::TopicPartition;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// Per topic, consecutive ranges of partitions in order of members.
    Range,
    /// All partitions of all topics, dealt one by one.
    RoundRobin,
}

/// A member of the group as the assignors see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) instance_id: Option<String>,
    pub(super) topics: Vec<String>,
}

impl Candidate {
    /// Static members come first, by instance id; the others by member id.
    fn rank(&self) -> (bool, &str) {
        (self.instance_id.is_none(), self.instance_id.as_deref().unwrap_or(&self.id))
    }
}

pub(super) type Assignments = BTreeMap<String, Vec<TopicPartition>>;

impl Assignor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Range, Self::RoundRobin].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Deals the partitions of `topics` (name → count) out to those who want them.
    pub(super) fn assign(
        self,
        topics: &BTreeMap<String, i32>,
        members: &[Candidate],
    ) -> Assignments {
        let mut members: Vec<&Candidate> = members.iter().collect();
        members.sort_by_key(|member| member.rank());
        let mut assignments: Assignments =
            members.iter().map(|member| (member.id.clone(), Vec::new())).collect();
        match self {
            Self::Range => range(topics, &members, &mut assignments),
            Self::RoundRobin => round_robin(topics, &members, &mut assignments),
        }
        assignments
    }
}

fn wants(member: &Candidate, topic: &str) -> bool {
    member.topics.iter().any(|wanted| wanted == topic)
}

fn range(topics: &BTreeMap<String, i32>, members: &[&Candidate], out: &mut Assignments) {
    for (topic, count) in topics {
        let takers: Vec<&&Candidate> =
            members.iter().filter(|member| wants(member, topic)).collect();
        let Some(each) = (*count as usize).checked_div(takers.len()) else { continue };
        let more = *count as usize % takers.len();
        let mut next = 0;
        for (at, member) in takers.iter().enumerate() {
            let take = (each + usize::from(at < more)) as i32;
            let range =
                (next..next + take).map(|partition| TopicPartition::new(topic.as_str(), partition));
            out.entry(member.id.clone()).or_default().extend(range);
            next += take;
        }
    }
}

fn round_robin(topics: &BTreeMap<String, i32>, members: &[&Candidate], out: &mut Assignments) {
    let mut circle = members.iter().cycle();
    for (topic, count) in topics {
        if !members.iter().any(|member| wants(member, topic)) {
            continue;
        }
        for partition in 0..*count {
            if let Some(member) = circle.find(|member| wants(member, topic)) {
                out.entry(member.id.clone())
                    .or_default()
                    .push(TopicPartition::new(topic.as_str(), partition));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(assignor: Assignor, topics: &[(&str, i32)], members: &[(&str, &str)]) -> String {
        let topics = topics.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let members: Vec<Candidate> = members
            .iter()
            .map(|(id, wanted)| Candidate {
                id: id.trim_start_matches('#').into(),
                instance_id: id.strip_prefix('#').map(Into::into),
                topics: wanted.split(' ').map(Into::into).collect(),
            })
            .collect();
        let text = |(id, partitions): (String, Vec<TopicPartition>)| {
            let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
            format!("{id}: {}", partitions.join(" "))
        };
        assignor.assign(&topics, &members).into_iter().map(text).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn range_gives_consecutive_partitions_and_the_rest_to_the_first() {
        let table = [
            (vec![("t", 3)], vec![("a", "t")], "a: t-0 t-1 t-2"),
            (vec![("t", 3)], vec![("b", "t"), ("a", "t")], "a: t-0 t-1 | b: t-2"),
            (vec![("t", 1)], vec![("a", "t"), ("b", "t")], "a: t-0 | b: "),
            (
                vec![("t", 3), ("u", 3)],
                vec![("a", "t u"), ("b", "t u")],
                "a: t-0 t-1 u-0 u-1 | b: t-2 u-2",
            ),
            (
                vec![("t", 3), ("u", 2)],
                vec![("a", "t"), ("b", "t u")],
                "a: t-0 t-1 | b: t-2 u-0 u-1",
            ),
            (vec![("t", 2)], vec![("a", "t"), ("#z", "t")], "a: t-1 | z: t-0"),
            (vec![("t", 2)], vec![("a", "gone")], "a: "),
        ];
        for (topics, members, expected) in table {
            assert_eq!(assigned(Assignor::Range, &topics, &members), expected);
        }
    }

    #[test]
    fn round_robin_deals_one_by_one_to_those_who_want_it() {
        let table = [
            (vec![("t", 3)], vec![("a", "t"), ("b", "t")], "a: t-0 t-2 | b: t-1"),
            (
                vec![("t", 3), ("u", 3)],
                vec![("a", "t u"), ("b", "t u")],
                "a: t-0 t-2 u-1 | b: t-1 u-0 u-2",
            ),
            (
                vec![("t", 1), ("u", 2), ("v", 3)],
                vec![("a", "t"), ("b", "t u"), ("c", "t u v")],
                "a: t-0 | b: u-0 | c: u-1 v-0 v-1 v-2",
            ),
        ];
        for (topics, members, expected) in table {
            assert_eq!(assigned(Assignor::RoundRobin, &topics, &members), expected);
        }
    }
}
