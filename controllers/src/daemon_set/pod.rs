//! A DaemonSet's pods: the template with tolerations for nodes in trouble, bound to a node by affinity. Pure.

use client::Object;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration};

use crate::controller_history::REVISION_LABEL;
use crate::pod_control::pod_from_template;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
const NAME_FIELD: &str = "metadata.name";

/// Taints that do not keep the pods of DaemonSets away, and their effects.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The template with everything that does not depend on the node.
pub fn template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.template.clone();
    tolerate(template.spec.get_or_insert_default());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = template_generation(set) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_string());
    }
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    template
}

/// Adds the tolerations; those of the same key, effect and operator are replaced.
fn tolerate(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.iter().chain(host_network.then_some(&NETWORK_UNAVAILABLE)) {
        let toleration = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        let is_same = |other: &&mut Toleration| {
            other.key == toleration.key
                && other.effect == toleration.effect
                && other.operator == toleration.operator
                && other.value.as_deref().unwrap_or("").is_empty()
        };
        match tolerations.iter_mut().find(is_same) {
            Some(old) => *old = toleration,
            None => tolerations.push(toleration),
        }
    }
}

/// The template's generation, if the set still counts it.
fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.annotation(TEMPLATE_GENERATION)?.parse().ok()
}

/// A pod for one node.
pub fn for_node(set: &DaemonSet, template: &PodTemplateSpec, node: &str) -> Pod {
    let mut pod = pod_from_template(template, set);
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default();
    let required =
        affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution.get_or_insert_default();
    // The terms of the template have been looked at: only the node counts now.
    let name = NodeSelectorRequirement { key: NAME_FIELD.to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    required.node_selector_terms = vec![NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None }];
    pod
}

/// The node that a pod is on or meant for.
pub fn target_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let names = fields.find(|field| field.key == NAME_FIELD && field.operator == "In")?;
    match names.values.as_deref() {
        Some([name]) => Some(name),
        _ => None,
    }
}

/// Whether the pod is of the present template.
pub fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let generation = template_generation(set).map(|generation| generation.to_string());
    (!hash.is_empty() && pod.label(REVISION_LABEL) == Some(hash))
        || (generation.is_some() && pod.label(GENERATION_LABEL) == generation.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_meant_for_its_node_and_tolerates_its_troubles() {
        let mut set = DaemonSet::default();
        set.metadata.name = Some("agent".to_owned());
        set.metadata.annotations = Some([(TEMPLATE_GENERATION.to_owned(), "4".to_owned())].into());
        set.spec.template.spec.get_or_insert_default().host_network = Some(true);
        let pod = for_node(&set, &template(&set, "abc"), "n1");
        assert_eq!(target_node(&pod), Some("n1"));
        assert_eq!((pod.label(REVISION_LABEL), pod.label(GENERATION_LABEL)), (Some("abc"), Some("4")));
        assert_eq!(pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap().len(), 7);
        assert!(is_updated(&set, &pod, "abc"));
        set.metadata.annotations = None;
        assert!(is_updated(&set, &pod, "abc") && !is_updated(&set, &pod, "other"));
    }

    #[test]
    fn a_toleration_that_is_there_is_not_added_again() {
        let mut spec = PodSpec::default();
        tolerate(&mut spec);
        let once = spec.clone();
        tolerate(&mut spec);
        assert_eq!(spec, once);
    }
}
