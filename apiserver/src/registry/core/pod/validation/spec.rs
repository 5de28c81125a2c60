//! A pod spec: what is checked, and in which order.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_label, name_is_dns_subdomain, validate_labels};
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::{Context, validate_choice, validate_containers, validate_ephemeral_containers, validate_init_containers};
use super::dns::{validate_dns_config, validate_host_aliases, validate_hostname_override};
use super::invalid_all;
use super::options::Options;
use super::os::validate_os;
use super::resources::{claim_names, validate_container_resource_requirements, validate_pod_resource_claims, validate_pod_resources};
use super::scheduling::{
    validate_affinity, validate_preemption_policy, validate_readiness_gates, validate_scheduling_gates, validate_scheduling_group,
    validate_tolerations_with,
};
use super::security::validate_pod_security_context;
use super::spread::validate_topology_spread_constraints;
use super::volumes::validate_volumes;
use super::windows::validate_host_process_pod;
use crate::registry::core::pod::access::{items, on, text, visit_containers};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_DEADLINE_SECONDS: i64 = i32::MAX as i64;

/// The rules of a pod spec. `meta` is the pod's metadata, and `None` for a template.
pub fn validate_pod_spec(spec: &PodSpec, meta: Option<&ObjectMeta>, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let (volumes, of_volumes) = validate_volumes(items(&spec.volumes), meta, &path.child("volumes"), opts);
    errors.extend(of_volumes);
    let claims = items(&spec.resource_claims);
    let claim_names = claim_names(claims);
    errors.extend(validate_pod_resource_claims(meta, claims, &path.child("resourceClaims")));
    let cx = Context { spec, volumes: &volumes, claim_names: &claim_names, opts };
    errors.extend(validate_containers(&cx, &path.child("containers")));
    errors.extend(validate_init_containers(&cx, &path.child("initContainers")));
    errors.extend(validate_ephemeral_containers(&cx, &path.child("ephemeralContainers")));
    errors.extend(validate_pod_resources(spec, &claim_names, path, opts));
    errors.extend(validate_host_network_ports(spec, &path.child("containers"), opts));
    errors.extend(validate_choice(text(&spec.restart_policy), RESTART_POLICIES, &path.child("restartPolicy")));
    errors.extend(validate_choice(text(&spec.dns_policy), DNS_POLICIES, &path.child("dnsPolicy")));
    if let Some(selector) = &spec.node_selector {
        errors.extend(validate_labels(selector, &path.child("nodeSelector")));
    }
    if let Some(sc) = &spec.security_context {
        errors.extend(validate_pod_security_context(sc, spec, &path.child("securityContext"), opts));
    }
    if on(spec.share_process_namespace) && on(spec.host_pid) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    if let Some(affinity) = &spec.affinity {
        errors.extend(validate_affinity(affinity, &path.child("affinity"), opts));
    }
    errors.extend(validate_dns_config(spec.dns_config.as_ref(), text(&spec.dns_policy), &path.child("dnsConfig")));
    errors.extend(validate_readiness_gates(items(&spec.readiness_gates), &path.child("readinessGates")));
    errors.extend(validate_scheduling_gates(items(&spec.scheduling_gates), &path.child("schedulingGates")));
    let constraints = items(&spec.topology_spread_constraints);
    errors.extend(validate_topology_spread_constraints(constraints, &path.child("topologySpreadConstraints"), opts));
    errors.extend(validate_host_process_pod(spec, path));
    errors.extend(validate_user_namespace(spec, path, opts));
    errors.extend(validate_hostname_override(spec, path));
    errors.extend(validate_names(spec, path));
    errors.extend(validate_tolerations_with(items(&spec.tolerations), &path.child("tolerations"), opts));
    errors.extend(validate_host_aliases(items(&spec.host_aliases), &path.child("hostAliases")));
    errors.extend(validate_class_names(spec, path));
    if let Some(policy) = &spec.preemption_policy {
        errors.extend(validate_preemption_policy(policy, &path.child("preemptionPolicy")));
    }
    if let Some(overhead) = &spec.overhead {
        let overhead = ResourceRequirements { limits: Some(overhead.clone()), ..ResourceRequirements::default() };
        errors.extend(validate_container_resource_requirements(&overhead, &Default::default(), &path.child("overhead"), opts));
    }
    if let Some(os) = &spec.os {
        errors.extend(validate_os(os, spec, path));
    }
    if let Some(group) = &spec.scheduling_group {
        let path = path.child("schedulingGroup");
        errors.extend(validate_scheduling_group(group, &path));
        if !items(&spec.eviction_responders).is_empty() {
            errors.push(Error::forbidden(&path, "may not be set when evictionResponders is set"));
        }
    }
    errors.extend(validate_file_key_volumes(spec, path));
    errors
}

