//! Defaults of admissionregistration.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value, json};

use crate::registry::defaulting::{Hook, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.admissionregistration.v1.MatchResources", match_resources),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", failure_policy),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", |hook| {
        webhook(hook);
        set_if_unset(hook, "reinvocationPolicy", "Never");
    }),
    ("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", rule),
    ("io.k8s.api.admissionregistration.v1.RuleWithOperations", rule),
    ("io.k8s.api.admissionregistration.v1.ServiceReference", |service| set_if_unset(service, "port", 443)),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", failure_policy),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", webhook),
];

fn webhook(hook: &mut Map<String, Value>) {
    failure_policy(hook);
    match_resources(hook);
    set_if_unset(hook, "timeoutSeconds", 10);
}

fn failure_policy(map: &mut Map<String, Value>) {
    set_if_unset(map, "failurePolicy", "Fail");
}

fn match_resources(map: &mut Map<String, Value>) {
    set_if_unset(map, "matchPolicy", "Equivalent");
    set_if_unset(map, "namespaceSelector", json!({}));
    set_if_unset(map, "objectSelector", json!({}));
}

fn rule(map: &mut Map<String, Value>) {
    set_if_unset(map, "scope", "*");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_listed_by_type() {
        assert!(DEFAULTS.is_sorted_by_key(|(name, _)| *name));
    }
}
