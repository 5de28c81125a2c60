//! What built-in objects look like in an etcd that upstream can read too.
//!
//! Owns the choice between protobuf and JSON and the version that is written: as upstream has it, protobuf envelopes for
//! built-in kinds, JSON for definitions of custom resources and API services. Reads whatever of the two is there, in any
//! version that this server can turn into the storage version. Custom resources are JSON as it is and need none of this, and so
//! does the embedded store.

mod definitions;

use std::sync::Arc;

use apimachinery::protobuf::{self, envelope};
use apimachinery::schema::canonical::canonicalize;
use apimachinery::schema::defaults::{Hooks, apply_defaults};
use apimachinery::schema::{TypeId, decode};
use bytes::Bytes;
use serde_json::Value;

use crate::catalog::{Catalog, Gvk, Resource, Stored};
use crate::crd::resource::is_of_version;
use crate::discovery::builtin::stored_version;
use crate::endpoints::body::set_type_meta;
use crate::endpoints::convert;
use crate::storage::{Codec, CodecError};

/// The groups whose objects upstream stores as JSON.
const JSON_GROUPS: &[&str] = &["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// The codec of one stored resource in an etcd.
pub struct StoredForm {
    stored: Arc<Stored>,
    hooks: Arc<Hooks>,
    json: bool,
    /// The version in the stored bytes, which may be older than the one in memory.
    written: Gvk,
    /// How the written version differs from the one in memory, if it does in more than its name.
    reshape: Option<Reshape>,
    others: Vec<Other>,
}

/// The way from the version in memory to the one written, and back.
#[derive(Clone, Copy)]
struct Reshape {
    to_written: fn(Value) -> Value,
    from_written: fn(Value) -> Value,
}

/// A version that is never written but may have been, by another configuration.
struct Other {
    api_version: String,
    type_id: TypeId,
    to_storage: fn(Value) -> Value,
}

impl StoredForm {
    /// The codec of a stored resource of the catalog.
    pub fn of(catalog: &Catalog, stored: &Arc<Stored>) -> StoredForm {
        let served = || catalog.iter().filter(|r| Arc::ptr_eq(&r.stored, stored));
        let version = stored_version(&stored.gvk.group, &stored.gvk.kind).unwrap_or(&stored.gvk.version);
        let reshape = (&*stored.gvk.kind == "CustomResourceDefinition" && version == definitions::VERSION)
            .then_some(Reshape { to_written: definitions::to_v1beta1, from_written: definitions::from_v1beta1 });
        let other = |r: &Arc<Resource>| {
            let to_storage = r.conversion?.to_storage;
            Some(Other { api_version: r.api_version(), type_id: r.type_id, to_storage })
        };
        StoredForm {
            hooks: served().next().map(|r| r.hooks.clone()).expect("only what is served is stored"),
            json: JSON_GROUPS.contains(&&*stored.gvk.group),
            written: Gvk::new(&stored.gvk.group, version, &stored.gvk.kind),
            reshape,
            others: served().filter_map(other).collect(),
            stored: stored.clone(),
        }
    }

    fn read(&self, stored: &Bytes) -> Result<Value, CodecError> {
        let source = Source::open(stored)?;
        let kind = source.kind();
        if kind != &*self.stored.gvk.kind {
            return Err(CodecError(format!("a {kind} lies where {} belongs", self.stored.gvk.kind)));
        }
        let found = source.api_version().to_owned();
        let types = &self.stored.types;
        let mut value = if let Some(reshape) = self.reshape.filter(|_| found == self.written.api_version()) {
            // The written version has no schema; what is in memory has.
            let mut value = (reshape.from_written)(source.raw()?);
            lenient(types, self.stored.type_id, &mut value)?;
            value
        } else if found == self.stored.gvk.api_version() || found == self.written.api_version() {
            source.typed(types, self.stored.type_id)?
        } else if let Some(other) = self.others.iter().find(|o| o.api_version == found) {
            let mut value = source.typed(types, other.type_id)?;
            apply_defaults(types, &self.hooks, other.type_id, &mut value);
            (other.to_storage)(value)
        } else {
            return Err(CodecError(format!("no kind {kind:?} is registered for version {found:?}")));
        };
        // What older servers have stored lacks the defaults of today.
        apply_defaults(types, &self.hooks, self.stored.type_id, &mut value);
        set_type_meta(&mut value, &self.stored.gvk);
        canonicalize(types, self.stored.type_id, &mut value, convert::empties(&self.stored));
        Ok(value)
    }
}

impl Codec for StoredForm {
    fn encode(&self, value: &Value, json: &Bytes) -> Result<Bytes, CodecError> {
        if self.json {
            let Some(reshape) = self.reshape else { return Ok(json.clone()) };
            let mut value = (reshape.to_written)(without_revision(value).unwrap_or_else(|| value.clone()));
            if let Some(map) = value.as_object_mut() {
                map.insert("apiVersion".to_owned(), Value::String(self.written.api_version()));
            }
            return serde_json::to_vec(&value).map(Bytes::from).map_err(|e| CodecError(e.to_string()));
        }
        let without = without_revision(value);
        let message = protobuf::builtin().encode(self.stored.type_id, without.as_ref().unwrap_or(value));
        let message = message.map_err(|e| CodecError(e.to_string()))?;
        Ok(Bytes::from(envelope::wrap(&self.written.api_version(), &self.written.kind, &message)))
    }

    fn decode(&self, stored: &Bytes) -> Result<Value, CodecError> {
        self.read(stored)
    }

    fn is_current(&self, stored: &Bytes) -> bool {
        let written = self.written.api_version();
        if !stored.starts_with(envelope::PREFIX) {
            return self.json && is_of_version(stored, &written);
        }
        !self.json && envelope::unwrap(stored).is_ok_and(|unknown| unknown.api_version == written)
    }
}

/// The object without its revision, which is the store's to tell; `None` if it has none.
fn without_revision(value: &Value) -> Option<Value> {
    value.get("metadata")?.get("resourceVersion")?;
    let mut value = value.clone();
    value.get_mut("metadata")?.as_object_mut()?.shift_remove("resourceVersion");
    Some(value)
}

/// Stored bytes, recognized but not understood yet.
enum Source<'b> {
    Protobuf(envelope::Unknown<'b>),
    Json(Value),
}

impl Source<'_> {
    fn open(stored: &Bytes) -> Result<Source<'_>, CodecError> {
        if stored.starts_with(envelope::PREFIX) {
            return envelope::unwrap(stored).map(Source::Protobuf).map_err(|e| CodecError(e.to_string()));
        }
        serde_json::from_slice(stored).map(Source::Json).map_err(|e| CodecError(e.to_string()))
    }

    fn api_version(&self) -> &str {
        match self {
            Source::Protobuf(unknown) => &unknown.api_version,
            Source::Json(value) => value.get("apiVersion").and_then(Value::as_str).unwrap_or_default(),
        }
    }

    fn kind(&self) -> &str {
        match self {
            Source::Protobuf(unknown) => &unknown.kind,
            Source::Json(value) => value.get("kind").and_then(Value::as_str).unwrap_or_default(),
        }
    }

    /// The tree of an object stored as JSON.
    fn raw(self) -> Result<Value, CodecError> {
        match self {
            Source::Json(value) => Ok(value),
            Source::Protobuf(unknown) => Err(CodecError(format!("{} {} is not read from protobuf", unknown.api_version, unknown.kind))),
        }
    }

    fn typed(self, types: &apimachinery::schema::Types, type_id: TypeId) -> Result<Value, CodecError> {
        match self {
            Source::Protobuf(unknown) => protobuf::builtin().decode_typed(type_id, &unknown).map_err(|e| CodecError(e.to_string())),
            Source::Json(mut value) => {
                lenient(types, type_id, &mut value)?;
                Ok(value)
            }
        }
    }
}

/// Takes a tree as a type's; fields that the type does not have are dropped, as upstream drops them.
fn lenient(types: &apimachinery::schema::Types, type_id: TypeId, value: &mut Value) -> Result<(), CodecError> {
    decode::decode(types, type_id, value).map(|_unknown| ()).map_err(|e| CodecError(e.to_string()))
}

#[cfg(test)]
mod tests;
