//! DescribeConfigs: the settings of a topic or of this broker, where each comes from, and what for.
//!
//! Versions 1 to 4; from 3 with types and, when asked, documentation. Values of passwords are never
//! told. A broker tells of itself and of the cluster-wide settings (empty name) only; loggers and
//! client metrics are not described yet and refused with INVALID_REQUEST.

use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::text;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::config::Settings;
use crate::config::definition::{self, Definition, Kind, Update};
use crate::config::topic::{ConfigMap, Layers, Source, Sourced};
use crate::controller::topics::check_name;
use crate::controller::{Image, ResourceType};
use crate::error::{ErrorCode, Refusal};

pub const API: Api = Api::new(ApiKey::DescribeConfigs, 1..=4).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: DescribeConfigsRequest,
) -> Reply<DescribeConfigsResponse> {
    let image = broker.image.load_full();
    let describer = Describer {
        settings: &broker.settings,
        image: &image,
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
    };
    let results = request.resources.iter().map(|resource| describer.describe(resource));
    Reply::Now(DescribeConfigsResponse::default().with_results(results.collect()))
}

struct Describer<'a> {
    settings: &'a Settings,
    image: &'a Image,
    synonyms: bool,
    documentation: bool,
}

type Entries = Result<Vec<DescribeConfigsResourceResult>, Refusal>;

impl Describer<'_> {
    fn describe(&self, resource: &DescribeConfigsResource) -> DescribeConfigsResult {
        let name: &str = &resource.resource_name;
        let entries = match ResourceType::from_code(resource.resource_type) {
            Some(ResourceType::Topic) => self.topic(name),
            Some(ResourceType::Broker) => self.broker(name),
            Some(ResourceType::Group) => self.group(name),
            Some(other) => refuse(format!("{other:?} settings are not described yet")),
            None => refuse(format!(
                "Unexpected resource type {} for resource {name}",
                resource.resource_type
            )),
        };
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match entries {
            Ok(mut entries) => {
                if let Some(keys) = resource.configuration_keys.as_ref().filter(|k| !k.is_empty()) {
                    entries.retain(|entry| keys.contains(&entry.name));
                }
                result.with_configs(entries)
            }
            Err(refusal) => result
                .with_error_code(refusal.code.code())
                .with_error_message(Some(StrBytes::from_string(refusal.message))),
        }
    }

    fn layers<'b>(&'b self, topic: &'b dyn ConfigMap) -> Layers<'b> {
        let id = self.settings.node_id.to_string();
        Layers {
            topic,
            broker: self.image.config(ResourceType::Broker, &id),
            cluster: self.image.config(ResourceType::Broker, ""),
            settings: self.settings,
        }
    }

    fn topic(&self, name: &str) -> Entries {
        check_name(name)?;
        if self.image.topic(name).is_none() {
            let code = ErrorCode::UnknownTopicOrPartition;
            return Err(Refusal::new(code, format!("The topic '{name}' does not exist.")));
        }
        let own = self.image.config(ResourceType::Topic, name);
        let layers = self.layers(own);
        let shown = definition::topic().values().filter(|definition| !definition.internal);
        let entries = shown.map(|definition| {
            let mut values = layers.topic_values(definition);
            drop_finer_synonyms(definition, &mut values);
            let entry = entry(definition, layers.effective(definition)).with_read_only(false);
            self.complete(entry, definition, &values)
        });
        Ok(entries.collect())
    }

    fn broker(&self, name: &str) -> Entries {
        let own = self.settings.node_id;
        match name.parse::<i32>() {
            _ if name.is_empty() => Ok(self.cluster_wide()),
            Ok(id) if id == own => Ok(self.own()),
            Ok(_) => refuse(format!(
                "Unexpected broker id, expected {own} or empty string, but received {name}"
            )),
            Err(_) => refuse(format!("Broker id must be an integer, but it is: {name}")),
        }
    }

    /// The settings of a group, whether there is one or not.
    fn group(&self, name: &str) -> Entries {
        if name.is_empty() {
            return refuse("Group name must not be empty".to_owned());
        }
        let own = self.image.config(ResourceType::Group, name);
        let layers = self.layers(&());
        let entries = definition::group().values().map(|definition| {
            let set = own.get(definition.name).map(|value| Sourced {
                name: definition.name,
                value,
                source: Source::Group,
            });
            let below = definition.synonyms.iter().flat_map(|name| layers.broker_values(name));
            let values: Vec<_> = set.into_iter().chain(below).collect();
            let value = values.first().map(|first| first.value.to_owned());
            let entry = entry(definition, value).with_read_only(false);
            self.complete(entry, definition, &values)
        });
        Ok(entries.collect())
    }

    /// All settings of this broker.
    fn own(&self) -> Vec<DescribeConfigsResourceResult> {
        let layers = self.layers(&());
        let shown = definition::broker().values().filter(|definition| !definition.internal);
        let entries = shown.map(|definition| {
            let values = layers.broker_values(definition.name);
            let value = values.first().map(|first| first.value.to_owned());
            self.complete(entry(definition, value), definition, &values)
        });
        entries.collect()
    }

    /// The dynamic settings that all brokers share.
    fn cluster_wide(&self) -> Vec<DescribeConfigsResourceResult> {
        let set = self.image.config(ResourceType::Broker, "");
        let entries = set.iter().filter_map(|(name, value)| {
            let definition = definition::broker().get(name.as_str())?;
            let values = [Sourced { name: definition.name, value, source: Source::DynamicCluster }];
            let entry = entry(definition, Some(value.clone()));
            Some(self.complete(entry, definition, &values))
        });
        entries.collect()
    }

    fn complete(
        &self,
        entry: DescribeConfigsResourceResult,
        definition: &Definition,
        values: &[Sourced<'_>],
    ) -> DescribeConfigsResourceResult {
        let source = values.first().map_or(Source::Default, |first| first.source);
        let synonym = |value: &Sourced<'_>| {
            DescribeConfigsSynonym::default()
                .with_name(text(value.name))
                .with_value((!definition.sensitive()).then(|| text(value.value)))
                .with_source(source_code(value.source))
        };
        let told = if self.synonyms { values } else { &[] };
        let synonyms = told.iter().map(synonym).collect();
        entry
            .with_config_source(source_code(source))
            .with_synonyms(synonyms)
            .with_documentation(self.documentation.then(|| text(definition.doc)))
    }
}

