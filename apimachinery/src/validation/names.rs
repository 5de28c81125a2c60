//! Names: DNS labels and subdomains, qualified names, keys of config maps, environment variables, path segments.
//!
//! Lengths are counted in bytes. The forms that label keys and values use word their length limit in bytes, the others
//! in "characters", as the API does.

use std::borrow::Cow;

use crate::field::{Error, ErrorList, Path};

use super::{empty_error, max_bytes_error, max_len_error, regex_error};

pub(super) const DNS1123_LABEL_MAX: usize = 63;
pub(super) const DNS1123_SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

const DNS1123_LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
pub(super) const DNS1123_SUBDOMAIN_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const UNDERSCORE_SUBDOMAIN_REGEX: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const UNDERSCORE_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL_REGEX: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const WILDCARD_REGEX: &str = "\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const LABEL_KEY_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_REGEX: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

const fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Non-empty, first and last byte accepted by `edge`, all others by `inner`.
fn framed(value: &[u8], edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    match value {
        [] => false,
        [only] => edge(*only),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|b| inner(*b)),
    }
}

fn lower_label(value: &[u8]) -> bool {
    framed(value, lower_alnum, |b| lower_alnum(b) || b == b'-')
}

pub(super) fn subdomain(value: &str) -> bool {
    value.as_bytes().split(|b| *b == b'.').all(lower_label)
}

/// RFC 1123 label in lower case, at most 63 bytes.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    dns1123_label(value, max_len_error)
}

pub(super) fn dns1123_label(value: &str, too_long: fn(usize) -> String) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        errors.push(too_long(DNS1123_LABEL_MAX));
    }
    if !lower_label(value.as_bytes()) {
        // A subdomain that is no label can only have dots too many.
        if subdomain(value) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_error(DNS1123_LABEL_MESSAGE, DNS1123_LABEL_REGEX, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// Dot-separated RFC 1123 labels in lower case, at most 253 bytes together.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    dns1123_subdomain(value, max_len_error)
}

pub(super) fn dns1123_subdomain(value: &str, too_long: fn(usize) -> String) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    if !subdomain(value) {
        errors.push(regex_error(DNS1123_SUBDOMAIN_MESSAGE, DNS1123_SUBDOMAIN_REGEX, &["example.com"]));
    }
    errors
}

/// As [`is_dns1123_subdomain`], with `_` also allowed inside and at the start of each label.
pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    let label = |part: &[u8]| {
        let part = part.strip_prefix(b"_").unwrap_or(part);
        framed(part, lower_alnum, |b| lower_alnum(b) || b == b'-' || b == b'_')
    };
    if !value.as_bytes().split(|b| *b == b'.').all(label) {
        errors.push(regex_error(UNDERSCORE_SUBDOMAIN_MESSAGE, UNDERSCORE_SUBDOMAIN_REGEX, &["example.com"]));
    }
    errors
}

/// RFC 1035 label: as an RFC 1123 label, but starts with a letter.
pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        errors.push(max_len_error(DNS1123_LABEL_MAX));
    }
    if !(lower_label(value.as_bytes()) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(regex_error(DNS1035_LABEL_MESSAGE, DNS1035_LABEL_REGEX, &["my-name", "abc-123"]));
    }
    errors
}

/// `*.` and a subdomain.
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain) {
        errors.push(regex_error(WILDCARD_MESSAGE, WILDCARD_REGEX, &["*.example.com"]));
    }
    errors
}

fn label_text(value: &str) -> bool {
    framed(value.as_bytes(), |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label key: a name of at most 63 bytes, optionally after a DNS subdomain and `/`.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let key_error = || regex_error(LABEL_KEY_MESSAGE, LABEL_KEY_REGEX, &["MyName", "my.name", "123-abc"]);
    let mut errors = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push(format!("prefix part {}", empty_error()));
            } else {
                errors.extend(dns1123_subdomain(prefix, max_bytes_error).iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let with_prefix = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {with_prefix}", key_error())];
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {}", empty_error()));
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_bytes_error(LABEL_MAX)));
    }
    if !label_text(name) {
        errors.push(format!("name part {}", key_error()));
    }
    errors
}

