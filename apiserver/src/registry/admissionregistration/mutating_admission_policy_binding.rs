//! MutatingAdmissionPolicyBindings: where a mutating policy acts, and by which parameters.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use serde_json::Value;

use super::binding::{COLUMNS, row, validate_param_ref, validate_policy_name};
use super::match_resources::{validate_match_resources, validate_mutating_operations};
use super::reserved_name;
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Cx, Definition, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    kind: "MutatingAdmissionPolicyBinding",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["api-extensions"],
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate(new);
        errors.extend(reserved_name::validate(new));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate(new)
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        reserved_name::warnings(new)
    }
}

fn validate(new: &Value) -> ErrorList {
    let binding: MutatingAdmissionPolicyBinding = view(new);
    let spec = binding.spec.unwrap_or_default();
    let path = Path::new("spec");
    let name_path = path.child("policyName");
    let mut errors = match spec.policy_name.as_deref().unwrap_or("") {
        "" => vec![Error::required(&name_path, "")],
        name => validate_policy_name(name, &name_path),
    };
    if let Some(param) = &spec.param_ref {
        errors.extend(validate_param_ref(param, &path.child("paramRef")));
    }
    if let Some(resources) = &spec.match_resources {
        let path = path.child("matchResources");
        errors.extend(validate_match_resources(resources, &path));
        errors.extend(validate_mutating_operations(resources, &path));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_names_a_policy() {
        let check = |spec: Value| -> Vec<String> { validate(&json!({ "spec": spec })).iter().map(ToString::to_string).collect() };
        assert!(check(json!({"policyName": "p"})).is_empty());
        assert_eq!(check(json!({})), ["spec.policyName: Required value"]);
        assert_eq!(check(json!({"policyName": "P"})).len(), 1);
    }
}
