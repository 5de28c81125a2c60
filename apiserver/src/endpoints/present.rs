//! Objects in the form that a client asked for: JSON, YAML or protobuf; whole, as metadata or as a Table.
//!
//! JSON of the stored version is copied from the object; every other form is made at most once per revision where it is worth keeping.

mod list;

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use apimachinery::protobuf::{self, envelope};
use apimachinery::status::Status;
use apimachinery::{json, yaml};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;

pub use self::list::ListMeta;
use super::convert;
use super::negotiate::{Encoding, Form, Transform};
use super::respond;
use crate::catalog::Resource;
use crate::registry::table::{self, IncludeObject, Shown};
use crate::registry::version_annotations;
use crate::storage::{EncodingId, Object};

/// Presents objects of one resource to one client.
pub struct Presenter<'a> {
    pub resource: &'a Arc<Resource>,
    pub form: &'a Form,
    /// Of Tables; from `includeObject`.
    pub include_object: IncludeObject,
    pub now: Timestamp,
}

/// `includeObject` of a Table request; other forms do not read it.
pub fn include_object(form: &Form, text: &str) -> Result<IncludeObject, Status> {
    if !matches!(form.transform, Transform::Table(_)) {
        return Ok(IncludeObject::Metadata);
    }
    match text {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
            apimachinery::field::quote(other)
        ))),
    }
}

