//! ListConfigResources: the names of what can have settings (KIP-1142).
//!
//! Versions 0 and 1. Version 0 lists subscriptions of client metrics only, of which there are none
//! that anything here could make, but which the metadata log may hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ApiKey, ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::metadata::text;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::{Image, ResourceType};
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::ListConfigResources, 0..=1).handled_by(handler!(handle));

const ALL: [ResourceType; 5] = [
    ResourceType::Topic,
    ResourceType::Broker,
    ResourceType::BrokerLogger,
    ResourceType::ClientMetrics,
    ResourceType::Group,
];

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ListConfigResourcesRequest,
) -> Reply<ListConfigResourcesResponse> {
    let image = broker.image.load();
    let asked: Option<Vec<ResourceType>> = match client.version {
        0 => Some(vec![ResourceType::ClientMetrics]),
        _ if request.resource_types.is_empty() => Some(ALL.to_vec()),
        _ => request.resource_types.iter().map(|code| ResourceType::from_code(*code)).collect(),
    };
    let response = ListConfigResourcesResponse::default();
    let Some(asked) = asked else {
        return Reply::Now(response.with_error_code(ErrorCode::UnsupportedVersion.code()));
    };
    let resources = asked.into_iter().flat_map(|kind| {
        names(&image, kind).into_iter().map(move |name| {
            ConfigResource::default()
                .with_resource_name(text(&name))
                .with_resource_type(kind.code())
        })
    });
    Reply::Now(response.with_config_resources(resources.collect()))
}

fn names(image: &Image, kind: ResourceType) -> BTreeSet<String> {
    match kind {
        ResourceType::Topic => image.topics().map(|topic| topic.name.to_string()).collect(),
        ResourceType::Broker | ResourceType::BrokerLogger => {
            let alive = image.brokers().filter(|broker| !broker.fenced);
            alive.map(|broker| broker.id.to_string()).collect()
        }
        ResourceType::ClientMetrics | ResourceType::Group => image
            .configs()
            .filter(|(of, _, config)| *of == kind && !config.is_empty())
            .map(|(_, name, _)| name.to_owned())
            .collect(),
    }
}
