//! Which resource names exist, and what follows from a name: whether it may be overcommitted, is whole, is extended.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_qualified_name;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::invalid_all;
use super::resources::{amount, parsed};

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
const COUNTS: &[&str] = &[
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
const HUGE_PAGES: &str = "hugepages-";
const POD_LEVEL: &[&str] = &["cpu", "hugepages-", "memory"];

pub fn is_huge_page_resource_name(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Named by Kubernetes itself: without a domain, or in `kubernetes.io`.
pub fn is_native_resource(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Named by a device plugin or an administrator.
pub fn is_extended_resource_name(name: &str) -> bool {
    !is_native_resource(name) && !name.starts_with("requests.") && is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Requests may be below limits.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native_resource(name) && !is_huge_page_resource_name(name)
}

/// Counted in whole numbers.
pub fn is_integer_resource_name(name: &str) -> bool {
    COUNTS.contains(&name) || is_extended_resource_name(name)
}

pub fn is_standard_resource_name(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page_resource_name(name) || name.starts_with("requests.hugepages-")
}

fn is_standard_container_resource_name(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page_resource_name(name)
}

/// May stand in a pod's own resources.
pub fn is_pod_level_resource_name(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page_resource_name(name)
}

/// The amount is a multiple of the page size that the name gives.
pub fn huge_page_value_is_divisible(name: &str, quantity: &Quantity) -> bool {
    let Some(page) = name.strip_prefix(HUGE_PAGES).and_then(parsed) else { return false };
    page.sign() > 0 && page.milli_value() % 1000 == 0 && amount(quantity).value().checked_rem(page.value()) == Some(0)
}

/// A qualified name, and a standard one if it has no domain.
pub fn validate_resource_name(name: &str, path: &Path<'_>) -> ErrorList {
    let errors = invalid_all(path, name, is_qualified_name(name));
    if errors.is_empty() && !name.contains('/') && !is_standard_resource_name(name) {
        return vec![Error::invalid(path, name, "must be a standard resource type or fully qualified")];
    }
    errors
}

/// A name in a container's resources.
pub(super) fn validate_container_resource_name(name: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_resource_name(name, path);
    if !name.contains('/') {
        if !is_standard_container_resource_name(name) {
            errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native_resource(name) && !is_extended_resource_name(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
    errors
}

/// A name in a pod's own resources.
pub(super) fn validate_pod_resource_name(name: &str, path: &Path<'_>) -> ErrorList {
    let errors = validate_resource_name(name, path);
    if errors.is_empty() && !is_pod_level_resource_name(name) {
        return vec![Error::not_supported(path, name, POD_LEVEL)];
    }
    errors
}
