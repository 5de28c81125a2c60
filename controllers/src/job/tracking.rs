//! How finished pods get into a Job's sums, exactly once: first their uids are noted in the status, then their finalizers are removed,
//! then the uids move into the sums. A controller that stops at any point goes on from there. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::assess::{
    Assessment, COMPLETE, FAILED, FAILURE_TARGET, Observed, SUCCESS_CRITERIA_MET, holding, new_condition, number, uncounted,
};
use super::indexes::Indexes;
use super::pods::{self, is_failed, is_indexed, is_tracked};
use super::policy::{self, Verdict};
use crate::pod_state;

/// Pods that are noted by uid at most; the others wait for the next step.
const MAX_UNCOUNTED: usize = 500;

/// The first step's outcome.
#[derive(Debug)]
pub struct Tracking {
    pub status: JobStatus,
    /// Pods whose finalizer is to go once the status is written.
    pub release: Vec<Arc<Pod>>,
    /// Pods that keep it for now, whose uids stay in the status.
    pub tracked: HashSet<String>,
    /// The condition that the Job ends with when all are counted.
    pub finished: Option<JobCondition>,
    /// Whether the status has to be written before anything else.
    pub changed: bool,
    /// There are more to be counted than fit.
    pub full: bool,
    /// What the policy says of the failed pods that are noted or passed over now; none without a policy.
    pub verdicts: Vec<Verdict>,
}

impl Observed<'_> {
    /// Notes what has finished. `status` has the present numbers in it already.
    pub fn track(&self, assessment: &Assessment, mut status: JobStatus, finished: Option<JobCondition>) -> Tracking {
        let has_finalizer = |pod: &&Arc<Pod>| is_tracked(pod) && !self.released.contains(pod.uid());
        let mut candidates: Vec<Arc<Pod>> = self.pods.iter().filter(has_finalizer).cloned().collect();
        if is_indexed(self.spec) {
            candidates.sort_by_key(|pod| pods::index(pod));
        }
        let tracked: HashSet<String> = candidates.iter().map(|pod| pod.uid().to_owned()).collect();
        let mut changed = move_into_sums(&mut status, &tracked);
        let mut noted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let known = noted.clone();
        let is_known = |list: &Option<Vec<String>>, pod: &Pod| list.iter().flatten().any(|uid| uid == pod.uid());
        let fails_all = finished.as_ref().is_some_and(|condition| condition.type_ != SUCCESS_CRITERIA_MET);
        let (mut release, mut new_indexes, mut full, mut verdicts) = (Vec::new(), Vec::new(), false, Vec::new());
        for pod in candidates {
            let failed = is_failed(self.spec, &pod);
            if !self.may_release(assessment, finished.as_ref(), &pod, failed) {
                continue;
            }
            release.push(pod.clone());
            let index = pods::valid_index(self.spec, &pod);
            if pod_state::phase(&pod) == "Succeeded" && !is_known(&known.failed, &pod) {
                if is_indexed(self.spec) {
                    new_indexes.extend(index.filter(|index| !assessment.counted_indexes.contains(*index)));
                } else if !is_known(&known.succeeded, &pod) {
                    noted.succeeded.get_or_insert_default().push(pod.uid().to_owned());
                    changed = true;
                }
            } else if (failed || fails_all) && !is_known(&known.failed, &pod) && (!is_indexed(self.spec) || index.is_some()) {
                let verdict = policy::judge(self.spec.pod_failure_policy.as_ref(), &pod);
                let ignored = verdict == Verdict::Ignore;
                if self.spec.pod_failure_policy.is_some() && failed {
                    verdicts.push(verdict);
                }
                if !ignored {
                    noted.failed.get_or_insert_default().push(pod.uid().to_owned());
                    changed = true;
                }
            }
            let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
            if new_indexes.len() + count(&noted.succeeded) + count(&noted.failed) >= MAX_UNCOUNTED {
                full = true;
                break;
            }
        }
        status.uncounted_terminated_pods = Some(noted);
        changed |= !new_indexes.is_empty();
        if is_indexed(self.spec) {
            let succeeded =
                if full { assessment.counted_indexes.with(new_indexes) } else { assessment.succeeded_indexes.with(new_indexes) };
            changed |= note_indexes(&mut status, &succeeded, assessment.failed_indexes.as_ref());
        }
        let (finished, condition_added) = note_ending(&mut status, finished, self.now);
        Tracking { status, release, tracked, finished, changed: changed || condition_added, full, verdicts }
    }

    fn may_release(&self, assessment: &Assessment, finished: Option<&JobCondition>, pod: &Pod, failed: bool) -> bool {
        if self.job.is_terminating() || finished.is_some() || pod_state::phase(pod) == "Succeeded" {
            return true;
        }
        let is_held = || pods::index(pod).and_then(|index| assessment.held.get(&index)).is_some_and(|held| held.uid() == pod.uid());
        failed && !is_held()
    }
}

