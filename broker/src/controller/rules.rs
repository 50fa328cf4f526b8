//! The configuration table of `config`, as the controller's decisions need it.

use super::decision::{ConfigRules, EffectiveConfig};
use super::image::{Config, ResourceType};
use crate::config::definition::{self, Kind, Update};
use crate::config::{Layers, Settings, topic};

/// Rules by the definitions, and the settings of this node.
pub struct SettingsRules(pub Settings);

impl ConfigRules for SettingsRules {
    fn check(&self, of: ResourceType, name: &str, value: &str) -> Result<(), String> {
        match of {
            ResourceType::Topic => topic::validate(name, value).map_err(|refusal| refusal.message),
            ResourceType::Broker => {
                let definition = definition::broker()
                    .get(name)
                    .ok_or_else(|| format!("Unknown broker config name: {name}"))?;
                if definition.update == Update::ReadOnly {
                    return Err(format!("Cannot update these configs dynamically: Set({name})"));
                }
                definition.check(value).map_err(|refused| refused.to_string())
            }
            other => Err(format!("{other:?} has no configuration here")),
        }
    }

    fn is_list(&self, of: ResourceType, name: &str) -> bool {
        let definition = match of {
            ResourceType::Topic => definition::topic().get(name),
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
