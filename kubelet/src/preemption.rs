//! Who makes room for a critical pod: as few pods as possible, of the lowest quality of service first. Pure.
//!
//! Upstream: pkg/kubelet/preemption.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::admission::Shortage;
use crate::container_config::pod_resources;
use crate::container_config::qos::{self, Class};
use crate::pod;
use crate::status::Failure;

/// The reason of the event and of the status.
pub const REASON: &str = "Preempting";
pub const MESSAGE: &str = "Preempted in order to admit critical pod";
const CONDITION_MESSAGE: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// Pods that make room are waited for at least so long.
const MIN_PATIENCE: Duration = Duration::from_secs(10);
/// The time that pods have which do not say any.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// What a preempted pod's status says.
pub fn failure() -> Failure {
    Failure {
        reason: REASON.to_owned(),
        message: MESSAGE.to_owned(),
        disrupted: Some(CONDITION_MESSAGE.to_owned()),
        unless_succeeded: false,
    }
}

/// How long pods that make room are waited for: half as long again as the one that may take longest.
pub fn patience(victims: &[Arc<Pod>]) -> Duration {
    let grace = |pod: &Arc<Pod>| match pod::spec(pod).termination_grace_period_seconds {
        Some(seconds) => u64::try_from(seconds).unwrap_or(0),
        None => DEFAULT_GRACE_SECONDS,
    };
    let longest = victims.iter().map(grace).max().unwrap_or(0);
    Duration::from_secs(longest.saturating_add(longest / 2)).max(MIN_PATIENCE)
}

/// How much of a resource is still missing.
#[derive(Clone, Debug, PartialEq)]
struct Need {
    name: String,
    quantity: i64,
}

/// The pods to end so that nothing is short any more.
pub fn victims(critical: &Pod, others: &[Arc<Pod>], shortages: &[Shortage]) -> Result<Vec<Arc<Pod>>, String> {
    let needs: Vec<Need> = shortages.iter().map(|short| Need { name: short.name.clone(), quantity: short.missing() }).collect();
    if needs.is_empty() {
        return Ok(Vec::new());
    }
    let of = |class: Class| -> Vec<Arc<Pod>> {
        others.iter().filter(|other| is_preemptable(critical, other) && qos::class(other) == class).cloned().collect()
    };
    let (best_effort, burstable, guaranteed) = (of(Class::BestEffort), of(Class::Burstable), of(Class::Guaranteed));
    let problem = |problem: String| format!("preemption: error finding a set of pods to preempt: {problem}");
    let everybody = [&best_effort[..], &burstable, &guaranteed].concat();
    let unmet = less(&needs, &everybody);
    if !unmet.is_empty() {
        return Err(problem(not_found(&unmet)));
    }
    // Of the better ones only those that all of the worse ones could not replace.
    let guaranteed = nearest(guaranteed, less(&needs, &[&best_effort[..], &burstable].concat())).map_err(problem)?;
    let burstable = nearest(burstable, less(&needs, &[&best_effort[..], &guaranteed].concat())).map_err(problem)?;
    let best_effort = nearest(best_effort, less(&needs, &[&burstable[..], &guaranteed].concat())).map_err(problem)?;
    Ok([best_effort, burstable, guaranteed].concat())
}

fn is_preemptable(critical: &Pod, other: &Pod) -> bool {
    if pod::is_critical(critical) && !pod::is_critical(other) {
        return true;
    }
    pod::spec(critical).priority.zip(pod::spec(other).priority).is_some_and(|(its, others)| its > others)
}

