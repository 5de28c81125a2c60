//! `pods/eviction`: a pod's deletion, if its disruption budget can spare it.
//!
//! What a budget says is decided in [`crate::registry::core::pod::eviction`]; this finds budgets, writes them and deletes the pod.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use apimachinery::status::{Cause, Details, Status};
use http::Method;
use serde_json::Value;

use super::{Posted, Takes, created, posted};
use crate::admission::Operation;
use crate::catalog::{Gvk, SubresourceKind};
use crate::endpoints::delete::{By, remove_by};
use crate::endpoints::options::{DeleteOptions, Query};
use crate::endpoints::update::{self, Change, Failure};
use crate::endpoints::{Answer, Call, convert, meta, write};
use crate::filters::Authorized;
use crate::registry::Cx;
use crate::registry::core::pod::eviction::{self, Refused, Verdict};
use crate::registry::read::{at, str_at};
use crate::storage::{self, Freshness, Object};

/// How often a pod or a budget that changes underneath is looked at again, as upstream.
const ATTEMPTS: usize = 20;
const CAUSE: &str = "DisruptionBudget";

/// Evicts the pod that the path names.
pub async fn evict(call: &mut Call) -> Answer {
    let takes = Takes { gvk: Gvk::new("policy", "v1", "Eviction"), schema: "io.k8s.api.policy.v1.Eviction", also: &["v1beta1"] };
    let Posted { object, options, form } = posted(call, &takes).await?;
    let object = admitted(call, object, options.dry_run).await?;
    let asked = if options.dry_run { vec!["All".to_owned()] } else { Vec::new() };
    let wanted = eviction::delete_options(&object, &asked).map_err(Status::unknown)?;
    let wanted = DeleteOptions::from_body(&wanted)?;
    let status = run(call, &wanted).await?;
    created(&form, status)
}

async fn admitted(call: &mut Call, mut object: Value, dry_run: bool) -> Result<Value, Status> {
    let name = call.name().to_owned();
    let create_options = serde_json::json!({ "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" });
    let mut warnings = std::mem::take(&mut call.warnings);
    {
        let attributes = call.attributes(Operation::Create, &name, call.namespace(), dry_run, &create_options);
        call.api.admission.admit(&attributes, &call.api, &mut object, None, &mut warnings).await?;
    }
    eviction::check(&object, &name).map_err(|refused| match refused {
        Refused::BadRequest(why) => Status::bad_request(why),
        Refused::Invalid(errors) => Status::invalid("policy", "Eviction", &name, &errors),
    })?;
    let attributes = call.attributes(Operation::Create, &name, call.namespace(), dry_run, &create_options);
    call.api.admission.validate(&attributes, &call.api, Some(&object), None, &mut warnings).await?;
    call.warnings = warnings;
    Ok(object)
}

/// The eviction itself. A Status that is no success may be the answer to a request that as such succeeded.
async fn run(call: &mut Call, wanted: &DeleteOptions) -> Result<Status, Status> {
    let mut last = Status::modified("", "pods", call.name());
    for _ in 0..ATTEMPTS {
        let pod = call.fresh_named().await?;
        let value = pod.value();
        let budgets = budgets_of(call, &value)?;
        let found: Vec<&Value> = budgets.iter().collect();
        let unchanged = match eviction::decide(&value, &found, call.request.now) {
            Verdict::Delete { unchanged } => unchanged,
            Verdict::DeleteAfter { budget } => match spend(call, &budget, wanted.dry_run).await {
                Ok(()) => false,
                Err(Failure::Conflict) => {
                    last = Status::modified("policy", "poddisruptionbudgets", meta::text(&budget, "name"));
                    continue;
                }
                Err(Failure::Status(status)) => return Err(*status),
            },
            refused => return answer(refused),
        };
        let (pinned, pending) = (wanted.resource_version.is_some(), str_at(&value, "/status/phase") == "Pending");
        let mut options = wanted.clone();
        if unchanged && !(pinned && pending) {
            options.resource_version = Some(pod.revision().to_string());
        }
        match mark_and_delete(call, options).await {
            Ok(()) => return Ok(Status::success(None)),
            // The pod has changed since it was judged. A pending one is judged again; one that was spared for being unhealthy
            // may have become healthy, and the client is told to come again.
            Err(status) if status.reason == "Conflict" && unchanged && !pinned => match found.first() {
                Some(budget) if !pending => return answer(eviction::still_processed(meta::text(budget, "name"))),
                _ => last = status,
            },
            Err(status) => return Err(status),
        }
    }
    Err(last)
}

