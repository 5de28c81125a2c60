//! `status.conditions` of the common form (`meta/v1` Condition).

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};

use super::{regex_error, validate_label_name};

const REASON_MAX_BYTES: usize = 1024;
const MESSAGE_MAX_BYTES: usize = 32 * 1024;

/// Every condition, and that no type stands twice. Takes values because the typed view cannot hold an absent time.
pub fn validate_conditions(conditions: &[Value], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, condition) in conditions.iter().enumerate() {
        let place = path.index(i);
        let kind = text(condition, "type");
        if conditions[..i].iter().any(|c| text(c, "type") == kind) {
            errors.push(Error::duplicate(&place, kind));
        }
        errors.extend(validate_condition(condition, &place));
    }
    errors
}

/// One condition.
pub fn validate_condition(condition: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    match text(condition, "type") {
        "" => errors.push(Error::required(&path.child("type"), "is required")),
        kind => errors.extend(validate_label_name(kind, &path.child("type"))),
    }
    match text(condition, "status") {
        "" => errors.push(Error::required(&path.child("status"), "")),
        "True" | "False" | "Unknown" => {}
        other => errors.push(Error::not_supported(&path.child("status"), other, &["False", "True", "Unknown"])),
    }
    if let Some(generation) = condition.get("observedGeneration").and_then(Value::as_i64).filter(|g| *g < 0) {
        errors.push(Error::invalid(&path.child("observedGeneration"), generation, "must be greater than or equal to zero"));
    }
    if matches!(text(condition, "lastTransitionTime"), "" | "0001-01-01T00:00:00Z") {
        errors.push(Error::required(&path.child("lastTransitionTime"), ""));
    }
    let place = path.child("reason");
    let reason = text(condition, "reason");
    if reason.is_empty() {
        errors.push(Error::required(&place, ""));
    } else {
        errors.extend(is_valid_condition_reason(reason).into_iter().map(|m| Error::invalid(&place, reason, m)));
        if reason.len() > REASON_MAX_BYTES {
            errors.push(Error::too_long(&place, REASON_MAX_BYTES));
        }
    }
    if text(condition, "message").len() > MESSAGE_MAX_BYTES {
        errors.push(Error::too_long(&path.child("message"), MESSAGE_MAX_BYTES));
    }
    errors
}

fn text<'a>(condition: &'a Value, field: &str) -> &'a str {
    condition.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A condition's reason: a letter, then letters, digits, `_`, `,`, `:`, the last a letter, digit or `_`.
pub fn is_valid_condition_reason(value: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = match value.as_bytes() {
        [] => false,
        [only] => only.is_ascii_alphabetic(),
        [first, middle @ .., last] => {
            first.is_ascii_alphabetic() && word(*last) && middle.iter().all(|b| word(*b) || matches!(b, b',' | b':'))
        }
    };
    if valid {
        return Vec::new();
    }
    let message = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![regex_error(message, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_report_every_missing_part() {
        let errors = validate_conditions(&[json!({}), json!({})], &Path::new("c"));
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 9);
        assert_eq!(shown[0], "c[0].type: Required value: is required");
        assert_eq!(shown[4], "c[1]: Duplicate value: \"\"");
        assert!(is_valid_condition_reason("ReasonA:ReasonB").is_empty());
        assert!(!is_valid_condition_reason("A:").is_empty() && !is_valid_condition_reason("1").is_empty());
    }
}
