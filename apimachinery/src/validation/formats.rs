//! The named formats of declarative validation (`+k8s:format=…`). Their length limits are worded in bytes.

use crate::field::{Error, ErrorList, Path};

use super::names::{DNS1123_SUBDOMAIN_MAX, DNS1123_SUBDOMAIN_REGEX, dns1123_label, dns1123_subdomain, subdomain};
use super::{empty_error, is_qualified_name, max_bytes_error, regex_error};

fn invalid(path: &Path<'_>, value: &str, messages: Vec<String>) -> ErrorList {
    messages.into_iter().map(|m| Error::invalid(path, value, m)).collect()
}

/// `k8s-short-name`: an RFC 1123 label.
pub fn short_name(path: &Path<'_>, value: &str) -> ErrorList {
    invalid(path, value, dns1123_label(value, max_bytes_error))
}

/// `k8s-long-name`: a DNS subdomain.
pub fn long_name(path: &Path<'_>, value: &str) -> ErrorList {
    invalid(path, value, dns1123_subdomain(value, max_bytes_error))
}

/// `k8s-long-name-caseless`: a DNS subdomain in any case.
pub fn long_name_caseless(path: &Path<'_>, value: &str) -> ErrorList {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_bytes_error(DNS1123_SUBDOMAIN_MAX));
    }
    if !subdomain(&value.to_ascii_lowercase()) {
        let message = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, DNS1123_SUBDOMAIN_REGEX, &["Example.com"]));
    }
    invalid(path, value, errors)
}

/// `k8s-prefixed-label-key`: a label key with a prefix.
pub fn is_prefixed_label_key(value: &str) -> Vec<String> {
    let errors = is_qualified_name(value);
    if errors.is_empty() && !value.contains('/') {
        return vec!["must include a prefix (e.g. 'example.com/key')".to_owned()];
    }
    errors
}

/// `k8s-uuid`: lower-case hexadecimal in groups of 8-4-4-4-12.
pub fn uuid(path: &Path<'_>, value: &str) -> ErrorList {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let valid =
        value.len() == 36 && value.bytes().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { digit(b) });
    if valid { Vec::new() } else { vec![Error::invalid(path, value, "must be a lowercase UUID in 8-4-4-4-12 format")] }
}

/// `k8s-resource-pool-name`: DNS subdomains separated by `/`.
pub fn resource_pool_name(path: &Path<'_>, value: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(Error::too_long(path, DNS1123_SUBDOMAIN_MAX));
    }
    for (i, part) in value.split('/').enumerate() {
        if part.is_empty() {
            errors.push(Error::invalid(path, value, format!("segment {i}: must not be empty")));
        } else {
            let messages = dns1123_subdomain(part, max_bytes_error);
            errors.extend(messages.into_iter().map(|m| Error::invalid(path, part, format!("segment {i}: {m}"))));
        }
    }
    errors
}

/// `k8s-extended-resource-name`: a resource outside `kubernetes.io/` that can also be named in a quota.
pub fn extended_resource_name(path: &Path<'_>, value: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if !value.contains('/') {
        errors.push(Error::invalid(path, value, "a name must be a domain-prefixed path, such as 'example.com/my-prop'"));
    } else if value.contains("kubernetes.io/") {
        errors.push(Error::invalid(path, value, "must not have \"kubernetes.io/\" domain"));
    }
    if value.starts_with("requests.") {
        errors.push(Error::invalid(path, value, "must not have \"requests.\" prefix"));
    }
    errors.extend(invalid(path, value, is_qualified_name(&format!("requests.{value}"))));
    errors
}

/// `k8s-resource-fully-qualified-name`: a domain, `/`, and a C identifier of at most 32 bytes.
pub fn resource_fully_qualified_name(path: &Path<'_>, value: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    // More than one slash passes unchecked in v1.37.
    match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => errors.extend(device_identifier(path, name)),
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push(Error::invalid(path, "", "prefix must not be empty"));
            } else {
                if prefix.len() > 63 {
                    errors.push(Error::too_long(path, 63));
                }
                let messages = dns1123_subdomain(prefix, max_bytes_error);
                errors.extend(messages.into_iter().map(|m| Error::invalid(path, *prefix, format!("prefix: {m}"))));
            }
            if name.is_empty() {
                errors.push(Error::invalid(path, "", "name must not be empty"));
            } else {
                errors.extend(device_identifier(path, name));
            }
        }
        _ => {}
    }
    if !value.contains('/') {
        errors.push(Error::invalid(path, value, "a fully qualified name must be a domain and a name separated by a slash"));
    }
    errors
}

fn device_identifier(path: &Path<'_>, name: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if name.len() > 32 {
        errors.push(Error::too_long(path, 32));
    }
    errors.extend(invalid(path, name, is_c_identifier(name)));
    errors
}

/// An identifier of C.
pub fn is_c_identifier(value: &str) -> Vec<String> {
    let starts = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Vec::new();
    }
    let message =
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![regex_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A decimal integer without leading zeros or plus sign.
pub fn is_decimal_integer(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec![empty_error().to_owned()];
    }
    let digits = value.strip_prefix('-').unwrap_or(value);
    let canonical = value == "0" || (digits.starts_with(|c: char| ('1'..='9').contains(&c)) && digits.bytes().all(|b| b.is_ascii_digit()));
    if canonical { Vec::new() } else { vec!["must be a valid decimal integer in canonical form".to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        let path = Path::new("p");
        assert!(uuid(&path, "01234567-89ab-cdef-0123-456789abcdef").is_empty());
        assert!(!uuid(&path, "01234567-89AB-cdef-0123-456789abcdef").is_empty());
        assert!(long_name_caseless(&path, "Example.COM").is_empty());
        assert_eq!(short_name(&path, &"a".repeat(64))[0].detail, "must be no more than 63 bytes");
        assert!(resource_pool_name(&path, "a/b.c").is_empty());
        assert_eq!(resource_pool_name(&path, "a//b")[0].detail, "segment 1: must not be empty");
        assert!(resource_fully_qualified_name(&path, "example.com/cap").is_empty());
        assert_eq!(resource_fully_qualified_name(&path, "cap").len(), 1);
        assert!(extended_resource_name(&path, "example.com/gpu").is_empty());
        for (value, good) in
            [("0", true), ("-1", true), ("10", true), ("-0", false), ("01", false), ("-", false), ("", false), ("1a", false)]
        {
            assert_eq!(is_decimal_integer(value).is_empty(), good, "{value:?}");
        }
    }
}
