//! Values to messages, as the generated Go marshalers write them: fields in ascending number, scalars and structs that
//! are no pointers always, maps sorted by key.

use base64::Engine;
use serde_json::{Map, Value};

use super::plan::{Layout, Target};
use super::wire::Writer;
use super::{EncodeError, MAX_DEPTH, Protobuf, special};
use crate::base64::GO_STANDARD;
use crate::json;
use crate::schema::{Field, ListType, MapType, SchemaOr, Type, TypeId, embedded};

static NULL: Value = Value::Null;

pub(super) fn encode(codec: &Protobuf<'_>, id: TypeId, value: &Value) -> Result<Vec<u8>, EncodeError> {
    if !codec.is_marshalable(id) {
        return Err(EncodeError::NotMarshalable(codec.go_type(id)));
    }
    let mut encoder = Encoder { codec, out: Writer::with_capacity(1024), slots: Vec::new(), depth: 0 };
    encoder.message(id, value).map_err(|problem| problem.in_field(&codec.types.get(id).go_name))?;
    Ok(encoder.out.finish())
}

/// Why a value cannot be written; gets its field's name on the way up.
enum Problem {
    Mismatch { path: String, found: String, expected: &'static str },
    TooDeep,
}

impl Problem {
    fn mismatch(found: &Value, expected: &'static str) -> Problem {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a bool",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Problem::Mismatch { path: String::new(), found: found.to_owned(), expected }
    }

    fn below(self, name: &str) -> Problem {
        match self {
            Problem::Mismatch { path, found, expected } if path.is_empty() => Problem::Mismatch { path: name.to_owned(), found, expected },
            Problem::Mismatch { path, found, expected } => Problem::Mismatch { path: format!("{name}.{path}"), found, expected },
            Problem::TooDeep => Problem::TooDeep,
        }
    }

