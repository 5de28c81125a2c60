//! The first pass over a body: does every value have the type that its field declares, and which fields are unknown?
//!
//! Type mismatches are errors in the words of the reference's JSON decoder; unknown fields are removed and reported, and
//! the caller decides what they mean (`fieldValidation`). Nulls become absent. Nothing is defaulted here.
//!
//! Which of several errors is told is part of the words: the decoder notes the first mismatch and goes on, but a type that reads itself (a
//! quantity, a time, a schema or something else) ends it, and its error is the one that counts.

use serde_json::{Map, Value};

use super::{Field, SchemaOr, StructType, Type, TypeId, Types, element_go_type};
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
    let mut walk = Walk { types, unknown: Vec::new(), noted: None, path: Vec::new(), names: Vec::new() };
    let ty = types.get(id);
    match value {
        Value::Object(map) => walk.structure(ty, map)?,
        Value::Null => *value = Value::Object(Map::new()),
        other => return Err(Error::Value { found: json_kind(other).to_owned(), go_type: format!("{}", ty.go_name) }),
    }
    walk.noted.map_or(Ok(walk.unknown), Err)
}

struct Walk<'a> {
    types: &'a Types,
    unknown: Vec<String>,
    /// The first mismatch, which counts if nothing worse comes.
    noted: Option<Error>,
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

    /// Reads what the decoder leaves to a type of its own: that notes nothing, and what it finds is unknown to the decoder.
    fn apart(&mut self, target: Target<'a>, read: impl FnOnce(&mut Walk<'a>) -> Result<(), Error>) -> Result<(), Error> {
        let (noted, unknown) = (self.noted.take(), self.unknown.len());
        let result = read(self);
        let found = result.err().or_else(|| self.noted.take());
        self.noted = noted;
        self.unknown.truncate(unknown);
        match found {
            None => Ok(()),
            Some(Error::Field { found, path, go_type, .. }) => Err(Error::Field { found, owner: target.owner.to_owned(), path, go_type }),
            Some(Error::Value { found, go_type }) => {
                Err(Error::Field { found, owner: target.owner.to_owned(), path: self.names.join("."), go_type })
            }
            Some(other) => Err(other),
        }
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
            Type::Quantity => self.apart(target, |_| quantity(value)),
            Type::IntOrString => self.apart(target, |_| int_or_string(value)),
            Type::Time => self.apart(target, |_| time_value(value, |text| Ok(time::parse_time(text)?.to_time()))),
            Type::MicroTime => self.apart(target, |_| time_value(value, |text| Ok(time::parse_micro_time(text)?.to_micro_time()))),
            Type::Duration => self.apart(target, |_| duration(value)),
            Type::FieldsV1 | Type::RawExtension | Type::Json => Ok(()),
            Type::SchemaOr(kind) => self.apart(target, |walk| walk.schema_or(*kind, target, value)),
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
                    self.nested(format!(".{key}"), &map_type.value, item_target, item)?;
                }
                Ok(())
            }
        }
    }

    /// Walks into an item whose step (`[0]`, `.key`) is written onto the field that holds the collection.
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
    fn schema_or(&mut self, kind: SchemaOr, target: Target<'a>, value: &mut Value) -> Result<(), Error> {
        let Some(props) = self.types.lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") else {
            return Ok(());
        };
        let item = Target { owner: target.owner, go_type: if kind == SchemaOr::Array { "v1.JSONSchemaProps" } else { "string" } };
        match (kind, value) {
            (_, Value::Object(map)) => self.structure(self.types.get(props), map),
            (SchemaOr::Bool, Value::Bool(_)) => Ok(()),
            (SchemaOr::Bool, _) => Err(Error::Scalar("boolean or JSON schema expected".to_owned())),
            (SchemaOr::Array, Value::Array(items)) if !items.is_empty() => {
                for value in items {
                    match value {
                        Value::Object(map) => self.structure(self.types.get(props), map)?,
                        Value::Null => *value = Value::Object(Map::new()),
                        other => self.mismatch(other, item)?,
                    }
                }
                Ok(())
            }
            (SchemaOr::StringArray, Value::Array(items)) => {
                for value in items {
                    self.expect(value.is_string() || value.is_null(), value, item)?;
                }
                Ok(())
            }
            // What is neither a schema nor a list of some is passed over.
            (_, other) => {
                *other = Value::Null;
                Ok(())
            }
        }
    }

    fn bytes(&mut self, value: &Value, target: Target<'a>) -> Result<(), Error> {
        let Value::String(text) = value else { return self.mismatch(value, target) };
        if let Some(at) = first_base64_error(text) {
            self.noted.get_or_insert(Error::Base64(at));
        }
        Ok(())
    }

    fn expect(&mut self, holds: bool, value: &Value, target: Target<'a>) -> Result<(), Error> {
        if holds { Ok(()) } else { self.mismatch(value, target) }
    }

    /// Notes the mismatch; the walk goes on, for something worse may follow.
    fn mismatch(&mut self, value: &Value, target: Target<'a>) -> Result<(), Error> {
        if self.noted.is_some() {
            return Ok(());
        }
        let mut found = json_kind(value).to_owned();
        let go_type = target.go_type.trim_start_matches('*');
        if value.is_number() && ["int", "uint", "float"].iter().any(|number| go_type.starts_with(number)) {
            found = format!("number {value}");
        }
        let (owner, path) = (target.owner.to_owned(), self.names.join("."));
        self.noted = Some(Error::Field { found, owner, path, go_type: go_type.to_owned() });
        Ok(())
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

/// A number or a text.
pub(crate) fn int_or_string(value: &Value) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    const DEFINITION: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";

    fn read(name: &str, mut value: Value) -> Result<Vec<String>, String> {
        decode(builtin(), builtin().lookup(name).expect("a definition"), &mut value).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_mismatch_is_told_unless_a_type_that_reads_itself_fails() {
        let pod = |container: Value| read("io.k8s.api.core.v1.Pod", json!({"spec": {"containers": [container]}}));
        assert_eq!(
            pod(json!({"stdin": "x", "tty": 1})),
            Err("json: cannot unmarshal string into Go struct field Container.spec.containers.stdin of type bool".to_owned())
        );
        let port = json!({"stdin": "x", "livenessProbe": {"httpGet": {"port": true}}});
        let path = "HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port";
        assert_eq!(pod(port), Err(format!("json: cannot unmarshal bool into Go struct field {path} of type int32")));
        let quantity = pod(json!({"stdin": "x", "resources": {"limits": {"cpu": "abc"}}}));
        assert!(quantity.clone().is_err_and(|why| why.starts_with("quantities must match")), "{quantity:?}");
    }

    #[test]
    fn schemas_within_schemas_are_read_by_themselves() {
        let definition = |schema: Value| read(DEFINITION, json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}}));
        let rule = |field: &str| json!({"x-kubernetes-validations": [{"rule": "a", field: "b"}]});
        assert_eq!(
            definition(json!({"properties": {"a": rule("x")}})),
            Ok(vec!["spec.versions[0].schema.openAPIV3Schema.properties.a.x-kubernetes-validations[0].x".to_owned()])
        );
        assert_eq!(definition(json!({"properties": {"a": {"items": rule("x")}}})), Ok(Vec::new()));
        let wrong = json!({"nullable": 1, "properties": {"a": {"items": {"x-kubernetes-validations": [{"rule": 1}]}}}});
        let path = "JSONSchemaProps.spec.versions.schema.openAPIV3Schema.properties.items.x-kubernetes-validations.rule";
        assert_eq!(definition(wrong), Err(format!("json: cannot unmarshal number into Go struct field {path} of type string")));
    }
}
