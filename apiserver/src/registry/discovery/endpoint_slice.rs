//! EndpointSlices: some of the endpoints behind a service, of one address type.

use std::borrow::Cow;
use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    Ip, get_warnings_for_ip, is_dns1123_label, is_fully_qualified_domain_name, is_qualified_name, is_valid_ip,
    is_valid_ip_for_legacy_field, is_valid_label_value, name_is_dns_subdomain, validate_labels,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};
use serde_json::Value;

use crate::registry::core::endpoints::validate_endpoint_ip;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{generation, set_generation};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy, cells};

pub static RESOURCE: Definition = Definition {
    group: "discovery.k8s.io",
    version: "v1",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const SCHEMA: &str = "io.k8s.api.discovery.v1.EndpointSlice";

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("AddressType", Description::Field(SCHEMA, "addressType")),
    text("Ports", Description::Field(SCHEMA, "ports")),
    text("Endpoints", Description::Field(SCHEMA, "endpoints")),
    printer::AGE,
];

const CELL_ITEMS: usize = 3;

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports = list_at(object, "/ports").iter().map(|port| match (at(port, "/port").as_i64(), at(port, "/name").as_str()) {
        (Some(number), _) => Cow::Owned(number.to_string()),
        (None, Some(name)) => Cow::Borrowed(name),
        (None, None) => Cow::Borrowed("*"),
    });
    let addresses = list_at(object, "/endpoints").iter().flat_map(|endpoint| list_at(endpoint, "/addresses"));
    vec![
        printer::name(object),
        str_at(object, "/addressType").into(),
        cells::first_few(ports, CELL_ITEMS).into(),
        cells::first_few(addresses.map(|a| Cow::Borrowed(a.as_str().unwrap_or(""))), CELL_ITEMS).into(),
        printer::object_age(object, now),
    ]
}

const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_ENDPOINTS: usize = 1000;
const MAX_ZONE_HINTS: usize = 8;
const MAX_NODE_HINTS: usize = 8;

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
        drop_topology(new, &Value::Null);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if str_at(new, "/addressType") == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        warnings.extend(address_warnings(new));
        warnings
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        // Labels say which service the slice belongs to, so changing them is a new generation.
        let changed = ["/addressType", "/endpoints", "/ports", "/metadata/labels"].iter().any(|p| at(new, p) != at(old, p));
        set_generation(new, generation(old) + i64::from(changed));
        drop_topology(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        address_warnings(new)
    }
}

const HOST_NAME_LABEL: &str = "kubernetes.io/hostname";

/// Topology labels are of v1beta1: changed endpoints lose theirs, but for a node name that older endpoints had only there.
fn drop_topology(new: &mut Value, old: &Value) {
    if at(new, "/endpoints") == at(old, "/endpoints") {
        return;
    }
    let host = |endpoint: &Value| {
        let name = endpoint.get("deprecatedTopology").and_then(|labels| labels.get(HOST_NAME_LABEL)).and_then(Value::as_str);
        name.map(str::to_owned)
    };
    let known: Vec<String> = list_at(old, "/endpoints").iter().filter_map(&host).collect();
    for endpoint in new.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = host(endpoint).filter(|name| known.contains(name) && name_is_dns_subdomain(name, false).is_empty());
        let Some(fields) = endpoint.as_object_mut() else { continue };
        fields.shift_remove("deprecatedTopology");
        if let Some(name) = name
            && fields.get("nodeName").is_none_or(Value::is_null)
        {
            fields.insert("nodeName".to_owned(), name.into());
        }
    }
}

/// Addresses in unusual spellings, unless a controller of the system wrote them.
fn address_warnings(object: &Value) -> Vec<String> {
    let manager = at(object, "/metadata/labels").get("endpointslice.kubernetes.io/managed-by").and_then(Value::as_str);
    if let Some("endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io") = manager {
        return Vec::new();
    }
    let root = Path::new("endpoints");
    let mut warnings = Vec::new();
    for (i, endpoint) in list_at(object, "/endpoints").iter().enumerate() {
        for (j, address) in list_at(endpoint, "/addresses").iter().enumerate() {
            warnings.extend(get_warnings_for_ip(&root.index(i).child("addresses").index(j), address.as_str().unwrap_or("")));
        }
    }
    warnings
}

