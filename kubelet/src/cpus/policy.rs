//! The static policy: containers of guaranteed pods that ask for whole CPUs have these for themselves.
//!
//! Pure. Upstream: pkg/kubelet/cm/cpumanager/policy_static.go.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::go_bool;
use client::Object;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::assignment::{self, Rules};
use super::machine::Cpus;
use super::set::CpuSet;
use crate::admission::Rejection;
use crate::container_config::{pod_resources, qos};
use crate::pod;
use crate::topology::{Hint, Mask, Policy as TopologyPolicy};

const FULL_CORES: &str = "full-pcpus-only";
const ACROSS_NODES: &str = "distribute-cpus-across-numa";
const BY_SOCKET: &str = "align-by-socket";
const ACROSS_CORES: &str = "distribute-cpus-across-cores";
const STRICT: &str = "strict-cpu-reservation";
const BY_UNCORE: &str = "prefer-align-cpus-by-uncorecache";

/// `cpuManagerPolicyOptions`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub full_cores: bool,
    pub across_nodes: bool,
    pub by_socket: bool,
    pub across_cores: bool,
    pub strict: bool,
    pub by_uncore: bool,
}

impl Options {
    /// `alpha`, `beta`: whether options of these levels may be used.
    pub fn read(options: &BTreeMap<String, String>, alpha: bool, beta: bool) -> Result<Options, String> {
        let mut read = Options::default();
        for (name, value) in options {
            let (field, level) = match name.as_str() {
                FULL_CORES => (&mut read.full_cores, None),
                ACROSS_NODES => (&mut read.across_nodes, Some(("Beta", beta))),
                BY_SOCKET => (&mut read.by_socket, Some(("Alpha", alpha))),
                ACROSS_CORES => (&mut read.across_cores, Some(("Alpha", alpha))),
                STRICT => (&mut read.strict, None),
                BY_UNCORE => (&mut read.by_uncore, None),
                _ => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
            };
            if let Some((level, false)) = level {
                return Err(format!("CPU Manager Policy {level}-level Options not enabled, but option {name:?} provided"));
            }
            *field = go_bool::parse(value).map_err(|error| format!("bad value for option {name:?}: {error}"))?;
        }
        for (one, other, both) in [
            (FULL_CORES, ACROSS_CORES, read.full_cores && read.across_cores),
            (ACROSS_NODES, ACROSS_CORES, read.across_nodes && read.across_cores),
            (BY_UNCORE, ACROSS_CORES, read.by_uncore && read.across_cores),
            (BY_UNCORE, ACROSS_NODES, read.by_uncore && read.across_nodes),
        ] {
            if both {
                return Err(format!("static policy options {one} and {other} can not be used at the same time"));
            }
        }
        Ok(read)
    }
}

/// By pod and container.
pub type Assignments = BTreeMap<String, BTreeMap<String, CpuSet>>;

/// Who has which CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What all others share.
    pub shared: CpuSet,
    pub assignments: Assignments,
}

impl State {
    pub fn of(&self, pod_uid: &str, container: &str) -> Option<&CpuSet> {
        self.assignments.get(pod_uid)?.get(container)
    }

    /// What somebody has for himself.
    pub fn exclusive(&self) -> CpuSet {
        self.assignments.values().flat_map(BTreeMap::values).fold(CpuSet::default(), |all, cpus| all.or(cpus))
    }
}

#[derive(Clone, Debug)]
pub struct Static {
    machine: Cpus,
    options: Options,
    pub reserved: CpuSet,
    /// All threads of the reserved cores.
    reserved_cores: CpuSet,
    /// What init containers of the pod that is being admitted leave to those that follow.
    reusable: (String, CpuSet),
}

/// How many CPUs a container has for itself; zero: none.
pub fn wanted(pod: &Pod, container: &Container) -> usize {
    if qos::class(pod) != qos::Class::Guaranteed || pod_resources::has_pod_level(pod) {
        return 0;
    }
    let request = pod_resources::request(container, "cpu");
    let whole = request.value().saturating_mul(1000) == request.milli_value();
    if whole { usize::try_from(request.value()).unwrap_or(0) } else { 0 }
}

