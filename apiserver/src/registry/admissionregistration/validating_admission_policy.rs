//! ValidatingAdmissionPolicies: expressions that must hold for what is admitted.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_qualified_name, name_is_dns_subdomain, validate_conditions};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation};
use serde_json::{Value, json};

use super::match_condition::validate_match_conditions;
use super::{policy, reserved_name};
use crate::registry::printer::{self, integer, text};
use crate::registry::read::{list_at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, keep_all_but_status, keep_metadata, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    kind: "ValidatingAdmissionPolicy",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["api-extensions"],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: super::GROUP,
        version: "v1",
        kind: "ValidatingAdmissionPolicy",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec", "metadata"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    integer("Validations", Description::Text("Validations indicates the number of validation rules defined in this configuration")),
    text("ParamKind", Description::Text("ParamKind specifies the kind of resources used to parameterize this policy")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let validations = list_at(object, "/spec/validations").len();
    vec![printer::name(object), validations.into(), policy::param_kind_cell(object), printer::object_age(object, now)]
}

const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION_BYTES: usize = 5 * 1024;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
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
        keep_status(new, old);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        reserved_name::warnings(new)
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let warnings = Path::new("status.typeChecking.expressionWarnings");
        let mut errors = ErrorList::new();
        for (i, warning) in list_at(new, "/status/typeChecking/expressionWarnings").iter().enumerate() {
            let path = warnings.index(i);
            if str_at(warning, "/warning").is_empty() {
                errors.push(Error::required(&path.child("warning"), ""));
            }
            if str_at(warning, "/fieldRef").trim().is_empty() {
                errors.push(Error::required(&path.child("fieldRef"), ""));
            }
        }
        errors.extend(validate_conditions(list_at(new, "/status/conditions"), &Path::new("status.conditions")));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        reserved_name::warnings(new)
    }
}

fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let policy: ValidatingAdmissionPolicy = view(new);
    let spec = policy.spec.unwrap_or_default();
    let path = Path::new("spec");
    let mut errors: ErrorList =
        policy::validate_failure_policy(spec.failure_policy.as_deref(), &path.child("failurePolicy")).into_iter().collect();
    if let Some(param) = &spec.param_kind {
        errors.extend(policy::validate_param_kind(param, &path.child("paramKind")));
    }
    errors.extend(policy::validate_match_constraints(spec.match_constraints.as_ref(), &path.child("matchConstraints")));
    if !policy::match_conditions_unchanged(new, old) {
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        errors.extend(validate_match_conditions(
            conditions,
            &policy::condition_variables(spec.param_kind.is_some()),
            &path.child("matchConditions"),
        ));
    }
    let variables = spec.variables.as_deref().unwrap_or_default();
    let (wrong, known) = policy::validate_variables(variables, spec.param_kind.is_some(), &path.child("variables"));
    errors.extend(wrong);
    let known = known.without_empty_composition();
    errors.extend(validate_outcomes(str_at(new, "/metadata/name"), &spec, &known, &path));
    errors
}

/// A policy validates something or annotates something.
fn validate_outcomes(name: &str, spec: &ValidatingAdmissionPolicySpec, known: &policy::Known, path: &Path<'_>) -> ErrorList {
    let validations = spec.validations.as_deref().unwrap_or_default();
    let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
    let (validations_path, annotations_path) = (path.child("validations"), path.child("auditAnnotations"));
    let mut errors = ErrorList::new();
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        return vec![Error::required(&validations_path, detail), Error::required(&annotations_path, detail)];
    }
    for (i, validation) in validations.iter().enumerate() {
        errors.extend(validate_validation(validation, known, &validations_path.index(i)));
    }
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let shown: Value =
            annotations.iter().map(|a| json!({"Key": a.key, "ValueExpression": a.value_expression})).collect::<Vec<_>>().into();
        errors.push(Error::invalid(&annotations_path, shown, format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations")));
    }
    for (i, annotation) in annotations.iter().enumerate() {
        let path = annotations_path.index(i);
        errors.extend(validate_audit_annotation(name, annotation, known, &path));
        if annotations[..i].iter().any(|earlier| earlier.key == annotation.key) {
            errors.push(Error::duplicate(&path.child("key"), annotation.key.as_str()));
        }
    }
    errors
}

