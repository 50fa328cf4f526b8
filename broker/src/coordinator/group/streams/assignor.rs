//! Kafka's `sticky` assignor of tasks: active ones first, then standbys.
//!
//! - A task stays where it was as long as its member has no more than its share; else it goes to a
//!   member that had it as a standby; else to the least loaded process, and there to the member
//!   with the fewest tasks.
//! - A process has a task once, whatever the number of its members, so that there may be fewer
//!   standbys than asked for.
//! - Load is tasks by member. Where Kafka follows the order of a hash map, names decide here.
//!
//! Warm-up tasks are never assigned, as in Kafka 4.3.1.

use std::collections::{BTreeMap, BTreeSet};

use super::tasks::{TaskSet, Tasks};

/// A member, with what it was to have before.
pub struct Candidate<'a> {
    pub process: &'a str,
    pub active: &'a Tasks,
    pub standby: &'a Tasks,
}

/// What there is to do: a subtopology's tasks, and whether they have state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub tasks: i32,
    pub stateful: bool,
}

/// A subtopology by its place in the order of names, and a partition.
type Task = (usize, i32);

struct Process {
    members: Vec<usize>,
    tasks: BTreeSet<Task>,
    count: usize,
}

/// Gives up as the fair share is reached: how many are left, for how many members.
struct Quota {
    tasks: usize,
    members: usize,
    each: usize,
}

impl Quota {
    fn new(tasks: usize, members: usize) -> Self {
        Self { tasks, members, each: tasks.div_ceil(members.max(1)) }
    }

    /// A member has `count` tasks now.
    fn reached(&mut self, count: usize) {
        if count == self.each && self.members > 0 {
            self.members -= 1;
            self.tasks = self.tasks.saturating_sub(count);
            self.each = match self.members {
                0 => 0,
                members => self.tasks.div_ceil(members),
            };
        }
    }
}

struct State<'a> {
    names: Vec<&'a str>,
    processes: Vec<Process>,
    /// The process of each member.
    process_of: Vec<usize>,
    counts: Vec<usize>,
    active_before: BTreeMap<Task, usize>,
    standby_before: BTreeMap<Task, Vec<usize>>,
    active_quota: Quota,
    quota: Quota,
    out: Vec<TaskSet>,
}

