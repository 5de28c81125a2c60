//! DELETE of one object: at once, gracefully, or by finalizers.

use std::sync::Arc;

use apimachinery::status::{Details, Status};
use apimachinery::{json, protobuf, time};
use http::StatusCode;
use serde_json::Value;

use super::negotiate::{self, Encoding};
use super::options::DeleteOptions;
use super::present::Presenter;
use super::{Answer, Call, convert, meta, respond, update, write};
use crate::admission::Operation;
use crate::registry::{Propagation, RETURN_DELETED_OBJECT};
use crate::registry::table::IncludeObject;
use crate::storage::{self, Object};

/// Deletes the named object.
pub async fn delete(mut call: Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), negotiate::Offer::OBJECT)?;
    let options = read_options(&mut call).await?;
    let name = call.name().to_owned();
    let namespace = call.namespace().to_owned();
    let outcome = remove(&mut call, &namespace, &name, &options).await?;
    let presenter = Presenter { resource: &call.resource, form: &form, include_object: IncludeObject::Metadata, now: call.request.now };
    let response = match outcome {
        Outcome::Gone(object) => {
            let returns_object = RETURN_DELETED_OBJECT.contains(&(call.resource.group(), &*call.resource.plural));
            if returns_object { presenter.object(StatusCode::OK, &object, &call.request.headers)? } else { respond::status(&gone(&call, &object), &form) }
        }
        Outcome::Leaving(object) => presenter.object(leaving_code(&options), &object, &call.request.headers)?,
        Outcome::LeavingDryRun(value) => presenter.value(leaving_code(&options), &value)?,
    };
    Ok(call.finish(response))
}

/// 202 where the client asked for dependents to go too, in the old way, and the object is still there.
fn leaving_code(options: &DeleteOptions) -> StatusCode {
    if options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK }
}

/// `Success`, naming what was deleted.
fn gone(call: &Call, object: &Object) -> Status {
    Status::success(Some(Details {
        name: object.name().to_owned(),
        group: call.resource.group().to_owned(),
        kind: call.resource.plural.to_string(),
        uid: object.uid().to_owned(),
        ..Details::default()
    }))
}

/// What became of an object that was to be deleted.
pub enum Outcome {
    /// It is no more; its last state.
    Gone(Arc<Object>),
    /// It stays until its finalizers or its grace period are done.
    Leaving(Arc<Object>),
    LeavingDryRun(Value),
}

/// Reads the options from the body, or from the query if there is none.
pub async fn read_options(call: &mut Call) -> Result<DeleteOptions, Status> {
    let bytes = call.read_body().await?;
    if bytes.is_empty() {
        return DeleteOptions::from_query(&call.query);
    }
    let value = match negotiate::input(&call.request.headers)? {
        Encoding::Json => json::parse(&bytes).map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?.0,
        Encoding::Yaml => apimachinery::yaml::parse(&bytes).map_err(|e| Status::bad_request(e.to_string()))?.value,
        Encoding::Protobuf => protobuf_options(&bytes)?,
    };
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !matches!(kind, "" | "DeleteOptions") {
        return Err(Status::bad_request(format!(
            "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            apimachinery::field::quote(kind),
            apimachinery::field::quote(api_version)
        )));
    }
    let mut value = value;
    let types = apimachinery::schema::builtin();
    if let Some(id) = types.lookup("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions") {
        apimachinery::schema::decode::decode(types, id, &mut value).map_err(|e| Status::bad_request(e.to_string()))?;
    }
    DeleteOptions::from_body(&value)
}

/// DeleteOptions in protobuf; clients write them under their own resource's group and version or under `v1`.
fn protobuf_options(bytes: &[u8]) -> Result<Value, Status> {
    let refuse = |e: protobuf::DecodeError| Status::bad_request(e.to_string());
    let unknown = protobuf::envelope::unwrap(bytes).map_err(refuse)?;
    let id = apimachinery::schema::builtin()
        .lookup("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .ok_or_else(|| Status::internal_error("no schema for DeleteOptions"))?;
    let mut value = protobuf::builtin().decode_typed(id, &unknown).map_err(refuse)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".to_owned(), Value::String(unknown.kind.to_string()));
        map.insert("apiVersion".to_owned(), Value::String(unknown.api_version.to_string()));
    }
    Ok(value)
}

/// Deletes an object by the rules of its kind, as often as it takes to win against concurrent changes.
pub async fn remove(call: &mut Call, namespace: &str, name: &str, options: &DeleteOptions) -> Result<Outcome, Status> {
    for _ in 0..write::CONFLICT_ATTEMPTS * 4 {
        let Some(current) = call.fresh(namespace, name).await? else {
            return Err(Status::not_found(call.resource.group(), &call.resource.plural, name));
        };
        check_preconditions(call, &current, options)?;
        match attempt(call, namespace, &current, options).await {
            Err(storage_error) => match storage_error {
                update::Failure::Conflict if options.resource_version.is_none() => {}
                update::Failure::Conflict => return Err(Status::modified(call.resource.group(), &call.resource.plural, name)),
                update::Failure::Status(status) => return Err(*status),
            },
            Ok(outcome) => return Ok(outcome),
        }
    }
    Err(Status::modified(call.resource.group(), &call.resource.plural, name))
}