    fn in_field(self, root: &str) -> EncodeError {
        match self.below(root) {
            Problem::Mismatch { path, found, expected } => EncodeError::Mismatch { field: path, found, expected },
            Problem::TooDeep => EncodeError::TooDeep,
        }
    }
}

struct Encoder<'c, 'v> {
    codec: &'c Protobuf<'c>,
    out: Writer,
    /// The values of the fields of the structs being written, innermost last: one allocation for all of them.
    slots: Vec<Option<&'v Value>>,
    depth: usize,
}

impl<'v> Encoder<'_, 'v> {
    /// The body of a struct's message.
    fn message(&mut self, id: TypeId, value: &'v Value) -> Result<(), Problem> {
        let fields = match value {
            Value::Object(fields) => Some(fields),
            Value::Null => None,
            other => return Err(Problem::mismatch(other, "a message")),
        };
        if self.depth == MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        self.depth += 1;
        let (ty, plan) = (self.codec.types.get(id), self.codec.plan(id));
        let base = self.slots.len();
        self.slots.resize(base + ty.fields.len(), None);
        for (name, value) in fields.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            if let Some(i) = ty.by_json.get(name.as_str()) {
                self.slots[base + usize::from(*i)] = Some(value);
            }
        }
        self.layout(&plan.message, &plan.embeds, &ty.fields, base)?;
        self.slots.truncate(base);
        self.depth -= 1;
        Ok(())
    }

    fn layout(&mut self, layout: &Layout, embeds: &[Layout], fields: &[Field], base: usize) -> Result<(), Problem> {
        for (number, target) in layout.iter().rev() {
            match target {
                Target::Field(i) => {
                    let field = &fields[usize::from(*i)];
                    self.field(field, self.slots[base + usize::from(*i)]).map_err(|problem| problem.below(&field.json))?;
                }
                Target::Embed(i) => {
                    let mark = self.out.len();
                    self.layout(&embeds[usize::from(*i)], embeds, fields, base)?;
                    self.out.close(*number, mark);
                }
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, value: Option<&'v Value>) -> Result<(), Problem> {
        match (value, &field.ty) {
            (None, _) if field.pointer => Ok(()),
            (None, Type::Bytes | Type::List(_) | Type::Map(_) | Type::SchemaOr(_)) => Ok(()),
            (None, ty) => self.value(field.proto, ty, &NULL),
            (Some(value), Type::List(list)) => self.list(field.proto, list, value),
            (Some(value), Type::Map(map)) => self.map(field.proto, map, value),
            (Some(value), ty) => self.value(field.proto, ty, value),
        }
    }

    /// One value with its tag; `null` stands for the type's zero value.
    fn value(&mut self, number: u32, ty: &Type, value: &'v Value) -> Result<(), Problem> {
        match ty {
            Type::String => self.out.bytes_field(number, text(value)?.as_bytes()),
            Type::Bool => self.out.varint_field(number, u64::from(boolean(value)?)),
            // Negative numbers are sign-extended to 64 bits, 32-bit ones too.
            Type::Int32 | Type::Int64 => self.out.varint_field(number, integer(value)? as u64),
            Type::Uint(_) => self.out.varint_field(number, unsigned(value)?),
            Type::Float => self.out.fixed64_field(number, float(value)?.to_bits()),
            Type::Bytes => self.out.bytes_field(number, &bytes(value)?),
            Type::List(list) => self.list(number, list, value)?,
            Type::Map(map) => self.map(number, map, value)?,
            message => {
                let mark = self.out.len();
                self.message_like(message, value)?;
                self.out.close(number, mark);
            }
        }
        Ok(())
    }

    /// The body of a value that is a message on the wire.
    fn message_like(&mut self, ty: &Type, value: &'v Value) -> Result<(), Problem> {
        match ty {
            Type::Struct(id) => self.message(*id, value)?,
            Type::Quantity => match value {
                Value::Null => self.out.bytes_field(1, b"0"),
                Value::Number(n) => self.out.bytes_field(1, n.to_string().as_bytes()),
                other => self.out.bytes_field(1, text(other)?.as_bytes()),
            },
            Type::IntOrString => self.int_or_string(value)?,
            Type::Time | Type::MicroTime => self.time(*ty == Type::MicroTime, value)?,
            Type::Duration => {
                let nanos = match value {
                    Value::Null => 0,
                    other => special::parse_duration(text(other)?).ok_or_else(|| Problem::mismatch(other, "a duration"))?,
                };
                self.out.varint_field(1, nanos as u64);
            }
            Type::RawExtension => {
                if let Some(text) = embedded::text(value) {
                    self.out.bytes_field(1, text.as_bytes());
                } else if !value.is_null() {
                    self.out.bytes_field(1, &json::to_vec(value));
                }
            }
            Type::FieldsV1 | Type::Json => {
                if !value.is_null() {
                    self.out.bytes_field(1, value.to_string().as_bytes());
                }
            }
            Type::SchemaOr(form) => self.schema_or(*form, value)?,
            Type::String
            | Type::Bool
            | Type::Int32
            | Type::Int64
            | Type::Uint(_)
            | Type::Float
            | Type::Bytes
            | Type::List(_)
            | Type::Map(_) => {
                unreachable!("not a message on the wire")
            }
        }
        Ok(())
    }

    fn int_or_string(&mut self, value: &Value) -> Result<(), Problem> {
        let (kind, number, string) = match value {
            Value::String(s) => (1, 0, s.as_str()),
            other => (0, integer(other)?, ""),
        };
        self.out.bytes_field(3, string.as_bytes());
        self.out.varint_field(2, number as u64);
        self.out.varint_field(1, kind);
        Ok(())
    }

    fn time(&mut self, micros: bool, value: &Value) -> Result<(), Problem> {
        if value.is_null() {
            return Ok(());
        }
        let time = special::parse_time(text(value)?).ok_or_else(|| Problem::mismatch(value, "a time"))?;
        if let Some((seconds, nanos)) = time {
            let nanos = if micros { nanos - nanos % 1_000 } else { 0 };
            self.out.varint_field(2, nanos as u64);
            self.out.varint_field(1, seconds as u64);
        }
        Ok(())
    }

    fn list(&mut self, number: u32, list: &ListType, value: &'v Value) -> Result<(), Problem> {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            Value::Null => &[],
            other => return Err(Problem::mismatch(other, "a list")),
        };
        let mark = self.out.len();
        let item_number = if list.wrapped_in_proto { 1 } else { number };
        for item in items.iter().rev() {
            self.value(item_number, &list.item, item)?;
        }
        if list.wrapped_in_proto {
            self.out.close(number, mark);
        }
        Ok(())
    }

    fn map(&mut self, number: u32, map: &MapType, value: &'v Value) -> Result<(), Problem> {
        let entries = match value {
            Value::Object(entries) => entries,
            Value::Null => return Ok(()),
            other => return Err(Problem::mismatch(other, "a map")),
        };
        for (key, value) in descending(entries) {
            let mark = self.out.len();
            if !(value.is_null() && map.value == Type::Bytes) {
                self.value(2, &map.value, value).map_err(|problem| problem.below(key))?;
            }
            self.out.bytes_field(1, key.as_bytes());
            self.out.close(number, mark);
        }
        Ok(())
    }

    fn schema_or(&mut self, form: SchemaOr, value: &'v Value) -> Result<(), Problem> {
        let schema = self.codec.json_schema.ok_or(Problem::mismatch(value, "a type without JSONSchemaProps"))?;
        match (form, value) {
            (SchemaOr::Bool, Value::Bool(allows)) => self.out.varint_field(1, u64::from(*allows)),
            (SchemaOr::Array, Value::Array(schemas)) => {
                for value in schemas.iter().rev() {
                    self.value(2, &Type::Struct(schema), value)?;
                }
            }
            (SchemaOr::StringArray, Value::Array(strings)) => {
                for value in strings.iter().rev() {
                    self.value(2, &Type::String, value)?;
                }
            }
            (SchemaOr::Bool, object) => {
                self.value(2, &Type::Struct(schema), object)?;
                self.out.varint_field(1, 1);
            }
            (_, object) => self.value(1, &Type::Struct(schema), object)?,
        }
        Ok(())
    }
}

