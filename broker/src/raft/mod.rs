//! The metadata log and its quorum.
