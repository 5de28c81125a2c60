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

/// Indexes as a status tells them: `1,3-5`.
fn indexes(text: &str) -> HashSet<i64> {
    let read = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<i64>().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(read).flatten().collect()
}

/// How many successes there are at least if a Job with a policy for them is a success.
fn enough(job: &Value) -> i64 {
    let completions = object::number_or(job, "/spec/completions", 1);
    let of_rule = |rule: &Value| {
        let indexes = i64::try_from(indexes(object::text(rule, "/succeededIndexes")).len()).unwrap_or(0);
        object::number_or(rule, "/succeededCount", indexes)
    };
    object::list(job, "/spec/successPolicy/rules").iter().map(of_rule).min().unwrap_or(completions).min(completions)
}

fn index(pod: &Value) -> i64 {
    object::text(pod, "/metadata/annotations/batch.kubernetes.io~1job-completion-index").parse().unwrap_or(-1)
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
/// At rest it has finished, one that is complete has its completions, and one that is to go some time after its end is gone.
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
            // By clocks, which have jumped: it may take longer than its seconds.
            if !job["spec"]["ttlSecondsAfterFinished"].is_null() {
                return Err(format!("Job {name:?} has finished and is still there"));
            }
            let complete = object::list(job, "/status/conditions").iter().any(|condition| object::text(condition, "/type") == "Complete");
            let (succeeded, wanted) = (object::number(job, "/status/succeeded"), object::number_or(job, "/spec/completions", 1));
            let wanted = if job["spec"]["successPolicy"].is_null() { wanted } else { enough(job) };
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

/// A pod of an indexed Job is created for an index that has neither succeeded nor failed as far as the Job tells, and that nobody runs for
/// that its creator could know of; and, if there is a limit for each index, not more often than that. A Job tells of an index as
/// succeeded or as failed, never both. At rest it has not gone on when too many have failed, and has failed for its policy only if a pod
/// did as that says.
#[derive(Default)]
pub struct Indexes {
    denied: HashSet<String>,
    /// By Job: the exit codes that its pods have ended with.
    exit_codes: HashMap<String, HashSet<i64>>,
}

impl Invariant for Indexes {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, name) = (&*change.object, &change.key.name);
        if change.key.kind == JOB && change.what != What::Deleted {
            let told = |field: &str| indexes(object::text(object, &format!("/status/{field}")));
            let both: Vec<i64> = told("completedIndexes").intersection(&told("failedIndexes")).copied().collect();
            return if both.is_empty() { Ok(()) } else { Err(format!("Job {name:?} tells of {both:?} as succeeded and as failed")) };
        }
        let Some(owner) = object::controller(object).filter(|_| change.key.kind == POD) else { return Ok(()) };
        if let Some(code) = object.pointer("/status/containerStatuses/0/state/terminated/exitCode").and_then(Value::as_i64) {
            self.exit_codes.entry(owner.to_owned()).or_default().insert(code);
        }
        if change.what != What::Added || !is_controllers(change) {
            return Ok(());
        }
        let job = state.list(JOB, &change.key.namespace).find(|job| object::uid(job) == owner);
        let Some(job) = job.filter(|job| is_indexed(job)) else { return Ok(()) };
        if change.by.is_denied {
            self.denied.insert(object::uid(object).to_owned());
        }
        let index = index(object);
        for field in ["completedIndexes", "failedIndexes"] {
            if indexes(object::text(job, &format!("/status/{field}"))).contains(&index) {
                return Err(format!("pod {name:?} was created for index {index}, which is among the {field}"));
            }
        }
        let limit = object::number_or(job, "/spec/backoffLimitPerIndex", i64::MAX);
        let failures = object::text(object, "/metadata/annotations/batch.kubernetes.io~1job-index-failure-count").parse().unwrap_or(0);
        if failures > limit {
            return Err(format!("pod {name:?} was created after {failures} failures of index {index}, of {limit} that it may have"));
        }
        let same = state.controlled(POD, &change.key.namespace, owner).find(|pod| {
            let is_other = object::uid(pod) != object::uid(object) && !self.denied.contains(object::uid(pod));
            is_other && object::is_active(pod) && self::index(pod) == index
        });
        match same.filter(|_| !self.denied.contains(object::uid(object))) {
            Some(same) => Err(format!("pod {name:?} was created for index {index}, which {:?} runs for", object::name(same))),
            None => Ok(()),
        }
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for job in state.list(JOB, "") {
            let name = object::name(job);
            let ending = object::list(job, "/status/conditions").iter();
            let is_true = |condition: &&Value| object::text(condition, "/status") == "True";
            let ended = ending.filter(is_true).find(|condition| matches!(object::text(condition, "/type"), "Complete" | "Failed"));
            let Some(ended) = ended else { continue };
            let failed = i64::try_from(indexes(object::text(job, "/status/failedIndexes")).len()).unwrap_or(i64::MAX);
            let is_complete = object::text(ended, "/type") == "Complete" && object::text(ended, "/reason") != "SuccessPolicy";
            if is_complete && failed > 0 {
                return Err(format!("Job {name:?} is complete, and {failed} of its indexes have failed"));
            }
            let codes = self.exit_codes.get(object::uid(job));
            let has_fatal = codes.is_some_and(|codes| codes.contains(&i64::from(crate::nodes::FATAL_EXIT_CODE)));
            if object::text(ended, "/reason") == "PodFailurePolicy" && !has_fatal {
                return Err(format!("Job {name:?} has failed for its policy, and no pod did as that says"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::state::{Author, Key};

    #[test]
    fn indexes_are_read_as_they_are_told() {
        assert_eq!(indexes("1,3-5"), HashSet::from([1, 3, 4, 5]));
        assert!(indexes("").is_empty());
    }

    #[test]
    fn a_success_has_at_least_what_its_easiest_rule_wants() {
        let job = |rules: Value| json!({"spec": {"completions": 5, "successPolicy": {"rules": rules}}});
        assert_eq!(enough(&job(json!([{"succeededIndexes": "0-2"}, {"succeededCount": 4}]))), 3);
        assert_eq!(enough(&job(json!([{"succeededIndexes": "0-2", "succeededCount": 2}]))), 2);
    }

    #[test]
    fn a_job_that_is_to_go_after_its_end_is_not_there_at_rest() {
        let rest = |ttl: Value| {
            let mut state = State::default();
            let status = json!({"conditions": [{"type": "Failed", "status": "True"}]});
            let job = json!({"metadata": {"name": "j"}, "spec": {"ttlSecondsAfterFinished": ttl}, "status": status});
            state.write(Key::new(JOB, "n", "j"), job, false, &Author::new("user"), tokio::time::Instant::now());
            Counting::default().at_rest(&state)
        };
        assert_eq!(rest(Value::Null), Ok(()));
        assert!(rest(json!(0)).is_err());
    }
}
