//! The rules of iptables mode, as text that `iptables-restore` reads. Pure: what is written where is decided by [`super::plan`].
//!
//! A packet to a Service meets a rule in one of a few shared chains, which leads it to the chains of that Service's port, and
//! these to the chain of an endpoint, which rewrites its destination.

use std::fmt::{self, Write};
use std::net::IpAddr;

use super::chain::{
    Chain, Chains, EXTERNAL_SERVICES, FORWARD, KUBELET_FIREWALL, MARK_MASQ, NODE_PORTS, POSTROUTING, PROXY_FIREWALL, SERVICES,
};
use crate::node::{LocalDetector, NodePortAddresses};
use crate::ruleset::ServicePort;
use crate::settings::Settings;
use netfilter::family::Family;

/// A chain that rules of many Services stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    NatServices,
    NatNodePorts,
    FilterServices,
    FilterExternal,
    FilterNodePorts,
    FilterFirewall,
}

impl Shared {
    pub const fn name(self) -> &'static str {
        match self {
            Shared::NatServices | Shared::FilterServices => SERVICES,
            Shared::NatNodePorts | Shared::FilterNodePorts => NODE_PORTS,
            Shared::FilterExternal => EXTERNAL_SERVICES,
            Shared::FilterFirewall => PROXY_FIREWALL,
        }
    }

    pub const fn is_nat(self) -> bool {
        matches!(self, Shared::NatServices | Shared::NatNodePorts)
    }
}

/// The rules of one port of a Service, without the `-A chain` before them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PortRules {
    pub shared: Vec<(Shared, String)>,
    /// Chains in the table `nat` that belong to this port alone.
    pub chains: Vec<(Chain, Vec<String>)>,
}

/// How a local pod's packets are matched; nothing if they cannot be told.
fn if_local(local: &LocalDetector) -> Option<String> {
    match local {
        LocalDetector::None => None,
        LocalDetector::Source(cidr) => Some(format!("-s {cidr}")),
        LocalDetector::Interface(name) => Some(format!("-i {name}")),
        LocalDetector::InterfacePrefix(prefix) => Some(format!("-i {prefix}+")),
    }
}

/// Why there is nowhere to go, and so what becomes of the packet.
struct Refusal {
    reason: &'static str,
    target: &'static str,
}

const NO_ENDPOINTS: Refusal = Refusal { reason: "has no endpoints", target: "REJECT" };
const NO_LOCAL_ENDPOINTS: Refusal = Refusal { reason: "has no local endpoints", target: "DROP" };

/// A comment on a rule of an endpoint, which is left out where there are too many.
struct Comment<'a>(&'a Settings, fmt::Arguments<'a>);

impl fmt::Display for Comment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_large { Ok(()) } else { write!(f, "-m comment --comment {} ", self.1) }
    }
}

