//! Values in Go's `%#v` syntax, which error messages about map keys print.

use serde_json::Value;

use crate::field::quote;

/// A value on its own: `<nil>`, `1`, `"a"`, `map[interface {}]interface {}{"a":1}`.
pub(super) fn top(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        other => nested(other),
    }
}

fn nested(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(s) => quote(s),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(nested).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{}:{}", quote(k), nested(v))).collect();
            format!("map[interface {{}}]interface {{}}{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
