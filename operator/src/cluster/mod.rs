//! `KafkaCluster`: from a manifest to brokers that serve.

pub mod build;
mod gather;
pub mod identity;
pub mod layout;
pub mod names;
pub(crate) mod reconcile;
pub mod settle;
mod status;
pub mod validate;
mod voters;

pub use layout::{Layout, Pool};
pub use validate::{ValidCluster, validate};

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Three brokers called `demo` in the namespace `shop`.
    pub fn demo() -> ValidCluster {
        let manifest = "{apiVersion: ottla.dev/v1alpha1, kind: KafkaCluster, \
            metadata: {name: demo, namespace: shop, uid: u-1}, spec: {storage: {size: 1Gi}}}";
        validate(&serde_yaml::from_str(manifest).unwrap()).unwrap()
    }
}
