//! StatefulSets: in order, if so wanted.

use std::collections::HashMap;

use serde_json::Value;

use super::lately::Lately;
use super::{Invariant, is_controllers};
use crate::api::kinds::{CONTROLLER_REVISION, POD, STATEFUL_SET};
use crate::api::state::{Change, State, What};
use crate::object;

fn ordinal(pod: &str) -> Option<i64> {
    pod.rsplit_once('-')?.1.parse().ok()
}

/// A StatefulSet in order creates a pod only when all before it are (or were a little while ago) ready, and never one beyond its
/// replicas. That there is one pod of an ordinal its name sees to. At rest it has all of them, of its newest revision.
#[derive(Default)]
pub struct Order {
    replicas: HashMap<String, Lately<i64>>,
    /// Whether the pod of that name is ready, by `namespace/name`.
    ready: HashMap<String, Lately<bool>>,
}

impl Invariant for Order {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        if change.key.kind == STATEFUL_SET {
            let replicas = object::number_or(object, "/spec/replicas", 1);
            self.replicas.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(replicas)).set(now, replicas);
        }
        if change.key.kind != POD {
            return Ok(());
        }
        let key = format!("{}/{}", change.key.namespace, change.key.name);
        let is_ready = change.what != What::Deleted && object::is_ready(object) && object::is_active(object);
        self.ready.entry(key).or_insert_with(|| Lately::new(false)).set(now, is_ready);
        let Some(owner) = object::controller(object).filter(|_| change.what == What::Added && is_controllers(change)) else {
            return Ok(());
        };
        let Some(replicas) = self.replicas.get(owner) else { return Ok(()) };
        let (name, number) = (&change.key.name, ordinal(&change.key.name).unwrap_or(0));
        let replicas = replicas.all(now).copied().max().unwrap_or(0);
        if number >= replicas {
            return Err(format!("pod {name:?} is beyond the {replicas} that its StatefulSet wants"));
        }
        let sets = state.list(STATEFUL_SET, &change.key.namespace);
        let set = sets.map(|set| &**set).find(|set| object::uid(set) == owner);
        let is_ordered = |set: &Value| object::text(set, "/spec/podManagementPolicy") == "OrderedReady";
        let Some(set) = set.filter(|set| is_ordered(set)) else { return Ok(()) };
        for before in 0..number {
            let before = format!("{}-{before}", object::name(set));
            let known = self.ready.get(&format!("{}/{before}", change.key.namespace));
            if !known.is_some_and(|ready| ready.all(now).any(|ready| *ready)) {
                return Err(format!("pod {name:?} was created before {before:?} was ready"));
            }
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for set in state.list(STATEFUL_SET, "") {
            let (name, namespace) = (object::name(set), object::namespace(set));
            let wanted = object::number_or(set, "/spec/replicas", 1);
            let is = |field: &str| object::number(set, &format!("/status/{field}"));
            if is("observedGeneration") != object::number(set, "/metadata/generation") {
                return Err(format!("StatefulSet {name:?} was not looked at since it changed"));
            }
            for field in ["replicas", "readyReplicas", "availableReplicas"] {
                if is(field) != wanted {
                    return Err(format!("StatefulSet {name:?} has {field} {} of {wanted}", is(field)));
                }
            }
            let pods: Vec<_> = state.controlled(POD, namespace, object::uid(set)).collect();
            if pods.len() != usize::try_from(wanted).unwrap_or(0) {
                return Err(format!("StatefulSet {name:?} has {} pods of {wanted}", pods.len()));
            }
            let newest = object::text(set, "/status/updateRevision");
            if let Some(old) = pods.iter().find(|pod| pod["metadata"]["labels"]["controller-revision-hash"] != newest) {
                return Err(format!("pod {:?} of StatefulSet {name:?} is not of revision {newest}", object::name(old)));
            }
            let revisions = state.controlled(CONTROLLER_REVISION, namespace, object::uid(set)).count();
            let kept = object::number_or(set, "/spec/revisionHistoryLimit", 10);
            if i64::try_from(revisions).unwrap_or(0) > kept + 2 {
                return Err(format!("StatefulSet {name:?} keeps {revisions} revisions of {kept}"));
            }
        }
        Ok(())
    }
}
