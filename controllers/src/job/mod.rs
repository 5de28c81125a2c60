//! Jobs: runs pods until so many have succeeded, and counts each of them once.
//!
//! [`assess`], [`tracking`], [`policy`] and [`backoff`] decide; this file watches and writes. Never deletes a pod that has finished: the
//! finalizer keeps it until it is counted, and what is left then belongs to the garbage collectors.

mod assess;
mod backoff;
mod counts;
mod indexes;
mod pods;
mod policy;
mod tracking;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apimachinery::selector::label::Selector;
use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::expectations::Expectations;
use client::{Change, Informer, Object, ObjectKey, Queue, answer, controller};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::adoption::{self, Claimer};
use crate::manager::Context;
use crate::own_writes::{OwnWrites, UNSEEN_RETRY};
use crate::owners::{self, Owners};
use crate::pod_control::{self, FIRST_BATCH, PodControl, slow_start};
use crate::{failure, pod_state};
use assess::{Assessment, Observed, Step, is_suspended, number};
pub use assess::{COMPLETE, is_finished};
use counts::Action;

/// Pods created or deleted at most in one step.
const BURST: usize = 500;

/// Changes of pods are gathered for so long before a Job is looked at: many finish together.
const BATCH_PERIOD: Duration = Duration::from_millis(100);

/// Jobs that another controller manages say so in `managedBy`.
const OWN_NAME: &str = "kubernetes.io/job-controller";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("claiming pods: {0}")]
    Claim(#[from] adoption::Error),
    #[error(transparent)]
    Pods(#[from] pod_control::Error),
    #[error("removing the finalizer of pod {name}: {}", failure::message(source))]
    Release { name: String, source: kube::Error },
    #[error("tracking status: {}", failure::message(.0))]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let shell = Arc::new(Shell::new(&context));
    shell.clone().follow();
    tokio::join!(shell.jobs.synced(), shell.pods.synced());
    let workers = context.config.concurrent_job_syncs;
    let jobs = controller::run(context.name, shell.queue.clone(), workers, context.shutdown.clone(), |key| shell.reconcile(key));
    let orphans = controller::run(context.name, shell.orphans.clone(), workers, context.shutdown.clone(), |key| shell.release_orphan(key));
    tokio::join!(jobs, orphans);
}

struct Shell {
    client: Client,
    recorder: Recorder,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    owners: Owners<Job>,
    queue: Queue<ObjectKey>,
    /// Pods with our finalizer that no Job counts any more.
    orphans: Queue<ObjectKey>,
    expectations: Expectations,
    pod_control: PodControl,
    own_writes: OwnWrites,
    memory: Mutex<HashMap<ObjectKey, Memory>>,
}

/// What is remembered of a Job; forgotten when it has finished or is gone.
#[derive(Default)]
struct Memory {
    record: backoff::Record,
    /// Pods whose finalizer was removed and that were not seen without it yet.
    released: HashSet<String>,
}

fn selector(job: &Job) -> Option<Selector> {
    Selector::from_label_selector(job.spec.as_ref()?.selector.as_ref()).ok()
}

fn is_ours(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|name| name == OWN_NAME)
}

/// How the numbers stand after a step.
struct Numbers {
    active: i32,
    ready: i32,
    terminating: i32,
}

impl Numbers {
    /// These pods are being deleted now.
    fn take_away<'a>(&mut self, deleted: impl Iterator<Item = &'a Arc<Pod>>) {
        for pod in deleted {
            self.active -= 1;
            self.terminating += 1;
            self.ready -= i32::from(pod_state::is_ready(pod));
        }
    }
}

impl Shell {
    fn new(context: &Context) -> Shell {
        let (jobs, pods) = (context.informers.of::<Job>(), context.informers.of::<Pod>());
        pods.index_controllers();
        owners::index_orphans(&pods);
        Shell {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            owners: Owners::new(jobs.clone(), selector),
            jobs,
            pods,
            queue: Queue::named("job"),
            orphans: Queue::named("job_orphan_pod"),
            expectations: Expectations::default(),
            pod_control: PodControl::new(context.client.clone(), context.recorder.clone()),
            own_writes: OwnWrites::default(),
            memory: Mutex::default(),
        }
    }

    fn follow(self: Arc<Self>) {
        let shell = self.clone();
        self.jobs.on_change(move |change| {
            counts::added(change);
            let job = change.object();
            if let Some(old) = change.old().filter(|old| old.uid() != job.uid()) {
                shell.forget(&old.key());
                shell.find_orphans(old);
            }
            match change {
                Change::Deleted(_) => {
                    shell.forget(&job.key());
                    shell.find_orphans(job);
                    shell.queue.add(job.key());
                }
                _ if is_finished(job) => {
                    shell.find_orphans(job);
                    shell.queue.add(job.key());
                }
                Change::Updated { old, new } if old.metadata.generation == new.metadata.generation => {
                    shell.queue.add_after(new.key(), BATCH_PERIOD);
                }
                _ => shell.queue.add(job.key()),
            }
        });
        let shell = self.clone();
        self.pods.on_change(move |change| shell.note_pod(change));
    }

