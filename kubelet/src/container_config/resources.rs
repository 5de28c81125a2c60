//! The numbers behind requests and limits: CPU shares and quota, memory, huge pages, the OOM score.
//!
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go, pkg/kubelet/qos/policy.go.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use k8s_cri::v1::{HugepageLimit, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::pod_resources::{has_pod_level, has_pod_level_requests, limit, limits, overhead, pod_level_limit, request, requests};
use super::{Node, qos};

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The least that the kernel takes as a quota, in microseconds.
const MIN_QUOTA_US: i64 = 1000;
/// What guaranteed and node critical containers get, so that they go last.
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// Pods of this priority and above are critical to their node.
const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// CPU shares of cgroup v1 for thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 { MIN_SHARES } else { (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// Microseconds of CPU time in each period; zero is no limit.
pub fn cpu_quota(milli: i64, period_us: i64) -> i64 {
    if milli == 0 { 0 } else { (milli.saturating_mul(period_us) / 1000).max(MIN_QUOTA_US) }
}

fn linux_resources(node: &Node, cpu_request: &Quantity, cpu_limit: &Quantity, memory_limit: &Quantity) -> LinuxContainerResources {
    let mut resources = LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request.milli_value()),
        memory_limit_in_bytes: memory_limit.value(),
        ..Default::default()
    };
    if node.cpu_cfs_quota {
        let period = i64::try_from(node.cpu_cfs_quota_period.as_micros()).unwrap_or(i64::MAX);
        resources.cpu_period = period;
        resources.cpu_quota = cpu_quota(cpu_limit.milli_value(), period);
    }
    if node.cgroup_v2 && !node.single_process_oom_kill {
        resources.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    resources
}

/// What a container may use.
pub fn container(pod: &Pod, container: &Container, node: &Node) -> LinuxContainerResources {
    let effective_limit = |name: &str| {
        let own = limit(container, name);
        if own.is_zero() && has_pod_level(pod) { pod_level_limit(pod, name) } else { own }
    };
    let (cpu_limit, memory_limit) = (effective_limit("cpu"), effective_limit("memory"));
    let asks_for_cpu = container.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|requests| requests.contains_key("cpu"));
    let cpu_request = if asks_for_cpu { request(container, "cpu") } else { cpu_limit.clone() };
    let mut resources = linux_resources(node, &cpu_request, &cpu_limit, &memory_limit);
    resources.oom_score_adj = oom_score_adj(pod, container, node.memory_capacity).max(node.min_oom_score_adj);
    resources.hugepage_limits = hugepage_limits(pod, container, &node.hugepage_sizes);
    if node.swap_controller {
        // No swap beyond the memory that the container may have.
        match node.cgroup_v2 {
            true => drop(resources.unified.insert("memory.swap.max".to_owned(), "0".to_owned())),
            false => resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes,
        }
    }
    if node.cgroup_v2 {
        // Takes back a limit that an earlier run may have set.
        resources.unified.insert("memory.high".to_owned(), "max".to_owned());
    }
    resources
}

/// What a pod's sandbox is told of what the pod may use: the pod's own share, and that of running it.
pub fn sandbox(pod: &Pod, node: &Node) -> (LinuxContainerResources, LinuxContainerResources) {
    let (requests, limits) = (requests(pod, false), limits(pod, false));
    let of = |list: &super::pod_resources::ResourceList, name: &str| list.get(name).cloned().unwrap_or_default();
    let cpu_limit = of(&limits, "cpu");
    let cpu_request = requests.get("cpu").cloned().unwrap_or_else(|| cpu_limit.clone());
    let resources = linux_resources(node, &cpu_request, &cpu_limit, &of(&limits, "memory"));
    let overhead = overhead(pod);
    let overhead = match overhead.is_empty() {
        true => LinuxContainerResources::default(),
        false => linux_resources(node, &of(&overhead, "cpu"), &of(&overhead, "cpu"), &of(&overhead, "memory")),
    };
    (resources, overhead)
}

/// How readily the kernel kills the container when memory runs out: -997 last, 1000 first.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= SYSTEM_NODE_CRITICAL) {
        return GUARANTEED_OOM_SCORE;
    }
    match qos::class(pod) {
        qos::Class::Guaranteed => return GUARANTEED_OOM_SCORE,
        qos::Class::BestEffort => return BEST_EFFORT_OOM_SCORE,
        qos::Class::Burstable => {}
    }
    let shared = if has_pod_level_requests(pod) { unclaimed_memory_per_container(pod) } else { 0 };
    let score = |bytes: i64| 1000 - 1000_i64.saturating_mul(bytes) / memory_capacity.max(1);
    let mut own = score(request(container, "memory").value() + shared);
    if is_sidecar(pod, container) {
        // A sidecar must not be killed before what it serves.
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let least = containers.map(|container| request(container, "memory").value()).min().unwrap_or(0);
        own = own.min(score(least + shared));
    }
    // Burstable containers are worse off than guaranteed ones and better off than the rest.
    match own {
        own if own < 1000 + GUARANTEED_OOM_SCORE => 1000 + GUARANTEED_OOM_SCORE,
        BEST_EFFORT_OOM_SCORE => BEST_EFFORT_OOM_SCORE - 1,
        own => own,
    }
}

