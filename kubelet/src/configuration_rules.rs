//! What a configuration may not say of CPUs, memory and NUMA nodes, in upstream's words.
//!
//! Pure. Upstream: pkg/kubelet/apis/config/validation.

use std::collections::BTreeSet;

use crate::configuration::KubeletConfiguration;
use crate::container_config::pod_resources;
use crate::cpus::set::CpuSet;
use crate::topology::{Policy, Scope};

/// Everything that is wrong.
pub fn problems(settings: &KubeletConfiguration) -> Vec<String> {
    let mut problems = Vec::new();
    let mut wrong = |problem: String| problems.push(format!("invalid configuration: {problem}"));
    if Policy::named(&settings.topology_manager_policy).is_none() {
        wrong(format!(
            "topologyManagerPolicy (--topology-manager-policy) {:?} must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]",
            settings.topology_manager_policy
        ));
    }
    if Scope::named(&settings.topology_manager_scope).is_none() {
        wrong(format!(
            "topologyManagerScope (--topology-manager-scope) {:?} must be one of: \"container\", or \"pod\"",
            settings.topology_manager_scope
        ));
    }
    if !settings.reserved_system_cpus.is_empty() {
        if ["systemReservedCgroup", "kubeReservedCgroup"].iter().any(|name| settings.other.contains_key(*name)) {
            wrong("can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)".to_owned());
        }
        if let Err(error) = CpuSet::parse(&settings.reserved_system_cpus) {
            wrong(format!("unable to parse reservedSystemCPUs (--reserved-cpus) {}, error: {error}", settings.reserved_system_cpus));
        }
    }
    let mut seen = BTreeSet::new();
    for reservation in &settings.reserved_memory {
        let node = reservation.numa_node;
        for (name, amount) in &reservation.limits {
            if name != "memory" && !name.starts_with("hugepages-") {
                wrong(format!(
                    "the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"
                ));
            }
            if pod_resources::parse(amount).is_zero() {
                wrong(format!("reserved memory may not be zero for NUMA node {node} and resource {name:?}"));
            }
            if !seen.insert((node, name.clone())) {
                wrong(format!("the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        match KubeletConfiguration::parse(&format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{text}")) {
            Ok(settings) => problems(&settings),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let zero = "reservedMemory: [{numaNode: 0, limits: {memory: \"0\"}}]";
        let twice = "reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}, {numaNode: 0, limits: {memory: 1Gi}}]";
        for (text, expect) in [
            (
                "topologyManagerPolicy: x",
                "invalid configuration: topologyManagerPolicy (--topology-manager-policy) \"x\" must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]",
            ),
            (
                "topologyManagerScope: x",
                "invalid configuration: topologyManagerScope (--topology-manager-scope) \"x\" must be one of: \"container\", or \"pod\"",
            ),
            (
                "reservedSystemCPUs: 1-",
                "invalid configuration: unable to parse reservedSystemCPUs (--reserved-cpus) 1-, error: strconv.Atoi: parsing \"\": invalid syntax",
            ),
            (
                "reservedMemory: [{numaNode: 0, limits: {cpu: 1}}]",
                "invalid configuration: the limit type \"cpu\" for NUMA node 0 is not supported, only [memory hugepages-<HugePageSize>] is accepted",
            ),
            (zero, "invalid configuration: reserved memory may not be zero for NUMA node 0 and resource \"memory\""),
            (twice, "invalid configuration: the reserved memory has a duplicate value for NUMA node 0 and resource \"memory\""),
        ] {
            assert_eq!(of(text), [format!("failed to validate kubelet configuration, error: {expect}")], "{text}");
        }
        assert!(of("topologyManagerPolicy: restricted\ntopologyManagerScope: pod\nreservedSystemCPUs: 0-1\nreservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}]").is_empty());
    }
}
