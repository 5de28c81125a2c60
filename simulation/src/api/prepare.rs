//! What becomes of an object on its way in: it is read by its type, gets what every new one has, keeps what an update must not touch.

use std::sync::OnceLock;

use apimachinery::patch::{merge, strategic};
use apimachinery::schema::canonical::{Empties, canonicalize};
use apimachinery::schema::defaults::{Hooks, apply_defaults};
use apimachinery::schema::{self, TypeId, decode};
use serde_json::{Value, json};

use super::core::Part;
use super::failure::{Failure, Result};
use super::kinds::{self, KINDS, KindId};
use super::state::State;
use crate::object;

/// Pods stay this long on a node that is not ready.
const TOLERATED_SECONDS: i64 = 300;

fn type_of(kind: KindId) -> TypeId {
    static TYPES: OnceLock<Vec<TypeId>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        let types = schema::builtin();
        KINDS.iter().map(|kind| types.by_kind(kind.group, kind.version, kind.kind).expect("every kind has a type")).collect()
    });
    types[kind]
}

/// Checks that it is of its type, and fills in what its type declares.
pub fn read(kind: KindId, object: &mut Value) -> Result<()> {
    static HOOKS: OnceLock<Hooks> = OnceLock::new();
    let types = schema::builtin();
    decode::decode(types, type_of(kind), object).map_err(|error| Failure::bad_request(error.to_string()))?;
    let hooks = HOOKS.get_or_init(|| Hooks::new(types, &[]).unwrap_or_default());
    apply_defaults(types, hooks, type_of(kind), object);
    Ok(())
}

/// The one form that all objects of the same content have.
pub fn settle(kind: KindId, object: &mut Value) {
    let described = &KINDS[kind];
    object["kind"] = described.kind.into();
    object["apiVersion"] = described.api_version().into();
    canonicalize(schema::builtin(), type_of(kind), object, Empties::Drop);
}

/// An object after a patch.
pub fn patched(kind: KindId, old: &Value, mut patch: Value, strategic: bool) -> Result<Value> {
    let patched = if strategic {
        strategic::apply(schema::builtin(), type_of(kind), old, &mut patch).map_err(|error| Failure::bad_request(error.to_string()))
    } else {
        merge::apply(old, &patch, false).map_err(|error| Failure::bad_request(error.to_string()))
    };
    let mut object = patched?;
    read(kind, &mut object)?;
    Ok(object)
}

/// Sets a condition; the time is that of the last transition.
pub fn set_condition(object: &mut Value, kind: &str, status: &str, time: Value) {
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(condition) if condition["status"] == status => {}
        Some(condition) => *condition = json!({"type": kind, "status": status, "lastTransitionTime": time}),
        None => conditions.push(json!({"type": kind, "status": status, "lastTransitionTime": time})),
    }
}

fn has_status(kind: KindId) -> bool {
    use kinds::*;
    matches!(
        kind,
        NAMESPACE
            | NODE
            | POD
            | SERVICE
            | RESOURCE_QUOTA
            | REPLICATION_CONTROLLER
            | PERSISTENT_VOLUME
            | PERSISTENT_VOLUME_CLAIM
            | DEPLOYMENT
            | REPLICA_SET
            | STATEFUL_SET
            | DAEMON_SET
            | JOB
            | CRON_JOB
            | POD_DISRUPTION_BUDGET
            | RESOURCE_CLAIM
    )
}

fn take(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(field);
    }
}

fn set_if_absent(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

pub fn for_creation(state: &State, kind: KindId, object: &mut Value) -> Result<()> {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"] {
        take(&mut object["metadata"], field);
    }
    if object["spec"].is_object() {
        object["metadata"]["generation"] = 1.into();
    }
    match kind {
        kinds::NAMESPACE => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        kinds::POD => {
            pod(object);
            within_quotas(state, object)?;
        }
        kinds::JOB => job(object),
        // Nodes are created with what their kubelets say of them.
        kinds::NODE => {}
        _ if has_status(kind) => take(object, "status"),
        _ => {}
    }
    Ok(())
}

fn pod(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
    let spec = &mut object["spec"];
    set_if_absent(spec, "terminationGracePeriodSeconds", 30.into());
    set_if_absent(spec, "schedulerName", "default-scheduler".into());
    set_if_absent(spec, "priority", 0.into());
    set_if_absent(spec, "restartPolicy", "Always".into());
    set_if_absent(spec, "tolerations", json!([]));
    let Some(tolerations) = spec["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerations.iter().any(|toleration| toleration["key"] == key) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS}));
        }
    }
}

/// Quotas here count pods.
fn within_quotas(state: &State, pod: &Value) -> Result<()> {
    let namespace = object::namespace(pod);
    for quota in state.list(kinds::RESOURCE_QUOTA, namespace) {
        let Ok(limit) = object::text(quota, "/spec/hard/pods").parse::<usize>() else { continue };
        let used = state.list(kinds::POD, namespace).filter(|pod| !object::is_ended(pod)).count();
        if used >= limit {
            return Err(Failure::forbidden(format!("exceeded quota: {}, used: pods={used}, limited: pods={limit}", object::name(quota))));
        }
    }
    Ok(())
}

/// A Job selects its pods by its own uid.
fn job(object: &mut Value) {
    take(object, "status");
    let (uid, name) = (object["metadata"]["uid"].clone(), object["metadata"]["name"].clone());
    let spec = &mut object["spec"];
    set_if_absent(spec, "parallelism", 1.into());
    set_if_absent(spec, "completions", 1.into());
    set_if_absent(spec, "backoffLimit", 6.into());
    set_if_absent(spec, "completionMode", "NonIndexed".into());
    set_if_absent(spec, "suspend", false.into());
    set_if_absent(spec, "podReplacementPolicy", "TerminatingOrFailed".into());
    spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let labels = &mut spec["template"]["metadata"]["labels"];
    for (prefix, value) in [("controller-uid", &uid), ("job-name", &name)] {
        labels[prefix] = value.clone();
        labels[format!("batch.kubernetes.io/{prefix}")] = value.clone();
    }
}

/// Keeps of the old object what this update must not touch, and gives the rest the form that the old one has.
pub fn for_update(kind: KindId, part: Part, old: &Value, object: &mut Value) {
    take(&mut object["metadata"], "managedFields");
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "name", "namespace"] {
        match old["metadata"].get(field) {
            Some(kept) => object["metadata"][field] = kept.clone(),
            None => take(&mut object["metadata"], field),
        }
    }
    let mut keep = |field: &str| match old.get(field) {
        Some(kept) => object[field] = kept.clone(),
        None => take(object, field),
    };
    match part {
        Part::Status => {
            keep("spec");
            if let Some(owners) = old["metadata"].get("ownerReferences") {
                object["metadata"]["ownerReferences"] = owners.clone();
            } else {
                take(&mut object["metadata"], "ownerReferences");
            }
        }
        Part::Finalize => keep("status"),
        Part::Main => {
            if kind == kinds::NAMESPACE {
                keep("spec");
            }
            if has_status(kind) {
                keep("status");
            }
        }
    }
    settle(kind, object);
    let generation = old["metadata"]["generation"].as_i64();
    if let Some(generation) = generation
        && part == Part::Main
        && object.get("spec") != old.get("spec")
    {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}
