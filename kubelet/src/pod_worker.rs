//! The life of one pod on this node: synced until it is to end, then stopped, then cleaned up.
//!
//! A task for each pod. News for it are left in an inbox, where newer replaces older, so that it never holds more than one of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::Core;
use crate::instruments;
use crate::kill;
use crate::pod;
use crate::resize::Tracker;
use crate::runtime_status::PodStatus;
use crate::status::Failure;
use crate::sync::{self, Memory, Synced};

/// How soon containers that may end quickly are looked at after they were started: each time twice as long, up to the relist.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_millis(800);
/// After a failed stop or clean-up it is tried again this soon.
const STOP_RETRY: Duration = Duration::from_secs(2);

/// Why and how a pod is ended from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// What its status says then; none if it is only stopped.
    pub failure: Option<Failure>,
    /// Instead of the pod's own grace.
    pub grace_seconds: Option<i64>,
}

#[derive(Default)]
struct Mail {
    pod: Option<Arc<Pod>>,
    sync: bool,
    end: Option<End>,
    gone: bool,
}

/// Where news for a pod are left.
#[derive(Default)]
pub struct Inbox {
    mail: Mutex<Mail>,
    wake: Notify,
    /// Turns once the pod is to be stopped.
    stopping: Shutdown,
    /// What is told of the pod's resize.
    pub resize: Tracker,
    /// Whether nothing of the pod is left.
    over: AtomicBool,
}

impl Inbox {
    /// The API server (or the file) has a newer state of the pod.
    pub fn update(&self, pod: Arc<Pod>) {
        if pod.is_terminating() {
            self.stopping.cancel();
        }
        self.mail.lock().pod = Some(pod);
        self.wake.notify_one();
    }

    /// Something about the pod has changed on this node.
    pub fn sync(&self) {
        self.mail.lock().sync = true;
        self.wake.notify_one();
    }

    /// The pod is to be stopped, though nobody has deleted it.
    pub fn end(&self, end: End) {
        self.mail.lock().end = Some(end);
        self.stopping.cancel();
        self.wake.notify_one();
    }

    /// The API server (or the directory) does not have the pod any more.
    pub fn gone(&self) {
        self.mail.lock().gone = true;
        self.stopping.cancel();
        self.wake.notify_one();
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }
}

struct Worker {
    core: Arc<Core>,
    pod: Arc<Pod>,
    inbox: Arc<Inbox>,
    memory: Memory,
    end: End,
    gone: bool,
    shutdown: Shutdown,
}

/// Runs a pod to its end, or until shutdown, which leaves it running.
pub async fn run(core: Arc<Core>, pod: Arc<Pod>, inbox: Arc<Inbox>, shutdown: Shutdown) {
    if pod.is_terminating() {
        inbox.stopping.cancel();
    }
    let memory = Memory { resize: inbox.resize.clone(), ..Memory::default() };
    let mut worker = Worker { core, pod, inbox, memory, end: End::default(), gone: false, shutdown };
    if worker.live().await && worker.stop().await && worker.clean_up().await && worker.wait_until_gone().await {
        worker.leave_nothing().await;
    }
}

impl Worker {
    /// Takes the mail out; whether the pod has changed.
    fn read_mail(&mut self) -> bool {
        let mut mail = self.inbox.mail.lock();
        mail.sync = false;
        let new = mail.pod.take();
        let has_changed = new.is_some();
        if let Some(pod) = new {
            self.pod = pod;
        }
        if let Some(end) = mail.end.take() {
            if end.failure.is_some() {
                self.memory.failure.clone_from(&end.failure);
            }
            self.end = end;
        }
        self.gone |= mail.gone;
        has_changed
    }

