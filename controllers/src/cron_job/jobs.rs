//! The Jobs of a CronJob: how they are made, what they tell its status, and which are old enough to go. Pure.

use std::sync::Arc;

use apimachinery::time_zone;
use client::Object;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job, JobCondition};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::job::COMPLETE;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The condition with which a Job ended.
pub fn ending(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| matches!(condition.type_.as_str(), COMPLETE | "Failed") && condition.status == "True")
}

pub fn name(cron_job: &CronJob, scheduled: i64) -> String {
    format!("{}-{}", cron_job.name(), scheduled / 60)
}

/// The Job for a scheduled time. The error is that of the time zone.
pub fn new_job(cron_job: &CronJob, scheduled: i64) -> Result<Job, String> {
    let template = &cron_job.spec.job_template;
    let wanted = template.metadata.clone().unwrap_or_default();
    let mut job = Job::default();
    job.metadata.name = Some(name(cron_job, scheduled));
    job.metadata.namespace = cron_job.metadata.namespace.clone();
    job.metadata.labels = wanted.labels;
    job.metadata.annotations = wanted.annotations;
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(SCHEDULED_AT.to_owned(), zoned_time(scheduled, cron_job.spec.time_zone.as_deref())?);
    job.metadata.owner_references = Some(vec![cron_job.controller_reference()]);
    job.spec = template.spec.clone();
    Ok(job)
}

/// RFC 3339 in the zone.
fn zoned_time(second: i64, zone: Option<&str>) -> Result<String, String> {
    let zone = time_zone::load(zone.unwrap_or(""))?;
    let zoned = Timestamp::from_second(second).map_err(|error| error.to_string())?.to_zoned_datetime(zone);
    let format = if zoned.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    Ok(zoned.strftime(format).to_string())
}

/// What is told of a Job in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Unexpected(String),
    Completed { job: String, condition: String },
}

pub fn is_active(status: &CronJobStatus, uid: &str) -> bool {
    status.active.iter().flatten().any(|job| job.uid.as_deref() == Some(uid))
}

pub fn remove_active(status: &mut CronJobStatus, uid: &str) {
    let active = status.active.take().unwrap_or_default().into_iter().filter(|job| job.uid.as_deref() != Some(uid));
    status.active = Some(active.collect::<Vec<_>>()).filter(|active| !active.is_empty());
}

pub fn add_active(status: &mut CronJobStatus, job: &Job) {
    let reference: ObjectReference = job.reference().0;
    status.active.get_or_insert_default().push(reference);
}

/// Brings the status up to date with the Jobs that are there.
pub fn absorb(status: &mut CronJobStatus, jobs: &[Arc<Job>]) -> Vec<Notice> {
    let mut notices = Vec::new();
    for job in jobs {
        let known = is_active(status, job.uid());
        let Some(ending) = ending(job) else {
            if !known {
                notices.push(Notice::Unexpected(job.name().to_owned()));
            }
            continue;
        };
        if known {
            remove_active(status, job.uid());
            notices.push(Notice::Completed { job: job.name().to_owned(), condition: ending.type_.clone() });
        }
        let completed = job.status.as_ref().and_then(|job| job.completion_time.clone()).filter(|_| ending.type_ == COMPLETE);
        if completed > status.last_successful_time {
            status.last_successful_time = completed;
        }
    }
    notices
}

/// The finished Jobs beyond the limits, oldest first.
pub fn expired(cron_job: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let beyond = |limit: Option<i32>, complete: bool| {
        let Some(limit) = limit else { return Vec::new() };
        let mut finished: Vec<Arc<Job>> =
            jobs.iter().filter(|job| ending(job).is_some_and(|ending| (ending.type_ == COMPLETE) == complete)).cloned().collect();
        let started = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone());
        // Those that never started are the youngest.
        finished.sort_by(|a, b| {
            let (a_start, b_start) = (started(a), started(b));
            a_start.is_none().cmp(&b_start.is_none()).then_with(|| a_start.cmp(&b_start)).then_with(|| a.name().cmp(b.name()))
        });
        finished.truncate(finished.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        finished
    };
    let mut expired = beyond(cron_job.spec.successful_jobs_history_limit, true);
    expired.extend(beyond(cron_job.spec.failed_jobs_history_limit, false));
    expired
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod_state::tests::at;

    fn job(name: &str, ended: Option<&str>, second: i64) -> Arc<Job> {
        let mut job = Job::default();
        job.metadata.name = Some(name.to_owned());
        job.metadata.uid = Some(name.to_owned());
        let status = job.status.get_or_insert_default();
        status.start_time = Some(Time(at(second)));
        if let Some(ended) = ended {
            status.conditions = Some(vec![JobCondition { type_: ended.to_owned(), status: "True".to_owned(), ..JobCondition::default() }]);
            status.completion_time = (ended == COMPLETE).then(|| Time(at(second + 10)));
        }
        Arc::new(job)
    }

    #[test]
    fn a_job_is_named_after_the_minute() {
        let mut cron_job = CronJob::default();
        cron_job.metadata.name = Some("hello".to_owned());
        cron_job.spec.time_zone = Some("Asia/Tokyo".to_owned());
        let made = new_job(&cron_job, 1_700_000_040).unwrap();
        assert_eq!((made.name(), made.annotation(SCHEDULED_AT)), ("hello-28333334", Some("2023-11-15T07:14:00+09:00")));
        cron_job.spec.time_zone = None;
        assert_eq!(new_job(&cron_job, 1_700_000_040).unwrap().annotation(SCHEDULED_AT), Some("2023-11-14T22:14:00Z"));
    }

    #[test]
    fn the_status_learns_from_jobs() {
        let mut status = CronJobStatus::default();
        for known in ["done", "failed", "running"] {
            add_active(&mut status, &job(known, None, 0));
        }
        let jobs = [job("done", Some(COMPLETE), 5), job("failed", Some("Failed"), 6), job("running", None, 7), job("strange", None, 8)];
        let notices = absorb(&mut status, &jobs);
        let completed = |job: &str, condition: &str| Notice::Completed { job: job.to_owned(), condition: condition.to_owned() };
        assert_eq!(notices, [completed("done", COMPLETE), completed("failed", "Failed"), Notice::Unexpected("strange".to_owned())]);
        assert!(is_active(&status, "running") && !is_active(&status, "done"));
        assert_eq!(status.last_successful_time, Some(Time(at(15))));
        absorb(&mut status, &[job("older", Some(COMPLETE), 1)]);
        assert_eq!(status.last_successful_time, Some(Time(at(15))));
    }

    #[test]
    fn the_oldest_finished_jobs_expire() {
        let mut cron_job = CronJob::default();
        (cron_job.spec.successful_jobs_history_limit, cron_job.spec.failed_jobs_history_limit) = (Some(1), Some(0));
        let jobs = [
            job("b", Some(COMPLETE), 2),
            job("a", Some(COMPLETE), 1),
            job("c", Some(COMPLETE), 3),
            job("f", Some("Failed"), 4),
            job("r", None, 0),
        ];
        let names: Vec<String> = expired(&cron_job, &jobs).iter().map(|job| job.name().to_owned()).collect();
        assert_eq!(names, ["a", "b", "f"]);
    }
}
