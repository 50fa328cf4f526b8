//! Share groups as a leader of partitions serves them: acquisition, acknowledgement, sessions.

pub mod partition;
