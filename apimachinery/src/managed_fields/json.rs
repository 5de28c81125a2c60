//! FieldsV1: field sets in and out of `metadata.managedFields[].fieldsV1`.
//!
//! The order of keys is the sets' order, so equal sets have equal text.

use std::fmt::Write;

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::{
    path::PathElement,
    set::{Entry, FieldSet},
};
use crate::go_print;

/// Why a FieldsV1 could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    #[error("expect {{ or n, but found something else in managed fields")]
    NotAnObject,
    #[error("parsing key as path element: key must be 2 characters long:")]
    ShortKey,
    #[error("parsing key as path element: missing colon: {0}")]
    MissingColon(String),
    #[error("parsing key as path element: {0}")]
    Content(String),
}

impl FieldSet {
    /// As FieldsV1.
    pub fn to_fields_v1(&self) -> Value {
        self.emit(false)
    }

    fn emit(&self, include_self: bool) -> Value {
        let mut out = Map::with_capacity(self.entries.len() + usize::from(include_self));
        if include_self && !self.entries.is_empty() {
            out.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for entry in &self.entries {
            out.insert(element_to_key(&entry.element), entry.children.emit(entry.member));
        }
        Value::Object(out)
    }

    /// From FieldsV1. Steps of an unknown sort are dropped.
    pub fn from_fields_v1(fields: &Value) -> Result<FieldSet, FieldsError> {
        Ok(read(fields)?.0)
    }
}

/// The set below a node, and whether the node itself is a member.
fn read(node: &Value) -> Result<(FieldSet, bool), FieldsError> {
    let map = match node {
        Value::Object(map) => map,
        Value::Null => return Ok((FieldSet::new(), true)),
        _ => return Err(FieldsError::NotAnObject),
    };
    let mut set = FieldSet { entries: Vec::with_capacity(map.len()) };
    let mut member = false;
    for (key, below) in map {
        if key == "." {
            member = true;
            continue;
        }
        let Some(element) = key_to_element(key)? else { continue };
        let (children, child_member) = read(below)?;
        let found = Entry { element, member: child_member, children };
        if found.is_empty() {
            continue;
        }
        let entry = set.entry(found.element);
        entry.member |= found.member;
        entry.children = found.children;
    }
    member |= set.is_empty();
    Ok((set, member))
}

/// `f:name`, `k:{"name":"c"}`, `v:"x"`, `i:3`.
fn element_to_key(element: &PathElement) -> String {
    match element {
        PathElement::Field(name) => ["f:", name].concat(),
        PathElement::Index(i) => format!("i:{i}"),
        PathElement::Value(value) => {
            let mut out = String::from("v:");
            write_value(&mut out, value);
            out
        }
        PathElement::Key(fields) => {
            let mut out = String::from("k:{");
            for (i, (name, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(&mut out, name, false);
                out.push(':');
                write_value(&mut out, value);
            }
            out.push('}');
            out
        }
    }
}

fn key_to_element(key: &str) -> Result<Option<PathElement>, FieldsError> {
    if key.len() < 2 {
        return Err(FieldsError::ShortKey);
    }
    if key.as_bytes()[1] != b':' {
        return Err(FieldsError::MissingColon(key.to_owned()));
    }
    let content = &key[2..];
    let element = match key.as_bytes()[0] {
        b'f' => PathElement::field(content),
        b'v' => PathElement::Value(parse(content)?),
        b'i' => PathElement::Index(content.parse().map_err(|_| FieldsError::Content(format!("invalid index {content:?}")))?),
        b'k' => {
            let Value::Object(map) = parse(content)? else {
                return Err(FieldsError::Content(format!("expect an object in {key}")));
            };
            let mut fields: Vec<(SmolStr, Value)> = map.into_iter().map(|(name, value)| (name.into(), value)).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            PathElement::Key(fields.into())
        }
        _ => return Ok(None),
    };
    Ok(Some(element))
}

fn parse(content: &str) -> Result<Value, FieldsError> {
    serde_json::from_str(content).map_err(|e| FieldsError::Content(e.to_string()))
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::String(s) => write_string(out, s, true),
        Value::Number(n) if !n.is_i64() && !n.is_u64() => out.push_str(&go_print::json_float(n.as_f64().unwrap_or(0.0))),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (name, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, name, true);
                out.push(':');
                write_value(out, item);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// A JSON string with the escapes of Go's encoder; `html` also escapes what HTML would interpret.
fn write_string(out: &mut String, s: &str, html: bool) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || (html && matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_v1_round_trips_byte_for_byte() {
        for text in [
            r#"{}"#,
            r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:replicas":{}}}"#,
            r#"{"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}"#,
            r#"{"f:finalizers":{".":{},"v:\"a\\u003cb\"":{}},"f:list":{"i:0":{}}}"#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let set = FieldSet::from_fields_v1(&value).unwrap();
            assert_eq!(set.to_fields_v1().to_string(), text);
        }
    }

    #[test]
    fn keys_are_sorted_on_the_way_out() {
        let value = serde_json::json!({"v:1": {}, "f:b": {}, "k:{\"b\":1,\"a\":2}": {}, "f:a": {"f:x": {}, ".": {}}});
        let set = FieldSet::from_fields_v1(&value).unwrap();
        assert_eq!(set.to_fields_v1().to_string(), r#"{"f:a":{".":{},"f:x":{}},"f:b":{},"k:{\"a\":2,\"b\":1}":{},"v:1":{}}"#);
    }

    #[test]
    fn what_is_not_fields_v1_is_refused_and_unknown_steps_are_dropped() {
        let read = |v: Value| FieldSet::from_fields_v1(&v);
        assert!(read(serde_json::json!({"x:new": {"f:a": {}}})).unwrap().is_empty());
        assert_eq!(read(serde_json::json!({"f": {}})), Err(FieldsError::ShortKey));
        assert_eq!(read(serde_json::json!({"fx": {}})), Err(FieldsError::MissingColon("fx".into())));
        assert_eq!(read(serde_json::json!({"f:a": 1})), Err(FieldsError::NotAnObject));
        assert!(read(serde_json::json!({"k:{": {}})).is_err());
        assert!(read(serde_json::json!({"é:a": {}})).is_err());
    }
}
