//! Pods on nodes: bound once, where they may be, and to make room only for what matters more. [`crate::placement`] says where that is.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Invariant;
use super::lately::{Lately, WINDOW};
use crate::api::core::Assumed;
use crate::api::kinds::{NODE, POD};
use crate::api::state::{Change, State, What};
use crate::devices;
use crate::object;
use crate::placement::{self, Obstacle, Scene};

fn is_bound(pod: &Value) -> bool {
    !object::text(pod, "/spec/nodeName").is_empty()
}

/// The pod that this change puts on a node.
fn newly_bound(change: &Change) -> Option<&Value> {
    let is_pod = change.key.kind == POD && change.what != What::Deleted;
    let was_bound = change.old.as_deref().is_some_and(is_bound);
    Some(&*change.object).filter(|pod| is_pod && !was_bound && is_bound(pod))
}

fn scene(state: &State) -> Scene<'_> {
    let pods = state.list(POD, "").filter(|pod| is_bound(pod) && !object::is_ended(pod));
    Scene { nodes: state.list(NODE, "").map(|node| &**node).collect(), pods: pods.map(|pod| &**pod).collect() }
}

/// A pod stays on the node that it is bound to, and the pods that are bound to a node and have not ended ask for no more than it has.
pub struct Placement;

impl Invariant for Placement {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (name, pod) = (&change.key.name, &*change.object);
        if change.key.kind == POD && change.what != What::Deleted {
            let (before, after) =
                (change.old.as_deref().map_or("", |old| object::text(old, "/spec/nodeName")), object::text(pod, "/spec/nodeName"));
            if !before.is_empty() && before != after {
                return Err(format!("pod {name:?} was on {before:?} and now is on {after:?}"));
            }
        }
        let Some(pod) = newly_bound(change) else { return Ok(()) };
        let node = object::text(pod, "/spec/nodeName");
        let Some(found) = state.get(NODE, "", node) else { return Ok(()) };
        let there: Vec<&Value> = scene(state).pods.into_iter().filter(|pod| object::text(pod, "/spec/nodeName") == node).collect();
        let Some(obstacle) = placement::lacking(found, &there) else { return Ok(()) };
        let names: Vec<&str> = there.iter().map(|pod| object::name(pod)).collect();
        Err(format!("pod {name:?} was put on {node:?} with {names:?}: {obstacle}"))
    }
}

/// What of a node says which pods it takes.
fn outline(node: &Value) -> Value {
    json!({
        "metadata": {"name": node["metadata"]["name"], "labels": node["metadata"]["labels"]},
        "spec": {"taints": node["spec"]["taints"], "unschedulable": node["spec"]["unschedulable"]},
    })
}

/// Whoever is bound may be there: the node is (or was a little while ago) selected and without taints that the pod does not tolerate, no
/// pod is near that must not be, one is, was or is about to be near of those that must, and pods are spread, but for those that were lately
/// lost or are on their way. At rest a pod is on no node only if none has a place for it, not even at the cost of pods that matter less.
#[derive(Default)]
pub struct Fit {
    nodes: HashMap<String, Lately<Value>>,
    /// When nodes came.
    came: HashMap<String, Instant>,
    /// Pods that were bound and are no more, or are about to go.
    lost: Vec<(Instant, Arc<Value>)>,
    /// Pods that are no more and were on no node.
    gone: Vec<(Instant, Arc<Value>)>,
    /// Pods as they would be on the nodes that the scheduler has begun to put them on. To it, as to upstream's (`assumeAndReserve`), they are
    /// there at once, and others follow them: their bindings may be done first, and those of the assumed later or never.
    assumed: Vec<(Instant, Arc<Value>)>,
}

/// Those of the window.
fn recent(pods: &[(Instant, Arc<Value>)], now: Instant) -> impl Iterator<Item = &Value> {
    pods.iter().filter(move |(at, _)| *at + WINDOW >= now).map(|(_, pod)| &**pod)
}

fn remember(pods: &mut Vec<(Instant, Arc<Value>)>, now: Instant, pod: Arc<Value>) {
    pods.retain(|(at, _)| *at + WINDOW >= now);
    pods.push((now, pod));
}

