//! The static policy: guaranteed pods have their memory and huge pages from as few NUMA nodes as will do, and these are promised to
//! nobody else.
//!
//! Pure. Upstream: pkg/kubelet/cm/memorymanager/policy_static.go.

use std::collections::{BTreeMap, BTreeSet};

use client::Object;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use crate::container_config::{pod_resources, qos};
use crate::pod;
use crate::topology::{Hint, Hints, Mask};

/// Bytes by the resource's name: `memory`, `hugepages-2Mi`.
pub type Amounts = BTreeMap<String, u64>;

/// Some memory of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    pub numa_affinity: Vec<usize>,
    #[serde(rename = "type")]
    pub kind: String,
    pub size: u64,
}

/// One kind of memory of a node, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    pub total: u64,
    pub system_reserved: u64,
    pub allocatable: u64,
    pub reserved: u64,
    pub free: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    pub number_of_assignments: usize,
    pub memory_map: BTreeMap<String, Table>,
    /// The nodes whose memory is given together with this one's.
    pub cells: Vec<usize>,
}

/// By pod and container.
pub type Assignments = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Who has which memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub nodes: BTreeMap<usize, NodeState>,
    pub assignments: Assignments,
}

/// What each node has, and what of it is nobody's.
#[derive(Clone, Debug, Default)]
pub struct Static {
    machine: BTreeMap<usize, NodeState>,
    /// What init containers of the pod that is being admitted leave to those that follow, by the nodes that it is of.
    reusable: (String, BTreeMap<(Mask, String), u64>),
}

fn is_memory(name: &str) -> bool {
    name == "memory" || name.starts_with("hugepages-")
}

/// What a container is to have of its own.
pub fn wanted(container: &Container) -> Amounts {
    let requests = container.resources.iter().flat_map(|resources| resources.requests.iter().flatten());
    let memory = requests.filter(|(name, _)| is_memory(name));
    memory.map(|(name, amount)| (name.clone(), u64::try_from(pod_resources::parse(amount).value()).unwrap_or(0))).collect()
}

/// Whether a pod's containers have memory of their own.
pub fn concerns(pod: &Pod) -> bool {
    qos::class(pod) == qos::Class::Guaranteed && !pod_resources::has_pod_level(pod)
}

fn wanted_by_pod(pod: &Pod) -> Amounts {
    let (mut peak, mut sidecars, mut running) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in pod::init_containers(pod) {
        for (name, amount) in wanted(container) {
            let beside = sidecars.entry(name.clone()).or_default();
            if pod::is_sidecar(container) {
                *beside += amount;
            } else {
                let peak = peak.entry(name).or_default();
                *peak = (*peak).max(*beside + amount);
            }
        }
    }
    for (name, amount) in pod::containers(pod).iter().flat_map(wanted) {
        *running.entry(name).or_default() += amount;
    }
    let total = |(name, amount): (String, u64)| {
        let all = (amount + sidecars.get(&name).copied().unwrap_or(0)).max(peak.get(&name).copied().unwrap_or(0));
        (name, all)
    };
    running.into_iter().map(total).collect()
}

fn mask(block: &Block) -> Mask {
    Mask::of(block.numa_affinity.iter().copied())
}

/// Takes memory of nodes, from the first on.
fn reserve(nodes: &mut BTreeMap<usize, NodeState>, affinity: &[usize], kind: &str, mut size: u64) {
    for id in affinity {
        let Some(node) = nodes.get_mut(id) else { continue };
        node.number_of_assignments += 1;
        node.cells = affinity.to_vec();
        let Some(table) = node.memory_map.get_mut(kind) else { continue };
        let part = size.min(table.free);
        table.reserved += part;
        table.free -= part;
        size -= part;
    }
}

fn release(nodes: &mut BTreeMap<usize, NodeState>, block: &Block) {
    let mut size = block.size;
    for id in &block.numa_affinity {
        let Some(node) = nodes.get_mut(id) else { continue };
        node.number_of_assignments = node.number_of_assignments.saturating_sub(1);
        if node.number_of_assignments == 0 {
            node.cells = vec![*id];
        }
        let Some(table) = node.memory_map.get_mut(&block.kind) else { continue };
        let part = size.min(table.reserved);
        table.free += part;
        table.reserved -= part;
        size -= part;
    }
}

fn is_group(cells: &[usize], mask: Mask) -> bool {
    Mask::of(cells.iter().copied()) == mask
}