fn check_preconditions(call: &Call, current: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let refuse = |why: String| Err(Status::conflict(call.resource.group(), &call.resource.plural, current.name(), &why));
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != current.uid()) {
        return refuse(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", current.uid()));
    }
    let revision = current.revision().to_string();
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != revision) {
        return refuse(format!("Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {revision}"));
    }
    Ok(())
}

async fn attempt(call: &mut Call, namespace: &str, current: &Arc<Object>, options: &DeleteOptions) -> Result<Outcome, update::Failure> {
    let resource = call.resource.clone();
    let old = current.value();
    let option_value = serde_json::json!({ "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1" });
    let mut warnings = Vec::new();
    {
        let attributes = call.attributes(Operation::Delete, current.name(), namespace, options.dry_run, &option_value);
        call.api.admission.validate(&attributes, &*call.api, None, Some(&old), &mut warnings)?;
    }
    call.warnings.append(&mut warnings);
    let cache = write::cache_of(&resource.stored)?;
    let Some(new) = plan(call, &old, options) else {
        if options.dry_run {
            return Ok(Outcome::Gone(current.clone()));
        }
        let deleted = call.api.storage.delete(cache, namespace, current.name(), Some(current.revision())).await;
        return deleted.map(Outcome::Gone).map_err(|e| failure(call, e, current.name()));
    };
    if options.dry_run {
        return Ok(Outcome::LeavingDryRun(convert::from_storage(&resource, new)));
    }
    let written = call.api.storage.update(cache, &new, Some(current.revision()), write::ttl_seconds(&resource)).await;
    written.map(Outcome::Leaving).map_err(|e| failure(call, e, current.name()))
}

fn failure(call: &Call, error: storage::Error, name: &str) -> update::Failure {
    match error {
        storage::Error::Conflict { .. } => update::Failure::Conflict,
        other => call.storage_error(other, name).into(),
    }
}

/// The object as it is while it waits for its end, or `None` if it can go at once.
fn plan(call: &Call, old: &Value, options: &DeleteOptions) -> Option<Value> {
    let resource = &call.resource;
    let mut new = old.clone();
    let already = !meta::text(old, "deletionTimestamp").is_empty();
    let finalizers = finalizers_for(resource.strategy.default_propagation(), old, options);
    let grace = resource.strategy.grace_period_seconds(&call.cx(), old, options.grace_period_seconds);
    let pending_grace = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let period = match (already, grace, pending_grace) {
        // A second deletion may only shorten the grace period.
        (true, Some(wanted), Some(pending)) => Some(wanted.min(pending)),
        (true, None, Some(pending)) => Some(pending),
        (_, grace, _) => grace,
    };
    let waits_for_namespace = resource.group().is_empty()
        && &*resource.plural == "namespaces"
        && old.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    let stays = !finalizers.is_empty() || waits_for_namespace || period.is_some_and(|p| p > 0);
    if !stays {
        return None;
    }
    set_finalizers(&mut new, finalizers);
    let shortened = already && period.is_some() && period < pending_grace;
    if !already || shortened {
        mark(&mut new, call, period.unwrap_or(0), already);
    }
    if waits_for_namespace {
        if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
            status.insert("phase".to_owned(), Value::String("Terminating".to_owned()));
        }
    }
    convert::canonical_stored(&resource.stored, &mut new);
    Some(new)
}

/// Sets the time of deletion: now plus the grace period; a shortened period counts from the first request.
fn mark(new: &mut Value, call: &Call, period: i64, already: bool) {
    let generation = crate::registry::strategy::generation(new);
    let start = if already {
        let set: Option<jiff::Timestamp> = meta::text(new, "deletionTimestamp").parse().ok();
        let pending = new.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        set.and_then(|t| t.checked_sub(jiff::SignedDuration::from_secs(pending)).ok()).unwrap_or(call.request.now)
    } else {
        call.request.now
    };
    let at = start.checked_add(jiff::SignedDuration::from_secs(period)).unwrap_or(start);
    let metadata = meta::metadata_mut(new);
    metadata.insert("deletionTimestamp".to_owned(), Value::String(time::format_time(at)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), period.into());
    // Kinds that count generations count the deletion too.
    if generation > 0 && !already {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let metadata = meta::metadata_mut(object);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// The object's finalizers with those that the garbage collector waits for, as the options (or else the object itself, or else
/// the kind's default) say.
fn finalizers_for(default: Propagation, old: &Value, options: &DeleteOptions) -> Vec<String> {
    const ORPHAN: &str = "orphan";
    const FOREGROUND: &str = "foregroundDeletion";
    let existing: Vec<String> = old
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    let has = |name: &str| existing.iter().any(|f| f == name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), !has(ORPHAN) && has(FOREGROUND)),
        (None, None) => (default == Propagation::Orphan, default == Propagation::Foreground),
    };
    let mut finalizers: Vec<String> = existing.into_iter().filter(|f| f != ORPHAN && f != FOREGROUND).collect();
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    finalizers
}