impl Invariant for Fit {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let now = change.at;
        if change.key.kind == NODE {
            let outline = outline(&change.object);
            self.nodes.entry(change.key.name.clone()).or_insert_with(|| Lately::new(outline.clone())).set(now, outline);
            if change.what != What::Modified {
                self.came.insert(change.key.name.clone(), now);
            }
        }
        if change.key.kind == POD
            && let Some(old) = change.old.as_ref().filter(|old| is_bound(old) && object::is_active(old))
            && (change.what == What::Deleted || !object::is_active(&change.object))
        {
            remember(&mut self.lost, now, old.clone());
        }
        if change.key.kind == POD && change.what == What::Deleted && !is_bound(&change.object) {
            remember(&mut self.gone, now, change.object.clone());
        }
        let Some(pod) = newly_bound(change) else { return Ok(()) };
        let node = object::text(pod, "/spec/nodeName");
        let Some(found) = state.get(NODE, "", node) else { return Ok(()) };
        match self.obstacle(state, pod, found, now) {
            None => Ok(()),
            Some(obstacle) => Err(format!("pod {:?} was put on {node:?}: {obstacle}", change.key.name)),
        }
    }

    fn assumed(&mut self, state: &State, pod: &Assumed<'_>) {
        let now = Instant::now();
        let is_meant = |object: &&Value| pod.uid.is_empty() || object::uid(object) == pod.uid;
        let is_named = |object: &&Value| object::namespace(object) == pod.namespace && object::name(object) == pod.name;
        let current = state.get(POD, pod.namespace, pod.name).map(|object| &**object).filter(is_meant);
        // The scheduler may not know yet that it is gone.
        let Some(found) = current.or_else(|| recent(&self.gone, now).filter(is_named).find(is_meant)) else { return };
        let mut placed = found.clone();
        placed["spec"]["nodeName"] = pod.node.into();
        remember(&mut self.assumed, now, Arc::new(placed));
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        let scene = scene(state);
        for pod in state.list(POD, "").filter(|pod| !is_bound(pod) && object::is_active(pod)) {
            for node in &scene.nodes {
                let priority = object::number(pod, "/spec/priority");
                let may_preempt = object::text(pod, "/spec/preemptionPolicy") != "Never";
                let yields = |other: &Value| {
                    may_preempt
                        && object::text(other, "/spec/nodeName") == object::name(node)
                        && object::number(other, "/spec/priority") < priority
                };
                let pods = scene.pods.iter().copied().filter(|other| !yields(other)).collect();
                let without = Scene { nodes: scene.nodes.clone(), pods };
                if without.obstacles(pod, node).is_empty() && devices::are_there(state, pod, object::name(node)) {
                    return Err(format!("pod {:?} is on no node, and could be on {:?}", object::name(pod), object::name(node)));
                }
            }
        }
        Ok(())
    }
}

impl Fit {
    /// What has kept the pod from the node all the time since the scheduler may have looked.
    fn obstacle(&self, state: &State, pod: &Value, node: &Value, now: Instant) -> Option<Obstacle> {
        let known = self.nodes.get(object::name(node));
        let of_node = |outlines: &Lately<Value>| {
            let mut obstacles = outlines.all(now).map(|node| Scene::of_node(pod, node));
            let first = obstacles.next().flatten()?;
            obstacles.all(|obstacle| obstacle.is_some()).then_some(first)
        };
        if let Some(obstacle) = known.and_then(of_node) {
            return Some(obstacle);
        }
        let mut scene = scene(state);
        scene.pods.retain(|other| object::uid(other) != object::uid(pod));
        let obstacles = scene.obstacles(pod, node);
        let lost = || recent(&self.lost, now);
        let is_new = |node: &&Value| self.came.get(object::name(node)).is_some_and(|came| *came + WINDOW >= now);
        obstacles.into_iter().find(|obstacle| match obstacle {
            // [`Placement`] asks for room, with no mercy.
            Obstacle::Taint(_) | Obstacle::Selector | Obstacle::Room { .. } => false,
            Obstacle::Apart(_) => true,
            Obstacle::Together => {
                let mut with_others = scene.clone();
                let is_other = |other: &&Value| object::uid(other) != object::uid(pod);
                with_others.pods.extend(lost().chain(recent(&self.assumed, now).filter(is_other)));
                with_others.obstacles(pod, node).contains(&Obstacle::Together)
            }
            Obstacle::Spread { skew, most } => {
                let on_their_way = state.list(POD, object::namespace(pod)).filter(|other| !is_bound(other)).count();
                let slack = i64::try_from(lost().count() + on_their_way).unwrap_or(i64::MAX);
                !scene.nodes.iter().any(is_new) && *skew > most.saturating_add(slack)
            }
        })
    }
}

