//! Starts a broker, wires its parts together, and shuts it down.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::api::auto_create::AutoCreate;
use crate::config::Settings;
use crate::controller::{Controller, ControllerLink, Image};
use crate::coordinator::runtime::Groups;
use crate::env::Env;
use crate::replica::Partitions;

/// All parts of a running node.
pub struct Broker {
    pub env: Env,
    pub settings: Settings,
    /// The cluster as this node knows it.
    pub image: Arc<ArcSwap<Image>>,
    pub partitions: Arc<Partitions>,
    pub groups: Arc<Groups>,
    /// On a node with the controller role.
    pub controller: Option<Arc<Controller>>,
    /// To the active controller, wherever it is.
    pub link: Arc<ControllerLink>,
    /// Topics that clients named and that are being created.
    pub auto_create: AutoCreate,
}
