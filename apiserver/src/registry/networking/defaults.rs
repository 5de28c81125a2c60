//! Defaults of networking.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value, json};

use crate::registry::defaulting::{Hook, existing, is_empty, nested, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.networking.v1.NetworkPolicy", network_policy),
    ("io.k8s.api.networking.v1.NetworkPolicyPort", network_policy_port),
    ("io.k8s.api.networking.v1.IngressClass", ingress_class),
];

fn network_policy_port(port: &mut Map<String, Value>) {
    set_if_unset(port, "protocol", "TCP");
}

/// A policy that does not say what it is about is about what comes in, and about what goes out if it has rules for that.
fn network_policy(object: &mut Map<String, Value>) {
    let Some(spec) = nested(object, "spec") else { return };
    if is_empty(spec, "policyTypes") {
        let types = if is_empty(spec, "egress") { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

fn ingress_class(object: &mut Map<String, Value>) {
    if let Some(parameters) = nested(object, "spec").and_then(|spec| existing(spec, "parameters")) {
        set_if_unset(parameters, "scope", "Cluster");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_with_egress_rules_is_about_egress_too() {
        let defaulted = |object: Value| {
            let Value::Object(mut map) = object else { panic!("an object") };
            network_policy(&mut map);
            map["spec"]["policyTypes"].clone()
        };
        assert_eq!(defaulted(json!({})), json!(["Ingress"]));
        assert_eq!(defaulted(json!({"spec": {"egress": []}})), json!(["Ingress"]));
        assert_eq!(defaulted(json!({"spec": {"egress": [{}]}})), json!(["Ingress", "Egress"]));
        assert_eq!(defaulted(json!({"spec": {"policyTypes": ["Egress"]}})), json!(["Egress"]));
    }
}
