//! Definitions in the groups of the project need its approval.

use apimachinery::field::{Error, Path, quote};
use serde_json::Value;

use crate::registry::admissionregistration::url::Url;
use crate::registry::read::{at, str_at};

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

/// The approval of a definition whose group is the project's; one that has not changed is not looked at again.
pub fn validate(new: &Value, old: Option<&Value>) -> Option<Error> {
    let group = str_at(new, "/spec/group");
    let protected =
        ["k8s.io", "kubernetes.io"].iter().any(|domain| group.strip_suffix(domain).is_some_and(|s| s.is_empty() || s.ends_with('.')));
    if !protected {
        return None;
    }
    let state = approval(annotation(new));
    if old.is_some_and(|old| approval(annotation(old)) == state) {
        return None;
    }
    let path = Path::new("metadata.annotations");
    let path = path.key(ANNOTATION);
    let name = quote(ANNOTATION);
    match state {
        Approval::Approved | Approval::Bypassed => None,
        Approval::Missing => Some(Error::required(&path, format!("protected groups must have approval annotation {name}, {SEE}"))),
        Approval::Invalid => {
            let forms = "with either a URL or a reason starting with \"unapproved\"";
            let detail = format!("protected groups must have approval annotation {name} {forms}, {SEE}");
            Some(Error::invalid(&path, annotation(new), detail))
        }
    }
}

fn annotation(definition: &Value) -> &str {
    at(definition, "/metadata/annotations").get(ANNOTATION).and_then(Value::as_str).unwrap_or("")
}

fn approval(annotation: &str) -> Approval {
    if annotation.is_empty() {
        return Approval::Missing;
    }
    if annotation.starts_with("unapproved") {
        return Approval::Bypassed;
    }
    match Url::parse_request(annotation) {
        Ok(url) if !url.host.is_empty() && !url.scheme.is_empty() => Approval::Approved,
        _ => Approval::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_of_the_project_need_approval() {
        let object =
            |group: &str, annotation: &str| json!({"metadata": {"annotations": {ANNOTATION: annotation}}, "spec": {"group": group}});
        assert_eq!(validate(&object("example.com", ""), None), None);
        assert_eq!(validate(&object("a.k8s.io", "https://github.com/x"), None), None);
        assert_eq!(validate(&object("a.k8s.io", "unapproved, so far"), None), None);
        assert_eq!(validate(&object("ak8s.io", ""), None), None);
        let missing = validate(&object("k8s.io", ""), None).unwrap().to_string();
        assert!(missing.starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must"));
        assert!(validate(&object("k8s.io", "yes"), None).unwrap().to_string().contains(r#"Invalid value: "yes": protected"#));
        assert_eq!(validate(&object("k8s.io", "yes"), Some(&object("k8s.io", "no"))), None);
    }
}
