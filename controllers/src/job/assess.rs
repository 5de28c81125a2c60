//! Where a Job stands: what its pods come to together with what its status has counted, and whether it is over. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use client::Object;

use super::backoff::{self, Record};
use super::indexes::Indexes;
use super::pods::{self, is_failed, is_indexed, is_tracked};
use super::policy::{self, Verdict};
use crate::pod_state;

pub const COMPLETE: &str = "Complete";
pub const FAILED: &str = "Failed";
pub const FAILURE_TARGET: &str = "FailureTarget";
pub const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub const SUSPENDED: &str = "Suspended";

/// A Job and its pods as they are known.
pub struct Observed<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    pub status: &'a JobStatus,
    pub pods: &'a [Arc<Pod>],
    /// Pods whose finalizer was removed, which their copies may not show yet.
    pub released: &'a HashSet<String>,
    pub record: Record,
    pub now: Timestamp,
}

/// What it comes to.
#[derive(Clone, Debug)]
pub struct Assessment {
    pub active: Vec<Arc<Pod>>,
    pub ready: i32,
    pub terminating: i32,
    pub succeeded: i32,
    pub failed: i32,
    /// The indexes that the status has counted, and those with what is there now.
    pub counted_indexes: Indexes,
    pub succeeded_indexes: Indexes,
    /// Only with a backoff limit per index.
    pub failed_indexes: Option<Indexes>,
    /// Failed pods that stay until their index is tried again.
    pub held: HashMap<i32, Arc<Pod>>,
    pub record: Record,
    /// The condition that ends the Job.
    pub finished: Option<JobCondition>,
    /// When the Job's time is up.
    pub deadline: Option<Duration>,
}

pub fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The condition if it holds.
pub fn holding<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    condition(status, kind).filter(|condition| condition.status == "True")
}

/// Complete or failed: nothing is done for it any more.
pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| holding(status, COMPLETE).is_some() || holding(status, FAILED).is_some())
}

pub fn new_condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The pods that are counted by uid and not in the sums yet.
pub fn uncounted(status: &JobStatus) -> (HashSet<&str>, HashSet<&str>) {
    let Some(uncounted) = &status.uncounted_terminated_pods else { return (HashSet::new(), HashSet::new()) };
    let succeeded = uncounted.succeeded.iter().flatten().map(String::as_str).collect();
    let failed = uncounted.failed.iter().flatten().map(String::as_str).collect();
    (succeeded, failed)
}

