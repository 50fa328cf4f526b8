//! Who this node is: the id of the cluster that it belongs to, before anything is written.
//!
//! A folder that has an identity keeps it. A new one takes the id that the settings give; without
//! one, a node that may found a cluster makes an id, and any other node asks the controllers. Two
//! nodes never found two clusters: a node that shares its quorum with others founds one only with
//! the permission `ottla.quorum.founding`, which is given to one node, once.

use std::time::Duration;

use kafka_protocol::messages::DescribeClusterRequest;

use crate::config::Settings;
use crate::controller::ControllerLink;
use crate::env::Env;
use crate::error::Fault;
use crate::log::{MetaProperties, uuid_to_text};

/// How long a new broker waits for a controller that can tell it the id.
const PATIENCE: Duration = Duration::from_mins(1);
/// DescribeCluster's word for the controllers' endpoints.
const CONTROLLERS: i8 = 2;

/// The id of the cluster. Refuses to start when the settings and a folder disagree.
pub async fn cluster_id(env: &Env, settings: &Settings) -> Result<String, Fault> {
    let found = {
        let (env, dirs) = (env.clone(), settings.log_dirs.clone());
        env.clone()
            .blocking(move || {
                let read = |dir| MetaProperties::read(&*env.disk, dir);
                dirs.iter().map(|dir| read(dir)).collect::<Result<Vec<_>, _>>()
            })
            .await?
    };
    for (dir, meta) in settings.log_dirs.iter().zip(&found) {
        if let (Some(meta), Some(given)) = (meta, &settings.cluster_id)
            && meta.cluster_id != *given
        {
            return Err(Fault::Start(format!(
                "{}: holds data of cluster {}, but the settings say cluster {given}: this node \
                 was given a folder of another cluster; use another one, or correct the id",
                dir.display(),
                meta.cluster_id
            )));
        }
    }
    if let Some(meta) = found.into_iter().flatten().next() {
        return Ok(meta.cluster_id);
    }
    if let Some(given) = &settings.cluster_id {
        return Ok(given.clone());
    }
    if may_found(settings) {
        let id = uuid_to_text(env.random.uuid());
        tracing::info!(cluster = id, "founding a new cluster");
        return Ok(id);
    }
    if settings.quorum.voters.iter().any(|voter| voter.id == settings.node_id) {
        // None of them could tell the others: each would wait for one that knows.
        return Err(Fault::Start(
            "controller.quorum.voters names several voters and this one's folders are empty: give \
             all of them the same CLUSTER_ID"
                .to_owned(),
        ));
    }
    tracing::info!("a new node: asking the controllers for the id of the cluster");
    let link = ControllerLink::new(env, settings, "identity");
    let request = DescribeClusterRequest::default().with_endpoint_type(CONTROLLERS);
    let answer = link.send_within(request, PATIENCE).await.map_err(|error| {
        Fault::Start(format!("the id of the cluster could not be learned: {error}"))
    })?;
    match answer.error_code {
        0 => Ok(answer.cluster_id.to_string()),
        code => {
            Err(Fault::Start(format!("the controller does not tell its cluster: error {code}")))
        }
    }
}

/// The only voter of the settings, or the one that has the permission.
fn may_found(settings: &Settings) -> bool {
    let alone = matches!(&settings.quorum.voters[..], [only] if only.id == settings.node_id);
    settings.roles.controller && (alone || settings.quorum_founding)
}
