//! What is counted of Jobs, see [`crate::metrics`]. Decides nothing.

use std::time::Duration;

use client::Change;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::assess::{Assessment, COMPLETE};
use super::indexes::Indexes;
use super::policy::Verdict;
use super::{is_ours, pods};
use crate::{metrics, pod_state};

/// What a sync came to do, as the label has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Own creations and deletions are awaited, or the Job ends.
    Reconciling,
    /// Nothing: there are as many pods as there should be.
    Tracking,
    PodsCreated,
    PodsDeleted,
}

impl Action {
    fn label(self) -> &'static str {
        match self {
            Action::Reconciling => "reconciling",
            Action::Tracking => "tracking",
            Action::PodsCreated => "pods_created",
            Action::PodsDeleted => "pods_deleted",
        }
    }
}

fn mode(spec: &JobSpec) -> &'static str {
    if pods::is_indexed(spec) { "Indexed" } else { "NonIndexed" }
}

pub fn synced(spec: &JobSpec, action: Action, is_ok: bool, time: Duration) {
    let labels = [mode(spec), if is_ok { "success" } else { "error" }, action.label()];
    metrics::JOB_SYNC_DURATION.with(&labels).observe_time(time);
    metrics::JOB_SYNCS.with(&labels).inc();
}

/// A sync was put off because own writes do not show yet.
pub fn stale() {
    metrics::JOB_STALE_SYNCS.with(&["batch", "jobs"]).inc();
}

pub fn finished(job: &Job, condition: &JobCondition) {
    let Some(spec) = &job.spec else { return };
    let result = if condition.type_ == COMPLETE { "succeeded" } else { "failed" };
    metrics::JOBS_FINISHED.with(&[mode(spec), result, condition.reason.as_deref().unwrap_or("")]).inc();
}

/// A Job that another controller manages is new here.
pub fn added(change: &Change<Job>) {
    if let Change::Added(job) = change
        && !is_ours(job)
        && let Some(manager) = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref())
    {
        metrics::JOBS_OF_OTHERS.with(&[manager]).inc();
    }
}

/// Pods that were created, and those that could not be.
pub fn created(spec: &JobSpec, assessment: &Assessment, succeeded: usize, failed: usize) {
    let reason = creation_reason(spec, assessment.failed, assessment.terminating);
    for (status, count) in [("succeeded", succeeded), ("failed", failed)] {
        if count > 0 {
            metrics::JOB_PODS_CREATED.with(&[reason, status]).add(count as u64);
        }
    }
}

/// Why pods are created, as the label has it.
fn creation_reason(spec: &JobSpec, failed_pods: i32, terminating: i32) -> &'static str {
    let only_failed = spec.pod_replacement_policy.as_deref() == Some("Failed");
    if only_failed && failed_pods > 0 {
        "recreate_failed"
    } else if failed_pods > 0 || terminating > 0 {
        "recreate_terminating_or_failed"
    } else {
        "new"
    }
}

/// What a written status counts that the one before did not.
#[derive(Debug, Default, PartialEq)]
struct Counted {
    succeeded: i32,
    failed: i32,
    succeeded_indexes: i32,
    failed_indexes: i32,
}

fn counted(spec: &JobSpec, before: &JobStatus, after: &JobStatus) -> Counted {
    let more = |before: Option<i32>, after: Option<i32>| after.unwrap_or(0) - before.unwrap_or(0);
    let failed = more(before.failed, after.failed);
    if !pods::is_indexed(spec) {
        return Counted { succeeded: more(before.succeeded, after.succeeded), failed, ..Counted::default() };
    }
    let completions = spec.completions.unwrap_or(0);
    let indexes = |text: &Option<String>| text.as_deref().map_or(0, |text| Indexes::parse(text, completions).count());
    let succeeded = indexes(&after.completed_indexes) - indexes(&before.completed_indexes);
    let failed_indexes =
        if spec.backoff_limit_per_index.is_some() { indexes(&after.failed_indexes) - indexes(&before.failed_indexes) } else { 0 };
    Counted { succeeded, failed, succeeded_indexes: succeeded, failed_indexes }
}

