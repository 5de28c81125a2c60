//! PUT on an object or a subresource that is the same object.

use std::sync::Arc;

use apimachinery::managed_fields;
use apimachinery::schema::embedded;
use apimachinery::status::Status;
use http::StatusCode;
use serde_json::Value;

use super::create::{self, Created};
use super::options::WriteOptions;
use super::present::{Presenter, include_object};
use super::{Answer, Call, body, convert, meta, negotiate, versions, write};
use crate::admission::Operation;
use crate::allocation;
use crate::audit;
use crate::storage::{self, Object};

/// Replaces the object by the request's body.
pub async fn update(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let encoding = negotiate::input(&call.request.headers)?;
    let decoded = body::decode_as(&call.resource, &bytes, encoding)?;
    body::validate_fields(&call.resource.gvk, decoded.problems, options.field_validation, &mut call.warnings)?;
    let mut object = decoded.value;
    audit::request_object(&object, |object| call.complete(object));
    check_names(call, &mut object)?;
    let include = include_object(&form, call.query.get("includeObject").unwrap_or(""))?;
    let manager = options.manager(call.user_agent());
    let reset = managed_fields::asks_for_reset(&object);
    call.complete(&mut object);
    let version = meta::text(&object, "resourceVersion").to_owned();
    let mut attempt = 0;
    let written = loop {
        attempt += 1;
        let change = Change { object: object.clone(), reset, manager: manager.clone(), dry_run: options.dry_run, apply: false, old: None };
        match put(call, change).await {
            Err(Failure::Conflict) if version.is_empty() && attempt < write::CONFLICT_ATTEMPTS => {}
            Err(Failure::Conflict) => return Err(modified(call)),
            Err(Failure::Status(status)) => return Err(*status),
            Ok(written) => break written,
        }
    };
    respond(call, &form, include, written)
}

/// Writes what an update made as a response.
pub fn respond(call: &mut Call, form: &negotiate::Form, include: crate::registry::table::IncludeObject, written: Written) -> Answer {
    let presenter = Presenter { resource: &call.resource, form, include_object: include, now: call.request.now };
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let response = match &written.outcome {
        Created::Stored(object) => presenter.object(code, object, &call.request.headers)?,
        Created::DryRun(value) => presenter.value(code, value)?,
    };
    Ok(response)
}

/// The result of an update.
pub struct Written {
    pub outcome: Created,
    pub created: bool,
}

/// A new state of an object, in the resource's version, defaulted and canonical.
pub struct Change {
    pub object: Value,
    /// The body asked for ownership to be forgotten.
    pub reset: bool,
    pub manager: String,
    pub dry_run: bool,
    /// Ownership has been settled by an apply.
    pub apply: bool,
    /// The object that is replaced, if somebody has read it: as [`Object::value_with_texts`] gives it.
    pub old: Option<Value>,
}

/// Why an update did not happen.
pub enum Failure {
    /// The object has changed since it was read.
    Conflict,
    Status(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Status(Box::new(status))
    }
}

/// 409 for a write over a state that is no longer current.
pub fn modified(call: &Call) -> Status {
    Status::modified(call.resource.group(), &call.resource.plural, call.name())
}

/// The body's namespace must be the path's (an absent one becomes it), and so must its name.
fn check_names(call: &Call, object: &mut Value) -> Result<(), Status> {
    meta::ensure_namespace(object, call.namespace())?;
    check_name(call, object)
}

/// The object must have the name that the path has, and no other namespace.
pub fn check_name(call: &Call, object: &Value) -> Result<(), Status> {
    let (name, namespace) = (meta::text(object, "name"), meta::text(object, "namespace"));
    let refuse = |why: String| Err(Status::bad_request(why));
    if name.is_empty() {
        return refuse(format!("the name of the object ({} based on URL) was undeterminable: name must be provided", call.name()));
    }
    if name != call.name() {
        return refuse(format!("the name of the object ({name}) does not match the name on the URL ({})", call.name()));
    }
    if call.resource.namespaced && !namespace.is_empty() && namespace != call.namespace() {
        return refuse(format!("the namespace of the object ({namespace}) does not match the namespace on the URL ({})", call.namespace()));
    }
    Ok(())
}

/// One attempt of an update over the object as it is now.
pub async fn put(call: &mut Call, change: Change) -> Result<Written, Failure> {
    let current = match call.current().await? {
        Some(current) => current,
        None => {
            if !call.resource.strategy.allow_create_on_update() || !call.request.info.subresource.is_empty() {
                return Err(call.not_found().into());
            }
            let outcome = create_instead(call, change).await?;
            return Ok(Written { outcome, created: true });
        }
    };
    // A PUT says which object it is about; a patch that changes the uid is merely invalid.
    let uid = meta::text(&change.object, "uid");
    if !uid.is_empty() && uid != current.uid() {
        return Err(precondition_failed(call, uid, current.uid(), change.dry_run).into());
    }
    replace(call, &current, change).await
}

async fn create_instead(call: &mut Call, change: Change) -> Result<Created, Failure> {
    let mut object = change.object;
    if !meta::text(&object, "uid").is_empty() {
        return Err(precondition_failed(call, meta::text(&object, "uid"), "", change.dry_run).into());
    }
    meta::metadata_mut(&mut object).shift_remove("resourceVersion");
    Ok(create::store(call, object, &change.manager, change.dry_run).await?)
}