/// A label value: empty, or letters and digits with `-`, `_`, `.` between, at most 63 bytes.
pub fn is_valid_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_bytes_error(LABEL_MAX));
    }
    if !value.is_empty() && !label_text(value) {
        errors.push(regex_error(LABEL_VALUE_MESSAGE, LABEL_VALUE_REGEX, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A DNS subdomain of at least three labels.
pub fn is_fully_qualified_name(path: &Path<'_>, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![Error::invalid(path, name, errors.join(","))];
    }
    if name.split('.').count() < 3 {
        return vec![Error::invalid(path, name, "should be a domain with at least three segments separated by dots")];
    }
    Vec::new()
}

/// A DNS subdomain of at least two labels, each at most 63 bytes; a trailing dot is allowed.
pub fn is_fully_qualified_domain_name(path: &Path<'_>, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![Error::invalid(path, name, errors.join(","))];
    }
    if name.split('.').count() < 2 {
        return vec![Error::invalid(path, name, "should be a domain with at least two segments separated by dots")];
    }
    for label in name.split('.') {
        let errors = is_dns1123_label(label);
        if !errors.is_empty() {
            return vec![Error::invalid(path, label, errors.join(","))];
        }
    }
    Vec::new()
}

/// `domain/path`, such as `acme.io/foo`, the path of characters that an HTTP path may have.
pub fn is_domain_prefixed_path(path: &Path<'_>, value: &str) -> ErrorList {
    if value.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (host, rest) = match value.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => (host, rest),
        _ => return vec![Error::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")")],
    };
    let mut errors: ErrorList = is_dns1123_subdomain(host).into_iter().map(|m| Error::invalid(path, host, m)).collect();
    let http_path = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(http_path) {
        errors.push(Error::invalid(path, rest, regex_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[])));
    }
    errors
}

/// A label key that has a prefix.
pub fn is_domain_prefixed_key(path: &Path<'_>, key: &str) -> ErrorList {
    if key.is_empty() {
        return vec![Error::required(path, "")];
    }
    let errors: ErrorList = is_qualified_name(key).into_iter().map(|m| Error::invalid(path, key, m)).collect();
    if errors.is_empty() && !key.contains('/') {
        return vec![Error::invalid(path, key, "must be a domain-prefixed key (such as \"acme.io/foo\")")];
    }
    errors
}

fn change_directory_prefix(value: &str) -> Option<String> {
    let message = match value {
        "." => "must not be '.'",
        ".." => "must not be '..'",
        _ if value.starts_with("..") => "must not start with '..'",
        _ => return None,
    };
    Some(message.to_owned())
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(change_directory_prefix(value));
    errors
}

/// The strict form of an environment variable's name.
pub fn is_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !value.bytes().all(inner) || value.as_bytes().first().is_none_or(u8::is_ascii_digit) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        errors.push(regex_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    errors.extend(change_directory_prefix(value));
    errors
}

/// Any printable ASCII but `=`.
pub fn is_relaxed_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec![format!("environment variable name {}", empty_error())];
    }
    if value.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'=') {
        return vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()];
    }
    Vec::new()
}

/// A header field name of letters, digits and `-`.
pub fn is_http_header_name(value: &str) -> Vec<String> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
        return vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])];
    }
    Vec::new()
}

/// A name that stands as one segment of a URL path.
pub fn is_valid_path_segment_name(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    is_valid_path_segment_prefix(name)
}

/// The start of a name that will stand as one segment of a URL path.
pub fn is_valid_path_segment_prefix(name: &str) -> Vec<String> {
    ["/", "%"].iter().filter(|illegal| name.contains(**illegal)).map(|illegal| format!("may not contain '{illegal}'")).collect()
}

/// The loosest rule for `metadata.name`: anything that can stand in a URL path.
pub fn validate_path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix { is_valid_path_segment_prefix(name) } else { is_valid_path_segment_name(name) }
}

