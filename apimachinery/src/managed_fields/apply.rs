//! Server-side apply: the applier owns exactly what its configuration says.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    Scope,
    entries::{Managed, ManagerId, Operation, Time},
    error::{ApplyConflicts, ApplyError},
    set::FieldSet,
    typed::Schema,
    update::{track, without_server_owned},
    updater::{self, Error, Versioned},
};

/// The manager that owns what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The applier for whom client-side apply's annotation counts.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations larger than this in sum are refused, so the annotation is not kept beyond it.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

/// The object after `manager` applied `config`, with its owners.
///
/// `live` is defaulted and canonical, or `None` if the object does not exist. The result is neither defaulted nor
/// canonical (fields that were let go may be null) and has the live object's `uid` and `resourceVersion` unless the
/// configuration sets them; checking these, the name and the namespace is the caller's.
pub fn apply(
    scope: &Scope<'_>,
    live: Option<&Value>,
    config: &Value,
    manager: &str,
    now: Timestamp,
    force: bool,
) -> Result<Value, ApplyError> {
    check_kind(scope, config)?;
    let zero;
    let live = match live {
        Some(live) => live,
        None => {
            zero = new_object(scope);
            &zero
        }
    };
    let managed = Managed::of(live).map_err(|e| ApplyError::Internal(format!("failed to decode managed fields: {e}")))?;
    let run = |force| run(scope, live, config, managed.clone(), manager, now, force);
    let (mut object, managed) = match run(force) {
        Err(Error::Conflicts(conflicts)) if manager == KUBECTL => {
            let refused = refused_after_client_side_apply(scope, live, conflicts);
            if refused.is_empty() { run(true) } else { Err(Error::Conflicts(refused)) }
        }
        done => done,
    }
    .map_err(|e| match e {
        Error::Conflicts(conflicts) => ApplyError::Conflict(ApplyConflicts(conflicts)),
        Error::Other(message) => ApplyError::Internal(message),
    })?;
    if manager == KUBECTL {
        refresh_last_applied(&mut object, config);
    }
    managed.store(&mut object);
    Ok(object)
}

/// The configuration must name the endpoint's kind and leave ownership to the server.
fn check_kind(scope: &Scope<'_>, config: &Value) -> Result<(), ApplyError> {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version != scope.api_version || kind != scope.kind {
        let (api_version, kind) = if api_version.matches('/').count() > 1 { ("", "") } else { (api_version, kind) };
        return Err(ApplyError::BadRequest(format!("invalid object type: {}", kind_text(api_version, kind))));
    }
    let own_entries = config.pointer("/metadata/managedFields").and_then(Value::as_array);
    if own_entries.is_some_and(|entries| entries.iter().all(Value::is_object)) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    Ok(())
}

/// `apps/v1, Kind=Deployment`; the core group is empty: `/v1, Kind=Pod`.
fn kind_text(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

/// `namespace/name; group/version, Kind=kind`, as errors show an object.
fn object_text(scope: &Scope<'_>, object: &Value) -> String {
    let text = |field: &str| object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}; {}", text("namespace"), text("name"), kind_text(scope.api_version, scope.kind))
}

fn new_object(scope: &Scope<'_>) -> Value {
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), scope.api_version.into());
    object.insert("kind".to_owned(), scope.kind.into());
    if let Value::Object(zero) = Schema::new(scope.types).zero_object(scope.root) {
        for (key, value) in zero {
            object.entry(key).or_insert(value);
        }
    }
    Value::Object(object)
}

fn run(
    scope: &Scope<'_>,
    live: &Value,
    config: &Value,
    mut managed: Managed,
    manager: &str,
    now: Timestamp,
    force: bool,
) -> Result<(Value, Managed), Error> {
    if managed.is_empty() {
        let mut before = live.clone();
        Managed::default().store(&mut before);
        managed = track(scope, &new_object(scope), &before, managed, BEFORE_FIRST_APPLY, now)?;
    }
    let config_at = Versioned::new(scope, Cow::Borrowed(config));
    let live_at = Versioned::new(scope, Cow::Borrowed(live));
    config_at
        .validate(false)
        .map_err(|e| Error::Other(format!("failed to create typed patch object ({}): {e}", object_text(scope, config))))?;
    live_at.validate(true).map_err(|e| Error::Other(format!("failed to create typed live object ({}): {e}", object_text(scope, live))))?;
    let id = ManagerId::new(manager, Operation::Apply, scope.api_version, scope.subresource);
    let Managed { fields, mut times } = managed;
    let (object, mut fields) = updater::apply(scope, &live_at, &config_at, fields, &id, force)?;
    if let Some(owned) = fields.get_mut(&id) {
        owned.set = without_server_owned(std::mem::take(&mut owned.set));
    }
    fields.retain(|_, owned| !owned.set.is_empty());
    let object = match object {
        Some(object) => {
            times.insert(id, Time::at(now));
            object
        }
        None => live.clone(),
    };
    Ok((object, Managed { fields, times }))
}

type Conflicts = Vec<(ManagerId, Vec<super::PathElement>)>;

/// The conflicts that remain when fields which client-side apply set, and nobody changed since, may be taken over.
fn refused_after_client_side_apply(scope: &Scope<'_>, live: &Value, conflicts: Conflicts) -> Conflicts {
    match set_by_client_side_apply(scope, live) {
        Some(allowed) => conflicts.into_iter().filter(|(_, path)| !allowed.has(path)).collect(),
        None => conflicts,
    }
}

fn set_by_client_side_apply(scope: &Scope<'_>, live: &Value) -> Option<FieldSet> {
    let last: Value = serde_json::from_str(last_applied(live)?).ok()?;
    if last.get("apiVersion").and_then(Value::as_str) != Some(scope.api_version) {
        return None;
    }
    let last_at = Versioned::new(scope, Cow::Owned(last));
    let live_at = Versioned::new(scope, Cow::Borrowed(live));
    last_at.validate(false).ok()?;
    live_at.validate(false).ok()?;
    let changed = last_at.compare(&live_at);
    Some(last_at.field_set().difference(&changed.modified).difference(&changed.added).difference(&changed.removed))
}

fn last_applied(object: &Value) -> Option<&str> {
    let text = object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// Keeps client-side apply's annotation in step, so that going back to it stays possible.
fn refresh_last_applied(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        match metadata.get_mut("annotations") {
            Some(Value::Object(annotations)) => annotations.shift_remove(LAST_APPLIED),
            _ => metadata.shift_remove("annotations"),
        };
    }
    config.sort_all_objects();
    let text = format!("{config}\n");
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(LAST_APPLIED.to_owned(), Value::String(text));
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS_BYTES {
        annotations.shift_remove(LAST_APPLIED);
    }
}
