//! storage.k8s.io/v1 CSINode.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    FIELD_IMMUTABLE, is_qualified_name, is_valid_condition_reason, name_is_dns_subdomain, validate_nonnegative_field,
};
use apimachinery::view::view;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use serde_json::{Value, json};

use crate::registry::core::persistent_volume::validate_csi_driver_name;
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_metadata, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

const MAX_NODE_ID: usize = 256;
const HEALTH: [&str; 2] = ["StorageDegraded", "StorageUnreachable"];
const MAX_CONDITIONS: usize = 16;
const MAX_REASON_BYTES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 1024;

pub static RESOURCE: Definition = Definition {
    group: "storage.k8s.io",
    version: "v1",
    plural: "csinodes",
    singular: "csinode",
    kind: "CSINode",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.storage.v1.CSINode",
    name: name_is_dns_subdomain,
    strategy: &NodeStrategy,
    subresources: &[Subresource {
        name: "status",
        group: "storage.k8s.io",
        version: "v1",
        kind: "CSINode",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::integer("Drivers", Description::Text("Drivers indicates the number of CSI drivers registered on the node")),
            AGE,
        ],
        cells: |object, now| vec![printer::name(object), list_at(object, "/spec/drivers").len().into(), printer::object_age(object, now)],
    },
    reset_fields: &["status"],
};

struct NodeStrategy;

impl UpdateStrategy for NodeStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    /// A registered driver changes nothing but how many volumes it can attach.
    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (CSINode, CSINode) = (view(new), view(old));
        let mut errors = validate(&new);
        let spec = Path::new("spec");
        for before in &old.spec.drivers {
            for after in new.spec.drivers.iter().filter(|after| after.name == before.name) {
                let (after, before) = (as_go_prints(after), as_go_prints(before));
                if after != before {
                    errors.push(Error::invalid(&spec.child("drivers"), after, FIELD_IMMUTABLE));
                }
            }
        }
        errors
    }
}

impl Strategy for NodeStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({}));
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    /// All that a status holds is the health of storage, an alpha feature: it is kept where it is in use, and not taken anew.
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
        if list_at(old, "/status/storageHealth").is_empty() {
            match new.get_mut("status").and_then(Value::as_object_mut) {
                Some(status) => {
                    status.shift_remove("storageHealth");
                }
                None => set_field(new, "status", json!({})),
            }
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = Path::new("status");
        let path = status.child("storageHealth");
        let mut seen = BTreeSet::new();
        for (i, health) in list_at(new, "/status/storageHealth").iter().enumerate() {
            let name = at(health, "/name").as_str().unwrap_or("");
            let path = path.index(i);
            if !seen.insert(name) {
                errors.push(Error::duplicate(&path, name));
            }
            errors.extend(validate_csi_driver_name(name, &path.child("name")));
            errors.extend(validate_health(list_at(health, "/healthConditions"), &path.child("healthConditions")));
        }
        errors
    }
}

fn validate_health(conditions: &[Value], path: &Path<'_>) -> ErrorList {
    if conditions.len() > MAX_CONDITIONS {
        return vec![Error::too_many(path, conditions.len(), MAX_CONDITIONS)];
    }
    conditions.iter().enumerate().flat_map(|(i, condition)| validate_health_condition(condition, &path.index(i))).collect()
}

fn validate_health_condition(condition: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = str_at(condition, "/status");
    if !HEALTH.contains(&status) {
        errors.push(Error::not_supported(&path.child("status"), status, &HEALTH));
    }
    let (reason, place) = (str_at(condition, "/reason"), path.child("reason"));
    if reason.is_empty() {
        errors.push(Error::required(&place, ""));
    } else {
        errors.extend(is_valid_condition_reason(reason).into_iter().map(|message| Error::invalid(&place, reason, message)));
    }
    for (field, max) in [("reason", MAX_REASON_BYTES), ("message", MAX_MESSAGE_BYTES)] {
        if condition.get(field).and_then(Value::as_str).unwrap_or("").len() > max {
            errors.push(Error::too_long(&path.child(field), max));
        }
    }
    let modes: [(&str, &[&str]); 2] =
        [("accessMode", &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]), ("volumeMode", &["Filesystem", "Block"])];
    for (field, known) in modes {
        if let Some(mode) = condition.get(field).and_then(Value::as_str).filter(|mode| !known.contains(mode)) {
            errors.push(Error::not_supported(&path.child(field), mode, known));
        }
    }
    errors
}

fn validate(node: &CSINode) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let path = spec.child("drivers");
    let mut names = BTreeSet::new();
    for (i, driver) in node.spec.drivers.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_driver(driver, &path));
        if !names.insert(&driver.name) {
            errors.push(Error::duplicate(&path.child("name"), driver.name.as_str()));
        }
        errors.extend(validate_topology_keys(driver, &path));
    }
    errors
}

fn validate_driver(driver: &CSINodeDriver, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_csi_driver_name(&driver.name, &path.child("name"));
    let place = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.push(Error::required(&place, ""));
    }
    if driver.node_id.len() > MAX_NODE_ID {
        errors.push(Error::invalid(&place, driver.node_id.as_str(), format!("must be {MAX_NODE_ID} characters or less")));
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count) {
        errors.extend(validate_nonnegative_field(count.into(), &path.child("allocatable.count")));
    }
    errors
}

fn validate_topology_keys(driver: &CSINodeDriver, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.push(Error::required(path, ""));
        }
        if !seen.insert(key) {
            errors.push(Error::duplicate(path, key.as_str()));
        }
        errors.extend(is_qualified_name(key).into_iter().map(|message| Error::invalid(path, key.as_str(), message)));
    }
    errors
}

/// What of a driver never changes, as upstream's messages show it: its internal type has no JSON names.
fn as_go_prints(driver: &CSINodeDriver) -> Value {
    json!({"Name": driver.name, "NodeID": driver.node_id, "TopologyKeys": driver.topology_keys, "Allocatable": null})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn node(drivers: Value) -> Value {
        json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}})
    }

    #[test]
    fn drivers_are_named_once_and_well() {
        let bad = node(
            json!([{"name": "a", "nodeID": "", "topologyKeys": ["x", "x"]}, {"name": "a", "nodeID": "y", "allocatable": {"count": -1}}]),
        );
        assert_eq!(
            messages(&NodeStrategy.validate(&cx(), &bad)),
            [
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0]: Duplicate value: \"x\"",
                "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"a\"",
            ]
        );
    }

    #[test]
    fn a_registered_driver_only_changes_its_count() {
        let old = node(json!([{"name": "a", "nodeID": "x", "allocatable": {"count": 1}}]));
        assert!(
            NodeStrategy.validate_update(&cx(), &node(json!([{"name": "a", "nodeID": "x", "allocatable": {"count": 2}}])), &old).is_empty()
        );
        assert_eq!(
            messages(&NodeStrategy.validate_update(&cx(), &node(json!([{"name": "a", "nodeID": "y"}])), &old)),
            [
                "spec.drivers: Invalid value: {\"Name\":\"a\",\"NodeID\":\"y\",\"TopologyKeys\":null,\"Allocatable\":null}: field is immutable"
            ]
        );
    }

    #[test]
    fn a_status_changes_nothing_else() {
        let old = json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"drivers": []}, "status": {}});
        let mut new = json!({"metadata": {"name": "n", "labels": {"x": "y"}}, "spec": {"drivers": [1]}, "status": {"storageHealth": [{"name": "d"}]}});
        StatusStrategy.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new, old);
    }
}
