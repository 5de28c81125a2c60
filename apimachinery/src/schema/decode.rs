//! The first pass over a body: does every value have the type that its field declares, and which fields are unknown?
//!
//! Type mismatches are errors in the words of the reference's JSON decoder; unknown fields are removed and reported, and
//! the caller decides what they mean (`fieldValidation`). Nulls become absent. Nothing is defaulted here.

use serde_json::{Map, Value};

use super::{Field, StructType, Type, TypeId, Types, element_go_type};
use crate::go_print::json_kind;
use crate::quantity::Quantity;
use crate::{field, time};

/// Why a body cannot be read as its kind. `Display` is the message that follows `… cannot be handled as a Kind: `.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    #[error("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go_type}")]
    Field { found: String, owner: String, path: String, go_type: String },
    #[error("json: cannot unmarshal {found} into Go value of type {go_type}")]
    Value { found: String, go_type: String },
    #[error("{0}")]
    Scalar(String),
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
}

/// Checks `value` against type `id`, prunes unknown fields and returns their paths (`spec.containers[0].x`) in document order.
pub fn decode(types: &Types, id: TypeId, value: &mut Value) -> Result<Vec<String>, Error> {
    let mut walk = Walk { types, unknown: Vec::new(), path: Vec::new(), names: Vec::new() };
    let ty = types.get(id);
    match value {
        Value::Object(map) => walk.structure(ty, map)?,
        Value::Null => *value = Value::Object(Map::new()),
        other => return Err(Error::Value { found: json_kind(other).to_owned(), go_type: format!("{}", ty.go_name) }),
    }
    Ok(walk.unknown)
}

struct Walk<'a> {
    types: &'a Types,
    unknown: Vec<String>,
    /// Steps for unknown-field messages, with indexes and keys: "spec", "containers[0]".
    path: Vec<String>,
    /// Names of struct fields alone, as the decoder's type errors show them.
    names: Vec<&'a str>,
}

/// What the decoder says about the Go type that refused a value.
#[derive(Clone, Copy)]
struct Target<'a> {
    owner: &'a str,
    go_type: &'a str,
}

impl<'a> Walk<'a> {
    fn structure(&mut self, ty: &'a StructType, map: &mut Map<String, Value>) -> Result<(), Error> {
        let mut dropped: Vec<String> = Vec::new();
        for (key, value) in map.iter_mut() {
            let Some(field) = ty.field(key) else {
                if !ty.preserve_unknown {
                    self.report_unknown(key);
                    dropped.push(key.clone());
                }
                continue;
            };
            if value.is_null() && (field.pointer || !matches!(field.ty, Type::Json | Type::RawExtension | Type::SchemaOr(_))) {
                dropped.push(key.clone());
                continue;
            }
            self.field(ty, field, value)?;
            if field.omit_empty && !field.pointer && is_zero_scalar(&field.ty, value) {
                dropped.push(key.clone());
            }
        }
        for key in dropped {
            map.shift_remove(&key);
        }
        Ok(())
    }

    /// The embedded structs that a field is found in, the outermost first: the decoder names them by their types.
    fn name_embeds(&mut self, owner: &'a StructType, innermost: Option<u16>) {
        let Some(embed) = innermost.and_then(|at| owner.proto_embeds.get(usize::from(at))) else { return };
        self.name_embeds(owner, embed.parent);
        self.names.push(&embed.name);
    }

    fn report_unknown(&mut self, key: &str) {
        let mut text = self.path.join(".");
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(key);
        self.unknown.push(text);
    }

    fn field(&mut self, owner: &'a StructType, field: &'a Field, value: &mut Value) -> Result<(), Error> {
        self.path.push(field.json.to_string());
        let depth = self.names.len();
        self.name_embeds(owner, field.proto_embed);
        self.names.push(&field.json);
        let result = self.value(&field.ty, Target { owner: &owner.go_name, go_type: &field.go_type }, value);
        self.names.truncate(depth);
        self.path.pop();
        result
    }

