//! Listeners, frames, and connections with in-order replies; outgoing connections to peers.

mod frame;
pub mod peer;
mod write;
