//! PersistentVolumeClaimResize: a claim grows only if it is bound and its class can grow volumes.

use apimachinery::status::Status;
use serde_json::Value;

use super::amounts;
use super::default_storage_class::class_of;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{bool_at, str_at};

/// The plugin.
pub struct PersistentVolumeClaimResize;

fn may_grow(lookup: &dyn Lookup, new: &Value, old: &Value) -> bool {
    let class = class_of(new);
    if class.is_empty() || class != class_of(old) {
        return false;
    }
    lookup.get("storage.k8s.io", "storageclasses", "", class).is_some_and(|class| bool_at(&class, "/allowVolumeExpansion"))
}

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Update || !attributes.is_main("", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(claim), Some(before)) = (new, old) else { return Ok(()) };
        let size = |claim: &Value| amounts::read(claim.pointer("/spec/resources/requests")).remove("storage").unwrap_or_default();
        if size(claim) <= size(before) {
            return Ok(());
        }
        if str_at(before, "/status/phase") != "Bound" {
            return Err(attributes.forbidden(new, "Only bound persistent volume claims can be expanded"));
        }
        if !may_grow(lookup, claim, before) {
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
            return Err(attributes.forbidden(new, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn growth_needs_a_bound_claim_and_a_willing_class() {
        let class = |name: &str, grows: bool| {
            ("storage.k8s.io", "storageclasses", json!({ "metadata": { "name": name }, "allowVolumeExpansion": grows }))
        };
        let objects = Objects::of(vec![class("grows", true), class("stays", false)]);
        let claim = |class: &str, size: &str, phase: &str| json!({ "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } }, "status": { "phase": phase } });
        let write = Write::new(Operation::Update, "", "v1", "persistentvolumeclaims");
        let check = |class: &str, phase: &str, from: &str, to: &str| {
            let (new, old) = (claim(class, to, phase), claim(class, from, phase));
            write.validate(&PersistentVolumeClaimResize, &objects, Some(&new), Some(&old))
        };
        assert!(check("grows", "Bound", "1Gi", "2Gi").is_ok());
        assert!(check("stays", "Bound", "2Gi", "1Gi").is_ok());
        assert!(check("grows", "Pending", "1Gi", "2Gi").unwrap_err().ends_with("Only bound persistent volume claims can be expanded"));
        assert!(check("stays", "Bound", "1Gi", "2Gi").unwrap_err().ends_with("must support resize"));
    }
}
