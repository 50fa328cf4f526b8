//! The configuration table of `config`, as the controller's decisions need it.

use super::decision::{ConfigRules, EffectiveConfig};
use super::image::{Config, ResourceType};
use crate::config::definition::{self, Kind, Support, Update};
use crate::config::{Layers, Settings, group, topic};

/// Rules by the definitions, and the settings of this node.
pub struct SettingsRules(pub Settings);

impl ConfigRules for SettingsRules {
    fn check(&self, of: ResourceType, name: &str, value: &str) -> Result<(), String> {
        match of {
            ResourceType::Topic => topic::validate(name, value).map_err(|refusal| refusal.message),
            ResourceType::Broker => check_broker(name, value),
            ResourceType::Group => group::validate(name, value),
            other => Err(format!("{other:?} has no configuration here")),
        }
    }

    fn check_together(&self, of: ResourceType, overrides: &Config) -> Result<(), String> {
        match of {
            ResourceType::Topic => topic::validate_all(overrides).map_err(|it| it.message),
            ResourceType::Group => {
                let set = overrides.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                group::validate_all(&set.collect(), &self.0)
            }
            _ => Ok(()),
        }
    }

    fn is_list(&self, of: ResourceType, name: &str) -> bool {
        let definition = match of {
            ResourceType::Topic => definition::topic().get(name),
            ResourceType::Group => definition::group().get(name),
            _ => definition::broker().get(name),
        };
        definition.is_some_and(|definition| definition.kind == Kind::List)
    }

    fn topic_default(&self, name: &str) -> Option<String> {
        let none = &Config::new();
        let layers = Layers { topic: none, broker: none, cluster: none, settings: &self.0 };
        layers.effective(definition::topic().get(name)?)
    }

    fn effective(&self, cluster: &Config, overrides: &Config) -> Vec<EffectiveConfig> {
        let broker = &Config::new();
        let layers = Layers { topic: overrides, broker, cluster, settings: &self.0 };
        definition::topic()
            .values()
            .filter(|definition| !definition.internal)
            .map(|definition| EffectiveConfig {
                name: definition.name.to_owned(),
                value: layers.effective(definition),
                read_only: false,
                source: layers.topic_values(definition).first().map_or(5, |it| it.source as i8),
                sensitive: definition.sensitive(),
            })
            .collect()
    }

    fn default_partitions(&self) -> i32 {
        self.0.num_partitions
    }

    fn default_replication_factor(&self) -> i16 {
        self.0.default_replication_factor
    }
}

/// A broker's setting takes effect while it runs only if it is what topics fall back to; others are
/// refused rather than stored for nothing.
fn check_broker(name: &str, value: &str) -> Result<(), String> {
    let definition = definition::broker()
        .get(name)
        .ok_or_else(|| format!("Unknown broker config name: {name}"))?;
    if definition.update == Update::ReadOnly {
        return Err(format!("Cannot update these configs dynamically: Set({name})"));
    }
    let falls_back = |topic: &definition::Definition| topic.synonyms.contains(&name);
    let effective = match definition.support {
        Support::Used => definition::topic().values().any(falls_back),
        Support::NoEffect => true,
        Support::NotYet | Support::Refused => false,
    };
    if !effective {
        return Err(format!(
            "{name} cannot be changed while brokers run yet: set it in their server.properties"
        ));
    }
    definition.check(value).map_err(|refused| refused.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_broker_setting_is_accepted_only_if_it_takes_effect() {
        for (name, value, accepted) in [
            ("log.retention.ms", "1000", true),
            ("log.retention.ms", "soon", false),
            ("unclean.leader.election.enable", "true", true),
            ("num.io.threads", "4", true),
            ("max.connections", "5", false),
            ("sasl.enabled.mechanisms", "PLAIN", false),
            ("node.id", "5", false),
            ("no.such.setting", "5", false),
        ] {
            assert_eq!(check_broker(name, value).is_ok(), accepted, "{name}={value}");
        }
    }
}
