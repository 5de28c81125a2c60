//! What rules depend on beside the Services: configuration, node and kernel, as one family needs them. Values only.

use std::net::IpAddr;

use crate::config::{Config, Mode};
use crate::node::{LocalDetector, Node, NodePortAddresses};
use netfilter::family::{Cidr, Family};

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub family: Family,
    pub masquerade_all: bool,
    pub masquerade_mark: u32,
    pub local: LocalDetector,
    pub node_ip: IpAddr,
    pub node_port_addresses: NodePortAddresses,
    /// The host's addresses of this family; only if node ports are not served on all of them.
    pub addresses: Vec<IpAddr>,
    /// Node ports are served on 127.0.0.1 too.
    pub localhost_node_ports: bool,
    /// The kernel lets odd TCP packets pass, so they need not be dropped.
    pub conntrack_is_liberal: bool,
    /// There are so many endpoints that comments on their rules cost too much.
    pub is_large: bool,
    /// Where cluster IPs come from.
    pub service_cidrs: Vec<Cidr>,
}

impl Settings {
    pub fn new(config: &Config, node: &Node, family: Family) -> Settings {
        let node_port_addresses = NodePortAddresses::new(config, node, family);
        let wanted = config.mode() == Mode::Iptables && family == Family::V4 && config.iptables.localhost_node_ports.unwrap_or(true);
        Settings {
            family,
            masquerade_all: config.masquerade_all(),
            masquerade_mark: config.masquerade_mark(),
            local: LocalDetector::new(config, node, family),
            node_ip: node.ip(family),
            localhost_node_ports: wanted && node_port_addresses.contains_ipv4_loopback(),
            node_port_addresses,
            addresses: Vec::new(),
            conntrack_is_liberal: false,
            is_large: false,
            service_cidrs: Vec::new(),
        }
    }
}

/// The host's addresses of a family.
pub fn host_addresses(family: Family) -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::error!(%error, "cannot list the host's addresses, so node ports may not be served");
            return Vec::new();
        }
    };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    interfaces.filter_map(address).filter(|address| Family::of(*address) == family).collect()
}
