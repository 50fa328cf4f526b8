//! Producer ids: taken from the controller in blocks, given out one by one, never twice.

use std::ops::Range;
use std::sync::Arc;

use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::{AllocateProducerIdsRequest, BrokerId};
use tokio::sync::Mutex;

use super::context::Context;
use super::remote::ToController;
use crate::error::ErrorCode;

pub struct ProducerIds {
    context: Arc<Context>,
    controller: Arc<dyn ToController>,
    /// Held while a block is fetched: whoever comes meanwhile waits for the same one.
    block: Mutex<Range<i64>>,
}

impl ProducerIds {
    pub fn new(context: Arc<Context>, controller: Arc<dyn ToController>) -> Self {
        Self { context, controller, block: Mutex::new(0..0) }
    }

    /// A new id. COORDINATOR_LOAD_IN_PROGRESS, which clients retry, while the controller is away.
    pub async fn next(&self) -> Result<i64, ErrorCode> {
        let mut block = self.block.lock().await;
        if let Some(id) = block.next() {
            return Ok(id);
        }
        let me = self.context.me;
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(BrokerId(me))
            .with_broker_epoch(self.context.broker_epoch());
        let response = self.controller.allocate_producer_ids(request).await;
        let response = response.map_err(|error| {
            tracing::debug!(error, "no producer ids");
            ErrorCode::CoordinatorLoadInProgress
        })?;
        if let Some(code) = response.error_code.err() {
            tracing::debug!(?code, "no producer ids");
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let start = response.producer_id_start.0;
        *block = start..start + i64::from(response.producer_id_len);
        block.next().ok_or(ErrorCode::UnknownServerError)
    }
}
