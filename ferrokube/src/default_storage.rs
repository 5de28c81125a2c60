//! The default storage class, and what its provisioner on each node of this machine may do.

use std::sync::Arc;

use apimachinery::status::Status;
use apiserver::api::Api;
use apiserver::loopback::Loopback;
use controllers::local_path_provisioner;
use serde_json::json;

use crate::grants;

/// Who the provisioners of all nodes are.
pub const USER: &str = "system:local-path-provisioner";
/// The name that local clusters commonly give their default class.
const CLASS: &str = "standard";

/// Makes what is not there yet: whoever changes the class or the role keeps the changes.
pub async fn publish(api: &Arc<Api>) -> Result<(), Status> {
    let client = Loopback::new(api).with_manager("ferrokube");
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": local_path_provisioner::NAME,
        "reclaimPolicy": "Delete",
        // A directory is on one node, so the pod has to be placed first.
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    client.ensure("/apis/storage.k8s.io/v1/storageclasses", class).await?;
    let rules = json!([
        { "apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "list", "watch", "create", "delete"] },
        { "apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"] },
    ]);
    grants::grant(&client, USER, rules, grants::user(USER)).await
}
