//! Tables: which tasks go where, and what becomes of a topology.

use std::collections::BTreeMap;

use super::assignor::{Candidate, Work, assign};
use super::tasks::{TaskSet, Tasks};
use super::topology::{
    INCORRECTLY_PARTITIONED_TOPICS, INVALID_TOPOLOGY, MISSING_INTERNAL_TOPICS,
    MISSING_SOURCE_TOPICS, Topology,
};
use crate::controller::Image;
use crate::coordinator::group::conversation::Conversation;
use crate::coordinator::group::conversation_streams::app;
use crate::error::ErrorCode;

/// `0-0 0-1 1-0s`, where `s` is a standby.
fn set(text: &str) -> TaskSet {
    let mut set = TaskSet::default();
    for task in text.split_whitespace() {
        let (task, role) = match task.strip_suffix('s') {
            Some(task) => (task, &mut set.standby),
            None => (task, &mut set.active),
        };
        let (id, partition) = task.split_once('-').unwrap();
        role.entry(id.to_owned()).or_default().insert(partition.parse().unwrap());
    }
    set
}

fn shown(set: &TaskSet) -> String {
    let tasks = |tasks: &Tasks, mark: &str| {
        let each = tasks.iter().flat_map(|(id, its)| its.iter().map(move |it| (id, it)));
        each.map(|(id, it)| format!("{id}-{it}{mark}")).collect::<Vec<_>>()
    };
    [tasks(&set.active, ""), tasks(&set.standby, "s")].concat().join(" ")
}

