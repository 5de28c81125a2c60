//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use apimachinery::go_print::json_kind;
use apimachinery::managed_fields::{self, ApplyError};
use apimachinery::patch::{Answer as Refusal, restore};
use apimachinery::schema::{TypeId, Types, embedded};
use apimachinery::status::Status;
use apimachinery::{field, json, yaml};
use serde_json::{Map, Value};

use super::negotiate::PatchType;
use super::options::{FieldValidation, WriteOptions};
use super::present::include_object;
use super::update::{self, Change, Failure, Written};
use super::write::{self, Versions};
use super::{Answer, Call, body, convert, create, meta, negotiate};
use crate::storage::Object;

/// Applies the patch in the request's body.
pub async fn patch(call: &mut Call) -> Answer {
    let patch_type = negotiate::patch_type(&call.request.headers)?;
    if call.resource.custom.is_some() && patch_type == PatchType::Strategic {
        let types = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
        return Err(Status::unsupported_media_type(&types));
    }
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "PatchOptions", patch_type == PatchType::Apply)?;
    crate::audit::request_patch(&bytes);
    let include = include_object(&form, call.query.get("includeObject").unwrap_or(""))?;
    let manager = options.manager(call.user_agent());
    let written = if patch_type == PatchType::Apply {
        apply(call, &bytes, &options, &manager).await?
    } else {
        modify(call, patch_type, &bytes, &options, &manager).await?
    };
    update::respond(call, &form, include, written)
}

/// A patch applied to an object: the outcome, and what a strict reader of the patch would have refused.
pub struct Patched {
    pub value: Value,
    pub problems: Vec<String>,
    /// The patch as it is after a strategic merge took its directives: what the error of an undecodable outcome shows.
    pub shown: Option<Value>,
}

/// The patched form of an object by one of the patches that are not an apply.
pub fn patched(
    types: &Types,
    id: TypeId,
    patch_type: PatchType,
    bytes: &[u8],
    current: &Value,
    validation: FieldValidation,
) -> Result<Patched, Status> {
    use apimachinery::patch::{json as json_patch, merge, strategic};
    let strict = validation != FieldValidation::Ignore;
    let (mut document, duplicates) = read_patch(bytes)?;
    let mut problems: Vec<String> = duplicates.iter().map(|path| format!("duplicate field {}", field::quote(path))).collect();
    let refuse = |answer, text: String| refusal(answer, text);
    let value = match patch_type {
        PatchType::Json => {
            let (patch, unknown) = json_patch::Patch::decode(&document, strict).map_err(|e| refuse(e.answer(), e.to_string()))?;
            problems.extend(unknown);
            patch.apply(current).map_err(|e| refuse(e.answer(), e.to_string()))?
        }
        PatchType::Merge => merge::apply(current, &document, strict).map_err(|e| refuse(e.answer(), e.to_string()))?,
        PatchType::Strategic => {
            let value = strategic::apply(types, id, current, &mut document).map_err(|e| refuse(e.answer(), e.to_string()))?;
            return Ok(Patched { value, problems, shown: Some(document) });
        }
        PatchType::Apply => {
            return Err(Status::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ]));
        }
    };
    Ok(Patched { value, problems, shown: None })
}

/// A patch as JSON, with the paths of the members that it has twice.
fn read_patch(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    json::parse(bytes).map_err(|_| Status::bad_request("invalid JSON patch"))
}

/// The Status that a refused patch gets.
fn refusal(answer: Refusal, text: String) -> Status {
    match answer {
        Refusal::BadRequest => Status::bad_request(text),
        Refusal::TooLarge => Status::request_entity_too_large(text.trim_start_matches("Request entity is too large: ")),
        Refusal::Rejected => Status::generic(422, "", "", "", "", ""),
        Refusal::Internal => Status::unknown(text),
    }
}

/// 422 for a patch whose outcome is no object of the kind.
pub fn undecodable(patched: &Value, shown: Option<&Value>, why: &str) -> Status {
    let text = match shown {
        Some(patch) => apimachinery::go_print::plain(patch),
        None => json::to_string(patched),
    };
    let errors = vec![field::Error::invalid(&field::Path::new("patch"), text, why)];
    Status::invalid("", "", "", &errors)
}

