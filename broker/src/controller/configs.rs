//! Configuration of topics and brokers: set, removed, appended to.
//!
//! Only what differs from the defaults is a record. Topics, groups and brokers (one, or with an
//! empty name all of them) are known; client metrics and broker loggers are refused by name.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as AlterResult;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

use super::decision::{Decision, View};
use super::image::{Config, ResourceType};
use crate::error::{ErrorCode, Refusal};
use crate::wire::metadata::{ClearElrRecord, ConfigRecord, Record};

const MIN_ISR: &str = "min.insync.replicas";
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Refuses a value that its key does not allow.
pub fn check(view: View<'_>, of: ResourceType, name: &str, value: &str) -> Result<(), Refusal> {
    view.rules
        .check(of, name, value)
        .map_err(|message| Refusal::new(ErrorCode::InvalidConfig, message))
}

/// Refuses values that are legal each, but not together.
pub fn check_together(view: View<'_>, of: ResourceType, config: &Config) -> Result<(), Refusal> {
    view.rules
        .check_together(of, config)
        .map_err(|message| Refusal::new(ErrorCode::InvalidConfig, message))
}

pub fn incremental(
    view: View<'_>,
    request: &IncrementalAlterConfigsRequest,
) -> Decision<IncrementalAlterConfigsResponse> {
    let wanted = request.resources.iter().map(|resource| Wanted {
        type_code: resource.resource_type,
        name: &resource.resource_name,
        ops: resource
            .configs
            .iter()
            .map(|config| (&*config.name, config.config_operation, config.value.as_deref()))
            .collect(),
    });
    let (records, refusals) = change(view, &wanted.collect::<Vec<_>>(), request.validate_only);
    let responses = request.resources.iter().zip(refusals).map(|(resource, refusal)| {
        AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(refusal.as_ref().map_or(0, |refusal| refusal.code.code()))
            .with_error_message(refusal.map(|refusal| refusal.message.into()))
    });
    let response = IncrementalAlterConfigsResponse::default();
    let response = response.with_responses(responses.collect());
    Decision::new(records, response)
}

/// The older form: what is not named is removed.
pub fn replace(view: View<'_>, request: &AlterConfigsRequest) -> Decision<AlterConfigsResponse> {
    let wanted = request.resources.iter().map(|resource| {
        let kept = |name: &str| resource.configs.iter().any(|config| &*config.name == name);
        let removed = ResourceType::from_code(resource.resource_type)
            .map(|of| view.image.config(of, &resource.resource_name))
            .into_iter()
            .flat_map(Config::keys)
            .filter(|name| !kept(name))
            .map(|name| (name.as_str(), DELETE, None));
        let set = resource.configs.iter().map(|it| (&*it.name, SET, it.value.as_deref()));
        Wanted {
            type_code: resource.resource_type,
            name: &resource.resource_name,
            ops: set.chain(removed).collect(),
        }
    });
    let (records, refusals) = change(view, &wanted.collect::<Vec<_>>(), request.validate_only);
    let responses = request.resources.iter().zip(refusals).map(|(resource, refusal)| {
        AlterResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(refusal.as_ref().map_or(0, |refusal| refusal.code.code()))
            .with_error_message(refusal.map(|refusal| refusal.message.into()))
    });
    let responses = responses.collect();
    Decision::new(records, AlterConfigsResponse::default().with_responses(responses))
}

/// The changes that a request wants of one resource.
struct Wanted<'a> {
    type_code: i8,
    name: &'a str,
    ops: Vec<Op<'a>>,
}

/// A setting, what is to be done with it, and a value for that.
type Op<'a> = (&'a str, i8, Option<&'a str>);

