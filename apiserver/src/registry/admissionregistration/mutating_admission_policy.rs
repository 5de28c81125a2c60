//! MutatingAdmissionPolicies: expressions that change what is admitted.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{MutatingAdmissionPolicy, Mutation};
use serde_json::Value;

use super::match_condition::validate_match_conditions;
use super::match_resources::validate_mutating_operations;
use super::{policy, reserved_name};
use crate::expressions::{self, Change};
use crate::registry::printer::{self, integer, text};
use crate::registry::read::list_at;
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    kind: "MutatingAdmissionPolicy",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["api-extensions"],
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    integer("Mutations", Description::Text("Mutation indicates the number of mutations rules defined in this configuration")),
    text("ParamKind", Description::Text("ParamKind specifies the kind of resources used to parameterize this policy")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let mutations = list_at(object, "/spec/mutations").len();
    vec![printer::name(object), mutations.into(), policy::param_kind_cell(object), printer::object_age(object, now)]
}

const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate(new, None);
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

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        reserved_name::warnings(new)
    }
}

fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let policy: MutatingAdmissionPolicy = view(new);
    let spec = policy.spec.unwrap_or_default();
    let path = Path::new("spec");
    let mut errors: ErrorList =
        policy::validate_failure_policy(spec.failure_policy.as_deref(), &path.child("failurePolicy")).into_iter().collect();
    if let Some(param) = &spec.param_kind {
        errors.extend(policy::validate_param_kind(param, &path.child("paramKind")));
    }
    let constraints_path = path.child("matchConstraints");
    errors.extend(policy::validate_match_constraints(spec.match_constraints.as_ref(), &constraints_path));
    if let Some(constraints) = &spec.match_constraints {
        errors.extend(validate_mutating_operations(constraints, &constraints_path));
    }
    if !policy::match_conditions_unchanged(new, old) {
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        errors.extend(validate_match_conditions(
            conditions,
            &policy::condition_variables(spec.param_kind.is_some()),
            &path.child("matchConditions"),
        ));
    }
    let variables = spec.variables.as_deref().unwrap_or_default();
    errors.extend(policy::validate_variables(variables, spec.param_kind.is_some(), &path.child("variables")).0);

    let mutations = spec.mutations.as_deref().unwrap_or_default();
    let mutations_path = path.child("mutations");
    if mutations.is_empty() {
        errors.push(Error::required(&mutations_path, "mutations must contain at least one item"));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        errors.extend(validate_mutation(mutation, spec.param_kind.is_some(), &mutations_path.index(i)));
    }
    let reinvocation_path = path.child("reinvocationPolicy");
    match spec.reinvocation_policy.as_deref().unwrap_or("") {
        "" => errors.push(Error::required(&reinvocation_path, "")),
        known if REINVOCATION_POLICIES.contains(&known) => {}
        other => errors.push(Error::not_supported(&reinvocation_path, other, &REINVOCATION_POLICIES)),
    }
    errors
}

/// A mutation has the expression of its patch type and no other.
fn validate_mutation(mutation: &Mutation, has_params: bool, path: &Path<'_>) -> ErrorList {
    let apply = ("applyConfiguration", mutation.apply_configuration.as_ref().map(|apply| apply.expression.as_deref().unwrap_or("")));
    let patch = ("jsonPatch", mutation.json_patch.as_ref().map(|patch| patch.expression.as_deref().unwrap_or("")));
    let (kind, (wanted, expression), (other, superfluous)) = match mutation.patch_type.as_str() {
        "JSONPatch" => ("JSONPatch", patch, apply),
        "ApplyConfiguration" => ("ApplyConfiguration", apply, patch),
        "" => return vec![Error::required(&path.child("patchType"), "")],
        unknown => return vec![Error::not_supported(&path.child("patchType"), unknown, &PATCH_TYPES)],
    };
    let mut errors = ErrorList::new();
    let wanted_path = path.child(wanted);
    match expression {
        None => errors.push(Error::required(&wanted_path, format!("must be specified when patchType is {kind}"))),
        Some(expression) if expression.trim().is_empty() => errors.push(Error::required(&wanted_path.child("expression"), "")),
        Some(expression) => {
            let change = if kind == "JSONPatch" { Change::JsonPatch } else { Change::ApplyConfiguration };
            let compiled = expressions::Mutation::compile(change, expression.trim(), &policy::expression_variables(has_params));
            errors.extend(compiled.err().map(|why| Error::invalid(&wanted_path.child("expression"), expression, why)));
        }
    }
    if superfluous.is_some() {
        let detail = format!("must not be specified when patchType is {kind}");
        errors.push(Error::invalid(&path.child(other), format!("{{{other}}}"), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mutation_has_the_expression_of_its_type() {
        let check = |mutation: Value| -> Vec<String> {
            validate_mutation(&view(&mutation), false, &Path::new("m")).iter().map(ToString::to_string).collect()
        };
        assert!(check(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/a'}]"}})).is_empty());
        assert_eq!(
            check(json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "x"}})),
            [
                "m.jsonPatch: Required value: must be specified when patchType is JSONPatch",
                r#"m.applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch"#,
            ]
        );
        assert_eq!(
            check(json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "object.a"}})),
            [r#"m.applyConfiguration.expression: Invalid value: "object.a": must evaluate to Object but got dyn"#]
        );
        assert_eq!(
            check(json!({"patchType": "x"})),
            [r#"m.patchType: Unsupported value: "x": supported values: "ApplyConfiguration", "JSONPatch""#]
        );
    }

    #[test]
    fn an_empty_policy_lacks_what_it_needs() {
        let errors: Vec<String> = validate(&json!({"spec": {"failurePolicy": "Fail"}}), None).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.matchConstraints: Required value",
                "spec.mutations: Required value: mutations must contain at least one item",
                "spec.reinvocationPolicy: Required value",
            ]
        );
    }
}
