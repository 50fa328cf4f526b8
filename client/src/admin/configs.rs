//! Settings of topics, brokers and groups.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
};

use super::{
    Admin, ConfigEntry, ConfigOp, ConfigSource, ConfigSynonym, ConfigType, Resource, ResourceType,
};
use crate::names::str_bytes;
use crate::{Error, Result};

impl Admin {
    /// All settings of `resource`, with where each value comes from.
    pub async fn describe_configs(&self, resource: &Resource) -> Result<Vec<ConfigEntry>> {
        let asked = DescribeConfigsResource::default()
            .with_resource_type(resource.kind as i8)
            .with_resource_name(str_bytes(&resource.name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![asked])
            .with_include_synonyms(true);
        let answer: DescribeConfigsResponse = match own_broker(resource) {
            Some(id) => self.client.to_broker(id).await?.call(&request).await?,
            None => self.client.call_any(&request).await?,
        };
        let result = answer.results.into_iter().next().ok_or_else(|| silent(resource))?;
        Error::check(result.error_code, result.error_message.as_deref())?;
        Ok(result.configs.into_iter().map(entry).collect())
    }

    /// Changes some settings of `resource` and leaves the others.
    pub async fn alter_configs(
        &self,
        resource: &Resource,
        changes: Vec<(ConfigOp, String, Option<String>)>,
    ) -> Result<()> {
        let changes = changes.into_iter().map(|(op, name, value)| {
            AlterableConfig::default()
                .with_config_operation(op as i8)
                .with_name(str_bytes(&name))
                .with_value(value.as_deref().map(str_bytes))
        });
        let change = AlterConfigsResource::default()
            .with_resource_type(resource.kind as i8)
            .with_resource_name(str_bytes(&resource.name))
            .with_configs(changes.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![change]);
        let answer: IncrementalAlterConfigsResponse = match own_broker(resource) {
            Some(id) => self.client.to_broker(id).await?.call(&request).await?,
            None => self.client.call_any(&request).await?,
        };
        let result = answer.responses.into_iter().next().ok_or_else(|| silent(resource))?;
        Error::check(result.error_code, result.error_message.as_deref())
    }

    /// The names of the resources of one kind that have settings of their own.
    pub async fn config_resources(&self, kind: ResourceType) -> Result<Vec<String>> {
        let request = ListConfigResourcesRequest::default().with_resource_types(vec![kind as i8]);
        let answer = self.client.call_any(&request).await?;
        Error::check(answer.error_code, None)?;
        Ok(answer
            .config_resources
            .into_iter()
            .map(|resource| resource.resource_name.to_string())
            .collect())
    }
}

/// The broker that must be asked itself: only it knows what its own file says.
fn own_broker(resource: &Resource) -> Option<i32> {
    match resource.kind {
        ResourceType::Broker | ResourceType::BrokerLogger => resource.name.parse().ok(),
        _ => None,
    }
}

fn silent(resource: &Resource) -> Error {
    Error::Protocol(format!("the answer says nothing about {:?} {}", resource.kind, resource.name))
}

fn entry(config: DescribeConfigsResourceResult) -> ConfigEntry {
    let synonyms = config.synonyms.into_iter().map(|synonym| ConfigSynonym {
        name: synonym.name.to_string(),
        value: synonym.value.map(|value| value.to_string()),
        source: ConfigSource::of(synonym.source),
    });
    ConfigEntry {
        name: config.name.to_string(),
        value: config.value.map(|value| value.to_string()),
        source: ConfigSource::of(config.config_source),
        sensitive: config.is_sensitive,
        read_only: config.read_only,
        kind: ConfigType(config.config_type),
        synonyms: synonyms.collect(),
    }
}
