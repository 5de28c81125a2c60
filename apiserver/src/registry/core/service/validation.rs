//! The rules of a service whose allocations are filled in.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    Ip, is_dns1123_label, is_dns1123_subdomain, is_qualified_name, is_valid_cidr_for_legacy_field, is_valid_ip_for_legacy_field,
    is_valid_port_name, is_valid_port_num, validate_labels,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::cluster_ips::{self, is_external_name, is_headless};
use super::{HINTS_ANNOTATION, TOPOLOGY_ANNOTATION};
use crate::registry::core::endpoints::{validate_endpoint_ip, validate_protocol};

const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_FOR_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
const MAX_AFFINITY_SECONDS: i32 = 86_400;

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("")
}

fn list<T>(value: &Option<Vec<T>>) -> &[T] {
    value.as_deref().unwrap_or_default()
}

fn annotation<'a>(service: &'a Service, key: &str) -> Option<&'a String> {
    service.metadata.annotations.as_ref()?.get(key)
}

fn invalid_all(path: &Path<'_>, value: &str, messages: Vec<String>) -> ErrorList {
    messages.into_iter().map(|message| Error::invalid(path, value, message)).collect()
}

fn is_balancer(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer"
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_balancer(spec) && text(&spec.external_traffic_policy) == "Local"
}

fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    match text(&spec.type_) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(&spec.external_ips).is_empty(),
        _ => false,
    }
}

