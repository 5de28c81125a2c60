//! Objects inside error messages, as upstream shows them: its unversioned types have no JSON names, so that a message carries Go
//! field names, every field in declaration order, and zero values where the object says nothing.
//!
//! A [`Shape`] lists the fields of one such type. Nothing outside error messages has this form.

use serde_json::{Map, Value};

/// The fields of a type: Go name, JSON name, form.
pub struct Shape(pub &'static [(&'static str, &'static str, Form)]);

/// What a field is when it is absent, and how it is shown when it is not.
pub enum Form {
    Text,
    Number,
    Flag,
    /// A pointer, list or map of something that is shown as it stands; null when absent.
    Plain,
    Struct(&'static Shape),
    Pointer(&'static Shape),
    List(&'static Shape),
    Map(&'static Shape),
    /// Whatever the function makes of the value, or of null.
    Custom(fn(&Value) -> Value),
}

/// How deep shapes are followed: the depth to which bodies are read bounds what a valid object can hold.
const MAX_DEPTH: usize = 256;

/// The value as an error message shows it.
pub fn show(value: &Value, shape: &Shape) -> Value {
    show_to(value, shape, MAX_DEPTH)
}

/// A list as an error message shows it; null without items.
pub fn show_list(value: &Value, shape: &Shape) -> Value {
    list(value, shape, MAX_DEPTH)
}

fn show_to(value: &Value, shape: &Shape, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else { return Value::Null };
    let mut out = Map::with_capacity(shape.0.len());
    for (go, json, form) in shape.0 {
        // An embedded struct has no name of its own: its fields are read from the struct that embeds it.
        let field = if json.is_empty() { value } else { value.get(*json).unwrap_or(&Value::Null) };
        let shown = match (form, field) {
            (Form::Text, Value::Null) => Value::String(String::new()),
            (Form::Number, Value::Null) => 0.into(),
            (Form::Flag, Value::Null) => false.into(),
            (Form::Text | Form::Number | Form::Flag | Form::Plain, field) => field.clone(),
            (Form::Struct(shape), field) => show_to(field, shape, depth),
            (Form::Pointer(_), Value::Null) => Value::Null,
            (Form::Pointer(shape), field) => show_to(field, shape, depth),
            (Form::List(shape), field) => list(field, shape, depth),
            (Form::Map(shape), Value::Object(entries)) => {
                let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
                sorted.sort_unstable_by_key(|(key, _)| *key);
                Value::Object(sorted.into_iter().map(|(key, entry)| (key.clone(), show_to(entry, shape, depth))).collect())
            }
            (Form::Map(_), _) => Value::Null,
            (Form::Custom(show), field) => show(field),
        };
        out.insert((*go).to_owned(), shown);
    }
    Value::Object(out)
}

fn list(value: &Value, shape: &Shape, depth: usize) -> Value {
    match value.as_array() {
        Some(items) => Value::Array(items.iter().map(|item| show_to(item, shape, depth)).collect()),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_are_zero() {
        static INNER: Shape = Shape(&[("Name", "name", Form::Text)]);
        static OUTER: Shape = Shape(&[
            ("Kind", "kind", Form::Text),
            ("Count", "count", Form::Number),
            ("Ref", "ref", Form::Struct(&INNER)),
            ("User", "user", Form::Pointer(&INNER)),
            ("Groups", "groups", Form::List(&INNER)),
        ]);
        assert_eq!(
            show(&json!({"kind": "a", "groups": [{"name": "g"}]}), &OUTER).to_string(),
            r#"{"Kind":"a","Count":0,"Ref":{"Name":""},"User":null,"Groups":[{"Name":"g"}]}"#
        );
    }
}