fn validate_validation(validation: &Validation, known: &policy::Known, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if validation.expression.trim().is_empty() {
        errors.push(Error::required(&path.child("expression"), "expression is not specified"));
    } else {
        errors.extend(policy::validate_expression(&validation.expression, known, &["bool"], &path.child("expression")));
    }
    let message_expression = validation.message_expression.as_deref().unwrap_or("");
    if !message_expression.is_empty() && message_expression.trim().is_empty() {
        errors.push(Error::invalid(&path.child("messageExpression"), message_expression, "must be non-empty if specified"));
    } else if !message_expression.is_empty() {
        errors.extend(policy::validate_expression(message_expression, known, &["string"], &path.child("messageExpression")));
    }
    let (message, message_path) = (validation.message.as_deref().unwrap_or(""), path.child("message"));
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(&message_path, message, "must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(Error::invalid(&message_path, message, "must not contain line breaks"));
    }
    if let Some(reason) = validation.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
        errors.push(Error::not_supported(&path.child("reason"), reason, &REASONS));
    }
    errors
}

fn validate_audit_annotation(policy_name: &str, annotation: &AuditAnnotation, known: &policy::Known, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let key_path = path.child("key");
    if policy_name.is_empty() {
        errors.push(Error::invalid(&key_path, annotation.key.as_str(), "requires metadata.name be non-empty"));
    } else {
        // The annotation in the audit log is named after the policy.
        let full = format!("{policy_name}/{}", annotation.key);
        errors.extend(is_qualified_name(&full).into_iter().map(|message| Error::invalid(&key_path, full.as_str(), message)));
    }
    let value_path = path.child("valueExpression");
    match annotation.value_expression.trim().len() {
        0 => errors.push(Error::required(&value_path, "valueExpression is not specified")),
        length if length > MAX_VALUE_EXPRESSION_BYTES => {
            errors.push(Error::required(&value_path, format!("must not exceed {MAX_VALUE_EXPRESSION_BYTES} bytes in length")));
        }
        _ => {
            let types = ["string", "null_type"];
            errors.extend(policy::validate_expression(&annotation.value_expression, known, &types, &value_path));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let constraints = json!({"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [rule]});
        let mut object = json!({"metadata": {"name": "p"}, "spec": {
            "failurePolicy": "Fail", "matchConstraints": constraints, "validations": [{"expression": "true"}]}});
        change(&mut object["spec"]);
        validate(&object, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_does_something() {
        assert!(policy(|_| {}).is_empty());
        assert_eq!(
            policy(|spec| *spec = json!({})),
            [
                "spec.failurePolicy: Required value",
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
    }

    #[test]
    fn messages_stand_on_one_line() {
        assert_eq!(
            policy(|spec| spec["validations"] = json!([{"expression": " ", "message": "a\nb", "messageExpression": " ", "reason": "x"}])),
            [
                "spec.validations[0].expression: Required value: expression is not specified",
                r#"spec.validations[0].messageExpression: Invalid value: " ": must be non-empty if specified"#,
                r#"spec.validations[0].message: Invalid value: "a\nb": must not contain line breaks"#,
                r#"spec.validations[0].reason: Unsupported value: "x": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge""#,
            ]
        );
    }

    #[test]
    fn annotations_are_keyed_once() {
        let annotation = json!({"key": "k", "valueExpression": ""});
        assert_eq!(
            policy(|spec| spec["auditAnnotations"] = json!([annotation, annotation])),
            [
                "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                r#"spec.auditAnnotations[1].key: Duplicate value: "k""#,
            ]
        );
    }
}
