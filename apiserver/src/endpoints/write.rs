//! What creations, updates and patches share: preparing an object, tracking its owners, validating it, storing it.
//!
//! The order is the contract: decode and default, track ownership, mutating admission, the strategy's preparation, metadata and
//! kind validation, validating admission, canonical form, commit.

use std::cell::RefCell;
use std::collections::HashSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::managed_fields::{self, Converted, Converter, Filter};
use apimachinery::schema::canonical::{Empties, canonicalize};
use apimachinery::schema::defaults::apply_defaults;
use apimachinery::schema::embedded;
use apimachinery::status::Status;
use apimachinery::validation::{FinalizerRule, MetaRules, validate_object_meta, validate_object_meta_update, validate_path_segment_name};
use jiff::Timestamp;
use serde_json::Value;

use super::body::set_type_meta;
use super::{Call, convert, meta};
use crate::admission::{Attributes, Operation};
use crate::api::Api;
use crate::catalog::{Resource, Stored, SubresourceKind};
use crate::registry::resource::admin_access;
use crate::registry::{Cx, METADATA_CHECKED_AGAIN, METADATA_UNCHECKED, PLAIN_FINALIZERS, PLAIN_FINALIZERS_IN_STATUS, UpdateStrategy};
use crate::storage;

/// Times a write whose object changes underneath is tried again before the client is told.
pub const CONFLICT_ATTEMPTS: usize = 5;

/// The conversions that ownership needs: owners speak in the version that they wrote.
///
/// Ownership does not wait. Where a webhook converts, a conversion that is not known yet fails and is noted; whoever asked has it
/// made by [`Versions::learn`] and asks once more.
pub struct Versions<'a> {
    call: &'a Call,
    known: Vec<Known>,
    wanted: RefCell<Option<(String, Value)>>,
}

/// A conversion that a webhook has been asked for.
struct Known {
    api_version: String,
    object: Value,
    outcome: Result<Value, String>,
}

/// Conversions by a webhook for the sake of one write's ownership.
const MAX_OWNERSHIP_CONVERSIONS: usize = 64;

impl<'a> Versions<'a> {
    pub fn of(call: &'a Call) -> Versions<'a> {
        Versions { call, known: Vec::new(), wanted: RefCell::new(None) }
    }

    /// Makes the conversion that was wanting. False if none was, and what was computed counts.
    pub async fn learn(&mut self) -> bool {
        let Some((api_version, object)) = self.wanted.take() else { return false };
        let Some(converter) = &self.call.resource.webhook else { return false };
        let outcome = if self.known.len() < MAX_OWNERSHIP_CONVERSIONS {
            Box::pin(converter.convert_one(&self.call.api, object.clone(), &api_version)).await
        } else {
            Err(format!("more than {MAX_OWNERSHIP_CONVERSIONS} conversions are needed to tell who owns what"))
        };
        self.known.push(Known { api_version, object, outcome });
        true
    }

    fn by_webhook(&self, object: &Value, api_version: &str) -> Result<Value, String> {
        if let Some(known) = self.known.iter().find(|k| k.api_version == api_version && k.object == *object) {
            return known.outcome.clone();
        }
        *self.wanted.borrow_mut() = Some((api_version.to_owned(), object.clone()));
        Err("the conversion is still to be made".to_owned())
    }
}

impl Converter for Versions<'_> {
    fn convert<'a>(&'a self, object: &Value, api_version: &str) -> Result<Option<Converted<'a>>, String> {
        let find = |api_version: &str| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            self.call.other_version(group, version)
        };
        let Some(other) = find(api_version) else { return Ok(None) };
        if let Some(form) = &other.custom {
            let mut object = match &other.webhook {
                Some(_) => self.by_webhook(object, api_version)?,
                None => object.clone(),
            };
            if let Some(undeclared) = form.undeclared(&object) {
                return Err(format!("failed to convert new object: .{undeclared}: field not declared in schema"));
            }
            set_type_meta(&mut object, &other.gvk);
            return Ok(Some(Converted { object, types: &other.types, root: other.root() }));
        }
        let is_now = object.get("apiVersion").and_then(Value::as_str).and_then(find).unwrap_or(&self.call.resource);
        let stored = convert::to_storage(is_now, object.clone());
        let object = convert::from_storage(other, stored);
        Ok(Some(Converted { object, types: &other.types, root: other.root() }))
    }
}

