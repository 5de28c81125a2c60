//! RoleBindings: who has a role in a namespace.

use apimachinery::field::ErrorList;
use apimachinery::validation::validate_path_segment_name;
use jiff::Timestamp;
use serde_json::Value;

use super::{role_ref, subject};
use crate::registry::declared::Findings;
use crate::registry::printer::{self, text};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "rolebindings",
    singular: "rolebinding",
    kind: "RoleBinding",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.rbac.v1.RoleBinding",
    name: validate_path_segment_name,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: &COLUMNS, cells: row },
    reset_fields: &[],
};

const SUBJECTS: [Column; 3] =
    subject::columns("Users in the roleBinding", "Groups in the roleBinding", "ServiceAccounts in the roleBinding");

/// Tables describe the field as the type's first version did.
const ROLE: &str = "roleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.";

const COLUMNS: [Column; 6] = {
    let [users, groups, accounts] = SUBJECTS;
    let role = text("Role", Description::Text(ROLE));
    [printer::NAME, role, printer::AGE, users, groups, accounts]
};

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![printer::name(object), role_ref::cell(object), printer::object_age(object, now)];
    cells.extend(subject::cells(object));
    cells
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None).into_errors()
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut findings = validate(new, Some(old));
        findings.written.extend(role_ref::validate_unchanged(new, old));
        findings.into_errors()
    }
}

/// Declared rules look at the subjects first, written ones at the role.
fn validate(new: &Value, old: Option<&Value>) -> Findings {
    let mut findings = role_ref::validate_role_ref(new, old, &["Role", "ClusterRole"]);
    let mut subjects = subject::validate_subjects(new, old, true);
    findings.written.append(&mut subjects.written);
    subjects.declared.append(&mut findings.declared);
    Findings { written: findings.written, declared: subjects.declared }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_with_nothing_is_refused() {
        let errors = validate(&json!({"subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io"}]}), None).into_errors();
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["roleRef.apiGroup", "roleRef.kind", "subjects[0].name", "roleRef.name"]);
    }
}