/// On the host's network a container's port is the host's.
fn validate_host_network_ports(spec: &PodSpec, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    if !on(spec.host_network) {
        return errors;
    }
    for (c, container) in spec.containers.iter().enumerate() {
        let container_path = path.index(c);
        let ports = container_path.child("ports");
        for (p, port) in items(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (opts.resource_is_pod || host_port != 0) && host_port != port.container_port {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(&ports.index(p).child("hostPort"), host_port, detail));
            }
        }
    }
    errors
}

/// What a pod with users of its own cannot share with the host.
fn validate_user_namespace(spec: &PodSpec, path: &Path<'_>, opts: &Options) -> ErrorList {
    const DETAIL: &str = "when `hostUsers` is false";
    let mut errors = ErrorList::new();
    if spec.host_users != Some(false) {
        return errors;
    }
    if on(spec.host_network) && !opts.allow_user_namespaces_with_host_network {
        errors.push(Error::forbidden(&path.child("hostNetwork"), DETAIL));
    }
    // Upstream spells these two like its internal fields.
    for (name, _) in [("HostPID", on(spec.host_pid)), ("HostIPC", on(spec.host_ipc))].iter().filter(|(_, set)| *set) {
        errors.push(Error::forbidden(&path.child(name), DETAIL));
    }
    if !opts.allow_user_namespaces_with_volume_devices {
        visit_containers(spec, path, &mut |container, path| {
            if !items(&container.volume_devices).is_empty() {
                errors.push(Error::forbidden(&path.child("volumeDevices"), DETAIL));
            }
        });
    }
    errors
}

/// Names of accounts, nodes and hosts, and the deadline that upstream checks among them.
fn validate_names(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let account = text(&spec.service_account_name);
    let deprecated = text(&spec.service_account);
    let node = text(&spec.node_name);
    let mut errors = ErrorList::new();
    if !account.is_empty() {
        errors.extend(invalid_all(&path.child("serviceAccountName"), account, name_is_dns_subdomain(account, false)));
    }
    if deprecated != account {
        let detail = format!("must be the same as serviceAccountName: {}", apimachinery::field::quote(account));
        errors.push(Error::invalid(&path.child("deprecatedServiceAccount"), deprecated, detail));
    }
    if !node.is_empty() {
        errors.extend(invalid_all(&path.child("nodeName"), node, name_is_dns_subdomain(node, false)));
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=MAX_DEADLINE_SECONDS).contains(s)) {
        let detail = format!("must be between 1 and {MAX_DEADLINE_SECONDS}, inclusive");
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    for (name, label) in [("hostname", text(&spec.hostname)), ("subdomain", text(&spec.subdomain))] {
        if !label.is_empty() {
            errors.extend(invalid_all(&path.child(name), label, is_dns1123_label(label)));
        }
    }
    errors
}

fn validate_class_names(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let priority = text(&spec.priority_class_name);
    if !priority.is_empty() {
        errors.extend(invalid_all(&path.child("priorityClassName"), priority, name_is_dns_subdomain(priority, false)));
    }
    if let Some(runtime) = &spec.runtime_class_name {
        errors.extend(invalid_all(&path.child("runtimeClassName"), runtime.as_str(), name_is_dns_subdomain(runtime, false)));
    }
    errors
}

/// Environment files come from emptyDir volumes.
fn validate_file_key_volumes(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let volumes: BTreeMap<&str, bool> =
        items(&spec.volumes).iter().map(|volume| (volume.name.as_str(), volume.empty_dir.is_some())).collect();
    let mut errors = ErrorList::new();
    visit_containers(spec, path, &mut |container, path| {
        let env = path.child("env");
        for (i, var) in items(&container.env).iter().enumerate() {
            let Some(file) = var.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref()) else { continue };
            let (var_path, name) = (env.index(i), file.volume_name.as_str());
            let (value_from, file_key);
            value_from = var_path.child("valueFrom");
            file_key = value_from.child("fileKeyRef");
            match volumes.get(name) {
                None => errors.push(Error::not_found(&file_key.child("volumeName"), name)),
                Some(false) => {
                    errors.push(Error::invalid(&file_key.child("volumeName"), name, "referenced volume must be of type emptyDir"));
                }
                Some(true) => {}
            }
        }
    });
    errors
}