impl Static {
    /// `total` and `reserved`: bytes by node and kind.
    pub fn new(total: &BTreeMap<usize, Amounts>, reserved: &BTreeMap<usize, Amounts>) -> Result<Static, String> {
        if reserved.values().filter_map(|amounts| amounts.get("memory")).sum::<u64>() == 0 {
            return Err("[memorymanager] you should specify the system reserved memory".to_owned());
        }
        let node = |(id, amounts): (&usize, &Amounts)| {
            let huge: u64 = amounts.iter().filter(|(name, _)| *name != "memory").map(|(_, bytes)| bytes).sum();
            let table = |(name, total): (&String, &u64)| {
                let system_reserved = reserved.get(id).and_then(|amounts| amounts.get(name)).copied().unwrap_or(0);
                let elsewhere = if name == "memory" { huge } else { 0 };
                let allocatable = total.saturating_sub(system_reserved).saturating_sub(elsewhere);
                (name.clone(), Table { total: *total, system_reserved, allocatable, reserved: 0, free: allocatable })
            };
            (*id, NodeState { number_of_assignments: 0, memory_map: amounts.iter().map(table).collect(), cells: vec![*id] })
        };
        Ok(Static { machine: total.iter().map(node).collect(), ..Static::default() })
    }

    /// The state to begin with: what was written down, or nothing given. A state that does not fit is refused.
    pub fn begin(&self, state: State) -> Result<State, String> {
        if state.nodes.is_empty() {
            if !state.assignments.is_empty() {
                return Err("[memorymanager] machine state can not be empty when it has memory assignments".to_owned());
            }
            return Ok(State { nodes: self.machine.clone(), ..state });
        }
        let mut expected = self.machine.clone();
        for (pod, containers) in &state.assignments {
            for (container, block) in containers.iter().flat_map(|(container, blocks)| blocks.iter().map(move |block| (container, block))) {
                let lacks = |what: &str| {
                    Err(format!(
                        "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses {what} that does not exist"
                    ))
                };
                for id in &block.numa_affinity {
                    match expected.get(id) {
                        None => return lacks("the NUMA"),
                        Some(node) if !node.memory_map.contains_key(&block.kind) => return lacks("memory resource"),
                        Some(_) => {}
                    }
                }
                reserve(&mut expected, &block.numa_affinity, &block.kind, block.size);
            }
        }
        if !is_same(&state.nodes, &expected) {
            return Err("[memorymanager] the expected machine state is different from the real one".to_owned());
        }
        Ok(state)
    }

    fn reusable(&self, pod_uid: &str, mask: Mask, kind: &str) -> u64 {
        if self.reusable.0 != pod_uid {
            return 0;
        }
        self.reusable.1.get(&(mask, kind.to_owned())).copied().unwrap_or(0)
    }

    /// What an init container has, those that follow may have too.
    fn settle(&mut self, pod: &Pod, container: &Container, blocks: &[Block]) {
        let leaves = pod::init_containers(pod).iter().any(|init| init.name == container.name && !pod::is_sidecar(init));
        if self.reusable.0 != pod.uid() {
            self.reusable = (pod.uid().to_owned(), BTreeMap::new());
        }
        for block in blocks {
            let known = self.reusable.1.entry((mask(block), block.kind.clone())).or_default();
            *known = if leaves { (*known).max(block.size) } else { known.saturating_sub(block.size) };
        }
    }

    /// Gives a container memory of its own, if it is to have any; whether it got some that it did not have before.
    pub fn allocate(&mut self, state: &mut State, pod: &Pod, container: &Container, hint: Option<Hint>) -> Result<bool, String> {
        let requested = wanted(container);
        if !concerns(pod) || requested.is_empty() {
            return Ok(false);
        }
        if let Some(blocks) = state.assignments.get(pod.uid()).and_then(|containers| containers.get(&container.name)).cloned() {
            self.settle(pod, container, &blocks);
            return Ok(false);
        }
        let mask = self.choose(state, pod.uid(), &requested, hint)?;
        let affinity: Vec<usize> = mask.nodes().collect();
        let mut blocks = Vec::new();
        for (kind, size) in requested {
            let over = size.saturating_sub(self.reusable(pod.uid(), mask, &kind));
            reserve(&mut state.nodes, &affinity, &kind, over);
            blocks.push(Block { numa_affinity: affinity.clone(), kind, size });
        }
        self.settle(pod, container, &blocks);
        take_from_init_containers(state, pod, container, &blocks);
        state.assignments.entry(pod.uid().to_owned()).or_default().insert(container.name.clone(), blocks);
        Ok(true)
    }

