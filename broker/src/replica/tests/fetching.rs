//! What a follower asks of its leader, whose answers the test gives.

use std::sync::Arc;

use async_trait::async_trait;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};
use tokio::sync::{mpsc, oneshot};

use super::cluster::{NoController, Node, TOPIC, TOPIC_ID, node};
use crate::controller::{Delta, Image};
use crate::error::ErrorCode;
use crate::replica::remote::Failure;
use crate::replica::{Leaders, RemoteLeader};
use crate::types::NodeId;
use crate::wire::metadata::{PartitionRecord, RegisterBrokerRecord, TopicRecord};

type Asked = (FetchRequest, oneshot::Sender<FetchResponse>);

/// A leader that hands every fetch to the test.
struct Scripted(mpsc::UnboundedSender<Asked>);

#[async_trait]
impl Leaders for Scripted {
    async fn connect(&self, _: NodeId) -> Result<Arc<dyn RemoteLeader>, Failure> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

#[async_trait]
impl RemoteLeader for Scripted {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchResponse, Failure> {
        let (answer, answered) = oneshot::channel();
        self.0.send((request, answer)).map_err(|_| "the test is over")?;
        answered.await.map_err(|_| "the test is over".into())
    }

    async fn list_offsets(&self, _: ListOffsetsRequest) -> Result<ListOffsetsResponse, Failure> {
        Err("not here".into())
    }
}

/// Broker 1 follows two partitions of broker 2.
async fn follower() -> (Node, mpsc::UnboundedReceiver<Asked>) {
    let node = node(1, "").await;
    let (ask, asked) = mpsc::unbounded_channel();
    node.partitions.run(Arc::new(NoController), Arc::new(Scripted(ask)));
    let mut image = Image::empty("cluster");
    let mut delta = Delta::default();
    let brokers = [1, 2].map(|broker_id| RegisterBrokerRecord {
        broker_id,
        broker_epoch: i64::from(broker_id) + 100,
        fenced: false,
        ..Default::default()
    });
    let partitions = [0, 1].map(|partition_id| PartitionRecord {
        partition_id,
        topic_id: TOPIC_ID,
        replicas: vec![2, 1],
        isr: vec![2, 1],
        leader: 2,
        directories: vec![uuid::Uuid::nil(); 2],
        ..Default::default()
    });
    let topic = TopicRecord { name: TOPIC.into(), topic_id: TOPIC_ID };
    let records = brokers.into_iter().map(Into::into);
    let records = records.chain([topic.into()]).chain(partitions.into_iter().map(Into::into));
    for record in records {
        image.replay(&record, &mut delta).unwrap();
    }
    node.partitions.apply(&Arc::new(image), &delta);
    (node, asked)
}

fn partitions(request: &FetchRequest) -> Vec<i32> {
    request.topics.iter().flat_map(|it| &it.partitions).map(|it| it.partition).collect()
}

fn answer(errors: [Option<ErrorCode>; 2]) -> FetchResponse {
    let partitions = errors.into_iter().zip(0..).map(|(error, index)| {
        let code = error.map_or(0, |error| error.code());
        PartitionData::default().with_partition_index(index).with_error_code(code)
    });
    let topic = FetchableTopicResponse::default().with_topic_id(TOPIC_ID);
    FetchResponse::default().with_responses(vec![topic.with_partitions(partitions.collect())])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_leader_is_not_ready_waits_for_no_long_poll_of_the_others() {
    let (node, mut asked) = follower().await;
    let (all, reply) = asked.recv().await.unwrap();
    assert_eq!((partitions(&all), all.max_wait_ms), (vec![0, 1], 200));
    reply.send(answer([Some(ErrorCode::NotLeaderOrFollower), None])).unwrap();
    let (rest, reply) = asked.recv().await.unwrap();
    assert_eq!(partitions(&rest), [1]);
    assert!((1..=20).contains(&rest.max_wait_ms), "{} ms", rest.max_wait_ms);
    // What a leader without news does.
    tokio::time::sleep(std::time::Duration::from_millis(rest.max_wait_ms as u64)).await;
    reply.send(answer([None, None])).unwrap();
    let (all, _) = asked.recv().await.unwrap();
    assert_eq!((partitions(&all), all.max_wait_ms), (vec![0, 1], 200));
    node.partitions.shut_down().await;
}
