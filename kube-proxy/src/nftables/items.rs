//! What a port of a Service is in the table: elements of shared sets and maps, chains, and sets of recent clients. Pure.
//!
//! A packet's destination is looked up in one map, whatever number of Services there is, and from there on meets its Service's
//! chain alone.

use std::net::{IpAddr, SocketAddr};

use super::name::{
    self, CLUSTER_IPS, FIREWALL_IPS, HAIRPIN_CONNECTIONS, NO_ENDPOINT_NODE_PORTS, NO_ENDPOINT_SERVICES, Names, SERVICE_IPS,
    SERVICE_NODE_PORTS,
};
use crate::frontend::Protocol;
use crate::node::LocalDetector;
use crate::ruleset::ServicePort;
use crate::settings::Settings;
use netfilter::batch::Value;
use netfilter::expression::Verdict;
use netfilter::family::Cidr;
use netfilter::key::Key;
use netfilter::rule::Rule;

/// The number of a map of endpoints, and what it has under a key.
pub type Endpoint = (u8, Key, SocketAddr);

/// Everything that one port of a Service adds to the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Items {
    /// Sets and maps, keys, and what maps say.
    pub elements: Vec<(&'static str, Key, Option<Value>)>,
    /// Elements of the maps of endpoints, which no other port has.
    pub endpoints: Vec<Endpoint>,
    pub chains: Vec<(String, Vec<Rule>)>,
    /// Sets of recent clients, and how many seconds they stay.
    pub recent: Vec<(String, u32)>,
}

const fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Matches packets of local pods, or all others; nothing if they cannot be told.
pub fn of_local_pods(rule: Rule, local: &LocalDetector, are: bool) -> Option<Rule> {
    match local {
        LocalDetector::None => None,
        LocalDetector::Source(cidr) => Some(rule.source_is(*cidr, are)),
        LocalDetector::Interface(name) => Some(rule.interface_is(name, false, are)),
        LocalDetector::InterfacePrefix(prefix) => Some(rule.interface_is(prefix, true, are)),
    }
}

/// See [`Items`].
pub fn items(port: &ServicePort, settings: &Settings) -> Items {
    let frontend = &port.frontend;
    let names = Names::new(&frontend.name);
    let mut items = Items::default();
    let protocol = number_of(frontend.name.protocol);
    let (internal, external, any) = (port.has_internal_endpoints(), port.has_external_endpoints(), port.backends.any);
    let refusal = Value::Verdict(if any { Verdict::Drop } else { Verdict::Goto(name::REJECT.to_owned()) });
    let goto = |chain: String| Value::Verdict(Verdict::Goto(chain));
    let at = |ip: IpAddr| Key::default().address(ip).protocol(protocol).port(frontend.port);

    items.elements.push((CLUSTER_IPS, Key::default().address(frontend.cluster_ip), None));
    for endpoint in &port.backends.on_node {
        let ip = endpoint.ip();
        let key = Key::default().address(ip).address(ip).protocol(protocol).port(endpoint.port());
        items.elements.push((HAIRPIN_CONNECTIONS, key, None));
    }
    if internal {
        let chain = if frontend.internal_local { names.local() } else { names.cluster() };
        items.elements.push((SERVICE_IPS, at(frontend.cluster_ip), Some(goto(chain))));
    } else {
        items.elements.push((NO_ENDPOINT_SERVICES, at(frontend.cluster_ip), Some(refusal.clone())));
    }
    let to_external = || Some(goto(names.external()));
    for ip in frontend.external_ips.iter().chain(&frontend.load_balancer_ips) {
        if any {
            items.elements.push((SERVICE_IPS, at(*ip), to_external()));
        }
        if !external {
            items.elements.push((NO_ENDPOINT_SERVICES, at(*ip), Some(refusal.clone())));
        }
    }
    if let Some(number) = frontend.node_port {
        let key = Key::default().protocol(protocol).port(number);
        if any {
            items.elements.push((SERVICE_NODE_PORTS, key.clone(), to_external()));
        }
        if !external {
            items.elements.push((NO_ENDPOINT_NODE_PORTS, key, Some(refusal)));
        }
    }
    if !frontend.load_balancer_ips.is_empty() && !frontend.source_ranges.is_empty() {
        items.chains.push((names.firewall(), firewall_rules(port, settings)));
        for ip in &frontend.load_balancer_ips {
            items.elements.push((FIREWALL_IPS, at(*ip), Some(goto(names.firewall()))));
        }
    }
    if any && frontend.is_externally_accessible() {
        items.chains.push((names.external(), external_rules(port, &names, settings)));
    }
    let groups = [
        (names.cluster(), &port.backends.cluster, frontend.uses_cluster_endpoints()),
        (names.local(), &port.backends.local, frontend.uses_local_endpoints()),
    ];
    for (chain, endpoints, is_used) in groups {
        if !endpoints.is_empty() && is_used {
            let rules = match frontend.affinity_s {
                Some(_) => affinity_rules(endpoints, &names, settings),
                None => vec![balance(&chain, endpoints, protocol, settings, &mut items.endpoints)],
            };
            items.chains.push((chain, rules));
        }
    }
    if let Some(seconds) = frontend.affinity_s {
        for endpoint in port.backends.reachable() {
            let set = names.affinity(endpoint);
            let remember = Rule::new().update_source(settings.family, &set);
            items.chains.push((names.endpoint(endpoint), vec![remember, Rule::new().protocol_is(protocol).dnat(endpoint)]));
            items.recent.push((set, seconds));
        }
    }
    items
}

