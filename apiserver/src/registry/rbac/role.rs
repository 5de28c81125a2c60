//! Roles: what may be done in a namespace.

use apimachinery::field::ErrorList;
use apimachinery::validation::validate_path_segment_name;
use serde_json::Value;

use super::rule::validate_rules;
use crate::registry::printer;
use crate::registry::{ALL_VERBS, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "roles",
    singular: "role",
    kind: "Role",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.rbac.v1.Role",
    name: validate_path_segment_name,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: printer::DEFAULT,
    reset_fields: &[],
};

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_rules(new, None, true).into_errors()
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_rules(new, Some(old), true).into_errors()
    }
}
