//! What a kubelet, a scheduler or a controller may write into a pod's status.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    Ip, is_dns1123_label, is_qualified_name, is_valid_group_id, is_valid_ip_for_legacy_field, name_is_dns_subdomain,
    validate_immutable_field,
};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodCondition, PodExtendedResourceClaimStatus, PodResourceClaimStatus, PodSpec, PodStatus,
    ResourceStatus,
};
use serde_json::Value;

use super::annotations::validate_pod_annotations_update;
use super::options::Options;
use super::resources::amount;
use super::{invalid_all, printed};
use crate::registry::core::pod::access::{items, text};

const CLAIM: &str = "claim:";
const HEALTH: &[&str] = &["Healthy", "Unhealthy", "Unknown"];
const MAX_HEALTH_MESSAGE_BYTES: usize = 1024;
const NOT_NEGATIVE: &str = "must be a non-negative integer";
const STATE: &str = "may not be transitioned to non-terminated state";

/// The rules of an update through `status`.
pub fn validate_pod_status_update(new_raw: &Value, old_raw: &Value) -> ErrorList {
    let (new, old): (Pod, Pod) = (view(new_raw), view(old_raw));
    let opts = Options::for_pod(Some(&old));
    let (new_spec, old_spec) = (new.spec.unwrap_or_default(), old.spec.unwrap_or_default());
    let (status, before) = (new.status.unwrap_or_default(), old.status.unwrap_or_default());
    let (meta_path, path) = (Path::new("metadata"), Path::new("status"));

    let annotations = meta_path.child("annotations");
    let mut errors = validate_pod_annotations_update(&new.metadata, &old.metadata, &new_spec, &annotations, &opts);
    errors.extend(validate_conditions(items(&status.conditions), &path.child("conditions")));
    if text(&new_spec.node_name) != text(&old_spec.node_name) {
        errors.push(Error::forbidden(&path.child("nodeName"), "may not be changed directly"));
    }
    errors.extend(validate_nomination(&status, &before, &old_spec, &path.child("nominatedNodeName")));
    if let Some(generation) = status.observed_generation.filter(|g| *g < 0) {
        errors.push(Error::invalid(&path.child("observedGeneration"), generation, NOT_NEGATIVE));
    }
    errors.extend(validate_immutable_field(text(&status.qos_class), text(&before.qos_class), &path.child("qosClass")));
    let states = [
        ("containerStatuses", &status.container_statuses, &before.container_statuses),
        ("initContainerStatuses", &status.init_container_statuses, &before.init_container_statuses),
        ("ephemeralContainerStatuses", &status.ephemeral_container_statuses, &before.ephemeral_container_statuses),
    ];
    for (name, after, before) in states {
        errors.extend(validate_transitions(name, items(after), items(before), &old_spec, &path.child(name)));
    }
    errors.extend(validate_claim_statuses(items(&status.resource_claim_statuses), &new_spec, &path.child("resourceClaimStatuses")));
    if let Some(claim) = &status.extended_resource_claim_status {
        errors.extend(validate_extended_claim(claim, &new_spec, &path.child("extendedResourceClaimStatus")));
    }
    errors.extend(validate_pod_ips(&status, &before, &path.child("podIPs")));
    errors.extend(validate_host_ips(&status, &before, &path.child("hostIPs")));
    for (name, after, _) in states {
        errors.extend(validate_users(items(after), &new_spec, &path.child(name)));
    }
    let allocated = [
        ("containerStatuses", &status.container_statuses, new_spec.containers.as_slice()),
        ("initContainerStatuses", &status.init_container_statuses, items(&new_spec.init_containers)),
    ];
    for (name, statuses, containers) in allocated {
        errors.extend(validate_allocated_resources(items(statuses), containers, &status, &path.child(name)));
    }
    let ephemeral = path.child("ephemeralContainerStatuses");
    for (i, container) in items(&status.ephemeral_container_statuses).iter().enumerate() {
        if !items(&container.allocated_resources_status).is_empty() {
            let path = ephemeral.index(i);
            errors.push(Error::forbidden(&path.child("allocatedResourcesStatus"), "must not be specified in container status"));
        }
    }
    errors
}

