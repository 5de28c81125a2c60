//! The role that a binding grants.

use apimachinery::field::{Error, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, is_valid_path_segment_name};
use serde_json::{Value, json};

use super::GROUP;
use crate::registry::declared::{Findings, changed};
use crate::registry::read::{at, str_at};

/// A binding's `roleRef`, which names a role of one of `kinds`.
pub fn validate_role_ref(new: &Value, old: Option<&Value>, kinds: &[&str]) -> Findings {
    let role_ref = at(new, "/roleRef");
    let (group, kind, name) = (str_at(role_ref, "/apiGroup"), str_at(role_ref, "/kind"), str_at(role_ref, "/name"));
    let path = Path::new("roleRef");
    let mut findings = Findings::default();
    if group != GROUP {
        findings.written.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&kind) {
        findings.written.push(Error::not_supported(&path.child("kind"), kind, kinds));
    }
    let name_path = path.child("name");
    if name.is_empty() {
        // The declared rule stops at a change of the reference, and at none.
        let list = if old.is_none() { &mut findings.declared } else { &mut findings.written };
        list.push(Error::required(&name_path, ""));
    } else {
        let problems = is_valid_path_segment_name(name);
        findings.written.extend(problems.into_iter().map(|message| Error::invalid(&name_path, name, message)));
    }
    findings
}

/// A binding's role never changes. Stands after the rules of the subjects.
pub fn validate_unchanged(new: &Value, old: &Value) -> Option<Error> {
    let role_ref = at(new, "/roleRef");
    changed(role_ref, Some(at(old, "/roleRef"))).then(|| {
        let shown =
            json!({"APIGroup": str_at(role_ref, "/apiGroup"), "Kind": str_at(role_ref, "/kind"), "Name": str_at(role_ref, "/name")});
        Error::invalid(&Path::new("roleRef"), shown, FIELD_IMMUTABLE)
    })
}

/// The cell that names the role.
pub fn cell(binding: &Value) -> Value {
    format!("{}/{}", str_at(binding, "/roleRef/kind"), str_at(binding, "/roleRef/name")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_role_of_this_group() {
        let check = |role_ref: Value| -> Vec<String> {
            let findings = validate_role_ref(&json!({ "roleRef": role_ref }), None, &["ClusterRole"]);
            findings.into_errors().iter().map(ToString::to_string).collect()
        };
        assert!(check(json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "a"})).is_empty());
        assert_eq!(
            check(json!({"apiGroup": GROUP})),
            [r#"roleRef.kind: Unsupported value: "": supported values: "ClusterRole""#, "roleRef.name: Required value"]
        );
    }

    #[test]
    fn a_reference_never_changes() {
        let role_ref = |name: &str| json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name}});
        assert_eq!(validate_unchanged(&role_ref("a"), &role_ref("a")), None);
        assert_eq!(
            validate_unchanged(&role_ref("a"), &role_ref("b")).unwrap().to_string(),
            r#"roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"a"}: field is immutable"#
        );
    }
}
