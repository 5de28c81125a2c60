//! What those who enforce network policies on nodes may read.

use std::sync::Arc;

use apimachinery::status::Status;
use apiserver::api::Api;
use apiserver::loopback::Loopback;
use serde_json::json;

/// Who they are, on all nodes of this machine.
pub const USER: &str = "system:network-policy";

/// Makes what is not there yet: whoever changes the role keeps the changes.
pub async fn publish(api: &Arc<Api>) -> Result<(), Status> {
    let client = Loopback::new(api).with_manager("ferrokube");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": USER },
        "rules": [
            { "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"] },
            { "apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
        ],
    });
    client.ensure("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": USER },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }],
    });
    client.ensure("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.map(drop)
}
