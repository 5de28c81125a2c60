//! Whether a connection is allowed, slowly and straight from the objects, as the documentation of networking.k8s.io/v1 has it.
//! Shares no code with what is tested: neither selectors nor networks nor how a policy is read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::chance::Event;

pub type Labels = BTreeMap<String, String>;

/// The node that is looked at; others are "elsewhere".
pub const NODE: &str = "here";

#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub namespace: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<(String, &'static str, u16)>,
    pub is_local: bool,
    pub is_host_network: bool,
    pub is_over: bool,
    /// No two pods have the same.
    pub created: u32,
}

impl Pod {
    /// As the API server has it.
    pub fn object(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, protocol, number)| json!({"name": name, "protocol": protocol, "containerPort": number}))
            .collect();
        let ips: Vec<Value> = self.addresses.iter().map(|address| json!({"ip": address})).collect();
        let created = format!("2026-01-01T00:{:02}:{:02}Z", self.created / 60 % 60, self.created % 60);
        json!({
            "metadata": {"namespace": self.namespace, "labels": self.labels, "creationTimestamp": created},
            "spec": {"nodeName": if self.is_local { NODE } else { "elsewhere" }, "hostNetwork": self.is_host_network,
                "containers": [{"ports": ports}]},
            "status": {"phase": if self.is_over { "Succeeded" } else { "Running" }, "podIPs": ips},
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct World {
    pub policies: BTreeMap<ObjectKey, Arc<NetworkPolicy>>,
    pub pods: BTreeMap<ObjectKey, Pod>,
    pub namespaces: BTreeMap<String, Labels>,
}

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: &'static str,
    /// None for a protocol without ports.
    pub port: Option<u16>,
}

fn put<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
    match value {
        Some(value) => map.insert(key.clone(), value.clone()),
        None => map.remove(key),
    };
}

impl World {
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Pod(key, pod) => put(&mut self.pods, key, pod.as_ref()),
            Event::Namespace(name, labels) => put(&mut self.namespaces, name, labels.as_ref()),
            Event::Policy(key, policy) => put(&mut self.policies, key, policy.as_ref()),
        }
    }

    /// Whose address it is. Pods on the host's network, and those that are over, have none of their own.
    fn pod_of(&self, address: IpAddr) -> Option<&Pod> {
        let have = self.pods.values().filter(|pod| !pod.is_host_network && !pod.is_over && pod.addresses.contains(&address));
        have.max_by_key(|pod| pod.created)
    }

    /// Whether this node lets it through: what leaves its pods, and what comes to them.
    pub fn allows(&self, packet: &Packet) -> bool {
        if packet.from == packet.to {
            return true;
        }
        let leaves = self.pod_of(packet.from).filter(|pod| pod.is_local).is_none_or(|pod| self.half(pod, packet, false));
        let comes = self.pod_of(packet.to).filter(|pod| pod.is_local).is_none_or(|pod| self.half(pod, packet, true));
        leaves && comes
    }

    fn half(&self, pod: &Pod, packet: &Packet, ingress: bool) -> bool {
        let selecting = self.policies.iter().filter(|(key, policy)| {
            let spec = policy.spec.clone().unwrap_or_default();
            key.namespace == pod.namespace
                && spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
                && restricts(policy, ingress)
        });
        let selecting: Vec<_> = selecting.collect();
        let other = if ingress { packet.from } else { packet.to };
        selecting.is_empty()
            || selecting.iter().any(|(key, policy)| {
                let rules = rules(policy, ingress);
                rules.iter().any(|(peers, ports)| {
                    let by_peer = peers.is_empty() || peers.iter().any(|peer| self.is_peer(peer, other, &key.namespace));
                    by_peer && (ports.is_empty() || ports.iter().any(|port| self.is_port(port, packet)))
                })
            })
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer, address: IpAddr, namespace: &str) -> bool {
        if let Some(block) = &peer.ip_block {
            return in_network(&block.cidr, address) && !block.except.iter().flatten().any(|except| in_network(except, address));
        }
        let Some(pod) = self.pod_of(address) else { return false };
        let in_namespace = match &peer.namespace_selector {
            Some(selector) => self.namespaces.get(&pod.namespace).is_some_and(|labels| selects(selector, labels)),
            None => pod.namespace == namespace,
        };
        in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
    }

    /// A name is what the pod that is connected to calls a port.
    fn is_port(&self, port: &NetworkPolicyPort, packet: &Packet) -> bool {
        if port.protocol.as_deref().unwrap_or("TCP") != packet.protocol {
            return false;
        }
        let Some(number) = packet.port else { return false };
        match &port.port {
            None => true,
            Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(number)),
            Some(IntOrString::String(name)) => self.pod_of(packet.to).is_some_and(|pod| {
                pod.ports.iter().any(|(known, protocol, at)| known == name && *protocol == packet.protocol && *at == number)
            }),
        }
    }
}

type Rules = Vec<(Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>)>;

fn rules(policy: &NetworkPolicy, ingress: bool) -> Rules {
    let spec = policy.spec.clone().unwrap_or_default();
    if ingress {
        let rules = spec.ingress.unwrap_or_default().into_iter();
        return rules.map(|rule| (rule.from.unwrap_or_default(), rule.ports.unwrap_or_default())).collect();
    }
    let rules = spec.egress.unwrap_or_default().into_iter();
    rules.map(|rule| (rule.to.unwrap_or_default(), rule.ports.unwrap_or_default())).collect()
}

fn restricts(policy: &NetworkPolicy, ingress: bool) -> bool {
    let spec = policy.spec.clone().unwrap_or_default();
    match spec.policy_types.filter(|types| !types.is_empty()) {
        Some(types) => types.contains(&if ingress { "Ingress" } else { "Egress" }.to_owned()),
        None => ingress || spec.egress.is_some_and(|rules| !rules.is_empty()),
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let by_labels = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    by_labels
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("no operator {other}"),
            }
        })
}

/// Bit by bit.
fn in_network(cidr: &str, address: IpAddr) -> bool {
    let (network, prefix) = cidr.split_once('/').expect("a network");
    let (network, prefix): (IpAddr, usize) = (network.parse().expect("an address"), prefix.parse().expect("a number"));
    let bits = |ip: IpAddr| -> Vec<bool> {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.iter().flat_map(|byte| (0..8).map(move |place| byte >> (7 - place) & 1 == 1)).collect()
    };
    network.is_ipv4() == address.is_ipv4() && bits(network)[..prefix] == bits(address)[..prefix]
}
