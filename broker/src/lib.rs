//! The broker and the controller quorum of Ottla.
//!
//! The modules stand in the order in which a request meets them; each knows only those below it,
//! and `api` alone sees them all. `docs/ARCHITECTURE.md` is the tour.

pub mod api;
pub mod broker;
pub mod config;
pub mod controller;
pub mod coordinator;
pub mod env;
pub mod error;
mod identity;
pub mod log;
pub mod net;
pub mod raft;
pub mod replica;
pub mod share;
pub mod types;
pub mod wire;
