//! What the cluster is told of the drivers on this node: the CSINode object, and the Node's annotation and topology labels.
//!
//! Upstream: pkg/volume/csi/nodeinfomanager.

use std::collections::BTreeMap;

use client::Object;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::super::message;
use super::messages::NodeInfo;

const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Others write the object too; a conflict is tried again so often.
const TRIES: usize = 10;

/// An object without drivers, which belongs to its node.
fn empty(node: &Node) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: node.metadata.name.clone(),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name().to_owned(),
                uid: node.uid().to_owned(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
        status: None,
    }
}

/// The entry of a driver.
fn entry(name: &str, info: &NodeInfo) -> CSINodeDriver {
    let topology = info.accessible_topology.iter().flat_map(|topology| topology.segments.keys().cloned());
    let mut keys: Vec<String> = topology.collect();
    keys.sort();
    let count = i32::try_from(info.max_volumes_per_node).ok().filter(|count| *count > 0);
    CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys).filter(|keys| !keys.is_empty()),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// Puts an entry in, or takes it out; says whether anything changed.
fn with_driver(object: &mut CSINode, name: &str, entry: Option<CSINodeDriver>) -> bool {
    let drivers = &mut object.spec.drivers;
    let known = drivers.iter().find(|driver| driver.name == name);
    if known == entry.as_ref() {
        return false;
    }
    drivers.retain(|driver| driver.name != name);
    drivers.extend(entry);
    true
}

/// What is to be merged into the node: its id for the driver, and where it is.
fn node_patch(annotations: Option<&BTreeMap<String, String>>, name: &str, info: Option<&NodeInfo>) -> Value {
    let known = annotations.and_then(|annotations| annotations.get(NODE_IDS)).and_then(|text| serde_json::from_str(text).ok());
    let mut ids: BTreeMap<String, String> = known.unwrap_or_default();
    match info {
        Some(info) => drop(ids.insert(name.to_owned(), info.node_id.clone())),
        None => drop(ids.remove(name)),
    }
    let value = if ids.is_empty() { Value::Null } else { Value::String(json!(ids).to_string()) };
    let topology = info.and_then(|info| info.accessible_topology.as_ref());
    let labels: BTreeMap<&String, &String> = topology.iter().flat_map(|topology| &topology.segments).collect();
    json!({"metadata": {"annotations": {NODE_IDS: value}, "labels": labels}})
}

/// Makes the object if it is not there.
pub async fn ensure(client: &Client, node_name: &str) -> Result<(), String> {
    let objects: Api<CSINode> = Api::all(client.clone());
    match objects.get(node_name).await {
        Ok(_) => return Ok(()),
        Err(error) if client::answer::is_not_found(&error) => {}
        Err(error) => return Err(message(&error)),
    }
    let node = Api::<Node>::all(client.clone()).get(node_name).await.map_err(|error| message(&error))?;
    match objects.create(&PostParams::default(), &empty(&node)).await {
        Err(error) if !client::answer::is_already_exists(&error) => Err(message(&error)),
        _ => Ok(()),
    }
}

/// Tells of a driver that has come (with what it says of itself) or gone.
pub async fn tell(client: &Client, node_name: &str, name: &str, info: Option<&NodeInfo>) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get(node_name).await.map_err(|error| message(&error))?;
    let patch = node_patch(node.metadata.annotations.as_ref(), name, info);
    nodes.patch(node_name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(|error| message(&error))?;
    ensure(client, node_name).await?;
    let objects: Api<CSINode> = Api::all(client.clone());
    for _ in 0..TRIES {
        let mut object = objects.get(node_name).await.map_err(|error| message(&error))?;
        if !with_driver(&mut object, name, info.map(|info| entry(name, info))) {
            return Ok(());
        }
        match objects.replace(node_name, &PostParams::default(), &object).await {
            Ok(_) => return Ok(()),
            Err(error) if client::answer::is_conflict(&error) => {}
            Err(error) => return Err(message(&error)),
        }
    }
    Err("error updating CSINode: too many conflicts".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::messages::Topology;
    use super::*;

    #[test]
    fn a_driver_comes_once_and_goes() {
        let info = NodeInfo {
            node_id: "id".to_owned(),
            max_volumes_per_node: 5,
            accessible_topology: Some(Topology { segments: [("zone".to_owned(), "a".to_owned())].into() }),
        };
        let mut object = empty(&Node::default());
        assert!(with_driver(&mut object, "d", Some(entry("d", &info))));
        assert!(!with_driver(&mut object, "d", Some(entry("d", &info))));
        assert_eq!(object.spec.drivers[0].topology_keys.as_deref(), Some(&["zone".to_owned()][..]));
        let annotations = BTreeMap::from([(NODE_IDS.to_owned(), "{\"other\":\"x\"}".to_owned())]);
        let patch = node_patch(Some(&annotations), "d", Some(&info));
        assert_eq!(patch["metadata"]["annotations"][NODE_IDS], "{\"d\":\"id\",\"other\":\"x\"}");
        assert_eq!(patch["metadata"]["labels"]["zone"], "a");
        assert!(with_driver(&mut object, "d", None));
        assert!(object.spec.drivers.is_empty());
        assert_eq!(node_patch(None, "d", None)["metadata"]["annotations"][NODE_IDS], Value::Null);
    }
}
