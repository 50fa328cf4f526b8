//! Listeners, frames, and connections with in-order replies; outgoing connections to peers.