fn is_sidecar(pod: &Pod, container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
        && pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|init| init.name == container.name)
}

/// What the pod asks for beyond its containers, divided among them.
fn unclaimed_memory_per_container(pod: &Pod) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let sidecars = spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let running: Vec<&Container> = spec.containers.iter().chain(sidecars).collect();
    let claimed: i64 = running.iter().map(|container| request(container, "memory").value()).sum();
    let total = requests(pod, false).get("memory").map(Quantity::value).unwrap_or(0);
    let count = i64::try_from(running.len()).unwrap_or(i64::MAX).max(1);
    if total > claimed { (total - claimed) / count } else { 0 }
}

/// A limit for every page size that the host has: none unless the container or its pod asks for it.
fn hugepage_limits(pod: &Pod, container: &Container, sizes: &[String]) -> Vec<HugepageLimit> {
    let mut asked: BTreeMap<String, u64> = BTreeMap::new();
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()).filter(|_| has_pod_level(pod));
    for resources in pod_level.into_iter().chain(&container.resources) {
        for (name, amount) in resources.limits.iter().flatten() {
            let Some(size) = name.strip_prefix("hugepages-").and_then(page_size) else { continue };
            asked.insert(size, u64::try_from(super::pod_resources::parse(amount).value()).unwrap_or(0));
        }
    }
    sizes.iter().map(|size| HugepageLimit { page_size: size.clone(), limit: asked.get(size).copied().unwrap_or(0) }).collect()
}

/// `2Mi` as cgroups call it: `2MB`.
fn page_size(text: &str) -> Option<String> {
    let bytes = Quantity::parse(text).ok()?.value();
    [("GB", 30), ("MB", 20), ("KB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >> shift > 0)
        .map(|(unit, shift)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container_config::test_node;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).expect("it is a pod")
    }

    #[test]
    fn shares_and_quota_have_floors() {
        for (milli, shares, quota) in [(0, 2, 0), (1, 2, 1000), (100, 102, 10_000), (1000, 1024, 100_000), (300_000, 262_144, 30_000_000)] {
            assert_eq!((cpu_shares(milli), cpu_quota(milli, 100_000)), (shares, quota), "{milli}");
        }
    }

    #[test]
    fn what_a_container_may_use_follows_from_its_limits_and_then_from_its_pods() {
        let pod = pod(json!({"resources": {"limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"}},
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "500m"}}}]}));
        let node = test_node();
        let made = container(&pod, &pod.spec.as_ref().expect("it has a spec").containers[0], &node);
        assert_eq!((made.cpu_shares, made.cpu_quota, made.cpu_period, made.memory_limit_in_bytes), (512, 50_000, 100_000, 1 << 30));
        let limits: Vec<_> = made.hugepage_limits.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
        assert_eq!(limits, [("1GB", 0), ("2MB", 4 << 20)]);
    }

    #[test]
    fn nobody_swaps_where_swap_is_counted() {
        let pod = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}]}));
        let of = |cgroup_v2| {
            let node = Node { swap_controller: true, cgroup_v2, ..test_node() };
            container(&pod, &pod.spec.as_ref().expect("it has a spec").containers[0], &node)
        };
        assert_eq!(of(false).memory_swap_limit_in_bytes, 1 << 20);
        assert_eq!(of(true).unified.get("memory.swap.max").map(String::as_str), Some("0"));
    }

    #[test]
    fn the_oom_score_follows_the_class_and_the_requested_memory() {
        let capacity = 10 << 30;
        let score = |spec: serde_json::Value| {
            let pod = pod(spec);
            oom_score_adj(&pod, &pod.spec.as_ref().expect("it has a spec").containers[0], capacity)
        };
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(score(json!({"containers": [{"name": "a"}]})), 1000);
        assert_eq!(score(json!({"containers": [{"name": "a", "resources": {"requests": all, "limits": all}}]})), -997);
        assert_eq!(score(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}]})), 900);
        assert_eq!(score(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "10Gi"}}}]})), 3);
        assert_eq!(score(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]})), 999);
        assert_eq!(score(json!({"priority": 2_000_001_000, "containers": [{"name": "a"}]})), -997);
    }

    #[test]
    fn a_score_that_cannot_be_given_is_raised_to_the_lowest_that_can() {
        let pod = pod(json!({"priority": 2_000_001_000, "containers": [{"name": "a"}]}));
        let node = Node { min_oom_score_adj: 0, ..test_node() };
        assert_eq!(container(&pod, &pod.spec.as_ref().expect("it has a spec").containers[0], &node).oom_score_adj, 0);
    }
}
