//! The rules of each volume source that stands for itself; those that project files are in `projected`.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_label, is_valid_user_id, name_is_dns_subdomain};
use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, AzureFileVolumeSource, CSIVolumeSource, CinderVolumeSource,
    ConfigMapVolumeSource, FCVolumeSource, FlexVolumeSource, FlockerVolumeSource, GCEPersistentDiskVolumeSource, GitRepoVolumeSource,
    GlusterfsVolumeSource, HostPathVolumeSource, ISCSIVolumeSource, ImageVolumeSource, KeyToPath, LocalObjectReference, NFSVolumeSource,
    QuobyteVolumeSource, RBDVolumeSource, ScaleIOVolumeSource, SecretVolumeSource, StorageOSVolumeSource,
};

use super::containers::validate_pull_policy;
use super::invalid_all;
use super::options::Options;
use super::paths::{validate_local_descending_path, validate_local_non_reserved_path, validate_path_no_backsteps};
use crate::registry::core::persistent_volume::validate_csi_driver_name;
use crate::registry::core::pod::access::{items, on, text};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const PARTITION: &str = "must be between 1 and 255, inclusive";
const BYTE: &str = "must be between 0 and 255, inclusive";
const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn required(value: &str, path: &Path<'_>) -> ErrorList {
    if value.is_empty() { vec![Error::required(path, "")] } else { ErrorList::new() }
}

pub(super) fn required_list(list: &[String], path: &Path<'_>) -> ErrorList {
    if list.is_empty() { vec![Error::required(path, "")] } else { ErrorList::new() }
}

/// A file mode's bounds.
pub(super) fn file_mode(mode: Option<i32>, path: &Path<'_>) -> ErrorList {
    mode.filter(|mode| !(0..=0o777).contains(mode)).map(|mode| Error::invalid(path, mode, FILE_MODE)).into_iter().collect()
}

/// The owner of projected files.
pub(super) fn user(user: Option<i64>, path: &Path<'_>) -> ErrorList {
    user.map(|user| invalid_all(path, user, is_valid_user_id(user))).unwrap_or_default()
}

pub(super) fn key_to_path(item: &KeyToPath, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&item.key, &path.child("key"));
    errors.extend(required(&item.path, &path.child("path")));
    errors.extend(validate_local_non_reserved_path(&item.path, &path.child("path")));
    errors.extend(file_mode(item.mode, &path.child("mode")));
    errors.extend(user(item.user, &path.child("user")));
    errors
}

fn keys_to_paths(list: &Option<Vec<KeyToPath>>, path: &Path<'_>) -> ErrorList {
    items(list).iter().enumerate().flat_map(|(i, item)| key_to_path(item, &path.index(i))).collect()
}

fn secret_ref_name(secret_ref: &Option<LocalObjectReference>, path: &Path<'_>) -> ErrorList {
    secret_ref.as_ref().map(|r| required(&r.name, &path.child("secretRef").child("name"))).unwrap_or_default()
}

pub(super) fn host_path(source: &HostPathVolumeSource, path: &Path<'_>) -> ErrorList {
    if source.path.is_empty() {
        return vec![Error::required(&path.child("path"), "")];
    }
    let mut errors = validate_path_no_backsteps(&source.path, &path.child("path"));
    if let Some(kind) = source.type_.as_deref().filter(|kind| !HOST_PATH_TYPES.contains(kind)) {
        errors.push(Error::not_supported(&path.child("type"), kind, HOST_PATH_TYPES));
    }
    errors
}

pub(super) fn git_repo(source: &GitRepoVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.repository, &path.child("repository"));
    errors.extend(validate_local_descending_path(text(&source.directory), &path.child("directory")));
    errors
}

/// Whether the text holds an iSCSI qualified name that reaches to its end: `iqn.YYYY-MM.authority:identifier`.
fn ends_in_iqn(s: &str) -> bool {
    s.match_indices("iqn.").any(|(at, _)| {
        let rest = &s.as_bytes()[at + 4..];
        let dated = rest.len() > 8
            && rest[..4].iter().all(u8::is_ascii_digit)
            && rest[4] == b'-'
            && rest[5..7].iter().all(u8::is_ascii_digit)
            && rest[7] == b'.';
        if !dated {
            return false;
        }
        let rest = &rest[8..];
        let authority = rest.iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.')).count();
        let identifier = rest.get(authority + 1..).unwrap_or_default();
        authority > 0
            && rest.get(authority) == Some(&b':')
            && !identifier.is_empty()
            && !identifier.iter().any(|c| matches!(c, b',' | b';' | b'*' | b'&' | b'$' | b'|' | b'\t' | b'\n' | 0x0c | b'\r' | b' '))
    })
}

/// `eui.` and 16, or `naa.` and 32 alphanumeric characters; the separator may be any character, as upstream's pattern has it.
fn is_fixed_name(s: &str, digits: usize) -> bool {
    let mut rest = s.chars().skip(3);
    rest.next().is_some_and(|c| c != '\n') && {
        let rest: Vec<char> = rest.collect();
        rest.len() == digits && rest.iter().all(char::is_ascii_alphanumeric)
    }
}

