//! What only the controller decides, as the listeners for clients serve it: passed on unread.
//!
//! The body goes to the active controller inside an Envelope (KIP-590), in the name of the client,
//! and its answer comes back as it is. When no controller answers in time the connection is closed,
//! so that the client tries again, here or elsewhere. Invariant: the versions are those that the
//! controller's listeners serve; a test holds the two lists against each other.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use tracing::debug;

use super::{Answer, Api, Client, Unreadable};
use crate::broker::Broker;

pub const CREATE_TOPICS: Api = passed_on(ApiKey::CreateTopics, 2, 7);
pub const DELETE_TOPICS: Api = passed_on(ApiKey::DeleteTopics, 1, 6);
pub const CREATE_PARTITIONS: Api = passed_on(ApiKey::CreatePartitions, 0, 3);
pub const ALTER_CONFIGS: Api = passed_on(ApiKey::AlterConfigs, 0, 2);
pub const INCREMENTAL_ALTER_CONFIGS: Api = passed_on(ApiKey::IncrementalAlterConfigs, 0, 1);
pub const ELECT_LEADERS: Api = passed_on(ApiKey::ElectLeaders, 0, 2);
pub const DESCRIBE_QUORUM: Api = passed_on(ApiKey::DescribeQuorum, 0, 2);

const fn passed_on(key: ApiKey, min: i16, max: i16) -> Api {
    Api::new(key, min..=max).handled_by(pass_on)
}

fn pass_on<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    let (link, client) = (broker.link.clone(), client.clone());
    let answer = async move {
        let answered = link.forward(&client, body).await;
        answered.map(|answer| vec![answer]).map_err(|error| {
            debug!(api = ?client.api, %error, "could not be passed on");
            Unreadable(format!("{:?} could not be passed on: {error}", client.api))
        })
    };
    Box::pin(std::future::ready(Ok(Answer::Later(Box::pin(answer)))))
}

#[cfg(test)]
mod tests {
    use crate::api::{Scope, table};
    use crate::controller::link::is_forwardable;

    #[test]
    fn brokers_and_controllers_agree_on_what_is_passed_on_and_in_which_versions() {
        let mut passed_on = 0;
        for api in table::apis(Scope::Broker).iter().filter(|api| is_forwardable(api.key)) {
            let decided = table::find(Scope::Controller, api.key as i16).unwrap();
            assert_eq!(api.advertised(), decided.advertised(), "{api:?}");
            passed_on += 1;
        }
        assert_eq!(passed_on, 7);
    }
}
