//! An object at rest: immutable bytes with a small parsed index beside them.
//!
//! Owns the bytes of one revision of one object. They are the JSON of the storage version, complete with
//! `metadata.resourceVersion`, so that GET, LIST and WATCH copy them out as they are. Nothing here changes after
//! construction except the other encodings, which are made when first asked for and may be dropped at any time.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use super::encode::{Prepared, splice};
use super::store::Revision;

/// One revision of one object.
#[derive(Debug)]
pub struct Object {
    /// `namespace/name`, or `name` for cluster-scoped resources.
    key: Arc<str>,
    revision: Revision,
    json: Bytes,
    /// Where the digits of the revision are in `json`.
    digits_at: u32,
    digits: u8,
    /// The stored bytes are of a version that is not written any more.
    outdated: bool,
    index: Arc<Index>,
    /// See [`Prepared`]: without a revision.
    with_texts: Option<Box<Bytes>>,
    encodings: Mutex<Vec<Encoding>>,
}

/// What selectors ask about.
#[derive(Debug)]
pub struct Index {
    pub uid: Box<str>,
    pub labels: Labels,
    /// The values of the resource's selectable fields, in the resource's order.
    pub fields: Box<[Arc<str>]>,
}

/// Labels, sorted by key; the strings are shared between objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    pub fn new(mut pairs: Vec<(Arc<str>, Arc<str>)>) -> Labels {
        pairs.sort_unstable();
        Labels(pairs.into_boxed_slice())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
}

/// Names an encoding other than the storage version's JSON: a media type, an API version, a projection.
/// The numbers are given by whoever encodes; equal numbers must mean equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncodingId(pub u32);

#[derive(Debug)]
struct Encoding {
    id: EncodingId,
    made: Made,
    /// Asked for since the last sweep.
    used: bool,
}

#[derive(Debug)]
enum Made {
    Bytes(Bytes),
    /// The whole object in another version, which others had to be asked for.
    Version(Arc<Object>),
}

impl Object {
    /// The object that a write at this revision makes. `key` is `namespace/name` or `name`.
    pub fn new(key: Arc<str>, prepared: &Prepared, revision: Revision) -> Object {
        let (json, digits_at, digits) = prepared.splice(revision);
        let with_texts = prepared.with_texts.clone();
        let index = prepared.index.clone();
        Object { key, revision, json, digits_at, digits, outdated: false, index, with_texts, encodings: Mutex::default() }
    }

    /// An object for tests.
    #[cfg(test)]
    pub fn of_value(value: &Value, revision: u64) -> Object {
        let interner = super::intern::Interner::default();
        let encoder = super::encode::Encoder { order: super::FieldOrder::Declared, fields: &[], embedded: &[], interner: &interner };
        let prepared = encoder.prepare(value).expect("a value that can be an object");
        Object::new(prepared.name.as_ref().into(), &prepared, Revision(revision))
    }

    /// The same object under another revision: how a deletion, and a change that moves the object out of a watcher's
    /// sight, are told.
    pub fn at_revision(&self, revision: Revision) -> Object {
        let (json, at) = self.without_revision();
        let (json, digits_at, digits) = splice(&json, at, revision);
        let with_texts = self.with_texts.clone();
        Object {
            key: self.key.clone(),
            revision,
            json,
            digits_at,
            digits,
            outdated: self.outdated,
            index: self.index.clone(),
            with_texts,
            encodings: Mutex::default(),
        }
    }

    /// Marks an object whose stored bytes are of a version that is not written any more.
    pub(super) fn outdated(mut self) -> Object {
        self.outdated = true;
        self
    }

    /// Whether this object's bytes, apart from the revision, are those of a write to be, in the store too.
    pub(super) fn is_same_as(&self, prepared: &Prepared) -> bool {
        let (start, end) = self.member();
        let (head, tail) = (&self.json[..start], &self.json[end..]);
        !self.outdated
            && prepared.json.len() == head.len() + tail.len()
            && prepared.json.starts_with(head)
            && prepared.json.ends_with(tail)
            && prepared.with_texts == self.with_texts
    }

    /// `,"resourceVersion":"…"`, from its comma to its closing quote.
    fn member(&self) -> (usize, usize) {
        let lead = ",\"resourceVersion\":\"".len();
        (self.digits_at as usize - lead, self.digits_at as usize + self.digits as usize + 1)
    }

