//! Requests, limits and claims, of containers and of the pod as a whole.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation::{is_dns1123_label, name_is_dns_subdomain};
use k8s_openapi::api::core::v1::{PodResourceClaim, PodSpec, ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Typed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::huge_pages::{is_huge_pages, validate_pages};
use super::options::Options;
use super::{annotations, invalid_all, printed};
use crate::registry::core::pod::access::{ResourceList, items, text};
use crate::registry::core::pod::aggregate;
use crate::registry::core::resource::{self, is_overcommit_allowed, validate_amount, validate_container_name, validate_name};

/// The amount of a quantity that the engine has already found well-formed.
pub(crate) fn amount(quantity: &Typed) -> Quantity {
    resource::quantity(&quantity.0)
}

/// Requests and limits of a container; `claim_names` are those of the pod's claims.
pub fn validate_container_resource_requirements(
    requirements: &ResourceRequirements,
    claim_names: &BTreeSet<&str>,
    path: &Path<'_>,
    opts: &Options,
) -> ErrorList {
    validate_requirements(requirements, validate_container_name, claim_names, path, opts)
}

fn validate_requirements(
    requirements: &ResourceRequirements,
    validate_name: fn(&str, &Path<'_>) -> ErrorList,
    claim_names: &BTreeSet<&str>,
    path: &Path<'_>,
    opts: &Options,
) -> ErrorList {
    let none = ResourceList::new();
    let limits = requirements.limits.as_ref().unwrap_or(&none);
    let requests = requirements.requests.as_ref().unwrap_or(&none);
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));

    let mut errors = ErrorList::new();
    for (name, quantity) in limits {
        let path = limits_path.key(name);
        errors.extend(validate_name(name, &path));
        errors.extend(validate_amount(name, &amount(quantity), &path));
        errors.extend(validate_pages(name, quantity, &path, opts));
    }
    for (name, quantity) in requests {
        let path = requests_path.key(name);
        errors.extend(validate_name(name, &path));
        errors.extend(validate_amount(name, &amount(quantity), &path));
        match limits.get(name) {
            Some(limit) => {
                let order = amount(quantity).cmp(&amount(limit));
                let relation = if order.is_ne() && !is_overcommit_allowed(name) {
                    Some("equal to")
                } else if order.is_gt() {
                    Some("less than or equal to")
                } else {
                    None
                };
                if let Some(relation) = relation {
                    let detail = format!("must be {relation} {name} limit of {}", limit.0);
                    errors.push(Error::invalid(&requests_path, quantity.0.as_str(), detail));
                }
            }
            None if !is_overcommit_allowed(name) => {
                errors.push(Error::required(&limits_path, "Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
        errors.extend(validate_pages(name, quantity, &path, opts));
    }
    let names = || limits.keys().chain(requests.keys());
    if names().any(|name| is_huge_pages(name)) && !names().any(|name| matches!(name.as_str(), "cpu" | "memory")) {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    errors.extend(validate_claim_references(items(&requirements.claims), claim_names, &path.child("claims")));
    errors
}

/// May stand in a pod's own resources.
pub(crate) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

fn validate_pod_level_name(name: &str, path: &Path<'_>) -> ErrorList {
    let errors = validate_name(name, path);
    if errors.is_empty() && !is_pod_level(name) {
        return vec![Error::not_supported(path, name, &["cpu", "hugepages-", "memory"])];
    }
    errors
}

/// What running a pod costs beyond its containers, given as limits.
pub fn validate_overhead(overhead: &ResourceRequirements, path: &Path<'_>) -> ErrorList {
    validate_container_resource_requirements(overhead, &BTreeSet::new(), path, &Options::default())
}

fn validate_claim_references(claims: &[ResourceClaim], claim_names: &BTreeSet<&str>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    // A claim is used whole ("a") or by requests ("a/x"), not both.
    let mut used: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let (name, request) = (claim.name.as_str(), text(&claim.request));
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        if used.contains(name) {
            errors.push(Error::duplicate(&path, name));
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                errors.extend(invalid_all(&path.child("request"), request, is_dns1123_label(request)));
                key = format!("{name}/{request}");
            }
            if used.contains(&key) {
                errors.push(Error::duplicate(&path, key.as_str()));
            } else if request.is_empty() {
                let by_request = used.iter().filter(|key| key.split_once('/').is_some_and(|(claim, _)| claim == name)).count();
                errors.extend((0..by_request).map(|_| Error::duplicate(&path, name)));
            }
            used.insert(key);
        }
        if !claim_names.contains(name) {
            let mut error = Error::not_found(&path, name);
            error.detail = match claim_names.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                false => {
                    let names: Vec<&str> = claim_names.iter().copied().collect();
                    format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", "))
                }
            };
            errors.push(error);
        }
    }
    errors
}

