//! Messages to values: what the generated Go unmarshalers read, in the JSON form that Go prints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::plan::{Layout, Target, target};
use super::read::{self, Raw, bytes_field, content, raw, wire_type_of};
use super::wire::{BYTES, Reader};
use super::{DecodeError, MAX_DEPTH, Protobuf, special};
use crate::schema::{Field, ListType, MapType, SchemaOr, Type, TypeId, embedded};

/// `type_meta` is the `apiVersion` and `kind` to show, if any.
pub(super) fn decode(codec: &Protobuf<'_>, id: TypeId, message: &[u8], type_meta: Option<(&str, &str)>) -> Result<Value, DecodeError> {
    if !codec.is_marshalable(id) {
        return Err(DecodeError::NotMarshalable(codec.go_type(id)));
    }
    let mut decoder = Decoder { codec, slots: Vec::new(), depth: 0 };
    Ok(decoder.message(id, message, type_meta)?.0)
}

/// What has been read of a field.
enum Slot<'b> {
    Empty,
    Value(Value),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
    /// A nested message, read once it is known to be whole.
    Message(&'b [u8]),
    /// A nested message that came in several parts: protobuf merges them, which is reading them one after the other.
    Parts(Vec<u8>),
}

struct Decoder<'c, 'b> {
    codec: &'c Protobuf<'c>,
    /// The slots of the structs being read, innermost last.
    slots: Vec<Slot<'b>>,
    depth: usize,
}

impl<'c, 'b> Decoder<'c, 'b> {
    /// An object and whether it is Go's zero value of its type.
    fn message(&mut self, id: TypeId, bytes: &'b [u8], type_meta: Option<(&str, &str)>) -> Result<(Value, bool), DecodeError> {
        if self.depth == MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        self.depth += 1;
        let (ty, plan) = (self.codec.types.get(id), self.codec.plan(id));
        let base = self.slots.len();
        self.slots.resize_with(base + ty.fields.len(), || Slot::Empty);
        if let Some((api_version, kind)) = type_meta {
            for (name, text) in [("kind", kind), ("apiVersion", api_version)] {
                if let Some(i) = ty.by_json.get(name) {
                    self.slots[base + usize::from(*i)] = Slot::Value(Value::from(text));
                }
            }
        }
        self.scan(&ty.go_name, &ty.fields, &plan.message, &plan.embeds, bytes, base)?;
        let mut object = Map::new();
        let mut all_zero = true;
        for (i, field) in ty.fields.iter().enumerate() {
            let slot = std::mem::replace(&mut self.slots[base + i], Slot::Empty);
            let (value, zero) = self.render(field, slot)?;
            all_zero &= zero;
            if let Some(value) = value {
                object.insert(field.json.to_string(), value);
            }
        }
        self.slots.truncate(base);
        self.depth -= 1;
        Ok((Value::Object(object), all_zero))
    }

