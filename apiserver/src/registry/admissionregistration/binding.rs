//! What bindings of validating and mutating policies share: the policy's name, the parameters, the cells.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{LabelSelectorOptions, is_valid_path_segment_name, name_is_dns_subdomain, validate_label_selector};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ParamRef;
use serde_json::Value;

use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::{Column, Description};

const EXCLUSIVE: &str = "name and selector are mutually exclusive";

pub const COLUMNS: &[Column] = &[
    printer::NAME,
    text("PolicyName", Description::Text("PolicyName indicates the policy definition which the policy binding binded to")),
    text("ParamRef", Description::Text("ParamRef indicates the param resource which sets the configuration param")),
    printer::AGE,
];

/// The cells of a binding. Whether a parameter without a namespace has one cannot be told from here.
pub fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let param = at(object, "/spec/paramRef");
    let param = match (str_at(param, "/name"), str_at(param, "/namespace")) {
        ("", _) if at(param, "/selector").is_null() => "<unset>".to_owned(),
        ("", _) => shown_selector(at(param, "/selector")),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    };
    vec![printer::name(object), str_at(object, "/spec/policyName").into(), param.into(), printer::object_age(object, now)]
}

/// A selector as the debugging form of its type shows it.
fn shown_selector(selector: &Value) -> String {
    let mut labels: Vec<(&str, &str)> =
        at(selector, "/matchLabels").as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), str_at(value, ""))).collect();
    labels.sort_unstable();
    let labels: String = labels.iter().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = list_at(selector, "/matchExpressions")
        .iter()
        .map(|expression| {
            let values: Vec<&str> = list_at(expression, "/values").iter().map(|value| str_at(value, "")).collect();
            let (key, operator) = (str_at(expression, "/key"), str_at(expression, "/operator"));
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
        })
        .collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}

/// The policy that a binding binds, unless it has none.
pub fn validate_policy_name(name: &str, path: &Path<'_>) -> ErrorList {
    name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(path, name, message)).collect()
}

/// The parameters, by name or by label.
pub fn validate_param_ref(param: &ParamRef, path: &Path<'_>) -> ErrorList {
    let name = param.name.as_deref().unwrap_or("");
    let (name_path, selector_path) = (path.child("name"), path.child("selector"));
    let mut errors = ErrorList::new();
    if !name.is_empty() {
        errors.extend(is_valid_path_segment_name(name).into_iter().map(|message| Error::invalid(&name_path, name, message)));
        if param.selector.is_some() {
            errors.push(Error::forbidden(&name_path, EXCLUSIVE));
        }
    }
    if let Some(selector) = &param.selector {
        errors.extend(validate_label_selector(selector, LabelSelectorOptions::default(), &selector_path));
        if !name.is_empty() {
            errors.push(Error::forbidden(&selector_path, EXCLUSIVE));
        }
    }
    if name.is_empty() && param.selector.is_none() {
        errors.push(Error::required(path, "one of name or selector must be specified"));
    }
    let action_path = path.child("parameterNotFoundAction");
    match param.parameter_not_found_action.as_deref() {
        None | Some("") => errors.push(Error::required(&action_path, "")),
        Some("Deny" | "Allow") => {}
        Some(other) => errors.push(Error::not_supported(&action_path, other, &["Deny", "Allow"])),
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_named_or_selected() {
        let check =
            |param: Value| -> Vec<String> { validate_param_ref(&view(&param), &Path::new("p")).iter().map(ToString::to_string).collect() };
        assert!(check(json!({"name": "a", "parameterNotFoundAction": "Deny"})).is_empty());
        assert_eq!(
            check(json!({})),
            ["p: Required value: one of name or selector must be specified", "p.parameterNotFoundAction: Required value"]
        );
        assert_eq!(
            check(json!({"name": "a", "selector": {}, "parameterNotFoundAction": "x"})),
            [
                "p.name: Forbidden: name and selector are mutually exclusive",
                "p.selector: Forbidden: name and selector are mutually exclusive",
                r#"p.parameterNotFoundAction: Unsupported value: "x": supported values: "Deny", "Allow""#,
            ]
        );
    }

    #[test]
    fn parameters_are_shown_with_their_namespace() {
        let cell = |spec: Value| row(&json!({ "spec": spec }), Timestamp::UNIX_EPOCH).swap_remove(2);
        assert_eq!(cell(json!({})), "<unset>");
        assert_eq!(cell(json!({"paramRef": {"name": "a"}})), "*/a");
        assert_eq!(cell(json!({"paramRef": {"name": "a", "namespace": "n"}})), "n/a");
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]});
        assert_eq!(
            cell(json!({"paramRef": {"selector": selector}})),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
        );
    }
}
