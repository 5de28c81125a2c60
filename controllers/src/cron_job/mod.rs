//! CronJobs: starts a Job whenever the schedule says so.
//!
//! [`schedule`], [`due`] and [`jobs`] decide; this file watches and writes. Of times that were missed only the last is made up for.

mod due;
mod jobs;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use apimachinery::time_zone;
use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer, controller};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::manager::Context;
use crate::own_writes::{OwnWrites, UNSEEN_RETRY};
use crate::{failure, metrics};
use jobs::Notice;
use schedule::Schedule;

/// A CronJob is looked at so long after its time, so that clocks that differ a little do no harm.
const AFTER_SCHEDULE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading job {name}: {}", failure::message(source))]
    Read { name: String, source: kube::Error },
    #[error("could not replace job {0}")]
    Replace(String),
    #[error("creating job {name}: {}", failure::message(source))]
    Create { name: String, source: kube::Error },
    #[error("making a job: {0}")]
    Template(String),
    #[error("updating the status: {}", failure::message(.0))]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let shell = Arc::new(Shell::new(&context));
    shell.clone().follow();
    tokio::join!(shell.cron_jobs.synced(), shell.jobs.synced());
    let (queue, workers) = (shell.queue.clone(), context.config.concurrent_cron_job_syncs);
    controller::run(context.name, queue, workers, context.shutdown, |key| shell.reconcile(key)).await;
}

struct Shell {
    client: Client,
    recorder: Recorder,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    queue: Queue<ObjectKey>,
    own_writes: OwnWrites,
}

fn now() -> i64 {
    clock::now().as_second()
}

fn time(second: i64) -> Option<Time> {
    k8s_openapi::jiff::Timestamp::from_second(second).ok().map(Time)
}

/// A schedule with a zone of its own, which is not what `timeZone` is for.
fn names_zone(schedule: &str) -> bool {
    schedule.contains("TZ")
}

fn parse(cron_job: &CronJob) -> Result<Schedule, String> {
    let spec = &cron_job.spec;
    Schedule::parse(&spec.schedule, spec.time_zone.as_deref().filter(|_| !names_zone(&spec.schedule)))
}

impl Shell {
    fn new(context: &Context) -> Shell {
        let jobs = context.informers.of::<Job>();
        jobs.index_controllers();
        Shell {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            cron_jobs: context.informers.of(),
            jobs,
            queue: Queue::named("cronjob"),
            own_writes: OwnWrites::default(),
        }
    }

    fn follow(self: Arc<Self>) {
        let shell = self.clone();
        self.cron_jobs.on_change(move |change| match change {
            Change::Updated { old, new } if old.spec.schedule != new.spec.schedule || old.spec.time_zone != new.spec.time_zone => {
                shell.reschedule(new);
            }
            _ => shell.queue.add(change.object().key()),
        });
        let shell = self.clone();
        self.jobs.on_change(move |change| {
            for job in change.old().into_iter().chain([change.object()]) {
                if let Some(owner) = job.controller().filter(|owner| owner.kind == "CronJob")
                    && let Some(cron_job) = shell.cron_jobs.get(job.namespace(), &owner.name).filter(|c| c.uid() == owner.uid)
                {
                    shell.queue.add(cron_job.key());
                }
            }
        });
    }

    /// What the new schedule missed in the past is not made up for: the next look is at its next time.
    fn reschedule(&self, cron_job: &CronJob) {
        match parse(cron_job) {
            Ok(schedule) => {
                if let Some(wait) = wait(cron_job, &schedule) {
                    self.queue.add_after(cron_job.key(), wait);
                }
            }
            Err(_) => {
                let message = format!("unparseable schedule for cronjob: {}", cron_job.spec.schedule);
                self.recorder.warning(&cron_job.reference(), "UnParseableCronJobSchedule", message);
            }
        }
    }

