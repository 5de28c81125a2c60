//! The scale of a workload: `spec.replicas` seen as an object of its own, autoscaling/v1 Scale.
//!
//! Makes a Scale of a parent and puts a changed one back; field ownership and storage are the endpoint's.

use apimachinery::field::{ErrorList, Path};
use apimachinery::selector::label::{Selector, StructuredError};
use apimachinery::validation::validate_nonnegative_field;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::registry::printer::{self, integer};
use crate::registry::read::{at, int_at};
use crate::registry::{Column, Description, Printer};

/// How `as=Table` shows a Scale.
pub const PRINTER: Printer = Printer { columns: COLUMNS, cells: row };

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

const COLUMNS: &[Column] = &[
    // Without the format that name columns have elsewhere.
    printer::text("Name", Description::Field(OBJECT_META, "name")),
    integer("Desired", Description::Field("io.k8s.api.autoscaling.v1.ScaleSpec", "replicas")),
    integer("Available", Description::Field("io.k8s.api.autoscaling.v1.ScaleStatus", "replicas")),
    printer::AGE,
];

fn row(scale: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printer::name(scale),
        int_at(scale, "/spec/replicas").into(),
        int_at(scale, "/status/replicas").into(),
        printer::object_age(scale, now),
    ]
}

/// The Scale of a Deployment, ReplicaSet, StatefulSet or ReplicationController (whose selector is a map of labels),
/// in canonical form and without managed fields.
pub fn of(parent: &Value) -> Result<Value, StructuredError> {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = at(parent, "/metadata").get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = Map::new();
    let replicas = int_at(parent, "/spec/replicas");
    if replicas != 0 {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = Map::new();
    status.insert("replicas".to_owned(), int_at(parent, "/status/replicas").into());
    let selector = selector_text(parent)?;
    if !selector.is_empty() {
        status.insert("selector".to_owned(), selector.into());
    }
    let mut scale = Map::new();
    scale.insert("kind".to_owned(), "Scale".into());
    scale.insert("apiVersion".to_owned(), "autoscaling/v1".into());
    scale.insert("metadata".to_owned(), Value::Object(metadata));
    scale.insert("spec".to_owned(), Value::Object(spec));
    scale.insert("status".to_owned(), Value::Object(status));
    Ok(Value::Object(scale))
}

fn selector_text(parent: &Value) -> Result<String, StructuredError> {
    let selector = at(parent, "/spec/selector");
    if parent.get("kind").is_none_or(|kind| kind != "ReplicationController") {
        return Selector::from_value(Some(selector)).map(|s| s.to_string());
    }
    let mut pairs: Vec<String> =
        selector.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.sort_unstable();
    Ok(pairs.join(","))
}

/// All field errors of a changed Scale, but for its managed fields.
pub fn validate_update(new: &Value) -> ErrorList {
    validate_nonnegative_field(int_at(new, "/spec/replicas"), &Path::new("spec.replicas"))
}

/// The identity that a request names must be the parent's; the error is the conflict's cause.
pub fn uid_precondition(new: &Value, parent: &Value) -> Result<(), String> {
    let uid = |object: &Value| at(object, "/metadata/uid").as_str().unwrap_or("").to_owned();
    let (wanted, found) = (uid(new), uid(parent));
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    Err(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"))
}

/// Puts the replicas of a Scale, and the revision that it was read at, into its parent.
pub fn apply(new: &Value, parent: &mut Value) {
    if let Some(spec) = parent.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("replicas".to_owned(), int_at(new, "/spec/replicas").into());
    }
    if let Some(metadata) = parent.get_mut("metadata").and_then(Value::as_object_mut) {
        let revision = at(new, "/metadata/resourceVersion").as_str().unwrap_or("");
        metadata.insert("resourceVersion".to_owned(), revision.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scale_is_made_of_its_parent() {
        let parent = json!({"kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"replicas": 2, "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["y", "x"]}]}}});
        assert_eq!(
            of(&parent),
            Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "r", "namespace": "n", "uid": "u"},
                "spec": {"replicas": 2}, "status": {"replicas": 0, "selector": "app in (x,y)"}}))
        );
        let controller = json!({"kind": "ReplicationController", "metadata": {}, "spec": {"selector": {"b": "2", "a": "1"}}});
        assert_eq!(at(&of(&controller).expect("usable"), "/status/selector"), "a=1,b=2");
    }

    #[test]
    fn replicas_go_back_into_the_parent() {
        let mut parent = json!({"metadata": {"uid": "u", "resourceVersion": "5"}, "spec": {"replicas": 1}});
        let scale = json!({"metadata": {"uid": "v", "resourceVersion": "4"}, "spec": {"replicas": 3}});
        assert_eq!(uid_precondition(&scale, &parent), Err("Precondition failed: UID in precondition: v, UID in object meta: u".to_owned()));
        apply(&scale, &mut parent);
        assert_eq!(parent, json!({"metadata": {"uid": "u", "resourceVersion": "4"}, "spec": {"replicas": 3}}));
        let texts: Vec<String> = validate_update(&json!({"spec": {"replicas": -1}})).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    }
}