    fn without_revision(&self) -> (Vec<u8>, u32) {
        let (start, end) = self.member();
        let mut out = Vec::with_capacity(self.json.len());
        out.extend_from_slice(&self.json[..start]);
        out.extend_from_slice(&self.json[end..]);
        (out, start as u32)
    }

    /// `namespace/name`, or `name` for cluster-scoped resources: the order of lists.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Empty for cluster-scoped resources.
    pub fn namespace(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&*self.key, |(_, name)| name)
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn uid(&self) -> &str {
        &self.index.uid
    }

    pub fn labels(&self) -> &Labels {
        &self.index.labels
    }

    /// The value of the resource's n-th selectable field.
    pub fn field(&self, n: usize) -> Option<&Arc<str>> {
        self.index.fields.get(n)
    }

    /// The JSON of the storage version, without a newline at its end.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The object as a tree, parsed anew at each call.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("the bytes were written from a value")
    }

    /// Whether objects are embedded whose text is kept.
    pub fn has_texts(&self) -> bool {
        self.with_texts.is_some()
    }

    /// As [`Object::value`], with the texts that embedded objects were sent with (see [`apimachinery::schema::embedded`]).
    pub fn value_with_texts(&self) -> Value {
        let Some(whole) = &self.with_texts else { return self.value() };
        let mut value: Value = serde_json::from_slice(whole).expect("the bytes were written from a value");
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        }
        value
    }

    /// Another encoding of this object, made by `make` unless it is still here. Those who ask for any
    /// encoding of the same object meanwhile wait, so that it is made once; `make` must not ask the same object itself.
    pub fn encoding<E>(&self, id: EncodingId, make: impl FnOnce(&Object) -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut encodings = self.encodings.lock();
        for known in encodings.iter_mut().filter(|e| e.id == id) {
            if let Made::Bytes(bytes) = &known.made {
                known.used = true;
                return Ok(bytes.clone());
            }
        }
        let bytes = make(self)?;
        encodings.push(Encoding { id, made: Made::Bytes(bytes.clone()), used: true });
        Ok(bytes)
    }

    /// This object in another version, if somebody has left it here.
    pub fn version(&self, id: EncodingId) -> Option<Arc<Object>> {
        let mut encodings = self.encodings.lock();
        encodings.iter_mut().filter(|e| e.id == id).find_map(|known| match &known.made {
            Made::Version(object) => {
                known.used = true;
                Some(object.clone())
            }
            Made::Bytes(_) => None,
        })
    }

    /// Leaves this object in another version for those who ask next.
    pub fn keep_version(&self, id: EncodingId, object: Arc<Object>) {
        let mut encodings = self.encodings.lock();
        encodings.retain(|e| e.id != id || matches!(e.made, Made::Bytes(_)));
        encodings.push(Encoding { id, made: Made::Version(object), used: true });
    }

    /// The same object in another version, prepared from it.
    pub fn in_version(&self, prepared: &Prepared) -> Object {
        Object::new(self.key.clone(), prepared, self.revision)
    }

    /// Drops the encodings that nobody has asked for since the last sweep.
    pub fn sweep_encodings(&self) {
        let mut encodings = self.encodings.lock();
        if encodings.is_empty() {
            return;
        }
        encodings.retain_mut(|e| std::mem::take(&mut e.used));
        for kept in encodings.iter() {
            if let Made::Version(object) = &kept.made {
                object.sweep_encodings();
            }
        }
        encodings.shrink_to_fit();
    }
}

