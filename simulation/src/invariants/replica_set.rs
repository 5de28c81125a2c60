//! ReplicaSets: as many pods as they want, and never more.

use std::collections::{HashMap, HashSet};

use super::lately::Lately;
use super::{Invariant, is_controllers};
use crate::api::kinds::{POD, REPLICA_SET};
use crate::api::state::{Change, State, What};
use crate::object;

/// A pod is created for a ReplicaSet only if it has fewer than it wants. Pods whose creation was told to have failed do not count: their
/// creator could not know of them. At rest it has exactly what it wants.
#[derive(Default)]
pub struct Pods {
    wanted: HashMap<String, Lately<i64>>,
    /// Uids of pods whose creator was told that there is none.
    denied: HashSet<String>,
}

impl Invariant for Pods {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        if change.key.kind == REPLICA_SET {
            let wanted = object::number_or(object, "/spec/replicas", 1);
            self.wanted.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(wanted)).set(now, wanted);
        }
        if change.key.kind != POD || change.what != What::Added || !is_controllers(change) {
            return Ok(());
        }
        let Some(owner) = object::controller(object) else { return Ok(()) };
        let Some(wanted) = self.wanted.get(owner) else { return Ok(()) };
        if change.by.is_denied {
            self.denied.insert(object::uid(object).to_owned());
        }
        let pods = state.controlled(POD, &change.key.namespace, owner);
        let active = pods.filter(|pod| object::is_active(pod) && !self.denied.contains(object::uid(pod))).count();
        let wanted = wanted.all(now).copied().max().unwrap_or(0);
        if i64::try_from(active).unwrap_or(0) <= wanted {
            return Ok(());
        }
        Err(format!("pod {:?} is one of {active} of a ReplicaSet that wants {wanted}", change.key.name))
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for set in state.list(REPLICA_SET, "") {
            let (name, wanted) = (object::name(set), object::number_or(set, "/spec/replicas", 1));
            let pods = state.controlled(POD, object::namespace(set), object::uid(set));
            let active = pods.filter(|pod| object::is_active(pod)).count();
            let told = object::number(set, "/status/availableReplicas");
            if i64::try_from(active).unwrap_or(0) != wanted || told != wanted {
                return Err(format!("ReplicaSet {name:?} has {active} pods and tells of {told}, and wants {wanted}"));
            }
        }
        Ok(())
    }
}
