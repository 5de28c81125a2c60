//! Taints of devices, and the tolerations of requests.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_qualified_name, is_valid_label_value, validate_label_name};
use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration};

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const OPERATORS: [&str; 2] = ["Equal", "Exists"];

/// What is written of a taint; its effect is declared.
pub fn validate_taint(taint: &DeviceTaint, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_label_name(&taint.key, &path.child("key"));
    errors.extend(validate_label_value(taint.value.as_deref().unwrap_or(""), &path.child("value")));
    errors
}

/// What is declared of a taint.
pub fn declared_taint(taint: &DeviceTaint, path: &Path<'_>) -> Option<Error> {
    let path = path.child("effect");
    match taint.effect.as_str() {
        "" => Some(Error::required(&path, "")),
        effect => declared_effect(effect, &path),
    }
}

fn declared_effect(effect: &str, path: &Path<'_>) -> Option<Error> {
    (!EFFECTS.contains(&effect)).then(|| Error::not_supported(path, effect, &EFFECTS))
}

/// The empty value is one that any label may have.
fn validate_label_value(value: &str, path: &Path<'_>) -> ErrorList {
    is_valid_label_value(value).into_iter().map(|message| Error::invalid(path, value, message)).collect()
}

/// What is written of a toleration: the value that its operator wants.
pub fn validate_toleration(toleration: &DeviceToleration, path: &Path<'_>) -> ErrorList {
    let (value, path) = (toleration.value.as_deref().unwrap_or(""), path.child("value"));
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" if !value.is_empty() => vec![Error::invalid(&path, value, "must be empty for operator `Exists`")],
        "Equal" => validate_label_value(value, &path),
        _ => ErrorList::new(),
    }
}

/// What is declared of a toleration.
pub fn declared_toleration(toleration: &DeviceToleration, path: &Path<'_>) -> ErrorList {
    let (key, key_path, operator_path) = (toleration.key.as_deref().unwrap_or(""), path.child("key"), path.child("operator"));
    let mut errors = ErrorList::new();
    if !key.is_empty() {
        errors.extend(is_qualified_name(key).into_iter().map(|message| Error::invalid(&key_path, key, message)));
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" => errors.push(Error::required(&operator_path, "")),
        known if OPERATORS.contains(&known) => {}
        other => errors.push(Error::not_supported(&operator_path, other, &OPERATORS)),
    }
    match toleration.effect.as_deref().unwrap_or("") {
        "" => {}
        effect => errors.extend(declared_effect(effect, &path.child("effect"))),
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn taints_have_a_key_and_an_effect() {
        let check = |taint: Value| -> Vec<String> {
            let (taint, path) = (view(&taint), Path::new("t"));
            validate_taint(&taint, &path).into_iter().chain(declared_taint(&taint, &path)).map(|e| e.to_string()).collect()
        };
        assert!(check(json!({"key": "a", "effect": "None"})).is_empty());
        let errors = check(json!({"value": "!", "effect": "x"}));
        assert_eq!(errors.len(), 4);
        assert_eq!(errors[3], r#"t.effect: Unsupported value: "x": supported values: "NoExecute", "NoSchedule", "None""#);
    }

    #[test]
    fn tolerations_have_an_operator() {
        let check = |toleration: Value| -> Vec<String> {
            let (toleration, path) = (view(&toleration), Path::new("t"));
            validate_toleration(&toleration, &path)
                .into_iter()
                .chain(declared_toleration(&toleration, &path))
                .map(|e| e.to_string())
                .collect()
        };
        assert!(check(json!({"operator": "Exists"})).is_empty());
        assert_eq!(check(json!({})), ["t.operator: Required value"]);
        assert_eq!(
            check(json!({"operator": "Exists", "value": "a"})),
            [r#"t.value: Invalid value: "a": must be empty for operator `Exists`"#]
        );
    }
}
