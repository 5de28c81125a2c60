//! Jobs: each pod that ends is counted once, and no more run at once than may.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::lately::Lately;
use super::{Invariant, is_controllers};
use crate::api::kinds::{JOB, POD};
use crate::api::state::{Change, State, What};
use crate::object;

fn is_finished(job: &Value) -> bool {
    let conditions = object::list(job, "/status/conditions");
    conditions
        .iter()
        .any(|condition| matches!(object::text(condition, "/type"), "Complete" | "Failed") && object::text(condition, "/status") == "True")
}

/// Whether a pod is still to be counted.
fn is_tracked(pod: &Value) -> bool {
    object::list(pod, "/metadata/finalizers").iter().any(|finalizer| finalizer == "batch.kubernetes.io/job-tracking")
}

fn is_indexed(job: &Value) -> bool {
    object::text(job, "/spec/completionMode") == "Indexed"
}

/// What has become of a Job's pods.
#[derive(Default)]
struct Ended {
    succeeded: HashSet<String>,
    /// What has ended otherwise, or gone without.
    others: HashSet<String>,
    /// What was told to go before it was counted.
    sent_away: HashSet<String>,
    indexes: HashSet<String>,
}

/// A Job never tells of more pods that have succeeded or failed than have, and of none twice; what it has told it does not take back.
/// At rest it has finished, and one that is complete has its completions.
///
/// An indexed Job counts failures by pod and successes by index, as upstream does: a pod that has failed for it because it was told to go,
/// and then succeeds before its finalizer is off, is in both sums.
#[derive(Default)]
pub struct Counting {
    ended: HashMap<String, Ended>,
}

impl Invariant for Counting {
    fn changed(&mut self, _: &State, change: &Change) -> Result<(), String> {
        let object = &*change.object;
        match change.key.kind {
            POD => {
                let Some(owner) = object::controller(object) else { return Ok(()) };
                let uid = object::uid(object).to_owned();
                let ended = self.ended.entry(owner.to_owned()).or_default();
                if object::text(object, "/status/phase") == "Succeeded" {
                    let index = object::text(object, "/metadata/annotations/batch.kubernetes.io~1job-completion-index");
                    ended.indexes.insert(index.to_owned());
                    ended.succeeded.insert(uid.clone());
                } else if object::is_ended(object) || object::is_terminating(object) || change.what == What::Deleted {
                    ended.others.insert(uid.clone());
                }
                if object::is_terminating(object) && is_tracked(object) {
                    ended.sent_away.insert(uid);
                }
                Ok(())
            }
            JOB if change.what != What::Deleted => self.told(change),
            _ => Ok(()),
        }
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for job in state.list(JOB, "") {
            let name = object::name(job);
            if !is_finished(job) {
                return Err(format!("Job {name:?} has not finished"));
            }
            let complete = object::list(job, "/status/conditions").iter().any(|condition| object::text(condition, "/type") == "Complete");
            let (succeeded, wanted) = (object::number(job, "/status/succeeded"), object::number_or(job, "/spec/completions", 1));
            if complete && succeeded < wanted {
                return Err(format!("Job {name:?} is complete with {succeeded} of {wanted}"));
            }
            if object::number(job, "/status/active") != 0 {
                return Err(format!("Job {name:?} has finished and tells of pods that run"));
            }
        }
        let kept = state.list(POD, "").find(|pod| is_tracked(pod));
        kept.map_or(Ok(()), |pod| Err(format!("pod {:?} waits to be counted", object::name(pod))))
    }
}

impl Counting {
    fn told(&self, change: &Change) -> Result<(), String> {
        let (job, name) = (&*change.object, &change.key.name);
        let none = Ended::default();
        let ended = self.ended.get(object::uid(job)).unwrap_or(&none);
        let succeeded = usize::try_from(object::number(job, "/status/succeeded")).unwrap_or(usize::MAX);
        let failed = usize::try_from(object::number(job, "/status/failed")).unwrap_or(usize::MAX);
        if succeeded > ended.succeeded.len() {
            return Err(format!("Job {name:?} tells of {succeeded} pods that have succeeded, {} have", ended.succeeded.len()));
        }
        // A pod that ran still when its Job was over has failed, whatever it came to then.
        let twice = if is_indexed(job) { ended.sent_away.intersection(&ended.succeeded).count() } else { 0 };
        let all = ended.others.union(&ended.succeeded).count() + twice;
        if succeeded + failed > all {
            return Err(format!("Job {name:?} tells of {succeeded} pods that have succeeded and {failed} that have not, {all} have ended"));
        }
        if is_indexed(job) && succeeded > ended.indexes.len() {
            return Err(format!("Job {name:?} tells of {succeeded} indexes, {} have succeeded", ended.indexes.len()));
        }
        let Some(old) = &change.old else { return Ok(()) };
        for field in ["/status/succeeded", "/status/failed"] {
            let (before, after) = (object::number(old, field), object::number(job, field));
            // An indexed Job counts anew when its completions change, which nobody does here.
            if after < before {
                return Err(format!("Job {name:?} told of {before} in {field}, and now of {after}"));
            }
        }
        if is_finished(old) && !is_finished(job) {
            return Err(format!("Job {name:?} had finished, and now has not"));
        }
        Ok(())
    }
}

/// No pod is created beyond a Job's parallelism, nor for a Job that has finished.
#[derive(Default)]
pub struct Parallelism {
    allowed: HashMap<String, Lately<i64>>,
    finished: HashSet<String>,
    denied: HashSet<String>,
}

impl Invariant for Parallelism {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let object = &*change.object;
        if change.key.kind == JOB {
            let parallelism = if object::is_true(object, "/spec/suspend") { 0 } else { object::number_or(object, "/spec/parallelism", 1) };
            let known = self.allowed.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(parallelism));
            known.set(change.at, parallelism);
            if is_finished(object) {
                self.finished.insert(object::uid(object).to_owned());
            }
        }
        if change.key.kind != POD || change.what != What::Added || !is_controllers(change) {
            return Ok(());
        }
        let Some(owner) = object::controller(object) else { return Ok(()) };
        let Some(allowed) = self.allowed.get(owner) else { return Ok(()) };
        if self.finished.contains(owner) {
            return Err(format!("pod {:?} was created for a Job that has finished", change.key.name));
        }
        if change.by.is_denied {
            self.denied.insert(object::uid(object).to_owned());
        }
        let pods = state.controlled(POD, &change.key.namespace, owner);
        let active = pods.filter(|pod| object::is_active(pod) && !self.denied.contains(object::uid(pod))).count();
        let allowed = allowed.all(change.at).copied().max().unwrap_or(0);
        if i64::try_from(active).unwrap_or(0) <= allowed {
            return Ok(());
        }
        Err(format!("pod {:?} is one of {active} of a Job that wants {allowed} at once", change.key.name))
    }
}
