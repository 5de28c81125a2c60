//! Deletes Jobs some time after they have finished, if `ttlSecondsAfterFinished` says so.
//!
//! The decision is pure. Before it deletes, the shell asks the server: the time may have been changed just now.

use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::{Informer, Object, ObjectKey, Queue, answer, controller};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};

use crate::manager::Context;
use crate::{failure, metrics};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the job: {}", failure::message(.0))]
    Read(#[source] kube::Error),
    #[error("deleting the job: {}", failure::message(.0))]
    Delete(#[source] kube::Error),
}

/// When the Job's time is over; nothing if it stays for good or is on its way already.
fn expiry(job: &Job) -> Option<Timestamp> {
    if job.is_terminating() {
        return None;
    }
    let ttl = SignedDuration::from_secs(i64::from(job.spec.as_ref()?.ttl_seconds_after_finished?));
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    ended.last_transition_time.as_ref()?.0.checked_add(ttl).ok()
}

/// How long the Job stays.
fn remaining(job: &Job, now: Timestamp) -> Option<Duration> {
    Some(expiry(job)?.duration_since(now).max(SignedDuration::ZERO).unsigned_abs())
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let jobs = context.informers.of::<Job>();
    let queue = Queue::named("ttl_jobs_to_delete");
    let wake = queue.clone();
    jobs.on_change(move |change| {
        if remaining(change.object(), clock::now()).is_some() {
            wake.add(change.object().key());
        }
    });
    jobs.synced().await;
    let workers = context.config.concurrent_ttl_after_finished_syncs;
    controller::run(context.name, queue, workers, context.shutdown, |key| reconcile(&context.client, &jobs, key)).await;
}

async fn reconcile(client: &Client, jobs: &Informer<Job>, key: ObjectKey) -> Result<Outcome, Error> {
    let Some(left) = jobs.get_key(&key).and_then(|job| remaining(&job, clock::now())) else { return Ok(Outcome::Done) };
    if !left.is_zero() {
        return Ok(Outcome::After(left));
    }
    let api = Api::<Job>::namespaced(client.clone(), &key.namespace);
    let Some(fresh) = api.get_opt(&key.name).await.map_err(Error::Read)? else { return Ok(Outcome::Done) };
    match remaining(&fresh, clock::now()) {
        None => Ok(Outcome::Done),
        Some(left) if !left.is_zero() => Ok(Outcome::After(left)),
        Some(_) => {
            let only = Preconditions { uid: fresh.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
            answer::or_absent(api.delete(&key.name, &params.preconditions(only)).await).map_err(Error::Delete)?;
            if let Some(expired) = expiry(&fresh) {
                let late = clock::now().duration_since(expired);
                metrics::JOB_DELETION_DURATION.only().observe(late.as_secs_f64().max(0.0));
            }
            Ok(Outcome::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::JobCondition;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod_state::tests::at;

    fn job(ttl: Option<i32>, condition: &str) -> Job {
        let mut job = Job::default();
        job.spec.get_or_insert_default().ttl_seconds_after_finished = ttl;
        job.status.get_or_insert_default().conditions = Some(vec![JobCondition {
            type_: condition.to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(at(100))),
            ..JobCondition::default()
        }]);
        job
    }

    #[test]
    fn a_finished_job_stays_for_its_time() {
        let left = |job: &Job, now| remaining(job, at(now)).map(|left| left.as_secs());
        assert_eq!(left(&job(Some(60), "Complete"), 130), Some(30));
        assert_eq!(left(&job(Some(60), "Failed"), 200), Some(0));
        assert_eq!(left(&job(Some(0), "Failed"), 100), Some(0));
        assert_eq!(left(&job(None, "Failed"), 200), None);
        assert_eq!(left(&job(Some(60), "Suspended"), 200), None);
        let mut going = job(Some(60), "Complete");
        going.metadata.deletion_timestamp = Some(Time(at(150)));
        assert_eq!(left(&going, 200), None);
    }
}
