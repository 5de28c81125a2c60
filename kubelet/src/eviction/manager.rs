//! The loop around the decisions: looks every ten seconds, evicts one pod at a time, waits until it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::Recorder;
use client::{Object, Reference, Shutdown};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::pressure::Seen;
use super::rank::StatsByPod;
use super::threshold::{Config, Signal, Threshold};
use super::{Ballast, Pressure, limits, message, observation, rank};
use crate::pod::is_critical;
use crate::stats::{Provider, Summary};

const EVERY: Duration = Duration::from_secs(10);
/// How long an evicted pod is waited for, and how often it is looked for.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
const GONE_POLL: Duration = Duration::from_secs(1);
/// How long a pod has to stop when the node cannot wait.
const IMMEDIATE_GRACE_SECONDS: i64 = 1;

/// A pod that has to go.
#[derive(Clone, Debug)]
pub struct Eviction {
    pub pod: Arc<Pod>,
    pub grace_seconds: i64,
    /// The message of the status (phase Failed, reason Evicted) and of the warning event.
    pub message: String,
    /// The event's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the pod is told so by the condition DisruptionTarget (TerminationByKubelet), which is for pods that are not themselves to blame.
    pub disrupted: bool,
    /// What the node is short of, or what of its own the pod has used up: `memory.available`, `ephemeralcontainerfs.limit`.
    pub signal: String,
}

/// What the manager asks of the kubelet.
pub trait Node: Send + Sync {
    /// The pods that run or may run.
    fn active_pods(&self) -> Vec<Arc<Pod>>;
    /// Begins to stop a pod for good and tells of it.
    fn evict(&self, eviction: Eviction);
    /// Whether nothing of the pod is left on the node.
    fn is_gone(&self, pod_uid: &str) -> bool;
    /// Removes containers that have ended and images that nobody uses.
    fn reclaim_disk(&self) -> BoxFuture<'_, ()>;
}

/// Watches over the node's resources. Clones are the same.
#[derive(Clone)]
pub struct Manager {
    pressure: Arc<Mutex<Pressure>>,
    config: Arc<Config>,
    /// Nothing is kept free on a node that has no disk of its own.
    ballast: Option<Ballast>,
}

impl Manager {
    pub fn new(config: Config, ballast: Option<Ballast>) -> Manager {
        Manager { pressure: Arc::default(), config: Arc::new(config), ballast }
    }

    /// The pressure that the node is under, for its conditions.
    pub fn pressure(&self) -> Pressure {
        *self.pressure.lock()
    }

    /// Whether a pod may start now; if not it fails with reason `Evicted` and this message.
    pub fn admit(&self, pod: &Pod) -> Result<(), String> {
        self.pressure().admit(pod)
    }

