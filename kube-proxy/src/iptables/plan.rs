//! What is given to `iptables-restore --noflush`: everything, or what a change makes different. Pure.
//!
//! Everything comes in several parts when it is much, because `iptables-restore` of the nf_tables kind compares every new chain
//! with every other of its input. Parts with the chains of Services come first; the last one leads packets to them, at once.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use super::chain::{
    self, Chain, EXTERNAL_SERVICES, FORWARD, KUBELET_FIREWALL, MARK_MASQ, NODE_PORTS, POSTROUTING, PROXY_FIREWALL, SERVICES,
};
use super::rules::{Frame, PortRules, Shared, frame, port_rules};
use crate::ruleset::{Difference, Ruleset};
use crate::settings::Settings;

/// So many chains are made by one run.
const CHAINS_AT_ONCE: usize = 1000;

const FILTER_CHAINS: [&str; 5] = [SERVICES, EXTERNAL_SERVICES, FORWARD, NODE_PORTS, PROXY_FIREWALL];
const NAT_CHAINS: [&str; 2] = [SERVICES, NODE_PORTS];
/// The chains of `nat` that others jump to, and so must be there first.
const NAT_TARGETS: [&str; 2] = [POSTROUTING, MARK_MASQ];

/// A jump from one of the kernel's chains to one of ours.
pub struct Jump {
    pub is_nat: bool,
    pub from: &'static str,
    pub to: &'static str,
    rule: &'static str,
}

const fn jump(is_nat: bool, from: &'static str, to: &'static str, rule: &'static str) -> Jump {
    Jump { is_nat, from, to, rule }
}

const PORTALS_OF_NEW: &str = "-m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" ";
const EXTERNAL_OF_NEW: &str = "-m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" ";
const FIREWALL_OF_NEW: &str = "-m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" ";

/// Each is put before whatever is in its chain, so the last of a chain comes first.
pub const JUMPS: [Jump; 14] = [
    jump(false, "INPUT", EXTERNAL_SERVICES, EXTERNAL_OF_NEW),
    jump(false, "FORWARD", EXTERNAL_SERVICES, EXTERNAL_OF_NEW),
    jump(false, "INPUT", NODE_PORTS, "-m comment --comment \"kubernetes health check service ports\" "),
    jump(false, "FORWARD", SERVICES, PORTALS_OF_NEW),
    jump(false, "OUTPUT", SERVICES, PORTALS_OF_NEW),
    jump(false, "FORWARD", FORWARD, "-m comment --comment \"kubernetes forwarding rules\" "),
    jump(false, "INPUT", PROXY_FIREWALL, FIREWALL_OF_NEW),
    jump(false, "OUTPUT", PROXY_FIREWALL, FIREWALL_OF_NEW),
    jump(false, "FORWARD", PROXY_FIREWALL, FIREWALL_OF_NEW),
    jump(true, "OUTPUT", SERVICES, "-m comment --comment \"kubernetes service portals\" "),
    jump(true, "PREROUTING", SERVICES, "-m comment --comment \"kubernetes service portals\" "),
    jump(true, "POSTROUTING", POSTROUTING, "-m comment --comment \"kubernetes postrouting rules\" "),
    jump(false, "INPUT", KUBELET_FIREWALL, ""),
    jump(false, "OUTPUT", KUBELET_FIREWALL, ""),
];

/// What `iptables-save` says is there already.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The chains of Services in `nat`.
    pub service_chains: HashSet<String>,
    /// Whether each of [`JUMPS`] is there.
    jumps: Vec<bool>,
    canaries: usize,
}

impl Present {
    /// Reads the output of `iptables-save`, of all tables.
    pub fn parse(saved: &str) -> Present {
        let mut present = Present { jumps: vec![false; JUMPS.len()], ..Present::default() };
        let mut table = "";
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or("");
                if table == "nat" && chain::is_of_service(name) {
                    present.service_chains.insert(name.to_owned());
                }
                present.canaries += usize::from(name == chain::CANARY);
            } else if let Some(rule) = line.strip_prefix("-A ")
                && (table == "nat" || table == "filter")
                && !rule.starts_with("KUBE-")
            {
                let (from, rest) = rule.split_once(' ').unwrap_or((rule, ""));
                let to = rest.rsplit(' ').next().unwrap_or("");
                let same = |jump: &Jump| jump.from == from && jump.to == to && jump.is_nat == (table == "nat");
                if let Some(place) = JUMPS.iter().position(same) {
                    present.jumps[place] = true;
                }
            }
        }
        present
    }
}

