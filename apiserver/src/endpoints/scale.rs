//! The `scale` subresource: `autoscaling/v1` Scale over a workload's replicas.
//!
//! A write changes the replicas of the workload itself, by the workload's own rules; who owns them is tracked in terms of the Scale
//! and carried over.

use std::borrow::Cow;

use apimachinery::managed_fields::{self, Filter, OneVersion, Root, from_scale, to_scale};
use apimachinery::schema::TypeId;
use apimachinery::status::Status;
use http::StatusCode;
use serde_json::Value;

use super::create::Created;
use super::negotiate::{self, PatchType, Transform};
use super::options::{FieldValidation, WriteOptions};
use super::present::{ListMeta, include_object, metadata_only};
use super::update::{self, Change, Failure};
use super::{Answer, Call, body, convert, meta, patch, respond, write};
use crate::catalog::{Gvk, Resource, TypesHandle};
use crate::registry::autoscaling::scale as rules;
use crate::registry::read::list_at;
use crate::registry::table;
use crate::storage::Object;

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";
const API_VERSION: &str = "autoscaling/v1";
const REPLICAS: &str = "spec.replicas";

fn gvk() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

fn type_id() -> Result<TypeId, Status> {
    apimachinery::schema::builtin().lookup(SCHEMA).ok_or_else(|| Status::internal_error("no schema for Scale"))
}

/// The Scale of an object in the resource's version. A custom object that is only read must have replicas.
fn scale_of(call: &Call, object: &Value, read: bool) -> Result<Value, Status> {
    if let Some(paths) = custom_paths(&call.resource) {
        return paths.of(object, read);
    }
    rules::of(object).map_err(|e| Status::bad_request(e.to_string()))
}

/// Where a custom object has its replicas.
fn custom_paths(resource: &Resource) -> Option<&crate::crd::scale::Paths> {
    resource.custom.as_ref().and_then(|form| form.scale.as_ref())
}

fn parent_of(call: &Call, object: &Object) -> Value {
    convert::from_storage(&call.resource, object.value())
}

/// GET, PUT and PATCH of a scale.
pub async fn scale(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), negotiate::Offer::OBJECT)?;
    match call.request.info.verb.as_str() {
        "get" => {
            let object = call.fresh_named().await?;
            let scale = scale_of(call, &parent_of(call, &object), true)?;
            respond_with(call, &form, &scale)
        }
        "update" => replace(call, &form).await,
        "patch" => patch_scale(call, &form).await,
        _ => Err(Status::method_not_supported(call.resource.group(), &call.resource.plural, &call.request.info.verb)),
    }
}

/// Answers with a Scale, whole, as a Table or as metadata.
fn respond_with(call: &Call, form: &negotiate::Form, scale: &Value) -> Answer {
    let shown = match &form.transform {
        Transform::None => Cow::Borrowed(scale),
        Transform::Table(version) => {
            let include = include_object(form, call.query.get("includeObject").unwrap_or(""))?;
            let meta = ListMeta { resource_version: meta::text(scale, "resourceVersion").to_owned(), ..ListMeta::default() };
            let row = table::Shown { printed: scale, object: scale };
            let printer = if call.resource.custom.is_some() { &crate::crd::scale::PRINTER } else { &rules::PRINTER };
            Cow::Owned(table::build(printer, version, std::iter::once(row), &meta.to_value(), include, true, call.request.now))
        }
        Transform::Metadata(version) | Transform::MetadataList(version) => Cow::Owned(metadata_only(scale, version)),
    };
    respond::value(StatusCode::OK, &shown, form)
}

/// What a write makes of the current Scale: the wanted one, and whether its ownership has been settled (by an apply).
struct Wanted {
    scale: Value,
    settled: bool,
}

