//! `pods/binding` and `bindings`: a pod's assignment to a node.

use apimachinery::field::aggregate;
use apimachinery::status::Status;
use serde_json::Value;

use super::{Posted, Takes, created, pods, posted};
use crate::admission::Operation;
use crate::catalog::{Gvk, Resource};
use crate::endpoints::{Answer, Call, convert, meta, write};
use crate::registry::core::binding::validate_binding;
use crate::registry::core::pod::assignment::assign;
use crate::storage::{self, Freshness, Object};

/// Assigns the pod that the path names, or on the collection the one that the body names.
pub async fn bind(call: &mut Call) -> Answer {
    let takes = Takes { gvk: Gvk::new("", "v1", "Binding"), schema: "io.k8s.api.core.v1.Binding", also: &[] };
    let Posted { object: mut binding, options, form } = posted(call, &takes).await?;
    let name = meta::text(&binding, "name").to_owned();
    let dry_run = options.dry_run;
    let admitted = if call.name().is_empty() { name.clone() } else { call.name().to_owned() };
    let create_options = serde_json::json!({ "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" });
    let mut warnings = std::mem::take(&mut call.warnings);
    {
        let attributes = call.attributes(Operation::Create, &admitted, call.namespace(), dry_run, &create_options);
        call.api.admission.admit(&attributes, &call.api, &mut binding, None, &mut warnings).await?;
    }
    if !call.name().is_empty() && name != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let errors = validate_binding(&binding);
    if !errors.is_empty() {
        return Err(Status::unknown(aggregate(&errors)));
    }
    {
        let attributes = call.attributes(Operation::Create, &admitted, call.namespace(), dry_run, &create_options);
        call.api.admission.validate(&attributes, &call.api, Some(&binding), None, &mut warnings).await?;
    }
    call.warnings = warnings;
    assign_pod(call, &binding, &name, dry_run).await?;
    created(&form, Status::success(None))
}

async fn assign_pod(call: &Call, binding: &Value, name: &str, dry_run: bool) -> Result<(), Status> {
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let pods = pods(call)?;
    let cache = write::cache_of(&pods.stored)?;
    let failed = |error| write::storage_status(&pods, error, name);
    for _ in 0..write::CONFLICT_ATTEMPTS * 4 {
        let current = call.api.storage.get(cache, call.namespace(), name, Freshness::Latest).await.map_err(failed)?;
        check_preconditions(&pods, call.namespace(), &current, binding)?;
        let mut pod = current.value();
        assign(&mut pod, binding, call.request.now).map_err(|why| Status::conflict("", "pods/binding", name, &why))?;
        if dry_run {
            return Ok(());
        }
        convert::canonical_stored(&pods.stored, &mut pod);
        match call.api.storage.update(cache, &pod, Some(current.revision()), None).await {
            Ok(_) => return Ok(()),
            Err(storage::Error::Conflict { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Status::modified("", "pods", name))
}

/// The identity that the binding names must be the pod's.
fn check_preconditions(pods: &Resource, namespace: &str, current: &Object, binding: &Value) -> Result<(), Status> {
    let revision = current.revision().to_string();
    for (what, wanted, found) in
        [("UID", meta::text(binding, "uid"), current.uid()), ("ResourceVersion", meta::text(binding, "resourceVersion"), &revision)]
    {
        if !wanted.is_empty() && wanted != found {
            let key = format!("/registry/{}/{namespace}/{}", pods.stored.prefix, current.name());
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            );
            return Err(Status::conflict("", "pods", current.name(), &why));
        }
    }
    Ok(())
}