    /// Sorts a message's fields into the slots of its struct.
    fn scan(
        &mut self,
        name: &str,
        fields: &'c [Field],
        layout: &'c Layout,
        embeds: &'c [Layout],
        bytes: &'b [u8],
        base: usize,
    ) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag(name)? {
            match target(layout, tag.number) {
                None => reader.skip(tag.wire_type)?,
                Some(Target::Embed(i)) if tag.wire_type == BYTES => {
                    let nested = reader.bytes()?;
                    self.scan(name, fields, &embeds[usize::from(i)], embeds, nested, base)?;
                }
                Some(Target::Embed(_)) => return Err(DecodeError::WrongWireType { wire_type: tag.wire_type, field: name.to_owned() }),
                Some(Target::Field(i)) => {
                    let slot = base + usize::from(i);
                    self.store(&fields[usize::from(i)], tag.wire_type, &mut reader, slot)?;
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, field: &'c Field, wire_type: u8, reader: &mut Reader<'b>, slot: usize) -> Result<(), DecodeError> {
        match &field.ty {
            Type::List(list) if !list.wrapped_in_proto => {
                let items = self.items(field, list, wire_type, reader)?;
                match &mut self.slots[slot] {
                    Slot::List(list) => list.extend(items),
                    empty => *empty = Slot::List(items),
                }
            }
            Type::Map(map) => {
                let entry = self.entry(field, map, raw(&field.ty, wire_type, reader, &field.json)?.bytes())?;
                match &mut self.slots[slot] {
                    Slot::Map(map) => map.push(entry),
                    empty => *empty = Slot::Map(vec![entry]),
                }
            }
            Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float | Type::Bytes => {
                let raw = raw(&field.ty, wire_type, reader, &field.json)?;
                self.slots[slot] = Slot::Value(self.value(&field.ty, raw, &field.json)?.0);
            }
            message => {
                let part = raw(message, wire_type, reader, &field.json)?.bytes();
                match &mut self.slots[slot] {
                    Slot::Message(first) => self.slots[slot] = Slot::Parts([*first, part].concat()),
                    Slot::Parts(parts) => parts.extend_from_slice(part),
                    empty => *empty = Slot::Message(part),
                }
            }
        }
        Ok(())
    }

    /// One item of a list, or several packed ones.
    fn items(&mut self, field: &Field, list: &ListType, wire_type: u8, reader: &mut Reader<'b>) -> Result<Vec<Value>, DecodeError> {
        let expected = wire_type_of(&list.item);
        if wire_type == BYTES && expected != BYTES {
            let mut packed = Reader::new(reader.bytes()?);
            let mut items = Vec::new();
            while !packed.is_empty() {
                let raw = raw(&list.item, expected, &mut packed, &field.json)?;
                items.push(self.value(&list.item, raw, &field.json)?.0);
            }
            return Ok(items);
        }
        let raw = raw(&list.item, wire_type, reader, &field.json)?;
        Ok(vec![self.value(&list.item, raw, &field.json)?.0])
    }

    fn entry(&mut self, field: &Field, map: &MapType, bytes: &'b [u8]) -> Result<(String, Value), DecodeError> {
        let (mut key, mut value) = (&b""[..], None);
        let mut reader = Reader::new(bytes);
        // An entry's own tags are read without the checks that a message's get, as in the Go code.
        while !reader.is_empty() {
            let wire = reader.varint()?;
            match wire >> 3 {
                1 => key = reader.bytes()?,
                2 => value = Some(raw(&map.value, wire_type_of(&map.value), &mut reader, &field.json)?),
                _ => reader.skip((wire & 7) as u8)?,
            }
        }
        let value = match value {
            Some(raw) => self.value(&map.value, raw, &field.json)?.0,
            None => self.zero(&map.value)?,
        };
        Ok((String::from_utf8_lossy(key).into_owned(), value))
    }

    /// What JSON shows of a field (`None` if it leaves it out), and whether it is Go's zero value.
    fn render(&mut self, field: &Field, slot: Slot<'b>) -> Result<(Option<Value>, bool), DecodeError> {
        let (value, zero) = match slot {
            Slot::Empty if field.pointer => return Ok(((!field.omit_empty && !field.omit_zero).then_some(Value::Null), true)),
            Slot::Empty => (self.zero(&field.ty)?, true),
            Slot::List(items) => (Value::Array(items), false),
            Slot::Map(entries) => (Value::Object(sorted(entries)), false),
            Slot::Value(value) => {
                let zero = is_zero_scalar(&value);
                (value, zero)
            }
            Slot::Message(bytes) => self.value(&field.ty, Raw::Bytes(bytes), &field.json)?,
            Slot::Parts(bytes) => {
                let mut decoder = Decoder { codec: self.codec, slots: Vec::new(), depth: self.depth };
                decoder.value(&field.ty, Raw::Bytes(&bytes), &field.json)?
            }
        };
        if field.pointer {
            return Ok((Some(value), false));
        }
        let left_out = field.omit_zero && zero
            || field.omit_empty
                && match &field.ty {
                    Type::List(_) => value.is_null() || value.as_array().is_some_and(Vec::is_empty),
                    Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float | Type::Bytes | Type::Map(_) => {
                        zero
                    }
                    // Go's `omitempty` never drops a struct.
                    _ => false,
                };
        Ok(((!left_out).then_some(value), zero))
    }

    /// Go's zero value of a type as JSON shows it.
    fn zero(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        Ok(match ty {
            Type::String => Value::from(""),
            Type::Bool => Value::from(false),
            Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float | Type::IntOrString => Value::from(0),
            Type::Quantity => Value::from("0"),
            Type::Duration => Value::from("0s"),
            Type::Bytes | Type::List(_) | Type::Map(_) | Type::Time | Type::MicroTime => Value::Null,
            Type::FieldsV1 | Type::RawExtension | Type::Json | Type::SchemaOr(_) => Value::Null,
            Type::Struct(id) => self.message(*id, &[], None)?.0,
        })
    }

    /// A value and whether it is Go's zero value. `field` names it in errors.
    fn value(&mut self, ty: &Type, raw: Raw<'b>, field: &str) -> Result<(Value, bool), DecodeError> {
        let value = match ty {
            Type::String => Value::String(String::from_utf8_lossy(raw.bytes()).into_owned()),
            Type::Bool => Value::from(raw.number() != 0),
            Type::Int32 => Value::from(raw.number() as i32),
            Type::Int64 => Value::from(raw.number() as i64),
            Type::Uint(8) => Value::from(raw.number() as u8),
            Type::Uint(16) => Value::from(raw.number() as u16),
            Type::Uint(32) => Value::from(raw.number() as u32),
            Type::Uint(_) => Value::from(raw.number()),
            Type::Float => special::float_value(f64::from_bits(raw.number())).ok_or_else(|| content(field, "json: unsupported value"))?,
            Type::Bytes => Value::from(STANDARD.encode(raw.bytes())),
            Type::Struct(id) => return self.message(*id, raw.bytes(), None),
            Type::Quantity => read::quantity(raw.bytes())?,
            Type::IntOrString => read::int_or_string(raw.bytes())?,
            Type::Time => read::time(raw.bytes(), false, field)?,
            Type::MicroTime => read::time(raw.bytes(), true, field)?,
            Type::Duration => Value::from(special::duration_text(read::number_field(raw.bytes(), "Duration")? as i64)),
            Type::FieldsV1 => read::json(raw.bytes(), "FieldsV1", field)?,
            Type::RawExtension => self.embedded_object(raw.bytes(), field)?,
            Type::Json => read::json(raw.bytes(), "JSON", field)?,
            Type::SchemaOr(form) => self.schema_or(*form, raw.bytes(), field)?,
            Type::List(list) => self.wrapped_list(list, raw.bytes(), field)?,
            Type::Map(_) => return Err(content(field, "a map inside a map has no message form")),
        };
        let zero = match ty {
            Type::Quantity | Type::List(_) => false,
            Type::IntOrString => value == 0,
            _ => value.is_null() || is_zero_scalar(&value),
        };
        Ok((value, zero))
    }

    fn wrapped_list(&mut self, list: &ListType, bytes: &'b [u8], field: &str) -> Result<Value, DecodeError> {
        let mut items = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag(field)? {
            if tag.number == 1 {
                let raw = raw(&list.item, tag.wire_type, &mut reader, "Items")?;
                items.push(self.value(&list.item, raw, field)?.0);
            } else {
                reader.skip(tag.wire_type)?;
            }
        }
        Ok(Value::Array(items))
    }

    /// An embedded object: JSON text, or an envelope of its own.
    fn embedded_object(&mut self, bytes: &'b [u8], field: &str) -> Result<Value, DecodeError> {
        let raw = bytes_field(bytes, "RawExtension", "Raw")?;
        if !raw.starts_with(super::envelope::PREFIX) {
            let mut object = read::parse_json(raw, field)?;
            // Text that is no UTF-8 has been refused as JSON.
            if let Ok(text) = std::str::from_utf8(raw) {
                embedded::keep(&mut object, text);
            }
            return Ok(object);
        }
        let unknown = super::envelope::unwrap(raw)?;
        let id = self.codec.kind(&unknown.api_version, &unknown.kind).ok_or_else(|| DecodeError::NotRegistered {
            api_version: unknown.api_version.clone().into_owned(),
            kind: unknown.kind.clone().into_owned(),
        })?;
        Ok(self.message(id, unknown.raw, Some((&unknown.api_version, &unknown.kind)))?.0)
    }

    fn schema_or(&mut self, form: SchemaOr, bytes: &'b [u8], field: &str) -> Result<Value, DecodeError> {
        let id = self.codec.json_schema.ok_or_else(|| content(field, "JSONSchemaProps is not a known type"))?;
        let schema_number = if form == SchemaOr::Bool { 2 } else { 1 };
        let (mut allows, mut schema, mut list) = (false, None, Vec::new());
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag("JSONSchemaPropsOr")? {
            match (form, tag.number) {
                (_, n) if n == schema_number => {
                    let part = raw(&Type::Struct(id), tag.wire_type, &mut reader, "Schema")?.bytes();
                    schema = Some(self.message(id, part, None)?.0);
                }
                (SchemaOr::Bool, 1) => allows = raw(&Type::Bool, tag.wire_type, &mut reader, "Allows")?.number() != 0,
                (SchemaOr::Array, 2) => {
                    let part = raw(&Type::Struct(id), tag.wire_type, &mut reader, "JSONSchemas")?.bytes();
                    list.push(self.message(id, part, None)?.0);
                }
                (SchemaOr::StringArray, 2) => {
                    let part = raw(&Type::String, tag.wire_type, &mut reader, "Property")?.bytes();
                    list.push(Value::String(String::from_utf8_lossy(part).into_owned()));
                }
                _ => reader.skip(tag.wire_type)?,
            }
        }
        Ok(match (form, schema) {
            (SchemaOr::Bool, None) => Value::from(allows),
            (_, schema) if list.is_empty() => schema.unwrap_or(Value::Null),
            _ => Value::Array(list),
        })
    }
}

/// Zero in Go's sense, of what is no struct.
fn is_zero_scalar(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// Entries by key; of equal keys the last counts.
fn sorted(mut entries: Vec<(String, Value)>) -> Map<String, Value> {
    if !entries.is_sorted_by(|a, b| a.0 < b.0) {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
    }
    entries.into_iter().collect()
}
