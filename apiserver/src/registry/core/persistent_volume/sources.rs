//! What each type of persistent volume must say about where its data is.
//!
//! Works on the values of the sources, which mostly are a few fields that must be there.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{inclusive_range_error, is_dns1123_label, is_dns1123_subdomain, name_is_dns_label};
use serde_json::{Value, json};

use crate::registry::read::{bool_at, int_at, list_at, str_at};

type Check = fn(source: &Value, path: &Path<'_>) -> ErrorList;

/// A type of volume, by its field in the spec.
pub(super) struct Source {
    pub field: &'static str,
    /// What its own errors are told under; two types have never agreed with their field.
    pub name: &'static str,
    /// What it is called where there may be only one.
    pub other_name: &'static str,
    pub check: Check,
}

const fn source(field: &'static str, check: Check) -> Source {
    Source { field, name: field, other_name: field, check }
}

/// In the order in which they are checked.
pub(super) const SOURCES: &[Source] = &[
    source("hostPath", host_path),
    Source { name: "persistentDisk", ..source("gcePersistentDisk", gce_persistent_disk) },
    source("awsElasticBlockStore", aws_elastic_block_store),
    source("glusterfs", glusterfs),
    source("flocker", flocker),
    source("nfs", nfs),
    source("rbd", |source, path| {
        let mut errors = required_list(source, "monitors", path);
        errors.extend(required(source, &["image"], path));
        errors
    }),
    source("quobyte", quobyte),
    Source { other_name: "cephFS", ..source("cephfs", |source, path| required_list(source, "monitors", path)) },
    // The rule about initiators needs the volume's name: see `iscsi`.
    source("iscsi", |_, _| ErrorList::new()),
    source("cinder", |source, path| {
        let mut errors = required(source, &["volumeID"], path);
        errors.extend(secret_reference(source, path));
        errors
    }),
    source("fc", fc),
    source("flexVolume", flex_volume),
    source("azureFile", azure_file),
    source("vsphereVolume", |source, path| required(source, &["volumePath"], path)),
    source("photonPersistentDisk", |source, path| required(source, &["pdID"], path)),
    source("portworxVolume", |source, path| required(source, &["volumeID"], path)),
    source("azureDisk", azure_disk),
    source("scaleIO", |source, path| required(source, &["gateway", "system", "volumeName"], path)),
    source("local", local),
    source("storageos", storageos),
    source("csi", csi),
];

/// Each field that is empty.
fn required(source: &Value, fields: &[&str], path: &Path<'_>) -> ErrorList {
    let missing = fields.iter().filter(|field| source.get(**field).and_then(Value::as_str).unwrap_or("").is_empty());
    missing.map(|field| Error::required(&path.child(field), "")).collect()
}

fn required_list(source: &Value, field: &str, path: &Path<'_>) -> ErrorList {
    let empty = source.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty);
    if empty { vec![Error::required(&path.child(field), "")] } else { ErrorList::new() }
}

/// A secret reference, if there is one, has a name and a namespace.
fn secret_reference(source: &Value, path: &Path<'_>) -> ErrorList {
    source.get("secretRef").map(|secret| required(secret, &["name", "namespace"], &path.child("secretRef"))).unwrap_or_default()
}

fn in_range(source: &Value, field: &str, min: i64, max: i64, path: &Path<'_>) -> Option<Error> {
    let value = source.get(field).and_then(Value::as_i64).unwrap_or(0);
    (!(min..=max).contains(&value)).then(|| Error::invalid(&path.child(field), value, inclusive_range_error(min, max)))
}

fn no_backsteps(text: &str, path: &Path<'_>) -> Option<Error> {
    text.split('/').any(|part| part == "..").then(|| Error::invalid(path, text, "must not contain '..'"))
}

fn host_path(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["path"], path);
    if !errors.is_empty() {
        return errors;
    }
    errors.extend(no_backsteps(str_at(source, "/path"), &path.child("path")));
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = str_at(source, "/type");
    if !types.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &types));
    }
    errors
}

fn gce_persistent_disk(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["pdName"], path);
    errors.extend(partition(source, path));
    errors
}

fn aws_elastic_block_store(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["volumeID"], path);
    errors.extend(partition(source, path));
    errors
}

/// Zero is accepted though the message says one.
fn partition(source: &Value, path: &Path<'_>) -> Option<Error> {
    let partition = int_at(source, "/partition");
    (!(0..=255).contains(&partition)).then(|| Error::invalid(&path.child("partition"), partition, inclusive_range_error(1, 255)))
}

