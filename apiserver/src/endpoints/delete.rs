//! DELETE of one object: at once, gracefully, or by finalizers.

use std::sync::Arc;

use apimachinery::schema::embedded;
use apimachinery::status::{Details, Status};
use apimachinery::{json, protobuf};
use http::StatusCode;
use serde_json::Value;

use super::deletion::{self, Plan, Rules};
use super::negotiate::{self, Encoding};
use super::options::DeleteOptions;
use super::present::Presenter;
use super::{Answer, Call, body, convert, respond, update, versions, write};
use crate::admission::Operation;
use crate::allocation;
use crate::registry::RETURN_DELETED_OBJECT;
use crate::registry::table::IncludeObject;
use crate::storage::{self, Object};

/// Deletes the named object.
pub async fn delete(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let options = read_options(call).await?;
    warn_of_orphans(call, &options);
    let name = call.name().to_owned();
    let namespace = call.namespace().to_owned();
    let outcome = remove(call, &namespace, &name, &options).await?;
    let presenter = Presenter { resource: &call.resource, form: &form, include_object: IncludeObject::Metadata, now: call.request.now };
    let response = match outcome {
        Outcome::Gone(object) => {
            if returns_object(call) {
                presenter.object(StatusCode::OK, &object, &call.request.headers)?
            } else {
                respond::status(&gone(call, &object), &form)
            }
        }
        Outcome::GoneDryRun(value) => presenter.value(StatusCode::OK, &value)?,
        Outcome::Leaving(object) => presenter.object(leaving_code(&options), &object, &call.request.headers)?,
        Outcome::LeavingDryRun(value) => presenter.value(leaving_code(&options), &value)?,
    };
    Ok(response)
}

/// Whether a deletion of the kind answers with the object as it was; others answer with a Status.
fn returns_object(call: &Call) -> bool {
    let kind = (call.resource.group(), &*call.resource.plural);
    is_namespace(call) || RETURN_DELETED_OBJECT.contains(&kind)
}

/// CustomResourceDefinitions, which go through more than one step too.
const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

fn is_namespace(call: &Call) -> bool {
    call.resource.group().is_empty() && &*call.resource.plural == "namespaces"
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
    /// It would be no more; its last state, in the resource's version.
    GoneDryRun(Value),
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
        Encoding::Json => {
            json::parse(&bytes).map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?.0
        }
        Encoding::Yaml => apimachinery::yaml::parse(&bytes).map_err(|e| Status::bad_request(e.to_string()))?.value,
        Encoding::Protobuf => protobuf_options(&bytes)?,
    };
    if !value.is_object() && !value.is_null() {
        return Err(Status::bad_request(format!("couldn't get version/kind; json parse error: {}", body::no_object(&value))));
    }
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
    crate::audit::request_object(&value, |options| {
        let is_empty = |name: &str| options.get(name).and_then(Value::as_str).is_none_or(str::is_empty);
        let (no_kind, no_version) = (is_empty("kind"), is_empty("apiVersion"));
        if let Some(map) = options.as_object_mut() {
            if no_version {
                map.shift_insert(0, "apiVersion".to_owned(), "meta.k8s.io/__internal".into());
            }
            if no_kind {
                map.shift_insert(0, "kind".to_owned(), "DeleteOptions".into());
            }
        }
    });
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

/// What those who delete jobs without saying what becomes of the pods are told.
const JOBS_KEEP_PODS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them \
                              or set propagationPolicy=Orphan to suppress this warning";

/// Warnings that the options alone deserve.
pub fn warn_of_orphans(call: &mut Call, options: &DeleteOptions) {
    let is_job = call.resource.group() == "batch" && &*call.resource.plural == "jobs";
    if is_job && options.propagation.is_none() && options.orphan_dependents.is_none() {
        call.warnings.push(JOBS_KEEP_PODS.to_owned());
    }
}

/// Who asks for a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A request to delete, which admission has a say in.
    Request,
    /// An endpoint whose request has been admitted as something else (an eviction).
    Endpoint,
}

/// Deletes an object by the rules of its kind, as often as it takes to win against concurrent changes.
pub async fn remove(call: &mut Call, namespace: &str, name: &str, options: &DeleteOptions) -> Result<Outcome, Status> {
    remove_by(call, namespace, name, options, By::Request).await
}

/// [`remove`], on somebody's behalf.
pub async fn remove_by(call: &mut Call, namespace: &str, name: &str, options: &DeleteOptions, by: By) -> Result<Outcome, Status> {
    for _ in 0..write::CONFLICT_ATTEMPTS * 4 {
        let Some(current) = call.fresh(namespace, name).await? else {
            return Err(Status::not_found(call.resource.group(), &call.resource.plural, name));
        };
        check_preconditions(call, &current, options)?;
        match attempt(call, namespace, &current, options, by).await {
            // With a resourceVersion precondition the next round finds it violated.
            Err(update::Failure::Conflict) => {}
            Err(update::Failure::Status(status)) => return Err(*status),
            Ok(outcome) => return Ok(outcome),
        }
    }
    Err(Status::modified(call.resource.group(), &call.resource.plural, name))
}

