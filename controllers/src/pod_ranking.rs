//! Which pods a controller gives up first when it has too many.
//!
//! Pure. Unassigned pods go before assigned ones, then those that have come less far, cost less, share their node with
//! more of their kind, have been ready for a shorter time, restarted more often, or are younger.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::pod_state;

/// What an owner says a pod is worth; only relative to its siblings.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Puts the pods that are to go first to the front. `related` are the pods that count as doubled up on a node: those of all
/// ReplicaSets of the same Deployment.
pub fn sort_for_deletion(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pod_state::is_active(pod)) {
        *on_node.entry(pod_state::node_name(pod)).or_default() += 1;
    }
    let neighbours = |pod: &Pod| on_node.get(pod_state::node_name(pod)).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        progress(a, b)
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| neighbours(b).cmp(&neighbours(a)))
            .then_with(|| age(pod_state::ready_since(a), pod_state::ready_since(b), now))
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| age(created(a), created(b), now))
            // Last of all, so that the order is total: a comparison in between would not agree with the others.
            .then_with(|| a.uid().cmp(b.uid()))
    });
}

/// The same order without costs and neighbours, with exact times: what Jobs go by.
pub fn compare_active(a: &Pod, b: &Pod) -> Ordering {
    progress(a, b)
        .then_with(|| youngest_first(pod_state::ready_since(a), pod_state::ready_since(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| youngest_first(created(a), created(b)))
}

fn progress(a: &Pod, b: &Pod) -> Ordering {
    let assigned = |pod| !pod_state::node_name(pod).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| pod_state::is_ready(a).cmp(&pod_state::is_ready(b)))
}

fn phase_order(pod: &Pod) -> u8 {
    match pod_state::phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

/// Zero unless a whole number is written without a plus sign or leading zeros.
fn deletion_cost(pod: &Pod) -> i32 {
    let Some(text) = pod.annotation(DELETION_COST) else { return 0 };
    let plain = text == "0" || text.strip_prefix('-').unwrap_or(text).starts_with(|c: char| ('1'..='9').contains(&c));
    if plain { text.parse().unwrap_or(0) } else { 0 }
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn youngest_first(a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(a), Some(b)) => b.cmp(&a),
    }
}

/// Times are compared by the power of two of their age, so that among pods of about the same age chance (the uid) decides.
fn age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return youngest_first(a, b) };
    let rank = |at: Timestamp| now.duration_since(at).as_nanos().max(0).checked_ilog2();
    rank(a).cmp(&rank(b))
}

/// The most restarts of a container, and of a container that runs beside them.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let is_sidecar = |name: &str| {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        init.filter(|c| c.name == name).any(|c| c.restart_policy.as_deref() == Some("Always"))
    };
    let regular = status.container_statuses.iter().flatten().map(|c| c.restart_count).max().unwrap_or(0);
    let sidecars = status.init_container_statuses.iter().flatten().filter(|c| is_sidecar(&c.name));
    (regular, sidecars.map(|c| c.restart_count).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn on(node: &str, mut pod: Pod) -> Pod {
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        pod
    }

    fn with_cost(cost: &str, mut pod: Pod) -> Pod {
        pod.metadata.annotations = Some([(DELETION_COST.to_owned(), cost.to_owned())].into());
        pod
    }

    fn in_phase(phase: &str, mut pod: Pod) -> Pod {
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        pod
    }

    fn created_at(second: i64, mut pod: Pod) -> Pod {
        pod.metadata.creation_timestamp = Some(Time(at(second)));
        pod
    }

    fn restarted(count: i32, mut pod: Pod) -> Pod {
        let status = ContainerStatus { restart_count: count, ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
        pod
    }

    fn order(pods: Vec<Pod>, related: Vec<Pod>) -> Vec<String> {
        let mut pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        let related: Vec<Arc<Pod>> = related.into_iter().map(Arc::new).collect();
        sort_for_deletion(&mut pods, &related, at(10_000));
        pods.iter().map(|pod| pod.name().to_owned()).collect()
    }

    #[test]
    fn pods_that_have_come_less_far_go_first() {
        let pods = vec![
            on("n", pod("ready", Some(5))),
            on("n", pod("running", None)),
            on("n", in_phase("Unknown", pod("unknown", None))),
            on("n", in_phase("Pending", pod("pending", None))),
            in_phase("Pending", pod("unassigned", None)),
        ];
        assert_eq!(order(pods, vec![]), ["unassigned", "pending", "unknown", "running", "ready"]);
    }

    #[test]
    fn the_cheapest_pod_goes_first_whatever_its_age() {
        let pods = vec![
            with_cost("10", pod("ten", Some(5))),
            with_cost("-3", pod("minus", Some(5))),
            with_cost("+99", pod("invalid", Some(5))),
            with_cost("007", pod("zeros", Some(5))),
        ];
        let order = order(pods, vec![]);
        assert_eq!((order[0].as_str(), order[3].as_str()), ("minus", "ten"));
    }

    #[test]
    fn pods_on_a_crowded_node_go_first() {
        let pods = vec![on("a", pod("alone", Some(5))), on("b", pod("crowded", Some(5)))];
        let related = vec![on("b", pod("x", Some(1))), on("b", pod("y", Some(1))), on("a", pod("z", Some(1)))];
        assert_eq!(order(pods, related), ["crowded", "alone"]);
    }

    #[test]
    fn times_count_by_their_power_of_two() {
        // 9,000 s and 8,500 s are of one power; 16 s is of another.
        let pods = vec![pod("b", Some(1_000)), pod("a", Some(1_500)), pod("young", Some(9_984))];
        assert_eq!(order(pods, vec![]), ["young", "a", "b"]);
    }

    #[test]
    fn restarts_count_before_creation() {
        let pods = vec![created_at(9_999, pod("new", Some(5))), restarted(3, pod("restarted", Some(5))), pod("old", Some(5))];
        assert_eq!(order(pods, vec![]), ["restarted", "new", "old"]);
    }

    #[test]
    fn the_order_is_total_whatever_the_ages() {
        let pods: Vec<Arc<Pod>> = (0..60)
            .map(|i| {
                let mut pod = on(if i % 2 == 0 { "x" } else { "y" }, pod(&format!("p{i}"), Some(i % 3)));
                pod.metadata.uid = Some(format!("u{}", i * 7919 % 61));
                pod.metadata.creation_timestamp = (i % 5 != 0).then(|| Time(at(100 - i % 7)));
                Arc::new(pod)
            })
            .collect();
        let mut forwards = pods.clone();
        let mut backwards: Vec<_> = pods.iter().rev().cloned().collect();
        sort_for_deletion(&mut forwards, &pods, at(200));
        sort_for_deletion(&mut backwards, &pods, at(200));
        assert_eq!(forwards.iter().map(|p| p.uid()).collect::<Vec<_>>(), backwards.iter().map(|p| p.uid()).collect::<Vec<_>>());
    }
}
