//! The pods of a node, by an index that several controllers share.

use std::sync::Arc;

use client::Informer;
use k8s_openapi::api::core::v1::Pod;

const INDEX: &str = "spec.nodeName";

/// Makes [`of`] work.
pub fn index(pods: &Informer<Pod>) {
    pods.add_index(INDEX, |pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|n| !n.is_empty()).into_iter().collect());
}

/// The pods that are assigned to a node.
pub fn of(pods: &Informer<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(INDEX, node)
}
