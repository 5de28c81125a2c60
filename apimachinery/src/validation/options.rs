//! What clients say about a write: field manager, dry run, field validation, delete options; and the form of `managedFields`.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path, is_print};

const FIELD_MANAGER_MAX_BYTES: usize = 128;
const SUBRESOURCE_MAX_BYTES: usize = 256;

/// A field manager's name: printable, at most 128 bytes; empty counts as not given.
pub fn validate_field_manager(manager: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(Error::too_long(path, FIELD_MANAGER_MAX_BYTES));
    }
    for (position, c) in manager.char_indices().filter(|(_, c)| !is_print(*c)) {
        let detail = format!("invalid character U+{:04X} (at position {position})", c as u32);
        errors.push(Error::invalid(path, manager, detail));
    }
    errors
}

/// The values of `dryRun`.
pub fn validate_dry_run<S: AsRef<str>>(values: &[S], path: &Path<'_>) -> ErrorList {
    if values.iter().all(|v| v.as_ref() == "All") {
        return Vec::new();
    }
    let shown: Vec<Value> = values.iter().map(|v| v.as_ref().into()).collect();
    vec![Error::not_supported(path, shown, &["All"])]
}

/// The value of `fieldValidation`.
pub fn validate_field_validation(value: &str, path: &Path<'_>) -> ErrorList {
    let allowed = ["", "Ignore", "Strict", "Warn"];
    if allowed.contains(&value) { Vec::new() } else { vec![Error::not_supported(path, value, &allowed)] }
}

/// A `DeleteOptions` object.
pub fn validate_delete_options(options: &Value) -> ErrorList {
    let set = |field: &str| options.get(field).filter(|v| !v.is_null());
    let mut errors = ErrorList::new();
    if let Some(policy) = set("propagationPolicy") {
        let path = Path::new("propagationPolicy");
        if set("orphanDependents").is_some() {
            errors.push(Error::invalid(&path, policy.clone(), "orphanDependents and deletionPropagation cannot be both set"));
        }
        if !matches!(policy.as_str(), Some("Foreground" | "Background" | "Orphan")) {
            errors.push(Error::not_supported(&path, policy.clone(), &["Foreground", "Background", "Orphan", "nil"]));
        }
    }
    let dry_run: Vec<&str> =
        set("dryRun").and_then(Value::as_array).into_iter().flatten().map(|v| v.as_str().unwrap_or_default()).collect();
    errors.extend(validate_dry_run(&dry_run, &Path::new("dryRun")));
    let ignore_read_error = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if set(ignore_read_error) == Some(&Value::Bool(true)) {
        let path = Path::new(ignore_read_error);
        for other in ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"] {
            if set(other).is_some() {
                errors.push(Error::invalid(&path, true, format!("cannot be set together with .{other}")));
            }
        }
    }
    errors
}

/// The form of `metadata.managedFields`; what the field sets hold is not looked at.
pub fn validate_managed_fields(entries: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, entry) in entries.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let place = path.index(i);
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        match text("operation") {
            "Apply" | "Update" => {}
            "" => errors.push(Error::required(&place.child("operation"), "must not be empty")),
            other => errors.push(Error::not_supported(&place.child("operation"), other, &["Apply", "Update"])),
        }
        let fields_type = text("fieldsType");
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.push(Error::invalid(&place.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        errors.extend(validate_field_manager(text("manager"), &place.child("manager")));
        if text("subresource").len() > SUBRESOURCE_MAX_BYTES {
            errors.push(Error::too_long(&place.child("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn managed_fields_are_checked_for_form() {
        let path = Path::new("managedFields");
        let entries = json!([{"operation": "Nope", "manager": "a\n"}, {"operation": "Apply", "fieldsType": "V9"}, {}]);
        assert_eq!(
            shown(&validate_managed_fields(Some(&entries), &path)),
            [
                "managedFields[0].operation: Unsupported value: \"Nope\": supported values: \"Apply\", \"Update\"",
                "managedFields[0].manager: Invalid value: \"a\\n\": invalid character U+000A (at position 1)",
                "managedFields[1].fieldsType: Invalid value: \"V9\": must be `FieldsV1`",
                "managedFields[2].operation: Required value: must not be empty",
            ]
        );
    }

    #[test]
    fn delete_options_refuse_contradictions() {
        assert!(validate_delete_options(&json!({"propagationPolicy": "Orphan", "gracePeriodSeconds": 0})).is_empty());
        assert_eq!(
            shown(&validate_delete_options(&json!({"propagationPolicy": "X", "orphanDependents": true, "dryRun": ["Some"]}))),
            [
                "propagationPolicy: Invalid value: \"X\": orphanDependents and deletionPropagation cannot be both set",
                "propagationPolicy: Unsupported value: \"X\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
                "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ]
        );
    }
}
