//! What storage must know about a resource to keep it.
//!
//! Owns the description ([`ResourceSpec`]) and the codec's interface. It never knows a particular kind.

use std::borrow::Cow;
use std::sync::Arc;

use apimachinery::schema::embedded::Place;
use bytes::Bytes;
use serde_json::Value;

use super::encrypted::Kind;

/// The order in which an object's fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOrder {
    /// Built-in types: as the Go struct declares them.
    Declared,
    /// Custom resources: by name.
    Sorted,
}

impl FieldOrder {
    /// Whether a member of `metadata` comes after `resourceVersion`.
    pub(super) fn follows_resource_version(self, member: &str) -> bool {
        match self {
            FieldOrder::Declared => !matches!(member, "name" | "generateName" | "namespace" | "selfLink" | "uid"),
            FieldOrder::Sorted => member > "resourceVersion",
        }
    }
}

/// Reads the value that selectors compare; empty for an absent field.
pub type FieldValue = Arc<dyn for<'a> Fn(&'a Value) -> Cow<'a, str> + Send + Sync>;

/// A field that selectors can name beyond `metadata.name` and `metadata.namespace`.
#[derive(Clone)]
pub struct SelectableField {
    /// Such as `spec.nodeName`.
    pub name: Arc<str>,
    pub value: FieldValue,
}

/// Why stored bytes could not be understood, or a value not be stored.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub String);

/// Between an object's JSON and what lies in the store: upstream stores protobuf for built-in types and JSON for custom ones,
/// possibly encrypted.
pub trait Codec: Send + Sync + 'static {
    /// `value` and `json` are the same object in the storage version, without a revision; with the texts of embedded objects.
    fn encode(&self, value: &Value, json: &Bytes) -> Result<Bytes, CodecError>;

    /// The object in the storage version, whatever version the bytes hold. Its revision is ignored.
    fn decode(&self, stored: &Bytes) -> Result<Value, CodecError>;

    /// Whether the bytes are of the version that is written now. An update that changes nothing else still writes what is not.
    fn is_current(&self, _stored: &Bytes) -> bool {
        true
    }
}

/// JSON as it is. What the embedded store always uses, and etcd for custom resources.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonCodec;

impl Codec for JsonCodec {
    fn encode(&self, _value: &Value, json: &Bytes) -> Result<Bytes, CodecError> {
        Ok(json.clone())
    }

    fn decode(&self, stored: &Bytes) -> Result<Value, CodecError> {
        serde_json::from_slice(stored).map_err(|e| CodecError(e.to_string()))
    }
}

/// A resource as storage sees it. Two API versions, or two groups that share their objects, are one resource here.
#[derive(Clone)]
pub struct ResourceSpec {
    /// See [`super::key::prefix`].
    pub prefix: Arc<str>,
    /// As it is named where ciphers are configured.
    pub kind: Kind,
    pub namespaced: bool,
    pub order: FieldOrder,
    pub fields: Vec<SelectableField>,
    /// Where objects embed others.
    pub embedded: Arc<[Place]>,
    pub codec: Arc<dyn Codec>,
}

impl ResourceSpec {
    /// A resource stored as JSON, without selectable fields.
    pub fn json(prefix: &str, namespaced: bool, order: FieldOrder) -> ResourceSpec {
        let kind = Kind { group: "".into(), resource: prefix.into() };
        let (prefix, codec) = (prefix.into(), Arc::new(JsonCodec));
        ResourceSpec { prefix, kind, namespaced, order, fields: Vec::new(), embedded: Arc::default(), codec }
    }
}
