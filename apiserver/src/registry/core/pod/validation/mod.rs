//! The rules of pods and of the pod templates that other kinds embed.
//!
//! Owns every field error about a PodSpec. It checks typed views of values that the engine has defaulted and made
//! canonical; it never changes an object and never checks the pod's own metadata beyond the annotations that carry pod settings.

mod annotations;
mod claim_template;
mod containers;
mod dns;
mod env;
mod handlers;
mod huge_pages;
mod mounts;
mod options;
mod os;
mod paths;
mod printed;
mod probes;
mod projected;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod recorded_answers;
mod resize;
mod resources;
mod scheduling;
mod security;
mod spec;
mod spread;
mod status;
mod update;
mod volume_sources;
mod volumes;
mod windows;

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use serde_json::Value;

pub use annotations::validate_pod_annotations;
pub(crate) use annotations::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD};
pub(crate) use huge_pages::is_huge_pages;
pub use options::Options;
pub use resize::validate_pod_resize;
pub(crate) use resources::{amount, is_pod_level};
pub use resources::{validate_container_resource_requirements, validate_overhead};
pub use scheduling::{validate_preemption_policy, validate_tolerations};
pub(crate) use security::validate_app_armor_profile;
pub use spec::validate_pod_spec;
pub use status::validate_pod_status_update;
pub use update::{validate_ephemeral_containers_update, validate_pod_update};

pub use crate::registry::core::resource::validate_container_name as validate_container_resource_name;

use super::access::{items, text};

/// One "Invalid value" per message.
pub(crate) fn invalid_all(path: &Path<'_>, value: impl Into<Value>, messages: Vec<String>) -> ErrorList {
    let value: Value = value.into();
    messages.into_iter().map(|message| Error::invalid(path, value.clone(), message)).collect()
}

/// The rules of a new pod, except those of its metadata.
pub fn validate_pod_create(pod: &Pod, opts: &Options) -> ErrorList {
    let mut errors = validate_pod_annotations_and_spec(pod, opts);
    let Some(spec) = &pod.spec else { return errors };
    let path = Path::new("spec");
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        errors.push(Error::forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared"));
    }
    errors.extend(annotations::validate_seccomp_matches(&pod.metadata, spec, &path));
    errors.extend(annotations::validate_app_armor_matches(&pod.metadata, spec, &path));
    errors
}

/// What holds for a pod at creation and at every change of it.
pub(super) fn validate_pod_annotations_and_spec(pod: &Pod, opts: &Options) -> ErrorList {
    let empty = Default::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let (meta_path, spec_path) = (Path::new("metadata"), Path::new("spec"));
    let mut errors = validate_pod_annotations(&pod.metadata, spec, &meta_path.child("annotations"), opts);
    errors.extend(validate_pod_spec(spec, Some(&pod.metadata), &spec_path, opts));
    if text(&spec.service_account_name).is_empty() {
        for (v, volume) in items(&spec.volumes).iter().enumerate() {
            let Some(projected) = &volume.projected else { continue };
            for (s, source) in items(&projected.sources).iter().enumerate() {
                if source.service_account_token.is_some() {
                    let volumes = spec_path.child("volumes");
                    let volume = volumes.index(v);
                    let (projected, sources);
                    projected = volume.child("projected");
                    sources = projected.child("sources");
                    let path = sources.index(s);
                    errors.push(Error::forbidden(
                        &path.child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    ));
                }
            }
        }
    }
    if let Some(seconds) = spec.termination_grace_period_seconds {
        errors.extend(apimachinery::validation::validate_nonnegative_field(seconds, &spec_path.child("terminationGracePeriodSeconds")));
    }
    for (name, list) in [("containers", spec.containers.as_slice()), ("initContainers", items(&spec.init_containers))] {
        let path = spec_path.child(name);
        for (i, container) in list.iter().enumerate() {
            errors.extend(containers::validate_container_only_for_pod(container, &path.index(i)));
        }
    }
    errors
}

/// The rules of a pod template: its labels, annotations and pod spec. `path` is that of the template.
pub fn validate_pod_template_spec(template: &PodTemplateSpec, path: &Path<'_>, opts: &Options) -> ErrorList {
    let (no_meta, no_spec, no_map) = (Default::default(), Default::default(), Default::default());
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    let spec_path = path.child("spec");
    let annotations_path = path.child("annotations");
    let mut errors = apimachinery::validation::validate_labels(meta.labels.as_ref().unwrap_or(&no_map), &path.child("labels"));
    errors.extend(apimachinery::validation::validate_annotations(meta.annotations.as_ref().unwrap_or(&no_map), &annotations_path));
    errors.extend(validate_pod_annotations(meta, spec, &annotations_path, opts));
    errors.extend(validate_pod_spec(spec, None, &spec_path, opts));
    errors.extend(annotations::validate_seccomp_matches(meta, spec, &spec_path));
    errors.extend(annotations::validate_app_armor_matches(meta, spec, &spec_path));
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(Error::forbidden(&spec_path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template"));
    }
    errors
}
