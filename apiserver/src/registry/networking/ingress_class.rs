//! IngressClasses: which controller implements an Ingress.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    is_dns1123_subdomain, is_domain_prefixed_path, name_is_dns_label, name_is_dns_subdomain, validate_immutable_field,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::Value;

use super::path_segment;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "networking.k8s.io",
    version: "v1",
    plural: "ingressclasses",
    singular: "ingressclass",
    kind: "IngressClass",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.networking.v1.IngressClass",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Controller", Description::Text("Controller that is responsible for handling this class")),
    text("Parameters", Description::Text("A reference to a resource with additional parameters")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut name = str_at(object, "/metadata/name").to_owned();
    if at(object, "/metadata/annotations").get("ingressclass.kubernetes.io/is-default-class").is_some_and(|v| v == "true") {
        name.push_str(" (default)");
    }
    vec![
        name.into(),
        str_at(object, "/spec/controller").into(),
        parameters(at(object, "/spec/parameters")).into(),
        printer::object_age(object, now),
    ]
}

fn parameters(parameters: &Value) -> String {
    if parameters.is_null() {
        return "<none>".to_owned();
    }
    let (kind, name) = (str_at(parameters, "/kind"), str_at(parameters, "/name"));
    match at(parameters, "/apiGroup").as_str() {
        Some(group) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(new, None)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (after, before) = (str_at(new, "/spec/controller"), str_at(old, "/spec/controller"));
        let mut errors = validate_immutable_field(after, before, &Path::new("spec.controller"));
        errors.extend(validate_spec(new, Some(old)));
        errors
    }
}

const MAX_CONTROLLER_BYTES: usize = 250;

fn validate_spec(object: &Value, old: Option<&Value>) -> ErrorList {
    let class: IngressClass = view(object);
    let spec = class.spec.unwrap_or_default();
    let controller = spec.controller.as_deref().unwrap_or("");
    let path = Path::new("spec");
    let controller_path = path.child("controller");
    let (mut errors, mut declared) = (Vec::new(), Vec::new());
    if controller.len() > MAX_CONTROLLER_BYTES {
        errors.push(Error::too_long(&controller_path, MAX_CONTROLLER_BYTES));
    }
    errors.extend(is_domain_prefixed_path(&controller_path, controller));
    if let Some(parameters) = &spec.parameters {
        let before = old.map(|o| at(o, "/spec/parameters"));
        let parameters_path = path.child("parameters");
        for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
            let field_path = parameters_path.child(field);
            // A declared rule says that it is required, after the written ones, unless nothing changed.
            let unchanged = before.is_some_and(|b| b.get(field).and_then(Value::as_str) == Some(""));
            if !value.is_empty() {
                continue;
            }
            let into = if unchanged { &mut errors } else { &mut declared };
            into.push(Error::required(&field_path, ""));
        }
        errors.extend(validate_parameters(parameters, &parameters_path));
    }
    errors.extend(declared);
    errors
}

/// All but that kind and name are required.
fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(group) = parameters.api_group.as_deref() {
        let problems = is_dns1123_subdomain(group);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("apiGroup"), group, message)));
    }
    for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if !value.is_empty() {
            errors.extend(path_segment(value, &path.child(field)));
        }
    }
    let namespace_path = path.child("namespace");
    match (parameters.scope.as_deref(), parameters.namespace.as_deref()) {
        (None, _) => errors.push(Error::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => errors.push(Error::required(&namespace_path, "`parameters.scope` is set to 'Namespace'")),
        (Some("Namespace"), Some(namespace)) => {
            let problems = name_is_dns_label(namespace, false);
            errors.extend(problems.into_iter().map(|message| Error::invalid(&namespace_path, namespace, message)));
        }
        (Some("Cluster"), Some(_)) => errors.push(Error::forbidden(&namespace_path, "`parameters.scope` is set to 'Cluster'")),
        (Some("Cluster"), None) => {}
        (Some(other), _) => errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespace"])),
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        validate_spec(&json!({"spec": spec}), None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn parameters_have_a_scope_that_fits_their_namespace() {
        let with = |parameters: Value| check(json!({"controller": "example.com/c", "parameters": parameters}));
        assert!(with(json!({"kind": "K", "name": "n", "scope": "Cluster"})).is_empty());
        assert_eq!(
            with(json!({"kind": "", "name": "n", "scope": "Namespace"})),
            ["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'", "spec.parameters.kind: Required value"]
        );
        assert_eq!(
            with(json!({"kind": "K", "name": "n", "scope": "x"})),
            ["spec.parameters.scope: Unsupported value: \"x\": supported values: \"Cluster\", \"Namespace\""]
        );
    }

    #[test]
    fn a_controller_is_a_path_under_a_domain() {
        assert_eq!(check(json!({"controller": ""})), ["spec.controller: Required value"]);
        assert_eq!(check(json!({"controller": "x".repeat(251)})).len(), 2);
    }
}
