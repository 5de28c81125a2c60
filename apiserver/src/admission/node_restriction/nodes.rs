//! Nodes: a kubelet registers and updates its own node, but not what steers pods to it.

use std::collections::BTreeSet;

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::Write;
use crate::admission::Operation;
use crate::registry::read::at;

/// Labels of Kubernetes' own that a kubelet may set.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// And whole domains of them.
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels that isolate nodes, which no kubelet may set.
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

pub(super) fn check(write: &Write<'_>) -> Result<(), Status> {
    let (new, old, node) = (write.new(), write.old(), quote(write.node));
    if write.attributes.name != write.node {
        return write.refuse(format!("node {node} is not allowed to modify node {}", quote(write.attributes.name)));
    }
    let source = at(new, "/spec/configSource");
    match write.attributes.operation {
        Operation::Create => {
            if !source.is_null() {
                return write.refuse(format!("node {node} is not allowed to create pods with a non-nil configSource"));
            }
            let labels = forbidden(new, &Value::Null);
            if !labels.is_empty() {
                return write.refuse(format!("node {node} is not allowed to set the following labels: {labels}"));
            }
        }
        Operation::Update => {
            if !source.is_null() && source != at(old, "/spec/configSource") {
                return write.refuse(format!("node {node} is not allowed to update configSource to a new non-nil configSource"));
            }
            let same = |pointer: &str| at(new, pointer) == at(old, pointer);
            if !same("/spec/taints") {
                return write.refuse(format!("node {node} is not allowed to modify taints"));
            }
            if !same("/metadata/ownerReferences") {
                return write.refuse(format!("node {node} is not allowed to modify ownerReferences"));
            }
            let labels = forbidden(new, old);
            if !labels.is_empty() {
                return write.refuse(format!("is not allowed to modify labels: {labels}"));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

/// The labels that differ and that a kubelet may not touch.
fn forbidden(new: &Value, old: &Value) -> String {
    let labels = |node| at(node, "/metadata/labels").as_object();
    let keys = labels(new).into_iter().chain(labels(old)).flat_map(|map| map.keys());
    let value = |node, key: &str| labels(node).and_then(|map| map.get(key));
    let changed: BTreeSet<&String> = keys.filter(|key| value(new, key) != value(old, key) && is_forbidden(key)).collect();
    changed.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn is_within(domain: &str, of: &str) -> bool {
    domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'))
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let is_ours = is_within(domain, "kubernetes.io") || is_within(domain, "k8s.io");
    let is_kubelets = KUBELET_LABELS.contains(&label) || KUBELET_DOMAINS.iter().any(|d| is_within(domain, d));
    is_within(domain, RESTRICTED_DOMAIN) || (is_ours && !is_kubelets)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::NodeRestriction;
    use super::super::tests::by_node;
    use super::*;
    use crate::admission::Plugin;
    use crate::admission::testing::Objects;

    #[test]
    fn labels_that_steer_pods_are_not_the_kubelets() {
        for (label, expected) in [
            ("kubernetes.io/os", false),
            ("example.com/a", false),
            ("a", false),
            ("x.node.kubernetes.io/a", false),
            ("xkubernetes.io/a", false),
            ("foo.kubernetes.io/a", true),
            ("k8s.io/a", true),
            ("node-restriction.kubernetes.io/a", true),
            ("x.node-restriction.kubernetes.io/a", true),
        ] {
            assert_eq!(is_forbidden(label), expected, "{label}");
        }
    }

    #[test]
    fn a_kubelet_changes_its_own_node_within_bounds() {
        let update = |name: &'static str, new: Value| {
            let write = by_node(Operation::Update, "", "v1", "nodes");
            let mut attributes = write.attributes();
            attributes.name = name;
            let old = json!({ "metadata": { "labels": { "kubernetes.io/os": "linux" } }, "spec": {} });
            let mut new = new;
            NodeRestriction.admit(&attributes, &Objects::default(), &mut new, Some(&old), &mut Vec::new()).map_err(|s| s.message)
        };
        assert_eq!(update("n", json!({ "metadata": { "labels": { "a": "b" } }, "spec": {} })), Ok(()));
        assert_eq!(update("m", json!({})).unwrap_err(), "nodes \"m\" is forbidden: node \"n\" is not allowed to modify node \"m\"");
        assert_eq!(
            update("n", json!({ "metadata": { "labels": { "k8s.io/b": "1", "k8s.io/a": "1" } }, "spec": {} })).unwrap_err(),
            "nodes \"n\" is forbidden: is not allowed to modify labels: k8s.io/a, k8s.io/b"
        );
        assert_eq!(
            update("n", json!({ "spec": { "taints": [{ "key": "a" }] } })).unwrap_err(),
            "nodes \"n\" is forbidden: node \"n\" is not allowed to modify taints"
        );
    }
}
