//! ResourceClaims: a request for devices, and what was allocated for it.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use jiff::Timestamp;
use serde_json::Value;

use super::claim_declared::declared_claim;
use super::claim_rules::validate_claim;
use super::disabled::{drop_derived_attributes, drop_skipped_operations};
use super::status_rules::{allocated_devices, device_of, validate_status};
use super::view_at;
use crate::registry::declared::changed;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at};
use crate::registry::strategy::{drop_field, keep_all_but_status, keep_metadata, keep_status};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "resourceclaims",
    singular: "resourceclaim",
    kind: "ResourceClaim",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.resource.v1.ResourceClaim",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: super::GROUP,
        version: "v1",
        kind: "ResourceClaim",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("State", Description::Text("A summary of the current state (allocated, pending, reserved, etc.).")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    let deleted = !at(object, "/metadata/deletionTimestamp").is_null();
    if deleted {
        states.push("deleted");
    }
    match at(object, "/status/allocation") {
        Value::Null if !deleted => states.push("pending"),
        Value::Null => {}
        _ => {
            states.push("allocated");
            if !list_at(object, "/status/reservedFor").is_empty() {
                states.push("reserved");
            }
        }
    }
    vec![printer::name(object), states.join(",").into(), printer::object_age(object, now)]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        drop_derived_attributes(new, None, "/spec");
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let (claim, path) = (view_at(new, "/spec/devices"), Path::new("spec.devices"));
        let mut errors = validate_claim(&claim, &path);
        errors.extend(declared_claim(&claim, &path));
        errors
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        drop_derived_attributes(new, Some(old), "/spec");
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if changed(at(new, "/spec"), Some(at(old, "/spec"))) {
            vec![Error::invalid(&Path::new("spec"), Value::Null, FIELD_IMMUTABLE)]
        } else {
            ErrorList::new()
        }
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
        drop_skipped_operations(new, old);
        drop_deallocated(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_status(new, old)
    }
}

/// A driver's report on a device goes when the device does.
fn drop_deallocated(new: &mut Value, old: &Value) {
    let kept = allocated_devices(new);
    let gone: Vec<_> = allocated_devices(old).into_iter().filter(|device| !kept.contains(device)).collect();
    if gone.is_empty() {
        return;
    }
    let Some(reports) = new.pointer_mut("/status/devices").and_then(Value::as_array_mut) else { return };
    reports.retain(|report| !gone.contains(&device_of(report)));
    if reports.is_empty()
        && let Some(status) = new.get_mut("status")
    {
        drop_field(status, "devices");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_what_happened_so_far() {
        let state = |claim: Value| row(&claim, Timestamp::UNIX_EPOCH)[1].as_str().unwrap_or_default().to_owned();
        assert_eq!(state(json!({})), "pending");
        assert_eq!(state(json!({"status": {"allocation": {}, "reservedFor": [{}]}})), "allocated,reserved");
        assert_eq!(state(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})), "deleted");
    }

    #[test]
    fn reports_go_with_their_devices() {
        let device = |name: &str| json!({"driver": "d", "pool": "p", "device": name});
        let claim =
            |allocated: Value, reports: Value| json!({"status": {"allocation": {"devices": {"results": allocated}}, "devices": reports}});
        let old = claim(json!([device("a"), device("b")]), json!([device("a"), device("b")]));
        let mut new = claim(json!([device("b")]), json!([device("a"), device("b"), device("c")]));
        drop_deallocated(&mut new, &old);
        assert_eq!(new["status"]["devices"], json!([device("b"), device("c")]));
    }

    #[test]
    fn a_spec_stays() {
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "", uid: "", groups: &[], extra: &[] };
        let claim = |name: &str| json!({"spec": {"devices": {"requests": [{"name": name}]}}});
        let errors = Main.validate_update(&cx, &claim("a"), &claim("b"));
        assert_eq!(errors[0].to_string(), "spec: Invalid value: null: field is immutable");
        assert!(Main.validate_update(&cx, &claim("a"), &claim("a")).is_empty());
    }
}