async fn modify(call: &mut Call, patch_type: PatchType, bytes: &[u8], options: &WriteOptions, manager: &str) -> Result<Written, Status> {
    for attempt in 1.. {
        let Some(current) = call.current().await? else {
            // What is no patch at all is refused before anybody looks for the object.
            read_patch(bytes)?;
            return Err(call.not_found());
        };
        let before = convert::from_storage(&call.resource, current.value());
        let patched = patched(&call.resource.types, call.resource.type_id, patch_type, bytes, &before, options.field_validation)?;
        let mut object = check_patched(call, patched, options)?;
        if call.resource.namespaced {
            meta::ensure_namespace(&mut object, call.namespace())?;
        }
        update::check_name(call, &object)?;
        let reset = managed_fields::asks_for_reset(&object);
        let pinned = meta::text(&object, "resourceVersion") != meta::text(&before, "resourceVersion");
        call.complete(&mut object);
        let old = is_as_stored(call, &current).then_some(before);
        let change = Change { object, reset, manager: manager.to_owned(), dry_run: options.dry_run, apply: false, old };
        match update::replace(call, &current, change).await {
            Err(Failure::Conflict) if !pinned && attempt < write::CONFLICT_ATTEMPTS => {}
            Err(Failure::Conflict) => return Err(update::modified(call)),
            Err(Failure::Status(status)) => return Err(*status),
            Ok(written) => return Ok(written),
        }
    }
    Err(update::modified(call))
}

/// Whether the object is the same in the version that the call speaks and where it lies.
fn is_as_stored(call: &Call, current: &Object) -> bool {
    call.resource.conversion.is_none() && !current.has_texts()
}

