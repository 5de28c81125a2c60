//! Endpoints of subresources that are not the object itself: one file each, found by [`super::connect`].

pub mod binding;
pub mod eviction;
pub(crate) mod forward;
mod html;
mod links;
pub mod location;
pub mod pod_log;
pub mod pod_stream;
mod pod_translation;
pub mod proxy;

use std::sync::Arc;

use apimachinery::status::Status;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value};

use super::negotiate::{self, Form};
use super::options::{Query, WriteOptions};
use super::{Call, body, meta, respond};
use crate::admission::Operation;
use crate::catalog::{Gvk, Resource, TypesHandle};
use crate::filters::request_info::RequestInfo;
use crate::storage::{self, Freshness};

/// A body that was posted to an endpoint, of the kind that the endpoint takes.
pub struct Posted {
    pub object: Value,
    pub options: WriteOptions,
    pub form: Form,
}

/// Which body an endpoint takes.
pub struct Takes<'a> {
    pub gvk: Gvk,
    /// The schema's definition name.
    pub schema: &'a str,
    /// Other versions of the same form that are accepted too.
    pub also: &'a [&'a str],
}

/// Reads and decodes the body of a creation that stores nothing under its own name.
pub async fn posted(call: &mut Call, takes: &Takes<'_>) -> Result<Posted, Status> {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), negotiate::Offer::OBJECT)?;
    let encoding = negotiate::input(&call.request.headers)?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let types = TypesHandle::Builtin(apimachinery::schema::builtin());
    let type_id = types.lookup(takes.schema).ok_or_else(|| Status::internal_error(&format!("no schema for {}", takes.gvk.kind)))?;
    let gvk = accepted(takes, &bytes, encoding);
    let decoded = body::decode(&bytes, encoding, &body::Expected { gvk: &gvk, types: &types, type_id })?;
    body::validate_fields(&gvk, decoded.problems, options.field_validation, &mut call.warnings)?;
    let mut object = decoded.value;
    crate::audit::request_object(&object, |_| {});
    body::set_type_meta(&mut object, &takes.gvk);
    let namespace = call.namespace().to_owned();
    meta::ensure_namespace(&mut object, &namespace)?;
    Ok(Posted { object, options, form })
}

/// The kind that the body declares, if it is one of those that are accepted; otherwise the endpoint's own.
fn accepted(takes: &Takes<'_>, bytes: &Bytes, encoding: negotiate::Encoding) -> Gvk {
    let own = takes.gvk.clone();
    if takes.also.is_empty() {
        return own;
    }
    let declared = match encoding {
        negotiate::Encoding::Protobuf => {
            apimachinery::protobuf::envelope::unwrap(bytes).ok().map(|unknown| unknown.api_version.to_string())
        }
        _ => apimachinery::yaml::parse(bytes).ok().and_then(|parsed| parsed.value.get("apiVersion")?.as_str().map(str::to_owned)),
    };
    let version = takes.also.iter().find(|v| declared.as_deref() == Some(&*Gvk::new(&own.group, v, &own.kind).api_version()));
    version.map_or(own.clone(), |version| Gvk::new(&own.group, version, &own.kind))
}

/// The answer to a creation that has a Status for a result, which tells the response's code unless it has one of its own.
pub fn created(form: &Form, mut status: Status) -> super::Answer {
    if status.code == 0 {
        status.code = StatusCode::CREATED.as_u16();
    }
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond::value(code, &status.to_value(), form)
}

/// The resource `v1` pods, which the endpoints of other resources write to as well.
pub fn pods(call: &Call) -> Result<Arc<Resource>, Status> {
    if call.resource.group().is_empty() && &*call.resource.plural == "pods" {
        return Ok(call.resource.clone());
    }
    let catalog = call.api.catalog.load();
    catalog.find("", "v1", "pods").cloned().ok_or_else(|| Status::internal_error("pods are not served"))
}

/// A node as of now.
async fn node(call: &Call, name: &str) -> Result<Value, Status> {
    let nodes = {
        let catalog = call.api.catalog.load();
        catalog.stored_resource("", "nodes").cloned().ok_or_else(|| Status::internal_error("nodes are not served"))?
    };
    let cache = super::write::cache_of(&nodes)?;
    match call.api.storage.get(cache, "", name, Freshness::Latest).await {
        Ok(node) => Ok(node.value()),
        // Upstream names the resource of the request, whichever is missing.
        Err(storage::Error::NotFound) => Err(Status::not_found("", &call.resource.plural, name)),
        Err(error) => Err(call.storage_error(error, name)),
    }
}

/// Asks admission about a connection; connections have no dry run.
async fn connect_admission(call: &mut Call) -> Result<(), Status> {
    if call.query.get("dryRun").is_some() {
        return Err(Status::bad_request("dryRun is not supported"));
    }
    let Some(subresource) = call.subresource() else { return Ok(()) };
    let mut options = serde_json::json!({ "kind": &*subresource.gvk.kind, "apiVersion": subresource.gvk.api_version() });
    if let Some(members) = options.as_object_mut() {
        members.extend(connect_options(&subresource.gvk.kind, &call.query, &call.request.info));
    }
    let name = call.name().to_owned();
    let mut warnings = std::mem::take(&mut call.warnings);
    {
        let attributes = call.attributes(Operation::Connect, &name, call.namespace(), false, &Value::Null);
        call.api.admission.admit(&attributes, &call.api, &mut options, None, &mut warnings).await?;
        call.api.admission.validate(&attributes, &call.api, Some(&options), None, &mut warnings).await?;
    }
    call.warnings = warnings;
    Ok(())
}

/// What the options of a connection say, from the parameters that say it.
fn connect_options(kind: &str, query: &Query, info: &RequestInfo) -> Map<String, Value> {
    let mut options = Map::new();
    match kind {
        "PodExecOptions" | "PodAttachOptions" => {
            for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| query.flag(flag)) {
                options.insert(flag.to_owned(), true.into());
            }
            if let Some(container) = query.get("container").filter(|name| !name.is_empty()) {
                options.insert("container".to_owned(), container.into());
            }
            let command: Vec<&str> = query.all("command").collect();
            if kind == "PodExecOptions" && !command.is_empty() {
                options.insert("command".to_owned(), command.into());
            }
        }
        "PodPortForwardOptions" => {
            let ports: Vec<i64> = query.all("ports").flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options.insert("ports".to_owned(), ports.into());
            }
        }
        // Those of proxies.
        _ => {
            let path = location::subpath(&info.parts, &info.path);
            if !path.is_empty() {
                options.insert("path".to_owned(), path.into());
            }
        }
    }
    options
}

/// An integer parameter.
fn integer(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    match query.get(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| not_an_integer(text)),
    }
}

fn not_an_integer(text: &str) -> Status {
    Status::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", apimachinery::field::quote(text)))
}
