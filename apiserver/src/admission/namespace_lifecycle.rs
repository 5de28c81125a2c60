//! NamespaceLifecycle: nothing is created in a namespace that is absent or on its way out, and the system's own namespaces stay.

use apimachinery::status::{Cause, Status};
use serde_json::Value;

use super::{Attributes, Lookup, Operation, Plugin};

/// Namespaces that nobody may delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle;

impl NamespaceLifecycle {
    fn check(attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Result<(), Status> {
        let is_namespace = attributes.resource.gvk.group.is_empty() && &*attributes.resource.plural == "namespaces";
        if attributes.operation == Operation::Delete
            && is_namespace
            && attributes.subresource.is_empty()
            && IMMORTAL.contains(&attributes.name)
        {
            return Err(Status::forbidden("", "namespaces", attributes.name, "this namespace may not be deleted"));
        }
        // A namespace is not in a namespace; reviews ask about namespaces that may not be there.
        let is_review =
            &*attributes.resource.gvk.group == "authorization.k8s.io" && &*attributes.resource.plural == "localsubjectaccessreviews";
        if attributes.namespace.is_empty() || is_namespace || is_review || attributes.operation == Operation::Delete {
            return Ok(());
        }
        let namespace = lookup
            .get("", "namespaces", "", attributes.namespace)
            .ok_or_else(|| Status::not_found("", "namespaces", attributes.namespace))?;
        if attributes.operation != Operation::Create || namespace.pointer("/status/phase").and_then(Value::as_str) != Some("Terminating") {
            return Ok(());
        }
        Err(terminating(attributes))
    }
}

/// The 403 for a creation in a namespace that is being deleted; its cause tells clients why.
fn terminating(attributes: &Attributes<'_>) -> Status {
    let resource = &*attributes.resource.plural;
    let group = &*attributes.resource.gvk.group;
    let why = format!("unable to create new content in namespace {} because it is being terminated", attributes.namespace);
    let mut status = Status::forbidden(group, resource, attributes.name, &why);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {} is being terminated", attributes.namespace),
            field: "metadata.namespace".to_owned(),
        });
    }
    status
}

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        _new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        NamespaceLifecycle::check(attributes, lookup)
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        // Deletions are not mutated, so they are checked here.
        if new.is_none() { NamespaceLifecycle::check(attributes, lookup) } else { Ok(()) }
    }
}
