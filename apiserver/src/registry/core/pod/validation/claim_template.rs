//! Ephemeral volumes: the claim that is made from their template.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{validate_annotations, validate_labels};
use k8s_openapi::api::core::v1::EphemeralVolumeSource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::registry::core::persistent_volume_claim::{SpecRules, validate_spec};
use crate::registry::core::pod::access::{items, text};

pub(super) fn validate_ephemeral(source: &EphemeralVolumeSource, path: &Path<'_>) -> ErrorList {
    let path = path.child("volumeClaimTemplate");
    let Some(template) = &source.volume_claim_template else { return vec![Error::required(&path, "")] };
    let mut errors = template.metadata.as_ref().map(|meta| validate_metadata(meta, &path.child("metadata"))).unwrap_or_default();
    errors.extend(validate_spec(&template.spec, SpecRules::default(), &path.child("spec")));
    errors
}

/// Labels and annotations, and nothing else.
fn validate_metadata(meta: &ObjectMeta, path: &Path<'_>) -> ErrorList {
    let none = Default::default();
    let mut errors = validate_annotations(meta.annotations.as_ref().unwrap_or(&none), &path.child("annotations"));
    errors.extend(validate_labels(meta.labels.as_ref().unwrap_or(&none), &path.child("labels")));
    // In the order of the struct, named as upstream names them.
    let others = [
        ("name", !text(&meta.name).is_empty()),
        ("generateName", !text(&meta.generate_name).is_empty()),
        ("namespace", !text(&meta.namespace).is_empty()),
        ("selfLink", !text(&meta.self_link).is_empty()),
        ("uID", !text(&meta.uid).is_empty()),
        ("resourceVersion", !text(&meta.resource_version).is_empty()),
        ("generation", meta.generation.unwrap_or(0) != 0),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        ("deletionGracePeriodSeconds", meta.deletion_grace_period_seconds.is_some()),
        ("ownerReferences", !items(&meta.owner_references).is_empty()),
        ("finalizers", !items(&meta.finalizers).is_empty()),
        ("managedFields", !items(&meta.managed_fields).is_empty()),
    ];
    for (name, _) in others.into_iter().filter(|(_, set)| *set) {
        errors.push(Error::forbidden(&path.child(name), "cannot be set"));
    }
    errors
}
