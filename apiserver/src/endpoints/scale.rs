//! The `scale` subresource: `autoscaling/v1` Scale over a workload's replicas.

use apimachinery::selector::label::format_label_selector;
use apimachinery::status::Status;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::negotiate::{self, PatchType};
use super::options::WriteOptions;
use super::update::{self, Change, Failure};
use super::{Answer, Call, body, convert, meta, patch, respond, write};
use crate::catalog::{Gvk, TypesHandle};
use crate::storage::Object;

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

fn gvk() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// The Scale of an object in the resource's version.
fn scale_of(call: &Call, object: &Object) -> Value {
    let value = convert::from_storage(&call.resource, object.value());
    let metadata = value.get("metadata");
    let mut kept = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = metadata.and_then(|m| m.get(field)) {
            kept.insert(field.to_owned(), v.clone());
        }
    }
    let replicas = value.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    let selector = selector_text(call, &value);
    let mut spec = Map::new();
    if replicas != 0 {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = json!({ "replicas": value.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0) });
    if !selector.is_empty() {
        status["selector"] = Value::String(selector);
    }
    json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status })
}

/// Replication controllers select by a plain map, the others by a LabelSelector.
fn selector_text(call: &Call, value: &Value) -> String {
    let selector = value.pointer("/spec/selector");
    if &*call.resource.plural == "replicationcontrollers" {
        let Some(map) = selector.and_then(Value::as_object) else { return String::new() };
        let mut pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
        pairs.sort();
        return pairs.join(",");
    }
    match selector {
        Some(selector) => format_label_selector(Some(selector)),
        None => String::new(),
    }
}

/// GET, PUT and PATCH of a scale.
pub async fn scale(call: Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), negotiate::Offer::OBJECT)?;
    match call.request.info.verb.as_str() {
        "get" => {
            let object = call.fresh_named().await?;
            let response = respond::value(StatusCode::OK, &scale_of(&call, &object), &form)?;
            Ok(call.finish(response))
        }
        "update" => replace(call, &form).await,
        "patch" => patch_scale(call, &form).await,
        _ => Err(Status::method_not_supported(call.resource.group(), &call.resource.plural, &call.request.info.verb)),
    }
}

fn expected<'a>(gvk: &'a Gvk, types: &'a TypesHandle) -> Result<body::Expected<'a>, Status> {
    let type_id = types.lookup(SCHEMA).ok_or_else(|| Status::internal_error("no schema for Scale"))?;
    Ok(body::Expected { gvk, types, type_id })
}

async fn replace(mut call: Call, form: &negotiate::Form) -> Answer {
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let encoding = negotiate::input(&call.request.headers)?;
    let (gvk, types) = (gvk(), TypesHandle::Builtin(apimachinery::schema::builtin()));
    let decoded = body::decode(&bytes, encoding, &expected(&gvk, &types)?)?;
    body::validate_fields(&gvk, decoded.problems, options.field_validation, &mut call.warnings)?;
    let mut wanted = decoded.value;
    let name = meta::text(&wanted, "name").to_owned();
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", call.name())));
    }
    let namespace = call.namespace().to_owned();
    meta::ensure_namespace(&mut wanted, &namespace)?;
    write_scale(call, form, &options, move |_, _| Ok(wanted.clone())).await
}

async fn patch_scale(mut call: Call, form: &negotiate::Form) -> Answer {
    let patch_type = negotiate::patch_type(&call.request.headers)?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "PatchOptions", patch_type == PatchType::Apply)?;
    let types = apimachinery::schema::builtin();
    let type_id = types.lookup(SCHEMA).ok_or_else(|| Status::internal_error("no schema for Scale"))?;
    let field_validation = options.field_validation;
    write_scale(call, form, &options, move |call, current| {
        let patch::Patched { value: mut patched, mut problems, shown } =
            patch::patched(types, type_id, patch_type, &bytes, current, field_validation)?;
        let gvk = gvk();
        let before = patched.clone();
        let unknown = apimachinery::schema::decode::decode(types, type_id, &mut patched)
            .map_err(|e| patch::undecodable(&before, shown.as_ref(), &e.to_string()))?;
        problems.extend(unknown.iter().map(|p| format!("unknown field {}", apimachinery::field::quote(p))));
        body::validate_fields(&gvk, problems, field_validation, &mut call.warnings)?;
        Ok(patched)
    })
    .await
}

/// Writes the replicas of a wanted Scale into the object.
async fn write_scale(
    mut call: Call,
    form: &negotiate::Form,
    options: &WriteOptions,
    mut wanted: impl FnMut(&mut Call, &Value) -> Result<Value, Status>,
) -> Answer {
    let manager = options.manager(call.user_agent());
    for attempt in 1.. {
        let current = call.fresh_named().await?;
        let before = scale_of(&call, &current);
        let scale = wanted(&mut call, &before)?;
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        validate(&call, &scale, replicas)?;
        let version = meta::text(&scale, "resourceVersion").to_owned();
        let mut object = convert::from_storage(&call.resource, current.value());
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        if !version.is_empty() {
            meta::set_text(&mut object, "resourceVersion", &version);
        }
        let change = Change { object, reset: false, manager: manager.clone(), dry_run: options.dry_run, apply: false };
        match update::replace(&mut call, &current, change).await {
            Err(Failure::Conflict) if (version.is_empty() || meta::text(&before, "resourceVersion") == version) && attempt < write::CONFLICT_ATTEMPTS => {}
            Err(Failure::Conflict) => return Err(update::modified(&call)),
            Err(Failure::Status(status)) => return Err(*status),
            Ok(written) => {
                let value = match &written.outcome {
                    super::create::Created::Stored(object) => scale_of(&call, object),
                    super::create::Created::DryRun(value) => {
                        let mut shown = before.clone();
                        shown["spec"] = json!({ "replicas": value.pointer("/spec/replicas").cloned().unwrap_or(json!(0)) });
                        shown
                    }
                };
                let response = respond::value(StatusCode::OK, &value, form)?;
                return Ok(call.finish(response));
            }
        }
    }
    Err(update::modified(&call))
}

fn validate(call: &Call, _scale: &Value, replicas: i64) -> Result<(), Status> {
    if replicas >= 0 {
        return Ok(());
    }
    let path = apimachinery::field::Path::new("spec.replicas");
    let errors = vec![apimachinery::field::Error::invalid(&path, replicas, "must be greater than or equal to 0")];
    Err(Status::invalid("autoscaling", "Scale", call.name(), &errors))
}