/// A prefix may end with a dash because characters follow: its last two bytes are checked as if they were one `a`.
fn mask_trailing_dash(name: &str, prefix: bool) -> Cow<'_, str> {
    if !prefix || name.len() < 2 || !name.ends_with('-') {
        return Cow::Borrowed(name);
    }
    let kept = &name.as_bytes()[..name.len() - 2];
    // A cut character stays as a replacement character, which no name rule accepts.
    Cow::Owned(String::from_utf8_lossy(kept).into_owned() + "a")
}

/// `metadata.name` must be a DNS subdomain.
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&mask_trailing_dash(name, prefix))
}

/// `metadata.name` must be an RFC 1123 label.
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&mask_trailing_dash(name, prefix))
}

/// `metadata.name` must be an RFC 1035 label.
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&mask_trailing_dash(name, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(check: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(check(value), Vec::<String>::new(), "{value:?}");
        }
        for value in bad {
            assert!(!check(value).is_empty(), "{value:?} must be refused");
        }
    }

    #[test]
    fn scanners_accept_what_the_regular_expressions_accept() {
        let (l63, l64, l253, l254) = ("a".repeat(63), "a".repeat(64), "a".repeat(253), "a".repeat(254));
        accepts(is_dns1123_label, &["a", "0", "a-1", "a--b", &l63], &["", "A", "-a", "a-", "a.b", "a_b", "é", &l64]);
        accepts(is_dns1123_subdomain, &["a", "a.b", "1.2", &l253], &["", ".", "a.", ".a", "a..b", "a.-b", "A.b", "a_b", "a b", &l254]);
        accepts(is_dns1123_subdomain_with_underscore, &["_a.b", "a_b", "_0._b"], &["", "_", "a_", "__a", "_.a"]);
        accepts(is_dns1035_label, &["a", "a1", "a-1"], &["", "1a", "a-", "A"]);
        accepts(is_wildcard_dns1123_subdomain, &["*.a", "*.a.b"], &["*", "*.", "a.b", "*.*.a", "*a.b"]);
        accepts(is_qualified_name, &["a", "A_b.C", "a.b/C", &l63], &["", "/a", "a/", "A/b", "a/b/c", "-a", &l64]);
        accepts(is_valid_label_value, &["", "a", "A_b.C-1", &l63], &["-", "a.", "a b", &l64]);
        accepts(is_config_map_key, &["a", "..a".trim_start_matches('.'), ".a", "_-."], &["", ".", "..", "..a", "a/b", &l254]);
        accepts(is_env_var_name, &["a", "_a", "-a", ".a", "A9"], &["", "9a", "a=b", "..", "a b"]);
        accepts(is_relaxed_env_var_name, &["9 a", "!"], &["", "a=b", "a\n", "é"]);
        accepts(is_http_header_name, &["X-a", "-"], &["", "a_b", "a:"]);
        accepts(is_valid_path_segment_name, &["", "a:b", "..."], &[".", "..", "a/b", "a%"]);
    }

    #[test]
    fn messages_carry_examples_and_regular_expressions() {
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            is_dns1123_label("Bad"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(is_dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert_eq!(is_qualified_name(&"x".repeat(64)), ["name part must be no more than 63 bytes"]);
        assert_eq!(
            is_qualified_name("a/b/c"),
            [
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ]
        );
        let path = Path::new("p");
        let shown = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            shown(is_domain_prefixed_path(&path, "a")),
            ["p: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")"]
        );
        assert_eq!(
            shown(is_domain_prefixed_path(&path, "a/b c")),
            ["p: Invalid value: \"b c\": Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')"]
        );
        assert_eq!(
            shown(is_fully_qualified_name(&path, "a.b")),
            ["p: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"]
        );
    }

    #[test]
    fn a_name_prefix_may_end_with_a_dash() {
        assert!(name_is_dns_label("gen-", true).is_empty());
        assert!(!name_is_dns_label("gen-", false).is_empty());
        assert!(!name_is_dns_label("-", true).is_empty());
        assert!(!name_is_dns_subdomain("é-", true).is_empty());
        assert!(name_is_dns1035_label("a-", true).is_empty());
    }
}