/// The rules of one port.
pub fn port_rules(port: &ServicePort, settings: &Settings) -> PortRules {
    let frontend = &port.frontend;
    let mut rules = PortRules::default();
    let names = Chains::new(&frontend.name);
    let name = frontend.name.to_string();
    let (internal, external) = (port.has_internal_endpoints(), port.has_external_endpoints());
    let any = port.backends.any;
    let has_firewall = any && !frontend.load_balancer_ips.is_empty() && !frontend.source_ranges.is_empty();
    let internal_chain = if frontend.internal_local { names.local() } else { names.cluster() };
    let protocol = frontend.name.protocol.lower();
    let matches = |ip: IpAddr| format!("-m {protocol} -p {protocol} -d {ip} --dport {}", frontend.port);
    let node_port_matches = |number: u16| format!("-m {protocol} -p {protocol} --dport {number}");
    let refusal = if any { NO_LOCAL_ENDPOINTS } else { NO_ENDPOINTS };
    let refuse = |matches: String| format!("-m comment --comment \"{name} {}\" {matches} -j {}", refusal.reason, refusal.target);

    if internal {
        let rule = format!("-m comment --comment \"{name} cluster IP\" {} -j {internal_chain}", matches(frontend.cluster_ip));
        rules.shared.push((Shared::NatServices, rule));
    } else {
        rules.shared.push((Shared::FilterServices, refuse(matches(frontend.cluster_ip))));
    }
    for ip in &frontend.external_ips {
        if any {
            let rule = format!("-m comment --comment \"{name} external IP\" {} -j {}", matches(*ip), names.external());
            rules.shared.push((Shared::NatServices, rule));
        }
        if !external {
            rules.shared.push((Shared::FilterExternal, refuse(matches(*ip))));
        }
    }
    for ip in &frontend.load_balancer_ips {
        if any {
            let chain = if has_firewall { names.firewall() } else { names.external() };
            let rule = format!("-m comment --comment \"{name} loadbalancer IP\" {} -j {chain}", matches(*ip));
            rules.shared.push((Shared::NatServices, rule));
        }
        if has_firewall {
            let comment = format!("{name} traffic not accepted by {}", names.firewall());
            let rule = format!("-m comment --comment \"{comment}\" {} -j DROP", matches(*ip));
            rules.shared.push((Shared::FilterFirewall, rule));
        }
        if !external {
            rules.shared.push((Shared::FilterExternal, refuse(matches(*ip))));
        }
    }
    if let Some(number) = frontend.node_port {
        if any {
            let rule = format!("-m comment --comment {name} {} -j {}", node_port_matches(number), names.external());
            rules.shared.push((Shared::NatNodePorts, rule));
        }
        if !external {
            let matches = format!("-m addrtype --dst-type LOCAL {}", node_port_matches(number));
            rules.shared.push((Shared::FilterExternal, refuse(matches)));
        }
    }
    if let Some(number) = frontend.health_check_node_port {
        let rule = format!("-m comment --comment \"{name} health check node port\" -m tcp -p tcp --dport {number} -j ACCEPT");
        rules.shared.push((Shared::FilterNodePorts, rule));
    }

    if any && frontend.is_externally_accessible() {
        rules.chains.push((names.external(), external_rules(port, &names, &name, settings)));
    }
    if has_firewall {
        rules.chains.push((names.firewall(), firewall_rules(port, &names, &name, settings)));
    }
    let masquerade = internal.then(|| masquerade_rule(&name, &matches(frontend.cluster_ip), settings)).flatten();
    let groups = [
        (names.cluster(), &port.backends.cluster, frontend.uses_cluster_endpoints()),
        (names.local(), &port.backends.local, frontend.uses_local_endpoints()),
    ];
    for (chain, endpoints, is_used) in groups {
        if !endpoints.is_empty() && is_used {
            let first = masquerade.clone().filter(|_| chain == internal_chain);
            rules.chains.push((chain, balance(endpoints, first, &names, &name, frontend.affinity_s, settings)));
        }
    }
    for endpoint in port.backends.reachable() {
        let chain = names.endpoint(endpoint);
        let comment = Comment(settings, format_args!("{name}")).to_string();
        let remember = if frontend.affinity_s.is_some() { format!("-m recent --name {chain} --set ") } else { String::new() };
        let hairpin = format!("{comment}-s {} -j {MARK_MASQ}", endpoint.ip());
        let rewrite = format!("{comment}{remember}-m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}");
        rules.chains.push((chain, vec![hairpin, rewrite]));
    }
    rules
}

/// Packets to the cluster IP that do not come from a local pod get this node's address, for the answer must come back here.
fn masquerade_rule(name: &str, matches: &str, settings: &Settings) -> Option<String> {
    let from = if settings.masquerade_all { String::new() } else { format!("! {} ", if_local(&settings.local)?) };
    Some(format!("-m comment --comment \"{name} cluster IP\" {matches} {from}-j {MARK_MASQ}"))
}

/// What comes from outside, by node port, external IP or load balancer.
fn external_rules(port: &ServicePort, names: &Chains, name: &str, settings: &Settings) -> Vec<String> {
    let mut rules = Vec::new();
    if !port.frontend.external_local {
        rules.push(format!("-m comment --comment \"masquerade traffic for {name} external destinations\" -j {MARK_MASQ}"));
    } else {
        // Local pods and this host are not bound to the policy: it is as if they had gone through a load balancer.
        let cluster = names.cluster();
        if let Some(matches) = if_local(&settings.local) {
            rules.push(format!("-m comment --comment \"pod traffic for {name} external destinations\" {matches} -j {cluster}"));
        }
        let from_host = "-m addrtype --src-type LOCAL";
        rules
            .push(format!("-m comment --comment \"masquerade LOCAL traffic for {name} external destinations\" {from_host} -j {MARK_MASQ}"));
        rules.push(format!("-m comment --comment \"route LOCAL traffic for {name} external destinations\" {from_host} -j {cluster}"));
    }
    if port.has_external_endpoints() {
        let chain = if port.frontend.external_local { names.local() } else { names.cluster() };
        rules.push(format!("-j {chain}"));
    }
    rules
}

