//! Ephemeral volumes: the claim that is made from their template.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    LabelSelectorOptions, is_dns1123_label, is_dns1123_subdomain, name_is_dns_subdomain, validate_annotations, validate_label_selector,
    validate_labels,
};
use k8s_openapi::api::core::v1::{EphemeralVolumeSource, PersistentVolumeClaimSpec, TypedLocalObjectReference, TypedObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::invalid_all;
use crate::registry::core::pod::access::{items, text};
use crate::registry::core::resource::{quantity, validate_amount};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

pub(super) fn validate_ephemeral(source: &EphemeralVolumeSource, path: &Path<'_>) -> ErrorList {
    let path = path.child("volumeClaimTemplate");
    let Some(template) = &source.volume_claim_template else { return vec![Error::required(&path, "")] };
    let mut errors = template.metadata.as_ref().map(|meta| validate_metadata(meta, &path.child("metadata"))).unwrap_or_default();
    errors.extend(validate_claim_spec(&template.spec, &path.child("spec")));
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

fn validate_claim_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>) -> ErrorList {
    let modes = items(&spec.access_modes);
    let modes_path = path.child("accessModes");
    let mut errors = ErrorList::new();
    if modes.is_empty() {
        errors.push(Error::required(&modes_path, "at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        errors.extend(validate_label_selector(selector, LabelSelectorOptions::default(), &path.child("selector")));
    }
    let known = |mode: &String| ACCESS_MODES.contains(&mode.as_str());
    for mode in modes.iter().filter(|mode| !known(mode)) {
        errors.push(Error::not_supported(&modes_path, mode.as_str(), ACCESS_MODES));
    }
    if modes.iter().any(|m| m == "ReadWriteOncePod") && modes.iter().any(|m| known(m) && m != "ReadWriteOncePod") {
        errors.push(Error::forbidden(&modes_path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors.extend(validate_storage(spec, &path.child("resources").key("storage")));
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        errors.extend(invalid_all(&path.child("storageClassName"), class, name_is_dns_subdomain(class, false)));
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !VOLUME_MODES.contains(mode)) {
        errors.push(Error::not_supported(&path.child("volumeMode"), mode, VOLUME_MODES));
    }
    errors.extend(validate_data_sources(spec, path));
    let attributes = text(&spec.volume_attributes_class_name);
    if !attributes.is_empty() {
        errors.extend(invalid_all(&path.child("volumeAttributesClassName"), attributes, name_is_dns_subdomain(attributes, false)));
    }
    errors
}

fn validate_storage(spec: &PersistentVolumeClaimSpec, path: &Path<'_>) -> ErrorList {
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let Some(storage) = requests.and_then(|requests| requests.get("storage")) else { return vec![Error::required(path, "")] };
    let amount = quantity(&storage.0);
    if amount.sign() <= 0 {
        return vec![Error::invalid(path, storage.0.as_str(), "must be greater than zero")];
    }
    validate_amount("storage", &amount, path)
}

fn validate_data_sources(spec: &PersistentVolumeClaimSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(TypedLocalObjectReference { api_group, kind, name }) = &spec.data_source {
        errors.extend(validate_reference(text(api_group), kind, name, &path.child("dataSource")));
    }
    let Some(TypedObjectReference { api_group, kind, name, namespace }) = &spec.data_source_ref else { return errors };
    let reference = path.child("dataSourceRef");
    errors.extend(validate_reference(text(api_group), kind, name, &reference));
    let namespace = text(namespace);
    if !namespace.is_empty() {
        errors.extend(invalid_all(&reference.child("namespace"), namespace, is_dns1123_label(namespace)));
    }
    let Some(source) = &spec.data_source else { return errors };
    // Upstream prints a path where the value should be; a path prints as an empty object.
    if !namespace.is_empty() {
        errors.push(Error::invalid(path, json!({}), "may not be specified when dataSourceRef.namespace is specified"));
    } else if (&source.api_group, &source.kind, &source.name) != (api_group, kind, name) {
        errors.push(Error::invalid(path, json!({}), "must match dataSourceRef"));
    }
    errors
}

fn validate_reference(group: &str, kind: &str, name: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.push(Error::invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
    }
    if !group.is_empty() {
        errors.extend(invalid_all(&path.child("apiGroup"), group, is_dns1123_subdomain(group)));
    }
    errors
}