fn validate(object: &Value, old: Option<&Value>) -> ErrorList {
    let slice: EndpointSlice = view(object);
    let mut declared = Vec::new();
    let mut errors = validate_address_type(&slice.address_type, old.map(|o| str_at(o, "/addressType")), &mut declared);
    errors.extend(validate_ports(slice.ports.as_deref().unwrap_or_default(), &Path::new("ports")));
    // Older versions took what is refused today: endpoints that do not change are left alone.
    if old.is_none_or(|o| at(o, "/endpoints") != at(object, "/endpoints")) {
        let path = Path::new("endpoints");
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        errors.extend(validate_endpoints(endpoints, &slice.address_type, &path));
        for (i, endpoint) in endpoints.iter().enumerate() {
            declared.extend(validate_address_count(endpoint, &path.index(i)));
        }
    }
    errors.extend(declared);
    errors
}

/// The declared rules (required, immutable, one of) stand in for the written ones wherever they find something.
fn validate_address_type(address_type: &str, old: Option<&str>, declared: &mut ErrorList) -> ErrorList {
    const TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
    let path = Path::new("addressType");
    let problem = match address_type {
        "" => Some(Error::required(&path, "")),
        known if TYPES.contains(&known) => None,
        other => Some(Error::not_supported(&path, other, &TYPES)),
    };
    match old {
        Some(old) if old == address_type => problem.into_iter().collect(),
        Some(_) => {
            // Being required and immutable are checked first, and end the declared rules.
            let immutable = Error::invalid(&path, Value::Null, "field is immutable");
            if address_type.is_empty() {
                declared.extend(problem);
                declared.push(immutable);
                return Vec::new();
            }
            declared.push(immutable);
            problem.into_iter().collect()
        }
        None => {
            declared.extend(problem);
            Vec::new()
        }
    }
}

fn validate_address_count(endpoint: &Endpoint, path: &Path<'_>) -> Option<Error> {
    match endpoint.addresses.len() {
        0 => Some(Error::required(&path.child("addresses"), "")),
        count if count > MAX_ADDRESSES => Some(Error::too_many(&path.child("addresses"), count, MAX_ADDRESSES)),
        _ => None,
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path<'_>) -> ErrorList {
    if ports.len() > MAX_PORTS {
        return vec![Error::too_many(path, ports.len(), MAX_PORTS)];
    }
    let mut errors = Vec::new();
    let mut names: Vec<&str> = Vec::with_capacity(ports.len());
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.as_deref().unwrap_or("");
        let name_path = path.child("name");
        if !name.is_empty() {
            errors.extend(is_dns1123_label(name).into_iter().map(|message| Error::invalid(&name_path, name, message)));
        }
        if names.contains(&name) {
            errors.push(Error::duplicate(&name_path, name));
        } else {
            names.push(name);
        }
        match port.protocol.as_deref() {
            None => errors.push(Error::required(&path.child("protocol"), "")),
            Some("TCP" | "UDP" | "SCTP") => {}
            Some(other) => errors.push(Error::not_supported(&path.child("protocol"), other, &["SCTP", "TCP", "UDP"])),
        }
        if let Some(protocol) = port.app_protocol.as_deref() {
            let problems = is_qualified_name(protocol);
            errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("appProtocol"), protocol, message)));
        }
    }
    errors
}

