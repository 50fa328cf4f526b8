//! The CustomResourceDefinitions as files: what `ottla crds` writes and the chart carries.

use std::path::Path;
use std::{fs, io};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::resources::{KafkaCluster, KafkaTopic};

/// File name and content of each CustomResourceDefinition.
pub fn files() -> Vec<(String, String)> {
    definitions().into_iter().map(|crd| (file_name(&crd), yaml(&crd))).collect()
}

/// The CustomResourceDefinitions themselves, as `kubectl apply` takes them.
pub fn definitions() -> Vec<Value> {
    [KafkaCluster::crd(), KafkaTopic::crd()].into_iter().map(finished).collect()
}

/// Writes the files into `folder`, which is made when it is missing.
pub fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    files().into_iter().try_for_each(|(name, content)| fs::write(folder.join(name), content))
}

fn file_name(crd: &Value) -> String {
    let name = |field: &str| crd["spec"]["names"][field].as_str().unwrap_or_default().to_owned();
    format!("{}.yaml", name("singular"))
}

fn yaml(crd: &Value) -> String {
    let text = serde_yaml::to_string(crd).expect("a CustomResourceDefinition is plain data");
    format!("# Written by `ottla crds` from operator/src/resources. Do not edit.\n{text}")
}

/// The definition without what only costs space: the long texts of Kubernetes' own types inside
/// ours, and formats that the API server does not know.
fn finished(crd: CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a CustomResourceDefinition is plain data");
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for pod_field in ["affinity", "tolerations", "imagePullSecrets"] {
        let path = format!("/properties/spec/properties/podTemplate/properties/{pod_field}");
        if let Some(field) = schema.pointer_mut(&path) {
            for inner in ["properties", "items"] {
                if let Some(inner) = field.get_mut(inner) {
                    without_descriptions(inner);
                }
            }
        }
    }
    crd
}

fn without_descriptions(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "description" || !value.is_string());
            fields.values_mut().for_each(without_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(folder: &str) -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let same = |(name, content): &(String, String)| {
            fs::read_to_string(folder.join(name)).is_ok_and(|found| found == *content)
        };
        files().into_iter().filter(|file| !same(file)).map(|(name, _)| name).collect()
    }

    #[test]
    fn the_committed_files_are_what_the_types_say() {
        if std::env::var_os("OTTLA_WRITE_CRDS").is_some() {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            write(&root.join("crds")).unwrap();
            write(&root.join("charts/ottla/crds")).unwrap();
        }
        for folder in ["crds", "charts/ottla/crds"] {
            let differs = differs(folder);
            assert!(differs.is_empty(), "run `ottla crds --out {folder}`: {differs:?} differ");
        }
    }

    #[test]
    fn every_field_is_described() {
        for crd in definitions() {
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
            for part in ["spec", "status"] {
                for (name, field) in schema[part]["properties"].as_object().unwrap() {
                    assert!(field["description"].is_string(), "{part}.{name}: {field}");
                }
            }
        }
    }
}