    /// Waits for news; false at shutdown.
    async fn wait(&self, until: Option<Instant>) -> bool {
        let timer = async {
            match until {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.inbox.wake.notified() => true,
            () = timer => true,
            () = self.shutdown.cancelled() => false,
        }
    }

    /// Syncs until the pod is to be stopped; false at shutdown.
    async fn live(&mut self) -> bool {
        let mut look = None;
        let mut kind = "create";
        loop {
            if self.read_mail() && kind == "sync" {
                kind = "update";
            }
            if self.inbox.is_stopping() {
                return true;
            }
            if let Some(deadline) = self.deadline().filter(|at| *at <= Timestamp::now()) {
                tracing::info!(pod = %pod::describe(&self.pod), %deadline, "pod has run for longer than it may");
                let message = "Pod was active on the node longer than the specified deadline";
                self.core.recorder.normal(&self.pod.reference(), "DeadlineExceeded", message);
                self.memory.failure =
                    Some(Failure { reason: "DeadlineExceeded".to_owned(), message: message.to_owned(), ..Failure::default() });
                return true;
            }
            let stopping = self.inbox.stopping.clone();
            let began = Instant::now();
            let synced = sync::sync(&self.core, &self.pod, &mut self.memory, &stopping).await;
            self.core.metrics.took(&instruments::POD_WORKER_DURATION, &[kind], began.elapsed());
            kind = "sync";
            let resync = self.core.config.configuration.sync_frequency;
            let wait = match synced {
                Ok(Synced::Over) => return true,
                Ok(Synced::Done { changed: true }) => {
                    look = Some(FIRST_LOOK);
                    FIRST_LOOK
                }
                Ok(Synced::Done { changed: false }) => match look.filter(|last| *last < LAST_LOOK && self.may_end_soon()) {
                    Some(last) => *look.insert(last * 2),
                    None => {
                        look = None;
                        resync.mul_f64(rand::random_range(1.0..1.5))
                    }
                },
                Ok(Synced::Again(wait)) => wait,
                Err(error) => {
                    tracing::warn!(pod = %pod::describe(&self.pod), %error, "error syncing pod, skipping");
                    sync::retry()
                }
            };
            let mut until = Instant::now() + wait;
            if let Some(deadline) = self.deadline() {
                let left = Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
                until = until.min(Instant::now() + left);
            }
            if !self.wait(Some(until)).await {
                return false;
            }
        }
    }

    /// Whether a container may end by itself, which somebody is waiting for.
    fn may_end_soon(&self) -> bool {
        let spec = pod::spec(&self.pod);
        spec.restart_policy.as_deref() != Some("Always") || !pod::init_containers(&self.pod).is_empty()
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = pod::spec(&self.pod).active_deadline_seconds?;
        let start = self.core.told(&self.pod).start_time.clone()?.0;
        start.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))).ok()
    }

    /// Stops containers and sandboxes; false at shutdown.
    async fn stop(&mut self) -> bool {
        loop {
            self.read_mail();
            match self.stop_once().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(pod = %pod::describe(&self.pod), %error, "error killing pod");
                    self.core.recorder.warning(&self.pod.reference(), "FailedKillPod", format!("error killing pod: {error}"));
                    if !self.wait(Some(Instant::now() + STOP_RETRY)).await {
                        return false;
                    }
                }
            }
            if self.shutdown.is_cancelled() {
                return false;
            }
        }
    }

    /// Whether the pod is stopped; if not, it is to be tried again at once, with less time.
    async fn stop_once(&mut self) -> Result<bool, String> {
        let before = sync::observe_and_tell(&self.core, &self.pod, &self.memory, false, None).await?.observed;
        self.core.probes.stop_liveness_and_startup(self.pod.uid());
        let grace = self.grace();
        let killed = tokio::select! {
            killed = kill::kill_pod(&self.core, Some(&self.pod), &before, self.end.grace_seconds) => Some(killed),
            () = self.less_grace_than(grace) => None,
            () = self.shutdown.cancelled() => None,
        };
        let Some(killed) = killed else { return Ok(false) };
        killed?;
        self.core.probes.remove(self.pod.uid());
        let mut after = sync::observe(&self.core, &self.pod).await?;
        if let Some(running) = after.running().next() {
            return Err(format!("detected running containers after a successful KillPod, CRI violation: [{}]", running.id));
        }
        // Before the status says that the pod is through, since that lets others have its claims.
        if let Err(problem) = self.core.container_manager.unprepare_claims(&self.pod).await {
            tracing::warn!(pod = %pod::describe(&self.pod), problem, "cannot undo what was prepared for a pod");
            self.wait(Some(Instant::now() + STOP_RETRY)).await;
            return Ok(false);
        }
        // The addresses are gone with the sandbox, and stay in the status.
        after.ips.clone_from(&before.ips);
        self.tell_the_end(&after);
        Ok(true)
    }

    fn tell_the_end(&self, observed: &PodStatus) {
        let mut observed = observed.clone();
        if observed.ips.is_empty() {
            let told = self.core.told(&self.pod);
            observed.ips = told.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        }
        sync::tell(&self.core, &self.pod, &observed, &self.memory, true, false);
    }

    fn grace(&self) -> Option<i64> {
        self.end.grace_seconds.or(self.pod.metadata.deletion_grace_period_seconds)
    }

    /// Somebody wants it stopped sooner than was said before.
    async fn less_grace_than(&self, grace: Option<i64>) {
        loop {
            self.inbox.wake.notified().await;
            let mail = self.inbox.mail.lock();
            let by_deletion = mail.pod.as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
            let by_end = mail.end.as_ref().and_then(|end| end.grace_seconds);
            let new = [by_deletion, by_end].into_iter().flatten().min();
            if new.is_some_and(|new| grace.is_none_or(|old| new < old)) {
                return;
            }
        }
    }

    /// Removes what the pod has on this node beside its containers; false at shutdown.
    async fn clean_up(&mut self) -> bool {
        loop {
            self.read_mail();
            match self.clean_up_once().await {
                Ok(()) => {
                    self.core.statuses.finish(&self.pod);
                    self.inbox.over.store(true, Ordering::Relaxed);
                    return true;
                }
                Err(error) => tracing::warn!(pod = %pod::describe(&self.pod), error, "cannot clean up after a pod"),
            }
            if !self.wait(Some(Instant::now() + STOP_RETRY)).await {
                return false;
            }
        }
    }

    async fn clean_up_once(&self) -> Result<(), String> {
        let uid = self.pod.uid().to_owned();
        self.core.volumes.unmount(&uid).await.map_err(|error| error.to_string())?;
        if let Some(namespaces) = &self.core.user_namespaces {
            namespaces.release(&uid);
        }
        if let Some(cgroups) = self.core.cgroups.clone() {
            let removed = tokio::task::spawn_blocking(move || cgroups.remove_pod(&uid)).await;
            removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Waits until the API server does not have the pod any more; false at shutdown.
    async fn wait_until_gone(&mut self) -> bool {
        loop {
            self.read_mail();
            if self.gone {
                return true;
            }
            self.core.statuses.look_again(self.pod.uid());
            if !self.wait(None).await {
                return false;
            }
        }
    }

    /// Removes the pod's containers, their logs, and what is remembered of it.
    async fn leave_nothing(&self) {
        let (core, uid) = (&self.core, self.pod.uid());
        if let Err(error) = crate::container_gc::remove_pod(core, uid).await {
            tracing::warn!(pod = %pod::describe(&self.pod), %error, "cannot remove what is left of a pod in the runtime");
        }
        let logs = crate::container_config::log_directory(&self.pod, &core.node.read());
        match tokio::fs::remove_dir_all(&logs).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(directory = %logs.display(), %error, "cannot remove a pod's logs"),
        }
        core.statuses.forget(uid);
        core.images.forget(uid);
        core.metrics.forget(uid);
        core.restarts.lock().retain(|(of, _)| of != uid);
    }
}
