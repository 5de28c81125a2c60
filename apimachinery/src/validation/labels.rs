//! Labels, annotations and label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::field::{Error, ErrorList, Path};

use super::{is_qualified_name, is_valid_label_value};

/// The most that an object's annotations may hold, keys and values together.
pub const TOTAL_ANNOTATION_SIZE_LIMIT_BYTES: usize = 256 * 1024;

/// A label's key.
pub fn validate_label_name(name: &str, path: &Path<'_>) -> ErrorList {
    is_qualified_name(name).into_iter().map(|m| Error::invalid(path, name, m)).collect()
}

/// Keys and values of labels. Every error is placed at the map itself.
pub fn validate_labels(labels: &BTreeMap<String, String>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels {
        label(key, value, path, &mut errors);
    }
    errors
}

pub(super) fn label(key: &str, value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    errors.extend(validate_label_name(key, path));
    errors.extend(is_valid_label_value(value).into_iter().map(|m| Error::invalid(path, value, m)));
}

/// Keys of annotations (as label keys, but in any case), and their size in total.
pub fn validate_annotations(annotations: &BTreeMap<String, String>, path: &Path<'_>) -> ErrorList {
    annotation_errors(annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())), path)
}

pub(super) fn annotation_errors<'a>(annotations: impl Iterator<Item = (&'a str, &'a str)>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in annotations {
        errors.extend(is_qualified_name(&key.to_lowercase()).into_iter().map(|m| Error::invalid(path, key, m)));
        size += key.len() + value.len();
    }
    if size > TOTAL_ANNOTATION_SIZE_LIMIT_BYTES {
        errors.push(Error::too_long(path, TOTAL_ANNOTATION_SIZE_LIMIT_BYTES));
    }
    errors
}

/// What a label selector may hold beyond the rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct LabelSelectorOptions {
    /// Values of expressions need not be label values; for objects that already hold such ones.
    pub allow_invalid_label_value_in_selector: bool,
    /// Unknown operators are left to the reader of the selector.
    pub allow_unknown_operator_in_requirement: bool,
}

/// Whether some expression of the selector has a value that no label could have.
pub fn label_selector_has_invalid_label_value(selector: &LabelSelector) -> bool {
    let expressions = selector.match_expressions.iter().flatten();
    expressions.flat_map(|e| e.values.iter().flatten()).any(|v| !is_valid_label_value(v).is_empty())
}

/// `matchLabels` and `matchExpressions`.
pub fn validate_label_selector(selector: &LabelSelector, options: LabelSelectorOptions, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(labels) = &selector.match_labels {
        errors.extend(validate_labels(labels, &path.child("matchLabels")));
    }
    let expressions = path.child("matchExpressions");
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        errors.extend(validate_label_selector_requirement(requirement, options, &expressions.index(i)));
    }
    errors
}

/// One of `matchExpressions`.
pub fn validate_label_selector_requirement(
    requirement: &LabelSelectorRequirement,
    options: LabelSelectorOptions,
    path: &Path<'_>,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.push(Error::required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'"));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.push(Error::forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
        }
        other => {
            if !options.allow_unknown_operator_in_requirement {
                errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
            }
        }
    }
    errors.extend(validate_label_name(&requirement.key, &path.child("key")));
    if !options.allow_invalid_label_value_in_selector {
        for (i, value) in values.iter().enumerate() {
            let place = values_path.index(i);
            errors.extend(is_valid_label_value(value).into_iter().map(|m| Error::invalid(&place, value.as_str(), m)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_requirement_reports_operator_values_and_key() {
        let path = Path::new("selector");
        let check = |operator: &str, values: &[&str]| {
            let requirement = LabelSelectorRequirement {
                key: "a".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            };
            let selector = LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None };
            let errors = validate_label_selector(&selector, LabelSelectorOptions::default(), &path);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check("In", &["x"]).is_empty());
        assert_eq!(
            check("In", &[]),
            ["selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"]
        );
        assert_eq!(
            check("Exists", &["x"]),
            ["selector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"]
        );
        assert_eq!(check("Nope", &[]), ["selector.matchExpressions[0].operator: Invalid value: \"Nope\": not a valid selector operator"]);
        assert!(
            check("NotIn", &["a b"])[0].starts_with("selector.matchExpressions[0].values[0]: Invalid value: \"a b\": a valid label must")
        );
    }

    #[test]
    fn annotation_keys_may_be_in_any_case_but_their_size_is_bounded() {
        let path = Path::new("annotations");
        let of = |key: &str, size: usize| BTreeMap::from([(key.to_owned(), "x".repeat(size))]);
        assert!(validate_annotations(&of("Example.COM/Key", 1), &path).is_empty());
        assert!(validate_annotations(&of("a", TOTAL_ANNOTATION_SIZE_LIMIT_BYTES - 1), &path).is_empty());
        assert_eq!(
            validate_annotations(&of("a", TOTAL_ANNOTATION_SIZE_LIMIT_BYTES), &path)[0].to_string(),
            "annotations: Too long: may not be more than 262144 bytes"
        );
        assert_eq!(validate_annotations(&of("bad key!", 1), &path).len(), 1);
    }
}
