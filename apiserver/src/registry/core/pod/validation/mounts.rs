//! How containers mount volumes: as directories and as block devices.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::core::v1::{Container, VolumeDevice, VolumeMount};

use super::paths::{has_backsteps, validate_local_descending_path};
use super::volumes::Volumes;
use crate::registry::core::pod::access::{items, on, text};

const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: &[&str] = &["Disabled", "Enabled", "IfPossible"];
const BIND_OPTIONS: &[&str] = &["nodev", "noexec", "nosuid"];

/// The mounts of one container.
pub(super) fn validate_volume_mounts(container: &Container, volumes: &Volumes<'_>, path: &Path<'_>) -> ErrorList {
    let devices = items(&container.volume_devices);
    let mut errors = ErrorList::new();
    let mut points = BTreeSet::new();
    for (i, mount) in items(&container.volume_mounts).iter().enumerate() {
        let at = path.index(i);
        let (name_path, mount_path) = (at.child("name"), at.child("mountPath"));
        if mount.name.is_empty() {
            errors.push(Error::required(&name_path, ""));
        }
        if !volumes.contains_key(mount.name.as_str()) {
            errors.push(Error::not_found(&name_path, mount.name.as_str()));
        }
        if mount.mount_path.is_empty() {
            errors.push(Error::required(&mount_path, ""));
        }
        if !points.insert(mount.mount_path.as_str()) {
            errors.push(Error::invalid(&mount_path, mount.mount_path.as_str(), "must be unique"));
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.push(Error::invalid(&name_path, mount.name.as_str(), "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            errors.push(Error::invalid(&mount_path, mount.mount_path.as_str(), "must not already exist as a path in volumeDevices"));
        }
        errors.extend(validate_sub_paths(mount, &at, path));
        errors.extend(validate_propagation(mount, container, &path.child("mountPropagation")));
        errors.extend(validate_recursive_read_only(mount, &path.child("recursiveReadOnly")));
        errors.extend(validate_bind_options(mount, volumes, &at.child("bindMountOptions")));
    }
    errors
}

/// `list` is the path of all mounts, where upstream reports bad sub-paths.
fn validate_sub_paths(mount: &VolumeMount, at: &Path<'_>, list: &Path<'_>) -> ErrorList {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    let mut errors = ErrorList::new();
    if !sub_path.is_empty() {
        errors.extend(validate_local_descending_path(sub_path, &list.child("subPath")));
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            errors.push(Error::invalid(&at.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive"));
        }
        errors.extend(validate_local_descending_path(expression, &list.child("subPathExpr")));
    }
    errors
}

fn validate_propagation(mount: &VolumeMount, container: &Container, path: &Path<'_>) -> ErrorList {
    let Some(propagation) = mount.mount_propagation.as_deref() else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    if !PROPAGATIONS.contains(&propagation) {
        errors.push(Error::not_supported(path, propagation, PROPAGATIONS));
    }
    let privileged = container.security_context.as_ref().is_some_and(|sc| on(sc.privileged));
    if propagation == "Bidirectional" && !privileged {
        errors.push(Error::forbidden(path, "Bidirectional mount propagation is available only to privileged containers"));
    }
    errors
}

fn validate_recursive_read_only(mount: &VolumeMount, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !on(mount.read_only) {
                errors.push(Error::forbidden(path, "may only be specified when readOnly is true"));
            }
            if mount.mount_propagation.as_deref().is_some_and(|p| p != "None") {
                errors.push(Error::forbidden(path, "may only be specified when mountPropagation is None or not specified"));
            }
        }
        Some(other) => errors.push(Error::not_supported(path, other, RECURSIVE_READ_ONLY)),
    }
    errors
}

fn validate_bind_options(mount: &VolumeMount, volumes: &Volumes<'_>, path: &Path<'_>) -> ErrorList {
    let options = items(&mount.bind_mount_options);
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, option) in options.iter().enumerate() {
        if !BIND_OPTIONS.contains(&option.as_str()) {
            errors.push(Error::not_supported(&path.index(i), option.as_str(), BIND_OPTIONS));
        }
        if !seen.insert(option) {
            errors.push(Error::duplicate(&path.index(i), option.as_str()));
        }
    }
    if !options.is_empty() && volumes.get(mount.name.as_str()).is_some_and(|volume| volume.image.is_some()) {
        errors.push(Error::invalid(path, options.to_vec(), "bindMountOptions may not be used with image volumes"));
    }
    errors
}

/// The block devices of one container.
pub(super) fn validate_volume_devices(container: &Container, volumes: &Volumes<'_>, path: &Path<'_>) -> ErrorList {
    let mounts = items(&container.volume_mounts);
    let mut errors = ErrorList::new();
    let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (i, VolumeDevice { name, device_path }) in items(&container.volume_devices).iter().enumerate() {
        let at = path.index(i);
        let (name_path, device) = (at.child("name"), at.child("devicePath"));
        let volume = volumes.get(name.as_str());
        if name.is_empty() {
            errors.push(Error::required(&name_path, ""));
        }
        if names.contains(name) {
            errors.push(Error::invalid(&name_path, name.as_str(), "must be unique"));
        }
        match volume {
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => errors.push(Error::invalid(
                &name_path,
                name.as_str(),
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )),
            Some(_) => {}
            None => errors.push(Error::not_found(&name_path, name.as_str())),
        }
        if device_path.is_empty() {
            errors.push(Error::required(&device, ""));
        }
        if paths.contains(device_path) {
            errors.push(Error::invalid(&device, device_path.as_str(), "must be unique"));
        }
        if has_backsteps(device_path) {
            errors.push(Error::invalid(&device, device_path.as_str(), "can not contain backsteps ('..')"));
        } else {
            paths.insert(device_path);
        }
        if mounts.iter().any(|mount| mount.name == *name) {
            errors.push(Error::invalid(&name_path, name.as_str(), "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| mount.mount_path == *device_path) {
            errors.push(Error::invalid(&device, device_path.as_str(), "must not already exist as a path in volumeMounts"));
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
    errors
}
