//! One step of a field path: a field's name, a list item's key, a set's value, an index.
//!
//! Owns the order of steps (which is the order of FieldsV1) and their text in conflict messages. Knows nothing of schemas.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value;
use smol_str::SmolStr;

use crate::{field::quote, go_print};

/// A step from an object to one of its parts. Clones are cheap: sets of them are made for every write.
#[derive(Clone, Debug)]
pub enum PathElement {
    /// A struct's field or a map's key.
    Field(SmolStr),
    /// The item of an associative list whose key fields have these values; sorted by name.
    Key(Arc<[(SmolStr, Value)]>),
    /// The item of a set with this value.
    Value(Value),
    /// The item of an atomic list at this place.
    Index(i64),
}

impl PathElement {
    /// A step to the field called `name`.
    pub fn field(name: &str) -> PathElement {
        PathElement::Field(name.into())
    }

    fn rank(&self) -> u8 {
        match self {
            PathElement::Field(_) => 0,
            PathElement::Key(_) => 1,
            PathElement::Value(_) => 2,
            PathElement::Index(_) => 3,
        }
    }

    /// As conflict messages show it: `.name`, `[name="c"]`, `[="v"]`, `[3]`.
    pub fn text(&self) -> String {
        match self {
            PathElement::Field(name) => format!(".{name}"),
            PathElement::Key(fields) => {
                let parts: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", value_text(value))).collect();
                format!("[{}]", parts.join(","))
            }
            PathElement::Value(value) => format!("[={}]", value_text(value)),
            PathElement::Index(i) => format!("[{i}]"),
        }
    }
}

/// The text of a path from the root.
pub fn text(path: &[PathElement]) -> String {
    path.iter().map(PathElement::text).collect()
}

impl PartialEq for PathElement {
    fn eq(&self, other: &PathElement) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &PathElement) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &PathElement) -> Ordering {
        match (self, other) {
            (PathElement::Field(a), PathElement::Field(b)) => a.cmp(b),
            (PathElement::Key(a), PathElement::Key(b)) => compare_keys(a, b),
            (PathElement::Value(a), PathElement::Value(b)) => compare_values(a, b),
            (PathElement::Index(a), PathElement::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

fn compare_keys(a: &[(SmolStr, Value)], b: &[(SmolStr, Value)]) -> Ordering {
    for ((name_a, value_a), (name_b, value_b)) in a.iter().zip(b) {
        let order = name_a.cmp(name_b).then_with(|| compare_values(value_a, value_b));
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// A total order over JSON values: numbers (compared as numbers), strings, booleans, lists, maps, null.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => {
                let (x, y) = (x.as_f64().unwrap_or(0.0), y.as_f64().unwrap_or(0.0));
                x.partial_cmp(&y).unwrap_or(Ordering::Equal)
            }
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            for (i, j) in x.iter().zip(y) {
                let order = compare_values(i, j);
                if order != Ordering::Equal {
                    return order;
                }
            }
            x.len().cmp(&y.len())
        }
        (Value::Object(x), Value::Object(y)) => compare_maps(x, y),
        (Value::Null, Value::Null) => Ordering::Equal,
        // A float and an integer are both numbers and were compared above, so ranks differ here.
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_maps(a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>) -> Ordering {
    let mut keys_a: Vec<&String> = a.keys().collect();
    let mut keys_b: Vec<&String> = b.keys().collect();
    keys_a.sort();
    keys_b.sort();
    for (x, y) in keys_a.iter().zip(&keys_b) {
        let order = x.cmp(y).then_with(|| compare_values(&a[x.as_str()], &b[y.as_str()]));
        if order != Ordering::Equal {
            return order;
        }
    }
    keys_a.len().cmp(&keys_b.len())
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// Equality in which `1` and `1.0` are the same number and the order of a map's keys does not matter.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => compare_values(a, b) == Ordering::Equal,
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(i, j)| same(i, j)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, value)| y.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => go_print::number(n),
        Value::String(s) => quote(s),
        Value::Array(items) => format!("[{}]", items.iter().map(value_text).collect::<Vec<_>>().join(",")),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k}={}", value_text(v))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_are_ordered_by_sort_then_content() {
        let key = |v: Value| PathElement::Key(Arc::new([("port".into(), v)]));
        let ordered = [
            PathElement::field("a"),
            PathElement::field("b"),
            key(json!(8)),
            key(json!(80.0)),
            key(json!("a")),
            PathElement::Value(json!("x")),
            PathElement::Index(0),
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        assert_eq!(key(json!(80)), key(json!(80.0)));
    }

    #[test]
    fn paths_print_as_in_conflict_messages() {
        let path = [
            PathElement::field("spec"),
            PathElement::Key(Arc::new([("containerPort".into(), json!(80)), ("protocol".into(), json!("TCP"))])),
            PathElement::Value(json!("f")),
            PathElement::Index(2),
        ];
        assert_eq!(text(&path), r#".spec[containerPort=80,protocol="TCP"][="f"][2]"#);
    }
}
