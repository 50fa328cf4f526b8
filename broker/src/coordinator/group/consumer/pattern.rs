//! Subscriptions by pattern, resolved by the coordinator.
//!
//! Patterns are RE2's: matched in linear time, and against a whole topic name. A pattern is resolved
//! soon after the first member brings it, again when topics are created, and every ten minutes; at
//! most every ten seconds for a group.

use std::collections::BTreeSet;

use regex::Regex;

use super::{ConsumerGroup, Member, Turn};
use crate::coordinator::group::records::{ConsumerRecord, EpochValue, PatternKey, PatternValue};
use crate::coordinator::group::timers::{Slot, Timer};
use crate::error::{ErrorCode, Refusal};
use crate::types::{Millis, Offset};

/// A group's patterns are not looked at again within this time.
const MIN_INTERVAL: Millis = 10_000;
/// How much memory a compiled pattern may take, as a guard against `(a{999}){999}`.
const MAX_COMPILED: usize = 1 << 20;

/// The topics that a pattern was last found to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub topics: BTreeSet<String>,
    /// The metadata offset that was looked at.
    pub version: Offset,
    pub timestamp: Millis,
}

impl From<PatternValue> for Resolved {
    fn from(value: PatternValue) -> Self {
        let topics = value.topics.into_iter().collect();
        Self { topics, version: value.version, timestamp: value.timestamp }
    }
}

/// What came of a member's pattern in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternChange {
    None,
    /// The member brought another one.
    Changed,
    /// It did, and what it matches is known.
    ChangedAndResolved,
}

/// Compiles a pattern that matches whole names.
fn compile(pattern: &str) -> Result<Regex, Refusal> {
    // Checked alone first: a pattern must not close the group that it is put into.
    let alone = regex::RegexBuilder::new(pattern).size_limit(MAX_COMPILED).build();
    let whole = || regex::RegexBuilder::new(&format!("^(?:{pattern})$"));
    alone.and_then(|_| whole().size_limit(MAX_COMPILED).build()).map_err(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let message =
            format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {why}.");
        Refusal::new(ErrorCode::InvalidRegularExpression, message)
    })
}

impl Turn<'_> {
    /// Notes that a member brings another pattern, and has patterns resolved when it is time.
    pub(super) fn update_pattern(
        &mut self,
        before: &Member,
        after: &Member,
    ) -> Result<PatternChange, Refusal> {
        let (old, new) = (before.pattern(), after.pattern());
        let mut change = PatternChange::None;
        let mut wanted = false;
        if before.pattern != after.pattern {
            change = PatternChange::Changed;
            if let Some(old) = old.filter(|old| self.group.pattern_subscribers(old) == 1) {
                self.delete_pattern(old);
            }
            match new {
                Some(new) if self.group.pattern_subscribers(new) == 0 => {
                    compile(new)?;
                    wanted = true;
                }
                Some(new) if self.group.resolved(new).is_some() => {
                    change = PatternChange::ChangedAndResolved;
                }
                None if old.is_some() => change = PatternChange::ChangedAndResolved,
                Some(_) | None => {}
            }
        }
        if wanted || self.must_resolve(old, new) {
            let last = self.group.resolved.values().next().map(|it| it.timestamp);
            if last.is_none_or(|last| self.now > last + MIN_INTERVAL) {
                self.set(Slot::Patterns, 0, Timer::Patterns);
            }
        }
        Ok(change)
    }

    /// Whether what is known of the patterns is incomplete or old.
    fn must_resolve(&self, old: Option<&str>, new: Option<&str>) -> bool {
        let group = self.group;
        if group.patterns.is_empty() {
            return false;
        }
        let mut count = group.patterns.len();
        if old != new {
            count -= usize::from(old.is_some_and(|old| group.pattern_subscribers(old) == 1));
            count += usize::from(new.is_some_and(|new| group.pattern_subscribers(new) == 0));
        }
        let last = group.resolved.values().next();
        let seen = last.map_or(0, |it| it.version);
        let since = last.map_or(Millis::MIN, |it| it.timestamp);
        count != group.resolved.len()
            || seen < self.topics_created_at
            || since.saturating_add(i64::from(self.settings.consumer.regex_refresh_interval_ms))
                < self.now
    }

    fn delete_pattern(&mut self, pattern: &str) {
        let key = PatternKey { group: self.group.id.to_string(), pattern: pattern.to_owned() };
        self.records.push(ConsumerRecord::Pattern(key, None).into());
    }

    /// Members go: so do the patterns that only they subscribed to. Returns these.
    pub(super) fn delete_patterns_of(&mut self, members: &[&Member]) -> BTreeSet<String> {
        let patterns: BTreeSet<_> = members.iter().filter_map(|member| member.pattern()).collect();
        let mut deleted = BTreeSet::new();
        for pattern in patterns {
            let leaving = members.iter().filter(|member| member.pattern() == Some(pattern)).count();
            if leaving == self.group.pattern_subscribers(pattern) {
                self.delete_pattern(pattern);
                deleted.insert(pattern.to_owned());
            }
        }
        deleted
    }

    /// Looks which topics the group's patterns match, and raises the group epoch if those, or the
    /// topics themselves, are others than before.
    pub fn resolve_patterns(&mut self) -> Refresh {
        let mut topics = self.group.topics.clone();
        let mut raise = false;
        let patterns: Vec<_> = self.group.patterns.keys().cloned().collect();
        for pattern in patterns {
            // It was checked when it came; a broker with other rules may have let it pass.
            let Ok(regex) = compile(&pattern) else { continue };
            let names = self.image.topics().map(|topic| &*topic.name);
            let matched: BTreeSet<String> =
                names.filter(|name| regex.is_match(name)).map(str::to_owned).collect();
            let before = self.group.resolved(&pattern).map(|it| &it.topics);
            if before.is_none_or(|before| *before != matched)
                && !(before.is_none() && matched.is_empty())
            {
                raise = true;
                topics.remove_pattern(before.into_iter().flatten());
                topics.add_pattern(&matched);
            }
            let value = PatternValue {
                topics: matched.into_iter().collect(),
                version: self.image.offset,
                timestamp: self.now,
            };
            let key = PatternKey { group: self.group.id.to_string(), pattern };
            self.records.push(ConsumerRecord::Pattern(key, Some(value)).into());
        }
        let metadata_hash = self.hash(&topics);
        if !raise && metadata_hash == self.group.metadata_hash {
            return self.group.refresh;
        }
        let epoch = self.group.epoch + 1;
        self.push_epoch(EpochValue { epoch, metadata_hash });
        Refresh::done(self.now, epoch)
    }
}

use crate::coordinator::group::modern::Refresh;

impl ConsumerGroup {
    /// Whether any member subscribes by pattern.
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }
}