    /// The nodes that a container's memory comes from.
    fn choose(&self, state: &State, pod_uid: &str, requested: &Amounts, hint: Option<Hint>) -> Result<Mask, String> {
        let must_be_preferred = hint.is_some_and(|hint| hint.preferred);
        let (mask, preferred) = match hint.and_then(|hint| Some((hint.affinity?, hint.preferred))) {
            Some(found) => found,
            None => {
                let best = best(&self.make_hints(state, pod_uid, requested));
                let none = "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";
                let (mask, preferred) = best.ok_or(none)?;
                if !preferred && must_be_preferred {
                    return Err("[memorymanager] failed to find the default preferred hint".to_owned());
                }
                (mask, preferred)
            }
        };
        let free = |kind: &str| -> u64 {
            let tables = mask.nodes().filter_map(|id| state.nodes.get(&id)?.memory_map.get(kind));
            tables.map(|table| table.free).sum()
        };
        let mask = if requested.iter().all(|(kind, size)| free(kind) >= *size) {
            mask
        } else {
            let mut wider = self.make_hints(state, pod_uid, requested);
            wider.retain(|hint| hint.affinity.is_some_and(|affinity| affinity.and(mask) == mask));
            let none = "[memorymanager] failed to find NUMA nodes to extend the current topology hint";
            let (wider, is_preferred) = best(&wider).ok_or(none)?;
            if !is_preferred && preferred {
                return Err("[memorymanager] failed to find the extended preferred hint".to_owned());
            }
            wider
        };
        let violates = |id: usize| {
            state.nodes.get(&id).is_some_and(|node| {
                node.number_of_assignments > 0 && mask.count() > 1 && (node.cells.len() == 1 || !is_group(&node.cells, mask))
            })
        };
        if mask.nodes().any(violates) {
            return Err("[memorymanager] preferred hint violates NUMA node allocation".to_owned());
        }
        Ok(mask)
    }

    /// Where all that is requested could come from at once.
    fn make_hints(&self, state: &State, pod_uid: &str, requested: &Amounts) -> Vec<Hint> {
        let ids: Vec<usize> = state.nodes.keys().copied().collect();
        let mut fewest = ids.len();
        let mut masks = Vec::new();
        for mask in Mask::subsets(&ids) {
            let nodes = || mask.nodes().filter_map(|id| state.nodes.get(&id));
            let sum = |kind: &str, of: fn(&Table) -> u64| -> u64 { nodes().filter_map(|node| node.memory_map.get(kind)).map(of).sum() };
            if requested.iter().any(|(kind, size)| sum(kind, |table| table.allocatable) < *size) {
                continue;
            }
            fewest = fewest.min(mask.count());
            let single = mask.count() == 1;
            let fits = |node: &NodeState| {
                if single {
                    node.cells.len() <= 1
                } else {
                    node.number_of_assignments == 0 || (node.cells.len() > 1 && is_group(&node.cells, mask))
                }
            };
            let enough = |(kind, size): (&String, &u64)| sum(kind, |table| table.free) + self.reusable(pod_uid, mask, kind) >= *size;
            if nodes().all(fits) && requested.iter().all(enough) {
                masks.push(mask);
            }
        }
        masks.into_iter().map(|mask| Hint { affinity: Some(mask), preferred: mask.count() == fewest }).collect()
    }

    /// Where a container's memory could come from, or, without one, the whole pod's.
    pub fn hints(&self, state: &State, pod: &Pod, container: Option<&Container>) -> Hints {
        let requested = container.map_or_else(|| wanted_by_pod(pod), wanted);
        if !concerns(pod) || requested.is_empty() {
            return Hints::new();
        }
        let has = state.assignments.get(pod.uid());
        let asked: Vec<&Container> = match container {
            Some(container) => vec![container],
            None => pod::init_containers(pod).iter().chain(pod::containers(pod)).collect(),
        };
        if let Some(blocks) = asked.iter().find_map(|container| has?.get(&container.name)) {
            let fits = blocks.len() == requested.len() && blocks.iter().all(|block| requested.get(&block.kind) == Some(&block.size));
            let again = |block: &Block| (block.kind.clone(), Some(vec![Hint { affinity: Some(mask(block)), preferred: true }]));
            return if fits { blocks.iter().map(again).collect() } else { Hints::new() };
        }
        let hints = self.make_hints(state, pod.uid(), &requested);
        // Without any way, upstream has nothing to say; then allocation fails.
        if hints.is_empty() { Hints::new() } else { requested.into_keys().map(|kind| (kind, Some(hints.clone()))).collect() }
    }