impl Call {
    /// Another served version of the same stored resource.
    pub fn other_version(&self, group: &str, version: &str) -> Option<&Resource> {
        self.siblings.iter().map(|r| &**r).find(|r| &*r.gvk.group == group && &*r.gvk.version == version)
    }

    /// The strategy and ownership filter of the endpoint that is written to.
    pub fn update_rules(&self) -> Option<(&dyn UpdateStrategy, &Filter)> {
        match self.subresource().map(|s| &s.kind) {
            // A scale is written as the whole object with other replicas.
            None | Some(SubresourceKind::Scale) => Some((&*self.resource.strategy, &self.resource.filter)),
            Some(SubresourceKind::Object { strategy, filter }) => Some((&**strategy, filter)),
            Some(_) => None,
        }
    }

    pub fn cx(&self) -> Cx<'_> {
        Cx {
            now: self.request.now,
            subresource: &self.request.info.subresource,
            namespace: self.namespace(),
            user: &self.request.user.name,
            uid: &self.request.user.uid,
            groups: &self.request.user.groups,
            extra: &self.request.user.extra,
        }
    }

    pub fn attributes<'a>(
        &'a self,
        operation: Operation,
        name: &'a str,
        namespace: &'a str,
        dry_run: bool,
        options: &'a Value,
    ) -> Attributes<'a> {
        Attributes {
            operation,
            resource: &self.resource,
            subresource: &self.request.info.subresource,
            namespace,
            name,
            user: &self.request.user,
            dry_run,
            now: self.request.now,
            options,
        }
    }

    /// The objects of this resource in memory.
    pub fn cache(&self) -> Result<&std::sync::Arc<storage::Resource>, Status> {
        cache_of(&self.resource.stored)
    }

    /// Updates `new`'s managed fields after a write that is not an apply.
    pub async fn track_owners(&self, live: Option<&Value>, new: &mut Value, manager: &str, filter: &Filter, reset: bool) {
        if self.resource.webhook.is_some() {
            return Box::pin(self.track_owners_by_webhook(live, new, manager, filter, reset)).await;
        }
        let versions = Versions::of(self);
        let api_version = self.resource.api_version();
        let scope = self.ownership_scope(&api_version, filter, &versions);
        // Whose a field is does not depend on how its text is spaced.
        match embedded::without_texts(&self.resource.embedded, new) {
            None => managed_fields::on_update(&scope, live, new, manager, self.request.now, reset),
            Some(mut shown) => {
                managed_fields::on_update(&scope, live, &mut shown, manager, self.request.now, reset);
                match shown.pointer_mut("/metadata/managedFields").map(Value::take) {
                    Some(owners) => meta::metadata_mut(new).insert("managedFields".to_owned(), owners),
                    None => meta::metadata_mut(new).shift_remove("managedFields"),
                };
            }
        }
    }

    async fn track_owners_by_webhook(&self, live: Option<&Value>, new: &mut Value, manager: &str, filter: &Filter, reset: bool) {
        let mut versions = Versions::of(self);
        let api_version = self.resource.api_version();
        loop {
            let mut tracked = new.clone();
            {
                let scope = self.ownership_scope(&api_version, filter, &versions);
                managed_fields::on_update(&scope, live, &mut tracked, manager, self.request.now, reset);
            }
            if !versions.learn().await {
                *new = tracked;
                return;
            }
        }
    }

    /// What ownership needs to know of the endpoint.
    pub fn ownership_scope<'a>(
        &'a self,
        api_version: &'a str,
        filter: &'a Filter,
        versions: &'a Versions<'a>,
    ) -> managed_fields::Scope<'a> {
        managed_fields::Scope {
            types: &self.resource.types,
            root: self.resource.root(),
            api_version,
            kind: &self.resource.gvk.kind,
            subresource: &self.request.info.subresource,
            filter,
            converter: versions,
        }
    }

    /// Defaults an object of the resource's version and puts it in canonical form.
    pub fn complete(&self, object: &mut Value) {
        complete(&self.resource, object);
    }

    /// `Invalid`, if there are errors. What several rules find is said once: upstream loses repetitions when it sorts out
    /// what its declared rules have found as well.
    pub fn invalid(&self, name: &str, errors: &ErrorList) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        let mut said = HashSet::new();
        let distinct: ErrorList = errors.iter().filter(|error| said.insert(error.to_string())).cloned().collect();
        // Events of events.k8s.io are refused as the core's.
        Err(Status::invalid(&self.resource.stored.gvk.group, &self.resource.gvk.kind, name, &distinct))
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules { namespaced: self.resource.namespaced, name: self.resource.check_name, finalizers: finalizer_rule(&self.resource, "") }
    }

    /// The rules of any kind: a name that can be part of a path.
    fn common_rules(&self) -> MetaRules {
        MetaRules { name: validate_path_segment_name, finalizers: FinalizerRule::Qualified, ..self.meta_rules() }
    }

    /// The error at a place that asks for administrative access to devices, where the namespace does not allow it.
    fn unpermitted(&self, place: Option<String>) -> Option<Error> {
        let place = place.filter(|_| self.resource.group() == "resource.k8s.io")?;
        let catalog = self.api.catalog.load();
        let namespace = catalog.stored_resource("", "namespaces").and_then(|n| n.cache()).and_then(|n| n.get("", self.namespace()));
        let allowed = namespace.is_some_and(|n| n.labels().get(admin_access::NAMESPACE_LABEL) == Some("true"));
        (!allowed).then(|| Error::forbidden(&Path::new(&place), admin_access::refusal()))
    }

    /// The last steps of a creation: preparation, validation, admission. `object` is in the storage version.
    pub async fn admit_new(&mut self, object: &mut Value, namespace: &str, dry_run: bool, options: &Value) -> Result<(), Status> {
        let cx = self.cx();
        self.resource.strategy.prepare_for_create(&cx, object);
        let path = Path::new("metadata");
        let mut of_metadata: ErrorList = self.unpermitted(admin_access::asked_by(object)).into_iter().collect();
        if !METADATA_UNCHECKED.contains(&(self.resource.group(), &*self.resource.plural)) {
            of_metadata.extend(validate_object_meta(metadata(object), &self.meta_rules(), &path));
        }
        let (mut errors, mut warnings) = self.resource.strategy.check_new(&cx, object, of_metadata);
        if errors.is_empty() {
            // What holds for all kinds comes last, for a kind's own words are better.
            errors = validate_object_meta(metadata(object), &self.common_rules(), &path);
        }
        let name = meta::text(object, "name").to_owned();
        self.invalid(&name, &errors)?;
        let attributes = self.attributes(Operation::Create, &name, namespace, dry_run, options);
        let admitted = self.api.admission.validate(&attributes, &self.api, Some(object), None, &mut warnings).await;
        self.warnings.append(&mut warnings);
        admitted?;
        canonical(&self.resource, object);
        Ok(())
    }

    /// The last steps of an update: preparation, validation, admission. Both objects are in the storage version.
    pub async fn admit_change(&mut self, new: &mut Value, old: &Value, dry_run: bool, options: &Value) -> Result<(), Status> {
        let (strategy, _) =
            self.update_rules().ok_or_else(|| Status::method_not_supported(self.resource.group(), &self.resource.plural, "update"))?;
        let cx = self.cx();
        let generation = old.pointer("/metadata/generation").cloned();
        match generation {
            Some(generation) => {
                meta::metadata_mut(new).insert("generation".to_owned(), generation);
            }
            None => {
                meta::metadata_mut(new).shift_remove("generation");
            }
        }
        strategy.prepare_for_update(&cx, new, old);
        meta::keep_system_fields(new, old);
        if self.resource.custom.is_none() {
            canonical(&self.resource, new);
        }
        let path = Path::new("metadata");
        let mut errors = validate_object_meta(metadata(new), &self.common_rules(), &path);
        errors.extend(validate_object_meta_update(
            metadata(new),
            metadata(old),
            finalizer_rule(&self.resource, &self.request.info.subresource),
            &path,
        ));
        if self.request.info.subresource == "status" {
            errors.extend(self.unpermitted(admin_access::granted_by(new, old)));
        }
        let checked_again = METADATA_CHECKED_AGAIN.contains(&(self.resource.group(), &*self.resource.plural));
        if checked_again && self.request.info.subresource.is_empty() {
            errors.extend(validate_object_meta(metadata(new), &self.meta_rules(), &path));
        }
        errors.extend(strategy.validate_update(&cx, new, old));
        let name = meta::text(new, "name").to_owned();
        self.invalid(&name, &errors)?;
        let mut warnings = strategy.warnings_on_update(&cx, new, old);
        let attributes = self.attributes(Operation::Update, &name, self.namespace(), dry_run, options);
        let admitted = self.api.admission.validate(&attributes, &self.api, Some(new), Some(old), &mut warnings).await;
        self.warnings.append(&mut warnings);
        admitted?;
        if self.resource.custom.is_some() {
            // The rules were those of the version that was asked for; what is stored is the other's.
            canonical(&self.resource, new);
        }
        managed_fields::keep_timestamps(old, new);
        Ok(())
    }

    /// Bridges storage errors to the Status that a client sees.
    pub fn storage_error(&self, error: storage::Error, name: &str) -> Status {
        storage_status(&self.resource, error, name)
    }
}