fn requested(pod: &Pod, name: &str) -> i64 {
    if name == "pods" {
        return 1;
    }
    let requests = pod_resources::requests(pod, true);
    let amount = requests.get(name).cloned().unwrap_or_default();
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// What is missing when these pods are gone.
fn less(needs: &[Need], gone: &[Arc<Pod>]) -> Vec<Need> {
    let left = |need: &Need| {
        let freed: i64 = gone.iter().map(|pod| requested(pod, &need.name)).fold(0, i64::saturating_add);
        Need { name: need.name.clone(), quantity: need.quantity.saturating_sub(freed) }
    };
    needs.iter().map(left).filter(|need| need.quantity > 0).collect()
}

/// How far a pod is from freeing all that is needed; each resource weighs the same.
fn distance(needs: &[Need], pod: &Pod) -> f64 {
    let of = |need: &Need| {
        let left = (need.quantity - requested(pod, &need.name)) as f64;
        if left > 0.0 { (left / need.quantity as f64).powi(2) } else { 0.0 }
    };
    needs.iter().map(of).sum()
}

fn is_smaller(a: &Pod, b: &Pod) -> bool {
    let sizes = |pod: &Pod| (requested(pod, "memory"), requested(pod, "cpu"));
    sizes(a) <= sizes(b)
}

/// Takes the pod that frees most of what is needed until nothing is; of two that free as much the smaller one.
fn nearest(mut pods: Vec<Arc<Pod>>, mut needs: Vec<Need>) -> Result<Vec<Arc<Pod>>, String> {
    let mut taken = Vec::new();
    while !needs.is_empty() {
        let mut best: Option<(usize, f64)> = None;
        for (index, pod) in pods.iter().enumerate() {
            let far = distance(&needs, pod);
            let better = best.is_none_or(|(known, nearest)| far < nearest || (far == nearest && is_smaller(pod, &pods[known])));
            if better {
                best = Some((index, far));
            }
        }
        let Some((index, _)) = best else { return Err(not_found(&needs)) };
        let pod = pods.swap_remove(index);
        needs = less(&needs, std::slice::from_ref(&pod));
        taken.push(pod);
    }
    Ok(taken)
}

fn not_found(needs: &[Need]) -> String {
    let listed: String = needs.iter().map(|need| format!("(res: {}, q: {}), ", need.name, need.quantity)).collect();
    format!("no set of running pods found to reclaim resources: [{listed}]")
}

#[cfg(test)]
mod tests {
    use client::Object;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, requests: serde_json::Value, limits: serde_json::Value, priority: i32) -> Arc<Pod> {
        let resources = json!({"requests": requests, "limits": limits});
        let spec = json!({"containers": [{"name": "a", "resources": resources}], "priority": priority});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("it is a pod"))
    }

    fn burstable(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        pod(name, json!({"cpu": cpu, "memory": memory}), json!({}), 0)
    }

    fn guaranteed(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        pod(name, json!({"cpu": cpu, "memory": memory}), json!({"cpu": cpu, "memory": memory}), 0)
    }

    fn names(others: &[Arc<Pod>], shortages: &[(&str, i64)]) -> Result<Vec<String>, String> {
        let critical = pod("critical", json!({}), json!({}), pod::SYSTEM_CRITICAL_PRIORITY);
        let short = |(name, missing): &(&str, i64)| Shortage { name: (*name).to_owned(), requested: *missing, used: 0, capacity: 0 };
        let shortages: Vec<Shortage> = shortages.iter().map(short).collect();
        victims(&critical, others, &shortages).map(|victims| victims.iter().map(|pod| pod.name().to_owned()).collect())
    }

    #[test]
    fn as_few_and_as_lowly_pods_as_possible_make_room() {
        let (small, large) = (burstable("small", "100m", "100Mi"), burstable("large", "500m", "500Mi"));
        let (best, better) = (guaranteed("best", "1", "1Gi"), pod("best-effort", json!({}), json!({}), 0));
        let all = [small.clone(), large.clone(), best, better.clone()];
        for (shortages, expect) in [
            (&[][..], &[][..]),
            (&[("cpu", 100)], &["small"]),
            (&[("cpu", 200)], &["large"]),
            (&[("cpu", 600)], &["large", "small"]),
            (&[("cpu", 700)], &["best"]),
            (&[("pods", 1)], &["best-effort"]),
            (&[("pods", 1), ("memory", 50 << 20)], &["small"]),
            (&[("pods", 2), ("memory", 50 << 20)], &["best-effort", "small"]),
        ] {
            let expect: Vec<String> = expect.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(names(&all, shortages), Ok(expect), "{shortages:?}");
        }
        let refused = names(&[small, large, better], &[("cpu", 700)]).expect_err("they have 600");
        assert!(refused.ends_with("reclaim resources: [(res: cpu, q: 100), ]"), "{refused}");
    }

    #[test]
    fn only_lower_priorities_make_room() {
        let other = pod("other", json!({"cpu": "1"}), json!({}), pod::SYSTEM_CRITICAL_PRIORITY);
        assert!(names(&[other], &[("cpu", 100)]).is_err());
        let higher = pod("higher", json!({}), json!({}), pod::SYSTEM_CRITICAL_PRIORITY + 1);
        let lower = pod("lower", json!({}), json!({}), pod::SYSTEM_CRITICAL_PRIORITY);
        assert!(is_preemptable(&higher, &lower) && !is_preemptable(&lower, &higher));
        assert_eq!(patience(&[]), MIN_PATIENCE);
        let mut slow = Pod::clone(&lower);
        slow.spec.get_or_insert_default().termination_grace_period_seconds = Some(60);
        assert_eq!(patience(&[Arc::new(slow)]), Duration::from_secs(90));
    }
}