impl Presenter<'_> {
    /// One stored object as a response.
    pub fn object(&self, code: StatusCode, object: &Object, request: &http::HeaderMap) -> Result<Response<Body>, Status> {
        let body = self.object_bytes(object)?;
        Ok(respond::compress(respond::bytes(code, self.form.encoding.media_type(), body.clone()), request, &body))
    }

    /// The object's type in the reference's code, which its refusals name.
    fn internal_name(&self) -> String {
        let stored = &self.resource.stored.gvk;
        let package = stored.group.split('.').next().filter(|p| !p.is_empty()).unwrap_or("core");
        format!("{package}.{}", stored.kind)
    }

    /// Metadata of an object is not metadata of a list.
    fn refuse_list_form(&self) -> Result<(), Status> {
        match self.form.transform {
            Transform::MetadataList(_) => Err(Status::no_such_form(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
                self.internal_name()
            ))),
            _ => Ok(()),
        }
    }

    /// One stored object's body; JSON ends with a newline.
    pub fn object_bytes(&self, object: &Object) -> Result<Bytes, Status> {
        self.refuse_list_form()?;
        let plain = self.form.transform == Transform::None && !self.form.pretty;
        match self.form.encoding {
            Encoding::Json if plain => {
                let text = self.json(object);
                let mut out = BytesMut::with_capacity(text.len() + 1);
                out.extend_from_slice(&text);
                out.extend_from_slice(b"\n");
                Ok(out.freeze())
            }
            Encoding::Protobuf if self.resource.custom.is_none() && !self.leaves_out_annotations() => self.enveloped(object),
            _ => self.value_bytes(&self.shown(object), object.revision().to_string().as_str()),
        }
    }

    /// An object that is not stored (a dry run, a review) as a response; `value` is in the resource's version.
    pub fn value(&self, code: StatusCode, value: &Value) -> Result<Response<Body>, Status> {
        let version = super::meta::text(value, "resourceVersion").to_owned();
        let mut value = Cow::Borrowed(value);
        if self.leaves_out_annotations() {
            self.leave_out_annotations(value.to_mut());
        }
        Ok(respond::bytes(code, self.form.encoding.media_type(), self.value_bytes(&value, &version)?))
    }

    /// Whether the form is of metadata, from which version annotations are left out.
    fn leaves_out_annotations(&self) -> bool {
        let of_metadata = match self.form.transform {
            Transform::None => false,
            Transform::Table(_) => self.include_object == IncludeObject::Metadata,
            Transform::Metadata(_) | Transform::MetadataList(_) => true,
        };
        of_metadata && !version_annotations(&self.resource.gvk.group, &self.resource.plural).is_empty()
    }

    /// A stored object in the resource's version, as the form shows it.
    fn shown(&self, object: &Object) -> Value {
        let mut value = convert::from_storage(self.resource, object.value());
        self.leave_out_annotations(&mut value);
        value
    }

    fn leave_out_annotations(&self, value: &mut Value) {
        if self.leaves_out_annotations() {
            let metadata = super::meta::metadata_mut(value);
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations
                    .retain(|name, _| !version_annotations(&self.resource.gvk.group, &self.resource.plural).contains(&name.as_str()));
                if annotations.is_empty() {
                    metadata.shift_remove("annotations");
                }
            }
        }
    }

    fn value_bytes(&self, value: &Value, resource_version: &str) -> Result<Bytes, Status> {
        let transformed = match &self.form.transform {
            Transform::None => None,
            Transform::Metadata(version) | Transform::MetadataList(version) => Some(metadata_only(value, version)),
            Transform::Table(version) => Some(self.table_of(version, value, resource_version, true)),
        };
        let shown = transformed.as_ref().unwrap_or(value);
        Ok(match self.form.encoding {
            Encoding::Json => respond::json_text(shown, self.form.pretty),
            Encoding::Yaml => yaml::to_string(shown).into(),
            Encoding::Protobuf => protobuf::builtin().encode_object(shown).map_err(|e| Status::unknown(e.to_string()))?.into(),
        })
    }

    /// The JSON of the resource's version, without a newline.
    fn json(&self, object: &Object) -> Bytes {
        if self.resource.conversion.is_none() {
            return object.json().clone();
        }
        let Ok(text) = object
            .encoding(self.encoding_id(0), |o| Ok::<_, Infallible>(json::to_vec(&convert::from_storage(self.resource, o.value())).into()));
        text
    }

    /// The protobuf message of the resource's version, without an envelope.
    fn message(&self, object: &Object) -> Result<Bytes, Status> {
        object.encoding(self.encoding_id(1), |o| {
            let value = convert::from_storage(self.resource, o.value_with_texts());
            let message = protobuf::builtin().encode(self.resource.type_id, &value).map_err(|e| Status::internal_error(&e.to_string()))?;
            Ok(message.into())
        })
    }

    fn encoding_id(&self, which: u32) -> EncodingId {
        EncodingId(self.resource.number * 2 + which)
    }

    fn enveloped(&self, object: &Object) -> Result<Bytes, Status> {
        let message = self.message(object)?;
        Ok(match &self.form.transform {
            Transform::Metadata(version) | Transform::MetadataList(version) => {
                let message = envelope::partial_object_metadata(&message).map_err(|e| Status::internal_error(&e.to_string()))?;
                envelope::wrap(&format!("meta.k8s.io/{version}"), "PartialObjectMetadata", &message)
            }
            _ => envelope::wrap(&self.resource.api_version(), &self.resource.gvk.kind, &message),
        }
        .into())
    }

    fn table<'v>(&self, version: &str, values: impl Iterator<Item = Shown<'v>>, meta: &ListMeta, with_columns: bool) -> Value {
        table::build(&*self.resource.printer, version, values, &meta.to_value(), self.include_object, with_columns, self.now)
    }

    /// A Table of one object that is given in the resource's version.
    fn table_of(&self, version: &str, value: &Value, resource_version: &str, with_columns: bool) -> Value {
        let meta = ListMeta { resource_version: resource_version.to_owned(), ..ListMeta::default() };
        let stored = self.resource.conversion.as_ref().map(|_| convert::to_storage(self.resource, value.clone()));
        let shown = Shown { printed: stored.as_ref().unwrap_or(value), object: value };
        self.table(version, std::iter::once(shown), &meta, with_columns)
    }

    /// The `object` of a watch event, in the form asked for, without a newline. Column definitions are in the first Table only.
    pub fn event_object(&self, object: &Object, first: bool) -> Result<Bytes, Status> {
        match (&self.form.transform, self.form.encoding) {
            (_, Encoding::Protobuf) if self.resource.custom.is_none() && !self.leaves_out_annotations() => self.enveloped(object),
            (Transform::Metadata(version) | Transform::MetadataList(version), Encoding::Protobuf) => {
                let shown = metadata_only(&self.shown(object), version);
                Ok(protobuf::builtin().encode_object(&shown).map_err(|e| Status::unknown(e.to_string()))?.into())
            }
            (Transform::None, _) => Ok(self.json(object)),
            (Transform::Metadata(version) | Transform::MetadataList(version), _) => {
                let value = self.shown(object);
                Ok(json::to_vec(&metadata_only(&value, version)).into())
            }
            (Transform::Table(version), _) => {
                let value = self.shown(object);
                Ok(json::to_vec(&self.table_of(version, &value, &object.revision().to_string(), first)).into())
            }
        }
    }
}

impl Presenter<'_> {
    /// The `object` of a watch event that is not stored (a bookmark), in the form asked for.
    pub fn event_value(&self, value: &Value, first: bool) -> Result<Bytes, Status> {
        let shown = match &self.form.transform {
            Transform::None => value.clone(),
            Transform::Metadata(version) | Transform::MetadataList(version) => metadata_only(value, version),
            Transform::Table(version) => self.table_of(version, value, super::meta::text(value, "resourceVersion"), first),
        };
        Ok(match self.form.encoding {
            Encoding::Protobuf => protobuf::builtin().encode_object(&shown).map_err(|e| Status::internal_error(&e.to_string()))?.into(),
            _ => json::to_vec(&shown).into(),
        })
    }
}

/// `PartialObjectMetadata` of an object.
pub fn metadata_only(value: &Value, version: &str) -> Value {
    serde_json::json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": value.get("metadata").cloned().unwrap_or_default(),
    })
}