/// The answer where a budget speaks against the eviction.
fn answer(verdict: Verdict) -> Result<Status, Status> {
    match verdict {
        Verdict::TooManyRequests { retry_after_seconds, cause } => {
            let seconds = u32::try_from(retry_after_seconds).unwrap_or(0);
            Err(with_cause(Status::too_many_requests(Verdict::too_many_requests_message(), seconds), cause))
        }
        Verdict::Forbidden { budget, reason, cause } => {
            Err(with_cause(Status::forbidden("policy", "poddisruptionbudget", &budget, reason), cause))
        }
        Verdict::Failure(message) => Ok(Status { code: 500, message: message.to_owned(), ..Status::default() }),
        Verdict::Delete { .. } | Verdict::DeleteAfter { .. } => Ok(Status::success(None)),
    }
}

fn with_cause(mut status: Status, message: String) -> Status {
    let details = status.details.get_or_insert_with(Details::default);
    details.causes.push(Cause { reason: CAUSE.to_owned(), message, field: String::new() });
    status
}

/// The budgets that select the pod. One whose selector cannot be read selects nothing.
fn budgets_of(call: &Call, pod: &Value) -> Result<Vec<Value>, Status> {
    let catalog = call.api.catalog.load();
    let Some(stored) = catalog.stored_resource("policy", "poddisruptionbudgets") else { return Ok(Vec::new()) };
    let snapshot = write::cache_of(stored)?.snapshot();
    let labels = at(pod, "/metadata/labels").as_object().cloned().unwrap_or_default();
    let selects = |budget: &Value| {
        let selector = budget.pointer("/spec/selector");
        Selector::from_value(selector).is_ok_and(|selector| selector.matches(&labels))
    };
    Ok(snapshot.range(call.namespace(), None).map(|budget| budget.value()).filter(selects).collect())
}

/// Writes a budget's status as the API server itself.
async fn spend(call: &Call, budget: &Value, dry_run: bool) -> Result<(), Failure> {
    if dry_run {
        return Ok(());
    }
    let name = meta::text(budget, "name");
    let path = format!("/apis/policy/v1/namespaces/{}/poddisruptionbudgets/{name}/status", call.namespace());
    let request = Authorized::loopback(Method::PUT, &path, "kube-apiserver");
    let catalog = call.api.catalog.load_full();
    let resource = catalog.find("policy", "v1", "poddisruptionbudgets").cloned();
    let resource = resource.ok_or_else(|| Status::internal_error("poddisruptionbudgets are not served"))?;
    let siblings = catalog.versions_of(&resource);
    let mut own = Call { api: call.api.clone(), request, resource, siblings, query: Query::default(), warnings: Vec::new() };
    let current: Arc<Object> = own.fresh_named().await?;
    let change =
        Change { object: budget.clone(), reset: false, manager: "kube-apiserver".to_owned(), dry_run: false, apply: false, old: None };
    update::replace(&mut own, &current, change).await.map(|_| ())
}

/// Tells in the pod's status why it goes, and deletes it.
async fn mark_and_delete(call: &mut Call, mut options: DeleteOptions) -> Result<(), Status> {
    if !options.dry_run {
        let marked = mark(call, &options).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(marked.revision().to_string());
        }
    }
    let (namespace, name) = (call.namespace().to_owned(), call.name().to_owned());
    remove_by(call, &namespace, &name, &options, By::Endpoint).await.map(|_| ())
}

async fn mark(call: &Call, options: &DeleteOptions) -> Result<Arc<Object>, Status> {
    let cache = call.cache()?;
    let name = call.name();
    for _ in 0..ATTEMPTS {
        let current = call.api.storage.get(cache, call.namespace(), name, Freshness::Latest).await;
        let current = current.map_err(|error| call.storage_error(error, name))?;
        check_preconditions(&current, options)?;
        let old = current.value();
        let mut new = old.clone();
        eviction::mark(&mut new, call.request.now);
        if let Some(SubresourceKind::Object { strategy, .. }) = call.resource.subresources.get("status").map(|s| &s.kind) {
            strategy.prepare_for_update(&Cx { subresource: "status", ..call.cx() }, &mut new, &old);
        }
        convert::canonical_stored(&call.resource.stored, &mut new);
        match call.api.storage.update(cache, &new, Some(current.revision()), None).await {
            Ok(marked) => return Ok(marked),
            Err(storage::Error::Conflict { .. }) => {}
            Err(error) => return Err(call.storage_error(error, name)),
        }
    }
    Err(Status::modified("", "pods", name))
}

/// The words differ from those of a deletion in that they name the kind.
fn check_preconditions(current: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let refuse = |why: String| Err(Status::conflict("", "Pod", current.name(), &why));
    if let Some(uid) = options.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != current.uid()) {
        let found = current.uid();
        return refuse(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
        ));
    }
    let revision = current.revision().to_string();
    if let Some(version) = options.resource_version.as_deref().filter(|v| !v.is_empty() && *v != revision) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
        ));
    }
    Ok(())
}