fn validate_conditions(conditions: &[PodCondition], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            errors.push(Error::invalid(&path.child("observedGeneration"), generation, NOT_NEGATIVE));
        }
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            errors.extend(invalid_all(&path.child("Type"), condition.type_.as_str(), is_qualified_name(&condition.type_)));
        }
    }
    errors
}

/// A scheduler may nominate a node while the pod has none.
fn validate_nomination(new: &PodStatus, old: &PodStatus, old_spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let node = text(&new.nominated_node_name);
    if node.is_empty() || node == text(&old.nominated_node_name) {
        return ErrorList::new();
    }
    let mut errors = invalid_all(path, node, name_is_dns_subdomain(node, false));
    if !text(&old_spec.node_name).is_empty() {
        errors.push(Error::forbidden(path, "may not be set on pods that are already bound to a node"));
    }
    errors
}

/// Containers that have ended stay so, unless their restart policy starts them again.
fn validate_transitions(name: &str, new: &[ContainerStatus], old: &[ContainerStatus], spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let containers = match name {
        "containerStatuses" => spec.containers.as_slice(),
        "initContainerStatuses" => items(&spec.init_containers),
        _ => &[],
    };
    if name != "ephemeralContainerStatuses" && restarts_all(spec) {
        return ErrorList::new();
    }
    let mut errors = ErrorList::new();
    for (i, before) in old.iter().enumerate() {
        let Some(ended) = before.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
        let terminated = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
        if !new.iter().any(|now| now.name == before.name && !terminated(now)) {
            continue;
        }
        let container = containers.iter().find(|c| c.name == before.name);
        if !container.is_some_and(|c| restarts(c, spec, ended.exit_code)) {
            errors.push(Error::forbidden(&path.index(i).child("state"), STATE));
        }
    }
    errors
}

/// Some exit restarts every container of the pod.
fn restarts_all(spec: &PodSpec) -> bool {
    let containers = items(&spec.init_containers).iter().chain(&spec.containers);
    containers.flat_map(|c| items(&c.restart_policy_rules)).any(|rule| rule.action == "RestartAllContainers")
}

