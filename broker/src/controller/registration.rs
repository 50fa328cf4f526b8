//! A controller makes itself known: ControllerRegistration, and UpdateRaftVoter after a move.
//!
//! Each node with the controller role registers with the active controller, itself included, until
//! the committed image has its registration with this process's incarnation. Without it no broker
//! could be told where the controllers are, nor which features they support.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::controller_registration_request::{Feature, Listener};
use kafka_protocol::messages::{
    ControllerRegistrationRequest, UpdateRaftVoterRequest, update_raft_voter_request,
};
use kafka_protocol::protocol::StrBytes;
use tokio_util::sync::CancellationToken;

use super::brokers::supported_features;
use super::decision::{Decision, View};
use super::image::Image;
use super::link::ControllerLink;
use super::metadata::Metadata;
use crate::config::Settings;
use crate::env::{self, Env};
use crate::error::{ErrorCode, Refusal};
use crate::net::peer::Peer;
use crate::raft::opening;
use crate::raft::voters::Voter;
use crate::types::LeaderEpoch;
use crate::wire::metadata::{EndPoint, FeatureRange, RegisterControllerRecord};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Turns a registration into its record.
pub fn register(
    view: View<'_>,
    request: &ControllerRegistrationRequest,
) -> Result<Decision<()>, Refusal> {
    let invalid = |what: String| Refusal::new(ErrorCode::InvalidRequest, what);
    if request.listeners.is_empty() {
        return Err(invalid("No listeners specified in request".into()));
    }
    let feature = |name: &str| request.features.iter().find(|it| &*it.name == name);
    for (name, level) in view.image.features() {
        let range = feature(name);
        let (min, max) =
            range.map_or((0, 0), |it| (it.min_supported_version, it.max_supported_version));
        if level < min || level > max {
            return Err(Refusal::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "Unable to register because the controller does not support finalized \
                     version {level} of {name}, only {min} to {max}."
                ),
            ));
        }
    }
    let end_point = |it: &Listener| EndPoint {
        name: it.name.to_string(),
        host: it.host.to_string(),
        port: it.port,
        security_protocol: it.security_protocol,
    };
    let feature = |it: &Feature| FeatureRange {
        name: it.name.to_string(),
        min_supported_version: it.min_supported_version,
        max_supported_version: it.max_supported_version,
    };
    let record = RegisterControllerRecord {
        controller_id: request.controller_id,
        incarnation_id: request.incarnation_id,
        zk_migration_ready: false,
        end_points: request.listeners.iter().map(end_point).collect(),
        features: request.features.iter().map(feature).collect(),
    };
    Ok(Decision::new(vec![record.into()], ()))
}

/// Keeps this controller registered until `stop`.
pub fn keep_registered(
    env: &Env,
    settings: &Settings,
    link: Arc<ControllerLink>,
    metadata: Arc<Metadata>,
    stop: CancellationToken,
) {
    let (env, id) = (env.clone(), settings.node_id);
    let request = request(&env, settings);
    let incarnation = request.incarnation_id;
    env::spawn(async move {
        let mut applied = metadata.applied();
        loop {
            let known = |image: &Image| {
                image.controller(id).is_some_and(|it| it.incarnation == incarnation)
            };
            // An image that is still empty says nothing about who is registered.
            let behind = metadata.image().offset < 0 || known(&metadata.image());
            if !behind {
                match link.send(request.clone()).await {
                    Ok(answer) if answer.error_code == 0 => {}
                    Ok(answer) => {
                        let code = answer.error_code;
                        tracing::warn!(code, "the registration of this controller is refused");
                    }
                    Err(error) => tracing::debug!(%error, "this controller is not registered yet"),
                }
            }
            let pause = if behind { Duration::MAX } else { PAUSE };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = applied.changed() => {}
                () = sleep(&env, pause) => {}
            }
        }
    });
}

async fn sleep(env: &Env, pause: Duration) {
    match env.clock.now().checked_add(pause) {
        Some(until) => env.clock.sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn request(env: &Env, settings: &Settings) -> ControllerRegistrationRequest {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let protocol = |listener: &str| settings.listener(listener).map_or(0, |it| it.protocol.id());
    let listener = |it: &crate::raft::voters::Endpoint| {
        Listener::default()
            .with_name(text(&it.listener))
            .with_host(text(&it.host))
            .with_port(it.port)
            .with_security_protocol(protocol(&it.listener))
    };
    let feature = |(name, min, max): (&'static str, i16, i16)| {
        Feature::default()
            .with_name(StrBytes::from_static_str(name))
            .with_min_supported_version(min)
            .with_max_supported_version(max)
    };
    ControllerRegistrationRequest::default()
        .with_controller_id(settings.node_id)
        .with_incarnation_id(env.random.uuid())
        .with_listeners(opening::endpoints(settings).iter().map(listener).collect())
        .with_features(supported_features().into_iter().map(feature).collect())
}

/// Tells the leader at `at` where this voter listens now. Tried again by whoever calls this.
pub async fn update_voter(
    env: Env,
    cluster: String,
    at: (String, u16),
    epoch: LeaderEpoch,
    voter: Voter,
    timeout: Duration,
) {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let listener = |it: &crate::raft::voters::Endpoint| {
        update_raft_voter_request::Listener::default()
            .with_name(text(&it.listener))
            .with_host(text(&it.host))
            .with_port(it.port)
    };
    let versions = update_raft_voter_request::KRaftVersionFeature::default()
        .with_min_supported_version(voter.versions.0)
        .with_max_supported_version(voter.versions.1);
    let request = UpdateRaftVoterRequest::default()
        .with_cluster_id(Some(text(&cluster)))
        .with_current_leader_epoch(epoch)
        .with_voter_id(voter.key.id)
        .with_voter_directory_id(voter.key.directory)
        .with_listeners(voter.endpoints.iter().map(listener).collect())
        .with_k_raft_version_feature(versions);
    let told = async {
        let name = format!("raft-client-{}", voter.key.id);
        let peer = Peer::connect(&env, &at.0, at.1, &name, timeout).await?;
        peer.call(request, timeout).await
    };
    match told.await {
        Ok(answer) if answer.error_code == 0 => tracing::info!("the leader knows our endpoints"),
        Ok(answer) => tracing::debug!(code = answer.error_code, "endpoints are not taken yet"),
        Err(error) => tracing::debug!(%error, "the leader cannot be told our endpoints"),
    }
}