/// The names that containers can refer to.
pub(super) fn claim_names(claims: &[PodResourceClaim]) -> BTreeSet<&str> {
    claims.iter().map(|claim| claim.name.as_str()).filter(|name| !name.is_empty()).collect()
}

/// The pod's claims on dynamic resources.
pub(super) fn validate_pod_resource_claims(meta: Option<&ObjectMeta>, claims: &[PodResourceClaim], path: &Path<'_>) -> ErrorList {
    let mirror = meta.is_some_and(annotations::is_mirror_pod);
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        if mirror {
            errors.push(Error::forbidden(&Path::ROOT, "static pods do not support resource claims"));
            continue;
        }
        let path = path.index(i);
        let name_path = path.child("name");
        if claim.name.is_empty() {
            errors.push(Error::required(&name_path, ""));
        } else if !names.insert(&claim.name) {
            errors.push(Error::duplicate(&name_path, claim.name.as_str()));
        } else {
            errors.extend(invalid_all(&name_path, claim.name.as_str(), is_dns1123_label(&claim.name)));
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => errors.push(Error::invalid(
                &path,
                printed::structure("PodResourceClaim", claim),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
            (None, None) => errors.push(Error::invalid(
                &path,
                printed::structure("PodResourceClaim", claim),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            _ => {}
        }
        let references =
            [("resourceClaimName", &claim.resource_claim_name), ("resourceClaimTemplateName", &claim.resource_claim_template_name)];
        for (field, name) in references {
            if let Some(name) = name {
                errors.extend(invalid_all(&path.child(field), name.as_str(), name_is_dns_subdomain(name, false)));
            }
        }
    }
    errors
}

/// The resources of the pod as a whole, and how they cover those of its containers.
pub(super) fn validate_pod_resources(spec: &PodSpec, claim_names: &BTreeSet<&str>, path: &Path<'_>, opts: &Options) -> ErrorList {
    let Some(resources) = &spec.resources else { return ErrorList::new() };
    let path = path.child("resources");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return vec![Error::forbidden(&path, "may not be set for a windows pod")];
    }
    let mut errors = ErrorList::new();
    if resources.claims.is_some() {
        errors.push(Error::forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level"));
    }
    errors.extend(validate_requirements(resources, validate_pod_level_name, claim_names, &path, opts));
    errors.extend(validate_pod_resource_consistency(spec, resources, &path));
    errors
}

fn validate_pod_resource_consistency(spec: &PodSpec, resources: &ResourceRequirements, path: &Path<'_>) -> ErrorList {
    let none = ResourceList::new();
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let limits = resources.limits.as_ref().unwrap_or(&none);
    let (requests_path, limits_path) = (path.child("requests"), path.child("limits"));
    let mut errors = ErrorList::new();
    for (name, total) in aggregate::container_requests(spec) {
        if let Some(own) = requests.get(&name)
            && total > amount(own)
        {
            let detail = format!("must be greater than or equal to aggregate container requests of {}", total.canonical());
            errors.push(Error::invalid(&requests_path.key(&name), own.0.as_str(), detail));
        }
    }
    for (name, total) in aggregate::container_limits(spec) {
        if is_huge_pages(&name)
            && let Some(own) = limits.get(&name)
            && total > amount(own)
        {
            let detail = format!("must be greater than or equal to aggregate container limits of {}", total.canonical());
            errors.push(Error::invalid(&limits_path.key(&name), own.0.as_str(), detail));
        }
    }
    let containers = path.child("containers");
    for (i, container) in spec.containers.iter().enumerate() {
        let of_container = container.resources.iter().flat_map(|r| &r.limits).flatten();
        for (name, limit) in of_container {
            if let Some(own) = limits.get(name)
                && amount(limit) > amount(own)
            {
                let detail = format!("must be less than or equal to pod limits of {}", own.0);
                errors.push(Error::invalid(&containers.index(i).key(name).child("limits"), limit.0.as_str(), detail));
            }
        }
    }
    errors
}
