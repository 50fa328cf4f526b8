//! What goes by itself: offsets that nobody wants any more, those of deleted topics, and groups that
//! are empty without them.

use uuid::Uuid;

use super::effects::Effects;
use super::offsets::View;
use super::records::Record;
use super::shard::{Context, MAX_TOMBSTONES, Shard};

impl Shard {
    /// Offsets that nobody wants any more, and groups that are empty without them: at most
    /// [`MAX_TOMBSTONES`] or a few more, then the caller asks again.
    pub fn expire_offsets(&mut self, context: &Context<'_>) -> Effects {
        let mut effects = Effects { replay: true, ..Effects::default() };
        let (now, retention) = (context.now, context.settings.offsets_retention.as_millis() as i64);
        for (id, group) in self.groups.iter() {
            if effects.records.len() >= MAX_TOMBSTONES {
                break;
            }
            let mut all_gone = self.offsets.unstable_of_group(id).next().is_none();
            for (topic, partition, value) in self.offsets.of_group(id, View::Newest) {
                let unused = group.unused_since(value.commit_timestamp);
                let expired = unused.is_some_and(|since| value.is_expired(since, now, retention))
                    && !group.is_subscribed_to(topic)
                    && !self.offsets.is_unstable(id, topic, partition);
                if expired {
                    effects.records.push(Record::offset(id, topic, partition, None));
                }
                all_gone &= expired;
            }
            if all_gone && group.goes_when_empty() && group.validate_delete().is_ok() {
                group.cancel_timers(&mut effects);
                effects.records.extend(group.tombstones(id));
            }
        }
        self.number(&mut effects);
        effects
    }

    /// Topics were deleted, and with them what was committed for them: at most
    /// [`MAX_TOMBSTONES`] at once.
    pub fn topics_deleted(&mut self, topics: &[(String, Uuid)]) -> Effects {
        let mut effects = Effects { replay: true, ..Effects::default() };
        for (topic, id) in topics {
            for (group, partition, value) in self.offsets.of_topic(topic) {
                if effects.records.len() >= MAX_TOMBSTONES {
                    break;
                }
                if value.topic_id.is_nil() || value.topic_id == *id {
                    effects.records.push(Record::offset(group, topic, partition, None));
                }
            }
            for (place, value) in self.offsets.unstable_of_topic(topic) {
                if effects.records.len() >= MAX_TOMBSTONES {
                    break;
                }
                if value.topic_id.is_nil() || value.topic_id == *id {
                    effects.records.push(Record::offset(
                        &place.group,
                        topic,
                        place.partition,
                        None,
                    ));
                }
            }
        }
        self.number(&mut effects);
        effects
    }
}
