//! What the coordinator of transactional ids is asked, and what it answers.

use std::collections::BTreeSet;

use super::state::{Producer, State, Transaction};
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, TopicPartition};

#[derive(Debug, Clone)]
pub enum Call {
    Init {
        transactional_id: String,
        timeout_ms: i32,
        /// The producer that the client believes to be.
        expected: Option<Producer>,
        /// A producer id that nobody has, once the coordinator has asked for one.
        fresh: Option<i64>,
    },
    Add {
        transactional_id: String,
        producer: Producer,
        partitions: BTreeSet<TopicPartition>,
        /// The version of transactions that the client knows.
        version: i16,
    },
    Verify {
        transactional_id: String,
        producer: Producer,
        partitions: BTreeSet<TopicPartition>,
    },
    End {
        transactional_id: String,
        producer: Producer,
        commit: bool,
        version: i16,
        fresh: Option<i64>,
    },
    /// Ends a transaction that took too long, with a fresh producer id.
    Abort {
        transactional_id: String,
        producer: Producer,
        fresh: i64,
    },
    /// These partitions have the marker, or need none any more.
    Marked {
        transactional_id: String,
        coordinator_epoch: LeaderEpoch,
        producer: Producer,
        partitions: Vec<TopicPartition>,
    },
    Describe {
        transactional_id: String,
    },
    List(Filter),
}

/// Which transactions are listed; what is empty lets all pass.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub states: BTreeSet<State>,
    /// A filter of unknown states only lets none pass.
    pub any_state: bool,
    pub producer_ids: BTreeSet<i64>,
    /// Longer than so many milliseconds; negative is no filter.
    pub longer_than_ms: i64,
    pub pattern: Option<regex::Regex>,
}

/// One transaction in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub transactional_id: String,
    pub producer_id: i64,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    /// Whom the client is from now on.
    Producer(Producer),
    /// For each partition whether it is in the transaction.
    Verified(Vec<(TopicPartition, bool)>),
    Described(Box<Transaction>),
    Listed(Vec<Listed>),
    NeedsProducerId,
    Refused(ErrorCode),
}
