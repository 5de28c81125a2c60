//! PodTopologyLabels: a pod that is bound learns where its node is.

use apimachinery::status::Status;
use serde_json::Value;

use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, str_at};

/// The labels that go from node to pod.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin. It sees pods that are made with a node, and bindings, whose labels the pod takes over.
pub struct PodTopologyLabels;

/// The node that a pod or a binding names.
fn node_of<'a>(subresource: &str, object: &'a Value) -> &'a str {
    match subresource {
        "" => str_at(object, "/spec/nodeName"),
        "binding" if str_at(object, "/target/kind") == "Node" => str_at(object, "/target/name"),
        _ => "",
    }
}

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.is("", "pods") {
            return Ok(());
        }
        let node = node_of(attributes.subresource, new);
        // A node that is not there tells nothing; that is no reason to refuse.
        let Some(node) = (!node.is_empty()).then(|| lookup.get("", "nodes", "", node)).flatten() else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = at(&node, "/metadata/labels").get(label)
                && let Some(labels) = object_mut(new, &["metadata", "labels"])
            {
                labels.insert(label.to_owned(), value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn pods_and_bindings_take_the_labels_of_the_node() {
        let node = json!({ "metadata": { "name": "n", "labels": { LABELS[0]: "z", "other": "o" } } });
        let objects = Objects::of(vec![("", "nodes", node)]);
        let expected = json!({ LABELS[0]: "z" });
        let mut pod = json!({ "metadata": {}, "spec": { "nodeName": "n" } });
        Write::new(Operation::Create, "", "v1", "pods").admit(&PodTopologyLabels, &objects, &mut pod).unwrap();
        assert_eq!(pod["metadata"]["labels"], expected);
        let mut binding = json!({ "metadata": {}, "target": { "kind": "Node", "name": "n" } });
        Write::new(Operation::Create, "", "v1", "pods").to("binding").admit(&PodTopologyLabels, &objects, &mut binding).unwrap();
        assert_eq!(binding["metadata"]["labels"], expected);
        let mut lost = json!({ "metadata": {}, "spec": { "nodeName": "gone" } });
        Write::new(Operation::Create, "", "v1", "pods").admit(&PodTopologyLabels, &objects, &mut lost).unwrap();
        assert_eq!(lost["metadata"], json!({}));
    }
}