impl Observed<'_> {
    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    fn has_limit_per_index(&self) -> bool {
        self.spec.backoff_limit_per_index.is_some()
    }

    /// Pods that are yet to be counted.
    fn uncounted_pods(&self, known: &HashSet<&str>, test: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let counts = |pod: &&Arc<Pod>| {
            is_tracked(pod)
                && !known.contains(pod.uid())
                && !self.released.contains(pod.uid())
                && (!is_indexed(self.spec) || pods::valid_index(self.spec, pod).is_some())
                && test(pod)
        };
        self.pods.iter().filter(counts).cloned().collect()
    }

    pub fn assess(&self) -> Assessment {
        let active: Vec<Arc<Pod>> = self.pods.iter().filter(|pod| pod_state::is_active(pod)).cloned().collect();
        let (known_succeeded, known_failed) = uncounted(self.status);
        let new_succeeded = self.uncounted_pods(&known_succeeded, |pod| pod_state::phase(pod) == "Succeeded");
        let new_failed = self.uncounted_pods(&known_failed, |pod| is_failed(self.spec, pod));
        let counting = new_failed.iter().filter(|pod| policy::judge(self.spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore);
        let mut assessment = Assessment {
            ready: number(active.iter().filter(|pod| pod_state::is_ready(pod)).count()),
            terminating: number(self.pods.iter().filter(|pod| pod_state::is_winding_down(pod)).count()),
            succeeded: self.status.succeeded.unwrap_or(0) + number(new_succeeded.len()) + number(known_succeeded.len()),
            failed: self.status.failed.unwrap_or(0) + number(counting.count()) + number(known_failed.len()),
            counted_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            held: HashMap::new(),
            record: self.record.after(&new_succeeded, &new_failed),
            finished: None,
            deadline: None,
            active,
        };
        assessment.finished = self.ending_condition(&assessment);
        if assessment.finished.is_none() {
            assessment.deadline = self.remaining_time();
        }
        if is_indexed(self.spec) {
            self.assess_indexes(&mut assessment);
        }
        assessment
    }

    fn ending_condition(&self, assessment: &Assessment) -> Option<JobCondition> {
        if let Some(met) = holding(self.status, SUCCESS_CRITERIA_MET) {
            return Some(met.clone());
        }
        if let Some(target) = holding(self.status, FAILURE_TARGET) {
            let (reason, message) = (target.reason.as_deref().unwrap_or(""), target.message.as_deref().unwrap_or(""));
            return Some(new_condition(FAILED, "True", reason, message, self.now));
        }
        let failure = |reason, message: &str| Some(new_condition(FAILURE_TARGET, "True", reason, message, self.now));
        if let Some(message) = self.message_of_failing_pod() {
            return failure("PodFailurePolicy", &message);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if assessment.failed > limit || self.is_past_restarts(limit) {
            return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.remaining_time().is_some_and(|left| left.is_zero()) {
            return failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        None
    }

    fn message_of_failing_pod(&self) -> Option<String> {
        let policy = self.spec.pod_failure_policy.as_ref()?;
        self.pods.iter().filter(|pod| is_failed(self.spec, pod)).find_map(|pod| match policy::judge(Some(policy), pod) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        })
    }

    /// Containers that are restarted in place count as failures too.
    fn is_past_restarts(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(pod_state::phase(pod), "Running" | "Pending"));
        let restarts: i32 = running
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()))
            .map(|container| container.restart_count)
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// How much of the Job's time is left; nothing if it has no deadline or the clock stands still.
    fn remaining_time(&self) -> Option<Duration> {
        if is_suspended(self.spec) {
            return None;
        }
        let allowed = SignedDuration::from_secs(self.spec.active_deadline_seconds?);
        // A Job that has just started has no time noted yet.
        let started = self.status.start_time.as_ref().map_or(self.now, |time| time.0);
        Some((allowed - self.now.duration_since(started)).max(SignedDuration::ZERO).unsigned_abs())
    }

    fn assess_indexes(&self, assessment: &mut Assessment) {
        let completions = self.completions();
        let tracked = || self.pods.iter().filter(|pod| is_tracked(pod));
        let succeeded = tracked().filter(|pod| pod_state::phase(pod) == "Succeeded").filter_map(|pod| pods::valid_index(self.spec, pod));
        assessment.counted_indexes = Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or(""), completions);
        assessment.succeeded_indexes = assessment.counted_indexes.with(succeeded);
        assessment.succeeded = assessment.succeeded_indexes.count();
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let counted = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or(""), completions);
            let failed = tracked().filter(|pod| self.has_failed_index(pod, limit)).filter_map(|pod| pods::valid_index(self.spec, pod));
            let failed = counted.with(failed);
            if assessment.finished.is_none() {
                assessment.finished = self.index_failure(&failed, &assessment.succeeded_indexes);
            }
            assessment.failed_indexes = Some(failed);
            assessment.held = self.held_pods(assessment);
        }
        if assessment.finished.is_none() {
            let met = policy::is_success(self.spec.success_policy.as_ref(), completions, &assessment.succeeded_indexes);
            assessment.finished = met.map(|message| new_condition(SUCCESS_CRITERIA_MET, "True", "SuccessPolicy", &message, self.now));
        }
    }

    /// The pod's failure is the last that its index may have.
    fn has_failed_index(&self, pod: &Pod, limit: i32) -> bool {
        if !is_failed(self.spec, pod) {
            return false;
        }
        match policy::judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => pods::index_failures(pod) >= limit,
        }
    }

    fn index_failure(&self, failed: &Indexes, succeeded: &Indexes) -> Option<JobCondition> {
        let failure = |reason, message| Some(new_condition(FAILURE_TARGET, "True", reason, message, self.now));
        if self.spec.max_failed_indexes.is_some_and(|most| failed.count() > most) {
            return failure("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes");
        }
        if !failed.is_empty() && failed.count() + succeeded.count() >= self.completions() {
            return failure("FailedIndexes", "Job has failed indexes");
        }
        None
    }

    /// For each index that is to be tried again, the pod that failed last: it keeps the count until the next one is there.
    fn held_pods(&self, assessment: &Assessment) -> HashMap<i32, Arc<Pod>> {
        let active: HashSet<i32> = assessment.active.iter().filter_map(|pod| pods::index(pod)).collect();
        let failed_indexes = assessment.failed_indexes.clone().unwrap_or_default();
        let mut held: HashMap<i32, Arc<Pod>> = HashMap::new();
        for pod in self.uncounted_pods(&HashSet::new(), |pod| is_failed(self.spec, pod)) {
            let Some(index) = pods::valid_index(self.spec, &pod) else { continue };
            if active.contains(&index) || assessment.succeeded_indexes.contains(index) || failed_indexes.contains(index) {
                continue;
            }
            let order = |pod: &Pod| (pods::all_index_failures(pod), backoff::finished_at(pod));
            let is_later = held.get(&index).is_none_or(|other| {
                let ((failures, at), (other_failures, other_at)) = (order(&pod), order(other));
                other_failures <= failures && at >= other_at
            });
            if is_later {
                held.insert(index, pod);
            }
        }
        held
    }

    /// Whether all that was wanted has succeeded and nothing runs any more.
    pub fn is_complete(&self, succeeded: i32, active: i32) -> bool {
        active == 0
            && match self.spec.completions {
                None => succeeded > 0,
                Some(completions) => succeeded >= completions,
            }
    }

    /// What to do about the number of pods.
    pub fn manage(&self, assessment: &Assessment) -> Step {
        let active = number(assessment.active.len());
        if is_suspended(self.spec) {
            return Step::Delete(pods::for_removal(self.spec, &assessment.active, assessment.active.len()));
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            // Once one has succeeded the others are left to finish.
            None if assessment.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - assessment.succeeded).min(parallelism).max(0),
        };
        let surplus = usize::try_from(active - wanted).unwrap_or(0);
        let mut gone = pods::for_removal(self.spec, &assessment.active, surplus);
        gone.truncate(super::BURST);
        if !gone.is_empty() {
            return Step::Delete(gone);
        }
        let going = if pods::replaces_only_failed(self.spec) { assessment.terminating } else { 0 };
        let missing = usize::try_from(wanted - going - active).unwrap_or(0).min(super::BURST);
        if missing == 0 {
            return Step::Nothing;
        }
        if !self.has_limit_per_index() {
            let wait = assessment.record.remaining(self.now);
            if !wait.is_zero() {
                return Step::Wait(wait);
            }
        }
        if is_indexed(self.spec) { self.create_indexes(assessment, missing) } else { Step::Create(vec![None; missing]) }
    }

    fn create_indexes(&self, assessment: &Assessment, missing: usize) -> Step {
        let of = |pods: &mut dyn Iterator<Item = &Arc<Pod>>| pods.filter_map(|pod| pods::index(pod)).collect::<Indexes>();
        let mut taken = assessment.succeeded_indexes.union(&of(&mut assessment.active.iter()));
        if pods::replaces_only_failed(self.spec) {
            taken = taken.union(&of(&mut self.pods.iter().filter(|pod| pod_state::is_winding_down(pod))));
        }
        if let Some(failed) = &assessment.failed_indexes {
            taken = taken.union(failed);
        }
        let mut pending = taken.first_missing(missing, self.completions());
        if self.has_limit_per_index() {
            let wait = |index: &i32| {
                assessment.held.get(index).map_or(Duration::ZERO, |pod| {
                    let failures = u32::try_from(pods::all_index_failures(pod)).unwrap_or(0) + 1;
                    backoff::remaining(failures, backoff::finished_at(pod), self.now)
                })
            };
            let shortest = pending.iter().map(wait).min().unwrap_or(Duration::ZERO);
            pending.retain(|index| wait(index).is_zero());
            if pending.is_empty() && !shortest.is_zero() {
                return Step::Wait(shortest);
            }
        }
        Step::Create(pending.into_iter().map(Some).collect())
    }
}

