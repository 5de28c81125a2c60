//! Reading of values that have passed the schema: absent, null and the zero value are one, as they are in Go.
//!
//! For code that looks at a few fields (printers, status rules, generations). Code that looks at many takes a typed
//! view instead.

use serde_json::Value;

/// What stands at a JSON pointer; null where nothing does.
pub fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    // `Value::pointer` makes two strings of every step, for the sake of escapes that are hardly ever there.
    let found = if pointer.contains('~') { value.pointer(pointer) } else { follow(value, pointer) };
    found.unwrap_or(&Value::Null)
}

fn follow<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(value, |value, step| match value {
        Value::Object(members) => members.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// A string, or "".
pub fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or("")
}

/// An integer, or 0.
pub fn int_at(value: &Value, pointer: &str) -> i64 {
    at(value, pointer).as_i64().unwrap_or(0)
}

/// An integer, or `None` where it is absent.
pub fn optional_int_at(value: &Value, pointer: &str) -> Option<i64> {
    at(value, pointer).as_i64()
}

/// A boolean, or false.
pub fn bool_at(value: &Value, pointer: &str) -> bool {
    at(value, pointer).as_bool().unwrap_or(false)
}

/// A list's items, or none.
pub fn list_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_null_read_as_zero() {
        let v = json!({"a": {"n": 3, "s": "x", "l": [1], "b": true}, "z": null});
        assert_eq!((int_at(&v, "/a/n"), int_at(&v, "/z"), int_at(&v, "/a/none")), (3, 0, 0));
        assert_eq!((str_at(&v, "/a/s"), str_at(&v, "/a")), ("x", ""));
        assert_eq!((list_at(&v, "/a/l").len(), list_at(&v, "/z").len()), (1, 0));
        assert!(bool_at(&v, "/a/b") && !bool_at(&v, "/z"));
        assert_eq!((int_at(&v, "/a/l/0"), int_at(&v, "/a/l/1"), int_at(&v, "/a/n/0")), (1, 0, 0));
        assert_eq!(at(&v, ""), &v);
        assert_eq!(int_at(&json!({"a/b": {"~": 4}}), "/a~1b/~0"), 4);
        assert_eq!((optional_int_at(&v, "/a/n"), optional_int_at(&v, "/z")), (Some(3), None));
    }
}
