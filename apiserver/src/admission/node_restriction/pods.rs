//! Pods: a kubelet makes mirrors of its static pods, tells the status of its pods, evicts and deletes them.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::Write;
use crate::admission::Operation;
use crate::admission::pod_references::{MIRROR, api_reference, is_mirror};
use crate::registry::read::{at, bool_at, list_at, str_at};

pub(super) fn check(write: &Write<'_>) -> Result<(), Status> {
    let node = quote(write.node);
    match (write.attributes.subresource, write.attributes.operation) {
        ("", Operation::Create) => check_mirror(write),
        ("", Operation::Delete) => {
            let pod = write.find("pods", write.attributes.namespace, write.attributes.name)?;
            own(write, &pod, || format!("node {node} can only delete pods with spec.nodeName set to itself"))
        }
        ("", operation) => {
            write.refuse(format!("unexpected operation {}, node {node} can only create and delete mirror pods", quote(operation.as_str())))
        }
        ("status", Operation::Update) => check_status(write),
        ("status", _) => write.unexpected_operation(),
        ("eviction", Operation::Create) => check_eviction(write),
        ("eviction", operation) => write.refuse(format!("unexpected operation {}", operation.as_str())),
        (subresource, _) => {
            write.refuse(format!("unexpected pod subresource {}, only 'status' and 'eviction' are allowed", quote(subresource)))
        }
    }
}

fn own(write: &Write<'_>, pod: &Value, why: impl FnOnce() -> String) -> Result<(), Status> {
    if str_at(pod, "/spec/nodeName") == write.node { Ok(()) } else { write.refuse(why()) }
}

fn check_mirror(write: &Write<'_>) -> Result<(), Status> {
    let (pod, node) = (write.new(), quote(write.node));
    if !is_mirror(pod) {
        return write.refuse(format!("pod does not have {} annotation, node {node} can only create mirror pods", quote(MIRROR)));
    }
    own(write, pod, || format!("node {node} can only create pods with spec.nodeName set to itself"))?;
    check_owner(write, pod)?;
    match api_reference(pod) {
        Err(why) => write.refuse(format!("error checking mirror pod for API references: {why}")),
        Ok(Some(what)) => write.refuse(format!("node {node} can not create pods that reference {what}")),
        Ok(None) => Ok(()),
    }
}

/// A mirror belongs to its node.
fn check_owner(write: &Write<'_>, pod: &Value) -> Result<(), Status> {
    let node = quote(write.node);
    let owner = match list_at(pod, "/metadata/ownerReferences") {
        [one] => one,
        [] => return write.refuse(format!("node {node} can only create pods with an owner reference set to itself")),
        _ => return write.refuse(format!("node {node} can only create pods with a single owner reference set to itself")),
    };
    if (str_at(owner, "/apiVersion"), str_at(owner, "/kind"), str_at(owner, "/name")) != ("v1", "Node", write.node) {
        return write.refuse(format!("node {node} can only create pods with an owner reference set to itself"));
    }
    if !bool_at(owner, "/controller") {
        return write.refuse(format!("node {node} can only create pods with a controller owner reference set to itself"));
    }
    if bool_at(owner, "/blockOwnerDeletion") {
        return write.refuse(format!("node {node} must not set blockOwnerDeletion on an owner reference"));
    }
    let object = write.find("nodes", "", write.node)?;
    let (expected, found) = (str_at(owner, "/uid"), str_at(&object, "/metadata/uid"));
    if expected != found {
        return write.refuse(format!("node {} UID mismatch: expected {expected} got {found}", write.node));
    }
    Ok(())
}

fn check_status(write: &Write<'_>) -> Result<(), Status> {
    let (new, old, node) = (write.new(), write.old(), quote(write.node));
    own(write, old, || format!("node {node} can only update pod status for pods with spec.nodeName set to itself"))?;
    let same = |pointer: &str| at(new, pointer) == at(old, pointer);
    if !same("/metadata/labels") {
        return write.refuse(format!("node {node} cannot update labels through pod status"));
    }
    if !same("/status/resourceClaimStatuses") {
        return write.refuse(format!("node {node} cannot update resource claim statues"));
    }
    if !same("/status/extendedResourceClaimStatus") {
        return write.refuse(format!("node {node} cannot update extended resource claim status"));
    }
    if !same("/status/nodeAllocatableResourceClaimStatuses") {
        return write.refuse(format!("node {node} cannot update node allocatable resource claim statuses"));
    }
    Ok(())
}