/// All rules of a changed service.
pub(super) fn validate_update(new: &Service, old: &Service) -> ErrorList {
    let (spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let mut errors = cluster_ips::validate_change(&spec, &old_spec);
    errors.extend(validate_class(&spec, Some(&old_spec)));
    if needs_health_check(&spec) && needs_health_check(&old_spec) && spec.health_check_node_port != old_spec.health_check_node_port {
        let path = Path::new("spec");
        errors.push(Error::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
    errors.extend(validate(new, Some(old)));
    errors
}

/// All rules of a service; `old` is what it replaces, whose unusual addresses it may keep.
pub(super) fn validate(service: &Service, old: Option<&Service>) -> ErrorList {
    let spec = service.spec.clone().unwrap_or_default();
    let old_spec = old.and_then(|old| old.spec.as_ref());
    let path = Path::new("spec");
    let mut errors = validate_hints(service);
    errors.extend(validate_type_needs(&spec, &path));
    errors.extend(validate_ports(&spec, &path.child("ports")));
    if let Some(selector) = &spec.selector {
        errors.extend(validate_labels(selector, &path.child("selector")));
    }
    errors.extend(validate_affinity(&spec, &path));
    errors.extend(cluster_ips::validate(&spec, old_spec));
    errors.extend(validate_external_ips(&spec, old_spec, &path.child("externalIPs")));
    errors.extend(validate_choice(text(&spec.type_), &TYPES, &path.child("type")));
    errors.extend(validate_node_ports(&spec, &path.child("ports")));
    errors.extend(validate_source_ranges(service, &spec, old));
    let allocates = spec.allocate_load_balancer_node_ports;
    if allocates.is_some() && !is_balancer(&spec) {
        errors.push(Error::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_FOR_BALANCERS));
    }
    if allocates.is_none() && is_balancer(&spec) {
        errors.push(Error::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    errors.extend(validate_class(&spec, None));
    errors.extend(validate_traffic(&spec, &path));
    errors
}

/// One of some strings, and not none of them.
fn validate_choice(value: &str, choices: &[&str], path: &Path<'_>) -> Option<Error> {
    if value.is_empty() {
        return Some(Error::required(path, ""));
    }
    (!choices.contains(&value)).then(|| Error::not_supported(path, value, choices))
}

fn validate_hints(service: &Service) -> ErrorList {
    if let (Some(hints), Some(mode)) = (annotation(service, HINTS_ANNOTATION), annotation(service, TOPOLOGY_ANNOTATION))
        && hints != mode
    {
        let metadata = Path::new("metadata");
        let why = format!("must match annotations[{HINTS_ANNOTATION}] when both are specified");
        return vec![Error::invalid(&metadata.child("annotations").key(TOPOLOGY_ANNOTATION), mode.as_str(), why)];
    }
    ErrorList::new()
}

/// What each type asks for and excludes.
fn validate_type_needs(spec: &ServiceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if list(&spec.ports).is_empty() && !is_headless(spec) && !is_external_name(spec) {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    let kind = text(&spec.type_);
    if matches!(kind, "LoadBalancer" | "NodePort") && is_headless(spec) {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", why));
    }
    if kind != "ExternalName" {
        return errors;
    }
    let fields = [
        ("clusterIPs", !list(&spec.cluster_ips).is_empty()),
        ("ipFamilies", !list(&spec.ip_families).is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, is_set)| *is_set) {
        errors.push(Error::forbidden(&path.child(field), "may not be set for ExternalName services"));
    }
    let name = text(&spec.external_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let place = path.child("externalName");
    if name.is_empty() {
        errors.push(Error::required(&place, ""));
    } else {
        errors.extend(invalid_all(&place, name, is_dns1123_subdomain(name)));
    }
    errors
}

fn validate_ports(spec: &ServiceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    let ports = list(&spec.ports);
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let place = path.child("name");
            errors.extend(invalid_all(&place, name, is_dns1123_label(name)));
            if !names.insert(name) {
                errors.push(Error::duplicate(&place, name));
            }
        } else if ports.len() > 1 {
            errors.push(Error::required(&path.child("name"), ""));
        }
        errors.extend(validate_port(port, &path));
    }
    errors
}

fn validate_port(port: &ServicePort, path: &Path<'_>) -> ErrorList {
    let number = |place: &Path<'_>, number: i32| -> ErrorList {
        is_valid_port_num(number.into()).into_iter().map(|message| Error::invalid(place, number, message)).collect()
    };
    let mut errors = number(&path.child("port"), port.port);
    errors.extend(validate_protocol(text(&port.protocol), &path.child("protocol")));
    let target = path.child("targetPort");
    match &port.target_port {
        Some(IntOrString::String(name)) => errors.extend(invalid_all(&target, name, is_valid_port_name(name))),
        Some(IntOrString::Int(port)) => errors.extend(number(&target, *port)),
        None => errors.extend(number(&target, 0)),
    }
    if let Some(protocol) = &port.app_protocol {
        errors.extend(invalid_all(&path.child("appProtocol"), protocol, is_qualified_name(protocol)));
    }
    errors
}

fn validate_affinity(spec: &ServiceSpec, path: &Path<'_>) -> ErrorList {
    let affinity = text(&spec.session_affinity);
    let mut errors: ErrorList = validate_choice(affinity, &AFFINITIES, &path.child("sessionAffinity")).into_iter().collect();
    let place = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("None", Some(_)) => errors.push(Error::forbidden(&place, "must not be set when session affinity is None")),
        ("ClientIP", config) => {
            const WHEN: &str = "when session affinity type is ClientIP";
            let client = config.as_ref().map(|config| &config.client_ip);
            let seconds = client.and_then(|client| client.as_ref()).map(|client| client.timeout_seconds);
            match (client, seconds) {
                (None, _) => errors.push(Error::required(&place, WHEN)),
                (_, None) => errors.push(Error::required(&place.child("clientIP"), WHEN)),
                (_, Some(None)) => errors.push(Error::required(&place.child("clientIP.timeoutSeconds"), WHEN)),
                (_, Some(Some(seconds))) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                    let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.push(Error::invalid(&place.child("clientIP.timeoutSeconds"), seconds, why));
                }
                _ => {}
            }
        }
        _ => {}
    }
    errors
}

fn validate_external_ips(spec: &ServiceSpec, old: Option<&ServiceSpec>, path: &Path<'_>) -> ErrorList {
    let known: Vec<&str> = old.iter().flat_map(|old| list(&old.external_ips)).map(String::as_str).collect();
    let mut errors = ErrorList::new();
    for (i, ip) in list(&spec.external_ips).iter().enumerate() {
        let path = path.index(i);
        let malformed = is_valid_ip_for_legacy_field(&path, ip, true, &known);
        errors.extend(if malformed.is_empty() { validate_endpoint_ip(ip, &path) } else { malformed });
    }
    errors
}

/// Node ports are not for internal services; no two ports are the same, on the service or on the nodes.
fn validate_node_ports(spec: &ServiceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let ports = || list(&spec.ports).iter().enumerate();
    let node_port = |port: &ServicePort| port.node_port.unwrap_or(0);
    if text(&spec.type_) == "ClusterIP" {
        for (i, _) in ports().filter(|(_, port)| node_port(port) != 0) {
            errors.push(Error::forbidden(&path.index(i).child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports().filter(|(_, port)| node_port(port) != 0) {
        if !seen.insert((text(&port.protocol), node_port(port))) {
            errors.push(Error::duplicate(&path.index(i).child("nodePort"), node_port(port)));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports() {
        let protocol = text(&port.protocol);
        if !seen.insert((protocol, port.port)) {
            // Upstream shows its internal type, which has no JSON names.
            let shown = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": port.port, "TargetPort": 0, "NodePort": 0});
            errors.push(Error::duplicate(&path.index(i), shown));
        }
    }
    errors
}

/// The networks that may reach a load balancer, in the field or in the older annotation.
fn validate_source_ranges(service: &Service, spec: &ServiceSpec, old: Option<&Service>) -> ErrorList {
    let mut errors = ErrorList::new();
    let ranges = list(&spec.load_balancer_source_ranges);
    if !ranges.is_empty() {
        let path = Path::new("spec.LoadBalancerSourceRanges");
        if !is_balancer(spec) {
            errors.push(Error::forbidden(&path, ONLY_FOR_BALANCERS));
        }
        let old_spec = old.and_then(|old| old.spec.as_ref());
        let known: Vec<&str> = old_spec.iter().flat_map(|old| list(&old.load_balancer_source_ranges)).map(|range| range.trim()).collect();
        for (i, range) in ranges.iter().enumerate() {
            errors.extend(is_valid_cidr_for_legacy_field(&path.index(i), range.trim(), true, &known));
        }
        return errors;
    }
    let Some(noted) = annotation(service, RANGES_ANNOTATION) else { return errors };
    let metadata = Path::new("metadata");
    let path = metadata.child("annotations");
    let path = path.key(RANGES_ANNOTATION);
    if !is_balancer(spec) {
        errors.push(Error::forbidden(&path, ONLY_FOR_BALANCERS));
    }
    let unchanged = old.is_some_and(|old| annotation(old, RANGES_ANNOTATION) == Some(noted));
    if !unchanged && !noted.trim().is_empty() {
        for range in noted.trim().split(',') {
            errors.extend(is_valid_cidr_for_legacy_field(&path, range.trim(), true, &[]));
        }
    }
    errors
}

/// The class of a load balancer never changes while it is one.
fn validate_class(spec: &ServiceSpec, old: Option<&ServiceSpec>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let place = path.child("loadBalancerClass");
    let class = &spec.load_balancer_class;
    if old.is_some_and(|old| is_balancer(old) && is_balancer(spec) && old.load_balancer_class != *class) {
        errors.push(Error::invalid(&place, json!(class), "may not change once set"));
    }
    match class {
        Some(class) if is_balancer(spec) => errors.extend(invalid_all(&place, class, is_qualified_name(class))),
        Some(_) => errors.push(Error::forbidden(&place, ONLY_FOR_BALANCERS)),
        None => {}
    }
    errors
}

/// Policies of where traffic goes, and the port that tells balancers which nodes have endpoints.
fn validate_traffic(spec: &ServiceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let external = text(&spec.external_traffic_policy);
    let place = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        errors.extend(validate_choice(external, &POLICIES, &place));
    } else if !external.is_empty() {
        errors.push(Error::invalid(&place, external, "may only be set for externally-accessible services"));
    }
    let place = path.child("healthCheckNodePort");
    match (needs_health_check(spec), spec.health_check_node_port.unwrap_or(0)) {
        (true, 0) => errors.push(Error::required(&place, "")),
        (true, port) => {
            errors.extend(is_valid_port_num(port.into()).into_iter().map(|message| Error::invalid(&place, port, message)));
        }
        (false, 0) => {}
        (false, port) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(Error::invalid(&place, port, why));
        }
    }
    let place = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        None if matches!(text(&spec.type_), "NodePort" | "LoadBalancer" | "ClusterIP") => errors.push(Error::required(&place, "")),
        Some(policy) if !POLICIES.contains(&policy) => errors.push(Error::not_supported(&place, policy, &POLICIES)),
        _ => {}
    }
    if let Some(distribution) = spec.traffic_distribution.as_deref().filter(|distribution| !DISTRIBUTIONS.contains(distribution)) {
        errors.push(Error::not_supported(&path.child("trafficDistribution"), distribution, &DISTRIBUTIONS));
    }
    errors
}

/// What a load balancer reports.
pub(super) fn validate_status(new: &Service, old: &Service) -> ErrorList {
    let spec = new.spec.clone().unwrap_or_default();
    let ingress = |service: &Service| {
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        balancer.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default()
    };
    let (points, old_points) = (ingress(new), ingress(old));
    let path = Path::new("status.loadBalancer.ingress");
    if !is_balancer(&spec) {
        let refused = (!points.is_empty()).then(|| Error::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return refused.into_iter().collect();
    }
    let known: Vec<&str> = old_points.iter().map(|point| text(&point.ip)).filter(|ip| !ip.is_empty()).collect();
    let mut errors = ErrorList::new();
    for (i, point) in points.iter().enumerate() {
        let path = path.index(i);
        let ip = text(&point.ip);
        if !ip.is_empty() {
            errors.extend(is_valid_ip_for_legacy_field(&path.child("ip"), ip, true, &known));
        }
        let place = path.child("ipMode");
        match point.ip_mode.as_deref() {
            None if !ip.is_empty() => errors.push(Error::required(&place, "must be specified when `ip` is set")),
            Some(_) if ip.is_empty() => errors.push(Error::forbidden(&place, "may not be specified when `ip` is not set")),
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => errors.push(Error::not_supported(&place, mode, &["Proxy", "VIP"])),
            _ => {}
        }
        let host = text(&point.hostname);
        if !host.is_empty() {
            let place = path.child("hostname");
            errors.extend(invalid_all(&place, host, is_dns1123_subdomain(host)));
            if Ip::parse_sloppy(host).is_some() {
                errors.push(Error::invalid(&place, host, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}
