//! What the files of controller APIs share: a decision of the active controller, or its refusal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafka_protocol::protocol::Request;
use tokio::time::Instant;

use super::Client;
use crate::broker::Broker;
use crate::controller::Decision;
use crate::controller::contact::Contact;
use crate::controller::driver::Core;
use crate::error::{ErrorCode, Refusal};

/// A request that may be refused as a whole: its answer says so wherever the API has a place for
/// it, part by part or once. Controllers refuse so, and brokers that reach none.
pub(super) trait Refusable: Request {
    fn refuse(&self, version: i16, refusal: &Refusal) -> Self::Response;
}

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

/// As [`decide`], for a request that refuses itself. A broker that passed it on hears by the
/// envelope that it asked the wrong node, and finds the right one; its client need not know.
pub(super) async fn answer<R>(
    broker: &Arc<Broker>,
    client: &Client,
    request: R,
    decision: impl FnOnce(&mut Core, &R) -> Result<Decision<R::Response>, Refusal> + Send + 'static,
) -> R::Response
where
    R: Refusable + Clone + Send + 'static,
    R::Response: Send + 'static,
{
    let asked = request.clone();
    let decided = decide(broker, move |core: &mut Core, _| decision(core, &request)).await;
    decided.unwrap_or_else(|refusal| {
        if refusal.code == ErrorCode::NotController {
            client.connection.misdirected.store(true, Ordering::Relaxed);
        }
        asked.refuse(client.version, &refusal)
    })
}

/// The number under which the controller of this node knows the connection: its end is the first
/// sign that the broker behind it is gone.
pub(super) fn contact(broker: &Broker, client: &Client) -> Option<u64> {
    let controller = broker.controller.as_ref()?;
    client.connection.attached.once(|| Contact::new(controller), |contact| contact.number)
}
