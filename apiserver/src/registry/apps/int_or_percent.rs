//! Counts that may be written as a share: `maxUnavailable: 25%`.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_valid_percent, validate_nonnegative_field};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

/// The value as errors show it.
pub fn shown(value: &IntOrString) -> Value {
    match value {
        IntOrString::Int(i) => (*i).into(),
        IntOrString::String(s) => s.as_str().into(),
    }
}

/// A non-negative number or a percentage.
pub fn validate_positive_int_or_percent(value: &IntOrString, path: &Path<'_>) -> ErrorList {
    match value {
        IntOrString::Int(i) => validate_nonnegative_field(i64::from(*i), path),
        IntOrString::String(s) => is_valid_percent(s).into_iter().map(|message| Error::invalid(path, s.as_str(), message)).collect(),
    }
}

/// A percentage is at most 100%.
pub fn is_not_more_than_100_percent(value: &IntOrString, path: &Path<'_>) -> ErrorList {
    match percent(value) {
        Some(share) if share > 100 => vec![Error::invalid(path, shown(value), "must not be greater than 100%")],
        _ => Vec::new(),
    }
}

/// The number, whether counted or a share. A string that is no percentage counts as what its digits say, else 0.
pub fn int_or_percent_value(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(i) => i64::from(*i),
        IntOrString::String(s) => percent(value).unwrap_or_else(|| s.parse().unwrap_or(0)),
    }
}

fn percent(value: &IntOrString) -> Option<i64> {
    let IntOrString::String(s) = value else { return None };
    if !is_valid_percent(s).is_empty() {
        return None;
    }
    // Digits beyond 64 bits saturate, as strconv.Atoi's result does.
    Some(s.trim_end_matches('%').parse().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> IntOrString {
        IntOrString::String(s.to_owned())
    }

    #[test]
    fn shares_are_bounded_and_counts_are_not() {
        let p = Path::new("x");
        assert!(is_not_more_than_100_percent(&text("100%"), &p).is_empty());
        assert_eq!(is_not_more_than_100_percent(&text("101%"), &p)[0].body(), "Invalid value: \"101%\": must not be greater than 100%");
        assert!(is_not_more_than_100_percent(&IntOrString::Int(500), &p).is_empty());
        assert_eq!(int_or_percent_value(&text("0%")), 0);
        assert_eq!(int_or_percent_value(&text("nonsense")), 0);
        assert_eq!(
            validate_positive_int_or_percent(&IntOrString::Int(-1), &p)[0].body(),
            "Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(validate_positive_int_or_percent(&text("x"), &p).len(), 1);
    }
}
