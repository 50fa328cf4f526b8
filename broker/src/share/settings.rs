//! What a share group's settings mean for its partitions: those of the group, else the broker's.

use crate::config::Settings;
pub use crate::config::reset::Reset;
use crate::controller::image::{Image, ResourceType};

use super::partition::Limits;

/// A share group's settings.
pub struct GroupConfig<'a> {
    image: &'a Image,
    settings: &'a Settings,
    group: &'a str,
}

impl<'a> GroupConfig<'a> {
    pub fn of(image: &'a Image, settings: &'a Settings, group: &'a str) -> Self {
        Self { image, settings, group }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.image.config(ResourceType::Group, self.group).get(name).map(String::as_str)
    }

    fn number(&self, name: &str, default: i32) -> i32 {
        self.text(name).and_then(|text| text.trim().parse().ok()).unwrap_or(default)
    }

    pub fn limits(&self) -> Limits {
        let settings = self.settings;
        let deliveries =
            self.number("share.delivery.count.limit", settings.share_delivery_count_limit);
        let in_flight = self
            .number("share.partition.max.record.locks", settings.share_partition_max_record_locks);
        let renew = self.text("share.renew.acknowledge.enable");
        Limits {
            deliveries: i16::try_from(deliveries).unwrap_or(i16::MAX),
            in_flight: i64::from(in_flight),
            lock_ms: i64::from(self.lock_ms()),
            renew: renew.is_none_or(|text| text.trim().eq_ignore_ascii_case("true")),
        }
    }

    /// `share.record.lock.duration.ms`
    pub fn lock_ms(&self) -> i32 {
        self.number("share.record.lock.duration.ms", self.settings.share_record_lock_duration_ms)
    }

    /// `share.isolation.level`
    pub fn reads_committed(&self) -> bool {
        self.text("share.isolation.level")
            .is_some_and(|text| text.trim().eq_ignore_ascii_case("read_committed"))
    }

    pub fn reset(&self) -> Reset {
        self.text("share.auto.offset.reset").and_then(Reset::parse).unwrap_or(Reset::Latest)
    }
}
