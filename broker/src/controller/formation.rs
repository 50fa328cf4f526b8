//! To which cluster a node belongs: what its disks say, what it is told, or what it may decide.
//!
//! A node that has the controller role and empty disks founds a cluster, with the given id or a
//! fresh one. A broker with empty disks takes the id it is given, or asks the controller. Disks
//! that know an id are never given another one: a mismatch stops the start and says what to do.

use std::path::PathBuf;
use std::time::Duration;

use kafka_protocol::messages::DescribeClusterRequest;

use super::link::ControllerLink;
use crate::config::Settings;
use crate::env::Env;
use crate::error::Fault;
use crate::log::{MetaProperties, uuid_to_text};

/// How long a broker waits for the controller before it says that it still does.
const PATIENCE: Duration = Duration::from_secs(5);
/// DescribeCluster asks for controllers.
const CONTROLLERS: i8 = 2;

/// The id of this node's cluster; waits for the controller when only that can tell.
pub async fn cluster_id(env: &Env, settings: &Settings) -> Result<String, Fault> {
    let folders = folders(settings);
    let known = env
        .blocking({
            let env = env.clone();
            move || known(&env, &folders)
        })
        .await?;
    match (known, &settings.cluster_id) {
        (Some((id, folder)), Some(given)) if id != *given => Err(Fault::Start(format!(
            "{}: the data in it belongs to cluster {id}, but the cluster id given is {given}; \
             correct the id, or use another log directory",
            folder.display()
        ))),
        (Some((id, _)), _) => Ok(id),
        (None, Some(given)) => Ok(given.clone()),
        (None, None) if settings.roles.controller => Ok(uuid_to_text(env.random.uuid())),
        (None, None) => ask(env, settings).await,
    }
}

fn folders(settings: &Settings) -> Vec<PathBuf> {
    let mut folders = settings.log_dirs.clone();
    folders.push(settings.metadata_log_dir.clone());
    folders.dedup();
    folders
}

/// What the disks say, and which one said it first. They must agree.
fn known(env: &Env, folders: &[PathBuf]) -> Result<Option<(String, PathBuf)>, Fault> {
    let mut known: Option<(String, PathBuf)> = None;
    for folder in folders {
        let Some(meta) = MetaProperties::read(&*env.disk, folder)? else { continue };
        match &known {
            Some((id, other)) if *id != meta.cluster_id => {
                return Err(Fault::Start(format!(
                    "{} belongs to cluster {}, but {} to cluster {id}",
                    folder.display(),
                    meta.cluster_id,
                    other.display()
                )));
            }
            Some(_) => {}
            None => known = Some((meta.cluster_id, folder.clone())),
        }
    }
    Ok(known)
}

async fn ask(env: &Env, settings: &Settings) -> Result<String, Fault> {
    let link = ControllerLink::new(env, settings, "formation");
    loop {
        let request = DescribeClusterRequest::default().with_endpoint_type(CONTROLLERS);
        match link.send_within(request, PATIENCE).await {
            Ok(answer) if answer.error_code == 0 && !answer.cluster_id.is_empty() => {
                let id = answer.cluster_id.to_string();
                tracing::info!(id, "learned the cluster id from the controller");
                return Ok(id);
            }
            Ok(answer) => {
                tracing::warn!(
                    error = answer.error_code,
                    "the controller does not tell its cluster"
                );
                env.clock.sleep(PATIENCE).await;
            }
            Err(error) => tracing::warn!(%error, "waiting for the controller"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real;

    #[tokio::test]
    async fn disks_that_know_their_cluster_are_never_given_another() {
        let env = real::env();
        let dir = tempfile::tempdir().unwrap();
        let settings = |given: Option<&str>| {
            let mut settings = Settings::for_test(&format!("log.dirs={}", dir.path().display()));
            settings.cluster_id = given.map(str::to_owned);
            settings
        };
        let fresh = cluster_id(&env, &settings(None)).await.unwrap();
        assert_eq!(fresh.len(), 22);
        assert_eq!(cluster_id(&env, &settings(Some("given"))).await.unwrap(), "given");
        let meta = MetaProperties {
            cluster_id: "mine".into(),
            node_id: 1,
            directory_id: uuid::Uuid::from_u128(1 << 90),
        };
        meta.write(&*env.disk, dir.path()).unwrap();
        assert_eq!(cluster_id(&env, &settings(None)).await.unwrap(), "mine");
        assert_eq!(cluster_id(&env, &settings(Some("mine"))).await.unwrap(), "mine");
        let fault = cluster_id(&env, &settings(Some("other"))).await.unwrap_err().to_string();
        assert!(fault.contains("belongs to cluster mine"), "{fault}");
    }
}
