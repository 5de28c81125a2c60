//! Pods that have a node found for them but are not there yet: whoever looks at the node counts them as if they were, unless more
//! important itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::snapshot::pod::{PodInfo, Uid};

/// Nominated pods, by node.
#[derive(Default)]
pub struct Nominator {
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    node_of: HashMap<Uid, Arc<str>>,
}

impl Nominator {
    pub fn is_empty(&self) -> bool {
        self.node_of.is_empty()
    }

    /// The pods nominated to a node.
    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// The node that a pod is nominated to.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.node_of.get(uid)
    }

    /// Nominates a pod, wherever it was nominated before.
    pub fn set(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        if node.is_empty() {
            return;
        }
        let node: Arc<str> = Arc::from(node);
        self.node_of.insert(pod.uid.clone(), node.clone());
        self.by_node.entry(node).or_default().push(pod);
    }

    /// Takes in what a waiting pod is now. What is known here and not yet told to the API server stays.
    pub fn update(&mut self, old: &PodInfo, new: Arc<PodInfo>) {
        let known = self.node_of.get(&new.uid).cloned();
        match (old.nominated_node(), new.nominated_node()) {
            ("", "") => {
                if let Some(node) = known {
                    self.set(new, &node);
                }
            }
            (_, node) => {
                let node = node.to_owned();
                self.set(new, &node);
            }
        }
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| *pod.uid != *uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
}