fn source_code(source: Source) -> i8 {
    source as i8
}

fn entry(definition: &Definition, value: Option<String>) -> DescribeConfigsResourceResult {
    let sensitive = definition.sensitive();
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(definition.name))
        .with_value(value.filter(|_| !sensitive).map(StrBytes::from_string))
        .with_is_sensitive(sensitive)
        .with_read_only(definition.update == Update::ReadOnly)
        .with_config_type(kind_code(definition.kind))
}

/// Kafka names the source of a topic setting by its first synonym only: `retention.ms` that comes
/// from `log.retention.hours` counts as a default there.
fn drop_finer_synonyms(definition: &Definition, values: &mut Vec<Sourced<'_>>) {
    let first = definition.synonyms.first().copied();
    let own = usize::from(values.first().is_some_and(|value| value.source == Source::Topic));
    let skipped = values[own..].iter().take_while(|value| Some(value.name) != first).count();
    values.drain(own..own + skipped);
}

fn kind_code(kind: Kind) -> i8 {
    match kind {
        Kind::Boolean => 1,
        Kind::String => 2,
        Kind::Int => 3,
        Kind::Short => 4,
        Kind::Long => 5,
        Kind::Double => 6,
        Kind::List => 7,
        Kind::Class => 8,
        Kind::Password => 9,
    }
}

fn refuse<T>(message: String) -> Result<T, Refusal> {
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::image_of;
    use crate::wire::metadata::{ConfigRecord, Record, TopicRecord};
    use uuid::Uuid;

    fn config(kind: i8, resource: &str, name: &str, value: &str) -> Record {
        ConfigRecord {
            resource_type: kind,
            resource_name: resource.into(),
            name: name.into(),
            value: Some(value.into()),
        }
        .into()
    }

    fn described(file: &str, kind: i8, name: &str) -> DescribeConfigsResult {
        let image = image_of([
            TopicRecord { name: "orders".into(), topic_id: Uuid::from_u128(5) }.into(),
            config(2, "orders", "retention.ms", "5"),
            config(4, "", "log.retention.ms", "7"),
            config(4, "1", "log.retention.bytes", "9"),
        ]);
        let settings = Settings::for_test(file);
        let describer =
            Describer { settings: &settings, image: &image, synonyms: true, documentation: true };
        describer.describe(
            &DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name)),
        )
    }

    fn line(result: &DescribeConfigsResult, name: &str) -> String {
        let entry = result.configs.iter().find(|entry| &*entry.name == name).unwrap();
        let synonyms = entry.synonyms.iter().map(|synonym| {
            let value = synonym.value.as_deref().unwrap_or("(hidden)");
            format!("{}:{}={value}", synonym.source, &*synonym.name)
        });
        let synonyms: Vec<String> = synonyms.collect();
        let value = entry.value.as_deref().unwrap_or("(none)");
        format!("{value} from {} [{}]", entry.config_source, synonyms.join(", "))
    }

    #[test]
    fn a_topic_setting_tells_its_value_its_source_and_what_it_hides() {
        let topic = described("log.retention.bytes=3\nlog.roll.hours=1", 2, "orders");
        assert_eq!(
            line(&topic, "retention.ms"),
            "5 from 1 [1:retention.ms=5, 3:log.retention.ms=7, 5:log.retention.hours=168]"
        );
        assert_eq!(
            line(&topic, "retention.bytes"),
            "9 from 2 [2:log.retention.bytes=9, 4:log.retention.bytes=3, 5:log.retention.bytes=-1]"
        );
        // As in Kafka, which names the source by the finest synonym alone.
        assert_eq!(line(&topic, "segment.ms"), "3600000 from 5 []");
        assert_eq!(line(&topic, "log.flush"), "sync from 5 [5:log.flush=sync]");
        assert!(topic.configs.iter().all(|entry| entry.documentation.is_some()));
        assert!(topic.configs.iter().all(|entry| !entry.name.starts_with("internal.")));
    }

    #[test]
    fn a_broker_tells_of_itself_and_of_the_cluster_but_not_of_others() {
        let own = described("ssl.keystore.password=secret\nnum.partitions=3", 4, "1");
        assert_eq!(
            line(&own, "num.partitions"),
            "3 from 4 [4:num.partitions=3, 5:num.partitions=1]"
        );
        assert_eq!(
            line(&own, "ssl.keystore.password"),
            "(none) from 4 [4:ssl.keystore.password=(hidden)]"
        );
        let cluster = described("", 4, "");
        assert_eq!(cluster.configs.len(), 1);
        assert_eq!(line(&cluster, "log.retention.ms"), "7 from 3 [3:log.retention.ms=7]");
        for (kind, name, message) in [
            (4, "2", "Unexpected broker id, expected 1 or empty string, but received 2"),
            (4, "x", "Broker id must be an integer, but it is: x"),
            (2, "none", "The topic 'none' does not exist."),
            (8, "1", "BrokerLogger settings are not described yet"),
        ] {
            let refused = described("", kind, name);
            assert_ne!(refused.error_code, 0);
            assert_eq!(refused.error_message.as_deref(), Some(message));
        }
    }
}