/// What to do about the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Nothing,
    Delete(Vec<Arc<Pod>>),
    /// One pod each, with a completion index if the Job is indexed.
    Create(Vec<Option<i32>>),
    /// It is too early to replace what failed.
    Wait(Duration),
}

pub fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
    use k8s_openapi::api::batch::v1::{SuccessPolicy, SuccessPolicyRule, UncountedTerminatedPods};
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

    use super::super::pods::tests::{indexed, tracked};
    use super::*;
    use crate::pod_state::tests::at;

    pub fn plain(parallelism: i32, completions: Option<i32>) -> JobSpec {
        JobSpec { parallelism: Some(parallelism), completions, backoff_limit: Some(2), ..JobSpec::default() }
    }

    pub fn observe<T>(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>], test: impl FnOnce(&Observed<'_>) -> T) -> T {
        let (job, released) = (Job::default(), HashSet::new());
        test(&Observed { job: &job, spec, status, pods, released: &released, record: Record::default(), now: at(1000) })
    }

    fn step(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>]) -> Step {
        observe(spec, status, pods, |observed| observed.manage(&observed.assess()))
    }

    fn reason(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>]) -> Option<String> {
        observe(spec, status, pods, |observed| observed.assess().finished.and_then(|condition| condition.reason))
    }

    fn running(count: i32) -> Vec<Arc<Pod>> {
        (0..count).map(|i| tracked(&format!("r{i}"), "Running", None)).collect()
    }

    fn finished(name: &str, index: Option<i32>, second: i64, exit_code: i32) -> Arc<Pod> {
        let mut pod = (*tracked(name, if exit_code == 0 { "Succeeded" } else { "Failed" }, index)).clone();
        let terminated = ContainerStateTerminated { finished_at: Some(Time(at(second))), exit_code, ..ContainerStateTerminated::default() };
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        let container = ContainerStatus { name: "c".to_owned(), state: Some(state), ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![container]);
        Arc::new(pod)
    }

    #[test]
    fn pods_are_created_up_to_the_parallelism_and_what_is_left() {
        let none = JobStatus::default();
        assert_eq!(step(&plain(3, Some(5)), &none, &[]), Step::Create(vec![None; 3]));
        assert_eq!(step(&plain(3, Some(5)), &none, &running(2)), Step::Create(vec![None]));
        let four = JobStatus { succeeded: Some(4), ..JobStatus::default() };
        assert_eq!(step(&plain(3, Some(5)), &four, &[]), Step::Create(vec![None]));
        assert_eq!(step(&plain(3, None), &four, &[]), Step::Nothing);
        assert_eq!(step(&plain(3, Some(5)), &four, &running(1)), Step::Nothing);
        assert!(matches!(step(&plain(3, Some(5)), &none, &running(5)), Step::Delete(pods) if pods.len() == 2));
        let mut suspended = plain(3, Some(5));
        suspended.suspend = Some(true);
        assert!(matches!(step(&suspended, &none, &running(3)), Step::Delete(pods) if pods.len() == 3));
    }

    #[test]
    fn failures_delay_and_in_the_end_fail_the_job() {
        let spec = plain(1, Some(1));
        let none = JobStatus::default();
        assert_eq!(step(&spec, &none, &[finished("f", None, 995, 1)]), Step::Wait(Duration::from_secs(5)));
        assert_eq!(step(&spec, &none, &[finished("f", None, 900, 1)]), Step::Create(vec![None]));
        let two = JobStatus { failed: Some(2), ..JobStatus::default() };
        assert_eq!(reason(&spec, &two, &[]), None);
        assert_eq!(reason(&spec, &two, &[finished("f", None, 900, 1)]).as_deref(), Some("BackoffLimitExceeded"));
        let uncounted = UncountedTerminatedPods { failed: Some(vec!["f".to_owned()]), succeeded: None };
        let counted = JobStatus { failed: Some(2), uncounted_terminated_pods: Some(uncounted), ..JobStatus::default() };
        assert_eq!(reason(&spec, &counted, &[finished("f", None, 900, 1)]).as_deref(), Some("BackoffLimitExceeded"));
    }

    #[test]
    fn time_runs_out_unless_the_job_is_suspended() {
        let mut spec = plain(1, Some(1));
        spec.active_deadline_seconds = Some(60);
        let started = |second| JobStatus { start_time: Some(Time(at(second))), ..JobStatus::default() };
        assert_eq!(reason(&spec, &started(900), &[]).as_deref(), Some("DeadlineExceeded"));
        let left = observe(&spec, &started(970), &[], |observed| observed.assess().deadline);
        assert_eq!(left, Some(Duration::from_secs(30)));
        spec.suspend = Some(true);
        assert_eq!(reason(&spec, &started(900), &[]), None);
    }

    #[test]
    fn indexes_are_filled_from_the_lowest() {
        let mut spec = indexed(6);
        spec.parallelism = Some(3);
        let status = JobStatus { completed_indexes: Some("0,2".to_owned()), succeeded: Some(2), ..JobStatus::default() };
        assert_eq!(step(&spec, &status, &[tracked("a", "Running", Some(3))]), Step::Create(vec![Some(1), Some(4)]));
        let assessment = observe(&spec, &status, &[finished("s", Some(1), 0, 0)], |observed| observed.assess());
        assert_eq!((assessment.succeeded, assessment.succeeded_indexes.to_string().as_str()), (3, "0-2"));
    }

    #[test]
    fn an_index_fails_by_its_own_limit() {
        let mut spec = indexed(2);
        spec.parallelism = Some(2);
        (spec.backoff_limit_per_index, spec.backoff_limit) = (Some(0), Some(i32::MAX));
        let pods = [finished("f", Some(0), 900, 1), tracked("r", "Running", Some(1))];
        let assessment = observe(&spec, &JobStatus::default(), &pods, |observed| observed.assess());
        assert_eq!(assessment.failed_indexes.map(|indexes| indexes.to_string()).as_deref(), Some("0"));
        assert!(assessment.finished.is_none() && assessment.held.is_empty());
        let pods = [finished("f", Some(0), 900, 1), finished("s", Some(1), 900, 0)];
        assert_eq!(reason(&spec, &JobStatus::default(), &pods).as_deref(), Some("FailedIndexes"));
        spec.backoff_limit_per_index = Some(1);
        let pods = [finished("f", Some(0), 995, 1), tracked("r", "Running", Some(1))];
        let assessment = observe(&spec, &JobStatus::default(), &pods, |observed| observed.assess());
        assert_eq!(assessment.held.keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!(step(&spec, &JobStatus::default(), &pods), Step::Wait(Duration::from_secs(5)));
    }

    #[test]
    fn policies_end_a_job() {
        let mut spec = plain(1, Some(1));
        let rule = PodFailurePolicyRule {
            action: "FailJob".to_owned(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                operator: "In".to_owned(),
                values: vec![42],
                container_name: None,
            }),
            on_pod_conditions: None,
        };
        spec.pod_failure_policy = Some(PodFailurePolicy { rules: vec![rule] });
        assert_eq!(reason(&spec, &JobStatus::default(), &[finished("f", None, 0, 42)]).as_deref(), Some("PodFailurePolicy"));
        assert_eq!(reason(&spec, &JobStatus::default(), &[finished("f", None, 0, 1)]), None);
        let mut spec = indexed(5);
        let rule = SuccessPolicyRule { succeeded_indexes: Some("0".to_owned()), succeeded_count: None };
        spec.success_policy = Some(SuccessPolicy { rules: vec![rule] });
        assert_eq!(reason(&spec, &JobStatus::default(), &[finished("s", Some(0), 0, 0)]).as_deref(), Some("SuccessPolicy"));
    }

    #[test]
    fn what_ended_a_job_once_ends_it_for_good() {
        let target = new_condition(FAILURE_TARGET, "True", "BackoffLimitExceeded", "m", at(0));
        let status = JobStatus { conditions: Some(vec![target]), ..JobStatus::default() };
        let finished = observe(&plain(1, Some(1)), &status, &[], |observed| observed.assess().finished).unwrap();
        assert_eq!((finished.type_.as_str(), finished.reason.as_deref()), (FAILED, Some("BackoffLimitExceeded")));
    }
}
