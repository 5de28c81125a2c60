//! The subjects of bindings: users, groups and service accounts.

use apimachinery::field::{Error, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use k8s_openapi::api::rbac::v1::Subject;
use serde_json::Value;

use super::GROUP;
use crate::registry::declared::{Findings, changed};
use crate::registry::printer::wide;
use crate::registry::read::{at, list_at, str_at};
use crate::registry::{Column, Description};

/// The subjects of a binding; a `namespaced` binding's service accounts may leave out their namespace.
pub fn validate_subjects(new: &Value, old: Option<&Value>, namespaced: bool) -> Findings {
    let subjects: Vec<Subject> = match at(new, "/subjects") {
        Value::Null => Vec::new(),
        subjects => view(subjects),
    };
    let declared_speaks = changed(at(new, "/subjects"), old.map(|old| at(old, "/subjects")));
    let mut findings = Findings::default();
    let path = Path::new("subjects");
    for (i, subject) in subjects.iter().enumerate() {
        let path = path.index(i);
        if subject.name.is_empty() {
            let list = if declared_speaks { &mut findings.declared } else { &mut findings.written };
            list.push(Error::required(&path.child("name"), ""));
        }
        findings.written.extend(validate_subject(subject, namespaced, &path));
    }
    findings
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path<'_>) -> Vec<Error> {
    let group = subject.api_group.as_deref().unwrap_or("");
    let mut errors = Vec::new();
    match subject.kind.as_str() {
        "ServiceAccount" => {
            let (name, name_path) = (subject.name.as_str(), path.child("name"));
            if !name.is_empty() {
                errors.extend(name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(&name_path, name, message)));
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && subject.namespace.as_deref().unwrap_or("").is_empty() {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => errors.push(Error::not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"])),
    }
    errors
}

/// The columns of subjects, for the kind that `kind` names in their descriptions.
pub const fn columns(users: &'static str, groups: &'static str, accounts: &'static str) -> [Column; 3] {
    [
        wide("Users", Description::Text(users)),
        wide("Groups", Description::Text(groups)),
        wide("ServiceAccounts", Description::Text(accounts)),
    ]
}

/// The cells of those columns.
pub fn cells(binding: &Value) -> [Value; 3] {
    let subjects = list_at(binding, "/subjects");
    let of_kind = |kind: &'static str| subjects.iter().filter(move |s| str_at(s, "/kind") == kind);
    let names = |kind: &'static str| of_kind(kind).map(|s| str_at(s, "/name")).collect::<Vec<_>>().join(", ");
    let accounts: Vec<String> = of_kind("ServiceAccount").map(|s| format!("{}/{}", str_at(s, "/namespace"), str_at(s, "/name"))).collect();
    [names("User").into(), names("Group").into(), accounts.join(", ").into()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(subject: Value, namespaced: bool) -> Vec<String> {
        validate_subjects(&json!({"subjects": [subject]}), None, namespaced).into_errors().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_of_subject_has_its_form() {
        assert!(check(json!({"kind": "ServiceAccount", "name": "s"}), true).is_empty());
        assert_eq!(check(json!({"kind": "ServiceAccount", "name": "s"}), false), ["subjects[0].namespace: Required value"]);
        assert_eq!(
            check(json!({"kind": "User", "name": ""}), true),
            [
                r#"subjects[0].apiGroup: Unsupported value: "": supported values: "rbac.authorization.k8s.io""#,
                "subjects[0].name: Required value"
            ]
        );
        assert_eq!(
            check(json!({"kind": "Pod", "name": "p"}), true),
            [r#"subjects[0].kind: Unsupported value: "Pod": supported values: "ServiceAccount", "User", "Group""#]
        );
    }

    #[test]
    fn subjects_are_listed_by_kind() {
        let binding = json!({"subjects": [
            {"kind": "User", "name": "a"}, {"kind": "User", "name": "b"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        assert_eq!(cells(&binding), [json!("a, b"), json!(""), json!("n/s")]);
    }
}
