//! The names in the table, which are upstream's.

use std::fmt;
use std::net::SocketAddr;

use crate::frontend::PortName;
use crate::iptables::chain::hash_text;

pub const TABLE: &str = "kube-proxy";

pub const SERVICES: &str = "services";
pub const SERVICE_IPS: &str = "service-ips";
pub const SERVICE_NODE_PORTS: &str = "service-nodeports";
pub const NODE_PORT_IPS: &str = "nodeport-ips";
pub const CLUSTER_IPS: &str = "cluster-ips";
pub const SERVICE_ENDPOINTS_CHECK: &str = "service-endpoints-check";
pub const NODE_PORT_ENDPOINTS_CHECK: &str = "nodeport-endpoints-check";
pub const NO_ENDPOINT_SERVICES: &str = "no-endpoint-services";
pub const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";
pub const REJECT: &str = "reject-chain";
pub const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
pub const FIREWALL_IPS: &str = "firewall-ips";
pub const FIREWALL_CHECK: &str = "firewall-check";
pub const MASQUERADING: &str = "masquerading";
pub const HAIRPIN_CONNECTIONS: &str = "hairpin-connections";

/// The kernel's limit.
const NAME_MAX: usize = 256;

/// Prefixes take up to so much of a name.
const PREFIX_MAX: usize = 16;

/// So many characters of the hash come before the rest.
const HASH_CHARACTERS: usize = 8;

/// A hash, so that names stay different when they are cut, and the text itself, so that people can read them.
fn base(text: &str) -> String {
    let mut name = format!("{}-{text}", &hash_text(text)[..HASH_CHARACTERS]);
    if name.len() > NAME_MAX - PREFIX_MAX {
        name.truncate(NAME_MAX - PREFIX_MAX - 3);
        name.push_str("...");
    }
    name
}

fn of_port(port: &PortName) -> String {
    let service = &port.service;
    format!("{}/{}/{}/{}", service.namespace, service.name, port.protocol.lower(), port.port)
}

/// What the endpoints of a chain are found by.
pub fn hash_of(chain: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, chain.as_bytes());
    digest.as_ref()[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The names that are not upstream's: maps of all chains' endpoints, where upstream has a map in the rule of every chain. To
/// make a map the kernel looks at all others in the table; to use one in a rule it looks at all that is in it. With 256 of them,
/// as they are needed, both stay small.
pub fn endpoints(shard: u8) -> String {
    format!("endpoints-{shard:02x}")
}

/// The map that has the endpoints of the chain with this hash.
pub fn shard_of(hash: u64) -> u8 {
    hash.to_be_bytes()[7]
}

/// The names of what belongs to one port of a Service.
pub struct Names {
    text: String,
    base: String,
}

impl Names {
    pub fn new(port: &PortName) -> Names {
        let text = of_port(port);
        Names { base: base(&text), text }
    }

    fn with(&self, prefix: &dyn fmt::Display) -> String {
        format!("{prefix}-{}", self.base)
    }

    pub fn cluster(&self) -> String {
        self.with(&"service")
    }

    pub fn local(&self) -> String {
        self.with(&"local")
    }

    pub fn external(&self) -> String {
        self.with(&"external")
    }

    pub fn firewall(&self) -> String {
        self.with(&"firewall")
    }

    fn of_endpoint(&self, endpoint: SocketAddr) -> String {
        // Colons may not stand in names.
        base(&format!("{}__{}/{}", self.text, endpoint.ip().to_string().replace(':', "."), endpoint.port()))
    }

    pub fn endpoint(&self, endpoint: SocketAddr) -> String {
        format!("endpoint-{}", self.of_endpoint(endpoint))
    }

    pub fn affinity(&self, endpoint: SocketAddr) -> String {
        format!("affinity-{}", self.of_endpoint(endpoint))
    }
}

#[cfg(test)]
mod tests {
    use client::ObjectKey;

    use super::*;
    use crate::frontend::Protocol;

    #[test]
    fn names_are_those_of_the_reference() {
        let port = PortName { service: ObjectKey::new("ns1", "svc1"), port: "p80".to_owned(), protocol: Protocol::Tcp };
        let names = Names::new(&port);
        assert_eq!(names.cluster(), "service-ULMVA6XW-ns1/svc1/tcp/p80");
        assert_eq!(names.endpoint("10.180.0.1:80".parse().unwrap()), "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80");
        let long = PortName { service: ObjectKey::new(&"n".repeat(200), &"s".repeat(63)), port: "p".to_owned(), protocol: Protocol::Udp };
        assert_eq!(Names::new(&long).firewall().len(), "firewall-".len() + NAME_MAX - PREFIX_MAX);
    }
}
