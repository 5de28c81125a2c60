//! DaemonSets: one pod a node.

use std::collections::HashMap;

use serde_json::Value;
use tokio::time::Instant;

use super::lately::{Lately, WINDOW};
use super::{Invariant, is_controllers};
use crate::api::kinds::{DAEMON_SET, NODE, POD};
use crate::api::state::{Change, State, What};
use crate::object;

/// The node that a DaemonSet's pod is for, which its affinity names before it is there.
fn node(pod: &Value) -> &str {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let bound = object::text(pod, "/spec/nodeName");
    if !bound.is_empty() {
        return bound;
    }
    object::list(pod, terms).first().map_or("", |term| object::text(term, "/matchFields/0/values/0"))
}

/// A pod is created for a node only if the DaemonSet has none there that is wanted still, but for one more while it is updated with a
/// surge. Pods whose creation was lately told to have failed do not count: their creator may not know of them. At rest each node has one.
#[derive(Default)]
pub struct OneANode {
    surges: HashMap<String, Lately<bool>>,
    /// By uid: when pods came whose creator was told that there is none.
    denied: HashMap<String, Instant>,
}

impl Invariant for OneANode {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let object = &*change.object;
        if change.key.kind == DAEMON_SET {
            let surge = object.pointer("/spec/updateStrategy/rollingUpdate/maxSurge");
            let surges = object::share(surge, 100, true) > 0;
            self.surges.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(surges)).set(change.at, surges);
        }
        if change.key.kind != POD || change.what != What::Added || !is_controllers(change) {
            return Ok(());
        }
        let Some(owner) = object::controller(object) else { return Ok(()) };
        let Some(surges) = self.surges.get(owner) else { return Ok(()) };
        if change.by.is_denied {
            self.denied.insert(object::uid(object).to_owned(), change.at);
        }
        let allowed = if surges.all(change.at).any(|surges| *surges) { 2 } else { 1 };
        let pods = state.controlled(POD, &change.key.namespace, owner);
        let is_known = |pod: &Value| self.denied.get(object::uid(pod)).is_none_or(|came| *came + WINDOW < change.at);
        let there = pods.filter(|pod| object::is_active(pod) && is_known(pod) && node(pod) == node(object)).count();
        if there <= allowed {
            return Ok(());
        }
        Err(format!("pod {:?} is one of {there} of its DaemonSet for {:?}", change.key.name, node(object)))
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for set in state.list(DAEMON_SET, "") {
            let (name, nodes) = (object::name(set), state.list(NODE, "").count());
            let pods = state.controlled(POD, object::namespace(set), object::uid(set));
            let mut on: Vec<&str> = pods.filter(|pod| object::is_active(pod)).map(|pod| node(pod)).collect();
            on.sort_unstable();
            let pods = on.len();
            on.dedup();
            if on.len() != nodes || pods != nodes {
                return Err(format!("DaemonSet {name:?} has {pods} pods on {} of {nodes} nodes", on.len()));
            }
            for field in ["desiredNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"] {
                let told = object::number(set, &format!("/status/{field}"));
                if usize::try_from(told).unwrap_or(0) != nodes {
                    return Err(format!("DaemonSet {name:?} has {field} {told} of {nodes}"));
                }
            }
        }
        Ok(())
    }
}
