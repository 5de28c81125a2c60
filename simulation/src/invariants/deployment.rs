//! Deployments: how many pods they may have, how many they must keep, and what they are at rest.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::lately::{Events, KNOWN_AFTER, Lately};
use super::{Invariant, is_controllers};
use crate::api::kinds::{DEPLOYMENT, POD, REPLICA_SET};
use crate::api::state::{Change, State, What};
use crate::object;

fn replicas(object: &Value) -> i64 {
    object::number_or(object, "/spec/replicas", 1)
}

fn is_rolling(deployment: &Value) -> bool {
    object::text(deployment, "/spec/strategy/type") == "RollingUpdate"
}

fn surge(deployment: &Value) -> i64 {
    let surge = deployment.pointer("/spec/strategy/rollingUpdate/maxSurge");
    if is_rolling(deployment) { object::share(surge, replicas(deployment), true) } else { 0 }
}

/// How many pods must be there for users: the replicas without those that may be missing. Where pods have to be ready for a while it
/// depends on clocks, which jump: nothing is asked then.
fn needed(deployment: &Value) -> i64 {
    if !is_rolling(deployment) || object::number(deployment, "/spec/minReadySeconds") > 0 {
        return 0;
    }
    let unavailable = object::share(deployment.pointer("/spec/strategy/rollingUpdate/maxUnavailable"), replicas(deployment), false);
    // If both round to nothing, one may be missing.
    let unavailable = if unavailable == 0 && surge(deployment) == 0 { 1 } else { unavailable };
    replicas(deployment) - unavailable
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn sets<'a>(state: &'a State, namespace: &'a str, uid: &'a str) -> impl Iterator<Item = &'a Arc<Value>> + 'a {
    state.controlled(REPLICA_SET, namespace, uid)
}

/// Whenever a ReplicaSet of a Deployment is made larger, all of them together want no more pods than the Deployment's replicas and its
/// `maxSurge`.
#[derive(Default)]
pub struct Surge {
    allowed: HashMap<String, Lately<i64>>,
}

impl Invariant for Surge {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        if change.key.kind == DEPLOYMENT {
            let allowed = replicas(object) + surge(object);
            let known = self.allowed.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(allowed));
            known.set(now, allowed);
        }
        if change.key.kind != REPLICA_SET || change.what == What::Deleted || !is_controllers(change) {
            return Ok(());
        }
        let before = change.old.as_deref().map_or(0, replicas);
        let Some(allowed) = object::controller(object).and_then(|owner| self.allowed.get(owner)) else { return Ok(()) };
        if replicas(object) <= before {
            return Ok(());
        }
        let owner = object::controller(object).unwrap_or("");
        let total: i64 = sets(state, &change.key.namespace, owner).map(|set| replicas(set)).sum();
        let allowed = allowed.all(now).copied().max().unwrap_or(0);
        if total <= allowed {
            return Ok(());
        }
        Err(format!("ReplicaSet {:?} was scaled from {before} to {}: {total} in all, {allowed} allowed", change.key.name, replicas(object)))
    }
}

/// Whenever a ReplicaSet of a Deployment is made so small that a pod must go that is known to be ready, enough pods stay ready: the replicas without
/// `maxUnavailable`, and without those that were lately lost otherwise.
#[derive(Default)]
pub struct Unavailability {
    needed: HashMap<String, Lately<i64>>,
    /// By ReplicaSet: readiness that was lost.
    lost: HashMap<String, Events>,
    /// Since when pods are ready.
    ready: HashMap<String, Instant>,
}

impl Invariant for Unavailability {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        match change.key.kind {
            DEPLOYMENT => {
                let needed = needed(object);
                self.needed.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(needed)).set(now, needed);
            }
            POD => {
                let was_ready = change.old.as_deref().is_some_and(|old| object::is_ready(old) && object::is_active(old));
                let is_ready = object::is_ready(object) && object::is_active(object) && change.what != What::Deleted;
                if !is_ready {
                    self.ready.remove(object::uid(object));
                } else if !was_ready {
                    self.ready.insert(object::uid(object).to_owned(), now);
                }
                if let Some(owner) = object::controller(object).filter(|_| was_ready && !is_ready) {
                    self.lost.entry(owner.to_owned()).or_default().add(now);
                }
            }
            REPLICA_SET if is_controllers(change) && change.what == What::Modified => return self.scaled(state, change),
            _ => {}
        }
        Ok(())
    }
}

impl Unavailability {
    fn scaled(&self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        let (before, after) = (change.old.as_deref().map_or(0, replicas), replicas(object));
        let Some(owner) = object::controller(object).filter(|_| after < before) else { return Ok(()) };
        let Some(needed) = self.needed.get(owner).and_then(|needed| needed.all(now).copied().min()) else { return Ok(()) };
        let namespace = &change.key.namespace;
        let (mut ready, mut leaving, mut lost) = (0, 0, 0);
        for set in sets(state, namespace, owner) {
            let pods = state.controlled(POD, namespace, object::uid(set));
            let since: Vec<Instant> = pods.filter_map(|pod| self.ready.get(object::uid(pod)).copied()).collect();
            let known = since.iter().filter(|since| **since + KNOWN_AFTER <= now).count();
            // Of a set that is made smaller, those that are not ready go first.
            ready += count(since.len()).min(replicas(set));
            leaving += if object::uid(set) == object::uid(object) { (count(known) - replicas(set)).max(0) } else { 0 };
            lost += self.lost.get(object::uid(set)).map_or(0, |lost| lost.count(now));
        }
        if leaving == 0 || ready + count(lost) >= needed {
            return Ok(());
        }
        let name = &change.key.name;
        Err(format!(
            "ReplicaSet {name:?} was scaled from {before} to {after}: {ready} pods stay ready, {lost} were lost, {needed} are needed"
        ))
    }
}

/// At rest a Deployment has what it wants, in one ReplicaSet.
pub struct Rest;

impl Invariant for Rest {
    fn at_rest(&self, state: &State) -> Result<(), String> {
        for deployment in state.list(DEPLOYMENT, "") {
            let (name, wanted) = (object::name(deployment), replicas(deployment));
            let is = |field: &str| object::number(deployment, &format!("/status/{field}"));
            if is("observedGeneration") != object::number(deployment, "/metadata/generation") {
                return Err(format!("Deployment {name:?} was not looked at since it changed"));
            }
            for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
                if is(field) != wanted {
                    return Err(format!("Deployment {name:?} has {field} {} of {wanted}", is(field)));
                }
            }
            let owned: Vec<_> = sets(state, object::namespace(deployment), object::uid(deployment)).collect();
            let used = owned.iter().filter(|set| replicas(set) > 0).count();
            if used != usize::from(wanted > 0) {
                return Err(format!("Deployment {name:?} has {used} ReplicaSets with pods"));
            }
            let limit = object::number_or(deployment, "/spec/revisionHistoryLimit", 10);
            let kept = i64::try_from(owned.len()).unwrap_or(0) - 1;
            if kept > limit {
                return Err(format!("Deployment {name:?} keeps {kept} old ReplicaSets of {limit}"));
            }
        }
        Ok(())
    }
}