/// The objects of a stored resource in memory.
pub fn cache_of(stored: &Stored) -> Result<&std::sync::Arc<storage::Resource>, Status> {
    stored.cache().ok_or_else(|| Status::service_unavailable("storage is (re)initializing"))
}

/// The one bridge from storage errors to Status.
pub fn storage_status(resource: &Resource, error: storage::Error, name: &str) -> Status {
    let (group, plural) = (resource.group(), &*resource.plural);
    match error {
        storage::Error::NotFound => Status::not_found(group, plural, name),
        storage::Error::AlreadyExists => Status::already_exists(group, plural, name),
        storage::Error::Conflict { .. } => Status::modified(group, plural, name),
        storage::Error::Expired(expired) => Status::watch_expired(expired.requested.0, expired.oldest.0),
        storage::Error::TooLargeRevision { requested, current } => {
            // Events are not kept in memory upstream, whose store does not say when to come again.
            let retry_after = if &*resource.stored.prefix == "events" { 0 } else { 1 };
            Status::too_large_resource_version(requested.0, current.0, retry_after)
        }
        storage::Error::Store(storage::StoreError::TooLarge { .. }) => Status::request_entity_too_large("limit is 1572864"),
        storage::Error::Store(full @ storage::StoreError::Full) => Status::unknown(full.to_string()),
        other => {
            tracing::error!(resource = plural, name, error = %other, "storage failed");
            Status::internal_error(&other.to_string())
        }
    }
}