/// Whether a container starts again after an exit with this code.
fn restarts(container: &Container, spec: &PodSpec, code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        let matching = items(&container.restart_policy_rules).iter().find(|rule| {
            rule.exit_codes.as_ref().is_some_and(|codes| {
                let listed = items(&codes.values).contains(&code);
                (codes.operator == "In" && listed) || (codes.operator == "NotIn" && !listed)
            })
        });
        if matching.is_some_and(|rule| matches!(rule.action.as_str(), "Restart" | "RestartAllContainers")) {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match text(&spec.restart_policy) {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

fn validate_claim_statuses(statuses: &[PodResourceClaimStatus], spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (i, status) in statuses.iter().enumerate() {
        let path = path.index(i);
        let name_path = path.child("name");
        if !items(&spec.resource_claims).iter().any(|claim| claim.name == status.name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(Error::invalid(&name_path, status.name.as_str(), detail));
        }
        if !names.insert(&status.name) {
            errors.push(Error::duplicate(&name_path, status.name.as_str()));
        }
        if let Some(claim) = &status.resource_claim_name {
            errors.extend(invalid_all(&path.child("resourceClaimName"), claim.as_str(), name_is_dns_subdomain(claim, false)));
        }
    }
    errors
}

fn validate_extended_claim(status: &PodExtendedResourceClaimStatus, spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let containers: BTreeMap<&str, &Container> =
        items(&spec.init_containers).iter().chain(&spec.containers).map(|c| (c.name.as_str(), c)).collect();
    let mappings = path.child("requestMappings");
    let mut errors = ErrorList::new();
    if status.request_mappings.is_empty() {
        errors.push(Error::required(&mappings, "at least one request mapping is required"));
    }
    let mut seen = BTreeSet::new();
    for (i, mapping) in status.request_mappings.iter().enumerate() {
        let at = mappings.index(i);
        let (container, resource, request) = (&mapping.container_name, &mapping.resource_name, &mapping.request_name);
        let requests = |c: &Container| c.resources.iter().flat_map(|r| &r.requests).any(|list| list.contains_key(resource));
        match containers.get(container.as_str()) {
            Some(found) if requests(found) => {}
            Some(_) => errors.push(Error::invalid(
                &at.child("resourceName"),
                resource.as_str(),
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or \
                 spec.containers.resources.requests",
            )),
            None => errors.push(Error::invalid(
                &at.child("containerName"),
                container.as_str(),
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            )),
        }
        errors.extend(invalid_all(&path.child("requestName"), request.as_str(), is_dns1123_label(request)));
        if !seen.insert((container, resource, request)) {
            for (field, value) in [("containerName", container), ("resourceName", resource), ("requestName", request)] {
                errors.push(Error::duplicate(&at.child(field), value.as_str()));
            }
        }
    }
    let name = status.resource_claim_name.as_str();
    if name.is_empty() {
        errors.push(Error::required(&path.child("resourceClaimName"), ""));
    } else {
        errors.extend(invalid_all(&path.child("resourceClaimName"), name, name_is_dns_subdomain(name, false)));
    }
    errors
}

/// Each valid or unchanged, and at most one of each family.
fn validate_ips(new: &[&str], old: &[&str], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, ip) in new.iter().enumerate() {
        errors.extend(is_valid_ip_for_legacy_field(&path.index(i), ip, true, old));
    }
    if new.len() < 2 {
        return errors;
    }
    let parsed: Vec<Option<Ip>> = new.iter().map(|ip| Ip::parse_sloppy(ip)).collect();
    if let Some(bad) = parsed.iter().position(Option::is_none) {
        let detail = format!("failed to check for dual stack with error:invalid IP[{bad}]: {}", new[bad]);
        errors.push(Error::internal(path, detail));
    }
    let families: BTreeSet<bool> = parsed.iter().flatten().map(|ip| ip.is_v6()).collect();
    if families.len() != 2 || parsed.contains(&None) || new.len() > 2 {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(path, printed::ips(new.iter().copied()), detail));
    }
    errors
}

fn validate_pod_ips(new: &PodStatus, old: &PodStatus, path: &Path<'_>) -> ErrorList {
    let list = |status: &PodStatus| items(&status.pod_ips).iter().map(|ip| ip.ip.clone()).collect::<Vec<_>>();
    let (after, before) = (list(new), list(old));
    let after: Vec<&str> = after.iter().map(String::as_str).collect();
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let mut errors = validate_ips(&after, &before, path);
    let own = text(&new.pod_ip);
    match after.first() {
        first if first.is_none() != own.is_empty() => {
            let detail = "podIP and podIPs must either both be set or both be unset";
            errors.push(Error::invalid(path, printed::ips(after.iter().copied()), detail));
        }
        Some(first) if *first != own => errors.push(Error::invalid(&path.index(0).child("ip"), *first, "must be equal to `podIP`")),
        _ => {}
    }
    errors
}

fn validate_host_ips(new: &PodStatus, old: &PodStatus, path: &Path<'_>) -> ErrorList {
    let after: Vec<&str> = items(&new.host_ips).iter().map(|ip| ip.ip.as_str()).collect();
    let before: Vec<&str> = items(&old.host_ips).iter().map(|ip| ip.ip.as_str()).collect();
    let Some(first) = after.first() else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    if *first != text(&new.host_ip) {
        errors.push(Error::invalid(&path.index(0).child("ip"), *first, "must be equal to `hostIP`"));
    }
    errors.extend(validate_ips(&after, &before, path));
    errors
}

fn validate_users(statuses: &[ContainerStatus], spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let os = spec.os.as_ref().map_or("linux", |os| os.name.as_str());
    let mut errors = ErrorList::new();
    for (i, status) in statuses.iter().enumerate() {
        let Some(user) = status.user.as_ref().and_then(|user| user.linux.as_ref()) else { continue };
        let of_container = path.index(i);
        let of_user = of_container.child("user");
        let path = of_user.child("linux");
        if os == "windows" {
            errors.push(Error::forbidden(&path, "cannot be set for a windows pod"));
        }
        if os != "linux" {
            continue;
        }
        if !(0..=i64::from(u32::MAX)).contains(&user.uid) {
            errors.push(Error::invalid(&path.child("uid"), user.uid, format!("must be between 0 and {}, inclusive", u32::MAX)));
        }
        errors.extend(invalid_all(&path.child("gid"), user.gid, is_valid_group_id(user.gid)));
        let groups = path.child("supplementalGroups");
        for (g, gid) in items(&user.supplemental_groups).iter().enumerate() {
            errors.extend(invalid_all(&groups.index(g), *gid, is_valid_group_id(*gid)));
        }
    }
    errors
}

fn validate_allocated_resources(statuses: &[ContainerStatus], containers: &[Container], pod: &PodStatus, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, status) in statuses.iter().enumerate() {
        let of_container = path.index(i);
        let path = of_container.child("allocatedResourcesStatus");
        for (j, allocated) in items(&status.allocated_resources_status).iter().enumerate() {
            let path = path.index(j);
            if let Some(container) = containers.iter().find(|c| c.name == status.name) {
                errors.extend(validate_allocated_name(allocated, container, pod, &path.child("name")));
            }
            errors.extend(validate_health(allocated, &path.child("resources")));
        }
    }
    errors
}