async fn replace(call: &mut Call, form: &negotiate::Form) -> Answer {
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let encoding = negotiate::input(&call.request.headers)?;
    let (gvk, types) = (gvk(), TypesHandle::Builtin(apimachinery::schema::builtin()));
    let expected = body::Expected { gvk: &gvk, types: &types, type_id: type_id()? };
    let decoded = body::decode(&bytes, encoding, &expected)?;
    body::validate_fields(&gvk, decoded.problems, options.field_validation, &mut call.warnings)?;
    let mut wanted = decoded.value;
    crate::audit::request_object(&wanted, |_| {});
    meta::ensure_namespace(&mut wanted, call.namespace())?;
    update::check_name(call, &wanted)?;
    write_scale(call, form, &options, move |_, _| Ok(Wanted { scale: wanted.clone(), settled: false })).await
}

async fn patch_scale(call: &mut Call, form: &negotiate::Form) -> Answer {
    let patch_type = negotiate::patch_type(&call.request.headers)?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "PatchOptions", patch_type == PatchType::Apply)?;
    crate::audit::request_patch(&bytes);
    let (manager, field_validation) = (options.manager(call.user_agent()), options.field_validation);
    let force = options.force.unwrap_or(false);
    write_scale(call, form, &options, move |call, current| {
        if patch_type == PatchType::Apply {
            let scale = applied(call, &bytes, current, &manager, field_validation, force)?;
            return Ok(Wanted { scale, settled: true });
        }
        let types = apimachinery::schema::builtin();
        let patch::Patched { value: mut patched, mut problems, shown } =
            patch::patched(types, type_id()?, patch_type, &bytes, current, field_validation)?;
        let before = patched.clone();
        let unknown = apimachinery::schema::decode::decode(types, type_id()?, &mut patched)
            .map_err(|e| patch::undecodable(&before, shown.as_ref(), &e.to_string()))?;
        problems.extend(unknown.iter().map(|p| format!("unknown field {}", apimachinery::field::quote(p))));
        match field_validation {
            FieldValidation::Strict if !problems.is_empty() => {
                let why = format!("strict decoding error: {}", problems.join(", "));
                return Err(patch::undecodable(&before, shown.as_ref(), &why));
            }
            FieldValidation::Warn => call.warnings.extend(problems),
            _ => {}
        }
        Ok(Wanted { scale: patched, settled: false })
    })
    .await
}

/// A Scale with an applied configuration in it.
fn applied(
    call: &mut Call,
    bytes: &[u8],
    current: &Value,
    manager: &str,
    field_validation: FieldValidation,
    force: bool,
) -> Result<Value, Status> {
    let read = patch::read_config(bytes)?;
    let mut config = read.value.clone();
    let types = apimachinery::schema::builtin();
    if let Ok(unknown) = apimachinery::schema::decode::decode(types, type_id()?, &mut config.clone()) {
        let problems = unknown.iter().map(|p| format!("unknown field {}", apimachinery::field::quote(p))).collect();
        body::validate_fields(&gvk(), problems, field_validation, &mut call.warnings)?;
    }
    if meta::text(&config, "name").is_empty() {
        meta::set_text(&mut config, "name", call.name());
    }
    let filter = Filter::default();
    let scope = scope(&filter)?;
    let applied = managed_fields::apply(&scope, Some(current), &config, manager, call.request.now, force).map_err(patch::apply_refused)?;
    read.validate(field_validation, &mut call.warnings)?;
    Ok(applied)
}

/// What ownership needs to know of a Scale.
fn scope(filter: &Filter) -> Result<managed_fields::Scope<'_>, Status> {
    Ok(managed_fields::Scope {
        types: apimachinery::schema::builtin(),
        root: Root::Builtin(type_id()?),
        api_version: API_VERSION,
        kind: "Scale",
        subresource: "scale",
        filter,
        converter: &OneVersion,
    })
}