#[cfg(test)]
impl Object {
    /// An object for tests of others, without a store.
    pub fn sample(key: &str, value: &Value, revision: u64) -> Object {
        let (order, interner) = (super::FieldOrder::Sorted, super::intern::Interner::default());
        let encoder = super::encode::Encoder { order, fields: &[], embedded: &[], interner: &interner };
        Object::new(key.into(), &encoder.prepare(value).expect("a sample is an object"), Revision(revision))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::encode::Encoder;
    use super::super::intern::Interner;
    use apimachinery::schema::embedded::{self, Step};

    use super::super::resource::{Codec, FieldOrder, JsonCodec};
    use super::*;

    fn object(value: &Value, revision: u64) -> (Object, Prepared) {
        let interner = Interner::default();
        let prepared = Encoder { order: FieldOrder::Declared, fields: &[], embedded: &[], interner: &interner }.prepare(value).unwrap();
        (Object::new("ns/a".into(), &prepared, Revision(revision)), prepared)
    }

    #[test]
    fn an_object_moves_to_another_revision_byte_by_byte() {
        let (object, prepared) = object(&json!({"metadata": {"name": "a", "namespace": "ns", "generation": 3}, "x": [1]}), 9);
        assert!(object.is_same_as(&prepared));
        let moved = object.at_revision(Revision(1_000));
        assert_eq!(
            std::str::from_utf8(moved.json()).unwrap(),
            r#"{"metadata":{"name":"a","namespace":"ns","resourceVersion":"1000","generation":3},"x":[1]}"#
        );
        assert_eq!(moved.at_revision(Revision(9)).json(), object.json());
        assert_eq!((moved.namespace(), moved.name(), moved.revision()), ("ns", "a", Revision(1_000)));
    }

    #[test]
    fn what_is_stored_in_an_old_version_is_never_the_same_as_a_write() {
        let (current, prepared) = object(&json!({"metadata": {"name": "a"}}), 9);
        assert!(current.is_same_as(&prepared));
        assert!(!current.outdated().is_same_as(&prepared));
    }

    #[test]
    fn a_version_is_kept_until_nobody_asks_for_it() {
        let (stored, _) = object(&json!({"apiVersion": "g/v1", "metadata": {"name": "a"}, "n": 1}), 9);
        let (_, other) = object(&json!({"apiVersion": "g/v2", "metadata": {"name": "a"}, "m": 1}), 9);
        assert!(stored.version(EncodingId(4)).is_none());
        stored.keep_version(EncodingId(4), Arc::new(stored.in_version(&other)));
        let kept = stored.version(EncodingId(4)).unwrap();
        assert_eq!((kept.revision(), kept.value()["m"].as_i64()), (Revision(9), Some(1)));
        stored.sweep_encodings();
        stored.sweep_encodings();
        assert!(stored.version(EncodingId(4)).is_none());
    }

    #[test]
    fn a_changed_object_is_not_the_same() {
        let (before, _) = object(&json!({"metadata": {"name": "a"}, "x": "aa"}), 9);
        for other in [json!({"metadata": {"name": "a"}, "x": "ab"}), json!({"metadata": {"name": "a"}, "x": "a"})] {
            assert!(!before.is_same_as(&object(&other, 9).1), "{other}");
        }
    }

    #[test]
    fn the_text_of_an_embedded_object_is_at_rest_and_not_in_the_json() {
        let interner = Interner::default();
        let places = [vec![Step::Member("data".into())]];
        let encoder = Encoder { order: FieldOrder::Declared, fields: &[], embedded: &places, interner: &interner };
        let mut sent = json!({"metadata": {"name": "a"}, "data": {"x": 1}});
        embedded::keep_all(&places, &mut sent, br#"{"metadata": {"name": "a"}, "data": {"x": 1}}"#);
        let prepared = encoder.prepare(&sent).unwrap();
        let read = encoder.prepare(&JsonCodec.decode(prepared.whole()).unwrap()).unwrap();
        for prepared in [prepared, read] {
            let object = Object::new("a".into(), &prepared, Revision(9)).at_revision(Revision(10));
            assert_eq!(object.json(), &br#"{"metadata":{"name":"a","resourceVersion":"10"},"data":{"x":1}}"#[..]);
            assert_eq!(embedded::text(&object.value_with_texts()["data"]), Some(r#"{"x": 1}"#));
            assert_eq!(object.value_with_texts()["metadata"], object.value()["metadata"]);
            assert!(object.is_same_as(&prepared));
            let compact = encoder.prepare(&object.value()).unwrap();
            assert!(!object.is_same_as(&compact), "another text is another object");
        }
    }

    #[test]
    fn an_encoding_is_made_once_and_dropped_when_unused() {
        let (object, _) = object(&json!({"metadata": {"name": "a", "labels": {"b": "2", "a": "1"}}}), 9);
        assert_eq!(object.labels().get("b"), Some("2"));
        assert_eq!(object.labels().get("c"), None);
        let made = std::cell::Cell::new(0);
        let ask = || {
            object.encoding(EncodingId(1), |_| {
                made.set(made.get() + 1);
                Ok::<_, ()>(Bytes::from_static(b"k8s"))
            })
        };
        ask().unwrap();
        ask().unwrap();
        assert_eq!(made.get(), 1);
        object.sweep_encodings();
        ask().unwrap();
        assert_eq!(made.get(), 1, "used since it was made");
        object.sweep_encodings();
        object.sweep_encodings();
        ask().unwrap();
        assert_eq!(made.get(), 2);
    }
}