fn iscsi_name(name: &str, path: &Path<'_>) -> ErrorList {
    let valid = match name.get(..3) {
        Some("iqn") => ends_in_iqn(name),
        Some("eui") => is_fixed_name(name, 16),
        Some("naa") => is_fixed_name(name, 32),
        _ => return vec![Error::invalid(path, name, "must be valid format starting with iqn, eui, or naa")],
    };
    if valid { ErrorList::new() } else { vec![Error::invalid(path, name, "must be valid format")] }
}

pub(super) fn iscsi(source: &ISCSIVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.target_portal, &path.child("targetPortal"));
    if source.iqn.is_empty() {
        errors.push(Error::required(&path.child("iqn"), ""));
    } else {
        errors.extend(iscsi_name(&source.iqn, &path.child("iqn")));
    }
    if !(0..=255).contains(&source.lun) {
        errors.push(Error::invalid(&path.child("lun"), source.lun, BYTE));
    }
    if (on(source.chap_auth_discovery) || on(source.chap_auth_session)) && source.secret_ref.is_none() {
        errors.push(Error::required(&path.child("secretRef"), ""));
    }
    if let Some(initiator) = &source.initiator_name {
        errors.extend(iscsi_name(initiator, &path.child("initiatorname")));
    }
    errors
}

pub(super) fn fc(source: &FCVolumeSource, path: &Path<'_>) -> ErrorList {
    let (wwns, wwids) = (items(&source.target_wwns), items(&source.wwids));
    let mut errors = ErrorList::new();
    let wwns_path = path.child("targetWWNs");
    if wwns.is_empty() && wwids.is_empty() {
        errors.push(Error::required(&wwns_path, "must specify either targetWWNs or wwids, but not both"));
    }
    if !wwns.is_empty() && !wwids.is_empty() {
        errors.push(Error::invalid(&wwns_path, wwns.to_vec(), "targetWWNs and wwids can not be specified simultaneously"));
    }
    if !wwns.is_empty() {
        match source.lun {
            None => errors.push(Error::required(&path.child("lun"), "lun is required if targetWWNs is specified")),
            Some(lun) if !(0..=255).contains(&lun) => errors.push(Error::invalid(&path.child("lun"), lun, BYTE)),
            Some(_) => {}
        }
    }
    errors
}

fn partition(partition: Option<i32>, path: &Path<'_>) -> ErrorList {
    partition.filter(|p| !(0..=255).contains(p)).map(|p| Error::invalid(&path.child("partition"), p, PARTITION)).into_iter().collect()
}

pub(super) fn gce_persistent_disk(source: &GCEPersistentDiskVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.pd_name, &path.child("pdName"));
    errors.extend(partition(source.partition, path));
    errors
}

pub(super) fn aws_elastic_block_store(source: &AWSElasticBlockStoreVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.volume_id, &path.child("volumeID"));
    errors.extend(partition(source.partition, path));
    errors
}

pub(super) fn secret(source: &SecretVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(text(&source.secret_name), &path.child("secretName"));
    errors.extend(file_mode(source.default_mode, &path.child("defaultMode")));
    errors.extend(user(source.default_user, &path.child("defaultUser")));
    errors.extend(keys_to_paths(&source.items, &path.child("items")));
    errors
}

pub(super) fn config_map(source: &ConfigMapVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.name, &path.child("name"));
    errors.extend(file_mode(source.default_mode, &path.child("defaultMode")));
    errors.extend(user(source.default_user, &path.child("defaultUser")));
    errors.extend(keys_to_paths(&source.items, &path.child("items")));
    errors
}

pub(super) fn nfs(source: &NFSVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.server, &path.child("server"));
    errors.extend(required(&source.path, &path.child("path")));
    if !source.path.starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), source.path.as_str(), "must be an absolute path"));
    }
    errors
}

/// Whether the text is `host:port`, with an IPv6 host in brackets.
fn is_host_port(s: &str) -> bool {
    let Some((host, port)) = s.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[') {
        Some(bracketed) => match bracketed.strip_suffix(']') {
            Some(host) => host,
            None => return false,
        },
        None if host.contains(':') => return false,
        None => host,
    };
    !host.contains(['[', ']']) && !port.contains(['[', ']'])
}

pub(super) fn quobyte(source: &QuobyteVolumeSource, path: &Path<'_>) -> ErrorList {
    const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = path.child("registry");
    let mut errors = ErrorList::new();
    if source.registry.is_empty() {
        errors.push(Error::required(&registry, REGISTRY));
    } else if text(&source.tenant).len() >= 65 {
        errors.push(Error::required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let bad = source.registry.split(',').filter(|pair| !is_host_port(pair)).count();
        errors.extend((0..bad).map(|_| Error::invalid(&registry, source.registry.as_str(), REGISTRY)));
    }
    errors.extend(required(&source.volume, &path.child("volume")));
    errors
}

pub(super) fn glusterfs(source: &GlusterfsVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.endpoints, &path.child("endpoints"));
    errors.extend(required(&source.path, &path.child("path")));
    errors
}

