//! core/v1 Service: its definition, defaults, strategy and table.
//!
//! What a service takes from the cluster's pools of addresses and ports is planned in [`allocation`], before the strategy runs;
//! the strategy and the rules only ever see services whose allocations are filled in.

pub mod allocation;
mod cluster_ips;
mod fields;
mod validation;

use std::collections::BTreeSet;

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation::{get_warnings_for_cidr, get_warnings_for_ip, name_is_dns_label};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Map, Value, json};

use self::fields::{
    cluster_ips, externally_accessible, families, is_load_balancer, kind, needs_cluster_ip, needs_health_check, node_ports, policy,
};
use super::node::PROXY_VERBS;
use crate::registry::defaulting::{existing, is_empty, nested, set_if_empty, set_if_unset};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, int_at, list_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

const SPEC: &str = "io.k8s.api.core.v1.ServiceSpec";
/// The deprecated annotation for topology aware routing.
const HINTS_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_ANNOTATION: &str = "service.kubernetes.io/topology-mode";
/// How long a client sticks to an endpoint unless the service says otherwise.
const AFFINITY_SECONDS: i64 = 10_800;

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "services",
    singular: "service",
    kind: "Service",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["svc"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.Service",
    name: name_is_dns_label,
    strategy: &ServiceStrategy,
    subresources: &[
        Subresource {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "ServiceProxyOptions",
            verbs: PROXY_VERBS,
            behaviour: Behaviour::Endpoint,
        },
        Subresource {
            name: "status",
            group: "",
            version: "v1",
            kind: "Service",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
        },
    ],
    selectable: &[
        ("spec.clusterIP", |service| str_at(service, "/spec/clusterIP").into()),
        ("spec.type", |service| str_at(service, "/spec/type").into()),
    ],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Type", Description::Field(SPEC, "type")),
            printer::text("Cluster-IP", Description::Field(SPEC, "clusterIP")),
            printer::text("External-IP", Description::Field(SPEC, "externalIPs")),
            printer::text("Port(s)", Description::Field(SPEC, "ports")),
            AGE,
            printer::wide("Selector", Description::Field(SPEC, "selector")),
        ],
        cells,
    },
    reset_fields: &["status"],
};

fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| {
        let (number, node_port, protocol) = (int_at(port, "/port"), int_at(port, "/nodePort"), str_at(port, "/protocol"));
        if node_port > 0 { format!("{number}:{node_port}/{protocol}") } else { format!("{number}/{protocol}") }
    };
    let ports: Vec<String> = list_at(service, "/spec/ports").iter().map(port).collect();
    vec![
        printer::name(service),
        kind(service).into(),
        cluster_ips(service).first().copied().unwrap_or("<none>").into(),
        external_ip_text(service).into(),
        if ports.is_empty() { "<none>".into() } else { ports.join(",").into() },
        printer::object_age(service, now),
        printer::labels_text(at(service, "/spec/selector")),
    ]
}

