//! core/v1 Endpoints.

use std::net::IpAddr;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    Ip, get_warnings_for_ip, is_dns1123_label, is_qualified_name, is_valid_ip_for_legacy_field, is_valid_port_num, name_is_dns_subdomain,
};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use serde_json::{Map, Value};

use crate::registry::defaulting::set_if_empty;
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

/// How many endpoints the table shows.
const SHOWN: usize = 3;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "endpoints",
    singular: "endpoints",
    kind: "Endpoints",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["ep"],
    categories: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    name: name_is_dns_subdomain,
    strategy: &EndpointsStrategy,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[NAME, printer::text("Endpoints", Description::Field("io.k8s.api.core.v1.Endpoints", "subsets")), AGE],
        cells: |object, now| vec![printer::name(object), endpoints_text(&view(object)).into(), printer::object_age(object, now)],
    },
    reset_fields: &[],
};

/// The first few `address:port`, and how many more there are.
fn endpoints_text(endpoints: &Endpoints) -> String {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let (mut shown, mut count) = (Vec::new(), 0usize);
    let mut list = |address: &EndpointAddress, port: Option<i32>| {
        count += 1;
        if shown.len() < SHOWN {
            shown.push(match port {
                None => address.ip.clone(),
                Some(port) if address.ip.contains(':') => format!("[{}]:{port}", address.ip),
                Some(port) => format!("{}:{port}", address.ip),
            });
        }
    };
    for subset in subsets {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            addresses.iter().for_each(|address| list(address, None));
        }
        for port in ports {
            addresses.iter().for_each(|address| list(address, Some(port.port)));
        }
    }
    let text = shown.join(",");
    if count > SHOWN { format!("{text} + {} more...", count - SHOWN) } else { text }
}

/// A port without a protocol speaks TCP.
pub fn default_port(port: &mut Map<String, Value>) {
    set_if_empty(port, "protocol", "TCP");
}

struct EndpointsStrategy;

impl UpdateStrategy for EndpointsStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    /// Subsets that were refused today but accepted once may stay as they are.
    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (Endpoints, Endpoints) = (view(new), view(old));
        if new.subsets == old.subsets { ErrorList::new() } else { validate(&new) }
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

impl Strategy for EndpointsStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(&view(new))
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn warnings(endpoints: &Endpoints) -> Vec<String> {
    if endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == "endpoint-controller") {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let path = Path::new("subsets");
    for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = path.index(i);
        for (field, addresses) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
            for (j, address) in addresses.iter().flatten().enumerate() {
                warnings.extend(get_warnings_for_ip(&path.child(field).index(j).child("ip"), &address.ip));
            }
        }
    }
    warnings
}

fn validate(endpoints: &Endpoints) -> ErrorList {
    let path = Path::new("subsets");
    let subsets = endpoints.subsets.iter().flatten().enumerate();
    subsets.flat_map(|(i, subset)| validate_subset(subset, &path.index(i))).collect()
}

