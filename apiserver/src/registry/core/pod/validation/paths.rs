//! Rules about file paths inside containers and volumes.
//!
//! Owns the wording of these errors; knows nothing about who holds the path.

use apimachinery::field::{Error, ErrorList, Path};

/// A relative path without `..` elements.
pub(super) fn validate_local_descending_path(target: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    errors.extend(validate_path_no_backsteps(target, path));
    errors
}

/// No `..` element; one error however many there are.
pub(super) fn validate_path_no_backsteps(target: &str, path: &Path<'_>) -> ErrorList {
    if has_backsteps(target) {
        return vec![Error::invalid(path, target, "must not contain '..'")];
    }
    ErrorList::new()
}

/// Whether an element of the path is `..`.
pub(super) fn has_backsteps(target: &str) -> bool {
    target.split('/').any(|element| element == "..")
}

/// A relative descending path that does not begin with `..`, which atomic volume writers keep for themselves.
pub(super) fn validate_local_non_reserved_path(target: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_local_descending_path(target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
    errors
}