/// The records that make all changes of each resource, or none of them; and who was refused, in
/// the order of the request.
fn change(
    view: View<'_>,
    wanted: &[Wanted<'_>],
    validate_only: bool,
) -> (Vec<Record>, Vec<Option<Refusal>>) {
    let mut seen: BTreeMap<(i8, &str), usize> = BTreeMap::new();
    for resource in wanted {
        *seen.entry((resource.type_code, resource.name)).or_default() += 1;
    }
    let mut records = Vec::new();
    let mut refusals = Vec::with_capacity(wanted.len());
    for Wanted { type_code, name, ops } in wanted {
        let outcome = match seen.get(&(*type_code, *name)) {
            Some(1) => alter(view, *type_code, name, ops),
            _ => Err(invalid("Each resource must appear at most once.")),
        };
        refusals.push(match outcome {
            Ok(new) => {
                records.extend(new);
                None
            }
            Err(refusal) => Some(refusal),
        });
    }
    records.extend(forget_eligible(view, &records));
    if validate_only {
        records.clear();
    }
    (records, refusals)
}

/// Who was eligible under one `min.insync.replicas` need not be under another.
fn forget_eligible(view: View<'_>, records: &[Record]) -> Vec<Record> {
    if !view.elr_enabled() {
        return Vec::new();
    }
    let clear = |record: &Record| match record {
        Record::Config(config) if config.name == MIN_ISR => {
            let all = config.resource_type != ResourceType::Topic.code();
            let topic_name = if all { String::new() } else { config.resource_name.clone() };
            Some(ClearElrRecord { topic_name }.into())
        }
        _ => None,
    };
    records.iter().filter_map(clear).collect()
}

/// The controller and all leaders must agree on `min.insync.replicas`: who is eligible follows
/// from it.
fn check_min_isr(
    view: View<'_>,
    of: ResourceType,
    resource: &str,
    name: &str,
    value: Option<&str>,
) -> Result<(), Refusal> {
    if of != ResourceType::Broker || name != MIN_ISR || !view.elr_enabled() {
        return Ok(());
    }
    let refused = |what: &str| {
        Err(Refusal::new(ErrorCode::InvalidConfig, format!("{what} while ELR is enabled.")))
    };
    match value {
        _ if !resource.is_empty() => refused("Broker-level min.insync.replicas cannot be altered"),
        None => refused("Cluster-level min.insync.replicas cannot be removed"),
        Some(_) => Ok(()),
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, message)
}

/// All changes of one resource, or none of them.
fn alter(
    view: View<'_>,
    type_code: i8,
    resource: &str,
    ops: &[Op<'_>],
) -> Result<Vec<Record>, Refusal> {
    let of = find_resource(view, type_code, resource)?;
    let current = view.image.config(of, resource);
    let mut records = Vec::new();
    let mut changed = Vec::new();
    let mut after = current.clone();
    for &(name, op, value) in ops {
        if changed.contains(&name) {
            return Err(invalid(format!("Error due to duplicate config keys: {name}")));
        }
        changed.push(name);
        let new = apply(view, of, current, name, op, value)?;
        check_min_isr(view, of, resource, name, new.as_deref())?;
        if let Some(new) = &new {
            check(view, of, name, new)?;
        }
        match &new {
            Some(value) => after.insert(name.to_owned(), value.clone()),
            None => after.remove(name),
        };
        if new.as_ref() != current.get(name) {
            records.push(
                ConfigRecord {
                    resource_type: of.code(),
                    resource_name: resource.into(),
                    name: name.into(),
                    value: new,
                }
                .into(),
            );
        }
    }
    check_together(view, of, &after)?;
    Ok(records)
}

/// The value that `name` has after the operation; none when it is removed.
fn apply(
    view: View<'_>,
    of: ResourceType,
    current: &Config,
    name: &str,
    op: i8,
    value: Option<&str>,
) -> Result<Option<String>, Refusal> {
    let given = || value.ok_or_else(|| invalid(format!("Null value not supported for : {name}")));
    let verb = match op {
        SET => return given().map(|value| Some(value.to_owned())),
        DELETE => return Ok(None),
        APPEND => "APPEND",
        SUBTRACT => "SUBTRACT",
        // Kafka's answer to what it has no name for.
        _ => {
            let message = format!("Unknown operation type {op}");
            return Err(Refusal::new(ErrorCode::UnknownServerError, message));
        }
    };
    if !view.rules.is_list(of, name) {
        return Err(Refusal::new(
            ErrorCode::InvalidConfig,
            format!("Can't {verb} to key {name} because its type is not LIST."),
        ));
    }
    let now = current.get(name).cloned().or_else(|| view.rules.topic_default(name));
    let now = now.unwrap_or_default();
    let mut list: Vec<&str> = now.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    for item in given()?.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        match op {
            APPEND if !list.contains(&item) => list.push(item),
            SUBTRACT => list.retain(|it| *it != item),
            _ => {}
        }
    }
    Ok(Some(list.join(",")))
}

fn find_resource(view: View<'_>, code: i8, name: &str) -> Result<ResourceType, Refusal> {
    match ResourceType::from_code(code) {
        Some(ResourceType::Topic) if name.is_empty() => {
            Err(invalid("Default topic resources are not allowed."))
        }
        Some(ResourceType::Topic) if view.image.topic(name).is_some() => Ok(ResourceType::Topic),
        Some(ResourceType::Topic) => Err(Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("The topic '{name}' does not exist."),
        )),
        Some(ResourceType::Broker) if name.is_empty() => Ok(ResourceType::Broker),
        Some(ResourceType::Broker) => match name.parse::<i32>() {
            Ok(id) if view.image.broker(id).is_some() => Ok(ResourceType::Broker),
            Ok(id) => Err(invalid(format!("No broker with id {id} is registered."))),
            Err(_) => {
                Err(invalid(format!("Unable to parse broker name '{name}' as a base 10 number.")))
            }
        },
        Some(ResourceType::Group) if name.is_empty() => {
            Err(invalid("Default group resources are not allowed."))
        }
        // Groups need not be there.
        Some(ResourceType::Group) => Ok(ResourceType::Group),
        Some(other) => Err(invalid(format!(
            "Configuration of {other:?} resources is not supported by this cluster yet."
        ))),
        None => Err(invalid(format!("Unknown resource type {code}."))),
    }
}