fn validate_subset(subset: &EndpointSubset, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (ready, not_ready) = (subset.addresses.as_deref().unwrap_or_default(), subset.not_ready_addresses.as_deref().unwrap_or_default());
    if ready.is_empty() && not_ready.is_empty() {
        errors.push(Error::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        let path = path.child(field);
        errors.extend(addresses.iter().enumerate().flat_map(|(i, address)| validate_address(address, &path.index(i))));
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let path = path.child("ports");
    errors.extend(ports.iter().enumerate().flat_map(|(i, port)| validate_port(port, ports.len() > 1, &path.index(i))));
    errors
}

fn validate_address(address: &EndpointAddress, path: &Path<'_>) -> ErrorList {
    let ip = path.child("ip");
    let mut errors = is_valid_ip_for_legacy_field(&ip, &address.ip, true, &[]);
    let mut check = |field: &str, value: &str, messages: Vec<String>| {
        errors.extend(messages.into_iter().map(|message| Error::invalid(&path.child(field), value, message)));
    };
    if let Some(hostname) = address.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        check("hostname", hostname, is_dns1123_label(hostname));
    }
    if let Some(node) = &address.node_name {
        check("nodeName", node, name_is_dns_subdomain(node, false));
    }
    errors.extend(validate_endpoint_ip(&address.ip, &ip));
    errors
}

fn validate_port(port: &EndpointPort, needs_name: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let name = port.name.as_deref().unwrap_or("");
    if !name.is_empty() {
        errors.extend(is_dns1123_label(name).into_iter().map(|message| Error::invalid(&path.child("name"), name, message)));
    } else if needs_name {
        errors.push(Error::required(&path.child("name"), ""));
    }
    errors.extend(is_valid_port_num(port.port.into()).into_iter().map(|message| Error::invalid(&path.child("port"), port.port, message)));
    errors.extend(validate_protocol(port.protocol.as_deref().unwrap_or(""), &path.child("protocol")));
    if let Some(protocol) = &port.app_protocol {
        let path = path.child("appProtocol");
        errors.extend(is_qualified_name(protocol).into_iter().map(|message| Error::invalid(&path, protocol.as_str(), message)));
    }
    errors
}

/// A transport protocol that ports can have.
pub fn validate_protocol(protocol: &str, path: &Path<'_>) -> Option<Error> {
    match protocol {
        "" => Some(Error::required(path, "")),
        "TCP" | "UDP" | "SCTP" => None,
        other => Some(Error::not_supported(path, other, &["SCTP", "TCP", "UDP"])),
    }
}

/// An address that traffic can be sent to: not unspecified, loopback or link-local.
pub fn validate_endpoint_ip(text: &str, path: &Path<'_>) -> ErrorList {
    let parsed = Ip::parse_sloppy(text).and_then(|ip| ip.to_string().parse::<IpAddr>().ok());
    let Some(ip) = parsed else {
        return vec![Error::invalid(path, text, "must be a valid IP address")];
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut errors = ErrorList::new();
    let mut refuse = |bad: bool, why: &str| {
        if bad {
            errors.push(Error::invalid(path, text, why));
        }
    };
    refuse(ip.is_unspecified(), &format!("may not be unspecified ({text})"));
    refuse(ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    refuse(link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    refuse(link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn endpoint_addresses_must_be_reachable() {
        let path = Path::new("ip");
        for (text, errors) in [
            ("1.2.3.4", 0),
            ("127.0.0.1", 1),
            ("169.254.1.1", 1),
            ("224.0.0.9", 1),
            ("0.0.0.0", 1),
            ("ff02::1", 1),
            ("x", 1),
            ("fd00::1", 0),
        ] {
            assert_eq!(validate_endpoint_ip(text, &path).len(), errors, "{text}");
        }
    }

    #[test]
    fn subsets_are_checked_field_by_field() {
        let bad = json!({"metadata": {}, "subsets": [{}, {"addresses": [{"ip": "127.0.0.1", "nodeName": "B"}], "ports": [{"port": 0}, {"port": 80, "name": "a", "protocol": "X"}]}]});
        let text = messages(&EndpointsStrategy.validate(&cx(), &bad));
        let starts = [
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            "subsets[1].addresses[0].nodeName: Invalid value: \"B\"",
            "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            "subsets[1].ports[0].name: Required value",
            "subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[1].ports[0].protocol: Required value",
            "subsets[1].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ];
        assert_eq!(text.len(), starts.len(), "{text:?}");
        for (got, want) in text.iter().zip(starts) {
            assert!(got.starts_with(want), "{got} / {want}");
        }
        assert!(EndpointsStrategy.validate_update(&cx(), &bad, &bad).is_empty());
    }

    #[test]
    fn the_table_shows_three_endpoints() {
        let value = json!({"metadata": {}, "subsets": [{"addresses": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.5"}], "ports": [{"port": 80, "name": "w"}, {"port": 81, "name": "x"}]}]});
        assert_eq!(endpoints_text(&view(&value)), "1.2.3.4:80,1.2.3.5:80,1.2.3.4:81 + 1 more...");
        assert_eq!(endpoints_text(&view(&json!({"metadata": {}}))), "<none>");
    }
}
