//! A machine that is shut down stops its pods first, as far as logind lets it wait: low priorities before high ones. Meanwhile the node is
//! not ready, and no pod is let in.
//!
//! Where there is no system bus nothing is watched, and the log says so.
//!
//! Upstream: pkg/kubelet/nodeshutdown.

mod dbus;
mod logind;
mod plan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::events::Recorder;
use client::{Object, Reference, Shutdown};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::admission::Rejection;
use crate::configuration::{KubeletConfiguration, ShutdownGracePeriod};
use crate::pod_worker::End;
use logind::{Lock, Logind, Stopper};

/// Why the node is not ready then.
const PROBLEM: &str = "node is shutting down";
/// How soon the bus is tried again after it was lost.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often it is looked whether pods are gone.
const GONE_POLL: Duration = Duration::from_millis(100);
const STATE_FILE: &str = "graceful_node_shutdown_state";

/// Whether the node is being shut down. Clones are the same.
#[derive(Clone, Default)]
pub struct State {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    now: AtomicBool,
    changed: Notify,
    /// When the last shutdown began and ended, as seconds since 1970.
    times: Mutex<(f64, f64)>,
}

impl State {
    /// Why the node is not ready, if it is being shut down.
    pub fn problem(&self) -> Option<String> {
        self.shared.now.load(Ordering::Acquire).then(|| PROBLEM.to_owned())
    }

    /// Whether a pod may start now.
    pub fn admit(&self) -> Result<(), Rejection> {
        match self.problem() {
            None => Ok(()),
            Some(_) => {
                Err(Rejection { reason: "NodeShutdown".to_owned(), message: "Pod was rejected as the node is shutting down.".to_owned() })
            }
        }
    }

    /// Waits for the beginning or the end of a shutdown. For one listener: the node's status.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// When the last shutdown began and ended, as seconds since 1970; zero for what has not happened.
    pub fn times(&self) -> (f64, f64) {
        *self.shared.times.lock()
    }

    fn set(&self, now: bool) {
        self.shared.now.store(now, Ordering::Release);
        self.shared.changed.notify_one();
    }
}

/// What the manager asks of the kubelet.
pub trait Node: Send + Sync + 'static {
    /// The pods that run or may run.
    fn active_pods(&self) -> Vec<Arc<Pod>>;
    /// Begins to stop a pod for good.
    fn end(&self, uid: &str, end: End);
    /// Whether nothing of the pod is left on the node.
    fn is_gone(&self, uid: &str) -> bool;
}

/// Waits for a shutdown.
pub struct Manager<N> {
    node: N,
    state: State,
    periods: Vec<ShutdownGracePeriod>,
    recorder: Recorder,
    /// What events are about.
    about: Reference,
    root_dir: PathBuf,
    bus: PathBuf,
    /// `/etc/systemd/logind.conf.d`
    logind_configuration: PathBuf,
}

/// What the thread that listens to the bus tells.
enum News {
    /// Shutdowns wait for this lock from now on.
    Watching(Lock, Stopper),
    /// A shutdown begins, or is called off.
    Shutdown(bool),
    /// Shutdowns wait for another lock.
    Locked(Lock),
}

impl<N: Node> Manager<N> {
    /// None if the configuration does not want shutdowns to be waited for.
    pub fn new(
        configuration: &KubeletConfiguration,
        node: N,
        state: State,
        recorder: Recorder,
        about: Reference,
        root_dir: &Path,
    ) -> Option<Manager<N>> {
        let periods = plan::periods(configuration);
        if periods.is_empty() {
            return None;
        }
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
        Some(Manager {
            node,
            state,
            periods,
            recorder,
            about,
            root_dir: root_dir.to_owned(),
            bus: logind::bus_socket(address.as_deref()),
            logind_configuration: "/etc/systemd/logind.conf.d".into(),
        })
    }