/// How many CPUs a whole pod has for itself at once.
pub fn wanted_by_pod(pod: &Pod) -> usize {
    let (mut peak, mut sidecars) = (0, 0);
    for container in pod::init_containers(pod) {
        let own = wanted(pod, container);
        if pod::is_sidecar(container) {
            sidecars += own;
        } else {
            peak = peak.max(sidecars + own);
        }
    }
    let running: usize = pod::containers(pod).iter().map(|container| wanted(pod, container)).sum();
    peak.max(running + sidecars)
}

impl Static {
    /// Refuses what upstream does not start with. `reserved`: these CPUs, or else so many.
    pub fn new(machine: Cpus, options: Options, reserved: &CpuSet, count: usize, topology: TopologyPolicy) -> Result<Static, String> {
        if options.by_socket {
            if topology == TopologyPolicy::SingleNumaNode {
                return Err("new static policy error: Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option".to_owned());
            }
            if machine.sockets().len() > machine.numa_nodes().len() {
                return Err("new static policy error: Align by socket is not compatible with hardware where number of sockets are more than number of NUMA".to_owned());
            }
        }
        let mut policy =
            Static { machine, options, reserved: CpuSet::default(), reserved_cores: CpuSet::default(), reusable: Default::default() };
        let all = policy.machine.all();
        policy.reserved = if reserved.is_empty() { policy.take(&all, count).unwrap_or_default() } else { reserved.clone() };
        if policy.reserved.len() != count {
            return Err(format!(
                "new static policy error: [cpumanager] unable to reserve the required amount of CPUs (size of {} did not equal {count})",
                policy.reserved
            ));
        }
        let cores: BTreeSet<usize> = policy.reserved.iter().filter_map(|cpu| policy.machine.place(cpu)).map(|place| place.core).collect();
        policy.reserved_cores = cores.iter().fold(CpuSet::default(), |all, core| all.or(&policy.machine.in_core(*core)));
        Ok(policy)
    }

    /// The state to begin with: what was written down, or all CPUs shared. A state that does not fit is refused.
    pub fn begin(&self, state: State) -> Result<State, String> {
        let all = if self.options.strict { self.machine.all().without(&self.reserved) } else { self.machine.all() };
        if state.shared.is_empty() {
            if !state.assignments.is_empty() {
                return Err("default cpuset cannot be empty".to_owned());
            }
            return Ok(State { shared: all, ..state });
        }
        let reserved_and_shared = self.reserved.and(&state.shared);
        if self.options.strict && !reserved_and_shared.is_empty() {
            return Err(format!(
                "some of strictly reserved cpus: \"{reserved_and_shared}\" are present in defaultCpuSet: \"{}\"",
                state.shared
            ));
        }
        if !self.options.strict && reserved_and_shared != self.reserved {
            return Err(format!("not all reserved cpus: \"{}\" are present in defaultCpuSet: \"{}\"", self.reserved, state.shared));
        }
        for (pod, containers) in &state.assignments {
            if let Some((container, cpus)) = containers.iter().find(|(_, cpus)| !cpus.and(&state.shared).is_empty()) {
                return Err(format!(
                    "pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with default cpuset \"{}\"",
                    state.shared
                ));
            }
        }
        let known = state.shared.or(&state.exclusive());
        if known != all {
            return Err(format!("current set of available CPUs \"{all}\" doesn't match with CPUs in state \"{known}\""));
        }
        Ok(state)
    }

    /// What containers may have for themselves at all.
    pub fn allocatable(&self) -> CpuSet {
        self.machine.all().without(&self.reserved)
    }

    /// What is left of that.
    pub fn available(&self, state: &State) -> CpuSet {
        state.shared.without(&self.reserved)
    }

    fn take(&self, available: &CpuSet, count: usize) -> Result<CpuSet, String> {
        let Options { across_nodes, across_cores, by_uncore, full_cores, by_socket, .. } = self.options;
        let group = if across_nodes && full_cores { self.machine.per_core() } else { 1 };
        assignment::take(&self.machine, available, count, Rules { across_nodes, across_cores, one_socket: by_socket, by_uncore, group })
    }

    fn check_cores(&self, state: &State, count: usize) -> Result<(), Rejection> {
        if !self.options.full_cores {
            return Ok(());
        }
        let refuse = |message: String| Err(Rejection { reason: "SMTAlignmentError".to_owned(), message });
        let per_core = self.machine.per_core();
        if per_core > 0 && !count.is_multiple_of(per_core) {
            return refuse(format!("SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"));
        }
        let available = state.shared.without(&self.reserved_cores).len();
        if count > available {
            return refuse(format!(
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {count}, CPUs per core = {per_core}"
            ));
        }
        Ok(())
    }

