//! DescribeCluster: the brokers, or the controllers, and the cluster's id.
//!
//! Versions 0 to 2. From 1 the kind of endpoint is asked for (KIP-919): a listener for clients tells
//! of brokers only, and the controller's of controllers only; the other is MISMATCHED_ENDPOINT_TYPE.
//! From 2 fenced brokers are told, too, when asked for (KIP-1073).

use std::sync::Arc;

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{ApiKey, BrokerId, DescribeClusterRequest, DescribeClusterResponse};

use super::metadata::{CLUSTER_OPERATIONS, any_broker, text};
use super::{Api, Client, Reply, Scope, handler};
use crate::broker::Broker;
use crate::controller::{Endpoint, Image};
use crate::error::ErrorCode;
use crate::types::NodeId;

pub const API: Api = Api::new(ApiKey::DescribeCluster, 0..=2).on_all().handled_by(handler!(handle));

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: DescribeClusterRequest,
) -> Reply<DescribeClusterResponse> {
    let kind = if client.version >= 1 { request.endpoint_type } else { BROKERS };
    let scope = client.connection.scope;
    let image = broker.image.load_full();
    let told = request.include_cluster_authorized_operations;
    let operations = if told { CLUSTER_OPERATIONS } else { i32::MIN };
    let response = DescribeClusterResponse::default()
        .with_endpoint_type(kind)
        .with_cluster_authorized_operations(operations);
    let listener = &*client.connection.listener;
    Reply::Now(match (kind, scope) {
        (BROKERS, Scope::Broker) => response
            .with_cluster_id(text(&image.cluster_id))
            .with_controller_id(BrokerId(any_broker(broker, &image)))
            .with_brokers(brokers(&image, listener, request.include_fenced_brokers)),
        (CONTROLLERS, Scope::Controller) => response
            .with_cluster_id(text(&image.cluster_id))
            .with_controller_id(BrokerId(image.controller_id))
            .with_brokers(controllers(&image, listener)),
        (BROKERS | CONTROLLERS, _) => refused(
            response,
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of the wrong type.",
        ),
        _ => refused(
            response,
            ErrorCode::UnsupportedEndpointType,
            "This endpoint type is not supported yet.",
        ),
    })
}

fn refused(
    response: DescribeClusterResponse,
    code: ErrorCode,
    message: &str,
) -> DescribeClusterResponse {
    // Kafka does not repeat the kind that it refuses.
    response
        .with_endpoint_type(BROKERS)
        .with_error_code(code.code())
        .with_error_message(Some(text(message)))
}

fn brokers(image: &Image, listener: &str, fenced_too: bool) -> Vec<DescribeClusterBroker> {
    let shown = image.brokers().filter(|broker| fenced_too || !broker.fenced);
    let described = shown.filter_map(|broker| {
        let node = node(broker.id, broker.endpoint(listener)?);
        let rack = broker.rack.as_deref().map(text);
        Some(node.with_rack(rack).with_is_fenced(broker.fenced))
    });
    described.collect()
}

fn controllers(image: &Image, listener: &str) -> Vec<DescribeClusterBroker> {
    let described = image.controllers().filter_map(|controller| {
        let endpoint = controller.endpoints.iter().find(|e| &*e.listener == listener)?;
        Some(node(controller.id, endpoint))
    });
    described.collect()
}

fn node(id: NodeId, endpoint: &Endpoint) -> DescribeClusterBroker {
    DescribeClusterBroker::default()
        .with_broker_id(BrokerId(id))
        .with_host(text(&endpoint.host))
        .with_port(endpoint.port.into())
}
