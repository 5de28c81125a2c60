//! Flows of UDP that the kernel goes on to lead to endpoints that are gone: they must be forgotten, for they have no end.
//!
//! [`stale`] says which; only [`clean_up`] talks to the kernel.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::frontend::Protocol;
use crate::ruleset::{Difference, ServicePort};
use netfilter::family::Family;
use netfilter::netlink::{ACK, DUMP, Message, Socket, attributes, find};

const UDP: u8 = 17;

// The numbers of <linux/netfilter/nfnetlink_conntrack.h>.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

/// A flow, by where it was sent and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub destination: SocketAddr,
    pub answers: SocketAddr,
}

/// Where UDP is led, as far as flows that exist already may go on.
#[derive(Debug, Default)]
pub struct Allowed {
    by_address: HashMap<SocketAddr, HashSet<SocketAddr>>,
    by_node_port: HashMap<u16, HashSet<SocketAddr>>,
}

/// Every endpoint that serves keeps its flows, whatever policies say about new ones.
pub fn allowed<'a>(ports: impl Iterator<Item = &'a ServicePort>) -> Allowed {
    let mut allowed = Allowed::default();
    for port in ports.filter(|port| port.frontend.name.protocol == Protocol::Udp) {
        let frontend = &port.frontend;
        let endpoints: HashSet<SocketAddr> = port.backends.serving.iter().copied().collect();
        let addresses = [frontend.cluster_ip]
            .into_iter()
            .chain(frontend.load_balancer_ips.iter().copied())
            .chain(frontend.external_ips.iter().copied());
        for ip in addresses {
            allowed.by_address.insert(SocketAddr::new(ip, frontend.port), endpoints.clone());
        }
        // A node port is a number on any address: without endpoints, somebody else's flow to that number could not be told from ours.
        if let Some(number) = frontend.node_port.filter(|_| !endpoints.is_empty()) {
            allowed.by_node_port.insert(number, endpoints);
        }
    }
    allowed
}

impl Allowed {
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }
}

/// Whether the flow goes to one of our addresses and is answered by somebody who is not its endpoint any more.
pub fn stale(flow: &Flow, allowed: &Allowed) -> bool {
    let misses = |endpoints: Option<&HashSet<SocketAddr>>| endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.answers));
    misses(allowed.by_address.get(&flow.destination)) || misses(allowed.by_node_port.get(&flow.destination.port()))
}

/// Whether a change may leave stale flows behind.
pub fn concerns(differences: &[Difference]) -> bool {
    let serving = |ports: &[ServicePort]| -> Vec<(SocketAddr, Vec<SocketAddr>)> {
        let udp = ports.iter().filter(|port| port.frontend.name.protocol == Protocol::Udp);
        udp.map(|port| (SocketAddr::new(port.frontend.cluster_ip, port.frontend.port), port.backends.serving.clone())).collect()
    };
    differences.iter().any(|difference| serving(&difference.old) != serving(&difference.new))
}

/// The two ends of a tuple, if it is one of UDP: where it goes and where it comes from.
fn ends(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    if find(protocol, 1)? != [UDP] {
        return None;
    }
    let port = |kind| find(protocol, kind).and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
    let ip = find(tuple, TUPLE_IP)?;
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        attributes(ip).find_map(|(kind, bytes)| {
            if kind == v4 {
                Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?))
            } else if kind == v6 {
                Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
            } else {
                None
            }
        })
    };
    let source = SocketAddr::new(address(1, 3)?, port(2)?);
    let destination = SocketAddr::new(address(2, 4)?, port(3)?);
    Some((destination, source))
}

/// Forgets the stale flows of a family, and says how many. Blocks.
pub fn clean_up(family: Family, allowed: &Allowed) -> io::Result<u64> {
    let number = match family {
        Family::V4 => nix::libc::AF_INET,
        Family::V6 => nix::libc::AF_INET6,
    };
    let family = u8::try_from(number).map_err(io::Error::other)?;
    let mut socket = Socket::open()?;
    // A deletion names the flow by its first tuple; the id keeps a flow that has just taken its place.
    let mut doomed: Vec<Message> = Vec::new();
    let listed = socket.request(Message::new(GET, DUMP, family), |entry| {
        let (Some(original), Some(reply)) = (find(entry, TUPLE_ORIGINAL), find(entry, TUPLE_REPLY)) else { return };
        let (Some((destination, _)), Some((_, answers))) = (ends(original), ends(reply)) else { return };
        if stale(&Flow { destination, answers }, allowed) {
            let mut deletion = Message::new(DELETE, ACK, family);
            deletion.nested(TUPLE_ORIGINAL, original);
            for kind in [ID, ZONE] {
                if let Some(payload) = find(entry, kind) {
                    deletion.attribute(kind, payload);
                }
            }
            doomed.push(deletion);
        }
    });
    match listed {
        // What was seen is cleaned all the same.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => tracing::debug!(%error, "some flows were not seen"),
        other => other?,
    }
    let mut deleted = 0;
    for deletion in doomed {
        match socket.request(deletion, |_| {}) {
            Ok(()) => deleted += 1,
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::node::Node;
    use crate::ruleset::ruleset;
    use crate::testing::{service, slice};

    fn allowed_for(endpoints: &str) -> Allowed {
        let service = service(
            r#"{"clusterIP":"10.0.0.10","type":"NodePort","ports":[{"name":"d","port":53,"protocol":"UDP","nodePort":30053}]}"#,
            "{}",
        );
        let slice = slice(r#"[{"name":"d","port":5353,"protocol":"UDP"}]"#, endpoints);
        let node = Node::new("n", None, "0.0.0.0");
        allowed(ruleset(&[Arc::new(service)], &[Arc::new(slice)], &node, Family::V4).ports())
    }

    fn flow(destination: &str, answers: &str) -> Flow {
        Flow { destination: destination.parse().unwrap(), answers: answers.parse().unwrap() }
    }

    #[test]
    fn flows_to_endpoints_that_are_gone_are_stale() {
        let some = allowed_for(r#"[{"addresses":["10.1.0.1"]}]"#);
        assert!(!stale(&flow("10.0.0.10:53", "10.1.0.1:5353"), &some));
        assert!(stale(&flow("10.0.0.10:53", "10.1.0.2:5353"), &some));
        assert!(stale(&flow("192.168.0.1:30053", "10.1.0.2:5353"), &some));
        assert!(!stale(&flow("8.8.8.8:53", "8.8.8.8:53"), &some));
    }

    #[test]
    fn without_endpoints_only_our_own_addresses_are_cleaned() {
        let none = allowed_for("[]");
        assert!(stale(&flow("10.0.0.10:53", "10.0.0.10:53"), &none));
        assert!(!stale(&flow("192.168.0.1:30053", "192.168.0.1:30053"), &none));
    }
}
