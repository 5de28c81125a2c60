//! JSON merge patch (RFC 7386). Nulls delete; nulls in what is newly created are dropped.

use serde_json::{Map, Value};

use super::Answer;

/// A refused merge patch; always [`Answer::BadRequest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("error decoding patch: json: cannot unmarshal {0} into Go value of type map[string]interface {{}}")]
    Decode(&'static str),
    #[error("Invalid JSON Patch")]
    Invalid,
}

impl Error {
    /// The answer that this error gets.
    pub fn answer(&self) -> Answer {
        Answer::BadRequest
    }
}

/// `document` after `patch`. With `strict` (field validation Warn or Strict) a patch that is no object is an error; else an
/// array replaces the document, which then does not decode. Merged objects come out with sorted keys, as upstream's do.
pub fn apply(document: &Value, patch: &Value, strict: bool) -> Result<Value, Error> {
    let found = match patch {
        Value::Object(changes) => {
            let mut document = document.clone();
            match &mut document {
                Value::Object(map) => merge(map, changes),
                _ => document = pruned(patch),
            }
            return Ok(document);
        }
        Value::Null => return Err(Error::Invalid),
        Value::Array(_) if !strict => return Ok(pruned(patch)),
        Value::Array(_) => "array",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    Err(if strict { Error::Decode(found) } else { Error::Invalid })
}

fn merge(document: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (key, change) in changes {
        if change.is_null() {
            document.shift_remove(key);
            continue;
        }
        match (document.get_mut(key), change) {
            (Some(Value::Object(inner)), Value::Object(changes)) => merge(inner, changes),
            // A list that takes an object's place keeps its nulls.
            (Some(found @ Value::Object(_)), change) => *found = change.clone(),
            (_, change) => {
                document.insert(key.clone(), pruned(change));
            }
        }
    }
    document.sort_keys();
}

/// Without null members at any depth; null items of lists stay.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut kept: Map<String, Value> = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), pruned(v))).collect();
            kept.sort_keys();
            Value::Object(kept)
        }
        Value::Array(items) => Value::Array(items.iter().map(pruned).collect()),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_delete_and_are_never_created() {
        for (document, patch, expected) in [
            (json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"b": {"c": null, "e": 4}}), json!({"a": 1, "b": {"d": 3, "e": 4}})),
            (json!({}), json!({"n": {"x": null, "y": [{"z": null}, null]}}), json!({"n": {"y": [{}, null]}})),
            (json!({"a": {"b": 1}}), json!({"a": [{"x": null}]}), json!({"a": [{"x": null}]})),
            (json!({"a": [1]}), json!({"a": {"x": null, "y": 1}}), json!({"a": {"y": 1}})),
            (json!({"a": 1}), json!({}), json!({"a": 1})),
        ] {
            assert_eq!(apply(&document, &patch, true), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (patch, strict, message) in [
            (json!([]), true, "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
            (json!("x"), false, "Invalid JSON Patch"),
            (Value::Null, true, "Invalid JSON Patch"),
        ] {
            assert_eq!(apply(&json!({}), &patch, strict).unwrap_err().to_string(), message);
        }
    }
}
