//! Pieces of defaulting hooks: what counts as unset, and setting it.
//!
//! A hook sees the map of its own struct. Absent and null are unset; for a field that is no pointer in Go the zero
//! value is unset as well, which only the hook knows, so it has its own function.

use serde_json::{Map, Value};

/// A hook: the definition name of a struct type, and what fills in one struct of that type.
pub type Hook = (&'static str, fn(&mut Map<String, Value>));

/// Nothing, or null.
pub fn is_unset(map: &Map<String, Value>, field: &str) -> bool {
    map.get(field).is_none_or(Value::is_null)
}

/// Nothing, null, or the empty string or list.
pub fn is_empty(map: &Map<String, Value>, field: &str) -> bool {
    match map.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// Sets a field that is a pointer in Go.
pub fn set_if_unset(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if is_unset(map, field) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a string or list that is no pointer in Go.
pub fn set_if_empty(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if is_empty(map, field) {
        map.insert(field.to_owned(), value.into());
    }
}

/// A nested struct, made if there is none: a struct that is no pointer in Go always exists. `None` only if something
/// else than an object stands there, which the schema pass has refused already.
pub fn nested<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    if is_unset(map, field) {
        map.insert(field.to_owned(), Value::Object(Map::new()));
    }
    map.get_mut(field).and_then(Value::as_object_mut)
}

/// A nested struct if there is one: a pointer in Go.
pub fn existing<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_object_mut)
}