    fn reusable(&self, pod_uid: &str) -> CpuSet {
        if self.reusable.0 == pod_uid { self.reusable.1.clone() } else { CpuSet::default() }
    }

    /// What an init container has, those that follow may have too.
    fn settle(&mut self, pod: &Pod, container: &Container, cpus: &CpuSet) {
        let leaves = pod::init_containers(pod).iter().any(|init| init.name == container.name && !pod::is_sidecar(init));
        let known = self.reusable(pod.uid());
        self.reusable = (pod.uid().to_owned(), if leaves { known.or(cpus) } else { known.without(cpus) });
    }

    /// Gives a container CPUs of its own, if it is to have any; whether it got some that it did not have before.
    pub fn allocate(&mut self, state: &mut State, pod: &Pod, container: &Container, affinity: Option<Mask>) -> Result<bool, Rejection> {
        let count = wanted(pod, container);
        if count == 0 {
            return Ok(false);
        }
        if let Some(has) = state.of(pod.uid(), &container.name).cloned() {
            self.settle(pod, container, &has);
            return Ok(false);
        }
        self.check_cores(state, count)?;
        let cpus = self.choose(state, pod.uid(), count, affinity).map_err(|error| crate::container_manager::unexpected(&error))?;
        state.shared = state.shared.without(&cpus);
        state.assignments.entry(pod.uid().to_owned()).or_default().insert(container.name.clone(), cpus.clone());
        self.settle(pod, container, &cpus);
        Ok(true)
    }

    fn choose(&self, state: &State, pod_uid: &str, count: usize, affinity: Option<Mask>) -> Result<CpuSet, String> {
        let available = self.available(state).or(&self.reusable(pod_uid));
        let mut result = CpuSet::default();
        if let Some(mask) = affinity {
            let nodes: Vec<usize> = mask.nodes().collect();
            let near = if self.options.by_socket {
                let sockets = self.machine.sockets_of_nodes(&nodes);
                sockets.into_iter().fold(CpuSet::default(), |all, socket| all.or(&self.machine.in_socket(socket)))
            } else {
                self.machine.in_nodes(nodes)
            };
            let near = near.and(&available);
            result = self.take(&near, count.min(near.len()))?;
        }
        let rest = self.take(&available.without(&result), count - result.len())?;
        Ok(result.or(&rest))
    }

    /// Whether CPUs share a cache.
    pub fn shares_cache(&self, cpus: &CpuSet) -> bool {
        let caches: BTreeSet<Option<usize>> = cpus.iter().map(|cpu| self.machine.place(cpu).map(|place| place.uncore)).collect();
        cpus.len() <= 1 || (caches.len() == 1 && !caches.contains(&None))
    }

    /// How many of these are in each NUMA node.
    pub fn by_node(&self, cpus: &CpuSet) -> BTreeMap<usize, usize> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        cpus.iter().filter_map(|cpu| self.machine.place(cpu)).for_each(|place| *counts.entry(place.node).or_default() += 1);
        counts
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// Where a container's CPUs could come from, or, without one, the whole pod's. None: it does not matter.
    pub fn hints(&self, state: &State, pod: &Pod, container: Option<&Container>) -> Option<Vec<Hint>> {
        let requested = container.map_or_else(|| wanted_by_pod(pod), |container| wanted(pod, container));
        if requested == 0 {
            return None;
        }
        let mut reusable = self.reusable(pod.uid());
        let asked: Vec<&Container> = match container {
            Some(container) => vec![container],
            None => pod::init_containers(pod).iter().chain(pod::containers(pod)).collect(),
        };
        let mut has = CpuSet::default();
        for container in &asked {
            if let Some(cpus) = state.of(pod.uid(), &container.name) {
                if cpus.len() != wanted(pod, container) {
                    return Some(Vec::new());
                }
                has = has.or(cpus);
            }
        }
        if has.len() == requested {
            return Some(self.make_hints(&has, &CpuSet::default(), requested));
        }
        reusable = reusable.or(&has);
        Some(self.make_hints(&self.available(state), &reusable, requested))
    }