    /// Watches until shutdown. Events are told about the node `about`.
    pub async fn run(&self, node: &dyn Node, stats: &Provider, recorder: &Recorder, about: &Reference, shutdown: Shutdown) {
        let work = async {
            let mut seen = Seen::default();
            loop {
                let evicted = self.look(node, stats, recorder, about, &mut seen).await;
                if evicted.is_empty() {
                    tokio::time::sleep(EVERY).await;
                } else {
                    wait_until_gone(node, &evicted).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Looks once; the pods that have to go.
    async fn look(&self, node: &dyn Node, stats: &Provider, recorder: &Recorder, about: &Reference, seen: &mut Seen) -> Vec<Arc<Pod>> {
        let pods = node.active_pods();
        let summary = match self.observe(stats, &pods).await {
            Ok(summary) => summary,
            Err(error) => {
                tracing::warn!(error, "cannot see what the node uses");
                return Vec::new();
            }
        };
        let observations = observation::of(&summary);
        let has_image_fs = has_image_fs(&summary);
        let (pressure, urgent) = seen.update(&self.config, &observations, Instant::now());
        *self.pressure.lock() = pressure;
        self.weigh(pressure);
        let by_pod: StatsByPod<'_> = summary.pods.iter().map(|stats| (stats.pod_ref.uid.as_str(), stats)).collect();
        let greedy: Vec<Eviction> = pods.iter().filter_map(|pod| beyond_own_limits(pod, &by_pod, has_image_fs)).collect();
        if !greedy.is_empty() {
            return greedy.into_iter().map(|eviction| evict(node, eviction)).collect();
        }
        let Some(threshold) = urgent.first().copied() else { return Vec::new() };
        let resource = threshold.signal.resource();
        recorder.warning(about, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if reclaims(threshold.signal, has_image_fs) {
            node.reclaim_disk().await;
            let again = self.observe(stats, &pods).await.map(|summary| observation::of(&summary));
            if again.is_ok_and(|observations| observation::met(&self.config.thresholds, &observations, true).is_empty()) {
                return Vec::new();
            }
        }
        let mut ranked = pods;
        rank::sort(&mut ranked, &by_pod, threshold.signal, has_image_fs);
        let Some(pod) = ranked.into_iter().find(|pod| !is_critical(pod)) else {
            tracing::error!(resource, "the node is short of it and there is no pod to evict");
            return Vec::new();
        };
        let (message, annotations) = message::of(resource, &pod, by_pod.get(pod.uid()).copied(), &urgent, &observations);
        let grace_seconds = self.grace(&pod, &threshold);
        let signal = threshold.signal.name().to_owned();
        vec![evict(node, Eviction { pod, grace_seconds, message, annotations, disrupted: true, signal })]
    }

    /// Gives room to those who have to make room, and takes it back later.
    fn weigh(&self, pressure: Pressure) {
        let Some(ballast) = &self.ballast else { return };
        let weighed = if pressure.disk { ballast.give_up() } else { ballast.keep() };
        if let Err(error) = weighed {
            tracing::warn!(%error, "room cannot be kept for a full disk");
        }
    }

    /// Disks of pods are measured only where a pod has limits on them, or the node is short of disk.
    async fn observe(&self, stats: &Provider, pods: &[Arc<Pod>]) -> Result<Summary, String> {
        let summary = stats.node_summary().await?;
        let short = !observation::met(&self.config.thresholds, &observation::of(&summary), true).is_empty();
        if short || pods.iter().any(|pod| limits::has_any(pod)) { stats.summary(pods, false).await } else { Ok(summary) }
    }

    fn grace(&self, pod: &Pod, threshold: &Threshold) -> i64 {
        if threshold.grace.is_zero() {
            return IMMEDIATE_GRACE_SECONDS;
        }
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        own.map_or(self.config.max_pod_grace_seconds, |own| own.min(self.config.max_pod_grace_seconds))
    }
}

fn beyond_own_limits(pod: &Arc<Pod>, stats: &StatsByPod<'_>, has_image_fs: bool) -> Option<Eviction> {
    let (signal, message) = limits::exceeded(pod, stats.get(pod.uid())?, has_image_fs).filter(|_| !is_critical(pod))?;
    let (annotations, signal) = (BTreeMap::new(), signal.to_owned());
    Some(Eviction { pod: pod.clone(), grace_seconds: IMMEDIATE_GRACE_SECONDS, message, annotations, disrupted: false, signal })
}

fn evict(node: &dyn Node, eviction: Eviction) -> Arc<Pod> {
    let pod = eviction.pod.clone();
    tracing::info!(pod = %pod.key(), message = eviction.message, "evicting a pod");
    node.evict(eviction);
    pod
}

/// Whether images lie on a file system of their own.
fn has_image_fs(summary: &Summary) -> bool {
    let images = summary.node.runtime.as_ref().and_then(|runtime| runtime.image_fs.as_ref());
    images
        .zip(summary.node.fs.as_ref())
        .is_some_and(|(images, node)| (images.capacity_bytes, images.inodes) != (node.capacity_bytes, node.inodes))
}

/// Whether removing images and dead containers helps.
fn reclaims(signal: Signal, has_image_fs: bool) -> bool {
    match signal {
        Signal::ImageFsAvailable | Signal::ImageFsInodesFree => true,
        Signal::NodeFsAvailable | Signal::NodeFsInodesFree => !has_image_fs,
        _ => false,
    }
}

async fn wait_until_gone(node: &dyn Node, pods: &[Arc<Pod>]) {
    let until = tokio::time::Instant::now() + GONE_TIMEOUT;
    while tokio::time::Instant::now() < until && !pods.iter().all(|pod| node.is_gone(pod.uid())) {
        tokio::time::sleep(GONE_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_removed_where_that_frees_what_is_short() {
        assert!(reclaims(Signal::ImageFsAvailable, true) && reclaims(Signal::NodeFsAvailable, false));
        assert!(!reclaims(Signal::NodeFsAvailable, true) && !reclaims(Signal::MemoryAvailable, false));
    }
}
