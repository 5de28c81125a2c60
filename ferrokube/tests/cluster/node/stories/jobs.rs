//! Jobs: what becomes of one by how its pods end, how long it may take, and that it can be stopped and go on.

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

use crate::node::asking::until;
use crate::node::place::{Place, container, phase, with};

fn job(name: &str, command: &str, spec: Value) -> Value {
    let pod = json!({ "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container(command)] } });
    json!({ "metadata": { "name": name }, "spec": with(json!({ "template": pod }), spec) })
}

fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Waits for the end of a job, and says how it came: `Failed: PodFailurePolicy`.
async fn end(place: &Place, name: &str) -> (String, Job) {
    let job = place.until_is(name, "it has ended", |job: &Job| condition(job, "Failed").or(condition(job, "Complete")).is_some()).await;
    let last = condition(&job, "Failed").or(condition(&job, "Complete")).expect("a condition");
    (format!("{}: {}", last.type_, last.reason.as_deref().unwrap_or_default()), job)
}

async fn pods(place: &Place, job: &str) -> Vec<Pod> {
    place.list(&format!("batch.kubernetes.io/job-name={job}")).await
}

pub(super) async fn story(place: Place) {
    tokio::join!(
        fails_at_once(&place),
        does_not_count_what_is_ignored(&place),
        counts_what_is_to_be_counted(&place),
        fails_an_index_alone(&place),
        is_done_when_enough_is(&place),
        has_a_deadline(&place),
        is_stopped_and_goes_on(&place),
    );
}

async fn fails_at_once(place: &Place) {
    let rules = json!([{ "action": "FailJob", "onExitCodes": { "containerName": "c", "operator": "In", "values": [42] } }]);
    let spec = json!({ "backoffLimit": 6, "podFailurePolicy": { "rules": rules } });
    place.create::<Job>(job("hopeless", "exit 42", spec)).await;
    let (how, job) = end(place, "hopeless").await;
    assert_eq!(how, "Failed: PodFailurePolicy");
    let pod = pods(place, "hopeless").await.pop().and_then(|pod| pod.metadata.name).expect("its pod");
    let message = condition(&job, "Failed").and_then(|condition| condition.message.clone());
    let words = format!("Container c for pod {}/{pod} failed with exit code 42 matching FailJob rule at index 0", place.namespace);
    assert_eq!(message, Some(words));
    assert_eq!(job.status.and_then(|status| status.failed), Some(1), "it was tried once");
}

/// A job that may not fail once, whose pods end as a config map says.
async fn does_not_count_what_is_ignored(place: &Place) {
    place.create::<ConfigMap>(json!({ "metadata": { "name": "fate" }, "data": { "CODE": "7" } })).await;
    let rules = json!([{ "action": "Ignore", "onExitCodes": { "operator": "In", "values": [7] } }]);
    let mut made = job("patient", "exit $CODE", json!({ "backoffLimit": 0, "podFailurePolicy": { "rules": rules } }));
    made["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": "fate" } }]);
    place.create::<Job>(made).await;
    until("a pod has failed", async || pods(place, "patient").await.iter().any(|pod| phase(pod) == "Failed")).await;
    place.merge::<ConfigMap>("fate", json!({ "data": { "CODE": "0" } })).await;
    let (how, job) = end(place, "patient").await;
    let status = job.status.unwrap_or_default();
    assert_eq!((how.as_str(), status.succeeded, status.failed.unwrap_or(0)), ("Complete: CompletionsReached", Some(1), 0));
}

async fn counts_what_is_to_be_counted(place: &Place) {
    // The first rule that fits decides; the second would fail the job for another reason.
    let rules = json!([
        { "action": "Count", "onExitCodes": { "operator": "In", "values": [3] } },
        { "action": "FailJob", "onExitCodes": { "operator": "NotIn", "values": [0] } },
    ]);
    place.create::<Job>(job("counted", "exit 3", json!({ "backoffLimit": 0, "podFailurePolicy": { "rules": rules } }))).await;
    let (how, _) = end(place, "counted").await;
    assert_eq!(how, "Failed: BackoffLimitExceeded");
}