fn external_ip_text(service: &Value) -> String {
    let ips: Vec<&str> = list_at(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match kind(service) {
        "ClusterIP" | "NodePort" if ips.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => ips.join(","),
        "LoadBalancer" => {
            let ingress = list_at(service, "/status/loadBalancer/ingress").iter();
            let place = |ingress| match str_at(ingress, "/ip") {
                "" => str_at(ingress, "/hostname"),
                ip => ip,
            };
            let balanced: BTreeSet<&str> = ingress.map(place).filter(|place| !place.is_empty()).collect();
            let all: Vec<&str> = balanced.into_iter().chain(ips).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => str_at(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The defaults of a service, which depend on its type.
pub fn default_service(service: &mut Map<String, Value>) {
    let Some(spec) = nested(service, "spec") else { return };
    default_affinity(spec);
    set_if_empty(spec, "type", "ClusterIP");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        set_if_empty(port, "protocol", "TCP");
        if is_empty(port, "targetPort") || port["targetPort"] == 0 {
            let number = port.get("port").filter(|number| !number.is_null()).cloned().unwrap_or_else(|| 0.into());
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
    let has_ips = !is_empty(spec, "externalIPs");
    if matches!(kind.as_str(), "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && has_ips) {
        set_if_empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "LoadBalancer" | "NodePort" | "ClusterIP") {
        set_if_unset(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_if_unset(spec, "allocateLoadBalancerNodePorts", true);
        default_ingress(service);
    }
}

fn default_affinity(spec: &mut Map<String, Value>) {
    set_if_empty(spec, "sessionAffinity", "None");
    match spec["sessionAffinity"].as_str() {
        Some("None") => {
            spec.shift_remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            let timeout = spec.get("sessionAffinityConfig").and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none_or(Value::is_null) {
                spec.insert("sessionAffinityConfig".to_owned(), json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
            }
        }
        _ => {}
    }
}

/// Traffic to a load balancer's address goes to that address.
fn default_ingress(service: &mut Map<String, Value>) {
    let balancer = existing(service, "status").and_then(|status| existing(status, "loadBalancer"));
    let ingress = balancer.and_then(|balancer| balancer.get_mut("ingress")?.as_array_mut());
    for ingress in ingress.into_iter().flatten().filter_map(Value::as_object_mut) {
        if !is_empty(ingress, "ip") {
            set_if_unset(ingress, "ipMode", "VIP");
        }
    }
}

struct ServiceStrategy;

impl UpdateStrategy for ServiceStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        drop_what_the_type_lost(new, old);
        drop_internal_policy(new);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_update(&view(new), &view(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

impl Strategy for ServiceStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({"loadBalancer": {}}));
        drop_internal_policy(new);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validation::validate(&view(new), None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(&view(new))
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_status(&view(new), &view(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        let path = Path::new("status.loadBalancer.ingress");
        let ingress = list_at(new, "/status/loadBalancer/ingress").iter().enumerate();
        let ips = ingress.map(|(i, ingress)| (i, str_at(ingress, "/ip"))).filter(|(_, ip)| !ip.is_empty());
        ips.flat_map(|(i, ip)| get_warnings_for_ip(&path.index(i), ip)).collect()
    }
}

/// Upstream stores the internal policy of an ExternalName service, where it means nothing, and hides it whenever the service is
/// read. Here it is not stored; a value that would be refused stays, and is refused.
fn drop_internal_policy(service: &mut Value) {
    if kind(service) == "ExternalName"
        && matches!(str_at(service, "/spec/internalTrafficPolicy"), "Cluster" | "Local")
        && let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.shift_remove("internalTrafficPolicy");
    }
}

/// When a service changes its type, what the new type has no use for goes away on its own, provided that the client did not
/// change it as well: then it is for validation to refuse it.
fn drop_what_the_type_lost(new: &mut Value, old: &Value) {
    let same = |field: &str, new: &Value| new["spec"].get(field) == old["spec"].get(field);
    let mut dropped: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        if str_at(new, "/spec/clusterIP") == str_at(old, "/spec/clusterIP") && cluster_ips(new) == cluster_ips(old) {
            dropped.extend(["clusterIP", "clusterIPs"]);
        }
        if families(new) == families(old) {
            dropped.push("ipFamilies");
        }
        if policy(new) == policy(old) {
            dropped.push("ipFamilyPolicy");
        }
    }
    let has_node_ports = |service: &Value| matches!(kind(service), "NodePort" | "LoadBalancer");
    let forget_node_ports = has_node_ports(old) && !has_node_ports(new) && node_ports(new).is_subset(&node_ports(old));
    if needs_health_check(old) && !needs_health_check(new) && same("healthCheckNodePort", new) {
        dropped.push("healthCheckNodePort");
    }
    if is_load_balancer(old) && !is_load_balancer(new) {
        let allocates = "allocateLoadBalancerNodePorts";
        if same(allocates, new) {
            dropped.push(allocates);
        }
        if same("loadBalancerClass", new) {
            dropped.push("loadBalancerClass");
        }
    }
    let policy_of = |service: &Value| str_at(service, "/spec/externalTrafficPolicy").to_owned();
    if externally_accessible(old) && !externally_accessible(new) && policy_of(new) == policy_of(old) {
        dropped.push("externalTrafficPolicy");
    }
    let balanced = is_load_balancer(new);
    if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
        for field in dropped {
            spec.shift_remove(field);
        }
        if forget_node_ports {
            for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
                port.shift_remove("nodePort");
            }
        }
    }
    if !balanced && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("loadBalancer".to_owned(), json!({}));
    }
}

fn warnings(service: &Service) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = service.spec.clone().unwrap_or_default();
    let path = Path::new("spec");
    let annotated = |key: &str| service.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key));
    if annotated(HINTS_ANNOTATION) {
        warnings.push(format!("annotation {HINTS_ANNOTATION} is deprecated, please use {TOPOLOGY_ANNOTATION} instead"));
    }
    let kind = spec.type_.as_deref().unwrap_or("");
    let ip = spec.cluster_ip.as_deref().unwrap_or("");
    let external_ips = spec.external_ips.as_deref().unwrap_or_default();
    let balancer_ip = spec.load_balancer_ip.as_deref().unwrap_or("");
    let headless = kind == "ClusterIP" && ip == "None";
    if !ip.is_empty() && ip != "None" {
        let ips = spec.cluster_ips.iter().flatten().enumerate();
        warnings.extend(ips.flat_map(|(i, ip)| get_warnings_for_ip(&path.child("clusterIPs").index(i), ip)));
    }
    let ignored = |warnings: &mut Vec<String>, is_set: bool, field: &str| {
        if headless && is_set {
            warnings.push(format!("spec.{field} is ignored for headless services"));
        }
    };
    ignored(&mut warnings, !balancer_ip.is_empty(), "loadBalancerIP");
    ignored(&mut warnings, !external_ips.is_empty(), "externalIPs");
    ignored(&mut warnings, spec.session_affinity.as_deref() != Some("None"), "SessionAffinity");
    for (i, ip) in external_ips.iter().enumerate() {
        warnings.extend(get_warnings_for_ip(&path.child("externalIPs").index(i), ip));
    }
    if !external_ips.is_empty() && !headless && kind != "ExternalName" {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !balancer_ip.is_empty() {
        warnings.extend(get_warnings_for_ip(&path.child("loadBalancerIP"), balancer_ip));
    }
    for (i, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        warnings.extend(get_warnings_for_cidr(&path.child("loadBalancerSourceRanges").index(i), range));
    }
    if kind == "ExternalName" && !external_ips.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.external_name.as_deref().unwrap_or("").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests;
