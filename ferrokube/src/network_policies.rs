//! What those who enforce network policies on nodes may read.

use std::sync::Arc;

use apimachinery::status::Status;
use apiserver::api::Api;
use apiserver::loopback::Loopback;
use serde_json::json;

use crate::grants;

/// Who they are, on all nodes of this machine.
pub const USER: &str = "system:network-policy";

/// Makes what is not there yet: whoever changes the role keeps the changes.
pub async fn publish(api: &Arc<Api>) -> Result<(), Status> {
    let client = Loopback::new(api).with_manager("ferrokube");
    let rules = json!([
        { "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"] },
        { "apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
    ]);
    grants::grant(&client, USER, rules, grants::user(USER)).await
}
