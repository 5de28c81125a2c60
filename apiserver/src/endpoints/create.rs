//! POST on a collection.

use apimachinery::managed_fields;
use apimachinery::schema::embedded;
use apimachinery::status::Status;
use http::StatusCode;
use serde_json::Value;

use super::options::WriteOptions;
use super::present::{Presenter, include_object};
use super::{Answer, Call, body, convert, meta, negotiate, versions, write};
use crate::admission::Operation;
use crate::allocation;
use crate::audit;
use crate::registry::read::at;
use crate::storage;

/// So many names are made up in search of one that is not taken.
const NAME_ATTEMPTS: usize = 8;

/// Creates the object in the request's body.
pub async fn create(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let encoding = negotiate::input(&call.request.headers)?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let decoded = body::decode_as(&call.resource, &bytes, encoding)?;
    body::validate_fields(&call.resource.gvk, decoded.problems, options.field_validation, &mut call.warnings)?;
    let object = decoded.value;
    audit::request_object(&object, |object| call.complete(object));
    let include = include_object(&form, call.query.get("includeObject").unwrap_or(""))?;
    let manager = options.manager(call.user_agent());
    let created = store(call, object, &manager, options.dry_run).await?;
    let presenter = Presenter { resource: &call.resource, form: &form, include_object: include, now: call.request.now };
    let response = match created {
        Created::Stored(object) => presenter.object(StatusCode::CREATED, &object, &call.request.headers)?,
        Created::DryRun(value) => presenter.value(StatusCode::CREATED, &value)?,
    };
    Ok(response)
}

/// What a creation gave.
pub enum Created {
    Stored(std::sync::Arc<storage::Object>),
    /// In the resource's version.
    DryRun(Value),
}

/// The creation itself, of a decoded object; also how a PUT creates.
pub async fn store(call: &mut Call, mut object: Value, manager: &str, dry_run: bool) -> Result<Created, Status> {
    meta::wipe_system_fields(&mut object);
    let namespace = call.namespace().to_owned();
    meta::ensure_namespace(&mut object, &namespace)?;
    let has_revision = !meta::text(&object, "resourceVersion").is_empty();
    let reset = managed_fields::asks_for_reset(&object);
    call.complete(&mut object);
    meta::dedup_owner_references(&mut object, "", &mut call.warnings);
    let resource = call.resource.clone();
    call.track_owners(None, &mut object, manager, &resource.filter, reset).await;
    place(call, object, dry_run, has_revision).await
}

/// The creation of an object whose owners are settled (by an apply, or by [`store`]); complete, in the resource's version.
pub async fn store_owned(call: &mut Call, object: Value, dry_run: bool) -> Result<Created, Status> {
    place(call, object, dry_run, false).await
}

/// An object that claims to have a revision is told so only when there is nothing else to say.
async fn place(call: &mut Call, object: Value, dry_run: bool, has_revision: bool) -> Result<Created, Status> {
    let resource = call.resource.clone();
    let namespace = call.namespace().to_owned();
    let mut object = convert::to_storage(&resource, object);
    convert::drop_empties(&resource, &mut object);
    let options = serde_json::json!({ "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" });
    let name = meta::text(&object, "name").to_owned();
    let mut warnings = std::mem::take(&mut call.warnings);
    let admitted = {
        let attributes = call.attributes(Operation::Create, &name, &namespace, dry_run, &options);
        call.api.admission.admit(&attributes, &call.api, &mut object, None, &mut warnings).await
    };
    call.warnings = warnings;
    admitted?;
    if resource.custom.as_ref().is_some_and(|form| form.terminating) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(resource.group(), &resource.plural, &name, why));
    }
    // Whoever gives a prefix as well is told of it, even if the name was not made of it.
    let has_prefix = !meta::text(&object, "generateName").is_empty();
    let generated = meta::wants_generated_name(&object);
    meta::fill_system_fields(&mut object, call.request.now);
    if generated {
        let name = unused_name(call, meta::text(&object, "generateName"));
        meta::set_text(&mut object, "name", &name);
    }
    let name = meta::text(&object, "name").to_owned();
    let taken = allocation::begin(call, &mut object, None, dry_run).await?;
    let mut admitted = call.admit_new(&mut object, &namespace, dry_run, &options).await;
    // A dry run does not come as far as the store, which says this.
    if has_revision && !dry_run {
        admitted = admitted.and_then(|()| Err(Status::unknown("resourceVersion should not be set on objects to be created")));
    }
    if let Err(refused) = admitted {
        taken.finish(&call.api, false).await;
        return Err(refused);
    }
    let committed = commit(call, object, dry_run).await;
    taken.finish(&call.api, committed.is_ok()).await;
    committed.map_err(|refused| match refused {
        Refused::Storage(storage::Error::AlreadyExists) if has_prefix => {
            Status::generate_name_conflict(resource.group(), &resource.plural, &name, 1)
        }
        Refused::Storage(storage::Error::AlreadyExists) => already_exists(call, &name),
        Refused::Storage(error) => call.storage_error(error, &name),
        Refused::Conversion(status) => *status,
    })
}

/// A made-up name that nobody has, as far as this server knows; the last try if all are taken.
fn unused_name(call: &Call, base: &str) -> String {
    let is_taken = |name: &String| call.resource.stored.cache().is_some_and(|cache| cache.get(call.namespace(), name).is_some());
    let mut name = meta::generate_name(base);
    for _ in 1..NAME_ATTEMPTS {
        if !is_taken(&name) {
            break;
        }
        name = meta::generate_name(base);
    }
    name
}

/// The name is taken; whether by an object on its way out is worth to know.
fn already_exists(call: &Call, name: &str) -> Status {
    let mut status = Status::already_exists(call.resource.group(), &call.resource.plural, name);
    let taken = call.resource.stored.cache().and_then(|cache| cache.get(call.namespace(), name));
    if taken.is_some_and(|object| !at(&object.value(), "/metadata/deletionTimestamp").is_null()) {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// Why an object was not created.
enum Refused {
    Storage(storage::Error),
    /// It could not be had in the stored version, or has been stored and cannot be had in the version of the request.
    Conversion(Box<Status>),
}

impl From<storage::Error> for Refused {
    fn from(error: storage::Error) -> Refused {
        Refused::Storage(error)
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        Refused::Conversion(Box::new(status))
    }
}

async fn commit(call: &Call, mut candidate: Value, dry_run: bool) -> Result<Created, Refused> {
    let resource = &call.resource;
    let Some(cache) = resource.stored.cache() else { return Err(storage::Error::NotFound.into()) };
    if dry_run {
        if cache.get(call.namespace(), meta::text(&candidate, "name")).is_some() {
            return Err(storage::Error::AlreadyExists.into());
        }
        embedded::forget(&resource.stored.embedded, &mut candidate);
        let candidate = versions::dry_run(&call.api, resource, candidate).await?;
        return Ok(Created::DryRun(convert::from_storage(resource, candidate)));
    }
    let candidate = versions::write(&call.api, resource, candidate).await?;
    let stored = call.api.storage.create(cache, &candidate, write::ttl_seconds(&call.api, resource)).await?;
    Ok(Created::Stored(versions::read(&call.api, resource, stored).await?))
}