fn check_preconditions(call: &Call, current: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let revision = current.revision().to_string();
    let uid = options.uid.as_deref().filter(|uid| *uid != current.uid());
    let version = options.resource_version.as_deref().filter(|v| *v != revision);
    let (wanted, found, what, why) = match (uid, version) {
        (Some(uid), _) => (uid, current.uid(), "UID", "The object might have been deleted and then recreated"),
        (None, Some(version)) => (version, &*revision, "ResourceVersion", "The object might have been modified"),
        (None, None) => return Ok(()),
    };
    // These two look for themselves, and each words it in its own way.
    let own = match (call.resource.group(), &*call.resource.plural) {
        ("", "namespaces") => Some("Precondition"),
        DEFINITIONS => Some("precondition"),
        _ => None,
    };
    if let Some(own) = own {
        let why = format!("{own} failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        return Err(Status::conflict(call.resource.group(), &call.resource.plural, current.name(), &why));
    }
    // Upstream names the kind here, where other conflicts name the resource.
    let stored = &call.resource.stored.gvk;
    let why = format!("the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). {why}");
    Err(Status::conflict(&stored.group, &stored.kind, current.name(), &why))
}

async fn attempt(
    call: &mut Call,
    namespace: &str,
    current: &Arc<Object>,
    options: &DeleteOptions,
    by: By,
) -> Result<Outcome, update::Failure> {
    let old = current.value_with_texts();
    let plan = plan(call, &old, options);
    if by == By::Request && plan != Plan::Keep {
        admit(call, namespace, current.name(), &old, options).await?;
    }
    match plan {
        Plan::Keep => Ok(Outcome::Leaving(current.clone())),
        Plan::Remove if options.dry_run => Ok(Outcome::Gone(current.clone())),
        Plan::Remove => erase(call, namespace, current).await,
        Plan::Mark(new) if options.dry_run => Ok(Outcome::LeavingDryRun(shown(call, *new))),
        Plan::Mark(new) => write_mark(call, current, *new).await.map(Outcome::Leaving),
        Plan::MarkAndRemove(new) if options.dry_run => Ok(Outcome::GoneDryRun(shown(call, *new))),
        Plan::MarkAndRemove(new) => {
            let marked = write_mark(call, current, *new).await?;
            match erase(call, namespace, &marked).await {
                // Somebody else has finished what the mark began.
                Err(update::Failure::Status(status)) if status.code == 404 => Ok(Outcome::Gone(marked)),
                other => other,
            }
        }
    }
}

fn plan(call: &Call, old: &Value, options: &DeleteOptions) -> Plan {
    let strategy = &call.resource.strategy;
    let rules = Rules {
        grace: strategy.grace_period_seconds(&call.cx(), old, options.grace_period_seconds),
        // Events have no dependents, whatever the options say.
        dependents: (&*call.resource.stored.prefix != "events").then(|| strategy.default_propagation()),
    };
    let decide = match (call.resource.group(), &*call.resource.plural) {
        ("", "namespaces") => deletion::plan_namespace,
        DEFINITIONS => deletion::plan_definition,
        _ => deletion::plan,
    };
    decide(old, options, rules, call.request.now)
}

async fn admit(call: &mut Call, namespace: &str, name: &str, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let option_value = serde_json::json!({ "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1" });
    let mut warnings = Vec::new();
    let admitted = {
        let attributes = call.attributes(Operation::Delete, name, namespace, options.dry_run, &option_value);
        call.api.admission.validate(&attributes, &call.api, None, Some(old), &mut warnings).await
    };
    call.warnings.append(&mut warnings);
    admitted
}

fn shown(call: &Call, mut new: Value) -> Value {
    embedded::forget(&call.resource.stored.embedded, &mut new);
    write::canonical(&call.resource, &mut new);
    convert::from_storage(&call.resource, new)
}

async fn write_mark(call: &Call, current: &Object, mut new: Value) -> Result<Arc<Object>, update::Failure> {
    let resource = &call.resource;
    write::canonical(resource, &mut new);
    let new = versions::write(&call.api, resource, new).await?;
    let cache = write::cache_of(&resource.stored)?;
    let written = call.api.storage.update(cache, &new, Some(current.revision()), write::ttl_seconds(&call.api, resource)).await;
    let written = written.map_err(|e| failure(call, e, current.name()))?;
    Ok(versions::read(&call.api, resource, written).await?)
}

/// Removes the object from storage, and gives back what was allocated for it.
async fn erase(call: &Call, namespace: &str, current: &Object) -> Result<Outcome, update::Failure> {
    let cache = write::cache_of(&call.resource.stored)?;
    let deleted = call.api.storage.delete(cache, namespace, current.name(), Some(current.revision())).await;
    let deleted = deleted.map_err(|e| failure(call, e, current.name()))?;
    allocation::release_deleted(call, &deleted.value()).await;
    Ok(Outcome::Gone(deleted))
}

fn failure(call: &Call, error: storage::Error, name: &str) -> update::Failure {
    match error {
        storage::Error::Conflict { .. } => update::Failure::Conflict,
        other => call.storage_error(other, name).into(),
    }
}