fn check_eviction(write: &Write<'_>) -> Result<(), Status> {
    let named = [write.attributes.name, str_at(write.new(), "/metadata/name")].into_iter().find(|name| !name.is_empty());
    let Some(name) = named else { return write.refuse("could not determine pod from request data") };
    let pod = write.find("pods", write.attributes.namespace, name)?;
    own(write, &pod, || format!("node {} can only evict pods with spec.nodeName set to itself", write.node))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::NodeRestriction;
    use super::super::tests::by_node;
    use super::*;
    use crate::admission::Plugin;
    use crate::admission::testing::Objects;

    fn objects() -> Objects {
        Objects::of(vec![
            ("", "nodes", json!({ "metadata": { "name": "n", "uid": "u" } })),
            ("", "pods", json!({ "metadata": { "name": "x", "namespace": "ns" }, "spec": { "nodeName": "other" } })),
        ])
    }

    fn mirror(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true });
        let mut pod = json!({
            "metadata": { "annotations": { MIRROR: "h" }, "ownerReferences": [owner] },
            "spec": { "nodeName": "n", "containers": [{ "name": "c" }] },
        });
        change(&mut pod);
        let refused = by_node(Operation::Create, "", "v1", "pods").admit(&NodeRestriction, &objects(), &mut pod);
        refused.map_err(|why| why.replace("pods \"x\" is forbidden: ", ""))
    }

    #[test]
    fn a_kubelet_makes_mirrors_of_its_own_pods() {
        assert_eq!(mirror(|_| {}), Ok(()));
        let cases: [(fn(&mut Value), &str); 5] = [
            (
                |p| p["metadata"]["annotations"] = json!({}),
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n\" can only create mirror pods",
            ),
            (|p| p["spec"]["nodeName"] = json!("m"), "node \"n\" can only create pods with spec.nodeName set to itself"),
            (|p| p["metadata"]["ownerReferences"] = json!([]), "node \"n\" can only create pods with an owner reference set to itself"),
            (|p| p["metadata"]["ownerReferences"][0]["uid"] = json!("v"), "node n UID mismatch: expected v got u"),
            (
                |p| p["spec"]["volumes"] = json!([{ "name": "v", "configMap": { "name": "c" } }]),
                "node \"n\" can not create pods that reference configmaps",
            ),
        ];
        for (change, why) in cases {
            assert_eq!(mirror(change).unwrap_err(), why);
        }
    }

    #[test]
    fn pods_of_other_nodes_are_left_alone() {
        let delete = by_node(Operation::Delete, "", "v1", "pods");
        assert_eq!(
            delete.validate(&NodeRestriction, &objects(), None, None).unwrap_err(),
            "pods \"x\" is forbidden: node \"n\" can only delete pods with spec.nodeName set to itself"
        );
        let evict = by_node(Operation::Create, "", "v1", "pods").to("eviction");
        assert!(evict.admit(&NodeRestriction, &objects(), &mut json!({})).unwrap_err().contains("can only evict pods"));
        let exec = by_node(Operation::Create, "", "v1", "pods").to("exec");
        assert!(exec.admit(&NodeRestriction, &objects(), &mut json!({})).unwrap_err().contains("unexpected pod subresource \"exec\""));
    }

    #[test]
    fn a_status_changes_no_labels() {
        let pod = |label: &str| json!({ "metadata": { "labels": { "a": label } }, "spec": { "nodeName": "n" } });
        let write = by_node(Operation::Update, "", "v1", "pods").to("status");
        let attributes = write.attributes();
        let update = |label: &str| NodeRestriction.admit(&attributes, &objects(), &mut pod(label), Some(&pod("1")), &mut Vec::new());
        assert!(update("1").is_ok());
        assert!(update("2").unwrap_err().message.ends_with("node \"n\" cannot update labels through pod status"));
    }
}
