//! A NetworkPolicy, read once: whom it selects, and what it lets through in each direction. Pure.
//!
//! Specified by networking.k8s.io/v1 and its API documentation. What the API server would have refused allows nothing here.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::Object;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use netfilter::family::parse_cidr;

use crate::pod::{Labels, Pod};
use crate::range::{PortRange, Range, merged, without};

/// The protocols that have ports, by their numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// The number of a protocol; TCP if none is named.
pub fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        "SCTP" => Some(SCTP),
        _ => None,
    }
}

/// What a policy says of the pods that it selects. A direction that it does not restrict is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Pods of the policy's own namespace.
    pub pods: Selector,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

/// Lets through what is of one of the peers and to one of the ports. Absent is any.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub peers: Option<Vec<Peer>>,
    pub ports: Option<Vec<Port>>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    Pods(Arc<PodPeers>),
    Block(Vec<Range>),
}

/// Where a connection may be opened to.
#[derive(Clone, Debug, PartialEq)]
pub enum Port {
    Numbers(PortRange),
    /// What the pod that is connected to calls so.
    Named(u8, String),
}

/// Pods by their labels and those of their namespaces. Two that mean the same are equal.
#[derive(Clone)]
pub struct PodPeers {
    namespaces: Namespaces,
    pods: Selector,
    text: String,
}

#[derive(Clone)]
enum Namespaces {
    Own(String),
    Matching(Selector),
}

impl PodPeers {
    pub fn in_namespace(namespace: &str, pods: Selector) -> PodPeers {
        PodPeers { text: format!("{namespace}/{pods}"), namespaces: Namespaces::Own(namespace.to_owned()), pods }
    }

    pub fn in_namespaces(namespaces: Selector, pods: Selector) -> PodPeers {
        // No name of a namespace and no label has brackets.
        PodPeers { text: format!("[{namespaces}]/{pods}"), namespaces: Namespaces::Matching(namespaces), pods }
    }

    /// Whether a namespace's labels count.
    pub fn reads_namespaces(&self) -> bool {
        matches!(self.namespaces, Namespaces::Matching(_))
    }

    /// Whether the pod is one of them; `namespace` is the labels of its namespace, without which none is known to match.
    pub fn include(&self, pod: &Pod, namespace: Option<&Labels>) -> bool {
        let in_scope = match &self.namespaces {
            Namespaces::Own(name) => *name == pod.namespace,
            Namespaces::Matching(selector) => namespace.is_some_and(|labels| selector.matches(labels)),
        };
        in_scope && self.pods.matches(&pod.labels)
    }
}

impl fmt::Display for PodPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PodPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for PodPeers {
    fn eq(&self, other: &PodPeers) -> bool {
        self.text == other.text
    }
}

impl Eq for PodPeers {}

impl PartialOrd for PodPeers {
    fn partial_cmp(&self, other: &PodPeers) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PodPeers {
    fn cmp(&self, other: &PodPeers) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for PodPeers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::from_label_selector(Some(selector)).ok()
}

/// Empty selects everything.
fn or_everything(given: Option<&LabelSelector>) -> Option<Selector> {
    given.map_or(Some(Selector::everything()), selector)
}

fn block(block: &IPBlock) -> Option<Peer> {
    let all = Range::of(parse_cidr(&block.cidr)?);
    let except = block.except.iter().flatten().map(|text| parse_cidr(text).map(Range::of)).collect::<Option<Vec<Range>>>()?;
    Some(Peer::Block(without(all, except)))
}

fn peer(peer: &NetworkPolicyPeer, namespace: &str) -> Option<Peer> {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(ip_block), None, None) => block(ip_block),
        (None, Some(namespaces), pods) => {
            Some(Peer::Pods(Arc::new(PodPeers::in_namespaces(selector(namespaces)?, or_everything(pods.as_ref())?))))
        }
        (None, None, Some(pods)) => Some(Peer::Pods(Arc::new(PodPeers::in_namespace(namespace, selector(pods)?)))),
        _ => None,
    }
}

fn port(port: &NetworkPolicyPort) -> Option<Port> {
    let protocol = protocol(port.protocol.as_deref())?;
    let numbers = |first: u16, last: u16| Port::Numbers(PortRange { protocol, first, last });
    match (&port.port, port.end_port) {
        (None, None) => Some(numbers(0, u16::MAX)),
        (Some(IntOrString::Int(number)), end) => {
            let first = u16::try_from(*number).ok()?;
            let last = end.map_or(Some(first), |end| u16::try_from(end).ok())?;
            (first <= last).then(|| numbers(first, last))
        }
        (Some(IntOrString::String(name)), None) => Some(Port::Named(protocol, name.clone())),
        (Some(IntOrString::String(_)) | None, Some(_)) => None,
    }
}