    fn note_pod(&self, change: &Change<Pod>) {
        counts::pod_changed(change);
        let pod = change.object();
        let is_released = matches!(change, Change::Deleted(_)) || !pods::is_tracked(pod);
        for note in self.owners.notes(change) {
            note.tell(&self.expectations, pod.uid());
            if is_released && let Some(memory) = self.memory.lock().get_mut(note.owner()) {
                memory.released.remove(pod.uid());
            }
            self.queue.add_after(note.owner().clone(), BATCH_PERIOD);
        }
        if !is_released && self.is_uncounted_for(pod) {
            self.orphans.add(pod.key());
        }
    }

    /// No Job will count the pod: it has no owner, or one that is done or gone.
    fn is_uncounted_for(&self, pod: &Pod) -> bool {
        let Some(owner) = pod.controller() else { return true };
        if owner.kind != "Job" || owner.api_version != "batch/v1" {
            return false;
        }
        self.owners.resolve(pod.namespace(), owner).is_none_or(|job| is_ours(&job) && is_finished(&job))
    }

    fn find_orphans(&self, job: &Job) {
        for pod in self.pods.controlled_by(job.uid()).iter().filter(|pod| pods::is_tracked(pod)) {
            self.orphans.add(pod.key());
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
        self.own_writes.forget(key);
        self.memory.lock().remove(key);
    }

    async fn release_orphan(&self, key: ObjectKey) -> Result<Outcome, Error> {
        if let Some(pod) = self.pods.get_key(&key).filter(|pod| pods::is_tracked(pod) && self.is_uncounted_for(pod)) {
            self.release(&pod).await?;
        }
        Ok(Outcome::Done)
    }

    /// Removes the finalizer; a pod that is not there has none.
    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [pods::FINALIZER]}});
        let api = self.pod_control.api(pod.namespace());
        let patched = api.patch(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        answer::or_absent(patched).map_err(|source| Error::Release { name: pod.name().to_owned(), source })?;
        Ok(())
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(job) = self.jobs.get_key(&key) else {
            self.forget(&key);
            return Ok(Outcome::Done);
        };
        let Some(spec) = job.spec.as_ref().filter(|_| is_ours(&job)) else { return Ok(Outcome::Done) };
        if is_finished(&job) {
            self.forget(&key);
            return Ok(Outcome::Done);
        }
        if !self.own_writes.are_seen_in(&*job) {
            counts::stale();
            return Ok(Outcome::After(UNSEEN_RETRY));
        }
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.recorder.warning(&job.reference(), "UnknownCompletionMode", message);
            return Ok(Outcome::Done);
        }
        let (started, mut action) = (Instant::now(), Action::Reconciling);
        let result = self.sync(&key, &job, spec, &mut action).await;
        counts::synced(spec, action, result.is_ok(), started.elapsed());
        result
    }

    /// Says in `action` what it came to do.
    async fn sync(&self, key: &ObjectKey, job: &Job, spec: &JobSpec, action: &mut Action) -> Result<Outcome, Error> {
        let Some(selector) = selector(job) else { return Ok(Outcome::Done) };
        // Asked before the pods are looked at: what comes while requests are made is not among these.
        let settled = self.expectations.satisfied(key);
        let pods = self.claim(job, &selector).await?;
        self.bring_further(key, job, spec, &pods, settled, action).await
    }

    async fn claim(&self, job: &Job, selector: &Selector) -> Result<Vec<Arc<Pod>>, Error> {
        let claimer = Claimer { client: &self.client, owner: job, finalizer: Some(pods::FINALIZER) };
        let pods = owners::owned_or_orphaned(&self.pods, job);
        let claimed = claimer.claim(pods, |pod| selector.matches(&pod.metadata.labels)).await?;
        let adopted = |pod: Arc<Pod>| {
            if pod.is_controlled_by(job.uid()) || pods::is_tracked(&pod) {
                return pod;
            }
            // Just adopted: the copy does not show the finalizer yet.
            let mut pod = (*pod).clone();
            pod.metadata.finalizers.get_or_insert_default().push(pods::FINALIZER.to_owned());
            Arc::new(pod)
        };
        Ok(claimed.into_iter().map(adopted).collect())
    }

    /// `settled`: the pods are all that there are, as far as this controller has made and deleted any.
    async fn bring_further(
        &self,
        key: &ObjectKey,
        job: &Job,
        spec: &JobSpec,
        pods: &[Arc<Pod>],
        settled: bool,
        action: &mut Action,
    ) -> Result<Outcome, Error> {
        let now = clock::now();
        let mut status = job.status.clone().unwrap_or_default();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_none() && !is_suspended(spec) {
            status.start_time = Some(Time(now));
        }
        let (record, released) = {
            let mut memory = self.memory.lock();
            let memory = memory.entry(key.clone()).or_default();
            (memory.record, memory.released.clone())
        };
        let counted = status.clone();
        let observed = Observed { job, spec, status: &counted, pods, released: &released, record, now };
        let assessment = observed.assess();
        let mut finished = assessment.finished.clone();
        let mut numbers = Numbers { active: number(assessment.active.len()), ready: assessment.ready, terminating: assessment.terminating };
        let mut failure = None;
        let mut changed = false;
        let mut wait = assessment.deadline;
        if finished.is_some() {
            failure = self.end(job, &assessment, &mut numbers).await.err();
            if numbers.active > 0 || !settled {
                finished = None;
            }
        } else {
            let managed = settled && !job.is_terminating();
            if managed {
                match self.manage(key, &observed, &assessment, &mut numbers, action).await {
                    Ok(delay) => wait = wait.into_iter().chain(delay).min(),
                    Err(error) => failure = Some(error),
                }
            }
            if observed.is_complete(assessment.succeeded, numbers.active) {
                let message = "Reached expected number of succeeded pods";
                finished = Some(assess::new_condition(assess::SUCCESS_CRITERIA_MET, "True", "CompletionsReached", message, now));
            } else if managed {
                changed = self.note_suspension(job, spec, &mut status, now);
            }
        }
        changed |= job.status.as_ref().and_then(|status| status.active).unwrap_or(0) != numbers.active
            || counted.ready != Some(numbers.ready)
            || counted.terminating != Some(numbers.terminating);
        status.active = Some(numbers.active).filter(|active| *active != 0);
        (status.ready, status.terminating) = (Some(numbers.ready), Some(numbers.terminating));
        self.track(key, &observed, &assessment, status, finished, changed).await?;
        failure.map_or(Ok(wait.map_or(Outcome::Done, Outcome::After)), Err)
    }

    /// Deletes what still runs of a Job that is over.
    async fn end(&self, job: &Job, assessment: &Assessment, numbers: &mut Numbers) -> Result<(), Error> {
        let deletions = assessment.active.iter().map(|pod| self.pod_control.delete(job, pod.name()));
        let results = futures::future::join_all(deletions).await;
        numbers.take_away(assessment.active.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(pod, _)| pod));
        results.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(error.into()))
    }

    /// Brings the number of pods to what is wanted; says how long to wait if it is too early.
    async fn manage(
        &self,
        key: &ObjectKey,
        observed: &Observed<'_>,
        assessment: &Assessment,
        numbers: &mut Numbers,
        action: &mut Action,
    ) -> Result<Option<Duration>, Error> {
        let step = observed.manage(assessment);
        *action = match &step {
            Step::Nothing => Action::Tracking,
            Step::Wait(_) | Step::Create(_) => Action::PodsCreated,
            Step::Delete(_) => Action::PodsDeleted,
        };
        match step {
            Step::Nothing => Ok(None),
            Step::Wait(delay) => Ok(Some(delay.max(BATCH_PERIOD))),
            Step::Delete(pods) => self.delete(key, observed.job, &pods, numbers).await.map(|()| None),
            Step::Create(indexes) => self.create(key, observed, assessment, &indexes, numbers).await.map(|()| None),
        }
    }

    async fn delete(&self, key: &ObjectKey, job: &Job, pods: &[Arc<Pod>], numbers: &mut Numbers) -> Result<(), Error> {
        self.expectations.expect(key, 0, pods.iter().map(|pod| pod.uid().to_owned()));
        let deletions = pods.iter().map(|pod| async {
            // Pods that are deleted because they are too many do not count as failed.
            let result = match self.release_if_tracked(pod).await {
                Ok(()) => self.pod_control.delete(job, pod.name()).await.map_err(Error::from),
                Err(error) => Err(error),
            };
            if !matches!(result, Ok(true)) {
                self.expectations.deletion_observed(key, pod.uid());
            }
            result
        });
        let results = futures::future::join_all(deletions).await;
        numbers.take_away(pods.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(pod, _)| pod));
        results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    async fn release_if_tracked(&self, pod: &Pod) -> Result<(), Error> {
        if pods::is_tracked(pod) { self.release(pod).await } else { Ok(()) }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        observed: &Observed<'_>,
        assessment: &Assessment,
        indexes: &[Option<i32>],
        numbers: &mut Numbers,
    ) -> Result<(), Error> {
        self.expectations.expect(key, indexes.len(), []);
        let refused = AtomicUsize::new(0);
        let (created, failure) = slow_start(indexes.len(), FIRST_BATCH, |i| {
            let replaced = indexes[i].and_then(|index| assessment.held.get(&index)).map(|pod| &**pod);
            let pod = pods::new_pod(observed.job, observed.spec, indexes[i], replaced);
            let refused = &refused;
            async move {
                match self.pod_control.create(observed.job, &pod).await {
                    Err(error) if error.is_namespace_terminating() => Ok(()),
                    Err(error) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                        Err(error)
                    }
                    Ok(created) => {
                        self.expectations.created(key, created.uid());
                        Ok(())
                    }
                }
            }
        })
        .await;
        for _ in created..indexes.len() {
            self.expectations.not_created(key);
        }
        counts::created(observed.spec, assessment, created, refused.into_inner());
        numbers.active += number(created);
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    fn note_suspension(&self, job: &Job, spec: &JobSpec, status: &mut JobStatus, now: Timestamp) -> bool {
        let (value, reason, event, message) = if is_suspended(spec) {
            ("True", "JobSuspended", "Suspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Resumed", "Job resumed")
        };
        let changed = tracking::ensure_condition(status, assess::SUSPENDED, value, reason, message, now);
        if changed {
            self.recorder.normal(&job.reference(), event, message);
            status.start_time = (!is_suspended(spec)).then_some(Time(now));
        }
        changed
    }

    async fn track(
        &self,
        key: &ObjectKey,
        observed: &Observed<'_>,
        assessment: &Assessment,
        status: JobStatus,
        finished: Option<JobCondition>,
        changed: bool,
    ) -> Result<(), Error> {
        let mut tracking = observed.track(assessment, status, finished);
        tracking.verdicts.iter().for_each(counts::judged);
        let mut job = observed.job.clone();
        if changed || tracking.changed {
            job = self.write_status(&job, &tracking.status).await?;
            if let Some(memory) = self.memory.lock().get_mut(key) {
                memory.record = assessment.record;
            }
        }
        let (released, failure) = self.release_all(key, &tracking.release).await;
        tracking.tracked.retain(|uid| !released.contains(uid));
        let mut pending = tracking::move_into_sums(&mut tracking.status, &tracking.tracked);
        if let Some(error) = failure {
            if pending {
                self.write_status(&job, &tracking.status).await?;
            }
            return Err(error);
        }
        let over = tracking::finish(&mut tracking.status, tracking.finished.as_ref(), tracking.full, observed.now);
        pending |= over;
        if pending {
            job = self.write_status(&job, &tracking.status).await?;
        }
        if let Some(condition) = tracking.finished.as_ref().filter(|_| over) {
            self.tell_end(&job, condition);
        }
        Ok(())
    }

    /// Removes the finalizers of pods that are noted in the status; says which are gone.
    async fn release_all(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> (HashSet<String>, Option<Error>) {
        if let Some(memory) = self.memory.lock().get_mut(key) {
            memory.released.extend(pods.iter().map(|pod| pod.uid().to_owned()));
        }
        let results = futures::future::join_all(pods.iter().map(|pod| self.release(pod))).await;
        let (mut released, mut failure) = (HashSet::new(), None);
        for (pod, result) in pods.iter().zip(results) {
            match result {
                Ok(()) => {
                    released.insert(pod.uid().to_owned());
                }
                Err(error) => {
                    if let Some(memory) = self.memory.lock().get_mut(key) {
                        memory.released.remove(pod.uid());
                    }
                    failure = failure.or(Some(error));
                }
            }
        }
        (released, failure)
    }

    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result<Job, Error> {
        let mut changed = job.clone();
        changed.status = Some(status.clone());
        let api = Api::<Job>::namespaced(self.client.clone(), job.namespace());
        let written = api.replace_status(job.name(), &PostParams::default(), &changed).await.map_err(Error::Status)?;
        self.own_writes.note(&written);
        if let Some(spec) = &job.spec {
            let none = JobStatus::default();
            counts::written(spec, job.status.as_ref().unwrap_or(&none), status);
        }
        Ok(written)
    }

    fn tell_end(&self, job: &Job, condition: &JobCondition) {
        counts::finished(job, condition);
        let about = job.reference();
        if condition.type_ != COMPLETE {
            let (reason, message) = (condition.reason.as_deref().unwrap_or(""), condition.message.as_deref().unwrap_or(""));
            return self.recorder.warning(&about, reason, message);
        }
        let completions = job.spec.as_ref().and_then(|spec| spec.completions);
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
        if completions.is_some_and(|completions| succeeded > completions) {
            self.recorder.warning(&about, "TooManySucceededPods", "Too many succeeded pods running after completion count reached");
        }
        self.recorder.normal(&about, "Completed", "Job completed");
    }
}
