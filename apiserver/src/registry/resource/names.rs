//! Names of drivers, pools, devices, requests and attributes.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_c_identifier, is_dns1123_label, is_dns1123_subdomain, long_name_caseless};
use k8s_openapi::api::resource::v1::DeviceClaim;

const MAX_DOMAIN: usize = 63;
const MAX_POOL: usize = 253;
/// An attribute's name after its domain.
const MAX_IDENTIFIER: usize = 32;

/// A driver is named as a CSI driver is.
pub fn validate_driver(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = ErrorList::new();
    if name.len() > MAX_DOMAIN {
        errors.push(Error::too_long(path, MAX_DOMAIN));
    }
    errors.extend(is_dns1123_subdomain(&name.to_lowercase()).into_iter().map(|message| Error::invalid(path, name, message)));
    errors
}

/// A driver's name where its rules are declared.
pub fn declared_driver(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = long_name_caseless(path, name);
    if name.chars().count() > MAX_DOMAIN {
        errors.push(Error::too_long_characters(path, MAX_DOMAIN));
    }
    errors
}

/// Subdomains with slashes between.
pub fn validate_pool(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = ErrorList::new();
    if name.len() > MAX_POOL {
        errors.push(Error::too_long(path, MAX_POOL));
    }
    for part in name.split('/') {
        errors.extend(is_dns1123_subdomain(part).into_iter().map(|message| Error::invalid(path, part, message)));
    }
    errors
}

/// A label: the name of a device, a request or a counter.
pub fn validate_label(name: &str, path: &Path<'_>) -> ErrorList {
    is_dns1123_label(name).into_iter().map(|message| Error::invalid(path, name, message)).collect()
}

/// A subdomain: the name of a class.
pub fn validate_class(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    is_dns1123_subdomain(name).into_iter().map(|message| Error::invalid(path, name, message)).collect()
}

/// An identifier, with or without a domain. What has more than one slash is let through, as upstream does.
pub fn validate_qualified(name: &str, path: &Path<'_>) -> ErrorList {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [identifier] => validate_identifier(identifier, path),
        [domain, identifier] => {
            let mut errors = match *domain {
                "" => vec![Error::invalid(path, "", "the domain must not be empty")],
                domain => validate_driver(domain, path),
            };
            errors.extend(match *identifier {
                "" => vec![Error::invalid(path, "", "the name must not be empty")],
                identifier => validate_identifier(identifier, path),
            });
            errors
        }
        _ => ErrorList::new(),
    }
}

fn validate_identifier(identifier: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if identifier.len() > MAX_IDENTIFIER {
        errors.push(Error::too_long(path, MAX_IDENTIFIER));
    }
    errors.extend(is_c_identifier(identifier).into_iter().map(|message| Error::invalid(path, identifier, message)));
    errors
}

/// A key as paths show it: what is too long for any key loses its middle.
pub fn shortened(key: &str) -> String {
    const MAX: usize = MAX_DOMAIN + 1 + MAX_IDENTIFIER;
    if key.len() <= MAX {
        return key.to_owned();
    }
    let keep = MAX - 3;
    let head: Vec<u8> = key.bytes().take(keep.div_ceil(2)).collect();
    let tail = &key.as_bytes()[key.len() - keep / 2..];
    format!("{}...{}", String::from_utf8_lossy(&head), String::from_utf8_lossy(tail))
}

/// The requests of a claim, with their alternatives.
pub struct RequestNames(BTreeMap<String, Vec<String>>);

impl RequestNames {
    pub fn of(claim: &DeviceClaim) -> RequestNames {
        let alternatives = |request: &k8s_openapi::api::resource::v1::DeviceRequest| {
            request.first_available.iter().flatten().map(|alternative| alternative.name.clone()).collect()
        };
        RequestNames(claim.requests.iter().flatten().map(|request| (request.name.clone(), alternatives(request))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, alternative)) => self.0.get(request).is_some_and(|names| names.iter().any(|name| name == alternative)),
        }
    }

    /// A request of the claim, or `request/alternative`.
    pub fn validate_reference(&self, name: &str, path: &Path<'_>) -> ErrorList {
        let unknown = || {
            let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            Error::invalid(path, name, detail)
        };
        if name.matches('/').count() > 1 {
            return vec![unknown()];
        }
        let mut errors: ErrorList = name.split('/').flat_map(|segment| validate_label(segment, path)).collect();
        if !self.has(name) {
            errors.push(unknown());
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_have_their_forms() {
        let path = Path::new("p");
        assert!(validate_driver("A.example.com", &path).is_empty());
        assert_eq!(texts(validate_driver("", &path)), ["p: Required value"]);
        assert_eq!(texts(validate_driver(&"a".repeat(64), &path)), ["p: Too long: may not be more than 63 bytes"]);
        assert!(validate_pool("a/b.c", &path).is_empty());
        assert!(validate_qualified("a.com/size", &path).is_empty());
        assert_eq!(
            texts(validate_qualified("/", &path)),
            [r#"p: Invalid value: "": the domain must not be empty"#, r#"p: Invalid value: "": the name must not be empty"#]
        );
        assert_eq!(shortened(&"x".repeat(200)).len(), 96);
    }

    #[test]
    fn references_are_to_requests_of_the_claim() {
        let claim: DeviceClaim = view(&json!({"requests": [{"name": "a"}, {"name": "b", "firstAvailable": [{"name": "c"}]}]}));
        let names = RequestNames::of(&claim);
        let path = Path::new("p");
        assert!(names.validate_reference("a", &path).is_empty() && names.validate_reference("b/c", &path).is_empty());
        assert_eq!(
            texts(names.validate_reference("a/c", &path)),
            [
                r#"p: Invalid value: "a/c": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#
            ]
        );
        assert_eq!(names.validate_reference("a/b/c", &path).len(), 1);
    }
}
