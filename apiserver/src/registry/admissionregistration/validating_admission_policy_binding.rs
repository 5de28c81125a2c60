//! ValidatingAdmissionPolicyBindings: where a validating policy holds, by which parameters, and what happens if it does not.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::{Value, json};

use super::binding::{COLUMNS, row, validate_param_ref, validate_policy_name};
use super::match_resources::validate_match_resources;
use super::reserved_name;
use crate::registry::declared::{Findings, changed};
use crate::registry::read::at;
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Cx, Definition, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    kind: "ValidatingAdmissionPolicyBinding",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["api-extensions"],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut findings = validate(new, None);
        findings.written.extend(reserved_name::validate(new));
        findings.into_errors()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old)).into_errors()
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        reserved_name::warnings(new)
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Findings {
    let binding: ValidatingAdmissionPolicyBinding = view(new);
    let spec = binding.spec;
    let declared_speaks = |field: &str| changed(at(new, field), old.map(|old| at(old, field)));
    let path = Path::new("spec");
    let mut findings = Findings::default();

    let name_path = path.child("policyName");
    if spec.policy_name.is_empty() {
        let list = if declared_speaks("/spec/policyName") { &mut findings.declared } else { &mut findings.written };
        list.push(Error::required(&name_path, ""));
    } else {
        findings.written.extend(validate_policy_name(&spec.policy_name, &name_path));
    }
    if let Some(param) = &spec.param_ref {
        findings.written.extend(validate_param_ref(param, &path.child("paramRef")));
    }
    if let Some(resources) = &spec.match_resources {
        findings.written.extend(validate_match_resources(resources, &path.child("matchResources")));
    }
    let actions_path = path.child("validationActions");
    findings.written.extend(validate_actions(&spec.validation_actions, &actions_path));
    if spec.validation_actions.is_empty() {
        if declared_speaks("/spec/validationActions") {
            findings.declared.push(Error::required(&actions_path, ""));
        } else {
            findings.written.push(Error::required(&actions_path, "at least one validation action is required"));
        }
    }
    findings
}

fn validate_actions(actions: &[String], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(&action.as_str()) {
            errors.push(Error::not_supported(&path.index(i), action.as_str(), &ACTIONS));
        }
        if actions[..i].contains(action) {
            errors.push(Error::duplicate(&path.index(i), action.as_str()));
        }
    }
    let has = |wanted: &str| actions.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(path, json!(actions), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_names_a_policy_and_actions() {
        let check = |spec: Value| -> Vec<String> {
            validate(&json!({ "spec": spec }), None).into_errors().iter().map(ToString::to_string).collect()
        };
        assert!(check(json!({"policyName": "p", "validationActions": ["Deny", "Audit"]})).is_empty());
        assert_eq!(check(json!({})), ["spec.policyName: Required value", "spec.validationActions: Required value"]);
        let errors = check(json!({"policyName": "p", "validationActions": ["Deny", "Warn", "Warn", "x"]}));
        assert_eq!(errors[0], r#"spec.validationActions[2]: Duplicate value: "Warn""#);
        assert_eq!(errors[1], r#"spec.validationActions[3]: Unsupported value: "x": supported values: "Audit", "Deny", "Warn""#);
        assert!(errors[2].contains("must not contain both Deny and Warn"));
    }
}
