//! Lists in the form that a client asked for. JSON is made piece by piece while it is sent: a list costs its chunks, not its length.

use std::sync::Arc;

use apimachinery::json::Long;
use apimachinery::protobuf::{self, envelope};
use apimachinery::status::Status;
use apimachinery::yaml;
use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{Presenter, metadata_only};
use crate::endpoints::negotiate::{Encoding, Transform};
use crate::endpoints::respond::{self, CHUNK_BYTES};
use crate::registry::table::{self, Shown};
use crate::storage::Object;

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub resource_version: String,
    pub continue_token: String,
    pub remaining: Option<i64>,
}

impl ListMeta {
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if !self.resource_version.is_empty() {
            map.insert("resourceVersion".to_owned(), Value::String(self.resource_version.clone()));
        }
        if !self.continue_token.is_empty() {
            map.insert("continue".to_owned(), Value::String(self.continue_token.clone()));
        }
        if let Some(remaining) = self.remaining {
            map.insert("remainingItemCount".to_owned(), remaining.into());
        }
        Value::Object(map)
    }
}

impl Presenter<'_> {
    /// A list as a response.
    pub fn list(&self, objects: Vec<Arc<Object>>, meta: &ListMeta, request: &http::HeaderMap) -> Result<Response<Body>, Status> {
        if let Transform::Metadata(_) = self.form.transform {
            let name = self.internal_name();
            return Err(Status::no_such_form(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{name}List)"
            )));
        }
        let whole: Bytes = match self.form.encoding {
            Encoding::Json if objects.is_empty() && matches!(self.form.transform, Transform::Table(_)) => {
                respond::json_text(&self.list_frame(meta).0, self.form.pretty)
            }
            Encoding::Json => return Ok(self.json_response(objects, meta, request)),
            Encoding::Protobuf if self.resource.custom.is_none() && !self.leaves_out_annotations() => {
                return self.protobuf_response(&objects, meta, request);
            }
            Encoding::Protobuf => {
                let list = self.list_value(&objects, meta);
                protobuf::builtin().encode_object(&list).map_err(|e| Status::unknown(e.to_string()))?.into()
            }
            Encoding::Yaml => yaml::to_string(&self.list_value(&objects, meta)).into(),
        };
        let response = respond::bytes(StatusCode::OK, self.form.encoding.media_type(), whole.clone());
        Ok(respond::compress(response, request, &whole))
    }

    fn json_response(&self, objects: Vec<Arc<Object>>, meta: &ListMeta, request: &http::HeaderMap) -> Response<Body> {
        let (frame, items) = self.list_frame(meta);
        let mut list = Long::new(frame.as_object().unwrap_or(&Map::new()), items, self.form.pretty);
        let mut head = Vec::new();
        list.begin(&mut head);
        let copies = self.form.transform == Transform::None && !self.form.pretty;
        let (resource, form, include_object, now) = (self.resource.clone(), self.form.clone(), self.include_object, self.now);
        let body = chunks(head, objects.into_iter(), move |out, object| {
            let presenter = Presenter { resource: &resource, form: &form, include_object, now };
            match object {
                Some(object) if copies => {
                    list.separate(out);
                    presenter.copy_item(&object, out);
                }
                Some(object) => list.item(out, &presenter.list_item(&object)),
                None => {
                    list.end(out);
                    if !form.pretty {
                        out.push(b'\n');
                    }
                }
            }
        });
        self.respond(body, request)
    }

    /// Answers with a body that is made while it is sent, unless it is short.
    fn respond(&self, body: impl Iterator<Item = Bytes> + Send + 'static, request: &http::HeaderMap) -> Response<Body> {
        let response = |bytes| respond::bytes(StatusCode::OK, self.form.encoding.media_type(), bytes);
        let mut body = body.peekable();
        let first = body.next().unwrap_or_default();
        if body.peek().is_none() {
            return respond::compress(response(first.clone()), request, &first);
        }
        respond::chunks(response(Bytes::new()), request, std::iter::once(first).chain(body))
    }

    /// Everything of a list but its items, and the member that they belong in.
    fn list_frame(&self, meta: &ListMeta) -> (Value, &'static str) {
        match &self.form.transform {
            Transform::Table(version) => (self.table(version, std::iter::empty(), meta, true), "rows"),
            Transform::Metadata(version) | Transform::MetadataList(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                (list_value("PartialObjectMetadataList", &api_version, &meta.to_value()), "items")
            }
            // Sorted, as upstream writes what it has no type for.
            Transform::None if self.resource.custom.is_some() => {
                let mut value = list_value(&self.resource.list_kind, &self.resource.api_version(), &custom_list_meta(meta));
                value.sort_all_objects();
                (value, "items")
            }
            Transform::None => (list_value(&self.resource.list_kind, &self.resource.api_version(), &meta.to_value()), "items"),
        }
    }

    /// One item, or row, of a list.
    fn list_item(&self, object: &Object) -> Value {
        let mut value = self.shown(object);
        match &self.form.transform {
            Transform::Table(version) => {
                let stored = self.resource.conversion.as_ref().map(|_| object.value());
                let shown = Shown { printed: stored.as_ref().unwrap_or(&value), object: &value };
                table::row(&*self.resource.printer, version, &shown, self.include_object, self.now)
            }
            Transform::Metadata(version) | Transform::MetadataList(version) => metadata_only(&value, version),
            Transform::None => {
                // The items of a built-in list carry no type.
                if let (None, Some(map)) = (&self.resource.custom, value.as_object_mut()) {
                    map.shift_remove("kind");
                    map.shift_remove("apiVersion");
                }
                value
            }
        }
    }

    fn list_value(&self, objects: &[Arc<Object>], meta: &ListMeta) -> Value {
        let (mut value, items) = self.list_frame(meta);
        value[items] = objects.iter().map(|object| self.list_item(object)).collect();
        value
    }

    /// The JSON of one item of a plain list, copied.
    fn copy_item(&self, object: &Object, out: &mut Vec<u8>) {
        let text = self.json(object);
        if self.resource.custom.is_some() {
            out.extend_from_slice(&text);
            return;
        }
        out.push(b'{');
        // What follows `{"kind":"Pod","apiVersion":"v1",`.
        let rest = match text.strip_prefix(&*self.resource.type_meta_prefix) {
            Some(rest) => rest.strip_prefix(b",").unwrap_or(rest),
            None => text.strip_prefix(b"{").unwrap_or(&text),
        };
        out.extend_from_slice(rest);
    }

    fn protobuf_response(&self, objects: &[Arc<Object>], meta: &ListMeta, request: &http::HeaderMap) -> Result<Response<Body>, Status> {
        let internal = |error: &dyn std::fmt::Display| Status::internal_error(&error.to_string());
        let list_meta_id = apimachinery::schema::builtin()
            .lookup("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
            .ok_or_else(|| Status::internal_error("no schema for ListMeta"))?;
        let list_meta = protobuf::builtin().encode(list_meta_id, &meta.to_value()).map_err(|e| internal(&e))?;
        let messages = objects.iter().map(|object| self.message(object));
        let (api_version, kind, items) = match &self.form.transform {
            Transform::Metadata(version) | Transform::MetadataList(version) => {
                let metadata =
                    messages.map(|message| envelope::partial_object_metadata(&message?).map(Bytes::from).map_err(|e| internal(&e)));
                (format!("meta.k8s.io/{version}"), "PartialObjectMetadataList", metadata.collect::<Result<Vec<_>, _>>()?)
            }
            _ => (self.resource.api_version(), &*self.resource.list_kind, messages.collect::<Result<Vec<_>, _>>()?),
        };
        let head = envelope::list_begin(&api_version, kind, &list_meta, items.iter().map(Bytes::len));
        let body = chunks(head, items.into_iter(), |out, item| match item {
            Some(item) => envelope::push_list_item(out, &item),
            None => out.extend(envelope::LIST_END),
        });
        Ok(self.respond(body, request))
    }
}

/// A body, made chunk by chunk: what it begins with, then what `write` makes of each item, and of their end (`None`).
fn chunks<T>(
    head: Vec<u8>,
    mut items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, Option<T>),
) -> impl Iterator<Item = Bytes> {
    let mut begun = Some(head);
    std::iter::from_fn(move || {
        let mut out = begun.take()?;
        if out.is_empty() {
            out.reserve(CHUNK_BYTES + CHUNK_BYTES / 8);
        }
        while out.len() < CHUNK_BYTES {
            let item = items.next();
            let is_over = item.is_none();
            write(&mut out, item);
            if is_over {
                return Some(out.into());
            }
        }
        begun = Some(Vec::new());
        Some(out.into())
    })
}

/// The metadata of a list of custom objects: with its continuation even where there is none.
fn custom_list_meta(meta: &ListMeta) -> Value {
    let mut value = meta.to_value();
    value["continue"] = meta.continue_token.clone().into();
    value
}

fn list_value(kind: &str, api_version: &str, meta: &Value) -> Value {
    serde_json::json!({ "kind": kind, "apiVersion": api_version, "metadata": meta, "items": [] })
}