/// A status was written.
pub fn written(spec: &JobSpec, before: &JobStatus, after: &JobStatus) {
    let counted = counted(spec, before, after);
    let up = |count: i32| u64::try_from(count).ok().filter(|count| *count > 0);
    let limit = if spec.backoff_limit_per_index.is_some() { "perIndex" } else { "global" };
    let pods = [("succeeded", counted.succeeded), ("failed", counted.failed)];
    for (result, count) in pods.into_iter().filter_map(|(result, count)| Some((result, up(count)?))) {
        metrics::JOB_PODS_FINISHED.with(&[mode(spec), result]).add(count);
    }
    let indexes = [("succeeded", counted.succeeded_indexes), ("failed", counted.failed_indexes)];
    for (status, count) in indexes.into_iter().filter_map(|(status, count)| Some((status, up(count)?))) {
        metrics::JOB_FINISHED_INDEXES.with(&[status, limit]).add(count);
    }
}

/// A failed pod was counted, or not, by what the policy says of it.
pub fn judged(verdict: &Verdict) {
    let action = match verdict {
        Verdict::Count => "Count",
        Verdict::Ignore => "Ignore",
        Verdict::FailIndex => "FailIndex",
        Verdict::FailJob(_) => "FailJob",
    };
    metrics::JOB_POLICY_FAILURES.with(&[action]).inc();
}

/// Whether a pod's change made it one that has ended and waits to be counted, or no longer.
fn waits(change: &Change<Pod>) -> Option<&'static str> {
    let waits = |pod: &Pod| pods::is_tracked(pod) && pod_state::is_terminal(pod);
    let before = match change {
        Change::Added(_) => false,
        Change::Updated { old, .. } => waits(old),
        Change::Deleted(pod) => waits(pod),
    };
    let after = !matches!(change, Change::Deleted(_)) && waits(change.object());
    match (before, after) {
        (false, true) => Some("add"),
        (true, false) => Some("delete"),
        _ => None,
    }
}

pub fn pod_changed(change: &Change<Pod>) {
    // Pods of others are told of too: what counts is the finalizer.
    if let Some(event) = waits(change) {
        metrics::JOB_TERMINATED_PODS.with(&[event]).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::pods::tests::{indexed, tracked};
    use super::*;

    #[test]
    fn what_was_not_in_the_status_before_is_counted() {
        let status = |succeeded, failed, done: &str, lost: &str| JobStatus {
            succeeded: Some(succeeded),
            failed: Some(failed),
            completed_indexes: Some(done.to_owned()),
            failed_indexes: Some(lost.to_owned()),
            ..JobStatus::default()
        };
        let (before, after) = (status(1, 0, "0", ""), status(4, 2, "0-2,7", "3"));
        let plain = Counted { succeeded: 3, failed: 2, ..Counted::default() };
        assert_eq!(counted(&JobSpec::default(), &before, &after), plain);
        // An index that is beyond the completions is none.
        let expected = Counted { succeeded: 2, failed: 2, succeeded_indexes: 2, failed_indexes: 0 };
        assert_eq!(counted(&indexed(5), &before, &after), expected);
        let per_index = JobSpec { backoff_limit_per_index: Some(1), ..indexed(5) };
        assert_eq!(counted(&per_index, &before, &after), Counted { failed_indexes: 1, ..expected });
    }

    #[test]
    fn pods_are_created_for_a_reason() {
        let only_failed = JobSpec { pod_replacement_policy: Some("Failed".to_owned()), ..JobSpec::default() };
        assert_eq!(creation_reason(&JobSpec::default(), 0, 0), "new");
        assert_eq!(creation_reason(&JobSpec::default(), 0, 1), "recreate_terminating_or_failed");
        assert_eq!(creation_reason(&only_failed, 1, 0), "recreate_failed");
        assert_eq!(creation_reason(&only_failed, 0, 1), "recreate_terminating_or_failed");
    }

    #[test]
    fn a_pod_waits_from_its_end_until_its_finalizer_goes() {
        let (runs, ended) = (tracked("p", "Running", None), tracked("p", "Failed", None));
        let mut released = (*ended).clone();
        released.metadata.finalizers = None;
        let update = |old: &Arc<Pod>, new: &Arc<Pod>| Change::Updated { old: old.clone(), new: new.clone() };
        assert_eq!(waits(&Change::Added(runs.clone())), None);
        assert_eq!(waits(&update(&runs, &ended)), Some("add"));
        assert_eq!(waits(&update(&ended, &ended)), None);
        assert_eq!(waits(&update(&ended, &Arc::new(released))), Some("delete"));
        assert_eq!(waits(&Change::Deleted(ended)), Some("delete"));
    }
}
