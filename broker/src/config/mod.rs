//! Settings: from server.properties and the environment to typed values, and what they mean for a topic.
//!
//! Nothing is ignored in silence: a setting that Ottla does not know, does not need or does not
//! support yet is named in one warning; one that would break a promise when ignored (security, a
//! second voter, tiered storage) or that cannot be right stops the start. The definitions are text,
//! `broker.table` and `topic.table`; refusals of values carry Kafka's wording.

pub mod definition;
mod derive;
mod environment;
pub mod group;
mod listeners;
pub mod properties;
pub mod reset;
mod settings;
pub mod topic;

pub use environment::{Environment, environment};
pub use listeners::{Endpoint, Listeners, Protocol};
pub use properties::Properties;
pub use settings::{CreateTopic, Loaded, Quorum, Roles, Settings, Voter};
pub use topic::{Layers, TopicSettings};
