//! Annotations that carry pod settings: mirror pods, deletion cost, and the old forms of tolerations, seccomp and AppArmor.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path, quote};
use k8s_openapi::api::core::v1::{PodSpec, SeccompProfile, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::options::Options;
use super::paths::validate_local_descending_path;
use super::scheduling::validate_tolerations_with;
use crate::registry::core::pod::access::{any_container, visit_containers};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
pub(crate) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(crate) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(crate) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";
const RUNTIME_DEFAULT: &str = "runtime/default";
const DOCKER_DEFAULT: &str = "docker/default";
const UNCONFINED: &str = "unconfined";

static NONE: BTreeMap<String, String> = BTreeMap::new();

pub(super) fn of(meta: &ObjectMeta) -> &BTreeMap<String, String> {
    meta.annotations.as_ref().unwrap_or(&NONE)
}

/// The pod mirrors a static pod of a node.
pub(crate) fn is_mirror_pod(meta: &ObjectMeta) -> bool {
    of(meta).contains_key(MIRROR)
}

/// Absent, or a 32-bit integer without plus sign and leading zeros.
pub(super) fn deletion_cost_is_valid(meta: &ObjectMeta) -> bool {
    let Some(cost) = of(meta).get(DELETION_COST) else { return true };
    let first = matches!(cost.as_bytes(), [b'-' | b'1'..=b'9', ..] | [b'0']);
    first && cost.parse::<i32>().is_ok()
}

/// The annotations of a pod or of a template.
pub fn validate_pod_annotations(meta: &ObjectMeta, spec: &PodSpec, path: &Path<'_>, opts: &Options) -> ErrorList {
    let annotations = of(meta);
    let mut errors = ErrorList::new();
    if let Some(value) = annotations.get(MIRROR)
        && spec.node_name.as_deref().unwrap_or_default().is_empty()
    {
        errors.push(Error::invalid(&path.key(MIRROR), value.as_str(), "must set spec.nodeName if mirror pod annotation is set"));
    }
    if let Some(value) = annotations.get(TOLERATIONS).filter(|value| !value.is_empty()) {
        match serde_json::from_str::<Vec<Toleration>>(value) {
            Ok(tolerations) => errors.extend(validate_tolerations_with(&tolerations, &path.child(TOLERATIONS), opts)),
            Err(error) => errors.push(Error::invalid(path, TOLERATIONS, error.to_string())),
        }
    }
    if !opts.allow_invalid_pod_deletion_cost && !deletion_cost_is_valid(meta) {
        let cost = annotations.get(DELETION_COST).map(String::as_str).unwrap_or_default();
        errors.push(Error::invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer"));
    }
    if let Some(profile) = annotations.get(SECCOMP_POD) {
        errors.extend(validate_seccomp_annotation(profile, &path.child(SECCOMP_POD)));
    }
    for (key, profile) in annotations.iter().filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        errors.extend(validate_seccomp_annotation(profile, &path.child(key)));
    }
    for (key, profile) in annotations {
        let Some(name) = key.strip_prefix(APP_ARMOR) else { continue };
        if !any_container(spec, &|c| c.name == name) {
            errors.push(Error::invalid(&path.key(key), name, "container not found"));
        }
        if !matches!(profile.as_str(), "" | RUNTIME_DEFAULT | UNCONFINED) && !profile.starts_with(LOCALHOST) {
            let detail = format!("invalid AppArmor profile name: {}", quote(profile));
            errors.push(Error::invalid(&path.key(key), profile.as_str(), detail));
        }
    }
    errors
}

fn validate_seccomp_annotation(profile: &str, path: &Path<'_>) -> ErrorList {
    match profile {
        RUNTIME_DEFAULT | DOCKER_DEFAULT | UNCONFINED => ErrorList::new(),
        _ => match profile.strip_prefix(LOCALHOST) {
            Some(file) => validate_local_descending_path(file, path),
            None => vec![Error::invalid(path, profile, "must be a valid seccomp profile")],
        },
    }
}

/// What may not change in the annotations of a pod that exists, and their other rules.
pub(super) fn validate_pod_annotations_update(
    new: &ObjectMeta,
    old: &ObjectMeta,
    spec: &PodSpec,
    path: &Path<'_>,
    opts: &Options,
) -> ErrorList {
    let (after, before) = (of(new), of(old));
    let mut errors = ErrorList::new();
    for (key, _) in before.iter().filter(|(key, value)| after.get(*key) != Some(*value)) {
        if key.starts_with(APP_ARMOR) {
            errors.push(Error::forbidden(&path.key(key), "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(Error::forbidden(&path.key(key), "may not remove or update mirror pod annotation"));
        }
    }
    for key in after.keys().filter(|key| !before.contains_key(*key)) {
        if key.starts_with(APP_ARMOR) {
            errors.push(Error::forbidden(&path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(Error::forbidden(&path.key(key), "may not add mirror pod annotation"));
        }
    }
    errors.extend(validate_pod_annotations(new, spec, path, opts));
    errors
}

/// Seccomp profiles given both ways agree.
pub(super) fn validate_seccomp_matches(meta: &ObjectMeta, spec: &PodSpec, spec_path: &Path<'_>) -> ErrorList {
    let annotations = of(meta);
    let mut errors = ErrorList::new();
    let of_pod = spec.security_context.as_ref().and_then(|sc| sc.seccomp_profile.as_ref());
    if let (Some(profile), Some(annotation)) = (of_pod, annotations.get(SECCOMP_POD)) {
        errors.extend(seccomp_mismatch(annotation, profile, &spec_path.child("securityContext").child("seccompProfile")));
    }
    visit_containers(spec, spec_path, &mut |container, path| {
        let profile = container.security_context.as_ref().and_then(|sc| sc.seccomp_profile.as_ref());
        let annotation = annotations.get(&format!("{SECCOMP_CONTAINER}{}", container.name));
        if let (Some(profile), Some(annotation)) = (profile, annotation) {
            errors.extend(seccomp_mismatch(annotation, profile, &path.child("securityContext").child("seccompProfile")));
        }
    });
    errors
}

fn seccomp_mismatch(annotation: &str, profile: &SeccompProfile, path: &Path<'_>) -> Option<Error> {
    const TYPE: &str = "seccomp type in annotation and field must match";
    let agrees = match profile.type_.as_str() {
        "Unconfined" => annotation == UNCONFINED,
        "RuntimeDefault" => matches!(annotation, RUNTIME_DEFAULT | DOCKER_DEFAULT),
        "Localhost" => match annotation.strip_prefix(LOCALHOST) {
            Some(file) if profile.localhost_profile.as_deref() != Some(file) => {
                return Some(Error::forbidden(&path.child("localhostProfile"), "seccomp profile in annotation and field must match"));
            }
            file => file.is_some(),
        },
        _ => true,
    };
    (!agrees).then(|| Error::forbidden(&path.child("type"), TYPE))
}

/// AppArmor profiles given both ways agree.
pub(super) fn validate_app_armor_matches(meta: &ObjectMeta, spec: &PodSpec, spec_path: &Path<'_>) -> ErrorList {
    const TYPE: &str = "apparmor type in annotation and field must match";
    let mut errors = ErrorList::new();
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return errors;
    }
    let of_pod = spec.security_context.as_ref().and_then(|sc| sc.app_armor_profile.as_ref());
    visit_containers(spec, spec_path, &mut |container, path| {
        let own = container.security_context.as_ref().and_then(|sc| sc.app_armor_profile.as_ref());
        let Some(profile) = own.or(of_pod) else { return };
        let Some(annotation) = of(meta).get(&format!("{APP_ARMOR}{}", container.name)) else { return };
        let sc = path.child("securityContext");
        let path = sc.child("appArmorProfile");
        match profile.type_.as_str() {
            "Unconfined" if annotation != UNCONFINED => errors.push(Error::forbidden(&path.child("type"), TYPE)),
            "RuntimeDefault" if annotation != RUNTIME_DEFAULT => errors.push(Error::forbidden(&path.child("type"), TYPE)),
            "Localhost" => match annotation.strip_prefix(LOCALHOST) {
                None => errors.push(Error::forbidden(&path.child("type"), TYPE)),
                file if file != profile.localhost_profile.as_deref() => {
                    errors.push(Error::forbidden(&path.child("localhostProfile"), "apparmor profile in annotation and field must match"))
                }
                Some(_) => {}
            },
            _ => {}
        }
    });
    errors
}
