//! Ownership through the `scale` subresource, whose `spec.replicas` stands for a field of the main resource.

use serde_json::Value;

use super::{
    entries::{DecodeError, Managed, Owned},
    path::PathElement,
    set::FieldSet,
};

const SCALE_VERSION: &str = "autoscaling/v1";

/// Where each version of a kind has its replicas: (`apps/v1`, `spec.replicas`). `None` for a version without a scale.
pub type ReplicasPaths<'a> = &'a [(&'a str, Option<&'a str>)];

fn steps(path: &str) -> Vec<PathElement> {
    path.split('.').map(PathElement::field).collect()
}

fn lookup<'a>(paths: ReplicasPaths<'a>, version: &str) -> Option<Option<&'a str>> {
    paths.iter().find(|(known, _)| *known == version).map(|(_, path)| *path)
}

/// The `managedFields` of a Scale, given those of its parent; `None` if nobody owns the replicas.
pub fn to_scale(parent: &[Value], paths: ReplicasPaths<'_>) -> Result<Option<Value>, DecodeError> {
    let mut managed = Managed::decode(parent)?;
    managed.fields.retain(|_, owned| matches!(lookup(paths, &owned.api_version), Some(Some(path)) if owned.set.has(&steps(path))));
    for owned in managed.fields.values_mut() {
        owned.set = FieldSet::of_fields(&["spec.replicas"]);
        owned.api_version = SCALE_VERSION.to_owned();
    }
    Ok(managed.encode())
}

/// The parent's `managedFields` after a write to its Scale, whose entries are now `scale`. `parent_version` is the version
/// of the endpoint.
pub fn from_scale(parent: &[Value], scale: &[Value], paths: ReplicasPaths<'_>, parent_version: &str) -> Result<Option<Value>, DecodeError> {
    let Managed { fields: parent_fields, times } = Managed::decode(parent)?;
    let Managed { fields: mut scale_fields, .. } = Managed::decode(scale)?;
    let mut out = Managed { fields: Default::default(), times: times.clone() };
    for (id, mut owned) in parent_fields {
        // Entries of an unknown version are dropped.
        let Some(path) = lookup(paths, &owned.api_version) else { continue };
        let owns_replicas = path.map(steps).filter(|path| owned.set.has(path));
        if let Some(path) = owns_replicas
            && scale_fields.remove(&id).is_none()
        {
            let mut taken = FieldSet::new();
            taken.insert(&path);
            owned.set = owned.set.difference(&taken);
        }
        if !owned.set.is_empty() {
            out.fields.insert(id, owned);
        }
    }
    let Some(Some(path)) = lookup(paths, parent_version) else { return Ok(out.encode()) };
    for (id, owned) in scale_fields {
        if !owned.set.has(&steps("spec.replicas")) {
            continue;
        }
        // Upstream takes the time from the parent's entries, where a new owner has none: it stays without.
        if let Some(time) = times.get(&id) {
            out.times.insert(id.clone(), time.clone());
        }
        let set = FieldSet::of_fields(&[path]);
        out.fields.insert(id, Owned { set, api_version: parent_version.to_owned(), applied: owned.applied });
    }
    Ok(out.encode())
}
