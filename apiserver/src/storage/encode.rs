//! From a value tree to the bytes of an object that has no revision yet, and the place where the revision goes.
//!
//! Owns the one encoding of a write: what is made here is committed, answered, cached and sent to every watcher.
//! It never decides what is in an object; the value is canonical already.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use apimachinery::schema::embedded::{self, Place};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

use super::intern::Interner;
use super::object::{Index, Labels};
use super::resource::{FieldOrder, SelectableField};
use super::store::Revision;

/// Why a value cannot be an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the object has no metadata")]
    NoMetadata,
    #[error("the object has no name")]
    NoName,
    #[error("the object's namespace does not fit its resource")]
    WrongScope,
    #[error("the object is larger than can be stored")]
    TooLarge,
    #[error("the object cannot be written: {0}")]
    Write(String),
}

/// An object before its write: encoded and indexed, without a revision.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub namespace: Box<str>,
    pub name: Box<str>,
    /// The object without `metadata.resourceVersion`.
    pub json: Bytes,
    /// Where in `json` the member goes. A member of `metadata` always precedes it.
    at: u32,
    /// As `json`, with the texts that embedded objects were sent with; `None` where there are none.
    pub(super) with_texts: Option<Box<Bytes>>,
    pub index: Arc<Index>,
}

/// What every resource needs to prepare its objects.
pub(super) struct Encoder<'a> {
    pub order: FieldOrder,
    pub fields: &'a [SelectableField],
    pub embedded: &'a [Place],
    pub interner: &'a Interner,
}

impl Encoder<'_> {
    /// Encodes and indexes a value. Its `metadata.resourceVersion`, if any, is left out.
    pub fn prepare(&self, value: &Value) -> Result<Prepared, EncodeError> {
        let Some(shown) = embedded::without_texts(self.embedded, value) else { return self.encode(value) };
        let with_texts = self.encode(value)?.json;
        Ok(Prepared { with_texts: Some(Box::new(with_texts)), ..self.encode(&shown)? })
    }

    fn encode(&self, value: &Value) -> Result<Prepared, EncodeError> {
        let object = value.as_object().ok_or(EncodeError::NoMetadata)?;
        let metadata = object.get("metadata").and_then(Value::as_object).ok_or(EncodeError::NoMetadata)?;
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or("");
        if text("name").is_empty() {
            return Err(EncodeError::NoName);
        }
        let mut out = Vec::with_capacity(1024);
        let mut at = 0;
        out.push(b'{');
        for (i, (key, member)) in object.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write(&mut out, key)?;
            out.push(b':');
            if key == "metadata" {
                at = self.write_metadata(&mut out, metadata)?;
            } else {
                write(&mut out, member)?;
            }
        }
        out.push(b'}');
        // The bytes live as long as the object does, so the spare capacity goes back at once.
        out.shrink_to_fit();
        Ok(Prepared {
            namespace: text("namespace").into(),
            name: text("name").into(),
            json: Bytes::from(out),
            at: u32::try_from(at).map_err(|_| EncodeError::TooLarge)?,
            with_texts: None,
            index: Arc::new(self.index(value, metadata)),
        })
    }

    fn write_metadata(&self, out: &mut Vec<u8>, metadata: &serde_json::Map<String, Value>) -> Result<usize, EncodeError> {
        let mut at = None;
        let mut first = true;
        out.push(b'{');
        for (key, member) in metadata {
            if key == "resourceVersion" {
                continue;
            }
            // The revision goes before the first member that follows it, but never before all others: `name` is always
            // there, and precedes it in either order.
            if at.is_none() && !first && self.order.follows_resource_version(key) {
                at = Some(out.len());
            }
            if !first {
                out.push(b',');
            }
            first = false;
            write(out, key)?;
            out.push(b':');
            write(out, member)?;
        }
        let at = at.unwrap_or(out.len());
        out.push(b'}');
        Ok(at)
    }

    fn index(&self, value: &Value, metadata: &serde_json::Map<String, Value>) -> Index {
        let labels = metadata.get("labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten().filter_map(|(k, v)| Some((self.interner.intern(k), self.interner.intern(v.as_str()?))));
        Index {
            uid: metadata.get("uid").and_then(Value::as_str).unwrap_or("").into(),
            labels: Labels::new(labels.collect()),
            fields: self.fields.iter().map(|f| self.interner.intern(&(f.value)(value))).collect(),
        }
    }
}

