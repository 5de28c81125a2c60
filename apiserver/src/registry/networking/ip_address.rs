//! IPAddresses: one object per address that is in use, named by it.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_subdomain, is_valid_ip};
use jiff::Timestamp;
use serde_json::Value;

use super::path_segment;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, str_at};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "networking.k8s.io",
    version: "v1",
    plural: "ipaddresses",
    singular: "ipaddress",
    kind: "IPAddress",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["ip"],
    categories: &[],
    schema: "io.k8s.api.networking.v1.IPAddress",
    name,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

/// The canonical form of an address.
fn name(name: &str, _prefix: bool) -> Vec<String> {
    is_valid_ip(&Path::ROOT, name).into_iter().map(|error| error.detail).collect()
}

/// Upstream has no column for the age that its rows end with.
const COLUMNS: &[Column] = &[printer::NAME, text("ParentRef", Description::Field("io.k8s.api.networking.v1.IPAddressSpec", "parentRef"))];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printer::name(object), parent(at(object, "/spec/parentRef")).into(), printer::object_age(object, now)]
}

/// `resource.group/namespace/name`.
fn parent(parent: &Value) -> String {
    if parent.is_null() {
        return "<none>".to_owned();
    }
    let (resource, group) = (str_at(parent, "/resource"), str_at(parent, "/group"));
    let mut text = if group.is_empty() { resource.to_lowercase() } else { format!("{resource}.{group}").to_lowercase() };
    for part in [str_at(parent, "/namespace")].iter().filter(|namespace| !namespace.is_empty()) {
        text.push('/');
        text.push_str(part);
    }
    text.push('/');
    text.push_str(str_at(parent, "/name"));
    text
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate_parent(new);
        errors.extend(missing(new));
        errors
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (after, before) = (at(new, "/spec/parentRef"), at(old, "/spec/parentRef"));
        let mut errors = validate_parent(new);
        if after == before {
            errors.extend(missing(new));
            return errors;
        }
        // The declared rules end at the change: what is missing inside is left to the written ones, which come first.
        let path = Path::new("spec.parentRef");
        if after.is_null() {
            errors.push(Error::required(&path, ""));
        } else {
            errors.extend(missing(new));
        }
        errors.push(Error::invalid(&path, Value::Null, "field is immutable"));
        errors
    }
}

/// What a reference must have and has not.
fn missing(object: &Value) -> ErrorList {
    let path = Path::new("spec.parentRef");
    let parent = at(object, "/spec/parentRef");
    if parent.is_null() {
        return vec![Error::required(&path, "")];
    }
    let required = ["resource", "name"].into_iter().filter(|field| str_at(parent, &format!("/{field}")).is_empty());
    required.map(|field| Error::required(&path.child(field), "")).collect()
}

/// The form of what is there.
fn validate_parent(object: &Value) -> ErrorList {
    let path = Path::new("spec.parentRef");
    let parent = at(object, "/spec/parentRef");
    let group = str_at(parent, "/group");
    let mut errors = Vec::new();
    if !group.is_empty() {
        let problems = is_dns1123_subdomain(group);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("group"), group, message)));
    }
    for field in ["resource", "name", "namespace"] {
        let value = str_at(parent, &format!("/{field}"));
        if !value.is_empty() {
            errors.extend(path_segment(value, &path.child(field)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CX: Cx<'_> = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "u", uid: "", groups: &[], extra: &[] };

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_belongs_to_something_for_good() {
        let object = |resource: &str, name: &str| json!({"spec": {"parentRef": {"resource": resource, "name": name}}});
        assert!(Main.validate(&CX, &object("services", "a")).is_empty());
        assert_eq!(texts(Main.validate(&CX, &json!({"spec": {}}))), ["spec.parentRef: Required value"]);
        assert_eq!(texts(Main.validate(&CX, &object("", "a"))), ["spec.parentRef.resource: Required value"]);
        assert_eq!(
            texts(Main.validate_update(&CX, &object("services", "b"), &object("services", "a"))),
            ["spec.parentRef: Invalid value: null: field is immutable"]
        );
    }

    #[test]
    fn the_parent_is_printed_with_its_group_and_namespace() {
        assert_eq!(parent(&json!({"resource": "Services", "namespace": "n", "name": "a"})), "services/n/a");
        assert_eq!(parent(&json!({"resource": "gateways", "group": "g.io", "name": "a"})), "gateways.g.io/a");
        assert_eq!(parent(&Value::Null), "<none>");
    }

    #[test]
    fn the_name_is_an_address_in_canonical_form() {
        assert!(name("10.0.0.1", false).is_empty());
        assert_eq!(name("fd00::0", false), ["must be in canonical form (\"fd00::\")"]);
    }
}
