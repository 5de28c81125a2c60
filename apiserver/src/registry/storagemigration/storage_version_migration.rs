//! StorageVersionMigrations: one resource's objects, written again.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, is_dns1035_label, is_dns1123_subdomain, name_is_dns_subdomain, validate_conditions};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::declared::changed;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{drop_field, keep_all_but_status, keep_metadata, keep_status};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "storagemigration.k8s.io",
    version: "v1",
    plural: "storageversionmigrations",
    singular: "storageversionmigration",
    kind: "StorageVersionMigration",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.storagemigration.v1.StorageVersionMigration",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "storagemigration.k8s.io",
        version: "v1",
        kind: "StorageVersionMigration",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

/// The name's column does not say that it is one.
const COLUMNS: &[Column] = &[
    Column { format: "", ..printer::NAME },
    text("Resource", Description::Text("GroupResource to migrate")),
    text("Status", Description::Text("Status of the migration")),
];

fn row(object: &Value, _now: Timestamp) -> Vec<Value> {
    let (group, resource) = (str_at(object, "/spec/resource/group"), str_at(object, "/spec/resource/resource"));
    let mut held = list_at(object, "/status/conditions").iter().filter(|c| str_at(c, "/status") == "True").map(|c| str_at(c, "/type"));
    let status = held.rfind(|kind| matches!(*kind, "Running" | "Failed" | "Succeeded"));
    vec![
        printer::name(object),
        if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }.into(),
        status.unwrap_or("Unknown").into(),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate(new);
        if changed(at(new, "/spec"), Some(at(old, "/spec"))) {
            let resource = json!({"group": str_at(new, "/spec/resource/group"), "resource": str_at(new, "/spec/resource/resource")});
            errors.push(Error::invalid(&Path::new("spec"), json!({ "Resource": resource }), FIELD_IMMUTABLE));
        }
        errors
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_status(new, old)
    }
}

fn validate(object: &Value) -> ErrorList {
    let (group, resource) = (str_at(object, "/spec/resource/group"), str_at(object, "/spec/resource/resource"));
    let path = Path::new("spec.resource");
    let mut errors = ErrorList::new();
    if resource.is_empty() {
        errors.push(Error::required(&path.child("resource"), "resource is required to be set"));
    } else {
        let problems = is_dns1035_label(resource);
        if !problems.is_empty() {
            errors.push(Error::invalid(&path.child("resource"), resource, problems.join(",")));
        }
    }
    let problems = if group.is_empty() { Vec::new() } else { is_dns1123_subdomain(group) };
    if !problems.is_empty() {
        errors.push(Error::invalid(&path.child("group"), group, problems.join(",")));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> ErrorList {
    let (version, before) = (str_at(new, "/status/resourceVersion"), str_at(old, "/status/resourceVersion"));
    let (version_path, path) = (Path::new("status.resourceVersion"), Path::new("status.conditions"));
    let conditions = list_at(new, "/status/conditions");
    let mut errors = ErrorList::new();
    let well_formed = !version.starts_with('0') && version.bytes().all(|b| b.is_ascii_digit());
    if !version.is_empty() && !well_formed {
        errors.push(Error::invalid(&version_path, version, format!("resource version is not well formed: {version}")));
    }
    errors.extend(validate_conditions(conditions, &path));
    if !before.is_empty() && version != before {
        errors.push(Error::invalid(&version_path, version, FIELD_IMMUTABLE));
    }
    let is_true = |object: &Value, kind: &str| {
        let condition = list_at(object, "/status/conditions").iter().find(|c| str_at(c, "/type") == kind);
        condition.is_some_and(|c| str_at(c, "/status") == "True")
    };
    let shown = || if conditions.is_empty() { Value::Null } else { json!(conditions) };
    if is_true(new, "Succeeded") && is_true(new, "Failed") {
        errors.push(Error::invalid(&path, shown(), "Both success and failed conditions cannot be true at the same time"));
    }
    for (kind, name) in [("Succeeded", "Success"), ("Failed", "Failed")] {
        if is_true(old, kind) && !is_true(new, kind) {
            errors.push(Error::invalid(&path, shown(), format!("{name} condition cannot be set to false once it is true")));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_migration_names_a_resource() {
        assert!(validate(&json!({"spec": {"resource": {"resource": "pods"}}})).is_empty());
        assert_eq!(texts(validate(&json!({}))), ["spec.resource.resource: Required value: resource is required to be set"]);
        assert_eq!(validate(&json!({"spec": {"resource": {"resource": "Pods", "group": "a..b"}}})).len(), 2);
    }

    #[test]
    fn an_outcome_and_a_version_stay() {
        let status = |version: &str, conditions: Value| json!({"status": {"resourceVersion": version, "conditions": conditions}});
        assert_eq!(
            texts(validate_status(&status("07", json!([])), &status("5", json!([])))),
            [
                r#"status.resourceVersion: Invalid value: "07": resource version is not well formed: 07"#,
                r#"status.resourceVersion: Invalid value: "07": field is immutable"#,
            ]
        );
        let done =
            json!([{"type": "Succeeded", "status": "True", "reason": "a", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(
            texts(validate_status(&status("", json!([])), &status("", done))),
            ["status.conditions: Invalid value: null: Success condition cannot be set to false once it is true"]
        );
    }

    #[test]
    fn the_last_condition_that_holds_is_shown() {
        let object = json!({"spec": {"resource": {"resource": "a", "group": "g.io"}}, "status": {"conditions": [
            {"type": "Running", "status": "False"}, {"type": "Succeeded", "status": "True"}]}});
        assert_eq!(row(&object, Timestamp::UNIX_EPOCH)[1..], [json!("a.g.io"), json!("Succeeded")]);
    }
}
