//! Environment variables and the references that feed them.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_config_map_key, is_dns1123_label, is_qualified_name, is_relaxed_env_var_name, name_is_dns_subdomain};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector};

use super::invalid_all;
use super::paths::validate_path_no_backsteps;
use super::resources::amount;
use crate::registry::core::pod::access::text;

const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
const BYTE_DIVISORS_TEXT: &str = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the";

pub(super) fn validate_env(vars: &[EnvVar], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        if var.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            errors.extend(invalid_all(&path.child("name"), var.name.as_str(), is_relaxed_env_var_name(&var.name)));
        }
        errors.extend(validate_value_from(var, &path.child("valueFrom")));
    }
    errors
}

fn validate_value_from(var: &EnvVar, path: &Path<'_>) -> ErrorList {
    let Some(from) = &var.value_from else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        errors.extend(validate_object_field_selector(field, FIELD_PATHS, &path.child("fieldRef")));
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        errors.extend(validate_container_resource_field_selector(resource, &path.child("resourceFieldRef"), false));
    }
    if let Some(r) = &from.config_map_key_ref {
        sources += 1;
        errors.extend(validate_key_selector(&r.name, &r.key, &path.child("configMapKeyRef")));
    }
    if let Some(r) = &from.secret_key_ref {
        sources += 1;
        errors.extend(validate_key_selector(&r.name, &r.key, &path.child("secretKeyRef")));
    }
    if let Some(file) = &from.file_key_ref {
        sources += 1;
        errors.extend(validate_file_key_selector(file, &path.child("fileKeyRef")));
    }
    if sources == 0 {
        errors.push(Error::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if !text(&var.value).is_empty() {
        errors.push(Error::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(Error::invalid(path, "", "may not have more than one field specified at a time"));
    }
    errors
}

/// Splits `metadata.labels['key']` into path and key.
fn split_subscript(field_path: &str) -> Option<(&str, &str)> {
    let (path, subscript) = field_path.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, subscript))
}

/// The field path in today's form, or why it is none.
fn convert_field_label<'a>(version: &str, label: &'a str) -> Result<&'a str, String> {
    if version != "v1" {
        return Err(format!("unsupported pod version: {version}"));
    }
    if let Some((path, _)) = split_subscript(label) {
        return match path {
            "metadata.annotations" | "metadata.labels" => Ok(label),
            _ => Err(format!("field label does not support subscript: {label}")),
        };
    }
    match label {
        "metadata.annotations"
        | "metadata.labels"
        | "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.restartPolicy"
        | "spec.serviceAccountName"
        | "spec.schedulerName"
        | "status.phase"
        | "status.hostIP"
        | "status.hostIPs"
        | "status.podIP"
        | "status.podIPs" => Ok(label),
        "spec.host" => Ok("spec.nodeName"),
        _ => Err(format!("field label not supported: {label}")),
    }
}

/// `supported` is sorted.
pub(super) fn validate_object_field_selector(field: &ObjectFieldSelector, supported: &[&str], path: &Path<'_>) -> ErrorList {
    let version = text(&field.api_version);
    if version.is_empty() {
        return vec![Error::required(&path.child("apiVersion"), "")];
    }
    let field_path = path.child("fieldPath");
    if field.field_path.is_empty() {
        return vec![Error::required(&field_path, "")];
    }
    let label = match convert_field_label(version, &field.field_path) {
        Ok(label) => label,
        Err(error) => {
            return vec![Error::invalid(&field_path, field.field_path.as_str(), format!("error converting fieldPath: {error}"))];
        }
    };
    match split_subscript(label) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_all(path, key.as_str(), is_qualified_name(&key))
        }
        Some(("metadata.labels", key)) => invalid_all(path, key, is_qualified_name(key)),
        Some((other, _)) => vec![Error::invalid(path, other, "does not support subscript")],
        None if !supported.contains(&label) => vec![Error::not_supported(&field_path, label, supported)],
        None => ErrorList::new(),
    }
}

/// `in_volume`: the container must be named, for volumes belong to none.
pub(super) fn validate_container_resource_field_selector(field: &ResourceFieldSelector, path: &Path<'_>, in_volume: bool) -> ErrorList {
    let resource = field.resource.as_str();
    let huge_pages = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    let mut errors = ErrorList::new();
    if in_volume && text(&field.container_name).is_empty() {
        errors.push(Error::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge_pages {
        errors.push(Error::not_supported(&path.child("resource"), resource, RESOURCES));
    }
    let Some(divisor) = field.divisor.as_ref().map(amount).filter(|divisor| !divisor.is_zero()) else { return errors };
    let (allowed, detail): (&[&str], _) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, format!("{BYTE_DIVISORS_TEXT} memory resource")),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (BYTE_DIVISORS, format!("{BYTE_DIVISORS_TEXT} local ephemeral storage resource"))
        }
        _ if huge_pages => (BYTE_DIVISORS, format!("{BYTE_DIVISORS_TEXT} hugepages resource")),
        _ => return errors,
    };
    if !allowed.contains(&divisor.canonical().as_str()) {
        errors.push(Error::invalid(&path.child("divisor"), resource, detail));
    }
    errors
}

/// A key of a ConfigMap or Secret.
fn validate_key_selector(name: &str, key: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = invalid_all(&path.child("name"), name, name_is_dns_subdomain(name, false));
    if key.is_empty() {
        errors.push(Error::required(&path.child("key"), ""));
    } else {
        errors.extend(invalid_all(&path.child("key"), key, is_config_map_key(key)));
    }
    errors
}

fn validate_file_key_selector(file: &FileKeySelector, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if file.key.is_empty() {
        errors.push(Error::required(&path.child("key"), ""));
    } else {
        errors.extend(invalid_all(&path.child("key"), file.key.as_str(), is_relaxed_env_var_name(&file.key)));
    }
    if file.volume_name.is_empty() {
        errors.push(Error::required(&path.child("volumeName"), ""));
    } else {
        errors.extend(invalid_all(&path.child("volumeName"), file.volume_name.as_str(), is_dns1123_label(&file.volume_name)));
    }
    if file.path.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    } else {
        errors.extend(validate_path_no_backsteps(&file.path, &path.child("path")));
    }
    errors
}

pub(super) fn validate_env_from(sources: &[EnvFromSource], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            errors.extend(invalid_all(&at.child("prefix"), prefix, is_relaxed_env_var_name(prefix)));
        }
        let config_map = source.config_map_ref.as_ref().map(|r| ("configMapRef", &r.name));
        let secret = source.secret_ref.as_ref().map(|r| ("secretRef", &r.name));
        for (field, name) in config_map.iter().chain(&secret) {
            let path = at.child(field);
            if name.is_empty() {
                errors.push(Error::required(&path.child("name"), ""));
            } else {
                errors.extend(invalid_all(&path.child("name"), name.as_str(), name_is_dns_subdomain(name, true)));
            }
        }
        // Upstream reports these at the list.
        match (config_map, secret) {
            (None, None) => errors.push(Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            (Some(_), Some(_)) => errors.push(Error::invalid(path, "", "may not have more than one field specified at a time")),
            _ => {}
        }
    }
    errors
}