/// Who is not among those that may use the load balancer's addresses is dropped.
fn firewall_rules(port: &ServicePort, settings: &Settings) -> Vec<Rule> {
    let frontend = &port.frontend;
    let mut allowed: Vec<Cidr> = frontend.source_ranges.clone();
    // A node that has the load balancer's address itself sends from that address.
    if allowed.iter().any(|range| range.contains(settings.node_ip)) {
        allowed.extend(frontend.load_balancer_ips.iter().map(|ip| Cidr::host(*ip)));
    }
    let allow = |cidr: Cidr| Rule::new().source_is(cidr, true).verdict(Verdict::Return);
    allowed.into_iter().map(allow).chain([Rule::new().verdict(Verdict::Drop)]).collect()
}

/// What comes from outside, by node port, external IP or load balancer.
fn external_rules(port: &ServicePort, names: &Names, settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !port.frontend.external_local {
        rules.push(Rule::new().set_mark(settings.masquerade_mark).comment("masquerade"));
    } else {
        // Local pods and this host are not bound to the policy: it is as if they had gone through a load balancer.
        let cluster = || Verdict::Goto(names.cluster());
        if let Some(rule) = of_local_pods(Rule::new(), &settings.local, true) {
            rules.push(rule.verdict(cluster()).comment("short-circuit pod traffic"));
        }
        rules.push(Rule::new().source_is_this_host().set_mark(settings.masquerade_mark).comment("masquerade local traffic"));
        rules.push(Rule::new().source_is_this_host().verdict(cluster()).comment("short-circuit local traffic"));
    }
    if port.has_external_endpoints() {
        let chain = if port.frontend.external_local { names.local() } else { names.cluster() };
        rules.push(Rule::new().verdict(Verdict::Goto(chain)));
    }
    rules
}

/// Leads to any of the endpoints, each as likely as the others.
fn balance(chain: &str, endpoints: &[SocketAddr], protocol: u8, settings: &Settings, elements: &mut Vec<Endpoint>) -> Rule {
    let rule = Rule::new().protocol_is(protocol);
    if let [only] = endpoints {
        return rule.dnat(*only);
    }
    let hash = name::hash_of(chain);
    let map = name::shard_of(hash);
    elements.extend((0..).zip(endpoints).map(|(number, endpoint)| (map, Key::choice(hash, number), *endpoint)));
    rule.dnat_any(settings.family, &name::endpoints(map), hash, u32::try_from(endpoints.len()).unwrap_or(u32::MAX))
}

/// Clients that are known go where they went; the others are led to any endpoint's chain, which remembers them.
fn affinity_rules(endpoints: &[SocketAddr], names: &Names, settings: &Settings) -> Vec<Rule> {
    let goto = |endpoint: &SocketAddr| Verdict::Goto(names.endpoint(*endpoint));
    let known = endpoints.iter().map(|endpoint| Rule::new().source_in(settings.family, &names.affinity(*endpoint)).verdict(goto(endpoint)));
    let mut left = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let unknown = endpoints.iter().map(|endpoint| {
        let rule = if left > 1 { Rule::new().one_of(left) } else { Rule::new() };
        left -= 1;
        rule.verdict(goto(endpoint))
    });
    let known: Vec<Rule> = known.collect();
    known.into_iter().chain(unknown).collect()
}