    /// Takes back what these containers do not have any more; whether there was anything.
    pub fn keep(&self, state: &mut State, active: impl Fn(&str, &str) -> bool) -> bool {
        let mut gone = Vec::new();
        state.assignments.retain(|pod, containers| {
            containers.retain(|container, blocks| {
                let stays = active(pod, container);
                if !stays {
                    gone.append(blocks);
                }
                stays
            });
            !containers.is_empty()
        });
        gone.iter().for_each(|block| release(&mut state.nodes, block));
        !gone.is_empty()
    }

    /// What can be given at all.
    pub fn allocatable(&self) -> Vec<Block> {
        let blocks = self.machine.iter().flat_map(|(id, node)| {
            node.memory_map.iter().map(move |(kind, table)| Block { numa_affinity: vec![*id], kind: kind.clone(), size: table.allocatable })
        });
        blocks.filter(|block| block.size > 0).collect()
    }
}

/// What a container reuses of the init containers' memory is not theirs any more, so that it is given back once.
fn take_from_init_containers(state: &mut State, pod: &Pod, container: &Container, blocks: &[Block]) {
    let Some(containers) = state.assignments.get_mut(pod.uid()) else { return };
    for block in blocks {
        let mut left = block.size;
        for init in pod::init_containers(pod).iter().take_while(|init| init.name != container.name).filter(|init| !pod::is_sidecar(init)) {
            let theirs = containers.get_mut(&init.name).into_iter().flatten();
            for theirs in theirs.filter(|theirs| theirs.kind == block.kind && mask(theirs) == mask(block)) {
                let part = left.min(theirs.size);
                theirs.size -= part;
                left -= part;
            }
        }
    }
}

fn best(hints: &[Hint]) -> Option<(Mask, bool)> {
    let found = hints.iter().filter_map(|hint| Some((hint.affinity?, hint.preferred)));
    found.reduce(|best, hint| match (best.1, hint.1) {
        (false, true) => hint,
        (true, false) => best,
        _ if hint.0.is_narrower_than(best.0) => hint,
        _ => best,
    })
}