fn note_indexes(status: &mut JobStatus, succeeded: &Indexes, failed: Option<&Indexes>) -> bool {
    let completed = Some(succeeded.to_string()).filter(|text| !text.is_empty());
    let failed = failed.map(ToString::to_string);
    let changed = status.completed_indexes != completed || status.failed_indexes != failed;
    status.succeeded = Some(succeeded.count()).filter(|count| *count != 0);
    status.completed_indexes = completed;
    status.failed_indexes = failed;
    changed
}

/// A Job that is to end says so first; the second condition follows when its pods are counted.
fn note_ending(status: &mut JobStatus, finished: Option<JobCondition>, now: Timestamp) -> (Option<JobCondition>, bool) {
    let Some(condition) = finished else { return (None, false) };
    let last = match condition.type_.as_str() {
        FAILURE_TARGET => FAILED,
        SUCCESS_CRITERIA_MET => COMPLETE,
        _ => return (Some(condition), false),
    };
    let (reason, message) = (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default());
    let missing = holding(status, &condition.type_).is_none();
    if missing {
        status.conditions.get_or_insert_default().push(condition);
    }
    (Some(new_condition(last, "True", &reason, &message, now)), missing)
}

/// Moves the uids of pods that have no finalizer any more into the sums. Says whether there were any.
pub fn move_into_sums(status: &mut JobStatus, tracked: &HashSet<String>) -> bool {
    let (succeeded, failed) = uncounted(status);
    let gone = |uids: &HashSet<&str>| number(uids.iter().filter(|uid| !tracked.contains(**uid)).count());
    let (more_succeeded, more_failed) = (gone(&succeeded), gone(&failed));
    if more_succeeded == 0 && more_failed == 0 {
        return false;
    }
    let add = |sum: Option<i32>, more: i32| Some(sum.unwrap_or(0) + more).filter(|sum| *sum != 0);
    status.succeeded = add(status.succeeded, more_succeeded);
    status.failed = add(status.failed, more_failed);
    let kept = |list: Option<Vec<String>>| {
        let kept: Vec<String> = list.into_iter().flatten().filter(|uid| tracked.contains(uid)).collect();
        (!kept.is_empty()).then_some(kept)
    };
    let noted = status.uncounted_terminated_pods.take().unwrap_or_default();
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded: kept(noted.succeeded), failed: kept(noted.failed) });
    true
}

/// Ends the Job if all its pods are counted and gone. Says whether it has.
pub fn finish(status: &mut JobStatus, finished: Option<&JobCondition>, full: bool, now: Timestamp) -> bool {
    let Some(condition) = finished else { return false };
    let (succeeded, failed) = uncounted(status);
    if full || !succeeded.is_empty() || !failed.is_empty() || status.terminating.unwrap_or(0) > 0 {
        return false;
    }
    let (reason, message) = (condition.reason.as_deref().unwrap_or(""), condition.message.as_deref().unwrap_or(""));
    ensure_condition(status, &condition.type_, &condition.status, reason, message, now);
    if condition.type_ == COMPLETE {
        status.completion_time = condition.last_transition_time.clone();
    }
    true
}

