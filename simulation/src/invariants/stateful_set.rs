//! StatefulSets: in order, if so wanted.

use std::collections::HashMap;

use serde_json::Value;
use tokio::time::Instant;

use super::lately::{Events, KNOWN_AFTER, Lately};
use super::{Invariant, is_controllers};
use crate::api::kinds::{CONTROLLER_REVISION, NAMESPACE, NODE, POD, STATEFUL_SET};
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

fn max_unavailable(set: &Value) -> i64 {
    let replicas = object::number_or(set, "/spec/replicas", 1);
    let most = set.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable");
    most.map_or(1, |most| object::share(Some(most), replicas, false)).max(1)
}

/// An update takes a pod that is ready only as long as no more than `maxUnavailable` are missing or not ready, that one included, but for
/// those that were lately lost otherwise. Pods that go because of their node, their set or their namespace are no update. In a set that is
/// managed in parallel, pods that are of no use go at once, as upstream has it: there only pods are counted that are known to be ready.
#[derive(Default)]
pub struct Updates {
    /// Of each set: how many may be unavailable, and its replicas.
    allowed: HashMap<String, Lately<(i64, i64)>>,
    /// By set: readiness that was lost otherwise.
    lost: HashMap<String, Events>,
    /// Since when pods are ready, by uid.
    ready: HashMap<String, Instant>,
    /// Whether pods are driven from a node.
    is_driving: HashMap<String, Lately<bool>>,
}

impl Updates {
    fn note_node(&mut self, change: &Change) {
        let drives = |taint: &Value| object::text(taint, "/effect") == "NoExecute";
        let is_driving = change.what == What::Deleted || object::list(&change.object, "/spec/taints").iter().any(drives);
        self.is_driving.entry(change.key.name.clone()).or_insert_with(|| Lately::new(is_driving)).set(change.at, is_driving);
    }

    /// The set whose update this deletion of a pod is.
    fn updated<'a>(&self, state: &'a State, change: &'a Change) -> Option<&'a Value> {
        let pod = &*change.object;
        let owner = object::controller(pod)?;
        let node = self.is_driving.get(object::text(pod, "/spec/nodeName"))?;
        let is_going = |object: Option<&std::sync::Arc<Value>>| object.is_none_or(|object| object::is_terminating(object));
        // Nor is it one that a pod is taken for unready with its node.
        let is_sent_away = change.what == What::Deleted || object::is_terminating(pod);
        if !is_controllers(change)
            || !is_sent_away
            || node.all(change.at).any(|is_driving| *is_driving)
            || is_going(state.get(NAMESPACE, "", &change.key.namespace))
        {
            return None;
        }
        let set = state.list(STATEFUL_SET, &change.key.namespace).map(|set| &**set).find(|set| object::uid(set) == owner)?;
        let replicas = self.allowed.get(owner)?.all(change.at).map(|(_, replicas)| *replicas).min()?;
        (!object::is_terminating(set) && ordinal(&change.key.name)? < replicas).then_some(set)
    }
}

impl Invariant for Updates {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        match change.key.kind {
            NODE => self.note_node(change),
            STATEFUL_SET => {
                let allowed = (max_unavailable(object), object::number_or(object, "/spec/replicas", 1));
                self.allowed.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(allowed)).set(now, allowed);
            }
            POD => {
                let is_there = |pod: &Value| object::is_ready(pod) && object::is_active(pod);
                let was = change.old.as_deref().is_some_and(is_there);
                let is = change.what != What::Deleted && is_there(object);
                if is && !was {
                    self.ready.insert(object::uid(object).to_owned(), now);
                }
                let since = if is { None } else { self.ready.remove(object::uid(object)) };
                let Some(owner) = object::controller(object).filter(|_| was && !is) else { return Ok(()) };
                let Some(set) = self.updated(state, change) else {
                    self.lost.entry(owner.to_owned()).or_default().add(now);
                    return Ok(());
                };
                let is_known = since.is_some_and(|since| since + KNOWN_AFTER <= now);
                if object::text(set, "/spec/podManagementPolicy") == "Parallel" && !is_known {
                    return Ok(());
                }
                let Some(allowed) = self.allowed.get(owner) else { return Ok(()) };
                let most = allowed.all(now).map(|(most, _)| *most).max().unwrap_or(1);
                let replicas = allowed.all(now).map(|(_, replicas)| *replicas).min().unwrap_or(0);
                let is_missing = |ordinal: &i64| {
                    let pod = state.get(POD, &change.key.namespace, &format!("{}-{ordinal}", object::name(set)));
                    !pod.is_some_and(|pod| is_there(pod))
                };
                let missing = (0..replicas).filter(is_missing).count();
                let lost = self.lost.get(owner).map_or(0, |lost| lost.count(now));
                if i64::try_from(missing.saturating_sub(lost)).unwrap_or(0) > most {
                    let name = &change.key.name;
                    return Err(format!("pod {name:?} was taken for an update: {missing} are missing, {lost} were lost, {most} may be"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::api::kinds::KindId;
    use crate::api::state::{Author, Key};

    /// What is said when a set of two, of which one is not ready and one may be missing, loses the other after it was ready for so long.
    async fn taken(policy: &str, ready_for: Duration) -> Result<(), String> {
        let (mut state, mut updates) = (State::default(), Updates::default());
        let author = Author::new("kube-controller-manager-0.1");
        let mut write = |kind: KindId, name: &str, object: Value| {
            let namespace = if kind == NAMESPACE || kind == NODE { "" } else { "n" };
            let change = state.write(Key::new(kind, namespace, name), object, false, &author, Instant::now());
            updates.changed(&state, &change)
        };
        let pod = |is_ready: &str| {
            json!({"metadata": {"uid": "p", "ownerReferences": [{"uid": "s", "controller": true}]}, "spec": {"nodeName": "node"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": is_ready}]}})
        };
        write(NAMESPACE, "n", json!({"metadata": {"name": "n"}}))?;
        write(NODE, "node", json!({"metadata": {"name": "node"}}))?;
        let spec = json!({"replicas": 2, "podManagementPolicy": policy});
        write(STATEFUL_SET, "set", json!({"metadata": {"name": "set", "uid": "s"}, "spec": spec}))?;
        write(POD, "set-1", pod("False"))?;
        write(POD, "set-1", pod("True"))?;
        advance(ready_for).await;
        let mut going = pod("True");
        going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        write(POD, "set-1", going)
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_in_parallel_may_take_what_it_does_not_know_to_be_ready() {
        assert_eq!(taken("Parallel", Duration::from_secs(1)).await, Ok(()));
        assert!(taken("Parallel", KNOWN_AFTER).await.is_err());
        assert!(taken("OrderedReady", Duration::from_secs(1)).await.is_err());
    }
}