impl Prepared {
    /// What a codec is given: the JSON that nothing is missing from.
    pub(super) fn whole(&self) -> &Bytes {
        self.with_texts.as_deref().unwrap_or(&self.json)
    }

    /// The place and length of the revision's digits, and the bytes with it.
    pub(super) fn splice(&self, revision: Revision) -> (Bytes, u32, u8) {
        splice(&self.json, self.at, revision)
    }
}

/// Puts `,"resourceVersion":"<revision>"` at an offset of an object's bytes: the bytes, the place of the digits and their number.
pub fn splice(json: &[u8], at: u32, revision: Revision) -> (Bytes, u32, u8) {
    const LEAD: &str = ",\"resourceVersion\":\"";
    let mut digits = String::with_capacity(20);
    // Writing to a String cannot fail.
    let _ = write!(digits, "{revision}");
    let at = at as usize;
    let mut out = Vec::with_capacity(json.len() + LEAD.len() + digits.len() + 1);
    out.extend_from_slice(&json[..at]);
    out.extend_from_slice(LEAD.as_bytes());
    let digits_at = out.len();
    out.extend_from_slice(digits.as_bytes());
    out.push(b'"');
    out.extend_from_slice(&json[at..]);
    (Bytes::from(out), digits_at as u32, digits.len() as u8)
}

fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    let mut serializer = serde_json::Serializer::with_formatter(out, GoFormatter);
    value.serialize(&mut serializer).map_err(|e| EncodeError::Write(e.to_string()))
}

/// Compact JSON with the characters escaped that Go's encoder escapes for the sake of HTML.
struct GoFormatter;

/// The first byte of U+2028 and U+2029 (and of others).
const SEPARATOR_LEAD: u8 = 0xe2;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        // Bytes, not characters: almost nothing has to be escaped, and all but the two separators are ASCII.
        while let Some(at) = rest.bytes().position(|b| matches!(b, b'<' | b'>' | b'&' | SEPARATOR_LEAD)) {
            let c = rest[at..].chars().next().expect("a lead byte starts a character");
            writer.write_all(&rest.as_bytes()[..at])?;
            match c {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => write!(writer, "\\u{:04x}", c as u32)?,
                other => writer.write_all(other.encode_utf8(&mut [0; 4]).as_bytes())?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spliced(order: FieldOrder, value: &Value) -> String {
        let interner = Interner::default();
        let prepared = Encoder { order, fields: &[], embedded: &[], interner: &interner }.prepare(value).unwrap();
        let (bytes, at, len) = prepared.splice(Revision(42));
        assert_eq!(&bytes[at as usize..at as usize + len as usize], b"42");
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_revision_lands_where_the_canonical_order_has_it() {
        let typed = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 1}, "spec": {}});
        assert_eq!(
            spliced(FieldOrder::Declared, &typed),
            r#"{"kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"42","generation":1},"spec":{}}"#
        );
        let sorted = json!({"metadata": {"generation": 1, "name": "a", "ownerReferences": [], "uid": "u"}});
        assert_eq!(
            spliced(FieldOrder::Sorted, &sorted),
            r#"{"metadata":{"generation":1,"name":"a","ownerReferences":[],"resourceVersion":"42","uid":"u"}}"#
        );
        let bare = json!({"metadata": {"name": "a"}});
        assert_eq!(spliced(FieldOrder::Declared, &bare), r#"{"metadata":{"name":"a","resourceVersion":"42"}}"#);
        let disordered = json!({"metadata": {"uid": "u", "name": "a"}});
        assert_eq!(spliced(FieldOrder::Sorted, &disordered), r#"{"metadata":{"uid":"u","name":"a","resourceVersion":"42"}}"#);
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let value = json!({"metadata": {"name": "a"}, "data": {"<&>": "x\u{2028}€é\n\"</p>"}});
        assert_eq!(
            spliced(FieldOrder::Declared, &value),
            "{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"42\"},\"data\":{\"\\u003c\\u0026\\u003e\":\"x\\u2028€é\\n\\\"\\u003c/p\\u003e\"}}"
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let interner = Interner::default();
        let encoder = Encoder { order: FieldOrder::Declared, fields: &[], embedded: &[], interner: &interner };
        assert_eq!(encoder.prepare(&json!([])).unwrap_err(), EncodeError::NoMetadata);
        assert_eq!(encoder.prepare(&json!({"metadata": []})).unwrap_err(), EncodeError::NoMetadata);
        assert_eq!(encoder.prepare(&json!({"metadata": {"name": ""}})).unwrap_err(), EncodeError::NoName);
    }
}
