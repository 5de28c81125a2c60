//! Numbers, ports, percentages and fields that may not change.

use serde::Serialize;

use crate::field::{Error, ErrorList, Path};

use super::{FIELD_IMMUTABLE, IS_NEGATIVE, inclusive_range_error, max_len_error, regex_error};

/// 1 to 65535.
pub fn is_valid_port_num(port: i64) -> Vec<String> {
    is_in_range(port, 1, 65535)
}

/// `min` to `max`, both included.
pub fn is_in_range(value: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&value) { Vec::new() } else { vec![inclusive_range_error(min, max)] }
}

/// A Unix group id: 0 to 2^31-1.
pub fn is_valid_group_id(gid: i64) -> Vec<String> {
    is_in_range(gid, 0, i64::from(i32::MAX))
}

/// A Unix user id: 0 to 2^31-1.
pub fn is_valid_user_id(uid: i64) -> Vec<String> {
    is_in_range(uid, 0, i64::from(i32::MAX))
}

/// An IANA service name in lower case: at most 15 bytes, at least one letter.
pub fn is_valid_port_name(port: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if port.len() > 15 {
        errors.push(max_len_error(15));
    }
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !port.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if port.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if port.starts_with('-') || port.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// Digits and `%`.
pub fn is_valid_percent(percent: &str) -> Vec<String> {
    match percent.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Vec::new(),
        _ => {
            let message = "a valid percent string must be a numeric string followed by an ending '%'";
            vec![regex_error(message, "[0-9]+%", &["1%", "93%"])]
        }
    }
}

/// 0 or more.
pub fn validate_nonnegative_field(value: i64, path: &Path<'_>) -> ErrorList {
    if value < 0 { vec![Error::invalid(path, value, IS_NEGATIVE)] } else { Vec::new() }
}

/// More than 0.
pub fn validate_positive_field(value: i64, path: &Path<'_>) -> ErrorList {
    if value <= 0 { vec![Error::invalid(path, value, "must be greater than zero")] } else { Vec::new() }
}

/// The field must equal its old value; the new value is shown.
pub fn validate_immutable_field<T: PartialEq + Serialize + ?Sized>(new: &T, old: &T, path: &Path<'_>) -> ErrorList {
    if new == old {
        return Vec::new();
    }
    // Views and values always serialize: their maps have string keys.
    let shown = serde_json::to_value(new).unwrap_or_default();
    vec![Error::invalid(path, shown, FIELD_IMMUTABLE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_report_every_fault() {
        assert!(is_valid_port_name("http-2").is_empty());
        assert_eq!(is_valid_port_name("").len(), 2);
        assert_eq!(is_valid_port_name("-1--").len(), 3);
        assert_eq!(is_valid_port_name("UPPER").len(), 2);
        assert_eq!(is_valid_port_name("abcdefghijklmnop"), ["must be no more than 15 characters"]);
    }

    #[test]
    fn numbers_out_of_range_name_the_range() {
        assert_eq!(is_valid_port_num(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(is_valid_user_id(-1), ["must be between 0 and 2147483647, inclusive"]);
        assert!(is_valid_percent("100%").is_empty());
        assert_eq!(
            is_valid_percent("%"),
            [
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
            ]
        );
    }

    #[test]
    fn an_immutable_field_shows_the_new_value() {
        let path = Path::new("spec");
        let changed = validate_immutable_field(&Some("b"), &Some("a"), &path);
        assert_eq!(changed[0].to_string(), "spec: Invalid value: \"b\": field is immutable");
        assert_eq!(validate_immutable_field(&None, &Some(1), &path)[0].to_string(), "spec: Invalid value: null: field is immutable");
        assert!(validate_immutable_field("a", "a", &path).is_empty());
    }
}