/// A map's entries by descending key; the usual case, a sorted map, is not copied again.
fn descending(entries: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = entries.iter().rev().collect();
    if !sorted.is_sorted_by(|a, b| a.0 >= b.0) {
        sorted.sort_by(|a, b| b.0.cmp(a.0));
    }
    sorted
}

fn text(value: &Value) -> Result<&str, Problem> {
    match value {
        Value::String(s) => Ok(s),
        Value::Null => Ok(""),
        other => Err(Problem::mismatch(other, "a string")),
    }
}

fn boolean(value: &Value) -> Result<bool, Problem> {
    match value {
        Value::Bool(b) => Ok(*b),
        Value::Null => Ok(false),
        other => Err(Problem::mismatch(other, "a bool")),
    }
}

fn integer(value: &Value) -> Result<i64, Problem> {
    match value {
        Value::Null => Ok(0),
        other => other.as_i64().ok_or_else(|| Problem::mismatch(other, "an integer")),
    }
}

fn unsigned(value: &Value) -> Result<u64, Problem> {
    match value {
        Value::Null => Ok(0),
        other => other.as_u64().ok_or_else(|| Problem::mismatch(other, "an unsigned integer")),
    }
}

fn float(value: &Value) -> Result<f64, Problem> {
    match value {
        Value::Null => Ok(0.0),
        other => other.as_f64().ok_or_else(|| Problem::mismatch(other, "a number")),
    }
}

fn bytes(value: &Value) -> Result<Vec<u8>, Problem> {
    let encoded = text(value)?;
    let decoded = if encoded.contains(['\r', '\n']) {
        // Go's decoder passes over line breaks.
        GO_STANDARD.decode(encoded.replace(['\r', '\n'], ""))
    } else {
        GO_STANDARD.decode(encoded)
    };
    decoded.map_err(|_| Problem::mismatch(value, "base64"))
}
