//! What shall be let through, in terms of addresses and ports: chains that isolated pods' connections are held against, and the
//! sets that these look addresses and ports up in. Pure.
//!
//! Names are made of what they stand for. So pods that are told the same share one chain, rules that mean the same peers share one
//! set, and a chain or a set of constants never changes: there is another one instead.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::pod::{Labels, Pod};
use crate::policy::{Peer, PodPeers, Port, Rule};
use crate::range::{PortRange, Range, merged_ports};

/// Seen from the pod that is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    pub const fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peers {
    Any,
    Pods(Arc<PodPeers>),
    Ranges(Vec<Range>),
}

/// To which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    Any,
    In(Vec<PortRange>),
    /// What the pod that is connected to calls so; only of egress, for of ingress it is known which pod that is.
    Named(u8, String),
}

/// One thing that is let through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Allow {
    pub peers: Peers,
    pub ports: Ports,
}

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// The addresses of pods.
    Pods(Arc<PodPeers>),
    /// Addresses of pods with the ports that they call so.
    Named {
        peers: Peers,
        protocol: u8,
        name: String,
    },
    /// Addresses, whoever has them.
    Ranges(Vec<Range>),
    Ports(Vec<PortRange>),
}

/// An element of a set of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    pub address: IpAddr,
    /// Protocol and number.
    pub port: Option<(u8, u16)>,
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    items.iter().try_for_each(|item| write!(f, "{item},"))
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peers::Any => f.write_str("any"),
            Peers::Pods(pods) => write!(f, "pods {pods}"),
            Peers::Ranges(ranges) => list(f, ranges),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ports::Any => f.write_str("any"),
            Ports::In(ranges) => list(f, ranges),
            Ports::Named(protocol, name) => write!(f, "{protocol}/{name}"),
        }
    }
}

/// So many bytes of a hash stand in a name: somebody who may write policies must not find two that have the same.
const HASH_BYTES: usize = 16;

fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the chain that lets this through.
pub fn chain_name(direction: Direction, allows: &[Allow]) -> String {
    let text: String = allows.iter().map(|allow| format!("{} to {}\n", allow.peers, allow.ports)).collect();
    format!("{}-{}", direction.name(), hash(&text))
}

impl Set {
    pub fn name(&self) -> String {
        match self {
            Set::Pods(pods) => format!("pods-{}", hash(&pods.to_string())),
            Set::Named { peers, protocol, name } => format!("named-{}", hash(&format!("{peers} {protocol}/{name}"))),
            Set::Ranges(ranges) => format!("addresses-{}", hash(&Peers::Ranges(ranges.clone()).to_string())),
            Set::Ports(ranges) => format!("ports-{}", hash(&Ports::In(ranges.clone()).to_string())),
        }
    }

    /// Whether what is in it changes as pods come and go.
    pub fn follows_pods(&self) -> bool {
        matches!(self, Set::Pods(_) | Set::Named { .. })
    }

    /// Whether what is in it changes with the labels of namespaces.
    pub fn follows_namespaces(&self) -> bool {
        match self {
            Set::Pods(pods) | Set::Named { peers: Peers::Pods(pods), .. } => pods.reads_namespaces(),
            Set::Named { .. } | Set::Ranges(_) | Set::Ports(_) => false,
        }
    }

    /// What a pod that has this address adds to the set.
    pub fn entries(&self, address: IpAddr, pod: &Pod, namespace: Option<&Labels>) -> Vec<Entry> {
        match self {
            Set::Pods(pods) if pods.include(pod, namespace) => vec![Entry { address, port: None }],
            Set::Named { peers, protocol, name } if peers.include(address, pod, namespace) => {
                let mut numbers: Vec<u16> = pod.ports_named(*protocol, name).collect();
                numbers.sort_unstable();
                numbers.dedup();
                numbers.into_iter().map(|number| Entry { address, port: Some((*protocol, number)) }).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Peers {
    fn include(&self, address: IpAddr, pod: &Pod, namespace: Option<&Labels>) -> bool {
        match self {
            Peers::Any => true,
            Peers::Pods(pods) => pods.include(pod, namespace),
            Peers::Ranges(ranges) => ranges.iter().any(|range| range.contains(address)),
        }
    }
}

impl Allow {
    pub const EVERYTHING: Allow = Allow { peers: Peers::Any, ports: Ports::Any };

    /// The sets that have to be there.
    pub fn sets(&self) -> Vec<Set> {
        if let Ports::Named(protocol, name) = &self.ports {
            return vec![Set::Named { peers: self.peers.clone(), protocol: *protocol, name: name.clone() }];
        }
        let peers = match &self.peers {
            Peers::Any => None,
            Peers::Pods(pods) => Some(Set::Pods(pods.clone())),
            Peers::Ranges(ranges) => Some(Set::Ranges(ranges.clone())),
        };
        let ports = match &self.ports {
            Ports::In(ranges) => Some(Set::Ports(ranges.clone())),
            Ports::Any | Ports::Named(..) => None,
        };
        peers.into_iter().chain(ports).collect()
    }
}

/// What these rules let through for a pod: each thing once, in an order that depends on nothing else.
pub fn allows<'a>(rules: impl Iterator<Item = &'a Rule>, direction: Direction, pod: &Pod) -> Vec<Allow> {
    let mut allows: Vec<Allow> = rules.flat_map(|rule| allowed_by(rule, direction, pod)).collect();
    if allows.contains(&Allow::EVERYTHING) {
        return vec![Allow::EVERYTHING];
    }
    allows.sort_unstable();
    allows.dedup();
    allows
}

fn allowed_by(rule: &Rule, direction: Direction, pod: &Pod) -> Vec<Allow> {
    let peers: Vec<Peers> = match &rule.peers {
        None => vec![Peers::Any],
        Some(peers) => peers.iter().map(of_peer).collect(),
    };
    let ports = ports_of(rule, direction, pod);
    peers.iter().flat_map(|peers| ports.iter().map(|ports| Allow { peers: peers.clone(), ports: ports.clone() })).collect()
}

fn of_peer(peer: &Peer) -> Peers {
    match peer {
        Peer::Pods(pods) => Peers::Pods(pods.clone()),
        Peer::Block(ranges) => Peers::Ranges(ranges.clone()),
    }
}

/// Names of ingress are the isolated pod's own; those of egress are each peer's.
fn ports_of(rule: &Rule, direction: Direction, pod: &Pod) -> Vec<Ports> {
    let Some(ports) = &rule.ports else { return vec![Ports::Any] };
    let (mut numbers, mut names) = (Vec::new(), Vec::new());
    for port in ports {
        match (port, direction) {
            (Port::Numbers(range), _) => numbers.push(*range),
            (Port::Named(protocol, name), Direction::Ingress) => {
                let known = pod.ports_named(*protocol, name);
                numbers.extend(known.map(|number| PortRange { protocol: *protocol, first: number, last: number }));
            }
            (Port::Named(protocol, name), Direction::Egress) => names.push(Ports::Named(*protocol, name.clone())),
        }
    }
    let numbers = merged_ports(numbers);
    (!numbers.is_empty()).then_some(Ports::In(numbers)).into_iter().chain(names).collect()
}