/// Sets a condition; one that would be false and is not there is not added. Says whether something changed.
pub fn ensure_condition(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let wanted = new_condition(kind, value, reason, message, now);
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) if old.status == value && old.reason == wanted.reason && old.message == wanted.message => false,
        Some(old) => {
            *old = wanted;
            true
        }
        None if value == "False" => {
            status.conditions = status.conditions.take().filter(|conditions| !conditions.is_empty());
            false
        }
        None => {
            conditions.push(wanted);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::assess::tests::{observe, plain};
    use super::super::pods::tests::{indexed, tracked};
    use super::*;
    use crate::pod_state::tests::at;

    fn noted(status: &JobStatus) -> (Vec<String>, Vec<String>) {
        let noted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        (noted.succeeded.unwrap_or_default(), noted.failed.unwrap_or_default())
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn a_finished_pod_is_noted_released_and_counted_once() {
        let pods = [tracked("s", "Succeeded", None), tracked("f", "Failed", None), tracked("r", "Running", None)];
        let spec = plain(2, Some(3));
        let tracking =
            observe(&spec, &JobStatus::default(), &pods, |observed| observed.track(&observed.assess(), JobStatus::default(), None));
        assert!(tracking.changed && !tracking.full);
        assert_eq!(noted(&tracking.status), (vec!["s".to_owned()], vec!["f".to_owned()]));
        assert_eq!(names(&tracking.release), ["s", "f"]);
        // Written, then seen again before the finalizers are gone.
        let again = observe(&spec, &tracking.status, &pods, |observed| observed.track(&observed.assess(), tracking.status.clone(), None));
        assert!(!again.changed);
        assert_eq!(noted(&again.status), noted(&tracking.status));
        let mut status = again.status;
        assert!(move_into_sums(&mut status, &["f".to_owned()].into()));
        assert_eq!((status.succeeded, status.failed), (Some(1), None));
        assert_eq!(noted(&status), (vec![], vec!["f".to_owned()]));
        assert!(move_into_sums(&mut status, &HashSet::new()));
        assert_eq!((status.succeeded, status.failed), (Some(1), Some(1)));
        assert!(!move_into_sums(&mut status, &HashSet::new()));
    }

    #[test]
    fn indexes_are_noted_by_number() {
        let pods = [tracked("b", "Succeeded", Some(3)), tracked("a", "Succeeded", Some(0)), tracked("x", "Succeeded", Some(9))];
        let tracking =
            observe(&indexed(5), &JobStatus::default(), &pods, |observed| observed.track(&observed.assess(), JobStatus::default(), None));
        assert_eq!((tracking.status.completed_indexes.as_deref(), tracking.status.succeeded), (Some("0,3"), Some(2)));
        assert_eq!(names(&tracking.release), ["a", "b", "x"]);
    }

    #[test]
    fn a_job_that_fails_takes_its_running_pods_with_it() {
        let pods = [tracked("r", "Running", None)];
        let failure = new_condition(FAILURE_TARGET, "True", "BackoffLimitExceeded", "m", at(0));
        let tracking = observe(&plain(1, Some(1)), &JobStatus::default(), &pods, |observed| {
            observed.track(&observed.assess(), JobStatus::default(), Some(failure.clone()))
        });
        assert_eq!(noted(&tracking.status).1, ["r"]);
        assert!(holding(&tracking.status, FAILURE_TARGET).is_some());
        assert_eq!(tracking.finished.as_ref().map(|condition| condition.type_.as_str()), Some(FAILED));
        let mut status = tracking.status;
        assert!(!finish(&mut status, tracking.finished.as_ref(), false, at(1)));
        move_into_sums(&mut status, &HashSet::new());
        status.terminating = Some(1);
        assert!(!finish(&mut status, tracking.finished.as_ref(), false, at(1)));
        status.terminating = Some(0);
        assert!(finish(&mut status, tracking.finished.as_ref(), false, at(1)));
        assert!(holding(&status, FAILED).is_some() && status.completion_time.is_none());
    }

    #[test]
    fn conditions_turn_only_when_they_say_something_new() {
        let mut status = JobStatus::default();
        assert!(!ensure_condition(&mut status, "Suspended", "False", "JobResumed", "Job resumed", at(0)));
        assert_eq!(status.conditions, None);
        assert!(ensure_condition(&mut status, "Suspended", "True", "JobSuspended", "Job suspended", at(0)));
        assert!(!ensure_condition(&mut status, "Suspended", "True", "JobSuspended", "Job suspended", at(1)));
        assert!(ensure_condition(&mut status, "Suspended", "False", "JobResumed", "Job resumed", at(2)));
    }
}
