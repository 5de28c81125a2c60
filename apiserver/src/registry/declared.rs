//! Errors of kinds some of whose rules are declared at their types.
//!
//! What declared rules find stands after everything that written rules find, and replaces what these would say about the
//! same field. Owns that order and the few checks that declared rules share; knows no kind.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::schema::canonical::{Empties, canonicalize};
use serde_json::Value;

/// The errors of one object by where their rules stand.
#[derive(Debug, Default)]
pub struct Findings {
    pub written: ErrorList,
    pub declared: ErrorList,
}

impl Findings {
    /// All errors in the order in which clients see them.
    pub fn into_errors(mut self) -> ErrorList {
        self.written.append(&mut self.declared);
        self.written
    }
}

/// Whether a field differs from the old object's. Absent, null and empty are one; without an old object everything does.
pub fn changed(new: &Value, old: Option<&Value>) -> bool {
    fn present(value: &Value) -> Option<&Value> {
        let empty = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        (!empty).then_some(value)
    }
    old.is_none_or(|old| present(new) != present(old))
}

/// An error whose value is left out: `Invalid value: detail`.
pub fn invalid_without_value(path: &Path<'_>, detail: impl Into<String>) -> Error {
    let mut error = Error::invalid(path, Value::Null, detail);
    error.value = None;
    error
}

/// A list of more than `max` items is refused, and not looked into.
pub fn max_items<T>(items: &[T], max: usize, path: &Path<'_>) -> Option<Error> {
    (items.len() > max).then(|| Error::too_many(path, items.len(), max))
}

/// A value as the API writes it: its fields in the order of the type of this name, and none that is empty and may be left out.
pub fn written(schema: &str, value: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    let types = apimachinery::schema::builtin();
    if let Some(id) = types.lookup(schema) {
        canonicalize(types, id, &mut value, Empties::Drop);
    }
    value
}

/// An error for each item whose key an earlier item has.
pub fn unique<T, K: PartialEq>(items: &[T], key: impl Fn(&T) -> K, shown: impl Fn(&T) -> Value, path: &Path<'_>) -> ErrorList {
    let mut seen: Vec<K> = Vec::with_capacity(items.len());
    let mut errors = ErrorList::new();
    for (i, item) in items.iter().enumerate() {
        let this = key(item);
        if seen.contains(&this) {
            errors.push(Error::duplicate(&path.index(i), shown(item)));
        } else {
            seen.push(this);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_and_empty_are_no_change() {
        assert!(!changed(&json!([]), Some(&Value::Null)));
        assert!(changed(&json!([]), None));
        assert!(changed(&json!("a"), Some(&json!("b"))));
    }

    #[test]
    fn written_rules_speak_first() {
        let path = Path::new("a");
        let findings = Findings { declared: vec![Error::required(&path, "")], written: vec![invalid_without_value(&path, "no")] };
        let texts: Vec<String> = findings.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a: Invalid value: no", "a: Required value"]);
    }

    #[test]
    fn repeated_keys_are_reported_once_each() {
        let errors = unique(&["a", "b", "a", "a"], |s| *s, |s| (*s).into(), &Path::new("l"));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["l[2]: Duplicate value: \"a\"", "l[3]: Duplicate value: \"a\""]);
    }
}
