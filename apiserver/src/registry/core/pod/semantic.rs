//! Comparing specs by what they mean: amounts are equal if they are as much, however they are written.

use apimachinery::quantity::Quantity;
use serde_json::{Map, Value};

/// Fields that hold amounts, or maps of amounts.
const AMOUNTS: &[&str] = &["limits", "requests", "overhead", "sizeLimit", "divisor"];

/// Fields that hold maps, which are nothing if they are empty.
const MAPS: &[&str] = &[
    "annotations",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "options",
    "overhead",
    "requests",
    "userAnnotations",
    "volumeAttributes",
];

/// Whether two canonical values mean the same.
pub fn same(a: &Value, b: &Value) -> bool {
    same_as(a, b, false)
}

/// Neither null nor an empty list or map; an empty struct is set.
fn is_set(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !(map.is_empty() && MAPS.contains(&key)),
        _ => true,
    }
}

fn same_as(a: &Value, b: &Value, amounts: bool) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let count = |map: &Map<String, Value>| map.iter().filter(|(key, value)| is_set(key, value)).count();
            let matched = |(key, value): (&String, &Value)| {
                b.get(key).is_some_and(|other| same_as(value, other, amounts || AMOUNTS.contains(&key.as_str())))
            };
            count(a) == count(b) && a.iter().filter(|(key, value)| is_set(key, value)).all(matched)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_as(a, b, false)),
        (Value::String(a), Value::String(b)) if amounts && a != b => match (Quantity::parse(a), Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        },
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_compare_by_how_much_they_are() {
        let spec = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]});
        assert!(same(&spec("1"), &spec("1000m")));
        assert!(!same(&spec("1"), &spec("2")));
        assert!(!same(&json!({"name": "1"}), &json!({"name": "1000m"})));
        assert!(same(&json!({"a": null, "b": 1, "c": [], "nodeSelector": {}}), &json!({"b": 1})));
        assert!(!same(&json!({"emptyDir": {}}), &json!({})));
    }
}