    fn value(&mut self, ty: &'a Type, target: Target<'a>, value: &mut Value) -> Result<(), Error> {
        match ty {
            Type::String => self.expect(value.is_string(), value, target),
            Type::Bool => self.expect(value.is_boolean(), value, target),
            Type::Int32 => self.expect(value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()), value, target),
            Type::Int64 => self.expect(value.as_i64().is_some(), value, target),
            Type::Uint(bits) => {
                let fits = value.as_u64().is_some_and(|n| *bits >= 64 || n < 1u64 << bits);
                self.expect(fits, value, target)
            }
            Type::Float => self.expect(value.is_number(), value, target),
            Type::Bytes => self.bytes(value, target),
            Type::Quantity => quantity(value),
            Type::IntOrString => int_or_string(value),
            Type::Time => time_value(value, |text| Ok(time::parse_time(text)?.to_time())),
            Type::MicroTime => time_value(value, |text| Ok(time::parse_micro_time(text)?.to_micro_time())),
            Type::Duration => duration(value),
            Type::FieldsV1 | Type::RawExtension | Type::Json => Ok(()),
            Type::SchemaOr(kind) => self.schema_or(*kind, target, value),
            Type::Struct(id) => match value {
                Value::Object(map) => self.structure(self.types.get(*id), map),
                Value::Null => {
                    *value = Value::Object(Map::new());
                    Ok(())
                }
                other => self.mismatch(other, target),
            },
            Type::List(list) => {
                let Value::Array(items) = value else { return self.mismatch(value, target) };
                let item_target = Target { owner: target.owner, go_type: element_go_type(target.go_type) };
                for (i, item) in items.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(&list.item);
                        continue;
                    }
                    self.nested(format!("[{i}]"), &list.item, item_target, item)?;
                }
                Ok(())
            }
            Type::Map(map_type) => {
                let Value::Object(map) = value else { return self.mismatch(value, target) };
                let item_target = Target { owner: target.owner, go_type: element_go_type(target.go_type) };
                for (key, item) in map.iter_mut() {
                    if item.is_null() {
                        *item = zero(&map_type.value);
                        continue;
                    }
                    self.nested(format!("[{key}]"), &map_type.value, item_target, item)?;
                }
                Ok(())
            }
        }
    }

    /// Walks into an item whose step (`[0]`) is written onto the field that holds the collection.
    fn nested(&mut self, step: String, ty: &'a Type, target: Target<'a>, value: &mut Value) -> Result<(), Error> {
        let holder = self.path.len().checked_sub(1);
        let length = holder.map(|h| {
            let at = self.path[h].len();
            self.path[h].push_str(&step);
            at
        });
        let result = self.value(ty, target, value);
        if let (Some(h), Some(at)) = (holder, length) {
            self.path[h].truncate(at);
        }
        result
    }

    /// A schema, or the alternative that the union's name says.
    fn schema_or(&mut self, kind: super::SchemaOr, target: Target<'a>, value: &mut Value) -> Result<(), Error> {
        let Some(props) = self.types.lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") else {
            return Ok(());
        };
        match (kind, value) {
            (_, Value::Object(map)) => self.structure(self.types.get(props), map),
            (super::SchemaOr::Bool, Value::Bool(_)) | (super::SchemaOr::StringArray, Value::Array(_)) => Ok(()),
            (super::SchemaOr::Array, Value::Array(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    if let Value::Object(map) = item {
                        let at = format!("[{i}]");
                        if let Some(last) = self.path.last_mut() {
                            last.push_str(&at);
                        }
                        let result = self.structure(self.types.get(props), map);
                        if let Some(last) = self.path.last_mut() {
                            last.truncate(last.len() - at.len());
                        }
                        result?;
                    }
                }
                Ok(())
            }
            (super::SchemaOr::Bool, _) => Err(Error::Scalar("boolean or JSON schema expected".to_owned())),
            (_, other) if other.is_null() => Ok(()),
            // What is neither a schema nor a list is passed over.
            (super::SchemaOr::Array, other) => {
                *other = Value::Null;
                Ok(())
            }
            (_, other) => self.mismatch(other, target),
        }
    }

    fn bytes(&self, value: &Value, target: Target<'a>) -> Result<(), Error> {
        let Value::String(text) = value else { return self.mismatch(value, target) };
        match first_base64_error(text) {
            None => Ok(()),
            Some(at) => Err(Error::Base64(at)),
        }
    }

    fn expect(&self, holds: bool, value: &Value, target: Target<'a>) -> Result<(), Error> {
        if holds { Ok(()) } else { self.mismatch(value, target) }
    }

    fn mismatch(&self, value: &Value, target: Target<'a>) -> Result<(), Error> {
        let mut found = json_kind(value).to_owned();
        let go_type = target.go_type.trim_start_matches('*');
        if value.is_number() && ["int", "uint", "float"].iter().any(|number| go_type.starts_with(number)) {
            found = format!("number {value}");
        }
        Err(Error::Field { found, owner: target.owner.to_owned(), path: self.names.join("."), go_type: go_type.to_owned() })
    }
}

