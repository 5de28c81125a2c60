//! How Go prints a JSON value inside an error message: `%v`, `%#v` and `%T` of decoded JSON.
//!
//! Only messages use this; nothing here is ever parsed again.

use std::fmt::Write;

use serde_json::{Number, Value};

use crate::field::quote;

/// `%v`: `map[a:1 b:[x y]]`, with sorted keys and bare strings.
pub fn plain(value: &Value) -> String {
    let mut out = String::new();
    write_plain(&mut out, value);
    out
}

fn write_plain(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&number(n)),
        Value::String(s) => out.push_str(s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write_plain(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (i, (key, item)) in sorted(map).into_iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                write_plain(out, item);
            }
            out.push(']');
        }
    }
}

/// `%#v`: `map[string]interface {}{"a":1}`.
pub fn syntax(value: &Value) -> String {
    let mut out = String::new();
    write_syntax(&mut out, value);
    out
}

fn write_syntax(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("interface {}(nil)"),
        Value::String(s) => out.push_str(&quote(s)),
        Value::Bool(_) | Value::Number(_) => write_plain(out, value),
        Value::Array(items) => {
            out.push_str("[]interface {}{");
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_syntax(out, item);
            }
            out.push('}');
        }
        Value::Object(map) => {
            out.push_str("map[string]interface {}{");
            for (i, (key, item)) in sorted(map).into_iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&quote(key));
                out.push(':');
                write_syntax(out, item);
            }
            out.push('}');
        }
    }
}

/// `%T` of a value decoded with whole numbers as `int64`; `None` for null, which has no type.
pub fn type_name(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some("bool"),
        Value::Number(n) if n.is_i64() => Some("int64"),
        Value::Number(_) => Some("float64"),
        Value::String(_) => Some("string"),
        Value::Array(_) => Some("[]interface {}"),
        Value::Object(_) => Some("map[string]interface {}"),
    }
}

/// The sort of a JSON value as Go's decoder calls it in `cannot unmarshal … into Go value of type …`.
pub fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `%v` of a number: whole numbers as they are, floats in the shortest form, with an exponent from 1e21 on.
pub fn number(n: &Number) -> String {
    if let Some(i) = n.as_i64() {
        return i.to_string();
    }
    if let Some(u) = n.as_u64() {
        return u.to_string();
    }
    float(n.as_f64().unwrap_or(0.0), 21, -4)
}

/// A float as Go's JSON encoders write it: an exponent below 1e-6 and from 1e21 on.
pub fn json_float(f: f64) -> String {
    float(f, 21, -6)
}

/// The shortest digits that read back as `f`; exponent form when the exponent is below `low` or at least `high`.
fn float(f: f64, high: i32, low: i32) -> String {
    let scientific = format!("{f:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let Ok(exponent) = exponent.parse::<i32>() else { return scientific };
    if f != 0.0 && (exponent < low || exponent >= high) {
        let mut out = String::from(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        let magnitude = exponent.unsigned_abs();
        // Writing to a String cannot fail.
        let _ = write!(out, "e{sign}{magnitude:02}");
        return out;
    }
    format!("{f}")
}

fn sorted(map: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_go_prints_them() {
        let v = json!({"b": [1, "x", null], "a": {"k": 1.5}, "c": true});
        assert_eq!(plain(&v), "map[a:map[k:1.5] b:[1 x <nil>] c:true]");
        assert_eq!(
            syntax(&v),
            r#"map[string]interface {}{"a":map[string]interface {}{"k":1.5}, "b":[]interface {}{1, "x", interface {}(nil)}, "c":true}"#
        );
        assert_eq!(plain(&json!(1e21)), "1e+21");
        assert_eq!(plain(&json!(80.0)), "80");
        assert_eq!(plain(&json!(0.00001)), "1e-05");
        assert_eq!(json_float(0.00001), "0.00001");
    }
}
