//! What the API server itself puts into an empty cluster before it is ready: the system's namespaces and their like.
//!
//! Everything goes through the same steps as a client's creation; an object that exists is left as it is.

use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::json;

use crate::api::Api;
use crate::loopback::Loopback;
use crate::rbac;

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Fills an empty cluster.
pub async fn run(api: &Arc<Api>) -> Result<(), Status> {
    let client = Loopback::new(api);
    for name in NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        client.ensure("/api/v1/namespaces", namespace).await?;
    }
    rbac::bootstrap::run(api).await
}
