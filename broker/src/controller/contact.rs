//! Death notices: the connection over which a broker heartbeats has closed.
//!
//! A process that dies closes its connections at once, long before its session ends. So the end of
//! that connection starts a [`probe`] of the broker's listener: where nobody listens any more, no
//! process lives, and the broker is fenced now. Any other outcome proves nothing (its next process
//! may have the port already, the network may be down): then the broker has [`GRACE`] to be heard
//! of again. A broker whose connection stays open is judged by its session alone, so that one that
//! is starved of processor time, but heartbeats, is never taken for dead.
//!
//! The same holds for a new process with the broker's id: it may register as soon as the old one's
//! connection has closed, and is refused while that is open and its session valid.

use std::io::ErrorKind;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::driver::{Controller, Job, hint};
use crate::env::Env;
use crate::types::{BrokerEpoch, NodeId};

/// How long a broker whose connection closed may stay silent before it is fenced.
pub const GRACE: Duration = Duration::from_millis(400);
/// A listener that still accepts belongs to a process that lives, if it keeps the connection so long.
const HELD: Duration = Duration::from_millis(100);
/// Between two attempts to connect to a process that may be about to end.
const PAUSE: Duration = Duration::from_millis(10);

/// One connection over which a broker registers and heartbeats: attached to it, dropped with it.
pub struct Contact {
    controller: Weak<Controller>,
    pub number: u64,
}

impl Contact {
    pub fn new(controller: &Arc<Controller>) -> Self {
        Self { controller: Arc::downgrade(controller), number: controller.next_contact() }
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        if let Some(controller) = self.controller.upgrade() {
            controller.note_closed(self.number);
        }
    }
}

/// A broker that may be dead, and where it listened.
pub(super) struct Suspect {
    pub id: NodeId,
    pub epoch: BrokerEpoch,
    pub host: Arc<str>,
    pub port: u16,
}

/// Finds out whether a process listens where the broker did; tells the controller when none does.
pub(super) async fn probe(env: Env, suspect: Suspect, controller: mpsc::WeakSender<Job>) {
    let deadline = env.clock.now() + GRACE;
    while env.clock.now() < deadline {
        let Suspect { id, epoch, ref host, port } = suspect;
        let connecting = tokio::time::timeout_at(deadline, env.net.connect(host, port));
        match connecting.await {
            Ok(Ok(mut stream)) => {
                // The listener of a process that ends may outlive its other connections a little.
                let mut byte = [0; 1];
                if tokio::time::timeout(HELD, stream.read(&mut byte)).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                tracing::info!(broker = id, "nobody listens where this broker did");
                if let Some(controller) = controller.upgrade() {
                    let job = hint(move |core, now| core.sessions.declare_dead(id, epoch, now));
                    // An error: the controller itself has ended.
                    let _ = controller.send(job).await;
                }
                return;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        env.clock.sleep(PAUSE).await;
    }
}