    fn make_hints(&self, available: &CpuSet, reusable: &CpuSet, requested: usize) -> Vec<Hint> {
        let nodes = self.machine.numa_nodes();
        let mut fewest = nodes.len();
        let mut masks = Vec::new();
        let node_of = |cpu: usize| self.machine.place(cpu).map(|place| place.node);
        for mask in Mask::subsets(&nodes) {
            let is_in = |cpu: &usize| node_of(*cpu).is_some_and(|node| mask.has(node));
            if self.machine.in_nodes(mask.nodes()).len() >= requested {
                fewest = fewest.min(mask.count());
            }
            let matching = reusable.len() + available.iter().filter(is_in).count();
            if reusable.iter().all(|cpu| is_in(&cpu)) && matching >= requested {
                masks.push(mask);
            }
        }
        let preferred = |mask: Mask| mask.count() == fewest || (self.options.by_socket && self.is_one_socket(mask, fewest));
        masks.into_iter().map(|mask| Hint { affinity: Some(mask), preferred: preferred(mask) }).collect()
    }

    /// Whether nodes are of no more sockets than they have to be.
    fn is_one_socket(&self, mask: Mask, fewest: usize) -> bool {
        let per_socket = self.machine.numa_nodes().len() / self.machine.sockets().len().max(1);
        per_socket > 0 && self.machine.sockets_of_nodes(&mask.nodes().collect::<Vec<_>>()).len() == fewest.div_ceil(per_socket)
    }