/// One part of what `iptables-restore` reads.
#[derive(Default)]
struct Part {
    filter_chains: String,
    filter_rules: String,
    nat_chains: String,
    nat_rules: String,
    chains: usize,
}

// Writing to a String cannot fail.
impl Part {
    fn chain(&mut self, is_nat: bool, name: &dyn std::fmt::Display) {
        let out = if is_nat { &mut self.nat_chains } else { &mut self.filter_chains };
        let _ = writeln!(out, ":{name} - [0:0]");
        self.chains += 1;
    }

    fn rule(&mut self, is_nat: bool, verb: &str, chain: &dyn std::fmt::Display, rule: &str) {
        let out = if is_nat { &mut self.nat_rules } else { &mut self.filter_rules };
        let _ = writeln!(out, "{verb} {chain} {rule}");
    }

    fn own_chain(&mut self, chain: &Chain, rules: &[String]) {
        self.chain(true, chain);
        for rule in rules {
            self.rule(true, "-A", chain, rule);
        }
    }

    /// A chain must be empty before it can go, and a line for it empties it.
    fn drop_chain(&mut self, name: &dyn std::fmt::Display) {
        self.chain(true, name);
        let _ = writeln!(self.nat_rules, "-X {name}");
    }

    fn finish(self) -> Option<String> {
        let mut text = String::with_capacity(self.filter_rules.len() + self.nat_chains.len() + self.nat_rules.len() + 64);
        for (table, chains, rules) in [("filter", &self.filter_chains, &self.filter_rules), ("nat", &self.nat_chains, &self.nat_rules)] {
            if !chains.is_empty() || !rules.is_empty() {
                let _ = write!(text, "*{table}\n{chains}{rules}COMMIT\n");
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// How much was written; metrics tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub filter: usize,
    pub nat: usize,
}

/// Parts for `iptables-restore`, in their order.
#[derive(Debug, Default)]
pub struct Plan {
    pub parts: Vec<String>,
    /// The rules there are when it is done; only from [`everything`].
    pub counts: Counts,
}

/// All rules anew, whatever was there.
pub fn everything(ruleset: &Ruleset, settings: &Settings, present: &Present) -> Plan {
    let mut plan = Plan::default();
    let frame = frame(settings);
    let mut stale: HashSet<&str> = present.service_chains.iter().map(String::as_str).collect();
    let mut part = Part::default();
    let is_target = |chain: &str| NAT_TARGETS.contains(&chain);
    NAT_TARGETS.iter().for_each(|chain| part.chain(true, chain));
    for (chain, rule) in frame.nat.iter().filter(|(chain, _)| is_target(chain)) {
        part.rule(true, "-A", chain, rule);
    }
    let mut shared: Vec<(Shared, String)> = Vec::new();
    for port in ruleset.ports() {
        let rules = port_rules(port, settings);
        shared.extend(rules.shared);
        for (chain, rules) in &rules.chains {
            stale.remove(chain.to_string().as_str());
            part.own_chain(chain, rules);
            plan.counts.nat += rules.len();
        }
        if part.chains >= CHAINS_AT_ONCE {
            plan.parts.extend(std::mem::take(&mut part).finish());
        }
    }
    lead(&mut part, &frame, &shared, present, settings);
    plan.counts.nat += frame.nat.len() + shared.iter().filter(|(chain, _)| chain.is_nat()).count();
    plan.counts.filter = frame.filter.len() + shared.iter().filter(|(chain, _)| !chain.is_nat()).count();
    for chain in stale {
        if part.chains >= CHAINS_AT_ONCE {
            plan.parts.extend(std::mem::take(&mut part).finish());
        }
        part.drop_chain(&chain);
    }
    plan.parts.extend(part.finish());
    plan
}

/// The part that leads packets to the chains of Services: all that stands in shared chains.
fn lead(part: &mut Part, frame: &Frame, shared: &[(Shared, String)], present: &Present, settings: &Settings) {
    FILTER_CHAINS.iter().for_each(|chain| part.chain(false, chain));
    NAT_CHAINS.iter().for_each(|chain| part.chain(true, chain));
    // The kubelet writes the same rule into this chain, so that writing it anew does no harm; without a rule it is left alone.
    if frame.filter.iter().any(|(chain, _)| *chain == KUBELET_FIREWALL) {
        part.chain(false, &KUBELET_FIREWALL);
    }
    for (chain, rule) in shared {
        part.rule(chain.is_nat(), "-A", &chain.name(), rule);
    }
    for (chain, rule) in frame.nat.iter().filter(|(chain, _)| !NAT_TARGETS.contains(chain)) {
        part.rule(true, "-A", chain, rule);
    }
    for (chain, rule) in &frame.filter {
        part.rule(false, "-A", chain, rule);
    }
    for (place, jump) in JUMPS.iter().enumerate() {
        let is_needed = jump.to != KUBELET_FIREWALL || settings.localhost_node_ports;
        if is_needed && !present.jumps.get(place).copied().unwrap_or(false) {
            part.rule(jump.is_nat, "-I", &jump.from, &format!("{}-j {}", jump.rule, jump.to));
        }
    }
}

/// Only what differs. It fails as a whole when somebody else has changed the shared chains; then [`everything`] is due.
pub fn changes(differences: &[Difference], settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    let mut part = Part::default();
    for difference in differences {
        let old = sum(&difference.old, settings);
        let new = sum(&difference.new, settings);
        for (chain, rule) in old.shared.iter().filter(|rule| !new.shared.contains(rule)) {
            part.rule(chain.is_nat(), "-D", &chain.name(), rule);
        }
        // At the head, for the rule of node ports is to stay last.
        for (chain, rule) in new.shared.iter().filter(|rule| !old.shared.contains(rule)) {
            part.rule(chain.is_nat(), "-I", &chain.name(), rule);
        }
        let old: BTreeMap<Chain, Vec<String>> = old.chains.into_iter().collect();
        let new: BTreeMap<Chain, Vec<String>> = new.chains.into_iter().collect();
        for (chain, rules) in new.iter().filter(|(chain, rules)| old.get(chain) != Some(rules)) {
            part.own_chain(chain, rules);
        }
        for chain in old.keys().filter(|chain| !new.contains_key(chain)) {
            part.drop_chain(chain);
        }
    }
    plan.parts.extend(part.finish());
    plan
}

fn sum(ports: &[crate::ruleset::ServicePort], settings: &Settings) -> PortRules {
    let mut all = PortRules::default();
    for port in ports {
        let rules = port_rules(port, settings);
        all.shared.extend(rules.shared);
        all.chains.extend(rules.chains);
    }
    all
}

/// Takes away all that is ours, as `iptables-save` shows it. The kubelet's chain stays.
pub fn nothing(saved: &str) -> String {
    let is_ours = |name: &str| {
        chain::is_of_service(name)
            || [SERVICES, EXTERNAL_SERVICES, FORWARD, NODE_PORTS, PROXY_FIREWALL, POSTROUTING, MARK_MASQ, chain::CANARY].contains(&name)
    };
    let mut out = String::new();
    let mut chains: Vec<&str> = Vec::new();
    let mut jumps = String::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix(':') {
            chains.extend(name.split(' ').next().filter(|name| is_ours(name)));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (from, to) = (rule.split(' ').next().unwrap_or(""), rule.rsplit(' ').next().unwrap_or(""));
            if !is_ours(from) && is_ours(to) {
                let _ = writeln!(jumps, "-D {rule}");
            }
        } else if line.starts_with('*') {
            chains.clear();
            jumps.clear();
            let _ = writeln!(out, "{line}");
        } else if line == "COMMIT" {
            for chain in &chains {
                let _ = writeln!(out, ":{chain} - [0:0]");
            }
            out.push_str(&jumps);
            for chain in &chains {
                let _ = writeln!(out, "-X {chain}");
            }
            out.push_str("COMMIT\n");
        }
    }
    out
}