    /// Watches until shutdown of the kubelet.
    pub async fn run(self, shutdown: Shutdown) {
        self.recall().await;
        tokio::select! {
            () = self.watch() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn watch(&self) {
        if !self.bus.exists() {
            tracing::info!(bus = %self.bus.display(), "there is no system bus: shutdowns of this machine are not waited for");
            return;
        }
        loop {
            self.follow().await;
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Follows the bus until it is lost.
    async fn follow(&self) {
        let (teller, mut told) = mpsc::channel(4);
        let (bus, configuration, needed) = (self.bus.clone(), self.logind_configuration.clone(), plan::total(&self.periods));
        let listening = tokio::task::spawn_blocking(move || listen(&bus, &configuration, needed, &teller));
        let mut lock = None;
        // Ends the thread when this future is dropped.
        let mut stop = StopOnDrop(None);
        while let Some(news) = told.recv().await {
            match news {
                News::Watching(first, stopper) => {
                    tracing::info!("shutdowns of this machine wait for its pods");
                    stop.0 = Some(stopper);
                    lock = Some(first);
                }
                News::Locked(next) => lock = Some(next),
                News::Shutdown(begins) => {
                    let what = if begins { "event" } else { "cancellation" };
                    tracing::info!(begins, "a shutdown of this machine is announced");
                    self.recorder.normal(&self.about, "Shutdown", format!("Shutdown manager detected shutdown {what}"));
                    self.state.set(begins);
                    if begins {
                        self.stop_pods().await;
                        // The machine goes on with its shutdown.
                        lock = None;
                    }
                }
            }
        }
        drop(lock);
        match listening.await {
            Ok(Err(error)) => tracing::warn!(%error, "cannot watch for shutdowns of this machine"),
            Ok(Ok(())) => {}
            Err(error) => tracing::error!(%error, "the thread that watches for shutdowns has ended"),
        }
    }

    async fn stop_pods(&self) {
        let began = Timestamp::now();
        self.remember(began, None).await;
        for (period, pods) in plan::groups(&self.periods, &self.node.active_pods()) {
            if pods.is_empty() {
                continue;
            }
            for pod in &pods {
                let end = plan::end(pod, period);
                tracing::info!(pod = %pod.key(), grace = end.grace_seconds, "stopping a pod before the machine shuts down");
                self.node.end(pod.uid(), end);
            }
            let all_gone = async {
                while !pods.iter().all(|pod| self.node.is_gone(pod.uid())) {
                    tokio::time::sleep(GONE_POLL).await;
                }
            };
            if tokio::time::timeout(plan::seconds(period.shutdown_grace_period_seconds), all_gone).await.is_err() {
                tracing::warn!(priority = period.priority, "not all pods of a priority have ended in time");
            }
        }
        self.remember(began, Some(Timestamp::now())).await;
    }

    /// Writes down when a shutdown began and ended, for whoever comes after it.
    async fn remember(&self, began: Timestamp, ended: Option<Timestamp>) {
        *self.state.shared.times.lock() = (as_seconds(Some(began)), as_seconds(ended));
        let zero = "0001-01-01T00:00:00Z".to_owned();
        let state = json!({"startTime": began.to_string(), "endTime": ended.map_or(zero, |ended| ended.to_string())});
        let (file, next) = (self.root_dir.join(STATE_FILE), self.root_dir.join(format!("{STATE_FILE}.next")));
        let written = async {
            tokio::fs::write(&next, state.to_string()).await?;
            tokio::fs::rename(&next, &file).await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "cannot write down when the machine was shut down");
        }
    }

    async fn recall(&self) {
        let Ok(text) = tokio::fs::read(self.root_dir.join(STATE_FILE)).await else { return };
        let state: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let time = |name: &str| as_seconds(state[name].as_str().and_then(|text| text.parse().ok()));
        *self.state.shared.times.lock() = (time("startTime"), time("endTime"));
    }
}

fn as_seconds(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, |time| (time.as_nanosecond() as f64 / 1e9).max(0.0))
}

struct StopOnDrop(Option<Stopper>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(stopper) = &self.0 {
            stopper.stop();
        }
    }
}

/// Listens to the bus until nobody wants to hear any more. Blocking.
fn listen(bus: &Path, configuration: &Path, needed: Duration, teller: &mpsc::Sender<News>) -> Result<(), dbus::Error> {
    let mut logind = Logind::connect(bus, configuration)?;
    logind.allow(needed)?;
    let lock = logind.inhibit()?;
    logind.subscribe()?;
    let stopper = logind.stopper()?;
    if teller.blocking_send(News::Watching(lock, stopper)).is_err() {
        return Ok(());
    }
    loop {
        let begins = match logind.next() {
            Err(_) if teller.is_closed() => return Ok(()),
            begins => begins?,
        };
        if teller.blocking_send(News::Shutdown(begins)).is_err() {
            return Ok(());
        }
        // One that was called off has to be waited for again.
        if !begins && teller.blocking_send(News::Locked(logind.inhibit()?)).is_err() {
            return Ok(());
        }
    }
}