/// Who may use the load balancer's addresses. What gets through to the end has not been rewritten, and is dropped by its
/// destination in the table `filter`.
fn firewall_rules(port: &ServicePort, names: &Chains, name: &str, settings: &Settings) -> Vec<String> {
    let external = names.external();
    let allow = |source: &dyn fmt::Display| format!("-m comment --comment \"{name} loadbalancer IP\" -s {source} -j {external}");
    let frontend = &port.frontend;
    let mut rules: Vec<String> = frontend.source_ranges.iter().map(|range| allow(range)).collect();
    // A node that has the load balancer's address itself sends from that address.
    if frontend.source_ranges.iter().any(|range| range.contains(settings.node_ip)) {
        rules.extend(frontend.load_balancer_ips.iter().map(|ip| allow(ip)));
    }
    rules.push(format!("-m comment --comment \"other traffic to {name} will be dropped by KUBE-PROXY-FIREWALL\""));
    rules
}

/// Spreads traffic over endpoints, each as likely as the others; clients that are to stay with theirs are looked up first.
fn balance(
    endpoints: &[std::net::SocketAddr],
    first: Option<String>,
    names: &Chains,
    name: &str,
    affinity_s: Option<u32>,
    settings: &Settings,
) -> Vec<String> {
    let mut rules: Vec<String> = first.into_iter().collect();
    let chains: Vec<Chain> = endpoints.iter().map(|endpoint| names.endpoint(*endpoint)).collect();
    if let Some(seconds) = affinity_s {
        for (endpoint, chain) in endpoints.iter().zip(&chains) {
            let comment = Comment(settings, format_args!("\"{name} -> {endpoint}\"")).to_string();
            rules.push(format!("{comment}-m recent --name {chain} --rcheck --seconds {seconds} --reap -j {chain}"));
        }
    }
    let mut left = endpoints.len();
    for (endpoint, chain) in endpoints.iter().zip(&chains) {
        let mut rule = Comment(settings, format_args!("\"{name} -> {endpoint}\"")).to_string();
        if left > 1 {
            // Writing to a String cannot fail.
            let _ = write!(rule, "-m statistic --mode random --probability {:.10} ", 1.0 / left as f64);
        }
        left -= 1;
        let _ = write!(rule, "-j {chain}");
        rules.push(rule);
    }
    rules
}

/// The rules that do not depend on Services: those of the table `nat` and those of `filter`, with their chains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub nat: Vec<(&'static str, String)>,
    pub filter: Vec<(&'static str, String)>,
}

/// See [`Frame`]. The rule of node ports must stay the last of its chain.
pub fn frame(settings: &Settings) -> Frame {
    let mut frame = Frame::default();
    let mark = format!("{:#08x}", settings.masquerade_mark);
    frame.nat.push((POSTROUTING, format!("-m mark ! --mark {mark}/{mark} -j RETURN")));
    // Without this a packet that passes here again would be rewritten again.
    frame.nat.push((POSTROUTING, format!("-j MARK --xor-mark {mark}")));
    frame
        .nat
        .push((POSTROUTING, "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully".to_owned()));
    frame.nat.push((MARK_MASQ, format!("-j MARK --or-mark {mark}")));
    let node_ports = "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"";
    match &settings.node_port_addresses {
        NodePortAddresses::All => {
            let but = match settings.family {
                Family::V6 => " ! -d ::1/128",
                Family::V4 if settings.localhost_node_ports => "",
                Family::V4 => " ! -d 127.0.0.0/8",
            };
            frame.nat.push((SERVICES, format!("{node_ports} -m addrtype --dst-type LOCAL{but} -j {NODE_PORTS}")));
        }
        addresses => {
            let serves = |ip: &IpAddr| !ip.is_loopback() || (settings.family == Family::V4 && settings.localhost_node_ports);
            for ip in addresses.matching(&settings.addresses).into_iter().filter(serves) {
                frame.nat.push((SERVICES, format!("{node_ports} -d {ip} -j {NODE_PORTS}")));
            }
        }
    }
    if settings.family == Family::V4 && settings.localhost_node_ports {
        // Serving node ports on 127.0.0.1 lets the neighbours' packets in there; this keeps them out.
        let rule = "-m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP";
        frame.filter.push((KUBELET_FIREWALL, rule.to_owned()));
    }
    if !settings.conntrack_is_liberal {
        // Such packets would get through without being rewritten, and reset the connection.
        frame.filter.push((FORWARD, "-m conntrack --ctstate INVALID -j DROP".to_owned()));
    }
    frame.filter.push((FORWARD, format!("-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {mark}/{mark} -j ACCEPT")));
    frame.filter.push((
        FORWARD,
        "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
    ));
    frame
}
