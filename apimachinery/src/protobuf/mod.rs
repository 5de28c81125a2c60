//! Kubernetes protobuf to and from JSON values, driven by the schema table.
//!
//! Owns the message forms of the API types, the `k8s\0` envelope, lists made of encoded items, and the frames of
//! watch streams. Bytes are those that the generated Go marshalers write. Never defaults, prunes or validates: the
//! value given to [`Protobuf::encode`] is canonical already, and what it does not know it does not write.

mod decode;
mod encode;
pub mod envelope;
mod plan;
mod read;
mod special;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::LazyLock;

use serde_json::Value;

use crate::schema::{self, TypeId, Types};
use plan::Plan;

/// How deeply messages may nest; embedded JSON is bounded by its own parser. Keeps the stack bounded on any input.
pub const MAX_DEPTH: usize = 192;

/// The transcoder of one set of types.
#[derive(Debug)]
pub struct Protobuf<'t> {
    types: &'t Types,
    plans: Vec<Plan>,
    /// `JSONSchemaProps`, which the `JSONSchemaPropsOr…` unions refer to by name.
    json_schema: Option<TypeId>,
}

static BUILTIN: LazyLock<Protobuf<'static>> = LazyLock::new(|| Protobuf::new(schema::builtin()));

/// The transcoder of the built-in types.
pub fn builtin() -> &'static Protobuf<'static> {
    &BUILTIN
}

/// A value that cannot be written as a message of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("object *{0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message")]
    NotMarshalable(String),
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    NotRegistered { api_version: String, kind: String },
    #[error("field {field}: cannot write {found} as {expected}")]
    Mismatch { field: String, found: String, expected: &'static str },
    #[error("exceeded max depth")]
    TooDeep,
}

/// Bytes that are not a message of their type. The texts are those of the Go unmarshalers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("unexpected EOF")]
    UnexpectedEof,
    #[error("proto: integer overflow")]
    IntOverflow,
    #[error("proto: negative length found during unmarshaling")]
    InvalidLength,
    #[error("proto: unexpected end of group")]
    UnexpectedEndOfGroup,
    #[error("proto: illegal wireType {0}")]
    IllegalWireType(u8),
    #[error("proto: {message}: wiretype end group for non-group")]
    EndGroup { message: String },
    #[error("proto: {message}: illegal tag {number} (wire type {wire})")]
    IllegalTag { message: String, number: i32, wire: u64 },
    #[error("proto: wrong wireType = {wire_type} for field {field}")]
    WrongWireType { wire_type: u8, field: String },
    #[error("empty data")]
    EmptyData,
    #[error("empty body")]
    EmptyBody,
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    NotRegistered { api_version: String, kind: String },
    #[error("object *{0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message")]
    NotMarshalable(String),
    #[error("{0}")]
    Quantity(String),
    #[error("field {field}: {problem}")]
    Content { field: String, problem: String },
    #[error("exceeded max depth")]
    TooDeep,
}

impl<'t> Protobuf<'t> {
    /// Prepares the messages of all types in the set.
    pub fn new(types: &'t Types) -> Protobuf<'t> {
        Protobuf {
            types,
            plans: types.iter().map(|(_, ty)| Plan::new(ty)).collect(),
            json_schema: types.lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"),
        }
    }

    /// The type of a kind, by `apiVersion` and `kind` as objects carry them.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<TypeId> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.types.by_kind(group, version, kind)
    }

    /// Whether the type has a message form; Tables, for one, have none.
    pub fn is_marshalable(&self, id: TypeId) -> bool {
        self.plan(id).marshalable
    }

    /// The message of `value`, without an envelope. `apiVersion` and `kind` are not part of it.
    pub fn encode(&self, id: TypeId, value: &Value) -> Result<Vec<u8>, EncodeError> {
        encode::encode(self, id, value)
    }

    /// The object of a message, without `apiVersion` and `kind`, in canonical form: fields in declaration order, zeros
    /// dropped where the Go type says `omitempty`.
    pub fn decode(&self, id: TypeId, message: &[u8]) -> Result<Value, DecodeError> {
        decode::decode(self, id, message, None)
    }

    /// The `k8s\0` form of an object; its type is that of its `apiVersion` and `kind`.
    pub fn encode_object(&self, object: &Value) -> Result<Vec<u8>, EncodeError> {
        let text = |name| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let id = self
            .kind(api_version, kind)
            .ok_or_else(|| EncodeError::NotRegistered { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
        Ok(envelope::wrap(api_version, kind, &self.encode(id, object)?))
    }

    /// The object in a `k8s\0` form, with the envelope's `apiVersion` and `kind`.
    pub fn decode_object(&self, data: &[u8]) -> Result<Value, DecodeError> {
        let unknown = envelope::unwrap(data)?;
        let id = self.kind(&unknown.api_version, &unknown.kind).ok_or_else(|| DecodeError::NotRegistered {
            api_version: unknown.api_version.clone().into_owned(),
            kind: unknown.kind.clone().into_owned(),
        })?;
        self.decode_typed(id, &unknown)
    }

    /// The object in an opened envelope, as the type the caller expects.
    pub fn decode_typed(&self, id: TypeId, unknown: &envelope::Unknown<'_>) -> Result<Value, DecodeError> {
        decode::decode(self, id, unknown.raw, Some((&unknown.api_version, &unknown.kind)))
    }

    /// The Go type as errors print it, `v1.Table`: the version is the last but one part of a definition's name.
    fn go_type(&self, id: TypeId) -> String {
        let ty = self.types.get(id);
        let version = ty.name.rsplit('.').nth(1).unwrap_or_default();
        format!("{version}.{}", ty.go_name)
    }

    fn plan(&self, id: TypeId) -> &Plan {
        &self.plans[id.0 as usize]
    }
}