fn glusterfs(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["endpoints", "path"], path);
    let Some(namespace) = source.get("endpointsNamespace").and_then(Value::as_str) else { return errors };
    let path = path.child("endpointsNamespace");
    if namespace.is_empty() {
        errors.push(Error::invalid(&path, namespace, "if the endpointnamespace is set, it must be a valid namespace name"));
    } else {
        errors.extend(name_is_dns_label(namespace, false).into_iter().map(|message| Error::invalid(&path, namespace, message)));
    }
    errors
}

fn flocker(source: &Value, path: &Path<'_>) -> ErrorList {
    let (name, uuid) = (str_at(source, "/datasetName"), str_at(source, "/datasetUUID"));
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

fn nfs(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["server", "path"], path);
    let place = str_at(source, "/path");
    if !place.starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), place, "must be an absolute path"));
    }
    errors
}

fn quobyte(source: &Value, path: &Path<'_>) -> ErrorList {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = str_at(source, "/registry");
    let mut errors = ErrorList::new();
    if registry.is_empty() {
        errors.push(Error::required(&path.child("registry"), PAIRS));
    } else if str_at(source, "/tenant").len() >= 65 {
        errors.push(Error::required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let bad = registry.split(',').filter(|pair| !is_host_port(pair));
        errors.extend(bad.map(|_| Error::invalid(&path.child("registry"), registry, PAIRS)));
    }
    errors.extend(required(source, &["volume"], path));
    errors
}

/// `host:port` or `[host]:port`, either part possibly empty.
fn is_host_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[') {
        Some(rest) => match rest.strip_suffix(']') {
            Some(inner) => inner,
            None => return false,
        },
        None if host.contains(':') => return false,
        None => host,
    };
    !host.contains(['[', ']']) && !port.contains(['[', ']'])
}

/// iSCSI, which alone must know the volume's name: it becomes part of the initiator's.
pub(super) fn iscsi(source: &Value, volume: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["targetPortal"], path);
    let portal = str_at(source, "/targetPortal");
    let initiator = source.get("initiatorName").and_then(Value::as_str);
    if initiator.is_some() && volume.len() + 1 + portal.len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(Error::invalid(&path.child("targetportal"), portal, why));
    }
    let iqn = str_at(source, "/iqn");
    if iqn.is_empty() {
        errors.push(Error::required(&path.child("iqn"), ""));
    } else if !is_qualified_iscsi_name(iqn) {
        errors.push(Error::invalid(&path.child("iqn"), iqn, "must be valid format"));
    }
    errors.extend(in_range(source, "lun", 0, 255, path));
    if (bool_at(source, "/chapAuthDiscovery") || bool_at(source, "/chapAuthSession")) && source.get("secretRef").is_none() {
        errors.push(Error::required(&path.child("secretRef"), ""));
    }
    if let Some(secret) = source.get("secretRef") {
        errors.extend(required(secret, &["name"], &path.child("secretRef")));
    }
    if let Some(initiator) = initiator.filter(|name| !is_qualified_iscsi_name(name)) {
        errors.push(Error::invalid(&path.child("initiatorname"), initiator, "must be valid format"));
    }
    errors
}

/// A name that begins with `iqn`, `eui` or `naa` and has that form.
fn is_qualified_iscsi_name(name: &str) -> bool {
    let fixed = |length: usize| {
        let mut rest = name.chars().skip(3);
        let separator = rest.next().is_some_and(|c| c != '\n');
        let digits: Vec<char> = rest.collect();
        separator && digits.len() == length && digits.iter().all(char::is_ascii_alphanumeric)
    };
    if name.starts_with("iqn") {
        return name.match_indices("iqn.").any(|(i, found)| is_iqn_tail(&name[i + found.len()..]));
    }
    (name.starts_with("eui") && fixed(16)) || (name.starts_with("naa") && fixed(32))
}

/// `yyyy-mm.reversed.domain:rest`.
fn is_iqn_tail(tail: &str) -> bool {
    let Some((head, unique)) = tail.split_once(':') else { return false };
    let bytes = head.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    let dated = digits(0..4) && bytes.get(4) == Some(&b'-') && digits(5..7) && bytes.get(7) == Some(&b'.');
    dated
        && bytes.len() > 8
        && bytes[8..].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !unique.is_empty()
        && !unique.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r', '\u{c}'])
}