fn validate_endpoints(endpoints: &[Endpoint], address_type: &str, path: &Path<'_>) -> ErrorList {
    if endpoints.len() > MAX_ENDPOINTS {
        return vec![Error::too_many(path, endpoints.len(), MAX_ENDPOINTS)];
    }
    endpoints.iter().enumerate().flat_map(|(i, endpoint)| validate_endpoint(endpoint, address_type, &path.index(i))).collect()
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path<'_>) -> ErrorList {
    let addresses = path.child("addresses");
    let mut errors = Vec::new();
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let one = addresses.index(i);
        let (problems, family) = match address_type {
            "IPv4" => (is_valid_ip_for_legacy_field(&one, address, true, &[]), "IPv4"),
            "IPv6" => (is_valid_ip(&one, address), "IPv6"),
            "FQDN" => {
                errors.extend(is_fully_qualified_domain_name(&one, address));
                continue;
            }
            _ => continue,
        };
        if !problems.is_empty() {
            errors.extend(problems);
            continue;
        }
        if Ip::parse_sloppy(address).is_some_and(|ip| ip.is_v6() != (family == "IPv6")) {
            errors.push(Error::invalid(&addresses, address.as_str(), format!("must be an {family} address")));
        }
        errors.extend(validate_endpoint_ip(address, &one));
    }
    if let Some(node) = endpoint.node_name.as_deref() {
        let problems = name_is_dns_subdomain(node, false);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("nodeName"), node, message)));
    }
    if let Some(labels) = &endpoint.deprecated_topology {
        errors.extend(validate_topology(labels, &path.child("deprecatedTopology")));
    }
    if let Some(host) = endpoint.hostname.as_deref() {
        let problems = is_dns1123_label(host);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("hostname"), host, message)));
    }
    if let Some(hints) = &endpoint.hints {
        errors.extend(validate_hints(hints, &path.child("hints")));
    }
    errors
}

fn validate_topology(labels: &BTreeMap<String, String>, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if labels.len() > MAX_TOPOLOGY_LABELS {
        errors.push(Error::too_many(path, labels.len(), MAX_TOPOLOGY_LABELS));
    }
    errors.extend(validate_labels(labels, path));
    errors
}

/// A list of names that are hinted at: bounded, unique, each well-formed. `false` ends the checks of the hints.
fn validate_hinted(names: &[&str], max: usize, check: fn(&str) -> Vec<String>, path: &Path<'_>, errors: &mut ErrorList) -> bool {
    if names.len() > max {
        errors.push(Error::too_many(path, names.len(), max));
        return false;
    }
    for (i, name) in names.iter().enumerate() {
        let item = path.index(i);
        let item = item.child("name");
        if names[..i].contains(name) {
            errors.push(Error::duplicate(&item, *name));
        }
        errors.extend(check(name).into_iter().map(|message| Error::invalid(&item, *name, message)));
    }
    true
}

fn validate_hints(hints: &EndpointHints, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
    if !validate_hinted(&zones, MAX_ZONE_HINTS, is_valid_label_value, &path.child("forZones"), &mut errors) {
        return errors;
    }
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
    validate_hinted(&nodes, MAX_NODE_HINTS, |name| name_is_dns_subdomain(name, false), &path.child("forNodes"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(new: Value, old: Option<Value>) -> Vec<String> {
        validate(&new, old.as_ref()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_of_the_family_of_the_slice() {
        let slice = |kind: &str, address: &str| json!({"addressType": kind, "endpoints": [{"addresses": [address]}]});
        assert!(check(slice("IPv4", "10.0.0.1"), None).is_empty());
        assert!(check(slice("FQDN", "a.example.com"), None).is_empty());
        assert_eq!(check(slice("IPv4", "fd00::1"), None), ["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]);
        assert_eq!(check(slice("IPv4", "127.0.0.1"), None).len(), 1);
    }

    #[test]
    fn declared_rules_come_last() {
        assert_eq!(
            check(json!({"ports": [{"name": "a"}, {"name": "a", "protocol": "X"}], "endpoints": [{"addresses": []}]}), None),
            [
                "ports[0].protocol: Required value",
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "addressType: Required value",
                "endpoints[0].addresses: Required value"
            ]
        );
    }

    #[test]
    fn the_address_type_never_changes() {
        let new = json!({"addressType": "IPv6"});
        assert_eq!(check(new, Some(json!({"addressType": "IPv4"}))), ["addressType: Invalid value: null: field is immutable"]);
    }

    #[test]
    fn changed_endpoints_lose_their_topology_but_keep_a_known_node() {
        let topology = json!({"kubernetes.io/hostname": "n1"});
        let old = json!({"endpoints": [{"addresses": ["a"], "deprecatedTopology": topology}]});
        let mut new = json!({"endpoints": [{"addresses": ["b"], "deprecatedTopology": topology},
            {"addresses": ["c"], "deprecatedTopology": {"kubernetes.io/hostname": "n2"}}]});
        drop_topology(&mut new, &old);
        assert_eq!(new, json!({"endpoints": [{"addresses": ["b"], "nodeName": "n1"}, {"addresses": ["c"]}]}));
    }
}
