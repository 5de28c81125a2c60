//! What Jobs read out of their pods and write into them: the tracking finalizer, the completion index and the failures of an index. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::policy::{self, Verdict};
use crate::pod_control::pod_from_template;
use crate::{pod_ranking, pod_state};

/// A pod that has it is not counted yet.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Names that the server completes are cut to this length before.
const MAX_GENERATE_NAME: usize = 58;

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Pods are replaced only once they have failed, not as soon as they are being deleted.
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// Whether the pod counts as failed.
pub fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    match pod_state::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // Somebody deleted it before it was done.
        _ => !replaces_only_failed(spec) && pod.is_terminating(),
    }
}

/// The completion index; nothing if there is none.
pub fn index(pod: &Pod) -> Option<i32> {
    pod.annotation(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// The completion index, if it is one of the Job's.
pub fn valid_index(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    index(pod).filter(|index| *index < spec.completions.unwrap_or(0))
}

fn count(pod: &Pod, annotation: &str) -> i32 {
    pod.annotation(annotation).and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// Failures of the index before this pod, without those that a policy ignores.
pub fn index_failures(pod: &Pod) -> i32 {
    count(pod, INDEX_FAILURES)
}

/// All failures of the index before this pod.
pub fn all_index_failures(pod: &Pod) -> i32 {
    index_failures(pod).saturating_add(count(pod, INDEX_IGNORED_FAILURES))
}

/// A pod of the Job. `index` is its completion index, `replaced` the last pod that failed for it.
pub fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>, replaced: Option<&Pod>) -> Pod {
    let mut pod = pod_from_template(&spec.template, job);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return pod };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        note_failures(spec, annotations, replaced);
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.generate_name = Some(generate_name(job.name(), index));
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(format!("{}-{index}", job.name()));
    pod_spec.init_containers.iter_mut().flatten().chain(&mut pod_spec.containers).for_each(tell_index);
    pod
}

fn note_failures(spec: &JobSpec, annotations: &mut BTreeMap<String, String>, replaced: Option<&Pod>) {
    let (mut failures, mut ignored) = replaced.map_or((0, 0), |pod| (index_failures(pod), count(pod, INDEX_IGNORED_FAILURES)));
    if let Some(pod) = replaced {
        match policy::judge(spec.pod_failure_policy.as_ref(), pod) {
            Verdict::Ignore => ignored += 1,
            _ => failures += 1,
        }
    }
    annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
    if ignored > 0 {
        annotations.insert(INDEX_IGNORED_FAILURES.to_owned(), ignored.to_string());
    }
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}

fn generate_name(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let longest = MAX_GENERATE_NAME.saturating_sub(end.len());
    format!("{}{end}", job.get(..longest).unwrap_or(job))
}

/// The pods that go when there are too many: those of indexes that are not wanted, all but one of each index, then, up to `at_least`,
/// those that have come least far.
pub fn for_removal(spec: &JobSpec, active: &[Arc<Pod>], at_least: usize) -> Vec<Arc<Pod>> {
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    if is_indexed(spec) {
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in active {
            match valid_index(spec, pod) {
                Some(index) => by_index.entry(index).or_default().push(pod.clone()),
                None => gone.push(pod.clone()),
            }
        }
        for mut pods in by_index.into_values() {
            pods.sort_by(|a, b| pod_ranking::compare_active(a, b));
            left.extend(pods.pop());
            gone.append(&mut pods);
        }
    } else {
        left = active.to_vec();
    }
    let more = at_least.saturating_sub(gone.len());
    if more > 0 {
        left.sort_by(|a, b| pod_ranking::compare_active(a, b));
        gone.extend(left.into_iter().take(more));
    }
    gone
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::pod_state::tests::pod;

    /// A tracked pod in that phase, with that index if any.
    pub fn tracked(name: &str, phase: &str, index: Option<i32>) -> Arc<Pod> {
        let mut pod = pod(name, None);
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        pod.metadata.annotations = index.map(|index| [(INDEX.to_owned(), index.to_string())].into());
        Arc::new(pod)
    }

    pub fn indexed(completions: i32) -> JobSpec {
        JobSpec { completion_mode: Some("Indexed".to_owned()), completions: Some(completions), ..JobSpec::default() }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let mut job = Job::default();
        job.metadata.name = Some("work".to_owned());
        let mut spec = indexed(5);
        spec.template.spec.get_or_insert_default().containers = vec![Container::default()];
        spec.backoff_limit_per_index = Some(2);
        let made = new_pod(&job, &spec, Some(3), None);
        assert!(is_tracked(&made));
        assert_eq!((index(&made), made.label(INDEX), index_failures(&made)), (Some(3), Some("3"), 0));
        assert_eq!(made.metadata.generate_name.as_deref(), Some("work-3-"));
        let pod_spec = made.spec.as_ref().unwrap();
        assert_eq!(pod_spec.hostname.as_deref(), Some("work-3"));
        assert_eq!(pod_spec.containers[0].env.as_ref().unwrap()[0].name, INDEX_VARIABLE);
        assert_eq!(index_failures(&new_pod(&job, &spec, Some(3), Some(&made))), 1);
        let plain = new_pod(&job, &JobSpec::default(), None, None);
        assert_eq!((index(&plain), plain.metadata.generate_name.as_deref()), (None, Some("work-")));
        assert_eq!(generate_name(&"a".repeat(63), 12).len(), MAX_GENERATE_NAME);
    }

    #[test]
    fn deleted_pods_have_failed_unless_only_failed_ones_are_replaced() {
        let mut going = (*tracked("p", "Running", None)).clone();
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(crate::pod_state::tests::at(0)));
        let failed_only = JobSpec { pod_replacement_policy: Some("Failed".to_owned()), ..JobSpec::default() };
        assert!(is_failed(&JobSpec::default(), &going) && !is_failed(&failed_only, &going));
        assert!(is_failed(&failed_only, &tracked("p", "Failed", None)));
        assert!(!is_failed(&JobSpec::default(), &tracked("p", "Running", None)));
    }

    #[test]
    fn surplus_and_duplicate_indexes_go_first() {
        let active = [
            tracked("a", "Pending", Some(0)),
            tracked("b", "Running", Some(0)),
            tracked("c", "Running", Some(1)),
            tracked("d", "Running", Some(7)),
        ];
        assert_eq!(names(&for_removal(&indexed(3), &active, 0)), ["d", "a"]);
        assert_eq!(names(&for_removal(&indexed(3), &active, 3)).len(), 3);
        let plain = [tracked("a", "Running", None), tracked("b", "Pending", None)];
        assert_eq!(names(&for_removal(&JobSpec::default(), &plain, 1)), ["b"]);
    }
}