    /// Takes back what these containers do not have any more; whether there was anything.
    pub fn keep(&self, state: &mut State, active: impl Fn(&str, &str) -> bool) -> bool {
        let before = state.exclusive();
        state.assignments.retain(|pod, containers| {
            containers.retain(|container, _| active(pod, container));
            !containers.is_empty()
        });
        let released = before.without(&state.exclusive());
        state.shared = state.shared.or(&released);
        !released.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::machine::examples::machine;
    use super::*;

    fn pod(uid: &str, init: &[&str], containers: &[&str]) -> Pod {
        let list = |kind: &str, cpus: &[&str]| -> Vec<serde_json::Value> {
            let one = |(index, cpu): (usize, &&str)| {
                let all = json!({"cpu": cpu, "memory": "1Mi"});
                json!({"name": format!("{kind}{index}"), "resources": {"requests": all, "limits": all}})
            };
            cpus.iter().enumerate().map(one).collect()
        };
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {
            "initContainers": list("i", init), "containers": list("c", containers)}}))
        .expect("it is a pod")
    }

    fn policy(options: Options, reserved: usize) -> (Static, State) {
        let policy = Static::new(machine(2, 1, 4, 2, false), options, &CpuSet::default(), reserved, TopologyPolicy::None).expect("it fits");
        let state = policy.begin(State::default()).expect("it is new");
        (policy, state)
    }

    fn give(policy: &mut Static, state: &mut State, pod: &Pod, affinity: Option<Mask>) -> Result<Vec<String>, String> {
        let mut got = Vec::new();
        for container in pod::init_containers(pod).iter().chain(pod::containers(pod)) {
            policy.allocate(state, pod, container, affinity).map_err(|rejection| format!("{}: {}", rejection.reason, rejection.message))?;
            got.push(state.of(pod.uid(), &container.name).map(CpuSet::to_string).unwrap_or_default());
        }
        Ok(got)
    }

    #[test]
    fn whole_cpus_of_guaranteed_pods_are_their_own() {
        let (mut policy, mut state) = policy(Options::default(), 1);
        assert_eq!((policy.reserved.to_string().as_str(), state.shared.to_string().as_str()), ("0", "0-15"));
        assert_eq!(give(&mut policy, &mut state, &pod("a", &[], &["2", "500m"]), None), Ok(vec!["1,9".to_owned(), String::new()]));
        assert_eq!(state.shared.to_string(), "0,2-8,10-15");
        // What an init container has, the others have after it.
        assert_eq!(give(&mut policy, &mut state, &pod("b", &["2"], &["2"]), None), Ok(vec!["2,10".to_owned(), "2,10".to_owned()]));
        assert_eq!(give(&mut policy, &mut state, &pod("b", &["2"], &["2"]), None), Ok(vec!["2,10".to_owned(), "2,10".to_owned()]));
        assert_eq!(give(&mut policy, &mut state, &pod("c", &[], &["2"]), Some(Mask::of([1]))), Ok(vec!["4,12".to_owned()]));
        assert_eq!(
            give(&mut policy, &mut state, &pod("d", &[], &["12"]), None),
            Err("UnexpectedAdmissionError: Allocate failed due to not enough cpus available to satisfy request: requested=12, available=9, which is unexpected".to_owned())
        );
        assert!(policy.keep(&mut state, |pod, _| pod != "a"));
        assert_eq!(state.shared.to_string(), "0-1,3,5-9,11,13-15");
        assert_eq!(policy.begin(state.clone()), Ok(state));
    }

    #[test]
    fn whole_cores_only() {
        let (mut policy, mut state) = policy(Options { full_cores: true, ..Options::default() }, 2);
        for (cpus, message) in [
            ("3", "SMTAlignmentError: SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"),
            (
                "16",
                "SMTAlignmentError: SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 14, requested CPUs = 16, CPUs per core = 2",
            ),
        ] {
            assert_eq!(give(&mut policy, &mut state, &pod("a", &[], &[cpus]), None), Err(message.to_owned()));
        }
        assert_eq!(give(&mut policy, &mut state, &pod("a", &[], &["4"]), None), Ok(vec!["1-2,9-10".to_owned()]));
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused() {
        let (policy, _) = policy(Options::default(), 1);
        let (strict, fresh) = self::policy(Options { strict: true, ..Options::default() }, 1);
        assert_eq!(fresh.shared.to_string(), "1-15");
        let state = |shared: &str, own: &str| State {
            shared: CpuSet::parse(shared).expect("it is a set"),
            assignments: [("p".to_owned(), [("c".to_owned(), CpuSet::parse(own).expect("it is a set"))].into())].into(),
        };
        for (policy, shared, own, message) in [
            (&policy, "", "1", "default cpuset cannot be empty"),
            (&policy, "1-15", "0", "not all reserved cpus: \"0\" are present in defaultCpuSet: \"1-15\""),
            (&policy, "0-15", "3", "pod: p, container: c cpuset: \"3\" overlaps with default cpuset \"0-15\""),
            (&policy, "0-3", "4", "current set of available CPUs \"0-15\" doesn't match with CPUs in state \"0-4\""),
            (&strict, "0-3", "4", "some of strictly reserved cpus: \"0\" are present in defaultCpuSet: \"0-3\""),
        ] {
            assert_eq!(policy.begin(state(shared, own)), Err(message.to_owned()));
        }
    }

    #[test]
    fn hints_say_which_nodes_have_enough() {
        let (mut policy, mut state) = policy(Options::default(), 1);
        let hint = |nodes: &[usize], preferred| Hint { affinity: Some(Mask::of(nodes.iter().copied())), preferred };
        let of = |policy: &Static, state: &State, cpus: &str| {
            let pod = pod("x", &[], &[cpus]);
            policy.hints(state, &pod, Some(&pod::containers(&pod)[0]))
        };
        assert_eq!(of(&policy, &state, "8"), Some(vec![hint(&[1], true), hint(&[0, 1], false)]));
        assert_eq!(of(&policy, &state, "7"), Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]));
        assert_eq!(of(&policy, &state, "9"), Some(vec![hint(&[0, 1], true)]));
        assert_eq!(of(&policy, &state, "500m"), None);
        give(&mut policy, &mut state, &pod("a", &[], &["8"]), Some(Mask::of([1]))).expect("there are enough");
        assert_eq!(of(&policy, &state, "8"), Some(vec![]));
        let again = pod("a", &[], &["8"]);
        assert_eq!(policy.hints(&state, &again, None), Some(vec![hint(&[1], true), hint(&[0, 1], false)]));
    }

    #[test]
    fn options_are_refused_in_upstreams_words() {
        let read = |options: &[&str], alpha| {
            Options::read(&options.iter().map(|name| ((*name).to_owned(), "true".to_owned())).collect(), alpha, true)
        };
        assert_eq!(read(&[FULL_CORES, ACROSS_NODES], false), Ok(Options { full_cores: true, across_nodes: true, ..Options::default() }));
        for (options, message) in [
            (&["x"][..], "unknown CPU Manager Policy option: \"x\""),
            (&[BY_SOCKET], "CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided"),
        ] {
            assert_eq!(read(options, false), Err(message.to_owned()));
        }
        assert_eq!(
            read(&[FULL_CORES, ACROSS_CORES], true),
            Err("static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time".to_owned())
        );
    }
}
