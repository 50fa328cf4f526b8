//! RemoveRaftVoter: a voter, known by id and directory, votes no more (KIP-853).
//!
//! Version 0, on the leader of the quorum; brokers pass it on. Answered once the change is
//! committed. The leader may remove itself: it leads until that is committed.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, RemoveRaftVoterRequest, RemoveRaftVoterResponse};
use kafka_protocol::protocol::StrBytes;

use super::controller::Refusable;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::{ErrorCode, Refusal};
use crate::raft::Handle;
use crate::raft::messages::ReplicaKey;
use crate::raft::serve::Change;

pub const API: Api =
    Api::new(ApiKey::RemoveRaftVoter, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: RemoveRaftVoterRequest,
) -> Reply<RemoveRaftVoterResponse> {
    let Some(controller) = broker.controller.clone() else {
        return Reply::Now(answer(Err(ErrorCode::NotController.into())));
    };
    let timeout = broker.settings.request_timeout;
    Reply::later(async move {
        let removed = tokio::time::timeout(timeout, remove(controller.quorum(), &request)).await;
        let late = || {
            let what = "The change of the voters was not committed in time.";
            Err(Refusal::new(ErrorCode::RequestTimedOut, what))
        };
        answer(removed.unwrap_or_else(|_| late()))
    })
}

impl Refusable for RemoveRaftVoterRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> RemoveRaftVoterResponse {
        answer(Err(refusal.clone()))
    }
}

fn answer(removed: Result<(), Refusal>) -> RemoveRaftVoterResponse {
    let response = RemoveRaftVoterResponse::default().with_error_message(None);
    match removed {
        Ok(()) => response,
        Err(refusal) => response
            .with_error_code(refusal.code.code())
            .with_error_message(Some(StrBytes::from_string(refusal.message))),
    }
}

async fn remove(quorum: &Handle, request: &RemoveRaftVoterRequest) -> Result<(), Refusal> {
    if !quorum.is_this_cluster(request.cluster_id.as_deref()) {
        return Err(ErrorCode::InconsistentClusterId.into());
    }
    let key = ReplicaKey::new(request.voter_id, request.voter_directory_id);
    quorum.change(Change::Remove(key)).await
}
