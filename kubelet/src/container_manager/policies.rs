//! What the configuration says of CPUs, memory and NUMA nodes, made policies for this machine.
//!
//! Pure; refuses what upstream does not start with, in its words.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::quantity::{Format, Quantity as Amount};

use crate::configuration::KubeletConfiguration;
use crate::cpus;
use crate::cpus::machine::Cpus;
use crate::cpus::set::CpuSet;
use crate::memory;
use crate::memory::policy::Amounts;
use crate::topology::policy::Options;
use crate::topology::{Merger, Policy, Scope};

/// All policies of a kubelet.
pub struct Policies {
    pub merger: Merger,
    pub scope: Scope,
    pub cpus: Option<cpus::policy::Static>,
    pub memory: Option<memory::policy::Static>,
}

/// `reserved`: what the node keeps for itself (system, kubelet, eviction), by resource.
pub fn of(settings: &KubeletConfiguration, machine: &Cpus, reserved: &BTreeMap<String, Amount>) -> Result<Policies, String> {
    let unknown = |name: &str| format!("unknown policy: \"{name}\"");
    let policy = Policy::named(&settings.topology_manager_policy).ok_or_else(|| unknown(&settings.topology_manager_policy))?;
    let scope = Scope::named(&settings.topology_manager_scope);
    let scope = scope.ok_or_else(|| format!("unknown scope: \"{}\"", settings.topology_manager_scope))?;
    let options = match policy {
        Policy::None => Options { prefer_closest: false, max_nodes: crate::topology::policy::MAX_NODES },
        _ => Options::read(&settings.topology_manager_policy_options)?,
    };
    let nodes = machine.nodes.iter().map(|(id, node)| (*id, node.distances.clone())).collect();
    let merger = Merger::new(policy, options, nodes)?;
    let cpus = match settings.cpu_manager_policy.as_str() {
        "none" if settings.cpu_manager_policy_options.is_empty() => None,
        "none" => {
            return Err("new none policy error: None policy: received unsupported options=".to_owned()
                + &go_map(&settings.cpu_manager_policy_options));
        }
        "static" => Some(static_cpus(settings, machine, reserved, policy)?),
        name => return Err(unknown(name)),
    };
    let memory = match settings.memory_manager_policy.as_str() {
        "None" => None,
        "Static" => Some(static_memory(settings, machine, reserved)?),
        "BestEffort" => return Err("policy \"BestEffort\" is not available for platform \"linux\"".to_owned()),
        name => return Err(format!("unknown policy: {name:?}")),
    };
    Ok(Policies { merger, scope, cpus, memory })
}

/// A map as Go prints it.
fn go_map(map: &BTreeMap<String, String>) -> String {
    format!("map[{}]", map.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<String>>().join(" "))
}

fn static_cpus(
    settings: &KubeletConfiguration,
    machine: &Cpus,
    reserved: &BTreeMap<String, Amount>,
    topology: Policy,
) -> Result<cpus::policy::Static, String> {
    let gate = |name: &str, default| settings.feature_gates.get(name).copied().unwrap_or(default);
    let all = gate("AllAlpha", false);
    let (alpha, beta) = (gate("CPUManagerPolicyAlphaOptions", all), gate("CPUManagerPolicyBetaOptions", true));
    let milli = reserved.get("cpu").map_or(0, Amount::milli_value);
    if milli == 0 {
        return Err("[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero".to_owned());
    }
    let count = usize::try_from(milli).unwrap_or(0).div_ceil(1000);
    let options = cpus::policy::Options::read(&settings.cpu_manager_policy_options, alpha, beta);
    let options = options.map_err(|error| format!("new static policy error: {error}"))?;
    let named = CpuSet::parse(&settings.reserved_system_cpus)?;
    cpus::policy::Static::new(machine.clone(), options, &named, count, topology)
}

