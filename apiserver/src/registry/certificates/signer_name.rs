//! The names of signers: `example.com/name`.

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::validation::{is_dns1123_label, is_dns1123_subdomain};

const MAX_DOMAIN: usize = 253;
/// A domain, `/`, and a label and a subdomain with a dot between.
const MAX: usize = MAX_DOMAIN + 1 + 253 + 1 + 63;

/// A domain of at least two labels and a path.
pub fn validate_signer_name(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (domain, rest) = match name.split('/').collect::<Vec<_>>().as_slice() {
        [domain, rest] => (*domain, *rest),
        _ => {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            return vec![Error::invalid(path, name, detail)];
        }
    };
    let mut errors = ErrorList::new();
    if domain.len() > MAX_DOMAIN {
        errors.push(Error::too_long(path, MAX_DOMAIN));
    }
    errors.extend(first_bad_label(domain, is_dns1123_label, path));
    if !domain.contains('.') {
        errors.push(Error::invalid(path, domain, "should be a domain with at least two segments separated by dots"));
    }
    errors.extend(first_bad_label(rest, is_dns1123_subdomain, path));
    if name.len() > MAX {
        errors.push(Error::too_long(path, MAX));
    }
    errors
}

/// The problems of the first label that has any.
fn first_bad_label(segment: &str, check: fn(&str) -> Vec<String>, path: &Path<'_>) -> ErrorList {
    let problems = segment.split('.').map(|label| (label, check(label))).find(|(_, problems)| !problems.is_empty());
    let invalid = |label: &str, problem: String| Error::invalid(path, segment, format!("validating label {}: {problem}", quote(label)));
    problems.into_iter().flat_map(|(label, problems)| problems.into_iter().map(move |problem| invalid(label, problem))).collect()
}

/// Whether the signer is one of the project's own.
pub fn is_kubernetes_signer(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or("");
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Vec<String> {
        validate_signer_name(name, &Path::new("s")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_signer_is_a_domain_and_a_path() {
        assert!(check("example.com/a").is_empty());
        assert_eq!(check(""), ["s: Required value"]);
        assert_eq!(
            check("example.com"),
            [r#"s: Invalid value: "example.com": must be a fully qualified domain and path of the form 'example.com/signer-name'"#]
        );
        assert_eq!(check("example/a"), [r#"s: Invalid value: "example": should be a domain with at least two segments separated by dots"#]);
        assert!(check("example.com/A")[0].starts_with(r#"s: Invalid value: "A": validating label "A": a lowercase RFC 1123 subdomain"#));
    }

    #[test]
    fn the_projects_signers_are_known() {
        assert!(is_kubernetes_signer("kubernetes.io/a") && is_kubernetes_signer("x.kubernetes.io/a"));
        assert!(!is_kubernetes_signer("xkubernetes.io/a"));
    }
}
