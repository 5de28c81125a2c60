//! Resource names and amounts as quotas, limit ranges, nodes and claims use them.
//!
//! Knows which names are standard and what an amount must be; never how much there is.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation::is_qualified_name;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";

/// Names that stand without a domain wherever any resource may be named.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Names that count whole things.
const INTEGER: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// An amount that the schema has accepted; zero where it could not be read after all.
pub fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or_default()
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

fn is_quota_huge_pages(name: &str) -> bool {
    is_huge_pages(name) || name.strip_prefix(REQUESTS).is_some_and(is_huge_pages)
}

/// A name without a domain, or in Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A name in somebody else's domain that a quota could prefix with `requests.`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with(REQUESTS) && is_qualified_name(&format!("{REQUESTS}{name}")).is_empty()
}

/// Whether limits may exceed requests.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Whether a quota may name it without a domain.
pub fn is_standard_for_quota(name: &str) -> bool {
    (name != "storage" && STANDARD.contains(&name)) || is_quota_huge_pages(name)
}

fn is_standard_for_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_pages(name)
}

/// Any resource's name.
pub fn validate_name(name: &str, path: &Path<'_>) -> ErrorList {
    let errors: ErrorList = is_qualified_name(name).into_iter().map(|message| Error::invalid(path, name, message)).collect();
    if errors.is_empty() && !name.contains('/') && !STANDARD.contains(&name) && !is_quota_huge_pages(name) {
        return vec![Error::invalid(path, name, "must be a standard resource type or fully qualified")];
    }
    errors
}

/// The name of a resource that containers ask for.
pub fn validate_container_name(name: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_name(name, path);
    if !name.contains('/') {
        if !is_standard_for_containers(name) {
            errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
    errors
}

/// The name of a resource that quotas limit.
pub fn validate_quota_name(name: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_name(name, path);
    if !name.contains('/') && !is_standard_for_quota(name) {
        errors.push(Error::invalid(path, name, "must be a standard resource for quota"));
    }
    errors
}

/// Not below zero.
pub fn validate_not_negative(amount: &Quantity, path: &Path<'_>) -> ErrorList {
    if amount.sign() < 0 {
        return vec![Error::invalid(path, amount.canonical(), NOT_NEGATIVE)];
    }
    ErrorList::new()
}

/// Above zero.
pub fn validate_positive(amount: &Quantity, path: &Path<'_>) -> ErrorList {
    if amount.sign() <= 0 {
        return vec![Error::invalid(path, amount.canonical(), "must be greater than zero")];
    }
    ErrorList::new()
}

/// An amount that can be told as a number of units.
pub fn validate_basic(amount: &Quantity, path: &Path<'_>) -> ErrorList {
    if amount.value() < 0 {
        return vec![Error::invalid(path, amount.value(), "must be a valid resource quantity")];
    }
    ErrorList::new()
}

/// An amount of the named resource: not negative, and whole where the resource counts things.
pub fn validate_amount(name: &str, amount: &Quantity, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_not_negative(amount, path);
    if (INTEGER.contains(&name) || is_extended(name)) && amount.milli_value() % 1000 != 0 {
        errors.push(Error::invalid(path, amount.canonical(), "must be an integer"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_upstreams_sets() {
        let path = Path::new("n");
        let count = |errors: ErrorList| errors.len();
        for (name, any, container, quota) in [
            ("cpu", 0, 0, 0),
            ("storage", 0, 1, 1),
            ("pods", 0, 1, 0),
            ("bogus", 1, 2, 2),
            ("example.com/gpu", 0, 0, 0),
            ("hugepages-2Mi", 0, 0, 0),
            ("requests.hugepages-2Mi", 0, 1, 0),
        ] {
            assert_eq!(count(validate_name(name, &path)), any, "{name}");
            assert_eq!(count(validate_container_name(name, &path)), container, "{name}");
            assert_eq!(count(validate_quota_name(name, &path)), quota, "{name}");
        }
    }

    #[test]
    fn counted_resources_come_whole() {
        let path = Path::new("n");
        assert_eq!(validate_amount("pods", &quantity("1500m"), &path)[0].to_string(), "n: Invalid value: \"1500m\": must be an integer");
        assert!(validate_amount("cpu", &quantity("1500m"), &path).is_empty());
        assert_eq!(validate_amount("cpu", &quantity("-1"), &path).len(), 1);
    }
}
