//! What a node's conditions mean for it: the taints that keep pods away, and the labels that old clients look for. Pure.

use std::collections::BTreeMap;

use client::Object;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::node_state;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";

/// A condition, the status in which it matters, and the taint that it then means.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() }
}

/// The NoSchedule taints that are to be added and taken off.
pub fn no_schedule(node: &Node) -> (Vec<Taint>, Vec<Taint>) {
    let is_in = |kind: &str, status: &str| node_state::condition(node, kind).is_some_and(|condition| condition.status == status);
    let mut wanted: Vec<&str> = TAINTS.iter().filter(|(kind, status, _)| is_in(kind, status)).map(|(_, _, key)| *key).collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    let ours = |key: &str| key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, known)| *known == key);
    let has: Vec<&str> = node_state::taints(node)
        .iter()
        .filter(|taint| taint.effect == NO_SCHEDULE && ours(&taint.key))
        .map(|taint| taint.key.as_str())
        .collect();
    let differ = |a: &[&str], b: &[&str]| a.iter().filter(|key| !b.contains(key)).map(|key| taint(key, NO_SCHEDULE)).collect();
    (differ(&wanted, &has), differ(&has, &wanted))
}

/// Labels that old clients know under another name.
pub fn legacy_labels(node: &Node) -> BTreeMap<&'static str, String> {
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")]
        .into_iter()
        .filter_map(|(now, before)| Some((before, node.label(now)?)))
        .filter(|(before, value)| node.label(before) != Some(value))
        .map(|(before, value)| (before, value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(conditions: &[(&str, &str)], taints: &[&str], unschedulable: bool) -> Node {
        let conditions: Vec<_> = conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let taints: Vec<_> = taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        serde_json::from_value(json!({
            "metadata": {"labels": {"kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "x", "kubernetes.io/arch": "amd64"}},
            "spec": {"taints": taints, "unschedulable": unschedulable}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn keys(taints: &[Taint]) -> Vec<&str> {
        taints.iter().map(|taint| taint.key.as_str()).collect()
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        let (add, remove) = no_schedule(&node(&[("Ready", "Unknown"), ("PIDPressure", "True")], &[NOT_READY, "mine"], true));
        assert_eq!(keys(&add), [UNREACHABLE, "node.kubernetes.io/pid-pressure", UNSCHEDULABLE]);
        assert_eq!(keys(&remove), [NOT_READY]);
        let (add, remove) = no_schedule(&node(&[("Ready", "True")], &["mine"], false));
        assert_eq!((add.len(), remove.len()), (0, 0));
    }

    #[test]
    fn old_labels_follow_the_new_ones() {
        let labels = legacy_labels(&node(&[], &[], false));
        assert_eq!(
            labels,
            BTreeMap::from([("beta.kubernetes.io/os", "linux".to_owned()), ("beta.kubernetes.io/arch", "amd64".to_owned())])
        );
    }
}
