//! What is in the table whatever Services there are: the chains that the kernel hands packets to, the sets and maps, and the
//! rules that look packets up in them. Pure.

use super::items::of_local_pods;
use super::name::{
    CLUSTER_IPS, CLUSTER_IPS_CHECK, FIREWALL_CHECK, FIREWALL_IPS, HAIRPIN_CONNECTIONS, MASQUERADING, NO_ENDPOINT_NODE_PORTS,
    NO_ENDPOINT_SERVICES, NODE_PORT_ENDPOINTS_CHECK, NODE_PORT_IPS, REJECT, SERVICE_ENDPOINTS_CHECK, SERVICE_IPS, SERVICE_NODE_PORTS,
    SERVICES,
};
use crate::node::NodePortAddresses;
use crate::settings::Settings;
use netfilter::batch::{Batch, Element, Hook};
use netfilter::expression::Verdict;
use netfilter::key::{Key, Type};
use netfilter::rule::Rule;

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const DNAT_PRIORITY: i32 = -100;
const SNAT_PRIORITY: i32 = 100;

const fn hook(kind: &'static str, number: u32, priority: i32) -> Hook {
    Hook { kind, number, priority }
}

/// The chains that the kernel hands packets to.
const BASE_CHAINS: [(&str, Hook); 8] = [
    // These see destinations before they are rewritten.
    ("filter-prerouting-pre-dnat", hook("filter", PREROUTING, DNAT_PRIORITY - 10)),
    ("filter-output-pre-dnat", hook("filter", OUTPUT, DNAT_PRIORITY - 10)),
    ("filter-input", hook("filter", INPUT, 0)),
    ("filter-forward", hook("filter", FORWARD, 0)),
    ("filter-output", hook("filter", OUTPUT, 0)),
    ("nat-prerouting", hook("nat", PREROUTING, DNAT_PRIORITY)),
    ("nat-output", hook("nat", OUTPUT, DNAT_PRIORITY)),
    ("nat-postrouting", hook("nat", POSTROUTING, SNAT_PRIORITY)),
];

const CHAINS: [&str; 7] =
    [SERVICES, SERVICE_ENDPOINTS_CHECK, NODE_PORT_ENDPOINTS_CHECK, CLUSTER_IPS_CHECK, FIREWALL_CHECK, MASQUERADING, REJECT];

/// From where to where, and whether only for new connections.
const JUMPS: [(&str, &str, bool); 11] = [
    ("filter-input", NODE_PORT_ENDPOINTS_CHECK, true),
    ("filter-input", SERVICE_ENDPOINTS_CHECK, true),
    ("filter-forward", SERVICE_ENDPOINTS_CHECK, true),
    ("filter-output", SERVICE_ENDPOINTS_CHECK, true),
    ("filter-prerouting-pre-dnat", FIREWALL_CHECK, true),
    ("filter-output-pre-dnat", FIREWALL_CHECK, true),
    ("nat-output", SERVICES, false),
    ("nat-prerouting", SERVICES, false),
    ("nat-postrouting", MASQUERADING, false),
    ("filter-forward", CLUSTER_IPS_CHECK, true),
    ("filter-output", CLUSTER_IPS_CHECK, true),
];

/// Writes all of it into a table that is empty.
pub fn write(batch: &mut Batch, settings: &Settings) {
    let family = settings.family;
    for (name, hook) in BASE_CHAINS {
        batch.add_chain(name, Some(hook));
    }
    CHAINS.iter().for_each(|name| batch.add_chain(name, None));
    batch.add_set(CLUSTER_IPS, Type::address(family));
    batch.add_set(HAIRPIN_CONNECTIONS, Type::connection(family));
    for map in [SERVICE_IPS, NO_ENDPOINT_SERVICES, FIREWALL_IPS] {
        batch.add_verdict_map(map, Type::destination(family));
    }
    for map in [SERVICE_NODE_PORTS, NO_ENDPOINT_NODE_PORTS] {
        batch.add_verdict_map(map, Type::port());
    }
    if settings.node_port_addresses != NodePortAddresses::All {
        batch.add_set(NODE_PORT_IPS, Type::address(family));
        let serving = settings.node_port_addresses.matching(&settings.addresses).into_iter().filter(|ip| !ip.is_loopback());
        let elements: Vec<Element> = serving.map(|ip| Element { key: Key::default().address(ip), value: None }).collect();
        batch.add_elements(NODE_PORT_IPS, &elements);
    }
    for (from, to, only_new) in JUMPS {
        let rule = if only_new { Rule::new().of_new_connection() } else { Rule::new() };
        batch.add_rule(from, &rule.verdict(Verdict::Jump(to.to_owned())));
    }
    for (chain, rule) in rules(settings) {
        batch.add_rule(chain, &rule);
    }
}

/// To the addresses on which node ports are served.
fn on_node_ports(rule: Rule, settings: &Settings) -> Rule {
    match settings.node_port_addresses {
        NodePortAddresses::All => rule.destination_is(settings.family.loopback(), false),
        NodePortAddresses::In(_) => rule.destination_in(settings.family, NODE_PORT_IPS),
    }
}

fn rules(settings: &Settings) -> Vec<(&'static str, Rule)> {
    let (family, mark) = (settings.family, settings.masquerade_mark);
    let mut rules = vec![
        (MASQUERADING, Rule::new().has_mark(mark).flip_mark(mark).masquerade()),
        (MASQUERADING, Rule::new().was_dnat().connection_in(family, HAIRPIN_CONNECTIONS).masquerade()),
        (
            CLUSTER_IPS_CHECK,
            Rule::new().destination_in(family, CLUSTER_IPS).reject(family).comment("Reject traffic to invalid ports of ClusterIPs"),
        ),
    ];
    for cidr in &settings.service_cidrs {
        let rule = Rule::new().destination_is(*cidr, true).verdict(Verdict::Drop);
        rules.push((CLUSTER_IPS_CHECK, rule.comment("Drop traffic to unallocated ClusterIPs")));
    }
    rules.push((REJECT, Rule::new().reject(family)));
    rules.push((SERVICE_ENDPOINTS_CHECK, Rule::new().destination_map(family, NO_ENDPOINT_SERVICES)));
    rules.push((NODE_PORT_ENDPOINTS_CHECK, on_node_ports(Rule::new(), settings).port_map(NO_ENDPOINT_NODE_PORTS)));
    rules.push((FIREWALL_CHECK, Rule::new().destination_map(family, FIREWALL_IPS)));
    let to_cluster_ips = || Rule::new().destination_in(family, CLUSTER_IPS);
    if settings.masquerade_all {
        rules.push((SERVICES, to_cluster_ips().set_mark(mark).comment("masquerade all clusterIP traffic")));
    } else if let Some(rule) = of_local_pods(to_cluster_ips(), &settings.local, false) {
        rules.push((SERVICES, rule.set_mark(mark).comment("masquerade clusterIP traffic from outside cluster")));
    }
    rules.push((SERVICES, Rule::new().destination_map(family, SERVICE_IPS)));
    let to_this_host = match settings.node_port_addresses {
        NodePortAddresses::All => Rule::new().destination_is_this_host(),
        NodePortAddresses::In(_) => Rule::new(),
    };
    rules.push((SERVICES, on_node_ports(to_this_host, settings).port_map(SERVICE_NODE_PORTS)));
    rules
}
