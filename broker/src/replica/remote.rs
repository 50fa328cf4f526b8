//! The two kinds of nodes that replication talks to: leaders, and the controller.
//!
//! Traits, so that tests put two brokers' partitions together without a network.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest,
    AlterPartitionResponse, AssignReplicasToDirsRequest, AssignReplicasToDirsResponse,
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};

use super::context::Context;
use super::peers::Peers;
use crate::controller::ControllerLink;
use crate::net::peer::Peer;
use crate::types::NodeId;

/// Why a call failed; for the log.
pub type Failure = String;

/// A connection to a broker that leads partitions.
#[async_trait]
pub trait RemoteLeader: Send + Sync {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchResponse, Failure>;
    async fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> Result<ListOffsetsResponse, Failure>;
}

/// Makes connections to leaders.
#[async_trait]
pub trait Leaders: Send + Sync {
    async fn connect(&self, leader: NodeId) -> Result<Arc<dyn RemoteLeader>, Failure>;
}

/// Calls to the active controller.
#[async_trait]
pub trait ToController: Send + Sync {
    async fn alter_partition(
        &self,
        request: AlterPartitionRequest,
    ) -> Result<AlterPartitionResponse, Failure>;
    async fn allocate_producer_ids(
        &self,
        request: AllocateProducerIdsRequest,
    ) -> Result<AllocateProducerIdsResponse, Failure>;
    async fn assign_replicas_to_dirs(
        &self,
        request: AssignReplicasToDirsRequest,
    ) -> Result<AssignReplicasToDirsResponse, Failure>;
}

#[async_trait]
impl ToController for ControllerLink {
    async fn alter_partition(
        &self,
        request: AlterPartitionRequest,
    ) -> Result<AlterPartitionResponse, Failure> {
        self.send(request).await.map_err(|error| error.to_string())
    }

    async fn allocate_producer_ids(
        &self,
        request: AllocateProducerIdsRequest,
    ) -> Result<AllocateProducerIdsResponse, Failure> {
        self.send(request).await.map_err(|error| error.to_string())
    }

    async fn assign_replicas_to_dirs(
        &self,
        request: AssignReplicasToDirsRequest,
    ) -> Result<AssignReplicasToDirsResponse, Failure> {
        self.send(request).await.map_err(|error| error.to_string())
    }
}

/// Leaders over the network.
pub struct OverNetwork {
    peers: Peers,
    timeout: Duration,
}

impl OverNetwork {
    pub fn new(context: Arc<Context>) -> Self {
        let timeout = context.settings.replica_socket_timeout;
        let client_id = format!("broker-{}-fetcher", context.me);
        Self { peers: Peers::new(context, client_id), timeout }
    }
}

#[async_trait]
impl Leaders for OverNetwork {
    async fn connect(&self, leader: NodeId) -> Result<Arc<dyn RemoteLeader>, Failure> {
        let peer = self.peers.connect(leader).await?;
        Ok(Arc::new(Connected { peer, timeout: self.timeout }))
    }
}

struct Connected {
    peer: Peer,
    timeout: Duration,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.peer.close();
    }
}

#[async_trait]
impl RemoteLeader for Connected {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchResponse, Failure> {
        self.peer.call(request, self.timeout).await.map_err(|error| error.to_string())
    }

    async fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> Result<ListOffsetsResponse, Failure> {
        self.peer.call(request, self.timeout).await.map_err(|error| error.to_string())
    }
}
