//! NetworkPolicies: which traffic pods accept and send.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::format_label_selector;
use apimachinery::validation::{
    Cidr, LabelSelectorOptions, get_warnings_for_cidr, is_valid_cidr_for_legacy_field, is_valid_port_name, is_valid_port_num,
    name_is_dns_subdomain, validate_label_selector,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::registry::printer::{self, text};
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "networking.k8s.io",
    version: "v1",
    plural: "networkpolicies",
    singular: "networkpolicy",
    kind: "NetworkPolicy",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["netpol"],
    categories: &[],
    schema: "io.k8s.api.networking.v1.NetworkPolicy",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] =
    &[printer::NAME, text("Pod-Selector", Description::Field("io.k8s.api.networking.v1.NetworkPolicySpec", "podSelector")), printer::AGE];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let everything = Value::Object(serde_json::Map::new());
    let selector = object.pointer("/spec/podSelector").unwrap_or(&everything);
    vec![printer::name(object), format_label_selector(Some(selector)).into(), printer::object_age(object, now)]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(&spec_of(new), &Tolerated::default())
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(&spec_of(new))
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let before = spec_of(old);
        let selector = before.pod_selector.clone().unwrap_or_default();
        let bad_selector = !validate_label_selector(&selector, LabelSelectorOptions::default(), &Path::ROOT).is_empty();
        let mut cidrs = Vec::new();
        for (_, rule) in rules(&before) {
            for block in rule.peers.iter().filter_map(|peer| peer.ip_block.as_ref()) {
                cidrs.push(block.cidr.as_str());
                cidrs.extend(block.except.iter().flatten().map(String::as_str));
            }
        }
        let spec = spec_of(new);
        let tolerated = Tolerated {
            selectors: LabelSelectorOptions { allow_invalid_label_value_in_selector: bad_selector, ..LabelSelectorOptions::default() },
            cidrs,
            ingress: spec.ingress == before.ingress,
            egress: spec.egress == before.egress,
        };
        validate_spec(&spec, &tolerated)
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(&spec_of(new))
    }
}

/// What of a stored object is left alone, because older versions took it.
#[derive(Default)]
struct Tolerated<'a> {
    selectors: LabelSelectorOptions,
    cidrs: Vec<&'a str>,
    /// To rules that did not change, the declared checks are not applied again.
    ingress: bool,
    egress: bool,
}

fn spec_of(object: &Value) -> NetworkPolicySpec {
    let policy: NetworkPolicy = view(object);
    policy.spec.unwrap_or_default()
}

/// A rule of either direction.
struct Rule<'a> {
    ports: &'a [NetworkPolicyPort],
    peers: &'a [NetworkPolicyPeer],
    /// What the field of the peers is called.
    peers_field: &'static str,
}