/// Writes the replicas of a wanted Scale into the object.
async fn write_scale(
    call: &mut Call,
    form: &negotiate::Form,
    options: &WriteOptions,
    mut wanted: impl FnMut(&mut Call, &Value) -> Result<Wanted, Status>,
) -> Answer {
    let manager = options.manager(call.user_agent());
    for attempt in 1.. {
        let current = call.fresh_named().await?;
        let parent = parent_of(call, &current);
        let before = with_owners(call, scale_of(call, &parent, false)?, &parent)?;
        let Wanted { mut scale, settled } = wanted(call, &before)?;
        let version = meta::text(&scale, "resourceVersion").to_owned();
        let reset = managed_fields::asks_for_reset(&scale);
        check(call, &scale, &parent)?;
        if !settled {
            let filter = Filter::default();
            managed_fields::on_update(&scope(&filter)?, Some(&before), &mut scale, &manager, call.request.now, reset);
        }
        let object = scaled(call, &scale, parent)?;
        let change = Change { object, reset: false, manager: manager.clone(), dry_run: options.dry_run, apply: true, old: None };
        let unpinned = version.is_empty() || meta::text(&before, "resourceVersion") == version;
        match update::replace(call, &current, change).await {
            Err(Failure::Conflict) if unpinned && attempt < write::CONFLICT_ATTEMPTS => {}
            Err(Failure::Conflict) => return Err(update::modified(call)),
            Err(Failure::Status(status)) => return Err(*status),
            Ok(written) => {
                let value = match &written.outcome {
                    Created::Stored(object) => scale_of(call, &parent_of(call, object), false)?,
                    Created::DryRun(value) => scale_of(call, value, false)?,
                };
                return respond_with(call, form, &value);
            }
        }
    }
    Err(update::modified(call))
}

/// Where each served version of the workload has its replicas.
fn versions(call: &Call) -> Vec<(String, Option<&str>)> {
    let replicas = |resource: &Resource| resource.custom.is_none().then_some(REPLICAS);
    let versions = call.siblings.iter();
    versions.map(|r| (r.api_version(), replicas(r).or_else(|| custom_paths(r).map(|paths| paths.owned())))).collect()
}

fn owners(object: &Value) -> &[Value] {
    list_at(object, "/metadata/managedFields")
}

/// The Scale with the owners that the workload's replicas have.
fn with_owners(call: &Call, mut scale: Value, parent: &Value) -> Result<Value, Status> {
    let versions = versions(call);
    let paths: Vec<(&str, Option<&str>)> = versions.iter().map(|(version, path)| (version.as_str(), *path)).collect();
    if let Some(entries) = to_scale(owners(parent), &paths).map_err(|e| Status::unknown(e.to_string()))? {
        meta::metadata_mut(&mut scale).insert("managedFields".to_owned(), entries);
    }
    Ok(scale)
}

/// The workload with the replicas of a Scale and with its owners.
fn scaled(call: &Call, scale: &Value, mut parent: Value) -> Result<Value, Status> {
    let versions = versions(call);
    let paths: Vec<(&str, Option<&str>)> = versions.iter().map(|(version, path)| (version.as_str(), *path)).collect();
    let entries = from_scale(owners(&parent), owners(scale), &paths, &call.resource.api_version());
    let entries = entries.map_err(|e| Status::unknown(e.to_string()))?;
    let metadata = meta::metadata_mut(&mut parent);
    match entries {
        Some(entries) => metadata.insert("managedFields".to_owned(), entries),
        None => metadata.shift_remove("managedFields"),
    };
    match custom_paths(&call.resource) {
        Some(paths) => paths.apply(scale, &mut parent),
        None => rules::apply(scale, &mut parent),
    }
    Ok(parent)
}

fn check(call: &Call, scale: &Value, parent: &Value) -> Result<(), Status> {
    if let Err(why) = rules::uid_precondition(scale, parent) {
        return Err(Status::conflict(call.resource.group(), &format!("{}/scale", call.resource.plural), call.name(), &why));
    }
    if call.resource.custom.is_some() {
        // The object's own rules say where its replicas are.
        return Ok(());
    }
    let errors = rules::validate_update(scale);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("autoscaling", "Scale", call.name(), &errors)) }
}
