//! The controllers of a cluster, asked at their own listeners.
//!
//! Whoever looks after a quorum must be able to ask it when no broker serves. All addresses are
//! asked at once, with connections of their own: questions are few, and an address may mean another
//! machine each time. Only the leader's answer counts; of two that claim to lead, the one of the
//! higher epoch.

use futures::future::join_all;
use kafka_protocol::messages::DescribeClusterRequest;
use kafka_protocol::protocol::Request;
use uuid::Uuid;

use crate::admin::quorum::{add, describe, described, remove, unregister};
use crate::client::parse_bootstrap;
use crate::{
    Cluster, Connection, Error, ErrorCode, Features, Node, Options, Quorum, QuorumEndpoint, Result,
};

#[derive(Debug, Clone)]
pub struct Controllers {
    addresses: Vec<String>,
    options: Options,
}

impl Controllers {
    /// The controllers at `addresses`: `host:port` pairs with commas between them.
    pub fn at(addresses: &str, options: Options) -> Result<Self> {
        Ok(Self { addresses: parse_bootstrap(addresses)?, options })
    }

    /// The quorum, in its leader's words; or why nobody leads, in those of each controller.
    pub async fn describe_quorum(&self) -> Result<Quorum> {
        Ok(self.leader().await?.1)
    }

    /// Makes `id` with its directory a voter, reached at `endpoints`.
    pub async fn add_raft_voter(
        &self,
        id: i32,
        directory: Uuid,
        endpoints: &[QuorumEndpoint],
    ) -> Result<()> {
        let answer = self.call_leader(&add(id, directory, endpoints)).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())
    }

    /// Takes its vote from `id` with this directory.
    pub async fn remove_raft_voter(&self, id: i32, directory: Uuid) -> Result<()> {
        let answer = self.call_leader(&remove(id, directory)).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())
    }

    /// Forgets the registration of a broker that will not come back.
    pub async fn unregister_broker(&self, id: i32) -> Result<()> {
        let answer = self.call_leader(&unregister(id)).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())
    }

    /// The features of the cluster, as the controller that leads knows them.
    pub async fn features(&self) -> Result<Features> {
        Ok(self.leader().await?.0.features().clone())
    }

    /// Sends `request` to the controller that leads.
    pub async fn call_leader<R: Request>(&self, request: &R) -> Result<R::Response> {
        self.leader().await?.0.call(request).await
    }

    /// The cluster's controllers, as the first that answers knows them.
    pub async fn describe_cluster(&self) -> Result<Cluster> {
        let request = DescribeClusterRequest::default().with_endpoint_type(2);
        let mut failure = None;
        for address in &self.addresses {
            let answer = match self.open(address).await {
                Ok(connection) => connection.call(&request).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => {
                    Error::check(answer.error_code, answer.error_message.as_deref())?;
                    let nodes = answer.brokers.iter().map(|one| Node {
                        id: one.broker_id.0,
                        host: one.host.to_string(),
                        port: one.port as u16,
                        rack: one.rack.as_ref().map(ToString::to_string),
                        fenced: one.is_fenced,
                    });
                    return Ok(Cluster {
                        id: answer.cluster_id.to_string(),
                        controller: Some(answer.controller_id.0).filter(|id| *id >= 0),
                        brokers: nodes.collect(),
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Invalid("no address of a controller".into())))
    }

    async fn leader(&self) -> Result<(Connection, Quorum)> {
        let first = self.ask(&self.addresses).await;
        if first.is_ok() {
            return first;
        }
        // Those that were named may know the others.
        let Ok(known) = self.describe_cluster().await else { return first };
        let others: Vec<String> = known
            .brokers
            .iter()
            .map(Node::address)
            .filter(|address| !self.addresses.contains(address))
            .collect();
        if others.is_empty() { first } else { self.ask(&others).await.or(first) }
    }

    async fn ask(&self, addresses: &[String]) -> Result<(Connection, Quorum)> {
        let answers = join_all(addresses.iter().map(|address| self.ask_one(address))).await;
        let mut best: Option<(Connection, Quorum)> = None;
        let mut failures = Vec::new();
        for (address, answer) in addresses.iter().zip(answers) {
            match answer {
                Ok(found) if best.as_ref().is_none_or(|it| it.1.epoch < found.1.epoch) => {
                    best = Some(found);
                }
                Ok(_) => {}
                Err(error) => failures.push((address, error)),
            }
        }
        best.ok_or_else(|| nobody_leads(&failures))
    }

    async fn ask_one(&self, address: &str) -> Result<(Connection, Quorum)> {
        let connection = self.open(address).await?;
        let quorum = described(connection.call(&describe()).await?)?;
        Ok((connection, quorum))
    }

    async fn open(&self, address: &str) -> Result<Connection> {
        let options = &self.options;
        let (connect, request) = (options.connect_timeout, options.request_timeout);
        Connection::open(address, &options.client_id, connect, request).await
    }
}

/// One error of all: what each controller said, in few words.
fn nobody_leads(failures: &[(&String, Error)]) -> Error {
    let one = |(address, error): &(&String, Error)| match error {
        Error::Kafka { code, .. } if not_leading(*code) => format!("{address} does not lead"),
        Error::Connection { .. } => error.to_string(),
        error => format!("{address}: {error}"),
    };
    Error::Kafka {
        code: ErrorCode::LeaderNotAvailable,
        message: format!(
            "no controller leads: {}",
            failures.iter().map(one).collect::<Vec<_>>().join("; ")
        ),
    }
}

fn not_leading(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeaderOrFollower | ErrorCode::NotController | ErrorCode::LeaderNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn when_nobody_leads_each_controller_is_quoted() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("its address").to_string();
        drop(holder);
        let controllers = Controllers::at(&address, Options::default()).expect("an address");
        let error = controllers.describe_quorum().await.expect_err("nobody is there");
        assert_eq!(error.code(), Some(ErrorCode::LeaderNotAvailable));
        let told = error.to_string();
        assert!(told.starts_with("no controller leads: ") && told.contains(&address), "{told}");
    }
}