/// Blocks of one rule are one, for it does not matter in which an address is.
fn rule(peers: Option<&Vec<NetworkPolicyPeer>>, ports: Option<&Vec<NetworkPolicyPort>>, namespace: &str) -> Rule {
    let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
        let (mut read, mut blocks) = (Vec::new(), Vec::new());
        for peer in peers.iter().filter_map(|given| peer(given, namespace)) {
            match peer {
                Peer::Block(ranges) => blocks.extend(ranges),
                pods => read.push(pods),
            }
        }
        if !blocks.is_empty() {
            read.push(Peer::Block(merged(blocks)));
        }
        read
    });
    let ports = ports.filter(|ports| !ports.is_empty()).map(|ports| ports.iter().filter_map(port).collect());
    Rule { peers, ports }
}

impl Policy {
    pub fn of(object: &NetworkPolicy) -> Policy {
        let spec = object.spec.clone().unwrap_or_default();
        let namespace = object.namespace();
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let concerns = |kind: &str, by_default: bool| if types.is_empty() { by_default } else { types.iter().any(|name| name == kind) };
        let ingress = || spec.ingress.iter().flatten().map(|of| rule(of.from.as_ref(), of.ports.as_ref(), namespace)).collect();
        let egress = || spec.egress.iter().flatten().map(|of| rule(of.to.as_ref(), of.ports.as_ref(), namespace)).collect();
        Policy {
            pods: or_everything(spec.pod_selector.as_ref()).unwrap_or(Selector::Nothing),
            ingress: concerns("Ingress", true).then(ingress),
            egress: concerns("Egress", has_egress).then(egress),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> Policy {
        let object = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec});
        Policy::of(&serde_json::from_value(object).unwrap())
    }

    fn directions(spec: Value) -> (Option<usize>, Option<usize>) {
        let policy = policy(spec);
        (policy.ingress.map(|rules| rules.len()), policy.egress.map(|rules| rules.len()))
    }

    #[test]
    fn policy_types_default_by_the_rules_there_are() {
        assert_eq!(directions(json!({"podSelector": {}})), (Some(0), None));
        assert_eq!(directions(json!({})), (Some(0), None));
        assert_eq!(directions(json!({"podSelector": {}, "egress": [{}]})), (Some(0), Some(1)));
        assert_eq!(directions(json!({"podSelector": {}, "egress": []})), (Some(0), None));
        assert_eq!(directions(json!({"podSelector": {}, "ingress": [{}, {}], "policyTypes": ["Egress"]})), (None, Some(0)));
        assert_eq!(directions(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})), (Some(0), Some(0)));
    }

    fn only_rule(rule: Value) -> Rule {
        policy(json!({"podSelector": {}, "ingress": [rule]})).ingress.unwrap().remove(0)
    }

    #[test]
    fn absent_and_empty_lists_are_any() {
        let any = Rule { peers: None, ports: None };
        assert_eq!(only_rule(json!({})), any);
        assert_eq!(only_rule(json!({"from": [], "ports": []})), any);
    }

    #[test]
    fn peers_are_scoped_as_their_selectors_say() {
        let text = |from: Value| format!("{:?}", only_rule(json!({"from": [from]})).peers.unwrap());
        assert_eq!(text(json!({"podSelector": {"matchLabels": {"app": "x"}}})), "[Pods(a/app=x)]");
        assert_eq!(text(json!({"podSelector": {}})), "[Pods(a/)]");
        assert_eq!(text(json!({"namespaceSelector": {}})), "[Pods([]/)]");
        assert_eq!(
            text(json!({"namespaceSelector": {"matchLabels": {"t": "b"}}, "podSelector": {"matchLabels": {"app": "x"}}})),
            "[Pods([t=b]/app=x)]"
        );
        assert_eq!(text(json!({})), "[]", "what names nobody is nobody");
        let blocks = only_rule(json!({"from": [
            {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.128/25"]}}, {"ipBlock": {"cidr": "10.0.0.128/26"}}]}));
        let range = Range { first: "10.0.0.0".parse().unwrap(), last: "10.0.0.191".parse().unwrap() };
        assert_eq!(blocks.peers, Some(vec![Peer::Block(vec![range])]));
    }

    #[test]
    fn ports_are_numbers_ranges_and_names() {
        let ports = only_rule(json!({"ports": [{}, {"protocol": "UDP", "port": 53}, {"protocol": "SCTP", "port": 10, "endPort": 20},
            {"port": "http"}, {"port": 20, "endPort": 10}]}));
        let numbers = |protocol, first, last| Port::Numbers(PortRange { protocol, first, last });
        let expected = vec![numbers(TCP, 0, 65535), numbers(UDP, 53, 53), numbers(SCTP, 10, 20), Port::Named(TCP, "http".to_owned())];
        assert_eq!(ports.ports, Some(expected));
    }
}