/// The scheduler sends a pod away only for one that waits, or did a little while ago, and matters more.
#[derive(Default)]
pub struct Preemption {
    /// The priorities of pods that are on no node, and until when they were on none.
    waiting: HashMap<String, (i64, Option<Instant>)>,
}

impl Invariant for Preemption {
    fn changed(&mut self, _: &State, change: &Change) -> Result<(), String> {
        if change.key.kind != POD {
            return Ok(());
        }
        let (pod, now) = (&*change.object, change.at);
        let priority = object::number(pod, "/spec/priority");
        if !is_bound(pod) && change.what != What::Deleted {
            self.waiting.insert(object::uid(pod).to_owned(), (priority, None));
        } else if let Some((_, until)) = self.waiting.get_mut(object::uid(pod)) {
            until.get_or_insert(now);
        }
        let is_sent_away = change.by.name.starts_with("kube-scheduler")
            && (change.what == What::Deleted || object::is_terminating(pod))
            && !change.old.as_deref().is_some_and(object::is_terminating);
        if !is_sent_away {
            return Ok(());
        }
        self.waiting.retain(|_, (_, until)| until.is_none_or(|until| until + WINDOW >= now));
        if self.waiting.values().any(|(other, _)| *other > priority) {
            return Ok(());
        }
        Err(format!("pod {:?} of priority {priority} was sent away, and none waits that matters more", change.key.name))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::api::kinds::KindId;
    use crate::api::state::{Author, Key};

    #[derive(Default)]
    struct Cluster {
        state: State,
        fit: Fit,
    }

    impl Cluster {
        fn write(&mut self, kind: KindId, object: Value, gone: bool) -> Result<(), String> {
            let key = Key::new(kind, object::namespace(&object), object::name(&object));
            let change = self.state.write(key, object, gone, &Author::new("kube-scheduler"), Instant::now());
            self.fit.changed(&self.state, &change)
        }

        fn assume(&mut self, name: &str, node: &str) {
            self.fit.assumed(&self.state, &Assumed { namespace: "d", name, uid: name, node });
        }

        /// Whether a pod that has to be in the zone of `db` may be put on the node.
        fn follows(&mut self, name: &str, node: &str) -> bool {
            let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}});
            let mut pod = pod(name, "web");
            pod["spec"]["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
            self.write(POD, pod.clone(), false).expect("a pod may wait");
            pod["spec"]["nodeName"] = node.into();
            let verdict = self.write(POD, pod, false);
            let refusal = format!("pod {name:?} was put on {node:?}: {}", Obstacle::Together);
            assert!(verdict.is_ok() || verdict == Err(refusal), "{verdict:?}");
            verdict.is_ok()
        }
    }

    fn pod(name: &str, app: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": app}}, "spec": {}})
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("n0", "z0"), ("n1", "z0"), ("n2", "z1")] {
            let node = json!({"metadata": {"name": name, "labels": {"zone": zone}}, "status": {"allocatable": {"pods": "9"}}});
            cluster.write(NODE, node, false).expect("a node may come");
        }
        cluster.write(POD, pod("db", "db"), false).expect("a pod may wait");
        cluster
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_follows_one_that_the_scheduler_has_begun_to_put_near() {
        let mut cluster = cluster();
        assert!(!cluster.follows("a", "n0"), "that the other waits somewhere is not enough");
        cluster.assume("db", "n1");
        assert!(cluster.follows("b", "n0"));
        assert!(!cluster.follows("c", "n2"), "it is another zone");
        advance(WINDOW + Duration::from_secs(1)).await;
        assert!(!cluster.follows("d", "n0"), "it has had the time to come");
        let mut there = pod("db", "db");
        there["spec"]["nodeName"] = "n2".into();
        cluster.write(POD, there, false).expect("it asks for nothing");
        assert!(cluster.follows("e", "n2") && !cluster.follows("f", "n0"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_may_follow_one_that_is_gone_without_the_scheduler_knowing() {
        let mut cluster = cluster();
        cluster.write(POD, pod("db", "db"), true).expect("a pod may go");
        cluster.assume("somebody", "n1");
        assert!(!cluster.follows("a", "n0"));
        cluster.assume("db", "n1");
        assert!(cluster.follows("b", "n0"));
        // Another of the same name is not meant.
        let mut other = pod("db", "other");
        other["metadata"]["uid"] = "another".into();
        cluster.write(POD, other, false).expect("a pod may wait");
        advance(WINDOW / 2).await;
        cluster.assume("db", "n2");
        assert!(cluster.follows("c", "n2"));
    }
}
