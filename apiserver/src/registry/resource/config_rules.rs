//! Configuration that a driver reads and nobody else, and the selectors by which devices are chosen.

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::resource::v1::{DeviceSelector, OpaqueDeviceConfiguration};
use serde_json::Value;

use super::device_expression;
use super::names::declared_driver;

pub const MAX_SELECTORS: usize = 32;
const MAX_EXPRESSION_BYTES: usize = 10 * 1024;
const MAX_PARAMETERS_BYTES: usize = 10 * 1024;

/// Whether what is checked has been stored before, by rules that may have been looser.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Age {
    New,
    Stored,
}

/// What is written of a configuration; the driver's name is declared.
pub fn validate_config(opaque: Option<&OpaqueDeviceConfiguration>, age: Age, path: &Path<'_>) -> ErrorList {
    let path = path.child("opaque");
    match opaque {
        None => vec![Error::required(&path, "")],
        Some(opaque) => validate_raw(&opaque.parameters.0, age, &path.child("parameters")).into_iter().collect(),
    }
}

/// What is declared of a configuration.
pub fn declared_config(opaque: Option<&OpaqueDeviceConfiguration>, path: &Path<'_>) -> ErrorList {
    let path = path.child("opaque");
    opaque.map(|opaque| declared_driver(&opaque.driver, &path.child("driver"))).unwrap_or_default()
}

/// An object of bounded size, of which nothing else is known.
pub fn validate_raw(raw: &Value, age: Age, path: &Path<'_>) -> Option<Error> {
    match raw {
        Value::Null => Some(Error::required(path, "")),
        raw if age == Age::New && apimachinery::json::to_string(raw).len() > MAX_PARAMETERS_BYTES => {
            Some(Error::too_long(path, MAX_PARAMETERS_BYTES))
        }
        Value::Object(_) => None,
        _ => Some(Error::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

/// What is written of selectors; their number is declared, and too many are not looked at.
pub fn validate_selectors(selectors: &[DeviceSelector], age: Age, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if selectors.len() > MAX_SELECTORS {
        return errors;
    }
    for (i, selector) in selectors.iter().enumerate() {
        let index = path.index(i);
        let path = index.child("cel");
        match &selector.cel {
            None => errors.push(Error::required(&path, "")),
            Some(cel) if age == Age::New && cel.expression.len() > MAX_EXPRESSION_BYTES => {
                errors.push(Error::too_long(&path.child("expression"), MAX_EXPRESSION_BYTES));
            }
            Some(cel) if age == Age::New => errors.extend(device_expression::validate(&cel.expression, &path.child("expression"))),
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_a_small_object() {
        let path = Path::new("p");
        let check = |raw: Value, age| validate_raw(&raw, age, &path).map(|e| e.to_string());
        assert_eq!(check(json!({"a": 1}), Age::New), None);
        assert_eq!(check(Value::Null, Age::New).as_deref(), Some("p: Required value"));
        assert_eq!(check(json!([1]), Age::New).as_deref(), Some(r#"p: Invalid value: "<value omitted>": must be a valid JSON object"#));
        let big = json!({"a": "x".repeat(MAX_PARAMETERS_BYTES)});
        assert_eq!(check(big.clone(), Age::New).as_deref(), Some("p: Too long: may not be more than 10240 bytes"));
        assert_eq!(check(big, Age::Stored), None);
    }

    #[test]
    fn a_driver_is_named() {
        let opaque: OpaqueDeviceConfiguration = view(&json!({"driver": "-", "parameters": {}}));
        let errors = declared_config(Some(&opaque), &Path::new("p"));
        assert!(errors[0].to_string().starts_with(r#"p.opaque.driver: Invalid value: "-": an RFC 1123 subdomain"#));
        assert_eq!(validate_config(None, Age::New, &Path::new("p"))[0].to_string(), "p.opaque: Required value");
    }
}
