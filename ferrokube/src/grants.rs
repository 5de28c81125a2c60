//! What the cluster's own parts may do: a role and its binding, of one name.

use apimachinery::status::Status;
use apiserver::loopback::Loopback;
use serde_json::{Value, json};

/// Lets a subject do what rules say. Makes what is not there yet: whoever changes the role or the binding keeps the changes.
pub async fn grant(client: &Loopback, name: &str, rules: Value, subject: Value) -> Result<(), Status> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": name },
        "rules": rules,
    });
    client.ensure("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [subject],
    });
    client.ensure("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.map(drop)
}

/// A user as a subject.
pub fn user(name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name })
}