    fn api(&self, cron_job: &CronJob) -> Api<Job> {
        Api::namespaced(self.client.clone(), cron_job.namespace())
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(cron_job) = self.cron_jobs.get_key(&key) else {
            self.own_writes.forget(&key);
            return Ok(Outcome::Done);
        };
        if !self.own_writes.are_seen_in(&*cron_job) {
            return Ok(Outcome::After(UNSEEN_RETRY));
        }
        let jobs = self.jobs.controlled_by(cron_job.uid());
        let before = cron_job.status.clone().unwrap_or_default();
        let mut status = before.clone();
        for job in jobs::expired(&cron_job, &jobs) {
            self.delete(&cron_job, &job, &mut status).await;
        }
        let next = self.bring_further(&cron_job, &jobs, &mut status).await;
        if status != before {
            self.write_status(&cron_job, status).await?;
        }
        Ok(next?.map_or(Outcome::Done, Outcome::After))
    }

    /// Says when to look again.
    async fn bring_further(&self, cron_job: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) -> Result<Option<Duration>, Error> {
        let about = cron_job.reference();
        for notice in jobs::absorb(status, jobs) {
            match notice {
                Notice::Unexpected(job) => {
                    let message = format!("Saw a job that the controller did not create or forgot: {job}");
                    self.recorder.warning(&about, "UnexpectedJob", message);
                }
                Notice::Completed { job, condition } => {
                    let message = format!("Saw completed job: {job}, condition: {condition}");
                    self.recorder.normal(&about, "SawCompletedJob", message);
                }
            }
        }
        self.drop_missing(cron_job, jobs, status).await?;
        if cron_job.is_terminating() {
            return Ok(None);
        }
        let Some(schedule) = self.schedule(cron_job) else { return Ok(None) };
        let mut observed = cron_job.clone();
        observed.status = Some(status.clone());
        let started = self.start_if_due(&observed, &schedule, status).await?;
        observed.status = Some(status.clone());
        Ok(if started { wait(&observed, &schedule) } else { None })
    }

    /// The schedule, unless nothing is to be started at all.
    fn schedule(&self, cron_job: &CronJob) -> Option<Schedule> {
        let (about, spec) = (cron_job.reference(), &cron_job.spec);
        if let Some(name) = &spec.time_zone
            && let Err(error) = time_zone::load(name)
        {
            self.recorder.warning(&about, "UnknownTimeZone", format!("invalid timeZone: {}: {error}", quote(name)));
            return None;
        }
        if spec.suspend == Some(true) {
            return None;
        }
        let quoted = quote(&spec.schedule);
        if names_zone(&spec.schedule) {
            let message = format!(
                "CRON_TZ or TZ used in schedule {quoted} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.recorder.warning(&about, "UnsupportedSchedule", message);
        }
        match parse(cron_job) {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                self.recorder.warning(&about, "UnparseableSchedule", format!("unparseable schedule: {quoted} : {error}"));
                None
            }
        }
    }

    /// Active Jobs that are not there any more; the local copy may not know them yet, so the server is asked.
    async fn drop_missing(&self, cron_job: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) -> Result<(), Error> {
        for active in status.active.clone().unwrap_or_default() {
            let (name, uid) = (active.name.unwrap_or_default(), active.uid.unwrap_or_default());
            if jobs.iter().any(|job| job.uid() == uid) {
                continue;
            }
            let found = self.api(cron_job).get_opt(&name).await;
            if found.map_err(|source| Error::Read { name: name.clone(), source })?.is_none() {
                self.recorder.normal(&cron_job.reference(), "MissingJob", format!("Active job went missing: {name}"));
                jobs::remove_active(status, &uid);
            }
        }
        Ok(())
    }

