//! A small Kafka client: what the operator and the `kafka-*.sh` tools need, and no more.
//!
//! From the bottom up: [`connection`] is one socket to one broker; [`Client`] knows the brokers and
//! who leads what; [`Admin`], [`Producer`] and [`Consumer`] stand on it; [`Controllers`]
//! asks the quorum at its own listeners. [`records`] reads and
//! writes record batches as the Java client does, [`text`] holds Kafka's printed forms.
//!
//! Invariants: requests to one broker leave in the order in which they were made; an answer is
//! matched to its request by correlation id, and a mismatch closes the connection; addresses are
//! resolved anew at each connect, because a pod has a new address after each restart.
//!
//! Deliberately absent: TLS and SASL, transactional producers, KIP-848 group membership (such groups
//! are described, not joined), fetch sessions, topic ids in Produce and Fetch.

mod admin;
mod client;
mod connection;
mod consumer;
mod controllers;
mod error;
mod names;
mod producer;
pub mod records;
pub mod text;

pub use admin::{
    ActiveProducer, Admin, Cluster, ConfigEntry, ConfigOp, ConfigSource, ConfigSynonym, ConfigType,
    Election, Features, GroupDescription, GroupListing, GroupMember, GroupOffset, LogDir, NewTopic,
    OffsetSpec, OpenTransaction, PartitionInfo, Quorum, QuorumEndpoint, QuorumReplica,
    Reassignment, Resource, ResourceType, SupportedApis, Topic, TransactionDescription,
    TransactionFilter, TransactionListing,
};
pub use client::{Client, CoordinatorKey, Node, Options};
pub use connection::{Connection, Pending};
pub use consumer::{
    Assignor, Consumer, ConsumerOptions, ConsumerRecord, Isolation, OffsetReset, StartAt,
    Subscription,
};
pub use controllers::Controllers;
pub use error::{Error, ErrorCode, Result};
pub use names::TopicPartition;
pub use producer::{
    Acks, Delivered, Delivery, Producer, ProducerOptions, ProducerRecord, partition_for_key,
};