fn validate_allocated_name(allocated: &ResourceStatus, container: &Container, pod: &PodStatus, path: &Path<'_>) -> Option<Error> {
    let name = allocated.name.as_str();
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    let (found, detail) = match name.strip_prefix(CLAIM) {
        Some(reference) => {
            let of_claim = resources.iter().flat_map(|r| items(&r.claims)).any(|claim| match text(&claim.request) {
                "" => reference == claim.name,
                request => reference == format!("{}/{request}", claim.name),
            });
            let detail = "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when \
                          container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty";
            (of_claim || is_extended_claim(reference, container, pod), detail)
        }
        None => (requests.is_some_and(|list| list.contains_key(name)), "must match one of the container's resource requests"),
    };
    (!found).then(|| Error::invalid(path, name, detail))
}

/// A request of the claim that was made for the pod's extended resources.
fn is_extended_claim(reference: &str, container: &Container, pod: &PodStatus) -> bool {
    let Some(claim) = &pod.extended_resource_claim_status else { return false };
    let Some((claim_name, request)) = reference.split_once('/') else { return false };
    if claim_name.is_empty() || request.is_empty() || claim_name != claim.resource_claim_name {
        return false;
    }
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    claim.request_mappings.iter().any(|mapping| {
        mapping.container_name == container.name
            && mapping.request_name == request
            && requests.and_then(|list| list.get(&mapping.resource_name)).is_some_and(|quantity| !amount(quantity).is_zero())
    })
}

fn validate_health(allocated: &ResourceStatus, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut ids = BTreeSet::new();
    for (i, resource) in items(&allocated.resources).iter().enumerate() {
        let path = path.index(i);
        let health = text(&resource.health);
        if !HEALTH.contains(&health) {
            errors.push(Error::not_supported(&path.child("health"), health, HEALTH));
        }
        match resource.message.as_deref() {
            Some("") => errors.push(Error::required(&path.child("message"), "must be non-empty if specified")),
            Some(message) if message.len() > MAX_HEALTH_MESSAGE_BYTES => {
                errors.push(Error::too_long(&path.child("message"), MAX_HEALTH_MESSAGE_BYTES));
            }
            _ => {}
        }
        if !ids.insert(&resource.resource_id) {
            errors.push(Error::duplicate(&path.child("resourceID"), resource.resource_id.as_str()));
        }
    }
    errors
}
