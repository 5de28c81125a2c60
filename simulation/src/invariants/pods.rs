//! Pods at rest.

use super::Invariant;
use crate::api::kinds::{NODE, POD};
use crate::api::state::State;
use crate::object;

/// At rest every pod that has not ended is on a node that exists, and ready; and every node is ready and without taints. Pods of nobody's
/// may be on none, if [`super::scheduling::Fit`] has nothing against it.
pub struct Rest;

impl Invariant for Rest {
    fn at_rest(&self, state: &State) -> Result<(), String> {
        for node in state.list(NODE, "") {
            if !object::is_ready(node) || !object::list(node, "/spec/taints").is_empty() {
                return Err(format!("node {:?} is not ready or has taints", object::name(node)));
            }
        }
        for pod in state.list(POD, "").filter(|pod| !object::is_ended(pod)) {
            let (name, node) = (object::name(pod), object::text(pod, "/spec/nodeName"));
            if node.is_empty() && object::controller(pod).is_none() {
                continue;
            }
            if state.get(NODE, "", node).is_none() {
                return Err(format!("pod {name:?} is on no node"));
            }
            if !object::is_ready(pod) {
                return Err(format!("pod {name:?} is not ready"));
            }
        }
        Ok(())
    }
}
