//! Comparing specs by what they mean: amounts are equal if they are as much, however they are written.

use apimachinery::quantity::Quantity;
use serde_json::Value;

/// Fields that hold amounts, or maps of amounts.
const AMOUNTS: &[&str] = &["limits", "requests", "overhead", "sizeLimit", "divisor"];

/// Whether two canonical values mean the same.
pub fn same(a: &Value, b: &Value) -> bool {
    same_as(a, b, false)
}

fn same_as(a: &Value, b: &Value, amounts: bool) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let present = |map: &serde_json::Map<String, Value>| map.values().filter(|v| !v.is_null()).count();
            present(a) == present(b)
                && a.iter()
                    .filter(|(_, v)| !v.is_null())
                    .all(|(key, value)| b.get(key).is_some_and(|other| same_as(value, other, amounts || AMOUNTS.contains(&key.as_str()))))
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
        assert!(same(&json!({"a": null, "b": 1}), &json!({"b": 1})));
    }
}
