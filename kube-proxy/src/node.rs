//! What kube-proxy must know of the node that it runs on: its name, its zone, its addresses and its pods' addresses.
//!
//! Values only; the shell takes them from the Node object.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Node as NodeObject;

use crate::config::{Config, LocalMode};
use netfilter::family::{Cidr, Family, parse_cidr, parse_ip};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A taint of the cluster autoscaler: the node is about to go, so load balancers should leave it.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// The node as rules depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Empty if the node has none.
    pub zone: String,
    /// The family of the node's first address: the only one that must work.
    pub primary: Family,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub pod_cidrs: Vec<Cidr>,
}

impl Node {
    /// `bind_address` stands for the node's primary address, unless it is a wildcard.
    pub fn new(name: &str, object: Option<&NodeObject>, bind_address: &str) -> Node {
        let mut node = Node {
            name: name.to_owned(),
            zone: String::new(),
            primary: Family::V4,
            ipv4: Ipv4Addr::LOCALHOST,
            ipv6: Ipv6Addr::LOCALHOST,
            pod_cidrs: Vec::new(),
        };
        if let Some(object) = object {
            node.zone =
                object.metadata.labels.iter().flatten().find(|(key, _)| *key == ZONE_LABEL).map_or(String::new(), |(_, zone)| zone.clone());
            node.pod_cidrs = pod_cidrs(object);
            let addresses = host_ips(object);
            if let Some(first) = addresses.first() {
                node.primary = Family::of(*first);
            }
            // The second counts only if it is of the other family.
            addresses.iter().rev().for_each(|address| node.set(*address));
        }
        if let Some(address) = parse_ip(bind_address).filter(|address| !address.is_unspecified()) {
            node.primary = Family::of(address);
            node.set(address);
        }
        node
    }

    fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.ipv4 = v4,
            IpAddr::V6(v6) => self.ipv6 = v6,
        }
    }

    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4.into(),
            Family::V6 => self.ipv6.into(),
        }
    }
}

/// The node's addresses, internal ones before external ones, at most one of each family.
fn host_ips(object: &NodeObject) -> Vec<IpAddr> {
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |kind: &'static str| addresses.clone().filter(move |a| a.type_ == kind).filter_map(|a| parse_ip(&a.address));
    let mut found: Vec<IpAddr> = Vec::new();
    for address in of("InternalIP").chain(of("ExternalIP")) {
        if !found.iter().any(|other| Family::of(*other) == Family::of(address)) {
            found.push(address);
        }
    }
    found
}

fn pod_cidrs(object: &NodeObject) -> Vec<Cidr> {
    let Some(spec) = &object.spec else { return Vec::new() };
    let several = spec.pod_cidrs.iter().flatten().filter_map(|cidr| parse_cidr(cidr)).collect::<Vec<_>>();
    if several.is_empty() { spec.pod_cidr.iter().filter_map(|cidr| parse_cidr(cidr)).collect() } else { several }
}

/// Whether load balancers may send traffic to the node: it is there, and neither being deleted nor about to be.
pub fn is_eligible(object: Option<&NodeObject>) -> bool {
    object.is_some_and(|object| {
        let taints = object.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        object.metadata.deletion_timestamp.is_none() && !taints.into_iter().any(|taint| taint.key == TO_BE_DELETED_TAINT)
    })
}

/// How a packet of one of this node's pods is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetector {
    /// There is no way: nothing is taken for a local pod's packet, nor for anybody else's.
    None,
    Source(Cidr),
    Interface(String),
    InterfacePrefix(String),
}

impl LocalDetector {
    pub fn new(config: &Config, node: &Node, family: Family) -> LocalDetector {
        let of_family =
            |cidrs: Vec<Cidr>| cidrs.into_iter().find(|cidr| cidr.family() == family).map_or(LocalDetector::None, LocalDetector::Source);
        match config.detect_local_mode.unwrap_or(LocalMode::ClusterCIDR) {
            LocalMode::ClusterCIDR => of_family(config.cluster_cidrs().filter_map(parse_cidr).collect()),
            LocalMode::NodeCIDR => of_family(node.pod_cidrs.clone()),
            LocalMode::BridgeInterface => LocalDetector::Interface(config.detect_local.bridge_interface.clone()),
            LocalMode::InterfaceNamePrefix => LocalDetector::InterfacePrefix(config.detect_local.interface_name_prefix.clone()),
        }
    }
}