/// Whether two states are the same but for which node of a group gave how much.
fn is_same(a: &BTreeMap<usize, NodeState>, b: &BTreeMap<usize, NodeState>) -> bool {
    let sums = |nodes: &BTreeMap<usize, NodeState>, cells: &[usize], kind: &str| {
        let tables = cells.iter().filter_map(|id| nodes.get(id)?.memory_map.get(kind));
        tables.fold((0, 0), |(free, reserved), table| (free + table.free, reserved + table.reserved))
    };
    let ids = |nodes: &BTreeMap<usize, NodeState>| nodes.keys().copied().collect::<BTreeSet<usize>>();
    ids(a) == ids(b)
        && a.iter().zip(b.values()).all(|((_, one), other)| {
            let group = Mask::of(one.cells.iter().copied());
            let tables = one.memory_map.len() == other.memory_map.len()
                && one.memory_map.iter().all(|(kind, table)| {
                    let fixed = |table: &Table| (table.total, table.system_reserved, table.allocatable);
                    other.memory_map.get(kind).is_some_and(|known| fixed(known) == fixed(table))
                        && sums(a, &one.cells, kind) == sums(b, &one.cells, kind)
                });
            one.number_of_assignments == other.number_of_assignments && is_group(&other.cells, group) && tables
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn policy() -> (Static, State) {
        let total = |memory: u64| Amounts::from([("memory".to_owned(), memory), ("hugepages-2Mi".to_owned(), GIB)]);
        let total = BTreeMap::from([(0, total(8 * GIB)), (1, total(8 * GIB))]);
        let reserved = BTreeMap::from([(0, Amounts::from([("memory".to_owned(), GIB)]))]);
        let policy = Static::new(&total, &reserved).expect("some is reserved");
        let state = policy.begin(State::default()).expect("it is new");
        (policy, state)
    }

    fn pod(uid: &str, init: &[&str], memory: &[&str]) -> Pod {
        let list = |kind: &str, memory: &[&str]| -> Vec<serde_json::Value> {
            let one = |(index, memory): (usize, &&str)| {
                let all = json!({"cpu": "1", "memory": memory});
                json!({"name": format!("{kind}{index}"), "resources": {"requests": all, "limits": all}})
            };
            memory.iter().enumerate().map(one).collect()
        };
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {
            "initContainers": list("i", init), "containers": list("c", memory)}}))
        .expect("it is a pod")
    }

    fn give(policy: &mut Static, state: &mut State, pod: &Pod, hint: Option<Hint>) -> Result<Vec<Vec<usize>>, String> {
        let mut got = Vec::new();
        for container in pod::init_containers(pod).iter().chain(pod::containers(pod)) {
            policy.allocate(state, pod, container, hint)?;
            got.push(state.assignments[pod.uid()][&container.name][0].numa_affinity.clone());
        }
        Ok(got)
    }

    fn hint(nodes: &[usize], preferred: bool) -> Hint {
        Hint { affinity: Some(Mask::of(nodes.iter().copied())), preferred }
    }

    #[test]
    fn memory_comes_from_one_node_as_long_as_one_has_it() {
        let (mut policy, mut state) = policy();
        // Of the first node six are left, of the second seven.
        assert_eq!(state.nodes[&0].memory_map["memory"].free, 6 * GIB);
        assert_eq!(give(&mut policy, &mut state, &pod("a", &[], &["4Gi"]), None), Ok(vec![vec![0]]));
        assert_eq!(give(&mut policy, &mut state, &pod("b", &[], &["4Gi"]), None), Ok(vec![vec![1]]));
        // Both together have it, but each is given singly.
        assert_eq!(
            give(&mut policy, &mut state, &pod("c", &[], &["4Gi"]), None),
            Err("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available".to_owned())
        );
        assert!(policy.keep(&mut state, |pod, _| pod == "b"));
        assert_eq!(give(&mut policy, &mut state, &pod("d", &[], &["2Gi"]), Some(hint(&[1], true))), Ok(vec![vec![1]]));
        assert!(policy.keep(&mut state, |_, _| false));
        assert_eq!(state, policy.begin(State::default()).expect("it is new"));
        assert_eq!(give(&mut policy, &mut state, &pod("e", &[], &["10Gi"]), None), Ok(vec![vec![0, 1]]));
        assert_eq!(state.nodes[&0].memory_map["memory"].free, 0);
        assert_eq!(policy.begin(state.clone()).as_ref(), Ok(&state));
        // Then single nodes are not to be had, though one would do.
        assert_eq!(give(&mut policy, &mut state, &pod("f", &[], &["1Gi"]), None), Ok(vec![vec![0, 1]]));
        assert!(give(&mut policy, &mut state, &pod("g", &[], &["1Gi"]), Some(hint(&[0], true))).is_err());
        state.nodes.get_mut(&1).expect("it is there").number_of_assignments = 7;
        assert_eq!(policy.begin(state), Err("[memorymanager] the expected machine state is different from the real one".to_owned()));
    }

    #[test]
    fn init_containers_leave_their_memory_to_those_that_follow() {
        let (mut policy, mut state) = policy();
        assert_eq!(give(&mut policy, &mut state, &pod("a", &["3Gi"], &["2Gi", "2Gi"]), None), Ok(vec![vec![0], vec![0], vec![0]]));
        // Four run at once, of which three were the init container's.
        assert_eq!(state.nodes[&0].memory_map["memory"].reserved, 4 * GIB);
        assert!(policy.keep(&mut state, |_, _| false));
        assert_eq!(state.nodes[&0].memory_map["memory"].reserved, 0);
    }

    #[test]
    fn hints_say_which_nodes_have_enough() {
        let (mut policy, mut state) = policy();
        let of = |policy: &Static, state: &State, memory: &str| {
            let pod = pod("x", &[], &[memory]);
            policy.hints(state, &pod, Some(&pod::containers(&pod)[0])).remove("memory").flatten()
        };
        assert_eq!(of(&policy, &state, "4Gi"), Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]));
        assert_eq!(of(&policy, &state, "7Gi"), Some(vec![hint(&[1], true), hint(&[0, 1], false)]));
        assert_eq!(of(&policy, &state, "8Gi"), Some(vec![hint(&[0, 1], true)]));
        let first = pod("a", &[], &["4Gi"]);
        give(&mut policy, &mut state, &first, None).expect("there is enough");
        assert_eq!(of(&policy, &state, "4Gi"), Some(vec![hint(&[1], true)]));
        assert_eq!(policy.hints(&state, &first, None).remove("memory").flatten(), Some(vec![hint(&[0], true)]));
        assert!(Static::new(&BTreeMap::new(), &BTreeMap::new()).is_err());
    }
}
