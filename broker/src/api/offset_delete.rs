//! OffsetDelete: forgets offsets of topics that no member of the group reads.
//!
//! Version 0.

use std::sync::Arc;

use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetDeleteRequest, OffsetDeleteResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::OffsetDelete, 0..=0).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    mut request: OffsetDeleteRequest,
) -> Reply<OffsetDeleteResponse> {
    if request.group_id.is_empty() {
        let code = ErrorCode::InvalidGroupId.code();
        return Reply::Now(OffsetDeleteResponse::default().with_error_code(code));
    }
    let refused = refuse_unknown(&broker.image.load(), &mut request);
    let group = request.group_id.clone();
    let answer = broker.groups.call(&group, Call::OffsetDelete(request)).await;
    Reply::later(async move {
        let mut answer = answer_in_kind!(answer.await, OffsetDelete);
        if answer.error_code == 0 {
            for topic in refused {
                match answer.topics.iter_mut().find(|it| it.name == topic.name) {
                    Some(known) => known.partitions.extend(topic.partitions),
                    None => answer.topics.push(topic),
                }
            }
        }
        answer
    })
}

/// Takes what does not exist out of the request.
fn refuse_unknown(
    image: &Image,
    request: &mut OffsetDeleteRequest,
) -> Vec<OffsetDeleteResponseTopic> {
    let mut refused = Vec::new();
    request.topics.retain_mut(|topic| {
        let mut unknown = Vec::new();
        topic.partitions.retain(|partition| {
            let index = partition.partition_index;
            let exists = image.partition(&topic.name, index).is_some();
            if !exists {
                let code = ErrorCode::UnknownTopicOrPartition.code();
                let refusal = OffsetDeleteResponsePartition::default();
                unknown.push(refusal.with_partition_index(index).with_error_code(code));
            }
            exists
        });
        if !unknown.is_empty() {
            let topic = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
            refused.push(topic.with_partitions(unknown));
        }
        !topic.partitions.is_empty()
    });
    refused
}
