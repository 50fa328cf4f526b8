//! Who looks after the voters of a quorum that can change: the controllers that are there become
//! voters, and a voter whose disk was replaced is removed and added again under its new identity.
//!
//! Works from the start to the end of a run, faults or not. It does one thing at a time, and only
//! by what the leader of the quorum says.

use std::io;
use std::time::Duration;

use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{
    AddRaftVoterRequest, DescribeQuorumRequest, RemoveRaftVoterRequest,
};
use rand::Rng;
use tokio::time::sleep;
use uuid::Uuid;

use super::{World, name, text};
use crate::simulation::scenario::{CONTROLLER_PORT, CONTROLLERS, host};
use crate::simulation::wire::Connection;

const LISTENER: &str = "CONTROLLER";
/// Between two looks at the voters.
const EVERY: Duration = Duration::from_millis(200);

/// What is to be done about the voters.
#[derive(Debug)]
enum Step {
    Add(usize, Uuid),
    Remove(i32, Uuid),
}

impl World {
    pub async fn look_after_voters(self) {
        let mut random = self.random("operator");
        loop {
            let asked = random.random_range(0..CONTROLLERS);
            match self.one_step(asked).await {
                Ok(Some(step)) => self.trace.note(&format!("operator: {step:?}")),
                Ok(None) => {}
                Err(error) => self.trace.note(&format!("operator: node {asked}: {error}")),
            }
            sleep(EVERY).await;
        }
    }

    /// The directory of a controller that runs: as a status of its pod would tell it.
    fn directory(&self, node: usize) -> Option<Uuid> {
        self.nodes[node].broker().map(|it| it.log_dirs.metadata_id())
    }

    async fn one_step(&self, asked: usize) -> io::Result<Option<Step>> {
        let mut connection = Connection::open(&host(asked), CONTROLLER_PORT).await?;
        let Some(voters) = voters(&mut connection).await? else { return Ok(None) };
        let known = |node: usize| voters.iter().find(|(id, _)| *id == node as i32);
        let step = (0..CONTROLLERS).find_map(|node| match (known(node), self.directory(node)) {
            (None, Some(directory)) => Some(Step::Add(node, directory)),
            (Some((id, old)), Some(directory)) if *old != directory => {
                Some(Step::Remove(*id, *old))
            }
            _ => None,
        });
        let complete = (0..CONTROLLERS)
            .all(|node| known(node).is_some_and(|(_, it)| Some(*it) == self.directory(node)));
        self.voters_are_complete.set(complete);
        match &step {
            None => {}
            Some(Step::Add(node, directory)) => add(&mut connection, *node, *directory).await?,
            Some(Step::Remove(id, directory)) => remove(&mut connection, *id, *directory).await?,
        }
        Ok(step)
    }
}

/// The voters, if the node that is asked leads, with their directories.
async fn voters(connection: &mut Connection) -> io::Result<Option<Vec<(i32, Uuid)>>> {
    let partition = PartitionData::default().with_partition_index(0);
    let topic = TopicData::default()
        .with_topic_name(name("__cluster_metadata"))
        .with_partitions(vec![partition]);
    let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
    let answer = connection.call(&request, 2).await?;
    let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
    let Some(partition) = partition.filter(|it| answer.error_code == 0 && it.error_code == 0)
    else {
        return Ok(None);
    };
    let voters = partition.current_voters.iter();
    Ok(Some(voters.map(|it| (it.replica_id.0, it.replica_directory_id)).collect()))
}

async fn add(connection: &mut Connection, node: usize, directory: Uuid) -> io::Result<()> {
    let listener = Listener::default()
        .with_name(text(LISTENER))
        .with_host(text(&host(node)))
        .with_port(CONTROLLER_PORT);
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_timeout_ms(2000)
        .with_voter_id(node as i32)
        .with_voter_directory_id(directory)
        .with_listeners(vec![listener]);
    let answer = connection.call(&request, 0).await?;
    accepted(answer.error_code)
}

async fn remove(connection: &mut Connection, id: i32, directory: Uuid) -> io::Result<()> {
    let request = RemoveRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(id)
        .with_voter_directory_id(directory);
    let answer = connection.call(&request, 0).await?;
    accepted(answer.error_code)
}

fn accepted(code: i16) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::other(format!("refused: {code}"))) }
}
