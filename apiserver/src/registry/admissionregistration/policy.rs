//! What validating and mutating policies share: parameters, variables, constraints.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1035_label, is_dns1123_subdomain};
use k8s_openapi::api::admissionregistration::v1::{MatchResources, ParamKind, Variable};
use serde_json::Value;

use super::match_condition::VARIABLES;
use super::match_resources::validate_match_resources;
use crate::expressions::{Change, Expression, Mutation};
use crate::registry::declared::changed;
use crate::registry::read::{at, str_at};

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];

/// A policy's failure policy.
pub fn validate_failure_policy(policy: Option<&str>, path: &Path<'_>) -> Option<Error> {
    match policy {
        None => Some(Error::required(path, "")),
        Some(policy) if FAILURE_POLICIES.contains(&policy) => None,
        Some(policy) => Some(Error::not_supported(path, policy, &FAILURE_POLICIES)),
    }
}

/// What a policy looks at; at least one rule says so.
pub fn validate_match_constraints(constraints: Option<&MatchResources>, path: &Path<'_>) -> ErrorList {
    let Some(constraints) = constraints else { return vec![Error::required(path, "")] };
    let mut errors = validate_match_resources(constraints, path);
    if constraints.resource_rules.as_deref().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("resourceRules"), ""));
    }
    errors
}

/// Whether match conditions need no second look because neither they nor the parameters have changed.
pub fn match_conditions_unchanged(new: &Value, old: Option<&Value>) -> bool {
    old.is_some_and(|old| ["/spec/paramKind", "/spec/matchConditions"].iter().all(|field| !changed(at(new, field), Some(at(old, field)))))
}

/// The kind of a policy's parameters.
pub fn validate_param_kind(param: &ParamKind, path: &Path<'_>) -> ErrorList {
    let (api_version, kind) = (param.api_version.as_deref().unwrap_or(""), param.kind.as_deref().unwrap_or(""));
    let mut errors = validate_api_version(api_version, &path.child("apiVersion"));
    let kind_path = path.child("kind");
    if kind.is_empty() {
        errors.push(Error::required(&kind_path, ""));
    } else {
        let problems = is_dns1035_label(&kind.to_lowercase());
        if !problems.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            errors.push(Error::invalid(&kind_path, kind, detail));
        }
    }
    errors
}

fn validate_api_version(api_version: &str, path: &Path<'_>) -> ErrorList {
    if api_version.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (group, version) = match api_version.matches('/').count() {
        _ if api_version == "/" => ("", ""),
        0 => ("", api_version),
        1 => api_version.split_once('/').unwrap_or(("", api_version)),
        _ => return vec![Error::invalid(path, api_version, format!("unexpected GroupVersion string: {api_version}"))],
    };
    let mut errors = ErrorList::new();
    if !group.is_empty() {
        let problems = is_dns1123_subdomain(group);
        if !problems.is_empty() {
            errors.push(Error::invalid(path, group, problems.join(",")));
        }
    }
    if version.is_empty() {
        errors.push(Error::invalid(path, api_version, "version must be specified"));
    } else {
        let problems = is_dns1035_label(version);
        if !problems.is_empty() {
            errors.push(Error::invalid(path, version, problems.join(",")));
        }
    }
    errors
}

/// What expressions of a policy may use.
pub struct Known {
    variables: Vec<&'static str>,
    /// What the policy composes, with the types of that.
    composed: Vec<(String, cel::Type)>,
    /// The policy has variables, be they wrong.
    composes: bool,
}

impl Known {
    /// Without `variables` if there are none: upstream declares it in validating policies only where something is composed.
    pub fn without_empty_composition(mut self) -> Known {
        if !self.composes {
            self.variables.retain(|name| *name != "variables");
        }
        self
    }
}

/// The variables that expressions can use. Each may use those before it.
pub fn validate_variables(variables: &[Variable], has_params: bool, path: &Path<'_>) -> (ErrorList, Known) {
    let mut errors = ErrorList::new();
    let mut known = Known { variables: expression_variables(has_params), composed: Vec::new(), composes: !variables.is_empty() };
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        let (name, name_path) = (variable.name.as_str(), path.child("name"));
        if name.trim().is_empty() {
            errors.push(Error::required(&name_path, "name is not specified"));
        } else if !cel::is_identifier(name) {
            errors.push(Error::invalid(&name_path, name, "must be a valid CEL identifier"));
        }
        if variable.expression.trim().is_empty() {
            errors.push(Error::required(&path.child("expression"), "expression is not specified"));
        } else {
            let compiled = Expression::compile_with(variable.expression.trim(), &known.variables, &known.composed, &[]);
            let ty = compiled.as_ref().map_or(cel::Type::Dyn, |expression| expression.result_type().clone());
            known.composed.push((name.to_owned(), ty));
            errors.extend(compiled.err().map(|why| Error::invalid(&path.child("expression"), variable.expression.as_str(), why)));
        }
    }
    (errors, known)
}

/// What match conditions of policies may use.
pub fn condition_variables(has_params: bool) -> Vec<&'static str> {
    VARIABLES.into_iter().chain(has_params.then_some("params")).collect()
}

/// What the other expressions of policies may use.
pub(super) fn expression_variables(has_params: bool) -> Vec<&'static str> {
    condition_variables(has_params).into_iter().chain(["namespaceObject", "variables"]).collect()
}

/// An expression must compile and give one of these types; anything if there are none.
pub fn validate_expression(text: &str, known: &Known, types: &[&str], path: &Path<'_>) -> Option<Error> {
    Expression::compile_with(text.trim(), &known.variables, &known.composed, types).err().map(|why| Error::invalid(path, text, why))
}

/// The expression of a mutation must compile and make what its patch type says.
pub fn validate_mutation_expression(change: Change, text: &str, known: &Known, path: &Path<'_>) -> Option<Error> {
    Mutation::compile(change, text.trim(), &known.variables, &known.composed).err().map(|why| Error::invalid(path, text, why))
}

/// The cell that names the kind of the parameters.
pub fn param_kind_cell(policy: &Value) -> Value {
    match at(policy, "/spec/paramKind") {
        Value::Null => "<unset>".into(),
        param => format!("{}/{}", str_at(param, "/apiVersion"), str_at(param, "/kind")).into(),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_have_a_kind_of_some_version() {
        let check =
            |param: Value| -> Vec<String> { validate_param_kind(&view(&param), &Path::new("p")).iter().map(ToString::to_string).collect() };
        assert!(check(json!({"apiVersion": "a.com/v1", "kind": "Thing"})).is_empty());
        assert_eq!(check(json!({})), ["p.apiVersion: Required value", "p.kind: Required value"]);
        assert_eq!(
            check(json!({"apiVersion": "a/b/c", "kind": "T"})),
            [r#"p.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#]
        );
        assert_eq!(
            check(json!({"apiVersion": "a.com/", "kind": "T"})),
            [r#"p.apiVersion: Invalid value: "a.com/": version must be specified"#]
        );
    }

    #[test]
    fn variables_are_identifiers() {
        let variables: Vec<Variable> = view(&json!([
            {"name": "a_1", "expression": "1"}, {"name": "in", "expression": "1"}, {"name": "1a", "expression": "1"}, {"name": " ", "expression": ""}]));
        let errors: Vec<String> = validate_variables(&variables, false, &Path::new("v")).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                r#"v[1].name: Invalid value: "in": must be a valid CEL identifier"#,
                r#"v[2].name: Invalid value: "1a": must be a valid CEL identifier"#,
                "v[3].name: Required value: name is not specified",
                "v[3].expression: Required value: expression is not specified",
            ]
        );
    }
}
