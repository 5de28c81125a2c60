//! The taint eviction controller: pods leave a node with a NoExecute taint that they do not tolerate, at once or when their
//! `tolerationSeconds` are over.
//!
//! It sets no taints: the node lifecycle controller and people do.

use std::collections::HashMap;
use std::time::Duration;

use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, Reference, answer};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint, Toleration};
use kube::Client;
use kube::api::DeleteParams;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::manager::Context;
use crate::pod_disruption::{self, Cause};
use crate::tolerations::{self, NO_EXECUTE};
use crate::{metrics, node_state, pod_state, pods_by_node};

const WORKERS: usize = 8;
const CAUSE: Cause = Cause { reason: "DeletionByTaintManager", message: "Taint manager: deleting due to NoExecute taint" };

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// When pods are to go; only pods that there are.
    scheduled: Mutex<HashMap<ObjectKey, Instant>>,
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        scheduled: Mutex::default(),
    };
    pods_by_node::index(&controller.pods);
    let queue = Queue::named("noexec_taint_pod");
    let sink = queue.clone();
    controller.pods.on_change(move |change| {
        let parts = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.tolerations.clone(), spec.node_name.clone()));
        match change {
            Change::Updated { old, new } if parts(old) == parts(new) => {}
            change => sink.add(change.object().key()),
        }
    });
    let (sink, pods) = (queue.clone(), controller.pods.clone());
    controller.nodes.on_change(move |change| {
        let taints = |node: &Node| no_execute(node_state::taints(node));
        if change.old().map_or(Vec::new(), |old| taints(old)) != taints(change.object()) || matches!(change, Change::Deleted(_)) {
            pods_by_node::of(&pods, change.object().name()).iter().for_each(|pod| sink.add(pod.key()));
        }
    });
    controller.pods.synced().await;
    controller.nodes.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

fn no_execute(taints: &[Taint]) -> Vec<Taint> {
    taints.iter().filter(|taint| taint.effect == NO_EXECUTE).cloned().collect()
}

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
enum Decision {
    Stay,
    LeaveAt(Instant),
}

fn decide(tolerations: &[Toleration], taints: &[Taint], scheduled: Option<Instant>, now: Instant) -> Decision {
    if taints.is_empty() {
        return Decision::Stay;
    }
    let Some(used) = tolerations::covering(tolerations, taints) else { return Decision::LeaveAt(now) };
    match used.iter().filter_map(|toleration| toleration.toleration_seconds).min() {
        None => Decision::Stay,
        Some(seconds) if seconds <= 0 => Decision::LeaveAt(now),
        // The time runs from when the taint was first seen.
        Some(seconds) => match scheduled.or_else(|| now.checked_add(Duration::from_secs(seconds.unsigned_abs()))) {
            Some(at) => Decision::LeaveAt(at),
            None => Decision::Stay,
        },
    }
}

fn reference(key: &ObjectKey) -> Reference {
    Reference(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        ..ObjectReference::default()
    })
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get_key(&key) else {
            self.cancel(&key);
            return Ok(Outcome::Done);
        };
        let now = Instant::now();
        let node = self.nodes.get("", pod_state::node_name(&pod));
        let taints = node.map(|node| no_execute(node_state::taints(&node))).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let scheduled = self.scheduled.lock().get(&key).copied();
        match decide(tolerations, &taints, scheduled, now) {
            Decision::Stay => {
                self.cancel(&key);
                Ok(Outcome::Done)
            }
            Decision::LeaveAt(at) if at > now => {
                self.scheduled.lock().insert(key, at);
                Ok(Outcome::After(at.duration_since(now)))
            }
            Decision::LeaveAt(_) => {
                if scheduled.is_some_and(|at| at > now) {
                    self.cancel(&key);
                }
                if pod.is_terminating() {
                    self.scheduled.lock().remove(&key);
                    return Ok(Outcome::Done);
                }
                self.recorder.normal(&reference(&key), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
                // A pod that could not be deleted has not earned its time once more.
                answer::or_absent(pod_disruption::delete(&self.client, &pod, CAUSE, &DeleteParams::default()).await)?;
                self.scheduled.lock().remove(&key);
                metrics::TAINT_EVICTIONS.only().inc();
                metrics::TAINT_EVICTION_LATENCY.only().observe_time(scheduled.unwrap_or(now).min(now).elapsed());
                Ok(Outcome::Done)
            }
        }
    }

    fn cancel(&self, key: &ObjectKey) {
        if self.scheduled.lock().remove(key).is_some() {
            self.recorder.normal(&reference(key), "TaintManagerEviction", format!("Cancelling deletion of Pod {key}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.to_owned(), effect: NO_EXECUTE.to_owned(), ..Taint::default() }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        let operator = Some("Exists".to_owned());
        Toleration { key: Some(key.to_owned()), operator, toleration_seconds: seconds, ..Toleration::default() }
    }

    #[test]
    fn a_pod_leaves_when_the_shortest_toleration_is_over() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let decided = |tolerations: &[Toleration], taints: &[&str], scheduled| {
            decide(tolerations, &taints.iter().map(|key| taint(key)).collect::<Vec<_>>(), scheduled, at(100))
        };
        let both = [toleration("a", Some(30)), toleration("b", Some(10))];
        assert_eq!(decided(&[], &[], None), Decision::Stay);
        assert_eq!(decided(&[], &["a"], None), Decision::LeaveAt(at(100)));
        assert_eq!(decided(&[toleration("a", None)], &["a"], None), Decision::Stay);
        assert_eq!(decided(&both, &["a", "b"], None), Decision::LeaveAt(at(110)));
        assert_eq!(decided(&both, &["a"], None), Decision::LeaveAt(at(130)));
        assert_eq!(decided(&both, &["a", "c"], Some(at(120))), Decision::LeaveAt(at(100)));
        assert_eq!(decided(&both, &["a"], Some(at(120))), Decision::LeaveAt(at(120)));
        assert_eq!(decided(&[toleration("a", Some(0))], &["a"], None), Decision::LeaveAt(at(100)));
    }
}