/// Members are `process: what it had`, in the order of their names; `work` is tasks by subtopology,
/// negative ones have no state.
fn assigned(
    members: &[(&str, &str)],
    work: &[(&'static str, i32)],
    standbys: usize,
) -> Vec<String> {
    let had: Vec<TaskSet> = members.iter().map(|(_, had)| set(had)).collect();
    let candidates: Vec<_> = members
        .iter()
        .zip(&had)
        .map(|((process, _), had)| Candidate {
            process,
            active: &had.active,
            standby: &had.standby,
        })
        .collect();
    let work: BTreeMap<&str, Work> = work
        .iter()
        .map(|(id, tasks)| (*id, Work { tasks: tasks.abs(), stateful: *tasks > 0 }))
        .collect();
    assign(&candidates, &work, standbys).iter().map(shown).collect()
}

#[test]
fn new_members_share_tasks_by_process_and_member() {
    let one = assigned(&[("p", "")], &[("0", -2), ("1", -2)], 0);
    assert_eq!(one, ["0-0 0-1 1-0 1-1"]);
    let two = assigned(&[("p", ""), ("q", "")], &[("0", -3), ("1", -2)], 0);
    assert_eq!(two, ["0-0 0-2 1-1", "0-1 1-0"]);
    // A process with two members takes twice as much.
    let three = assigned(&[("p", ""), ("p", ""), ("q", "")], &[("0", -6)], 0);
    assert_eq!(three, ["0-0 0-3", "0-2 0-5", "0-1 0-4"]);
    // More members than tasks.
    assert_eq!(assigned(&[("p", ""), ("q", "")], &[("0", -1)], 0), ["0-0", ""]);
    assert_eq!(assigned(&[], &[("0", -1)], 2), [""; 0]);
}

#[test]
fn a_task_stays_where_it_was_up_to_a_fair_share() {
    let same = assigned(&[("p", "0-1 0-2"), ("q", "0-0 0-3")], &[("0", -4)], 0);
    assert_eq!(same, ["0-1 0-2", "0-0 0-3"]);
    let joined = assigned(&[("p", "0-0 0-1 0-2 0-3"), ("q", "")], &[("0", -4)], 0);
    assert_eq!(joined, ["0-0 0-1", "0-2 0-3"]);
    let left = assigned(&[("q", "0-2 0-3")], &[("0", -4)], 0);
    assert_eq!(left, ["0-0 0-1 0-2 0-3"]);
    // What the topology has no more is forgotten.
    assert_eq!(assigned(&[("p", "0-0 9-0")], &[("0", -1)], 0), ["0-0"]);
}

#[test]
fn a_standby_takes_over() {
    let had = [("q", "0-1 0-0s"), ("r", "")];
    assert_eq!(assigned(&had, &[("0", 2)], 0), ["0-1", "0-0"]);
    let had = [("q", "0-0s 0-1s"), ("r", "")];
    assert_eq!(assigned(&had, &[("0", 2)], 0), ["0-0", "0-1"]);
}

#[test]
fn standbys_are_in_other_processes_than_their_tasks() {
    let two = assigned(&[("p", ""), ("q", "")], &[("0", 2)], 1);
    assert_eq!(two, ["0-0 0-1s", "0-1 0-0s"]);
    // One process cannot have a task twice.
    let one = assigned(&[("p", ""), ("p", "")], &[("0", 2)], 1);
    assert_eq!(one, ["0-0", "0-1"]);
    // Without state there is nothing to stand by for.
    let stateless = assigned(&[("p", ""), ("q", "")], &[("0", -2)], 1);
    assert_eq!(stateless, ["0-0", "0-1"]);
    let three = assigned(&[("p", ""), ("q", ""), ("r", "")], &[("0", 3)], 2);
    assert_eq!(three, ["0-0 0-1s 0-2s", "0-1 0-0s 0-2s", "0-2 0-0s 0-1s"]);
}

#[test]
fn standbys_stay_where_they_were_up_to_a_fair_share() {
    let had = [("p", "0-1 0-0s"), ("q", "0-0 0-1s")];
    assert_eq!(assigned(&had, &[("0", 2)], 1), ["0-1 0-0s", "0-0 0-1s"]);
    // Four tasks for three: who comes second has its share already.
    let had = [("p", "0-0 0-1s"), ("q", "0-1 0-0s"), ("r", "")];
    assert_eq!(assigned(&had, &[("0", 2)], 1), ["0-0 0-1s", "0-1", "0-0s"]);
}

fn image(topics: &[(&str, i32)]) -> Image {
    let mut conversation = Conversation::new();
    for (name, partitions) in topics {
        conversation.create(name, *partitions, None);
    }
    conversation.image
}

/// Tasks by subtopology and missing topics, or what is wrong.
fn configured(subtopologies: &[&str], topics: &[(&str, i32)]) -> Result<String, (i8, String)> {
    let topology = Topology::said(&app(1, subtopologies.iter().copied())).unwrap();
    let it = topology.configure(&image(topics)).map_err(|it| (-1, it.message))?;
    let missing: Vec<_> = it.missing.iter().map(|(name, it)| (name, it.partitions)).collect();
    match (it.subtopologies, it.problem) {
        (Some(all), problem) => {
            let code = problem.map(|it| it.code);
            assert_eq!(code, (!missing.is_empty()).then_some(MISSING_INTERNAL_TOPICS));
            let tasks: Vec<_> = all.iter().map(|(id, it)| format!("{id}={}", it.tasks)).collect();
            let missing: Vec<_> =
                missing.iter().map(|(name, partitions)| format!("{name}/{partitions}")).collect();
            Ok(format!("{} [{}]", tasks.join(" "), missing.join(" ")))
        }
        (None, Some(problem)) => Err((problem.code, problem.detail)),
        (None, None) => panic!("neither subtopologies nor a problem"),
    }
}

fn wrong(code: i8, detail: &str) -> (i8, String) {
    (code, detail.to_owned())
}

#[test]
fn a_subtopology_has_as_many_tasks_as_its_widest_input_and_so_have_its_changelogs() {
    assert_eq!(configured(&["0:t,+store"], &[("t", 3)]).unwrap(), "0=3 [store/3]");
    assert_eq!(configured(&["0:t,+store"], &[("t", 3), ("store", 3)]).unwrap(), "0=3 []");
    assert_eq!(configured(&["0:t,u"], &[("t", 3), ("u", 5)]).unwrap(), "0=5 []");
}

#[test]
fn a_repartition_topic_is_as_wide_as_what_is_written_into_it() {
    let word_count = ["0:t,>rep", "1:<rep,+store"];
    assert_eq!(configured(&word_count, &[("t", 4)]).unwrap(), "0=4 1=4 [rep/4 store/4]");
    // Across a chain, whatever the order of the names.
    let chain = ["2:t,>a", "1:<a,>b", "0:<b"];
    assert_eq!(configured(&chain, &[("t", 2)]).unwrap(), "0=2 1=2 2=2 [a/2 b/2]");
    // As the application says.
    let fixed = ["0:t,>rep", "1:<rep/7,+store"];
    assert_eq!(configured(&fixed, &[("t", 4)]).unwrap(), "0=4 1=7 [rep/7 store/7]");
}

#[test]
fn copartitioned_topics_are_equally_wide() {
    // The topic that is there decides about the one that is not.
    let joined = ["0:u,>rep", "1:t,<rep,*"];
    assert_eq!(configured(&joined, &[("t", 4), ("u", 2)]).unwrap(), "0=2 1=4 [rep/4]");
    // Of two that are not there, the wider.
    let both = ["0:t,>a", "1:u,>b", "2:<a,<b,*"];
    assert_eq!(configured(&both, &[("t", 2), ("u", 3)]).unwrap(), "0=2 1=3 2=3 [a/3 b/3]");
    assert_eq!(
        configured(&["0:t,u,*"], &[("t", 2), ("u", 3)]).unwrap_err(),
        wrong(
            INCORRECTLY_PARTITIONED_TOPICS,
            "Following topics do not have the same number of partitions: [{t=2, u=3}]"
        )
    );
    assert_eq!(
        configured(&["0:u,>rep", "1:t,<rep/3,*"], &[("t", 4), ("u", 2)]).unwrap_err(),
        wrong(
            INCORRECTLY_PARTITIONED_TOPICS,
            "Number of partitions [3] of repartition topic [rep] doesn't match number of \
             partitions [4] of the source topic."
        )
    );
    assert_eq!(
        configured(&["0:t,>a,>b", "1:<a/2,<b/3,*"], &[("t", 1)]).unwrap_err(),
        wrong(
            INCORRECTLY_PARTITIONED_TOPICS,
            "Following topics do not have the same number of partitions: [{a=2, b=3}]"
        )
    );
}

#[test]
fn what_is_missing_or_does_not_fit_is_told_by_name() {
    assert_eq!(
        configured(&["0:t,u,v,w"], &[]).unwrap_err(),
        wrong(MISSING_SOURCE_TOPICS, "Source topics t, u, v and 1 additional topics are missing.")
    );
    assert_eq!(
        configured(&["0:t,+store"], &[("t", 3), ("store", 2)]).unwrap_err(),
        wrong(
            INCORRECTLY_PARTITIONED_TOPICS,
            "Existing topic store has different number of partitions: expected 3, found 2"
        )
    );
}

#[test]
fn a_topology_that_cannot_be_is_refused() {
    for (subtopologies, words) in [
        (&["0:<a,>b", "1:<b,>a"][..], "There may be loops"),
        (&["0:t", "1:<a"][..], "never used as a sink topic"),
        (&["0:+store"][..], "No source topics found for subtopology 0"),
    ] {
        let (code, message) = configured(subtopologies, &[("t", 1)]).unwrap_err();
        assert!(code == -1 && message.contains(words), "{message}");
    }
    let refused = Topology::said(&app(1, ["0:<a,>b", "1:<b,>a"].into_iter())).unwrap();
    assert_eq!(refused.configure(&image(&[])).unwrap_err().code, INVALID_TOPOLOGY);
    let twice = app(1, ["0:t", "0:u"].into_iter());
    assert_eq!(Topology::said(&twice).unwrap_err().code, ErrorCode::UnknownServerError);
}

#[test]
fn the_reader_of_a_topic_is_found_also_when_the_topic_is_internal() {
    let topology = Topology::said(&app(1, ["0:t,>rep", "1:<rep,+store"].into_iter())).unwrap();
    assert_eq!(topology.reader_of("t"), Some("0"));
    assert_eq!(topology.reader_of("rep"), Some("1"));
    assert_eq!(topology.reader_of("store"), None);
    let required: Vec<_> = topology.required_topics().into_iter().collect();
    assert_eq!(required, ["rep", "store", "t"]);
}
