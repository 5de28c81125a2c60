//! The protobuf form of OpenAPI documents: the messages of gnostic, made from the JSON document by a table.
//!
//! Knows only message and field numbers. What a document says is decided elsewhere.

mod v2;
mod v3;

use serde_json::Value;

use super::schema::Flavour;

/// How a JSON value becomes a protobuf field.
#[derive(Clone, Copy)]
enum Kind {
    String,
    Bool,
    Integer,
    Number,
    /// The value's text in YAML, of which JSON is a form.
    Any,
    /// Version 3's `default`: a number, a boolean or a string; anything else is lost.
    Scalar,
    Message(&'static Message),
    /// One value per list item.
    Repeated(&'static Kind),
    /// The list, or the single value, inside a message of its own as field 1.
    Wrapped(&'static Kind),
    /// One `{name = 1, value = 2}` per key, inside a message of its own as field 1.
    Named(&'static Kind),
    /// An alternative of a `oneof` message, chosen by looking at the value.
    OneOf(fn(&Value) -> (u32, Kind)),
}

/// A message: its fields by JSON key, where `x-` keys go, and where other keys go.
struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    extensions: u32,
    /// Keys that are data (paths, status codes), each a `{name = 1, value = 2}`.
    keys: Option<(u32, Kind)>,
}

/// The document as a `Document` message of its version.
pub fn encode(document: &Value, flavour: Flavour) -> Vec<u8> {
    let mut out = Vec::new();
    let message = match flavour {
        Flavour::V2 => &v2::DOCUMENT,
        Flavour::V3 => &v3::DOCUMENT,
    };
    write_message(document, message, &mut out);
    out
}

fn write_message(value: &Value, message: &Message, out: &mut Vec<u8>) {
    let Some(map) = value.as_object() else { return };
    for (key, value) in map {
        if let Some((_, number, kind)) = message.fields.iter().find(|(name, _, _)| name == key) {
            write_field(*number, value, *kind, out);
        } else if message.extensions > 0 && key.starts_with("x-") {
            write_named(message.extensions, key, value, Kind::Any, out);
        } else if let Some((number, kind)) = message.keys {
            write_named(number, key, value, kind, out);
        }
    }
}

/// One field with all its values. Protobuf's defaults are not written.
fn write_field(number: u32, value: &Value, kind: Kind, out: &mut Vec<u8>) {
    match kind {
        Kind::String => {
            if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
                write_bytes(number, text.as_bytes(), out);
            }
        }
        Kind::Bool => {
            if value == &Value::Bool(true) {
                write_varint(u64::from(number) << 3, out);
                write_varint(1, out);
            }
        }
        Kind::Integer => {
            if let Some(n) = value.as_i64().filter(|n| *n != 0) {
                write_varint(u64::from(number) << 3, out);
                // Negative numbers are written as their two's complement.
                write_varint(n.cast_unsigned(), out);
            }
        }
        Kind::Number => {
            if let Some(n) = value.as_f64().filter(|n| *n != 0.0) {
                write_double(number, n, out);
            }
        }
        Kind::Any => write_nested(number, out, |out| write_any(value, out)),
        Kind::Scalar => write_nested(number, out, |out| write_scalar(value, out)),
        Kind::Message(message) => write_nested(number, out, |out| write_message(value, message, out)),
        Kind::Repeated(item) => {
            for v in value.as_array().into_iter().flatten() {
                write_item(number, v, *item, out);
            }
        }
        Kind::Wrapped(item) => write_nested(number, out, |out| match value {
            Value::Array(items) => items.iter().for_each(|v| write_item(1, v, *item, out)),
            single => write_item(1, single, *item, out),
        }),
        Kind::Named(item) => write_nested(number, out, |out| {
            for (key, v) in value.as_object().into_iter().flatten() {
                write_named(1, key, v, *item, out);
            }
        }),
        Kind::OneOf(choose) => {
            let (alternative, kind) = choose(value);
            write_nested(number, out, |out| write_item(alternative, value, kind, out));
        }
    }
}

/// A list item or an alternative, which is written even if it is empty.
fn write_item(number: u32, value: &Value, kind: Kind, out: &mut Vec<u8>) {
    match (kind, value) {
        (Kind::String, Value::String(text)) => write_bytes(number, text.as_bytes(), out),
        (Kind::Bool, Value::Bool(on)) => {
            write_varint(u64::from(number) << 3, out);
            write_varint(u64::from(*on), out);
        }
        _ => write_field(number, value, kind, out),
    }
}

fn write_named(number: u32, name: &str, value: &Value, kind: Kind, out: &mut Vec<u8>) {
    write_nested(number, out, |out| {
        write_bytes(1, name.as_bytes(), out);
        write_field(2, value, kind, out);
    });
}

/// `Any`: the text of the value, as field 2.
fn write_any(value: &Value, out: &mut Vec<u8>) {
    write_bytes(2, format!("{value}\n").as_bytes(), out);
}

fn write_scalar(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(n) => write_double(1, n.as_f64().unwrap_or_default(), out),
        Value::Bool(_) => write_item(2, value, Kind::Bool, out),
        Value::String(_) => write_item(3, value, Kind::String, out),
        _ => {}
    }
}

fn write_nested(number: u32, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    write_bytes(number, &inner, out);
}

fn write_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | 2, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn write_double(number: u32, value: f64, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

const STRINGS: Kind = Kind::Repeated(&Kind::String);
const SECURITY: Kind =
    Kind::Repeated(&Kind::Message(&Message { fields: &[], extensions: 0, keys: Some((1, Kind::Wrapped(&Kind::String))) }));

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_gnostics_numbers() {
        let v2 = json!({"swagger": "2.0", "definitions": {"A": {"type": "object", "x-kubernetes-a": true}}});
        // definitions = 9 { additional_properties = 1 { name = 1, value = 2 { type = 22 { value = 1 }, vendor_extension = 31 } } }
        let mut schema = b"\xb2\x01\x08\x0a\x06object".to_vec();
        // The text of `Any` ends with a newline.
        let text = b"\x12\x05true\n";
        schema.extend([b"\xfa\x01\x19\x0a\x0ex-kubernetes-a\x12\x07".as_slice(), text].concat());
        let mut named = b"\x0a\x01A\x12".to_vec();
        named.push(schema.len() as u8);
        named.extend(&schema);
        let mut expected = b"\x0a\x032.0\x4a".to_vec();
        expected.extend([named.len() as u8 + 2, 0x0a, named.len() as u8]);
        expected.extend(&named);
        assert_eq!(encode(&v2, Flavour::V2), expected);
    }

    #[test]
    fn version_3_tells_references_and_defaults_apart() {
        let v3 = json!({"components": {"schemas": {"A": {"$ref": "b"}, "B": {"default": "TCP"}}}});
        let expected =
            b"\x2a\x1f\x0a\x1d\x0a\x0a\x0a\x01A\x12\x05\x12\x03\x0a\x01b\x0a\x0f\x0a\x01B\x12\x0a\x0a\x08\x8a\x02\x05\x1a\x03TCP";
        assert_eq!(encode(&v3, Flavour::V3), expected);
    }
}