    /// Starts a Job if one is due. Says whether the schedule goes on.
    async fn start_if_due(&self, cron_job: &CronJob, schedule: &Schedule, status: &mut CronJobStatus) -> Result<bool, Error> {
        let (about, spec, now) = (cron_job.reference(), &cron_job.spec, now());
        let due = match due::due(cron_job, schedule, now) {
            Ok(Some(due)) => due,
            Ok(None) => return Ok(true),
            Err(error) => {
                let message = format!("invalid schedule: {} : {error}", spec.schedule);
                self.recorder.warning(&about, "InvalidSchedule", message);
                return Ok(false);
            }
        };
        if due.too_many_missed {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.recorder.warning(&about, "TooManyMissedTimes", message);
        }
        if spec.starting_deadline_seconds.is_some_and(|deadline| due.at.saturating_add(deadline) < now) {
            let time = Timestamp::from_second(due.at).map(|at| at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string());
            let message = format!("Missed scheduled time to start a job: {}", time.unwrap_or_default());
            self.recorder.warning(&about, "MissSchedule", message);
            return Ok(true);
        }
        let name = jobs::name(cron_job, due.at);
        let is_there = status.active.iter().flatten().any(|job| job.name.as_deref() == Some(&name));
        if is_there || status.last_schedule_time.as_ref().map(|time| time.0.as_second()) == Some(due.at) {
            return Ok(true);
        }
        let is_busy = status.active.as_ref().is_some_and(|active| !active.is_empty());
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if is_busy => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.normal(&about, "JobAlreadyActive", message);
                return Ok(true);
            }
            Some("Replace") => self.delete_active(cron_job, status).await?,
            _ => {}
        }
        self.start(cron_job, due.at, status).await
    }

    async fn delete_active(&self, cron_job: &CronJob, status: &mut CronJobStatus) -> Result<(), Error> {
        for active in status.active.clone().unwrap_or_default() {
            let name = active.name.unwrap_or_default();
            let job = self.api(cron_job).get(&name).await.map_err(|source| {
                self.recorder.warning(&cron_job.reference(), "FailedGet", format!("Get job: {}", failure::message(&source)));
                Error::Read { name: name.clone(), source }
            })?;
            if !self.delete(cron_job, &job, status).await {
                return Err(Error::Replace(job.key().to_string()));
            }
        }
        Ok(())
    }

    async fn delete(&self, cron_job: &CronJob, job: &Job, status: &mut CronJobStatus) -> bool {
        let about = cron_job.reference();
        match answer::or_absent(self.api(cron_job).delete(job.name(), &DeleteParams::background()).await) {
            Ok(_) => {
                jobs::remove_active(status, job.uid());
                self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted job {}", job.name()));
                true
            }
            Err(error) => {
                self.recorder.warning(&about, "FailedDelete", format!("Deleted job: {}", failure::message(&error)));
                false
            }
        }
    }

    async fn start(&self, cron_job: &CronJob, scheduled: i64, status: &mut CronJobStatus) -> Result<bool, Error> {
        let (about, api) = (cron_job.reference(), self.api(cron_job));
        let wanted = jobs::new_job(cron_job, scheduled).map_err(Error::Template)?;
        let name = wanted.name().to_owned();
        let job = match api.create(&PostParams::default(), &wanted).await {
            Ok(job) => {
                self.recorder.normal(&about, "SuccessfulCreate", format!("Created job {}", job.name()));
                if let Some(created) = &job.metadata.creation_timestamp {
                    metrics::CRON_JOB_SKEW.only().observe((created.0.as_second() - scheduled) as f64);
                }
                job
            }
            Err(error) if answer::is_already_exists(&error) => {
                // Created before, and the status was not written.
                let job = api.get(&name).await.map_err(|source| Error::Read { name, source })?;
                if !job.is_controlled_by(cron_job.uid()) || jobs::is_active(status, job.uid()) {
                    return Ok(false);
                }
                job
            }
            Err(source) => {
                if !answer::is_namespace_terminating(&source) {
                    let message = format!("Error creating job: {}", failure::message(&source));
                    self.recorder.warning(&about, "FailedCreate", message);
                }
                return Err(Error::Create { name, source });
            }
        };
        jobs::add_active(status, &job);
        status.last_schedule_time = time(scheduled);
        Ok(true)
    }

    async fn write_status(&self, cron_job: &CronJob, status: CronJobStatus) -> Result<(), Error> {
        let mut changed = cron_job.clone();
        changed.status = Some(status);
        let api = Api::<CronJob>::namespaced(self.client.clone(), cron_job.namespace());
        let written = api.replace_status(cron_job.name(), &PostParams::default(), &changed).await;
        if let Some(written) = answer::or_absent(written).map_err(Error::Status)? {
            self.own_writes.note(&written);
        }
        Ok(())
    }
}

/// How long until the next time.
fn wait(cron_job: &CronJob, schedule: &Schedule) -> Option<Duration> {
    let now = clock::now();
    let next = k8s_openapi::jiff::Timestamp::from_second(due::next_time(cron_job, schedule, now.as_second())?).ok()?;
    let left = next.duration_since(now);
    Some(if left.is_negative() { Duration::ZERO } else { left.unsigned_abs() } + AFTER_SCHEDULE)
}