/// Default, then canonical form, in the resource's own version. Empty lists and maps that are always written stay, for they
/// have owners; [`convert::drop_empties`] follows.
pub fn complete(resource: &Resource, object: &mut Value) {
    set_type_meta(object, &resource.gvk);
    if let Some(form) = &resource.custom {
        return form.complete(object);
    }
    apply_defaults(&resource.types, &resource.hooks, resource.type_id, object);
    canonicalize(&resource.types, resource.type_id, object, Empties::Keep);
}

/// The same for the outcome of an apply.
pub fn complete_applied(resource: &Resource, object: &mut Value) {
    match &resource.custom {
        Some(form) => {
            set_type_meta(object, &resource.gvk);
            form.complete_applied(object);
        }
        None => complete(resource, object),
    }
}

/// Canonical form in the storage version; where a webhook converts, in the version of the request.
pub fn canonical(resource: &Resource, object: &mut Value) {
    match (&resource.webhook, &resource.custom) {
        (Some(_), Some(form)) => {
            form.fit(object);
            form.complete(object);
        }
        _ => convert::canonical_stored(&resource.stored, object),
    }
}

fn metadata(object: &Value) -> &Value {
    object.get("metadata").unwrap_or(&Value::Null)
}

/// The groups that extend the API, and custom resources, check finalizers as qualified names alone.
fn finalizer_rule(resource: &Resource, subresource: &str) -> FinalizerRule {
    let plural = &*resource.plural;
    match resource.group() {
        group if subresource == "status" && PLAIN_FINALIZERS_IN_STATUS.contains(&(group, plural)) => FinalizerRule::Qualified,
        _ if resource.custom.is_some() => FinalizerRule::Qualified,
        "apiextensions.k8s.io" | "apiregistration.k8s.io" | "admissionregistration.k8s.io" => FinalizerRule::Qualified,
        group if PLAIN_FINALIZERS.contains(&(group, plural)) => FinalizerRule::Qualified,
        _ => FinalizerRule::Standard,
    }
}

/// The time to live of what a kind stores, in seconds: events are kept for a while.
pub fn ttl_seconds(api: &Api, resource: &Resource) -> Option<u32> {
    let seconds = (&*resource.stored.prefix == "events").then_some(api.told.event_ttl.as_secs())?;
    (seconds > 0).then(|| u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Milliseconds are dropped: what the API stores has whole seconds.
pub fn to_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