/// What each of `members`, who come in the order of their names, shall have.
pub fn assign(
    members: &[Candidate<'_>],
    work: &BTreeMap<&str, Work>,
    standbys: usize,
) -> Vec<TaskSet> {
    let mut state = State::new(members, work, standbys);
    let tasks = |wanted: &dyn Fn(&Work) -> bool| {
        let each = work.values().enumerate().filter(|(_, it)| wanted(it));
        each.flat_map(|(id, it)| (0..it.tasks).map(move |partition| (id, partition)))
            .collect::<Vec<Task>>()
    };
    if !members.is_empty() {
        state.assign_active(tasks(&|_| true));
        if standbys > 0 {
            state.assign_standbys(tasks(&|it| it.stateful), standbys);
        }
    }
    state.out
}

impl<'a> State<'a> {
    fn new(members: &[Candidate<'_>], work: &BTreeMap<&'a str, Work>, standbys: usize) -> Self {
        let names: Vec<&str> = work.keys().copied().collect();
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (member, it) in members.iter().enumerate() {
            by_name.entry(it.process).or_default().push(member);
        }
        let mut process_of = vec![0; members.len()];
        let mut processes = Vec::with_capacity(by_name.len());
        for members in by_name.into_values() {
            for member in &members {
                process_of[*member] = processes.len();
            }
            processes.push(Process { members, tasks: BTreeSet::new(), count: 0 });
        }
        let task =
            |id: &str, partition: i32| names.binary_search(&id).ok().map(|id| (id, partition));
        let mut active_before = BTreeMap::new();
        let mut standby_before: BTreeMap<Task, Vec<usize>> = BTreeMap::new();
        let each = |tasks: &Tasks| {
            let each = tasks.iter().flat_map(|(id, its)| its.iter().map(move |it| task(id, *it)));
            each.flatten().collect::<Vec<Task>>()
        };
        for (member, it) in members.iter().enumerate() {
            active_before.extend(each(it.active).into_iter().map(|task| (task, member)));
            for task in each(it.standby) {
                standby_before.entry(task).or_default().push(member);
            }
        }
        let active: usize = work.values().map(|it| it.tasks.max(0) as usize).sum();
        let stateful = work.values().filter(|it| it.stateful);
        let all = active + stateful.map(|it| it.tasks.max(0) as usize * standbys).sum::<usize>();
        Self {
            names,
            processes,
            process_of,
            counts: vec![0; members.len()],
            active_before,
            standby_before,
            active_quota: Quota::new(active, members.len()),
            quota: Quota::new(all, members.len()),
            out: vec![TaskSet::default(); members.len()],
        }
    }

    fn assign_active(&mut self, mut tasks: Vec<Task>) {
        // Subtopologies with the same partitions side by side first: they share their inputs.
        tasks.sort_by_key(|(id, partition)| (*partition, *id));
        tasks.retain(|task| {
            let before = self.active_before.get(task).copied();
            !self.give_active(*task, before)
        });
        tasks.retain(|task| {
            let before = self.standby_before.get(task).cloned().unwrap_or_default();
            let before = self.least_loaded_of(&before, None);
            !self.give_active(*task, before)
        });
        tasks.sort_unstable();
        for task in tasks {
            if let Some(process) = self.least_loaded(|_| true) {
                let count = self.give_to_process(process, task, true);
                self.active_quota.reached(count);
                self.quota.reached(count);
            }
        }
    }

    /// Whether `member` was given the task, because its share is not full.
    fn give_active(&mut self, task: Task, member: Option<usize>) -> bool {
        let Some(member) = member.filter(|it| self.counts[*it] < self.active_quota.each) else {
            return false;
        };
        let count = self.give(member, task, true);
        self.active_quota.reached(count);
        self.quota.reached(count);
        true
    }

    fn assign_standbys(&mut self, mut tasks: Vec<Task>, standbys: usize) {
        tasks.sort_by_key(|(id, partition)| std::cmp::Reverse((*partition, *id)));
        let mut left = Vec::new();
        for task in tasks {
            let given = (0..standbys).take_while(|_| self.keep_standby(task)).count();
            if given < standbys {
                left.push((task, standbys - given));
            }
        }
        left.sort_by_key(|(task, _)| std::cmp::Reverse(*task));
        for (task, missing) in left {
            for _ in 0..missing {
                let Some(process) = self.least_loaded(|it| !it.tasks.contains(&task)) else {
                    tracing::debug!(missing, "not enough processes for the standbys of a task");
                    break;
                };
                let count = self.give_to_process(process, task, false);
                self.quota.reached(count);
            }
        }
    }

    /// Whether one who had the task before has it as a standby now.
    fn keep_standby(&mut self, task: Task) -> bool {
        let is_free = |state: &Self, member: usize| {
            let process = &state.processes[state.process_of[member]];
            !process.tasks.contains(&task) && state.counts[member] < state.quota.each
        };
        let active = self.active_before.get(&task).copied();
        let member = active.filter(|member| is_free(self, *member)).or_else(|| {
            let before = self.standby_before.get(&task)?;
            let member = self.least_loaded_of(before, Some(task))?;
            (self.counts[member] < self.quota.each).then_some(member)
        });
        let Some(member) = member else { return false };
        let count = self.give(member, task, false);
        self.quota.reached(count);
        true
    }

    /// Of those who had a task, who has the least to do now; not one whose process has it already.
    fn least_loaded_of(&self, members: &[usize], task: Option<Task>) -> Option<usize> {
        let has_it = |member: usize| {
            task.is_some_and(|task| self.processes[self.process_of[member]].tasks.contains(&task))
        };
        let first = *members.first()?;
        let mut best = first;
        for member in members.iter().skip(1).copied() {
            let (this, that) = (self.process_of[member], self.process_of[best]);
            if self.is_less_loaded(this, that)
                && !has_it(member)
                && self.counts[member] < self.counts[best]
            {
                best = member;
            }
        }
        // As in Kafka, where the process of the first decides for all.
        (!has_it(first)).then_some(best)
    }

    fn is_less_loaded(&self, this: usize, that: usize) -> bool {
        let (this, that) = (&self.processes[this], &self.processes[that]);
        this.count * that.members.len() < that.count * this.members.len()
    }

    /// Of the processes that will do; of equals the first by name.
    fn least_loaded(&self, will_do: impl Fn(&Process) -> bool) -> Option<usize> {
        let all = (0..self.processes.len()).filter(|it| will_do(&self.processes[*it]));
        all.min_by(|a, b| {
            let (a, b) = (&self.processes[*a], &self.processes[*b]);
            (a.count * b.members.len()).cmp(&(b.count * a.members.len()))
        })
    }

    fn give_to_process(&mut self, process: usize, task: Task, active: bool) -> usize {
        let members = self.processes[process].members.iter().copied();
        let member = members.min_by_key(|member| (self.counts[*member], *member));
        member.map_or(0, |member| self.give(member, task, active))
    }

    /// How many tasks the member has then.
    fn give(&mut self, member: usize, task: Task, active: bool) -> usize {
        let process = &mut self.processes[self.process_of[member]];
        process.tasks.insert(task);
        process.count += 1;
        self.counts[member] += 1;
        let out = &mut self.out[member];
        let role = if active { &mut out.active } else { &mut out.standby };
        role.entry(self.names[task.0].to_owned()).or_default().insert(task.1);
        self.counts[member]
    }
}
