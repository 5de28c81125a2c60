//! The pod garbage collector: deletes pods that nobody will delete otherwise.
//!
//! These are the oldest of too many terminated pods, pods of nodes that are gone, pods that were to be deleted before they had a
//! node, and pods that cannot end because their node is out of service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Object, answer};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::manager::Context;
use crate::pod_disruption::{self, Cause};
use crate::{metrics, node_state, pod_state};

const PERIOD: Duration = Duration::from_secs(20);
/// A node that the informer does not show may only be new; the API server is asked after this long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Pods deleted at the same time.
const AT_ONCE: usize = 16;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const ORPHANED: Cause = Cause { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" };

pub async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    pods.synced().await;
    nodes.synced().await;
    let threshold = usize::try_from(context.config.terminated_pod_gc_threshold).ok().filter(|threshold| *threshold > 0);
    // One entry a node that pods name and that is not there.
    let mut missing = HashMap::<String, Instant>::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return,
            _ = ticks.tick() => collect(&context.client, &pods, &nodes, threshold, &mut missing).await,
        }
    }
}

async fn collect(
    client: &Client,
    pods: &Informer<Pod>,
    nodes: &Informer<Node>,
    threshold: Option<usize>,
    missing: &mut HashMap<String, Instant>,
) {
    let all = pods.list();
    let node = |name: &str| nodes.get("", name);
    let gone = gone_nodes(client, &all, &node, missing).await;
    let work = decide(&all, node, &gone, threshold);
    futures::stream::iter(work)
        .for_each_concurrent(AT_ONCE, |(pod, why)| async move {
            let labels = [pod.namespace(), why.label()];
            metrics::COLLECTED_PODS.with(&labels).inc();
            match pod_disruption::fail_and_delete(client, &pod, why.cause()).await {
                Err(error) if !answer::is_not_found(&error) => {
                    metrics::COLLECTED_POD_ERRORS.with(&labels).inc();
                    tracing::warn!(pod = %pod.key(), %error, "a pod could not be collected, trying again");
                }
                _ => {}
            }
        })
        .await;
}

/// The nodes that pods name and that are known not to exist.
async fn gone_nodes(
    client: &Client,
    pods: &[Arc<Pod>],
    node: &impl Fn(&str) -> Option<Arc<Node>>,
    missing: &mut HashMap<String, Instant>,
) -> BTreeSet<String> {
    let named: BTreeSet<&str> = pods.iter().map(|pod| pod_state::node_name(pod)).filter(|n| !n.is_empty() && node(n).is_none()).collect();
    missing.retain(|name, _| named.contains(name.as_str()));
    let now = Instant::now();
    let api: Api<Node> = Api::all(client.clone());
    let mut gone = BTreeSet::new();
    for name in named {
        let since = *missing.entry(name.to_owned()).or_insert(now);
        if now.duration_since(since) >= QUARANTINE && matches!(api.get_metadata_opt(name).await, Ok(None)) {
            gone.insert(name.to_owned());
        }
    }
    gone
}

/// Why a pod is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Orphaned,
    OutOfService,
    Unscheduled,
    Terminated,
}

impl Why {
    fn label(self) -> &'static str {
        match self {
            Why::Orphaned => "orphaned",
            Why::OutOfService => "out-of-service",
            Why::Unscheduled => "unscheduled",
            Why::Terminated => "terminated",
        }
    }

    /// What the pod is told.
    fn cause(self) -> Option<Cause> {
        (self == Why::Orphaned).then_some(ORPHANED)
    }
}

/// The pods to delete, and why.
fn decide(
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
    gone: &BTreeSet<String>,
    threshold: Option<usize>,
) -> Vec<(Arc<Pod>, Why)> {
    let mut work = Vec::new();
    let mut terminated = Vec::new();
    for pod in pods {
        let name = pod_state::node_name(pod);
        if gone.contains(name) {
            work.push((pod.clone(), Why::Orphaned));
        } else if pod.is_terminating() && name.is_empty() {
            work.push((pod.clone(), Why::Unscheduled));
        } else if pod.is_terminating() && node(name).is_some_and(|node| is_out_of_service(&node)) {
            work.push((pod.clone(), Why::OutOfService));
        } else if !matches!(pod_state::phase(pod), "Pending" | "Running" | "Unknown") {
            terminated.push(pod);
        }
    }
    if let Some(surplus) = threshold.and_then(|threshold| terminated.len().checked_sub(threshold)) {
        terminated.sort_by_key(|pod| {
            let evicted = pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
            (!(evicted && pod_state::phase(pod) == "Failed"), pod.metadata.creation_timestamp.clone(), pod.name())
        });
        work.extend(terminated.into_iter().take(surplus).map(|pod| (pod.clone(), Why::Terminated)));
    }
    work
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    !node_state::is_ready(node) && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, created: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn decided(pods: Vec<Pod>, node: Option<Node>, gone: &[&str], threshold: Option<usize>) -> Vec<String> {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        let gone = gone.iter().map(|&name| name.to_owned()).collect();
        let node = node.map(Arc::new);
        decide(&pods, |_| node.clone(), &gone, threshold).iter().map(|(pod, _)| pod.name().to_owned()).collect()
    }

    #[test]
    fn the_oldest_terminated_pods_beyond_the_threshold_go() {
        let pods = || {
            let mut evicted = pod("evicted", "n", "Failed", "2026-01-03T00:00:00Z");
            evicted.status.get_or_insert_default().reason = Some("Evicted".to_owned());
            let old = pod("old", "n", "Succeeded", "2026-01-01T00:00:00Z");
            vec![old, pod("new", "n", "Failed", "2026-01-02T00:00:00Z"), evicted, pod("runs", "n", "Running", "2026-01-01T00:00:00Z")]
        };
        assert_eq!(decided(pods(), None, &[], Some(1)), ["evicted", "old"]);
        assert_eq!(decided(pods(), None, &[], Some(3)), [""; 0]);
        assert_eq!(decided(pods(), None, &[], None), [""; 0]);
    }

    #[test]
    fn pods_of_nodes_that_are_gone_go() {
        let pods = vec![pod("a", "gone", "Running", "2026-01-01T00:00:00Z"), pod("b", "there", "Running", "2026-01-01T00:00:00Z")];
        assert_eq!(decided(pods, None, &["gone"], None), ["a"]);
    }

    #[test]
    fn a_pod_that_is_to_end_but_has_nobody_to_end_it_goes() {
        let terminating = |node: &str| {
            let mut pod = pod("a", node, "Running", "2026-01-01T00:00:00Z");
            pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
            pod
        };
        let node = |ready: &str, taint: &str| -> Node {
            serde_json::from_value(json!({
                "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        assert_eq!(decided(vec![terminating("")], None, &[], None), ["a"]);
        assert_eq!(decided(vec![terminating("n")], Some(node("False", OUT_OF_SERVICE)), &[], None), ["a"]);
        assert_eq!(decided(vec![terminating("n")], Some(node("True", OUT_OF_SERVICE)), &[], None), [""; 0]);
        assert_eq!(decided(vec![terminating("n")], Some(node("False", "other")), &[], None), [""; 0]);
    }
}