/// Replaces `current` if it is still current.
pub async fn replace(call: &mut Call, current: &Arc<Object>, change: Change) -> Result<Written, Failure> {
    let old = change.old.unwrap_or_else(|| current.value_with_texts());
    let mut object = change.object;
    let mut warnings = std::mem::take(&mut call.warnings);
    // A patch is looked at later upstream, and so says.
    let when = if call.request.method == http::Method::PATCH { " after mutating admission happens" } else { "" };
    meta::dedup_owner_references(&mut object, when, &mut warnings);
    let resource = call.resource.clone();
    if !change.apply {
        let (_, filter) = call.update_rules().ok_or_else(|| Status::method_not_supported(resource.group(), &resource.plural, "update"))?;
        let shown = embedded::without_texts(&resource.stored.embedded, &old);
        let live = convert::view(&resource, shown.as_ref().unwrap_or(&old));
        call.track_owners(Some(&live), &mut object, &change.manager, filter, change.reset).await;
    }
    let mut new = convert::to_storage(&resource, object);
    convert::drop_empties(&resource, &mut new);
    let options = serde_json::json!({ "kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1" });
    let admitted = {
        let attributes = call.attributes(Operation::Update, current.name(), call.namespace(), change.dry_run, &options);
        call.api.admission.admit(&attributes, &call.api, &mut new, Some(&old), &mut warnings).await
    };
    call.warnings = warnings;
    admitted?;
    check_version(call, current, &mut new)?;
    meta::ensure_namespace(&mut new, call.namespace())?;
    let taken = allocation::begin(call, &mut new, Some(&old), change.dry_run).await?;
    let outcome = match call.admit_change(&mut new, &old, change.dry_run, &options).await {
        Ok(()) => commit(call, current, new, change.dry_run).await,
        Err(refused) => Err(refused.into()),
    };
    taken.finish(&call.api, outcome.is_ok()).await;
    Ok(Written { outcome: outcome?, created: false })
}

/// The revision that an object claims to be of; 0 if none.
pub fn revision(object: &Value) -> Result<u64, Status> {
    match meta::text(object, "resourceVersion") {
        "" => Ok(0),
        given => given
            .parse()
            .map_err(|_| Status::unknown(format!("strconv.ParseUint: parsing {}: invalid syntax", apimachinery::field::quote(given)))),
    }
}

/// The body's resourceVersion must be the current one; where the kind allows, none at all means "whatever is current".
fn check_version(call: &Call, current: &Object, new: &mut Value) -> Result<(), Failure> {
    let given = meta::text(new, "resourceVersion");
    if given.is_empty() {
        if !call.resource.strategy.allow_unconditional_update() {
            let error = apimachinery::field::Error::invalid(
                &apimachinery::field::Path::new("metadata.resourceVersion"),
                0,
                "must be specified for an update",
            );
            // Upstream names the resource where a kind is due.
            return Err(Status::invalid(call.resource.group(), &call.resource.plural, call.name(), &vec![error]).into());
        }
    } else {
        let version = revision(new)?;
        if version != 0 && version != current.revision().0 {
            return Err(Failure::Conflict);
        }
    }
    meta::set_text(new, "resourceVersion", &current.revision().to_string());
    Ok(())
}

async fn commit(call: &mut Call, current: &Arc<Object>, mut new: Value, dry_run: bool) -> Result<Created, Failure> {
    let resource = call.resource.clone();
    let cache = write::cache_of(&resource.stored)?;
    if dry_run {
        embedded::forget(&resource.stored.embedded, &mut new);
        let new = versions::dry_run(&call.api, &resource, new).await?;
        return Ok(Created::DryRun(convert::from_storage(&resource, new)));
    }
    let result = if is_finished(&new) {
        // The last finalizer of an object on its way out: this update is its deletion.
        call.api.storage.delete(cache, call.namespace(), current.name(), Some(current.revision())).await.map(|_| {
            embedded::forget(&resource.stored.embedded, &mut new);
            // Clients of an update expect the object that they sent, at the version that it replaced.
            Created::DryRun(convert::from_storage(&resource, new))
        })
    } else {
        let new = versions::write(&call.api, &resource, new).await?;
        call.api.storage.update(cache, &new, Some(current.revision()), write::ttl_seconds(&call.api, &resource)).await.map(Created::Stored)
    };
    match result {
        Ok(Created::Stored(object)) => Ok(Created::Stored(versions::read(&call.api, &resource, object).await?)),
        Ok(other) => Ok(other),
        Err(storage::Error::Conflict { .. }) => Err(Failure::Conflict),
        Err(other) => Err(call.storage_error(other, call.name()).into()),
    }
}

/// Whether an object is being deleted, has no finalizers left and no grace period to wait for.
fn is_finished(object: &Value) -> bool {
    let metadata = object.get("metadata");
    let field = |name: &str| metadata.and_then(|m| m.get(name)).filter(|v| !v.is_null());
    field("deletionTimestamp").is_some()
        && field("finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && field("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
        && object
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_none_or(|f| f.is_empty() || object.get("kind").and_then(Value::as_str) != Some("Namespace"))
}

/// 409 for a uid that is not the stored object's. The key in it is the store's, but for a dry run, which has none: there it is the one
/// below the store's prefix.
pub fn precondition_failed(call: &Call, wanted: &str, found: &str, dry_run: bool) -> Status {
    let key = format!("{}{}", if dry_run { "" } else { "/registry" }, storage_key(call));
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
    );
    Status::conflict(call.resource.group(), &call.resource.plural, call.name(), &why)
}

fn storage_key(call: &Call) -> String {
    let namespace = call.namespace();
    let separator = if namespace.is_empty() { "" } else { "/" };
    format!("/{}/{namespace}{separator}{}", call.resource.stored.prefix, call.name())
}
