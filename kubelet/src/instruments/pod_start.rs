//! How long pods take to start, from their creation until all their containers have been told to run; with and without the time for
//! which images were pulled and init containers ran, which is not the node's doing.
//!
//! Upstream: pkg/kubelet/util/pod_startup_latency_tracker.go.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use k8s_openapi::jiff::Timestamp;

/// Pods whose start is followed at once; more are not measured.
const MAX_PODS: usize = 1000;

struct Start {
    created: Timestamp,
    seen: Timestamp,
    /// When the first pull began and the last one ended.
    pulling: Option<Timestamp>,
    pulled: Option<Timestamp>,
}

/// How long a start took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Since the kubelet saw the pod.
    pub here: Duration,
    /// Since its creation.
    pub total: Duration,
    /// Of that what is not pulls and init containers.
    pub sli: Duration,
}

/// The pods that are starting. Pure.
#[derive(Default)]
pub struct Starts(HashMap<String, Start>);

fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

impl Starts {
    /// A pod is seen for the first time.
    pub fn seen(&mut self, uid: &str, created: Timestamp, now: Timestamp) {
        if self.0.len() < MAX_PODS {
            self.0.entry(uid.to_owned()).or_insert(Start { created, seen: now, pulling: None, pulled: None });
        }
    }

    pub fn pull_begins(&mut self, uid: &str, now: Timestamp) {
        if let Some(start) = self.0.get_mut(uid) {
            start.pulling.get_or_insert(now);
        }
    }

    pub fn pull_ends(&mut self, uid: &str, now: Timestamp) {
        if let Some(start) = self.0.get_mut(uid).filter(|start| start.pulling.is_some()) {
            start.pulled = Some(now);
        }
    }

    /// The pod's status was told: how long its start took, if it is over now.
    pub fn told(&mut self, uid: &str, status: &PodStatus, now: Timestamp) -> Option<Took> {
        if !has_started(status) {
            return None;
        }
        let start = self.0.remove(uid)?;
        let total = since(start.created, now);
        let pulls = start.pulling.zip(start.pulled).map_or(Duration::ZERO, |(from, to)| since(from, to));
        let sli = total.saturating_sub(pulls).saturating_sub(init_time(status));
        Some(Took { here: since(start.seen, now), total, sli })
    }

    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

/// Whether all containers run, or have run.
fn has_started(status: &PodStatus) -> bool {
    let runs = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    status.container_statuses.as_ref().is_some_and(|statuses| !statuses.is_empty() && statuses.iter().all(runs))
}

/// How long init containers ran that had to end first.
fn init_time(status: &PodStatus) -> Duration {
    let ended = status.init_container_statuses.iter().flatten().filter_map(|status| status.state.as_ref()?.terminated.as_ref());
    ended.filter_map(|ended| Some(since(ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0))).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    fn status(state: serde_json::Value) -> PodStatus {
        let init = json!({"terminated": {"exitCode": 0, "startedAt": "1970-01-01T00:00:12Z", "finishedAt": "1970-01-01T00:00:15Z"}});
        let container =
            |state: serde_json::Value| json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let status = json!({"containerStatuses": [container(state)], "initContainerStatuses": [container(init)]});
        serde_json::from_value(status).expect("it is a status")
    }

    #[test]
    fn pulls_and_init_containers_are_not_the_nodes_time() {
        let mut starts = Starts::default();
        starts.seen("u", at(0), at(1));
        starts.pull_begins("u", at(2));
        starts.pull_ends("u", at(5));
        starts.pull_begins("u", at(6));
        starts.pull_ends("u", at(10));
        assert_eq!(starts.told("u", &status(json!({"waiting": {}})), at(11)), None);
        let seconds = Duration::from_secs;
        let took = Took { here: seconds(19), total: seconds(20), sli: seconds(20 - 8 - 3) };
        assert_eq!(starts.told("u", &status(json!({"running": {}})), at(20)), Some(took));
        assert_eq!(starts.told("u", &status(json!({"running": {}})), at(21)), None);
    }
}
