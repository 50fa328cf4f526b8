//! Listeners, frames, and connections with in-order replies; outgoing connections to peers.
//!
//! What a client can make a connection hold is bounded: a frame's memory grows with the bytes that
//! came, unanswered requests are counted, and connections are counted in all and by address.

mod budget;
mod connection;
mod frame;
pub mod http;
mod limits;
pub mod metrics;
pub mod peer;
pub mod server;
mod write;

pub use connection::MAX_UNANSWERED;
pub use metrics::Metrics;
pub use peer::{Peer, PeerError};
pub use server::{Bound, Server};
