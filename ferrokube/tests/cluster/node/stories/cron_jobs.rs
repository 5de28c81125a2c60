//! CronJobs: a moment that was missed is made up for, the next one finds the last job still running and does what the concurrency policy
//! says, and of the jobs that are done as many stay as the limits allow.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::node::asking::until;
use crate::node::place::{Place, container, with};

fn cron_job(name: &str, command: &str, spec: Value) -> Value {
    let pod = json!({ "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container(command)] } });
    let template = json!({ "metadata": { "labels": { "of": name } }, "spec": { "backoffLimit": 0, "template": pod } });
    json!({ "metadata": { "name": name }, "spec": with(json!({ "schedule": "* * * * *", "jobTemplate": template }), spec) })
}

async fn jobs(place: &Place, of: &str) -> Vec<Job> {
    let mut jobs: Vec<Job> = place.list(&format!("of={of}")).await;
    jobs.retain(|job| job.metadata.deletion_timestamp.is_none());
    jobs
}

/// Lets the controller believe that a moment has passed unseen, so that the job comes at once and not at the next minute.
async fn missed_one(place: &Place, name: &str) {
    let earlier = Timestamp::now() - SignedDuration::from_mins(2);
    let status = json!({ "status": { "lastScheduleTime": earlier.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() } });
    let patched = place.api::<CronJob>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
    patched.expect("a status");
}

pub(super) async fn story(place: Place) {
    tokio::join!(the_next_moment_comes(&place), old_jobs_go(&place));
}

async fn the_next_moment_comes(place: &Place) {
    for (name, policy) in [("forbidden", "Forbid"), ("replaced", "Replace"), ("allowed", "Allow")] {
        place.create::<CronJob>(cron_job(name, "exec sleep 1000", json!({ "concurrencyPolicy": policy }))).await;
        missed_one(place, name).await;
    }
    // At a minute's end the next one may come before this is seen.
    let mut first = Vec::new();
    for name in ["forbidden", "replaced", "allowed"] {
        let is_active = |cron_job: &CronJob| {
            cron_job.status.as_ref().and_then(|status| status.active.as_ref()).is_some_and(|active| !active.is_empty())
        };
        let cron_job = place.until_is(name, "a job runs", is_active).await;
        first.push(cron_job.status.and_then(|status| status.active).and_then(|mut active| active.pop()).and_then(|active| active.name));
    }
    let first: Vec<String> = first.into_iter().flatten().collect();
    let moment = |job: &str| job.rsplit('-').next().and_then(|minutes| minutes.parse::<i64>().ok()).expect("a job is named by its minute");

    until("both are allowed", async || jobs(place, "allowed").await.len() >= 2).await;
    place
        .is_told("forbidden", "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
        .await;
    let forbidden = jobs(place, "forbidden").await;
    let [only] = &forbidden[..] else { panic!("there is one job: {forbidden:?}") };
    assert_eq!(only.metadata.name.as_deref(), Some(first[0].as_str()));
    until("the first is replaced", async || {
        let now = jobs(place, "replaced").await;
        now.len() == 1 && now.iter().filter_map(|job| job.metadata.name.as_deref()).all(|name| moment(name) > moment(&first[1]))
    })
    .await;
    let owner = only.metadata.owner_references.iter().flatten().next().map(|owner| (owner.kind.as_str(), owner.name.as_str()));
    assert_eq!(owner, Some(("CronJob", "forbidden")));
}

/// What `kubectl create job NAME --from cronjob/…` makes.
async fn start_by_hand(place: &Place, cron_job: &CronJob, name: &str, code: &str) {
    let owner = json!({ "apiVersion": "batch/v1", "kind": "CronJob", "name": cron_job.metadata.name, "uid": cron_job.metadata.uid, "controller": true });
    let template = cron_job.spec.job_template.clone();
    let mut job = json!({
        "metadata": {
            "name": name,
            "annotations": { "cronjob.kubernetes.io/instantiate": "manual" },
            "labels": template.metadata.and_then(|metadata| metadata.labels),
            "ownerReferences": [owner],
        },
        "spec": template.spec,
    });
    job["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{ "name": "CODE", "value": code }]);
    place.create::<Job>(job).await;
}

async fn old_jobs_go(place: &Place) {
    let limits = json!({ "schedule": "0 0 29 2 *", "successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1 });
    let cron_job = place.create::<CronJob>(cron_job("history", "exit $CODE", limits)).await;
    // Of jobs that started in the same second, that with the greatest name counts as the last.
    for (n, code) in ["0", "0", "1", "0", "1"].into_iter().enumerate() {
        start_by_hand(place, &cron_job, &format!("by-hand-{n}"), code).await;
    }
    until("old ones are gone", async || {
        let mut left: Vec<String> = jobs(place, "history").await.into_iter().filter_map(|job| job.metadata.name).collect();
        left.sort();
        left == ["by-hand-1", "by-hand-3", "by-hand-4"]
    })
    .await;
    place.is_told("history", "SuccessfulDelete", "Deleted job by-hand-0").await;
    place.is_told("history", "SuccessfulDelete", "Deleted job by-hand-2").await;
}