pub(super) fn flocker(source: &FlockerVolumeSource, path: &Path<'_>) -> ErrorList {
    let (name, uuid) = (text(&source.dataset_name), text(&source.dataset_uuid));
    let mut errors = ErrorList::new();
    if name.is_empty() && uuid.is_empty() {
        errors.push(Error::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.push(Error::invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"));
    }
    if name.contains('/') {
        errors.push(Error::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
    errors
}

pub(super) fn rbd(source: &RBDVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required_list(&source.monitors, &path.child("monitors"));
    errors.extend(required(&source.image, &path.child("image")));
    errors
}

pub(super) fn cinder(source: &CinderVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.volume_id, &path.child("volumeID"));
    errors.extend(secret_ref_name(&source.secret_ref, path));
    errors
}

pub(super) fn flex(source: &FlexVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.driver, &path.child("driver"));
    for key in source.options.iter().flat_map(|options| options.keys()) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            errors.push(Error::invalid(&path.child("options").key(key), key.as_str(), "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
    errors
}

pub(super) fn azure_file(source: &AzureFileVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.secret_name, &path.child("secretName"));
    errors.extend(required(&source.share_name, &path.child("shareName")));
    errors
}

pub(super) fn azure_disk(source: &AzureDiskVolumeSource, path: &Path<'_>) -> ErrorList {
    const CACHING_MODES: &[&str] = &["None", "ReadOnly", "ReadWrite"];
    const KINDS: &[&str] = &["Dedicated", "Managed", "Shared"];
    const MANAGED_URI: &[&str] = &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"];
    const BLOB_URI: &[&str] = &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"];

    let mut errors = required(&source.disk_name, &path.child("diskName"));
    errors.extend(required(&source.disk_uri, &path.child("diskURI")));
    if let Some(mode) = source.caching_mode.as_deref().filter(|mode| !CACHING_MODES.contains(mode)) {
        errors.push(Error::not_supported(&path.child("cachingMode"), mode, CACHING_MODES));
    }
    if let Some(kind) = source.kind.as_deref() {
        if !KINDS.contains(&kind) {
            errors.push(Error::not_supported(&path.child("kind"), kind, KINDS));
        }
        let (prefix, form) = if kind == "Managed" { ("/subscriptions/", MANAGED_URI) } else { ("https://", BLOB_URI) };
        if !source.disk_uri.starts_with(prefix) {
            errors.push(Error::not_supported(&path.child("diskURI"), source.disk_uri.as_str(), form));
        }
    }
    errors
}

pub(super) fn storage_os(source: &StorageOSVolumeSource, path: &Path<'_>) -> ErrorList {
    let (name, namespace) = (text(&source.volume_name), text(&source.volume_namespace));
    let mut errors = required(name, &path.child("volumeName"));
    if !name.is_empty() {
        errors.extend(invalid_all(&path.child("volumeName"), name, is_dns1123_label(name)));
    }
    if !namespace.is_empty() {
        errors.extend(invalid_all(&path.child("volumeNamespace"), namespace, is_dns1123_label(namespace)));
    }
    errors.extend(secret_ref_name(&source.secret_ref, path));
    errors
}

pub(super) fn scale_io(source: &ScaleIOVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&source.gateway, &path.child("gateway"));
    errors.extend(required(&source.system, &path.child("system")));
    errors.extend(required(text(&source.volume_name), &path.child("volumeName")));
    errors
}

pub(super) fn csi(source: &CSIVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_csi_driver_name(&source.driver, &path.child("driver"));
    if let Some(secret) = &source.node_publish_secret_ref {
        if secret.name.is_empty() {
            errors.push(Error::required(&path.child("nodePublishSecretRef").child("name"), ""));
        } else {
            errors.extend(invalid_all(&path.child("name"), secret.name.as_str(), name_is_dns_subdomain(&secret.name, false)));
        }
    }
    errors
}

pub(super) fn image(source: &ImageVolumeSource, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    if !opts.allow_empty_image_volume_reference {
        errors.extend(required(text(&source.reference), &path.child("reference")));
    }
    errors.extend(validate_pull_policy(text(&source.pull_policy), &path.child("pullPolicy")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iscsi_names_follow_the_three_forms() {
        for good in ["iqn.2001-04.com.example:storage", "eui.0123456789abcdef", "naa.0123456789abcdef0123456789abcdef"] {
            assert!(iscsi_name(good, &Path::ROOT).is_empty(), "{good}");
        }
        for bad in ["iqn.2001-4.com.example:x", "iqn.2001-04.com.example", "iqn.2001-04.com:a b", "eui.0123", "naa.0", "foo", "é"] {
            assert_eq!(iscsi_name(bad, &Path::ROOT).len(), 1, "{bad}");
        }
    }

    #[test]
    fn registries_are_host_port_pairs() {
        for (s, ok) in [("a:1", true), ("[::1]:1", true), ("a", false), ("::1:1", false), ("[::1:1", false), (":1", true)] {
            assert_eq!(is_host_port(s), ok, "{s}");
        }
    }
}
