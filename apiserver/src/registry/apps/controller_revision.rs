//! ControllerRevisions: snapshots of a workload's state, never changed once made.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{name_is_dns_subdomain, validate_immutable_field, validate_nonnegative_field};
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::printer::{self, text};
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "apps",
    version: "v1",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    kind: "ControllerRevision",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.apps.v1.ControllerRevision",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Controller", Description::Text("Controller of the object")),
    text("Revision", Description::Field("io.k8s.api.apps.v1.ControllerRevision", "revision")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printer::name(object), controller(object).into(), int_at(object, "/revision").into(), printer::object_age(object, now)]
}

/// `kind.group/name` of the owner that is the controller.
fn controller(object: &Value) -> String {
    let Some(owner) = list_at(object, "/metadata/ownerReferences").iter().find(|o| bool_at(o, "/controller")) else {
        return "<none>".to_owned();
    };
    let (kind, name) = (str_at(owner, "/kind"), str_at(owner, "/name"));
    let group = str_at(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
    match (kind, group) {
        ("", "") => name.to_owned(),
        (kind, "") => format!("{}/{name}", kind.to_lowercase()),
        (kind, group) => format!("{}/{name}", format!("{kind}.{group}").to_lowercase()),
    }
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate_revision(new);
        let path = Path::new("data");
        match at(new, "/data") {
            Value::Object(_) => {}
            Value::Null => errors.push(Error::required(&path, "data is mandatory")),
            _ => errors.push(Error::required(&path, "data must be a valid JSON object")),
        }
        errors
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate_revision(new);
        errors.extend(validate_immutable_field(at(new, "/data"), at(old, "/data"), &Path::new("data")));
        errors
    }
}

fn validate_revision(object: &Value) -> ErrorList {
    validate_nonnegative_field(int_at(object, "/revision"), &Path::new("revision"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_controller_is_named_with_its_kind_and_group() {
        let owned = |api_version: &str| {
            controller(&json!({"metadata": {"ownerReferences": [{"kind": "X"},
                {"apiVersion": api_version, "kind": "StatefulSet", "name": "web", "controller": true}]}}))
        };
        assert_eq!(owned("apps/v1"), "statefulset.apps/web");
        assert_eq!(owned("v1"), "statefulset/web");
        assert_eq!(controller(&json!({"metadata": {}})), "<none>");
    }

    #[test]
    fn data_is_an_object() {
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "n", user: "u", uid: "", groups: &[], extra: &[] };
        let check = |object: Value| Main.validate(&cx, &object).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(check(json!({"data": {}})).is_empty());
        assert_eq!(
            check(json!({"revision": -1, "data": 5})),
            ["revision: Invalid value: -1: must be greater than or equal to 0", "data: Required value: data must be a valid JSON object"]
        );
        assert_eq!(check(json!({})), ["data: Required value: data is mandatory"]);
    }
}
