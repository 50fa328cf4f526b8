//! What of a changed manifest can be done to brokers that already run.
//!
//! Scaling and growing volumes need the brokers' consent, which is not built yet. Such a change is
//! refused by name, and everything else in the manifest goes ahead with the old value.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;

use super::layout::Layout;
use super::{ValidCluster, names};
use crate::resources::Controllers;

/// A field that was changed and cannot follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub field: &'static str,
    pub message: String,
}

/// Who votes in the cluster of `set`.
pub fn running_layout(set: &StatefulSet) -> Layout {
    let written = set.annotations().get(names::LAYOUT_ANNOTATION);
    written.and_then(|text| text.parse().ok()).unwrap_or(Layout::Static)
}

/// Replaces by the running value whatever cannot change yet, and says what that was.
pub fn settle(
    mut cluster: ValidCluster,
    running: Option<&StatefulSet>,
) -> (ValidCluster, Vec<Refused>) {
    let mut refused = Vec::new();
    let Some(set) = running else { return (cluster, refused) };
    let Some(running) = set.spec.as_ref() else { return (cluster, refused) };
    if let Some(replicas) = running.replicas.filter(|count| *count != cluster.spec.replicas) {
        refused.push(Refused {
            field: "spec.replicas",
            message: format!(
                "is {}, but the cluster runs {replicas} brokers and cannot be scaled yet",
                cluster.spec.replicas
            ),
        });
        cluster.spec.replicas = replicas;
    }
    refused.extend(settle_layout(&mut cluster, running_layout(set)));
    let claims = running.volume_claim_templates.as_deref().unwrap_or_default();
    let Some(claim) = claims.first().and_then(|claim| claim.spec.as_ref()) else {
        return (cluster, refused);
    };
    let storage = &mut cluster.spec.storage;
    let requests = claim.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(size) = requests.and_then(|requests| requests.get("storage"))
        && size.0 != storage.size
    {
        refused.push(Refused {
            field: "spec.storage.size",
            message: format!(
                "is {}, but the volumes have {} and cannot grow yet",
                storage.size, size.0
            ),
        });
        storage.size.clone_from(&size.0);
    }
    // The API server fills in a default class in the claims only, not in the template.
    if claim.storage_class_name != storage.class {
        let name =
            |class: &Option<String>| class.clone().unwrap_or_else(|| "the default".to_owned());
        refused.push(Refused {
            field: "spec.storage.class",
            message: format!(
                "is {}, but the volumes are of class {} and cannot move",
                name(&storage.class),
                name(&claim.storage_class_name)
            ),
        });
        storage.class.clone_from(&claim.storage_class_name);
    }
    (cluster, refused)
}

/// Who votes stays as it is.
fn settle_layout(cluster: &mut ValidCluster, running: Layout) -> Option<Refused> {
    let asked = Layout::new(&cluster.spec.controllers, cluster.spec.replicas);
    cluster.layout = running;
    // A cluster of an earlier version has one voter, whatever its manifest leaves unsaid.
    let unsaid = running == Layout::Static && cluster.spec.controllers == Controllers::default();
    (asked != running && !unsaid).then(|| Refused {
        field: "spec.controllers",
        message: format!("asks for {asked}, but the cluster runs with {running} and cannot change"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;
    use crate::cluster::{Pool, build};
    use crate::resources::ControllersMode;

    #[test]
    fn a_new_cluster_is_as_its_manifest_says() {
        assert_eq!(settle(demo(), None), (demo(), vec![]));
    }

    #[test]
    fn an_unchanged_manifest_changes_nothing() {
        let running = build::stateful_set::stateful_set(&demo(), Pool::Brokers, "id", "image");
        assert_eq!(settle(demo(), Some(&running)), (demo(), vec![]));
    }

    #[test]
    fn the_voters_of_a_running_cluster_stay_and_an_earlier_one_keeps_its_single_voter() {
        let mut running = build::stateful_set::stateful_set(&demo(), Pool::Brokers, "id", "image");
        let mut dedicated = demo();
        dedicated.spec.controllers.mode = ControllersMode::Dedicated;
        let (settled, refused) = settle(dedicated, Some(&running));
        assert_eq!(settled.layout, Layout::Combined { voters: 3 });
        assert_eq!(refused[0].field, "spec.controllers");
        running.metadata.annotations = None;
        let (settled, refused) = settle(demo(), Some(&running));
        assert_eq!((settled.layout, refused), (Layout::Static, vec![]));
    }

    #[test]
    fn what_cannot_change_stays_and_is_named() {
        let running = build::stateful_set::stateful_set(&demo(), Pool::Brokers, "id", "image");
        let mut changed = demo();
        changed.spec.replicas = 5;
        changed.spec.storage.size = "2Gi".to_owned();
        changed.spec.storage.class = Some("fast".to_owned());
        changed.config.insert("num.io.threads".to_owned(), "4".to_owned());
        let (settled, refused) = settle(changed.clone(), Some(&running));
        let fields: Vec<_> = refused.iter().map(|refused| refused.field).collect();
        assert_eq!(fields, ["spec.replicas", "spec.storage.size", "spec.storage.class"]);
        assert_eq!(settled.spec, demo().spec);
        assert_eq!(settled.config, changed.config);
    }
}
