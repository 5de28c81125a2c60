//! The paths and backends of an Ingress.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_subdomain, is_valid_port_name, is_valid_port_num, name_is_dns_label};
use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, HTTPIngressRuleValue, IngressBackend, IngressServiceBackend};

use super::path_segment;

const INVALID_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const INVALID_SUFFIXES: [&str; 2] = ["/..", "/."];

/// The paths of a rule.
pub fn validate_http(http: &HTTPIngressRuleValue, path: &Path<'_>) -> ErrorList {
    let paths = path.child("paths");
    if http.paths.is_empty() {
        return vec![Error::required(&paths, "")];
    }
    http.paths.iter().enumerate().flat_map(|(i, one)| validate_path(one, &paths.index(i))).collect()
}

fn validate_path(http: &HTTPIngressPath, path: &Path<'_>) -> ErrorList {
    let text = http.path.as_deref().unwrap_or("");
    let text_path = path.child("path");
    let mut errors = Vec::new();
    match http.path_type.as_str() {
        "" => return vec![Error::required(&path.child("pathType"), "pathType must be specified")],
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.push(Error::invalid(&text_path, text, "must be an absolute path"));
            }
            for sequence in INVALID_SEQUENCES.iter().filter(|s| text.contains(*s)) {
                errors.push(Error::invalid(&text_path, text, format!("must not contain '{sequence}'")));
            }
            for suffix in INVALID_SUFFIXES.iter().filter(|s| text.ends_with(*s)) {
                errors.push(Error::invalid(&text_path, text, format!("cannot end with '{suffix}'")));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.push(Error::invalid(&text_path, text, "must be an absolute path"));
            }
        }
        other => errors.push(Error::not_supported(&path.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"])),
    }
    errors.extend(validate_backend(&http.backend, &path.child("backend")));
    errors
}

/// Where requests go: a service or a resource.
pub fn validate_backend(backend: &IngressBackend, path: &Path<'_>) -> ErrorList {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => vec![Error::invalid(path, "", "cannot set both resource and service backends")],
        (Some(resource), None) => validate_resource(resource, &path.child("resource")),
        (None, Some(service)) => validate_service(service, path),
        (None, None) => vec![Error::invalid(path, "", "resource or service backend is required")],
    }
}

fn validate_service(service: &IngressServiceBackend, path: &Path<'_>) -> ErrorList {
    let name_path = path.child("service.name");
    let mut errors: ErrorList = match service.name.as_str() {
        "" => vec![Error::required(&name_path, "")],
        name => name_is_dns_label(name, false).into_iter().map(|message| Error::invalid(&name_path, name, message)).collect(),
    };
    let port = service.port.clone().unwrap_or_default();
    let (name, number) = (port.name.as_deref().unwrap_or(""), port.number.unwrap_or(0));
    match (name, number) {
        ("", 0) => errors.push(Error::required(path, "port name or number is required")),
        ("", number) => {
            let problems = is_valid_port_num(i64::from(number));
            errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("service.port.number"), number, message)));
        }
        (name, 0) => {
            let problems = is_valid_port_name(name);
            errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("service.port.name"), name, message)));
        }
        _ => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
    }
    errors
}

fn validate_resource(resource: &TypedLocalObjectReference, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(group) = resource.api_group.as_deref() {
        let problems = is_dns1123_subdomain(group);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("apiGroup"), group, message)));
    }
    for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
        let field_path = path.child(field);
        match value.as_str() {
            "" => errors.push(Error::required(&field_path, "")),
            value => errors.extend(path_segment(value, &field_path)),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_backend_is_a_service_or_a_resource() {
        let check = |value: Value| texts(validate_backend(&view(&value), &Path::new("b")));
        assert!(check(json!({"service": {"name": "s", "port": {"name": "http"}}})).is_empty());
        assert!(check(json!({"resource": {"kind": "K", "name": "n"}})).is_empty());
        assert_eq!(check(json!({})), ["b: Invalid value: \"\": resource or service backend is required"]);
        assert_eq!(
            check(json!({"service": {"name": "", "port": {"name": "a", "number": 1}}})),
            ["b.service.name: Required value", "b: Invalid value: \"\": cannot set both port name & port number"]
        );
        assert_eq!(
            check(json!({"service": {"name": "s", "port": {"number": 65536}}})),
            ["b.service.port.number: Invalid value: 65536: must be between 1 and 65535, inclusive"]
        );
    }

    #[test]
    fn paths_are_absolute_and_clean() {
        let check = |kind: &str, path: &str| {
            let value = json!({"paths": [{"path": path, "pathType": kind, "backend": {"resource": {"kind": "K", "name": "n"}}}]});
            texts(validate_http(&view(&value), &Path::new("http")))
        };
        assert!(check("Prefix", "/a").is_empty());
        assert!(check("ImplementationSpecific", "").is_empty());
        assert_eq!(check("Exact", "a"), ["http.paths[0].path: Invalid value: \"a\": must be an absolute path"]);
        assert_eq!(
            check("Exact", "/a//b/.."),
            [
                "http.paths[0].path: Invalid value: \"/a//b/..\": must not contain '//'",
                "http.paths[0].path: Invalid value: \"/a//b/..\": cannot end with '/..'"
            ]
        );
        assert_eq!(check("", "/"), ["http.paths[0].pathType: Required value: pathType must be specified"]);
    }
}