/// On which of the node's addresses node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    All,
    In(Vec<Cidr>),
}

impl NodePortAddresses {
    /// Nothing said about a family means all addresses of that family.
    pub fn new(config: &Config, node: &Node, family: Family) -> NodePortAddresses {
        let mut cidrs = Vec::new();
        for word in &config.node_port_addresses {
            match word.as_str() {
                "primary" => {
                    let ip = node.ip(family);
                    if !ip.is_loopback() {
                        cidrs.push(Cidr::host(ip));
                    }
                }
                "localhost" => cidrs.push(family.loopback()),
                "all" => cidrs.push(family.everything()),
                cidr => cidrs.extend(parse_cidr(cidr)),
            }
        }
        cidrs.retain(|cidr| cidr.family() == family);
        if cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.prefix == 0) { NodePortAddresses::All } else { NodePortAddresses::In(cidrs) }
    }

    /// Those of the node's addresses on which node ports are served.
    pub fn matching(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| match self {
                NodePortAddresses::All => true,
                NodePortAddresses::In(cidrs) => cidrs.iter().any(|cidr| cidr.contains(*address)),
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// Whether 127.0.0.1 is among them.
    pub fn contains_ipv4_loopback(&self) -> bool {
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::In(cidrs) => {
                cidrs.iter().any(|cidr| cidr.network.is_loopback() || cidr.contains(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus};

    use super::*;

    fn object(addresses: &[(&str, &str)]) -> NodeObject {
        let addresses = addresses.iter().map(|(kind, address)| NodeAddress { type_: (*kind).to_owned(), address: (*address).to_owned() });
        NodeObject { status: Some(NodeStatus { addresses: Some(addresses.collect()), ..NodeStatus::default() }), ..NodeObject::default() }
    }

    #[test]
    fn the_first_address_names_the_primary_family() {
        let node =
            Node::new("a", Some(&object(&[("ExternalIP", "1.2.3.4"), ("InternalIP", "fd00::1"), ("InternalIP", "10.0.0.1")])), "0.0.0.0");
        assert_eq!(node.primary, Family::V6);
        assert_eq!(node.ip(Family::V4).to_string(), "10.0.0.1");
        assert_eq!(node.ip(Family::V6).to_string(), "fd00::1");
        let bound = Node::new("a", Some(&object(&[("InternalIP", "fd00::1")])), "192.0.2.1");
        assert_eq!((bound.primary, bound.ip(Family::V4).to_string().as_str()), (Family::V4, "192.0.2.1"));
        assert_eq!(Node::new("a", None, "0.0.0.0").ip(Family::V4).to_string(), "127.0.0.1");
    }

    #[test]
    fn words_among_the_node_port_addresses_are_spelled_out() {
        let node = Node::new("a", Some(&object(&[("InternalIP", "10.0.0.1")])), "0.0.0.0");
        let of = |words: &[&str], family| {
            let config = Config { node_port_addresses: words.iter().map(|w| (*w).to_owned()).collect(), ..Config::default() };
            NodePortAddresses::new(&config, &node, family)
        };
        let addresses = ["127.0.0.1", "10.0.0.1", "10.0.0.2", "192.168.0.1"].map(|a| a.parse().unwrap());
        let matching = |words: &[&str]| of(words, Family::V4).matching(&addresses).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(matching(&["primary"]), ["10.0.0.1"]);
        assert_eq!(matching(&["localhost", "192.168.0.0/16"]), ["127.0.0.1", "192.168.0.1"]);
        assert_eq!(of(&["10.0.0.0/8", "all"], Family::V4), NodePortAddresses::All);
        assert_eq!(of(&["primary"], Family::V6), NodePortAddresses::All);
        assert!(!of(&["10.0.0.0/8"], Family::V4).contains_ipv4_loopback());
    }

    #[test]
    fn a_node_that_is_about_to_go_is_not_eligible() {
        let mut node = object(&[]);
        assert!(is_eligible(Some(&node)) && !is_eligible(None));
        let taint = k8s_openapi::api::core::v1::Taint { key: TO_BE_DELETED_TAINT.to_owned(), ..Default::default() };
        node.spec.get_or_insert_default().taints = Some(vec![taint]);
        assert!(!is_eligible(Some(&node)));
    }
}