/// The patched object must still be of the endpoint's kind and decode as it.
fn check_patched(call: &mut Call, patched: Patched, options: &WriteOptions) -> Result<Value, Status> {
    let Patched { value: mut object, mut problems, shown } = patched;
    if shown.is_some() {
        // A strategic merge is of typed objects, whose kind is not theirs to change.
        body::set_type_meta(&mut object, &call.resource.gvk);
    }
    let before = object.clone();
    if let Some((_, _, reason)) = body::wrong_kind(&object, &call.resource.gvk) {
        return Err(undecodable(&before, shown.as_ref(), &reason));
    }
    if let Some(shown) = &shown {
        restore::restore(&call.resource.types, call.resource.type_id, &mut object)
            .map_err(|e| undecodable(&before, Some(shown), &e.to_string()))?;
    }
    let encoding = if shown.is_some() { as_restored } else { str::to_owned };
    let unknown = call.resource.read(&mut object).map_err(|e| undecodable(&before, shown.as_ref(), &encoding(&e)))?;
    if shown.is_some() {
        embedded::rewrite(&call.resource.embedded, &mut object);
    }
    problems.extend(unknown.iter().map(|p| format!("unknown field {}", field::quote(p))));
    match options.field_validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(undecodable(&before, shown.as_ref(), &format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Warn => {
            call.warnings.extend(problems);
            Ok(object)
        }
        _ => Ok(object),
    }
}

/// Server-side apply of a configuration to the named object, which is made if it is not there.
pub async fn apply(call: &mut Call, bytes: &[u8], options: &WriteOptions, manager: &str) -> Result<Written, Status> {
    let config = read_config(bytes)?;
    let mut is_checked = false;
    for attempt in 1.. {
        let current = call.current().await?;
        let before = current.as_ref().map(|c| convert::from_storage(&call.resource, c.value()));
        if let (None, false) = (&before, call.request.info.subresource.is_empty()) {
            return Err(call.not_found());
        }
        let mut object = applied(call, before.as_ref(), &config.value, manager, options.force.unwrap_or(false)).await?;
        if !std::mem::replace(&mut is_checked, true) {
            config.validate(options.field_validation, &mut call.warnings)?;
        }
        typed(call, &config.value, &mut object)?;
        match current.as_ref().filter(|current| keeps_texts(call, current, before.as_ref(), &object)) {
            Some(current) => object = with_owners_of(current.value_with_texts(), &object),
            None => embedded::rewrite(&call.resource.embedded, &mut object),
        }
        write::complete_applied(&call.resource, &mut object);
        if call.resource.namespaced {
            meta::ensure_namespace(&mut object, call.namespace())?;
        }
        update::check_name(call, &object)?;
        let Some(current) = current else {
            update::revision(&object)?;
            let uid = meta::text(&object, "uid");
            if !uid.is_empty() {
                let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                return Err(Status::conflict(call.resource.group(), &call.resource.plural, call.name(), &why));
            }
            meta::metadata_mut(&mut object).shift_remove("resourceVersion");
            meta::ensure_namespace(&mut object, call.namespace())?;
            let outcome = create::store_owned(call, object, options.dry_run).await?;
            return Ok(Written { outcome, created: true });
        };
        let pinned = !meta::text(&config.value, "resourceVersion").is_empty();
        let old = before.filter(|_| is_as_stored(call, &current));
        let change = Change { object, reset: false, manager: manager.to_owned(), dry_run: options.dry_run, apply: true, old };
        match update::replace(call, &current, change).await {
            Err(Failure::Conflict) if !pinned && attempt < write::CONFLICT_ATTEMPTS => {}
            Err(Failure::Conflict) => return Err(update::modified(call)),
            Err(Failure::Status(status)) => return Err(*status),
            Ok(written) => return Ok(written),
        }
    }
    Err(update::modified(call))
}

/// Whether an apply changes nothing of an object but who owns what: embedded objects then keep the texts that they were sent with.
fn keeps_texts(call: &Call, current: &Object, before: Option<&Value>, applied: &Value) -> bool {
    let members = |object: &Value| -> Option<Map<String, Value>> {
        let mut members = object.as_object()?.clone();
        members.get_mut("metadata")?.as_object_mut()?.shift_remove("managedFields");
        Some(members)
    };
    current.has_texts() && call.resource.conversion.is_none() && before.and_then(members) == members(applied)
}

/// An object whose fields have the owners that those of another have.
fn with_owners_of(mut object: Value, other: &Value) -> Value {
    let metadata = meta::metadata_mut(&mut object);
    match other.pointer("/metadata/managedFields") {
        Some(owners) => {
            metadata.insert("managedFields".to_owned(), owners.clone());
        }
        None => {
            metadata.shift_remove("managedFields");
        }
    }
    object
}

/// What is said of a value whose type reads it from text, where a tree is converted.
fn as_restored(why: &str) -> String {
    if why.starts_with("illegal base64") { format!("error decoding from json: {why}") } else { why.to_owned() }
}

/// Reads what an apply has put together as an object of its kind. Numbers become what their fields hold, however little that is.
fn typed(call: &Call, config: &Value, object: &mut Value) -> Result<(), Status> {
    let resource = &call.resource;
    if resource.custom.is_some() {
        return match resource.read(object) {
            Ok(_) => Ok(()),
            Err(why) => Err(Status::bad_request(body::cannot_be_handled(&resource.gvk, &why))),
        };
    }
    let restored = restore::restore(&resource.types, resource.type_id, object).map_err(|e| e.to_string());
    restored.and_then(|()| resource.read(object).map(drop)).map_err(|why| {
        let gvk = &resource.gvk;
        let kind = format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
        let named = format!("{}/{}; {kind}", meta::text(config, "namespace"), meta::text(config, "name"));
        let unconverted = format!("unable to convert unstructured object to {kind}: {}", as_restored(&why));
        Status::unknown(format!("failed to convert new object ({named}) to proper version: {unconverted}"))
    })
}

/// An applied configuration, and what a strict reader would have refused in its text.
pub struct Config {
    pub value: Value,
    problem: Option<yaml::Error>,
}

/// The applied configuration: YAML, and so JSON. Whether it is of the endpoint's kind is for ownership to say.
pub fn read_config(bytes: &[u8]) -> Result<Config, Status> {
    let yaml::Parsed { value, strict_error } = yaml::parse(bytes).map_err(|e| {
        // Upstream makes JSON of what does not look like it first, for the audit log.
        let looks_like_json = bytes.trim_ascii_start().starts_with(b"{");
        let what = if looks_like_json { "decoding patch: error converting YAML to JSON" } else { "encoding patch" };
        Status::bad_request(format!("error {what}: {e}"))
    })?;
    match value {
        Value::Object(_) => Ok(Config { value, problem: strict_error }),
        Value::Null => Ok(Config { value: Value::Object(Map::new()), problem: None }),
        other => Err(Status::bad_request(format!(
            "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            json_kind(&other)
        ))),
    }
}

impl Config {
    /// Says what is wrong with the text, once it has been applied. Unknown fields are refused by then.
    pub fn validate(&self, validation: FieldValidation, warnings: &mut Vec<String>) -> Result<(), Status> {
        match (&self.problem, validation) {
            (None, _) | (_, FieldValidation::Ignore) => Ok(()),
            (Some(problem), FieldValidation::Warn) => {
                warnings.extend(body::warnings_of(&problem.to_string()));
                Ok(())
            }
            (Some(problem), FieldValidation::Strict) => {
                Err(Status::bad_request(format!("error strict decoding patch: error converting YAML to JSON: {problem}")))
            }
        }
    }
}

async fn applied(call: &Call, before: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, Status> {
    let filter = match call.update_rules() {
        Some((_, filter)) => filter,
        None => return Err(Status::method_not_supported(call.resource.group(), &call.resource.plural, "apply")),
    };
    let api_version = call.resource.api_version();
    let mut versions = Versions::of(call);
    loop {
        let applied = {
            let scope = call.ownership_scope(&api_version, filter, &versions);
            managed_fields::apply(&scope, before, config, manager, call.request.now, force)
        };
        if !versions.learn().await {
            return applied.map_err(apply_refused);
        }
    }
}

/// The Status that a refused apply gets.
pub fn apply_refused(error: ApplyError) -> Status {
    match error {
        ApplyError::BadRequest(message) => Status::bad_request(message),
        ApplyError::Internal(message) => Status::unknown(message),
        ApplyError::Conflict(conflicts) => {
            let causes = conflicts
                .causes()
                .into_iter()
                .map(|c| apimachinery::status::Cause { reason: c.reason.to_owned(), message: c.message, field: c.field })
                .collect();
            Status::apply_conflict(causes, conflicts.to_string())
        }
    }
}
