//! UpdateRaftVoter: a voter listens somewhere else, or supports other versions (KIP-853).
//!
//! Version 0, sent by the voter itself to the leader of the quorum. Answered once the change is
//! committed, with who leads.

use std::sync::Arc;

use kafka_protocol::messages::update_raft_voter_response::CurrentLeader;
use kafka_protocol::messages::{ApiKey, BrokerId, UpdateRaftVoterRequest, UpdateRaftVoterResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::{ErrorCode, Refusal};
use crate::raft::Handle;
use crate::raft::rpc::text;
use crate::raft::serve::{self, Change};

pub const API: Api =
    Api::new(ApiKey::UpdateRaftVoter, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: UpdateRaftVoterRequest,
) -> Reply<UpdateRaftVoterResponse> {
    let Some(controller) = broker.controller.clone() else {
        let refused = ErrorCode::NotLeaderOrFollower.code();
        return Reply::Now(UpdateRaftVoterResponse::default().with_error_code(refused));
    };
    let timeout = broker.settings.quorum_request_timeout;
    Reply::later(async move {
        let quorum = controller.quorum();
        let updated = tokio::time::timeout(timeout, update(quorum, &request)).await;
        let updated = updated.unwrap_or_else(|_| Err(ErrorCode::RequestTimedOut.into()));
        let code = updated.err().map_or(0, |refusal| refusal.code.code());
        UpdateRaftVoterResponse::default().with_error_code(code).with_current_leader(leader(quorum))
    })
}

fn leader(quorum: &Handle) -> CurrentLeader {
    let status = quorum.status().borrow().clone();
    let (host, port) = status.address.unwrap_or_default();
    CurrentLeader::default()
        .with_leader_id(BrokerId(status.leader.unwrap_or(-1)))
        .with_leader_epoch(status.epoch)
        .with_host(text(&host))
        .with_port(i32::from(port))
}

async fn update(quorum: &Handle, request: &UpdateRaftVoterRequest) -> Result<(), Refusal> {
    if !quorum.is_this_cluster(request.cluster_id.as_deref()) {
        return Err(ErrorCode::InconsistentClusterId.into());
    }
    let endpoints: Vec<_> = request
        .listeners
        .iter()
        .map(|it| serve::endpoint(&it.name.to_ascii_uppercase(), &it.host, it.port))
        .collect();
    if !endpoints.iter().any(|it| it.listener == quorum.listener()) {
        return Err(ErrorCode::InvalidRequest.into());
    }
    let range = &request.k_raft_version_feature;
    let versions = (range.min_supported_version, range.max_supported_version);
    let voter = serve::voter(request.voter_id, request.voter_directory_id, endpoints, versions);
    quorum.change(Change::Update { voter, epoch: request.current_leader_epoch }).await
}
