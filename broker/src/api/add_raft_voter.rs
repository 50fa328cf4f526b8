//! AddRaftVoter: an observer with the controller role becomes a voter (KIP-853).
//!
//! Version 0, on the leader of the quorum; brokers pass it on. The new voter is called on first:
//! one that cannot be reached, or does not support the quorum's kraft.version, would only be
//! missed. Answered once the change is committed. Deliberately absent: version 1, whose answer may
//! come before that.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, ApiKey, ApiVersionsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::controller::Refusable;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::env::Env;
use crate::error::{ErrorCode, Refusal};
use crate::net::peer::Peer;
use crate::raft::Handle;
use crate::raft::messages::ReplicaKey;
use crate::raft::serve::{self, Change};
use crate::raft::voters::Endpoint;

pub const API: Api =
    Api::new(ApiKey::AddRaftVoter, 0..=0).on_controller().handled_by(handler!(handle));

/// How long the new voter may take to say what it supports.
const CALL: Duration = Duration::from_secs(2);

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: AddRaftVoterRequest,
) -> Reply<AddRaftVoterResponse> {
    let Some(controller) = broker.controller.clone() else {
        return Reply::Now(answer(Err(ErrorCode::NotController.into())));
    };
    let env = broker.env.clone();
    Reply::later(async move {
        let timeout = Duration::from_millis(request.timeout_ms.max(0) as u64);
        let added = tokio::time::timeout(timeout, add(&env, controller.quorum(), &request)).await;
        let late = || {
            let what = "The change of the voters was not committed in time.";
            Err(Refusal::new(ErrorCode::RequestTimedOut, what))
        };
        answer(added.unwrap_or_else(|_| late()))
    })
}

impl Refusable for AddRaftVoterRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> AddRaftVoterResponse {
        answer(Err(refusal.clone()))
    }
}

fn answer(added: Result<(), Refusal>) -> AddRaftVoterResponse {
    let response = AddRaftVoterResponse::default().with_error_message(None);
    match added {
        Ok(()) => response,
        Err(refusal) => response
            .with_error_code(refusal.code.code())
            .with_error_message(Some(StrBytes::from_string(refusal.message))),
    }
}

async fn add(env: &Env, quorum: &Handle, request: &AddRaftVoterRequest) -> Result<(), Refusal> {
    if !quorum.is_this_cluster(request.cluster_id.as_deref()) {
        return Err(ErrorCode::InconsistentClusterId.into());
    }
    let key = ReplicaKey::new(request.voter_id, request.voter_directory_id);
    let endpoints: Vec<Endpoint> = request
        .listeners
        .iter()
        .map(|it| serve::endpoint(&it.name.to_ascii_uppercase(), &it.host, it.port))
        .collect();
    let Some(at) = endpoints.iter().find(|it| it.listener == quorum.listener()) else {
        let what = format!(
            "Add voter request didn't include the endpoint for the default listener {}",
            quorum.listener()
        );
        return Err(Refusal::new(ErrorCode::InvalidRequest, what));
    };
    if key.id < 0 || key.directory.is_nil() {
        let what = "Add voter request didn't include a valid voter";
        return Err(Refusal::new(ErrorCode::InvalidRequest, what));
    }
    quorum.may_add(key).await?;
    let versions = kraft_versions(env, at).await.map_err(|what| {
        Refusal::new(ErrorCode::RequestTimedOut, format!("Voter {}: {what}", key.id))
    })?;
    let voter = serve::voter(key.id, key.directory, endpoints, versions);
    quorum.change(Change::Add { voter, when_committed: true }).await
}

/// What the node at `at` says that it supports.
async fn kraft_versions(env: &Env, at: &Endpoint) -> Result<(i16, i16), String> {
    let called = async {
        let peer = Peer::connect(env, &at.host, at.port, "raft-add-voter", CALL).await?;
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        // From version 4 on a range may begin at 0.
        peer.call_at(4, request, CALL).await
    };
    let answer = called.await.map_err(|error| error.to_string())?;
    let features = answer.supported_features.iter();
    let range = features.clone().find(|it| &*it.name == "kraft.version");
    Ok(range.map_or((0, 0), |it| (it.min_version, it.max_version)))
}