fn fc(source: &Value, path: &Path<'_>) -> ErrorList {
    let (targets, ids) = (list_at(source, "/targetWWNs"), list_at(source, "/wwids"));
    let mut errors = ErrorList::new();
    let place = path.child("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        errors.push(Error::required(&place, "must specify either targetWWNs or wwids, but not both"));
    }
    if !targets.is_empty() && !ids.is_empty() {
        errors.push(Error::invalid(&place, json!(targets), "targetWWNs and wwids can not be specified simultaneously"));
    }
    if !targets.is_empty() {
        if source.get("lun").is_none_or(Value::is_null) {
            errors.push(Error::required(&path.child("lun"), "lun is required if targetWWNs is specified"));
        } else {
            errors.extend(in_range(source, "lun", 0, 255, path));
        }
    }
    errors
}

fn flex_volume(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["driver"], path);
    let path = path.child("options");
    for key in source.get("options").and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            errors.push(Error::invalid(&path.key(key), key.as_str(), "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
    errors
}

fn azure_file(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["secretName", "shareName"], path);
    if source.get("secretNamespace").and_then(Value::as_str) == Some("") {
        errors.push(Error::required(&path.child("secretNamespace"), ""));
    }
    errors
}

fn azure_disk(source: &Value, path: &Path<'_>) -> ErrorList {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let mut errors = required(source, &["diskName", "diskURI"], path);
    let optional = |field: &str| source.get(field).and_then(Value::as_str);
    if let Some(mode) = optional("cachingMode").filter(|mode| !["None", "ReadOnly", "ReadWrite"].contains(mode)) {
        errors.push(Error::not_supported(&path.child("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]));
    }
    let Some(kind) = optional("kind") else { return errors };
    if !["Dedicated", "Managed", "Shared"].contains(&kind) {
        errors.push(Error::not_supported(&path.child("kind"), kind, &["Dedicated", "Managed", "Shared"]));
    }
    let uri = str_at(source, "/diskURI");
    let (prefix, form) = if kind == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    if !uri.starts_with(prefix) {
        errors.push(Error::not_supported(&path.child("diskURI"), uri, &[form]));
    }
    errors
}

fn local(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["path"], path);
    if errors.is_empty() {
        errors.extend(no_backsteps(str_at(source, "/path"), &path.child("path")));
    }
    errors
}

fn storageos(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = required(source, &["volumeName"], path);
    for field in ["volumeName", "volumeNamespace"] {
        let value = source.get(field).and_then(Value::as_str).unwrap_or("");
        if !value.is_empty() {
            errors.extend(is_dns1123_label(value).into_iter().map(|message| Error::invalid(&path.child(field), value, message)));
        }
    }
    errors.extend(secret_reference(source, path));
    errors
}

fn csi(source: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_csi_driver_name(str_at(source, "/driver"), &path.child("driver"));
    errors.extend(required(source, &["volumeHandle"], path));
    for field in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        if let Some(secret) = source.get(field) {
            errors.extend(named_secret(secret, &path.child(field)));
        }
    }
    errors
}

/// A reference with a well-formed name and namespace.
fn named_secret(secret: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    type Form = fn(&str) -> Vec<String>;
    for (field, check) in [("name", is_dns1123_subdomain as Form), ("namespace", is_dns1123_label as Form)] {
        let value = secret.get(field).and_then(Value::as_str).unwrap_or("");
        let path = path.child(field);
        if value.is_empty() {
            errors.push(Error::required(&path, ""));
        } else {
            errors.extend(check(value).into_iter().map(|message| Error::invalid(&path, value, message)));
        }
    }
    errors
}

/// The name of a CSI driver: a subdomain in any case, of at most 63 characters.
pub fn validate_csi_driver_name(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = ErrorList::new();
    if name.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
    errors.extend(is_dns1123_subdomain(&name.to_lowercase()).into_iter().map(|message| Error::invalid(path, name, message)));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iscsi_names_have_three_forms() {
        for (name, valid) in [
            ("iqn.2001-04.com.example:storage", true),
            ("iqn.2001-04.com.example", false),
            ("iqn.201-04.com.example:x", false),
            ("eui.0123456789abcdef", true),
            ("eui.012", false),
            ("naa.0123456789abcdef0123456789abcdef", true),
            ("xxx", false),
            ("", false),
        ] {
            assert_eq!(is_qualified_iscsi_name(name), valid, "{name}");
        }
    }

    #[test]
    fn registries_are_host_and_port() {
        for (pair, valid) in [("a:1", true), ("[::1]:1", true), ("a", false), ("a:b:c", false), (":", true), ("[a:1", false)] {
            assert_eq!(is_host_port(pair), valid, "{pair}");
        }
    }
}