/// The rules, with the name of the list and the place in it.
fn rules(spec: &NetworkPolicySpec) -> Vec<((&'static str, usize), Rule<'_>)> {
    let ingress = spec.ingress.iter().flatten().enumerate().map(|(i, rule)| {
        let (ports, peers) = (rule.ports.as_deref().unwrap_or_default(), rule.from.as_deref().unwrap_or_default());
        (("ingress", i), Rule { ports, peers, peers_field: "from" })
    });
    let egress = spec.egress.iter().flatten().enumerate().map(|(i, rule)| {
        let (ports, peers) = (rule.ports.as_deref().unwrap_or_default(), rule.to.as_deref().unwrap_or_default());
        (("egress", i), Rule { ports, peers, peers_field: "to" })
    });
    ingress.chain(egress).collect()
}

fn warnings(spec: &NetworkPolicySpec) -> Vec<String> {
    let mut warnings = Vec::new();
    let root = Path::new("spec");
    for ((list, i), rule) in rules(spec) {
        let list = root.child(list);
        let rule_path = list.index(i);
        let peers = rule_path.child(rule.peers_field);
        for (j, block) in rule.peers.iter().enumerate().filter_map(|(j, peer)| Some((j, peer.ip_block.as_ref()?))) {
            let peer = peers.index(j);
            let path = peer.child("ipBlock");
            warnings.extend(get_warnings_for_cidr(&path.child("cidr"), &block.cidr));
            for (k, except) in block.except.iter().flatten().enumerate() {
                warnings.extend(get_warnings_for_cidr(&path.child("except").index(k), except));
            }
        }
    }
    warnings
}

fn validate_spec(spec: &NetworkPolicySpec, tolerated: &Tolerated<'_>) -> ErrorList {
    let path = Path::new("spec");
    let selector = spec.pod_selector.clone().unwrap_or_default();
    let mut errors = validate_label_selector(&selector, tolerated.selectors, &path.child("podSelector"));
    let mut declared = Vec::new();
    for ((list, i), rule) in rules(spec) {
        let unchanged = if list == "ingress" { tolerated.ingress } else { tolerated.egress };
        let mut required = Vec::new();
        let list = path.child(list);
        let rule_path = list.index(i);
        let ports = rule_path.child("ports");
        for (j, port) in rule.ports.iter().enumerate() {
            errors.extend(validate_port(port, &ports.index(j)));
        }
        let peers = rule_path.child(rule.peers_field);
        for (j, peer) in rule.peers.iter().enumerate() {
            errors.extend(validate_peer(peer, tolerated, &peers.index(j), &mut required));
        }
        if unchanged { &mut errors } else { &mut declared }.append(&mut required);
    }
    errors.extend(validate_types(spec.policy_types.as_deref().unwrap_or_default(), &path.child("policyTypes")));
    errors.extend(declared);
    errors
}

fn validate_types(types: &[String], path: &Path<'_>) -> ErrorList {
    const TYPES: [&str; 2] = ["Ingress", "Egress"];
    if types.len() > TYPES.len() {
        return vec![Error::invalid(path, json!(types), "may not specify more than two policyTypes")];
    }
    let unknown = types.iter().enumerate().filter(|(_, kind)| !TYPES.contains(&kind.as_str()));
    unknown.map(|(i, kind)| Error::not_supported(&path.index(i), kind.as_str(), &TYPES)).collect()
}

fn validate_port(port: &NetworkPolicyPort, path: &Path<'_>) -> ErrorList {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let mut errors = Vec::new();
    if let Some(protocol) = port.protocol.as_deref()
        && !PROTOCOLS.contains(&protocol)
    {
        errors.push(Error::not_supported(&path.child("protocol"), protocol, &PROTOCOLS));
    }
    let (port_path, end_path) = (path.child("port"), path.child("endPort"));
    match (&port.port, port.end_port) {
        (None, None) => {}
        (None, Some(end)) => errors.push(Error::invalid(&end_path, end, "may not be specified when `port` is not specified")),
        (Some(IntOrString::Int(number)), end) => {
            errors.extend(is_valid_port_num(i64::from(*number)).into_iter().map(|m| Error::invalid(&port_path, *number, m)));
            if let Some(end) = end {
                if end < *number {
                    errors.push(Error::invalid(&end_path, end, "must be greater than or equal to `port`"));
                }
                errors.extend(is_valid_port_num(i64::from(end)).into_iter().map(|m| Error::invalid(&end_path, end, m)));
            }
        }
        (Some(IntOrString::String(name)), end) => {
            if let Some(end) = end {
                errors.push(Error::invalid(&end_path, end, "may not be specified when `port` is non-numeric"));
            }
            errors.extend(is_valid_port_name(name).into_iter().map(|m| Error::invalid(&port_path, name.as_str(), m)));
        }
    }
    errors
}

fn validate_peer(peer: &NetworkPolicyPeer, tolerated: &Tolerated<'_>, path: &Path<'_>, required: &mut ErrorList) -> ErrorList {
    let mut errors = Vec::new();
    for (field, selector) in [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)] {
        if let Some(selector) = selector {
            errors.extend(validate_label_selector(selector, tolerated.selectors, &path.child(field)));
        }
    }
    if let Some(block) = &peer.ip_block {
        errors.extend(validate_ip_block(block, tolerated, &path.child("ipBlock"), required));
    }
    let selectors = usize::from(peer.pod_selector.is_some()) + usize::from(peer.namespace_selector.is_some());
    match (selectors, peer.ip_block.is_some()) {
        (0, false) => errors.push(Error::required(path, "must specify a peer")),
        (1.., true) => errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer")),
        _ => {}
    }
    errors
}

fn validate_ip_block(block: &IPBlock, tolerated: &Tolerated<'_>, path: &Path<'_>, required: &mut ErrorList) -> ErrorList {
    let cidr_path = path.child("cidr");
    if block.cidr.is_empty() {
        required.push(Error::required(&cidr_path, ""));
        return Vec::new();
    }
    let mut errors = is_valid_cidr_for_legacy_field(&cidr_path, &block.cidr, true, &tolerated.cidrs);
    let Some(cidr) = Cidr::parse_sloppy(&block.cidr) else { return errors };
    let excepts = path.child("except");
    for (i, except) in block.except.iter().flatten().enumerate() {
        let except_path = excepts.index(i);
        errors.extend(is_valid_cidr_for_legacy_field(&except_path, except, true, &tolerated.cidrs));
        let Some(inner) = Cidr::parse_sloppy(except) else { continue };
        if !cidr.contains(inner.network) || cidr.ones >= inner.ones {
            errors.push(Error::invalid(&except_path, except.as_str(), "must be a strict subset of `cidr`"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value) -> Vec<String> {
        validate_spec(&view(&spec), &Tolerated::default()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_peer_is_a_block_or_selected() {
        assert!(check(json!({"ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]}]})).is_empty());
        assert_eq!(check(json!({"egress": [{"to": [{}]}]})), ["spec.egress[0].to[0]: Required value: must specify a peer"]);
        assert_eq!(
            check(json!({"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": ""}}]}]})),
            [
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
                "spec.ingress[0].from[0].ipBlock.cidr: Required value"
            ]
        );
    }

    #[test]
    fn exceptions_lie_strictly_within_the_block() {
        let except = |cidr: &str| check(json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [cidr]}}]}]}));
        assert!(except("10.1.0.0/16").is_empty());
        for outside in ["10.0.0.0/8", "11.0.0.0/16"] {
            assert_eq!(
                except(outside),
                [format!("spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"{outside}\": must be a strict subset of `cidr`")]
            );
        }
    }

    #[test]
    fn port_ranges_are_of_numbers_and_ascend() {
        let port = |port: Value| check(json!({"ingress": [{"ports": [port]}]}));
        assert!(port(json!({"port": 1, "endPort": 2})).is_empty());
        assert_eq!(
            port(json!({"port": 3, "endPort": 2})),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 2: must be greater than or equal to `port`"]
        );
        assert_eq!(
            port(json!({"port": "http", "endPort": 2})),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 2: may not be specified when `port` is non-numeric"]
        );
        assert_eq!(
            port(json!({"endPort": 2})),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 2: may not be specified when `port` is not specified"]
        );
    }
}
