//! Feature levels of the cluster: UpdateFeatures.
//!
//! A level is finalized only when every registered broker and controller supports it; one that is
//! not built here is never finalized. Deliberately absent: metadata.version below 30, the only one
//! whose records are written, and changing kraft.version, which is the quorum's.

use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::brokers::supported_features;
use super::decision::{Decision, ELR_FEATURE, View};
use super::image::{Image, ResourceType, SupportedFeature};
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;
use crate::wire::metadata::{ConfigRecord, FeatureLevelRecord, Record};

const KRAFT: &str = "kraft.version";

/// How a level is to change. Kafka tells lossless from lossy ways down; the levels that are
/// supported here have neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Changes feature levels, all of them or none. `version` is the request's.
pub fn update(
    view: View<'_>,
    controller: NodeId,
    request: &UpdateFeaturesRequest,
    version: i16,
) -> Decision<UpdateFeaturesResponse> {
    let elr = |it: &&FeatureUpdateKey| &*it.feature == ELR_FEATURE && it.max_version_level > 0;
    let mut records =
        request.feature_updates.iter().find(elr).map_or_else(Vec::new, |_| elr_rules(view));
    for update in &request.feature_updates {
        let name = &*update.feature;
        match update_one(
            view.image,
            controller,
            name,
            update.max_version_level,
            update.upgrade_type,
        ) {
            Ok(record) => records.extend(record),
            Err(refusal) => {
                let message = format!(
                    "The update failed for all features since the following feature had an error: \
                     {}",
                    refusal.message
                );
                return Decision::nothing(
                    UpdateFeaturesResponse::default()
                        .with_error_code(refusal.code.code())
                        .with_error_message(Some(message.into())),
                );
            }
        }
    }
    let done = |update: &FeatureUpdateKey| {
        UpdatableFeatureResult::default()
            .with_feature(update.feature.clone())
            .with_error_message(None)
    };
    let mut response = UpdateFeaturesResponse::default().with_error_message(None);
    if version <= 1 {
        response.results = request.feature_updates.iter().map(done).collect();
    }
    if request.validate_only {
        records.clear();
    }
    Decision::new(records, response)
}

/// With eligible leader replicas, the controller and all leaders must agree on
/// `min.insync.replicas`: it is set for the cluster, and for no single broker.
fn elr_rules(view: View<'_>) -> Vec<Record> {
    const MIN_ISR: &str = "min.insync.replicas";
    let set = |resource: &str, value: Option<String>| {
        let of = ResourceType::Broker;
        ConfigRecord {
            resource_type: of.code(),
            resource_name: resource.into(),
            name: MIN_ISR.into(),
            value,
        }
        .into()
    };
    let mut records = Vec::new();
    if !view.image.config(ResourceType::Broker, "").contains_key(MIN_ISR) {
        let value = view.rules.topic_default(MIN_ISR).unwrap_or_else(|| "1".into());
        records.push(set("", Some(value)));
    }
    for (of, resource, config) in view.image.configs() {
        if of == ResourceType::Broker && !resource.is_empty() && config.contains_key(MIN_ISR) {
            records.push(set(resource, None));
        }
    }
    records
}

fn update_one(
    image: &Image,
    controller: NodeId,
    name: &str,
    level: i16,
    way: i8,
) -> Result<Option<Record>, Refusal> {
    let refuse = |why: &str| {
        Err(Refusal::new(
            ErrorCode::InvalidUpdateVersion,
            format!("Invalid update version {level} for feature {name}. {why}"),
        ))
    };
    let way = match way {
        1 => Way::Up,
        2 | 3 => Way::Down,
        _ => return refuse("The controller does not support the given upgrade type."),
    };
    if level < 0 {
        return refuse("A feature version cannot be less than 0.");
    }
    if let Some(why) = not_supported(image, controller, name, level) {
        return refuse(&why);
    }
    let current = image.feature(name);
    if level < current && way == Way::Up {
        return refuse(
            "Can't downgrade the version of this feature without setting the upgrade type to \
             either safe or unsafe downgrade.",
        );
    }
    if level > current && way == Way::Down {
        return refuse("Can't downgrade to a newer version.");
    }
    let known = supported_features().iter().any(|(known, ..)| *known == name)
        || image.features().any(|(known, _)| known == name);
    if !known {
        return refuse(&format!("Feature {name} not found."));
    }
    if name == KRAFT {
        return if level == current {
            Ok(None)
        } else {
            refuse("Changing kraft.version is not supported.")
        };
    }
    Ok(Some(FeatureLevelRecord { name: name.into(), feature_level: level }.into()))
}

/// Who does not support `level`, if anybody.
fn not_supported(image: &Image, controller: NodeId, name: &str, level: i16) -> Option<String> {
    let own = supported_features();
    let own = own.iter().find(|(known, ..)| *known == name);
    let own = own.map_or((0, 0), |(_, min, max)| (*min, *max));
    let of = |features: &[SupportedFeature]| {
        let range = features.iter().find(|it| &*it.name == name);
        range.map_or((0, 0), |it| (it.min, it.max))
    };
    let brokers = image.brokers().map(|it| (format!("Broker {}", it.id), of(&it.features)));
    let others = image.controllers().filter(|it| it.id != controller);
    let controllers = others.map(|it| (format!("Controller {}", it.id), of(&it.features)));
    std::iter::once((format!("Local controller {controller}"), own))
        .chain(brokers)
        .chain(controllers)
        .find(|(_, (min, max))| level < *min || level > *max)
        .map(|(who, (min, max))| match max {
            0 => format!("{who} does not support this feature."),
            _ if min == max => format!("{who} only supports versions {min}"),
            _ => format!("{who} only supports versions {min}-{max}"),
        })
}