/// Whether an `omitempty` scalar has the value that means absent, so that defaulting sees one form of absence.
fn is_zero_scalar(ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::String, Value::String(s)) => s.is_empty(),
        (Type::Bool, Value::Bool(b)) => !b,
        (Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float, Value::Number(n)) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

/// What a null item of this type means.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Struct(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn quantity(value: &mut Value) -> Result<(), Error> {
    let text = match &*value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        other => return Err(Error::Scalar(quantity_error(&other.to_string()))),
    };
    match Quantity::parse(&text) {
        Ok(q) => {
            *value = Value::String(q.canonical());
            Ok(())
        }
        Err(e) => Err(Error::Scalar(e.to_string())),
    }
}

fn quantity_error(text: &str) -> String {
    match Quantity::parse(text) {
        Err(e) => e.to_string(),
        Ok(_) => String::new(),
    }
}

fn int_or_string(value: &Value) -> Result<(), Error> {
    match value {
        Value::String(_) => Ok(()),
        Value::Number(n) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
        Value::Number(n) => Err(Error::Value { found: format!("number {n}"), go_type: "int32".to_owned() }),
        other => Err(Error::Value { found: json_kind(other).to_owned(), go_type: "int32".to_owned() }),
    }
}

fn time_value(value: &mut Value, parse: fn(&str) -> Result<String, time::Error>) -> Result<(), Error> {
    let Value::String(text) = &*value else {
        return Err(Error::Value { found: json_kind(value).to_owned(), go_type: "string".to_owned() });
    };
    match parse(text) {
        Ok(canonical) => {
            *value = Value::String(canonical);
            Ok(())
        }
        Err(e) => Err(Error::Scalar(e.to_string())),
    }
}

fn duration(value: &mut Value) -> Result<(), Error> {
    let Value::String(text) = &*value else {
        return Err(Error::Value { found: json_kind(value).to_owned(), go_type: "string".to_owned() });
    };
    match time::parse_duration(text) {
        Ok(nanos) => {
            *value = Value::String(time::format_duration(nanos));
            Ok(())
        }
        Err(_) => Err(Error::Scalar(format!("time: invalid duration {}", field::quote(text)))),
    }
}

/// The first byte at which standard base64 with padding (newlines allowed) breaks, as Go's decoder counts it.
fn first_base64_error(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut digits = 0usize;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'\r' | b'\n' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => digits += 1,
            b'=' => return padding_error(bytes, i, digits),
            _ => return Some(i),
        }
        i += 1;
    }
    if digits.is_multiple_of(4) { None } else { Some(bytes.len() - digits % 4) }
}

fn padding_error(bytes: &[u8], at: usize, digits: usize) -> Option<usize> {
    let need = match digits % 4 {
        2 => 2,
        3 => 1,
        _ => return Some(at),
    };
    let mut seen = 0;
    for (i, b) in bytes.iter().enumerate().skip(at) {
        match b {
            b'\r' | b'\n' => {}
            b'=' if seen < need => seen += 1,
            _ => return Some(i),
        }
    }
    if seen == need { None } else { Some(bytes.len()) }
}
