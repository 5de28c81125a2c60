//! Parameters and provisioners of classes, storage classes and volume attributes classes alike.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_qualified_name;

const MAX_COUNT: usize = 512;
const MAX_BYTES: usize = 256 * 1024;

/// Parameters have names, and are not too many or too long.
pub fn validate(parameters: Option<&BTreeMap<String, String>>, allow_empty: bool, path: &Path<'_>) -> ErrorList {
    let count = parameters.map_or(0, BTreeMap::len);
    if count > MAX_COUNT {
        return vec![Error::too_long(path, MAX_COUNT)];
    }
    let mut errors = ErrorList::new();
    let mut bytes = 0usize;
    for (key, value) in parameters.into_iter().flatten() {
        if key.is_empty() {
            errors.push(Error::invalid(path, "", "field can not be empty."));
        }
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    if bytes > MAX_BYTES {
        errors.push(Error::too_long(path, MAX_BYTES));
    }
    if !allow_empty && count == 0 {
        errors.push(Error::required(path, "must contain at least one key/value pair"));
    }
    errors
}

/// A provisioner that is named has a qualified name, in any case; messages show it in lower case.
pub fn validate_provisioner(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return ErrorList::new();
    }
    let name = name.to_lowercase();
    is_qualified_name(&name).into_iter().map(|message| Error::invalid(path, name.as_str(), message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_bounded() {
        let path = Path::new("parameters");
        let text = |parameters: &BTreeMap<String, String>, allow_empty| -> Vec<String> {
            validate(Some(parameters), allow_empty, &path).iter().map(ToString::to_string).collect()
        };
        let none = BTreeMap::new();
        assert!(text(&none, true).is_empty());
        assert_eq!(text(&none, false), ["parameters: Required value: must contain at least one key/value pair"]);
        let unnamed = BTreeMap::from([(String::new(), "x".to_owned())]);
        assert_eq!(text(&unnamed, true), ["parameters: Invalid value: \"\": field can not be empty."]);
        let many = (0..513).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(text(&many, true), ["parameters: Too long: may not be more than 512 bytes"]);
        let long = BTreeMap::from([("a".to_owned(), "x".repeat(MAX_BYTES))]);
        assert_eq!(text(&long, true), ["parameters: Too long: may not be more than 262144 bytes"]);
    }
}
