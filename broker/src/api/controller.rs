//! What the files of controller APIs share: a decision of the active controller.

use std::sync::Arc;

use tokio::time::Instant;

use crate::broker::Broker;
use crate::controller::Decision;
use crate::controller::driver::Core;
use crate::error::{ErrorCode, Refusal};

/// Has the controller of this node decide. Without one: NOT_CONTROLLER.
pub(super) async fn decide<R: Send + 'static>(
    broker: &Arc<Broker>,
    decision: impl FnOnce(&mut Core, Instant) -> Result<Decision<R>, Refusal> + Send + 'static,
) -> Result<R, Refusal> {
    match &broker.controller {
        Some(controller) => controller.decide(decision).await,
        None => Err(Refusal::new(
            ErrorCode::NotController,
            "This is not the correct controller for this cluster.",
        )),
    }
}
