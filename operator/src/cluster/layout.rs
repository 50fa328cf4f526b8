//! Which nodes vote on the metadata.
//!
//! Brokers have the node ids from 0 on. Dedicated controllers have ids of their own far above, so
//! that neither ever takes the place of the other. The layout of a cluster is chosen when it is
//! made: voters with it are on disks, and a later change would need a roll, which is not built yet.

use std::fmt;
use std::str::FromStr;

use crate::resources::{Controllers, ControllersMode};

/// The id of the first dedicated controller.
pub const FIRST_CONTROLLER: i32 = 1000;
/// How many vote where the manifest does not say and there are enough nodes.
const VOTERS: i32 = 3;

/// Who votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Node 0, named in the settings of all: what clusters made by earlier versions have.
    Static,
    /// The first brokers.
    Combined { voters: i32 },
    /// Nodes that are no brokers.
    Dedicated { voters: i32 },
}

/// The kinds of nodes that a cluster can have, each with a StatefulSet of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    Brokers,
    Controllers,
}

impl Pool {
    pub fn of(node_id: i32) -> Self {
        if node_id >= FIRST_CONTROLLER { Self::Controllers } else { Self::Brokers }
    }

    /// The name by which objects and labels tell the pools apart.
    pub fn name(self) -> &'static str {
        match self {
            Self::Brokers => "broker",
            Self::Controllers => "controller",
        }
    }
}

impl Layout {
    /// What `controllers` asks for, in a cluster of `brokers`.
    pub fn new(controllers: &Controllers, brokers: i32) -> Self {
        let enough = controllers.mode == ControllersMode::Dedicated || brokers >= VOTERS;
        let voters = controllers.replicas.unwrap_or(if enough { VOTERS } else { 1 });
        match controllers.mode {
            ControllersMode::Combined => Self::Combined { voters },
            ControllersMode::Dedicated => Self::Dedicated { voters },
        }
    }

    /// The ids of the nodes that vote when all is as it should be.
    pub fn voters(self) -> impl Iterator<Item = i32> + Clone + use<> {
        match self {
            Self::Static => 0..1,
            Self::Combined { voters } => 0..voters,
            Self::Dedicated { voters } => FIRST_CONTROLLER..FIRST_CONTROLLER + voters,
        }
    }

    /// The ids of the nodes that are no brokers.
    pub fn dedicated(self) -> std::ops::Range<i32> {
        match self {
            Self::Static | Self::Combined { .. } => 0..0,
            Self::Dedicated { voters } => FIRST_CONTROLLER..FIRST_CONTROLLER + voters,
        }
    }

    pub fn votes(self, node_id: i32) -> bool {
        self.voters().any(|id| id == node_id)
    }

    /// The node that may found the cluster.
    pub fn founder(self) -> i32 {
        self.voters().next().unwrap_or_default()
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Combined { voters } => write!(f, "combined-{voters}"),
            Self::Dedicated { voters } => write!(f, "dedicated-{voters}"),
        }
    }
}

impl FromStr for Layout {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "static" {
            return Ok(Self::Static);
        }
        let (mode, voters) = text.split_once('-').ok_or(())?;
        let voters = voters.parse().ok().filter(|voters| [1, 3, 5].contains(voters)).ok_or(())?;
        match mode {
            "combined" => Ok(Self::Combined { voters }),
            "dedicated" => Ok(Self::Dedicated { voters }),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mode: ControllersMode, replicas: Option<i32>) -> Controllers {
        Controllers { mode, replicas, ..Controllers::default() }
    }

    #[test]
    fn the_first_three_brokers_vote_where_there_are_three() {
        use ControllersMode::{Combined, Dedicated};
        let table = [
            (Combined, None, 1, vec![0]),
            (Combined, None, 2, vec![0]),
            (Combined, None, 3, vec![0, 1, 2]),
            (Combined, None, 7, vec![0, 1, 2]),
            (Combined, Some(1), 3, vec![0]),
            (Combined, Some(5), 7, vec![0, 1, 2, 3, 4]),
            (Dedicated, None, 1, vec![1000, 1001, 1002]),
            (Dedicated, Some(1), 3, vec![1000]),
        ];
        for (mode, replicas, brokers, voters) in table {
            let layout = Layout::new(&asked(mode, replicas), brokers);
            assert_eq!(layout.voters().collect::<Vec<_>>(), voters, "{mode:?} {replicas:?}");
            assert_eq!(layout.founder(), voters[0]);
            assert_eq!(layout.to_string().parse(), Ok(layout));
        }
    }

    #[test]
    fn dedicated_controllers_have_ids_that_no_broker_can_have() {
        let layout = Layout::Dedicated { voters: 5 };
        assert!(layout.dedicated().all(|id| id > 100 && Pool::of(id) == Pool::Controllers));
        assert_eq!(Pool::of(99), Pool::Brokers);
        assert!("combined-2".parse::<Layout>().is_err() && "x".parse::<Layout>().is_err());
    }
}