fn static_memory(
    settings: &KubeletConfiguration,
    machine: &Cpus,
    reserved: &BTreeMap<String, Amount>,
) -> Result<memory::policy::Static, String> {
    let is_memory = |name: &str| name == "memory" || name.starts_with("hugepages-");
    let mut by_node: BTreeMap<usize, Amounts> = BTreeMap::new();
    let mut total: BTreeMap<&str, Amount> = BTreeMap::new();
    for reservation in &settings.reserved_memory {
        let node = usize::try_from(reservation.numa_node).ok().filter(|node| machine.nodes.contains_key(node));
        let node = node.ok_or_else(|| {
            format!(
                "the reserved memory configuration references a NUMA node {} that does not exist on this machine",
                reservation.numa_node
            )
        })?;
        for (name, text) in &reservation.limits {
            let amount = Amount::parse(&text.0).map_err(|error| format!("{name}: {error}"))?;
            by_node.entry(node).or_default().insert(name.clone(), u64::try_from(amount.value()).unwrap_or(0));
            let sum = total.entry(name).or_default();
            *sum = sum.plus(&amount);
        }
    }
    let kept = reserved.keys().map(String::as_str).filter(|name| is_memory(name));
    for name in total.keys().copied().chain(kept).collect::<BTreeSet<&str>>() {
        let (configured, node) = (total.get(name).cloned().unwrap_or_default(), reserved.get(name).cloned().unwrap_or_default());
        if configured != node {
            return Err(format!(
                "the total amount \"{}\" of type {name:?} is not equal to the value \"{}\" determined by Node Allocatable feature",
                configured.canonical(),
                node.canonical()
            ));
        }
    }
    let amounts = machine.nodes.iter().map(|(id, node)| {
        let mut amounts = Amounts::from([("memory".to_owned(), node.memory_bytes)]);
        for (kib, bytes) in &node.huge_pages {
            let size = Amount::new(i64::try_from(kib * 1024).unwrap_or(i64::MAX), Format::BinarySi).canonical();
            amounts.insert(format!("hugepages-{size}"), *bytes);
        }
        (*id, amounts)
    });
    memory::policy::Static::new(&amounts.collect(), &by_node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::machine::examples::machine;

    fn settings(text: &str) -> KubeletConfiguration {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        KubeletConfiguration::parse(&format!("{head}{text}")).expect("it is well formed")
    }

    fn refused(text: &str, cpu: &str) -> Option<String> {
        let amount = |text: &str| Amount::parse(text).expect("it is a quantity");
        let reserved = BTreeMap::from([("cpu".to_owned(), amount(cpu)), ("memory".to_owned(), amount("1Gi"))]);
        of(&settings(text), &machine(1, 2, 2, 2, false), &reserved).err()
    }

    #[test]
    fn configurations_that_do_not_fit_the_machine_are_refused() {
        for (text, cpu, expect) in [
            ("", "0", None),
            ("cpuManagerPolicy: static", "500m", None),
            (
                "cpuManagerPolicy: static",
                "0",
                Some("[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"),
            ),
            (
                "cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}",
                "1",
                Some("new none policy error: None policy: received unsupported options=map[full-pcpus-only:true]"),
            ),
            (
                "cpuManagerPolicy: static\ncpuManagerPolicyOptions: {x: \"true\"}",
                "1",
                Some("new static policy error: unknown CPU Manager Policy option: \"x\""),
            ),
            ("cpuManagerPolicy: other", "1", Some("unknown policy: \"other\"")),
            ("memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 1, limits: {memory: 1Gi}}]", "1", None),
            (
                "memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 5, limits: {memory: 1Gi}}]",
                "1",
                Some("the reserved memory configuration references a NUMA node 5 that does not exist on this machine"),
            ),
            (
                "memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 1, limits: {memory: 2Gi}}]",
                "1",
                Some(
                    "the total amount \"2Gi\" of type \"memory\" is not equal to the value \"1Gi\" determined by Node Allocatable feature",
                ),
            ),
            (
                "topologyManagerPolicy: restricted\ntopologyManagerPolicyOptions: {x: \"1\"}",
                "1",
                Some("unknown Topology Manager Policy option: \"x\""),
            ),
        ] {
            assert_eq!(refused(text, cpu).as_deref(), expect, "{text}");
        }
    }
}
