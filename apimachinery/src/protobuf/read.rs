//! Values off the wire, and the messages of the types whose JSON form is a scalar or any JSON: quantities, times, numbers
//! or strings, embedded JSON.

use serde_json::Value;

use super::wire::{BYTES, FIXED64, Reader, VARINT};
use super::{DecodeError, special};
use crate::quantity::Quantity;
use crate::schema::Type;

/// A field's value on the wire.
pub(super) enum Raw<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
}

impl<'b> Raw<'b> {
    pub fn bytes(self) -> &'b [u8] {
        match self {
            Raw::Bytes(bytes) => bytes,
            Raw::Varint(_) | Raw::Fixed64(_) => &[],
        }
    }

    pub fn number(self) -> u64 {
        match self {
            Raw::Varint(n) | Raw::Fixed64(n) => n,
            Raw::Bytes(_) => 0,
        }
    }
}

/// The wire type of a value of this type.
pub(super) fn wire_type_of(ty: &Type) -> u8 {
    match ty {
        Type::Bool | Type::Int32 | Type::Int64 | Type::Uint(_) => VARINT,
        Type::Float => FIXED64,
        _ => BYTES,
    }
}

/// Reads a value of a type off the wire, if the wire type is the right one.
pub(super) fn raw<'b>(ty: &Type, wire_type: u8, reader: &mut Reader<'b>, field: &str) -> Result<Raw<'b>, DecodeError> {
    if wire_type != wire_type_of(ty) {
        return Err(DecodeError::WrongWireType { wire_type, field: go_field(field) });
    }
    Ok(match wire_type {
        VARINT => Raw::Varint(reader.varint()?),
        FIXED64 => Raw::Fixed64(reader.fixed64()?),
        _ => Raw::Bytes(reader.bytes()?),
    })
}

/// The Go name of a field, for errors: its JSON name with a capital, but for `metadata`. The table does not carry the
/// few others that differ (`podIP`).
fn go_field(json: &str) -> String {
    if json == "metadata" {
        return "ObjectMeta".to_owned();
    }
    let mut chars = json.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

pub(super) fn content(field: &str, problem: impl Into<String>) -> DecodeError {
    DecodeError::Content { field: field.to_owned(), problem: problem.into() }
}

/// The last occurrence of field 1, length-delimited.
pub(super) fn bytes_field<'b>(message: &'b [u8], name: &str, field: &str) -> Result<&'b [u8], DecodeError> {
    let mut found = &b""[..];
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag(name)? {
        match tag.number {
            1 => found = raw(&Type::Bytes, tag.wire_type, &mut reader, field)?.bytes(),
            _ => reader.skip(tag.wire_type)?,
        }
    }
    Ok(found)
}

/// The last occurrence of field 1, a varint.
pub(super) fn number_field(message: &[u8], name: &str) -> Result<u64, DecodeError> {
    let mut found = 0;
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag(name)? {
        match tag.number {
            1 => found = raw(&Type::Int64, tag.wire_type, &mut reader, name)?.number(),
            _ => reader.skip(tag.wire_type)?,
        }
    }
    Ok(found)
}

pub(super) fn quantity(message: &[u8]) -> Result<Value, DecodeError> {
    let text = bytes_field(message, "Quantity", "String")?;
    if text.is_empty() {
        return Ok(Value::from("0"));
    }
    let quantity = Quantity::parse(&String::from_utf8_lossy(text)).map_err(|e| DecodeError::Quantity(e.to_string()))?;
    Ok(Value::String(quantity.canonical()))
}

pub(super) fn int_or_string(message: &[u8]) -> Result<Value, DecodeError> {
    let (mut kind, mut number, mut string) = (0, 0, &b""[..]);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag("IntOrString")? {
        match tag.number {
            1 => kind = raw(&Type::Int64, tag.wire_type, &mut reader, "Type")?.number(),
            2 => number = raw(&Type::Int32, tag.wire_type, &mut reader, "IntVal")?.number() as i32,
            3 => string = raw(&Type::String, tag.wire_type, &mut reader, "StrVal")?.bytes(),
            _ => reader.skip(tag.wire_type)?,
        }
    }
    match kind {
        0 => Ok(Value::from(number)),
        1 => Ok(Value::String(String::from_utf8_lossy(string).into_owned())),
        _ => Err(content("type", "impossible IntOrString.Type")),
    }
}

pub(super) fn time(message: &[u8], micros: bool, field: &str) -> Result<Value, DecodeError> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag("Timestamp")? {
        match tag.number {
            1 => seconds = raw(&Type::Int64, tag.wire_type, &mut reader, "Seconds")?.number() as i64,
            2 => nanos = raw(&Type::Int32, tag.wire_type, &mut reader, "Nanos")?.number() as i32,
            _ => reader.skip(tag.wire_type)?,
        }
    }
    special::time_value(seconds, if micros { nanos } else { 0 }, micros).ok_or_else(|| content(field, "time out of range"))
}

pub(super) fn json(message: &[u8], name: &str, field: &str) -> Result<Value, DecodeError> {
    parse_json(bytes_field(message, name, "Raw")?, field)
}

pub(super) fn parse_json(text: &[u8], field: &str) -> Result<Value, DecodeError> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(text).map_err(|e| content(field, e.to_string()))
}
