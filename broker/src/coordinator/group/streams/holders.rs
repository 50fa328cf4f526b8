//! Which processes have a task now, in which role: what is being given up counts as had.

use imbl::OrdMap;

use super::member::Member;
use super::tasks::{Held, Tasks, plain};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Active,
    Spare,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Processes {
    active: Vec<String>,
    /// As a standby or to warm up.
    spare: Vec<String>,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holders(OrdMap<(String, i32), Processes>);

impl Holders {
    pub fn is_active_anywhere(&self, subtopology: &str, partition: i32) -> bool {
        self.of(subtopology, partition).is_some_and(|it| !it.active.is_empty())
    }

    pub fn is_active_in(&self, process: &str, subtopology: &str, partition: i32) -> bool {
        self.of(subtopology, partition).is_some_and(|it| it.active.iter().any(|its| its == process))
    }

    /// As a standby, or to warm up.
    pub fn is_spare_in(&self, process: &str, subtopology: &str, partition: i32) -> bool {
        self.of(subtopology, partition).is_some_and(|it| it.spare.iter().any(|its| its == process))
    }

    fn of(&self, subtopology: &str, partition: i32) -> Option<&Processes> {
        self.0.get(&(subtopology.to_owned(), partition))
    }

    pub fn add(&mut self, member: &Member) {
        self.each(member, |processes, process| processes.push(process.to_owned()));
    }

    pub fn remove(&mut self, member: &Member) {
        self.each(member, |processes, process| {
            if let Some(at) = processes.iter().position(|it| it == process) {
                processes.swap_remove(at);
            }
        });
    }

    fn each(&mut self, member: &Member, change: impl Fn(&mut Vec<String>, &str)) {
        for Held { active, standby, warmup } in [&member.held, &member.revoking] {
            self.each_of(&plain(active), Role::Active, &member.process_id, &change);
            self.each_of(standby, Role::Spare, &member.process_id, &change);
            self.each_of(warmup, Role::Spare, &member.process_id, &change);
        }
    }

    fn each_of(
        &mut self,
        tasks: &Tasks,
        role: Role,
        process: &str,
        change: &impl Fn(&mut Vec<String>, &str),
    ) {
        for (id, partition) in tasks.iter().flat_map(|(id, its)| its.iter().map(move |it| (id, it)))
        {
            let key = (id.clone(), *partition);
            let mut processes = self.0.get(&key).cloned().unwrap_or_default();
            let in_role = match role {
                Role::Active => &mut processes.active,
                Role::Spare => &mut processes.spare,
            };
            change(in_role, process);
            // In one order, whatever the way there.
            in_role.sort_unstable();
            if processes == Processes::default() {
                self.0.remove(&key);
            } else {
                self.0.insert(key, processes);
            }
        }
    }
}
