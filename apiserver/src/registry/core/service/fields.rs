//! What a service's fields say about it: which of the pooled resources its type needs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::registry::read::{bool_at, int_at, list_at, str_at};

/// The value of `clusterIP` for a service without an address of its own.
pub(super) const NONE: &str = "None";

pub(super) fn kind(service: &Value) -> &str {
    str_at(service, "/spec/type")
}

pub(super) fn cluster_ips(service: &Value) -> Vec<&str> {
    list_at(service, "/spec/clusterIPs").iter().filter_map(Value::as_str).collect()
}

pub(super) fn families(service: &Value) -> Vec<&str> {
    list_at(service, "/spec/ipFamilies").iter().filter_map(Value::as_str).collect()
}

/// The family policy, if it is said.
pub(super) fn policy(service: &Value) -> Option<&str> {
    service.pointer("/spec/ipFamilyPolicy").and_then(Value::as_str)
}

pub(super) fn has_selector(service: &Value) -> bool {
    service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|selector| !selector.is_empty())
}

pub(super) fn needs_cluster_ip(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

pub(super) fn is_load_balancer(service: &Value) -> bool {
    kind(service) == "LoadBalancer"
}

/// Its nodes are asked whether they have an endpoint: a load balancer that keeps traffic local.
pub(super) fn needs_health_check(service: &Value) -> bool {
    is_load_balancer(service) && str_at(service, "/spec/externalTrafficPolicy") == "Local"
}

pub(super) fn externally_accessible(service: &Value) -> bool {
    match kind(service) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list_at(service, "/spec/externalIPs").is_empty(),
        _ => false,
    }
}

/// Ports without a node port get one.
pub(super) fn allocates_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => bool_at(service, "/spec/allocateLoadBalancerNodePorts"),
        _ => false,
    }
}

/// The node ports that are set.
pub(super) fn node_ports(service: &Value) -> BTreeSet<i64> {
    list_at(service, "/spec/ports").iter().map(|port| int_at(port, "/nodePort")).filter(|port| *port != 0).collect()
}
