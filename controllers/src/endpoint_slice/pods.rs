//! What a pod is to a service: whether it is one of its endpoints, at which addresses and ports, and in which condition.
//!
//! Pure. The endpoints controller decides by the same rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use client::Object;
use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod_state::{is_ready, is_terminal};

pub const IPV4: &str = "IPv4";
pub const IPV6: &str = "IPv6";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Whether the pod has an address that can be told of: it has one at all, and it is not over.
pub fn is_endpoint(pod: &Pod, with_terminating: bool) -> bool {
    let Some(status) = &pod.status else { return false };
    let addressed = status.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()) || status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    !is_terminal(pod) && addressed && (with_terminating || !pod.is_terminating())
}

/// A selector that is absent selects nothing; one that is empty selects everything.
pub fn is_selected(selector: Option<&BTreeMap<String, String>>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value)))
}

/// Whether services with this selector have to be looked at after a pod changed.
pub fn concerns(selector: Option<&BTreeMap<String, String>>, old: Option<&Pod>, new: &Pod) -> bool {
    let now = is_selected(selector, new.metadata.labels.as_ref());
    let Some(old) = old else { return now };
    let before = is_selected(selector, old.metadata.labels.as_ref());
    if is_changed(old, new) { before || now } else { before != now || (now && names(old) != names(new)) }
}

fn names(pod: &Pod) -> (Option<&str>, Option<&str>) {
    pod.spec.as_ref().map_or((None, None), |spec| (spec.hostname.as_deref(), spec.subdomain.as_deref()))
}

fn is_changed(old: &Pod, new: &Pod) -> bool {
    old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || is_ready(old) != is_ready(new)
        || ips(old) != ips(new)
        || is_terminal(old) != is_terminal(new)
}

fn ips(pod: &Pod) -> Vec<&str> {
    pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str()).collect()
}

/// The pod's addresses of a family, in the order in which it has them and in canonical form.
pub fn addresses<'a>(pod: &'a Pod, family: &'a str) -> impl Iterator<Item = String> + 'a {
    ips(pod)
        .into_iter()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .filter(move |ip| ip.is_ipv6() == (family == IPV6))
        .map(|ip| ip.to_string())
}

/// The number behind a service's port in this pod; nothing if the pod has no port of that name.
pub fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
        None => return Some(port.port),
    };
    let spec = pod.spec.as_ref()?;
    let restarts = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(restarts);
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let protocol = |protocol: Option<&String>| protocol.map_or("TCP", String::as_str).to_owned();
    ports
        .find(|candidate| {
            candidate.name.as_ref() == Some(name) && protocol(candidate.protocol.as_ref()) == protocol(port.protocol.as_ref())
        })
        .map(|candidate| candidate.container_port)
}

/// The ports under which the service is reached in this pod, sorted, so that equal sets are equal.
pub fn ports(service: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let mut ports: Vec<EndpointPort> = service
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(find_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_by_key(port_key);
    ports
}

/// What makes two ports the same.
pub type PortKey = (Option<String>, Option<i32>, Option<String>, Option<String>);

pub fn port_key(port: &EndpointPort) -> PortKey {
    (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone())
}

pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The pod's host name if it is one within this service's subdomain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name()) && pod.namespace() == service.namespace()).then(|| hostname.clone())
}

/// The pod as an endpoint of the service, in one family of addresses. It may have none there.
pub fn endpoint(pod: &Pod, node: Option<&Node>, service: &Service, family: &str) -> Endpoint {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (is_ready(pod), pod.is_terminating());
    Endpoint {
        addresses: addresses(pod, family).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(target(pod)),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()),
        zone: node.and_then(|node| node.label(ZONE_LABEL)).filter(|zone| !zone.is_empty()).map(str::to_owned),
        hostname: hostname(pod, service),
        ..Endpoint::default()
    }
}

/// The families of a service's slices.
pub fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let wanted = |family: &str| spec.ip_families.iter().flatten().any(|f| f == family);
    let named: Vec<&str> = [IPV4, IPV6].into_iter().filter(|family| wanted(family)).collect();
    if !named.is_empty() {
        return named;
    }
    match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => vec![IPV4, IPV6],
        Some(ip) if ip.contains(':') => vec![IPV6],
        Some(_) => vec![IPV4],
    }
}

pub fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        let spec = json!({
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}, {"name": "web", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [
                {"name": "i", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]},
            ],
        });
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}, "spec": spec, "status": status}))
            .unwrap()
    }

    fn ready(is: &str) -> serde_json::Value {
        json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::0001"}], "conditions": [{"type": "Ready", "status": is}]})
    }

    #[test]
    fn named_ports_are_found_by_protocol_and_in_sidecars() {
        let pod = pod(json!({}));
        let port = |target: serde_json::Value, protocol: &str| -> ServicePort {
            serde_json::from_value(json!({"port": 80, "targetPort": target, "protocol": protocol})).unwrap()
        };
        assert_eq!(find_port(&pod, &port(json!("web"), "TCP")), Some(8080));
        assert_eq!(find_port(&pod, &port(json!("web"), "UDP")), Some(53));
        assert_eq!(find_port(&pod, &port(json!("side"), "TCP")), Some(2));
        assert_eq!(find_port(&pod, &port(json!("once"), "TCP")), None);
        assert_eq!(find_port(&pod, &port(json!(99), "TCP")), Some(99));
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut pod = pod(ready("True"));
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        let mut service = Service::default();
        let told = |service: &Service| endpoint(&pod, None, service, IPV4).conditions.unwrap();
        let expected = |ready| EndpointConditions { ready: Some(ready), serving: Some(true), terminating: Some(true) };
        assert_eq!(told(&service), expected(false));
        service.spec.get_or_insert_default().publish_not_ready_addresses = Some(true);
        assert_eq!(told(&service), expected(true));
        assert!(is_endpoint(&pod, true) && !is_endpoint(&pod, false));
    }

    #[test]
    fn addresses_are_those_of_one_family_in_canonical_form() {
        let pod = pod(ready("True"));
        assert_eq!(addresses(&pod, IPV4).collect::<Vec<_>>(), ["10.0.0.1"]);
        assert_eq!(addresses(&pod, IPV6).collect::<Vec<_>>(), ["fd00::1"]);
    }

    #[test]
    fn only_changes_that_matter_concern_a_service() {
        let selector = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let (old, new) = (pod(ready("False")), pod(ready("True")));
        assert!(concerns(Some(&selector), None, &new));
        assert!(concerns(Some(&selector), Some(&old), &new));
        assert!(!concerns(Some(&selector), Some(&new), &new));
        assert!(!concerns(None, None, &new));
        let mut other = new.clone();
        other.metadata.labels = None;
        assert!(concerns(Some(&selector), Some(&new), &other));
        assert!(!concerns(Some(&BTreeMap::from([("x".to_owned(), "y".to_owned())])), Some(&new), &other));
    }

    #[test]
    fn a_service_without_families_takes_those_of_its_address() {
        let spec = |ip: &str, families: &[&str]| ServiceSpec {
            cluster_ip: Some(ip.to_owned()),
            ip_families: Some(families.iter().map(|&f| f.to_owned()).collect()),
            ..ServiceSpec::default()
        };
        assert_eq!(families(&spec("10.0.0.1", &["IPv6"])), [IPV6]);
        assert_eq!(families(&spec("10.0.0.1", &[])), [IPV4]);
        assert_eq!(families(&spec("fd00::1", &[])), [IPV6]);
        assert_eq!(families(&spec("None", &[])), [IPV4, IPV6]);
    }
}