async fn fails_an_index_alone(place: &Place) {
    let command = "case $JOB_COMPLETION_INDEX in 1) exit 5;; 2) exit 6;; *) exit 0;; esac";
    let rules = json!([{ "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [5] } }]);
    let mut indexed = job(
        "indexed",
        command,
        json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 4, "backoffLimitPerIndex": 0, "podFailurePolicy": { "rules": rules } }),
    );
    indexed["spec"]["maxFailedIndexes"] = json!(2);
    place.create::<Job>(indexed).await;
    // Were the index tried again, that would be ten seconds later and once more.
    let retried = json!({ "completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 3, "podFailurePolicy": { "rules": rules } });
    place.create::<Job>(job("given-up", command, retried)).await;
    for (name, failed, completed, count) in [("indexed", "1,2", "0,3", 2), ("given-up", "1", "0", 1)] {
        let (how, job) = end(place, name).await;
        let status = job.status.unwrap_or_default();
        assert_eq!(how, "Failed: FailedIndexes");
        assert_eq!((status.failed_indexes.as_deref(), status.completed_indexes.as_deref()), (Some(failed), Some(completed)));
        assert_eq!(status.failed, Some(count), "no index was tried twice");
    }
}

async fn is_done_when_enough_is(place: &Place) {
    let command = "[ $JOB_COMPLETION_INDEX = 1 ] || exec sleep 1000";
    let policy = json!({ "rules": [{ "succeededIndexes": "1-2", "succeededCount": 1 }] });
    let spec = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": policy });
    place.create::<Job>(job("enough", command, spec)).await;
    let (how, job) = end(place, "enough").await;
    let status = job.status.unwrap_or_default();
    assert_eq!((how.as_str(), status.completed_indexes.as_deref(), status.succeeded), ("Complete: SuccessPolicy", Some("1"), Some(1)));
    until("the others are ended", async || pods(place, "enough").await.iter().all(|pod| phase(pod) != "Running")).await;
}

async fn has_a_deadline(place: &Place) {
    place.create::<Job>(job("late", "exec sleep 1000", json!({ "activeDeadlineSeconds": 3 }))).await;
    place.until_is("late", "it runs", |job: &Job| job.status.as_ref().is_some_and(|status| status.active == Some(1))).await;
    let (how, _) = end(place, "late").await;
    assert_eq!(how, "Failed: DeadlineExceeded");
    until("its pod is ended", async || pods(place, "late").await.is_empty()).await;
}

async fn is_stopped_and_goes_on(place: &Place) {
    place.create::<ConfigMap>(json!({ "metadata": { "name": "length" }, "data": { "SECONDS_LONG": "1000" } })).await;
    let mut made = job("stopped", "exec sleep $SECONDS_LONG", json!({ "suspend": true, "completions": 2, "parallelism": 2 }));
    made["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": "length" } }]);
    place.create::<Job>(made).await;
    place.until_is("stopped", "it is suspended", |job: &Job| condition(job, "Suspended").is_some()).await;
    assert!(pods(place, "stopped").await.is_empty());

    place.merge::<Job>("stopped", json!({ "spec": { "suspend": false } })).await;
    until("its pods run", async || pods(place, "stopped").await.iter().filter(|pod| phase(pod) == "Running").count() == 2).await;
    place.is_told("stopped", "Resumed", "Job resumed").await;
    place.merge::<Job>("stopped", json!({ "spec": { "suspend": true } })).await;
    until("its pods are gone", async || pods(place, "stopped").await.is_empty()).await;
    place
        .until_is("stopped", "it is suspended again", |job: &Job| {
            let status = job.status.clone().unwrap_or_default();
            condition(job, "Suspended").is_some() && status.active.unwrap_or(0) == 0 && status.start_time.is_none()
        })
        .await;

    place.merge::<ConfigMap>("length", json!({ "data": { "SECONDS_LONG": "0" } })).await;
    place.merge::<Job>("stopped", json!({ "spec": { "suspend": false } })).await;
    let (how, job) = end(place, "stopped").await;
    assert_eq!((how.as_str(), job.status.and_then(|status| status.succeeded)), ("Complete: CompletionsReached", Some(2)));
}
