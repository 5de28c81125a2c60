//! Gives the containers of a pod what the node has once only: devices, CPUs, memory of a NUMA node.
//!
//! A pod is let in when all of its containers have what they ask for; one after the other, so that nobody is promised what somebody
//! else gets. Upstream: pkg/kubelet/cm.

pub mod granted;
mod policies;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use apimachinery::quantity::Quantity as Amount;
use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodStatus};
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::admission::Rejection;
use crate::claims::Claims;
use crate::config::Config;
use crate::configuration::KubeletConfiguration;
use crate::container_config::{labels, pod_resources};
use crate::cpus::CpuManager;
use crate::cpus::machine::Cpus;
use crate::cri::{self, Runtime, v1};
use crate::devices::{self, Devices};
use crate::memory::MemoryManager;
use crate::metrics::{Family, Kind, Metrics};
use crate::pod;
use crate::topology::{Hint, Hints, Merger, Policy, Scope};
use granted::Granted;
use policies::Policies;

static ADMISSION_REQUESTS: Family = Family {
    name: "kubelet_topology_manager_admission_requests_total",
    kind: Kind::Counter,
    help: "The number of admission requests where resources have to be aligned.",
    labels: &[],
};
static ADMISSION_ERRORS: Family = Family {
    name: "kubelet_topology_manager_admission_errors_total",
    kind: Kind::Counter,
    help: "The number of admission request failures where resources could not be aligned.",
    labels: &[],
};
static ADMISSION_DURATION: Family = Family {
    name: "kubelet_topology_manager_admission_duration_ms",
    kind: Kind::Histogram(&[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2]),
    help: "Duration in milliseconds to serve a pod admission request.",
    labels: &[],
};
static ALIGNED: Family = Family {
    name: "kubelet_container_aligned_compute_resources_count",
    kind: Kind::Counter,
    help: "Cumulative number of aligned compute resources allocated to containers by alignment type.",
    labels: &["scope", "boundary"],
};
static NOT_ALIGNED: Family = Family {
    name: "kubelet_container_aligned_compute_resources_failure_count",
    kind: Kind::Counter,
    help: "Cumulative number of failures to allocate aligned compute resources to containers by alignment type.",
    labels: &["scope", "boundary"],
};

/// The uids of the pods that hold something of the node; none while not all pods are known.
pub type ActivePods = Arc<dyn Fn() -> Option<BTreeSet<String>> + Send + Sync>;

/// Those who give CPUs and memory, and what brings them together.
struct Placing {
    machine: Cpus,
    merger: Merger,
    scope: Scope,
    cpus: CpuManager,
    memory: MemoryManager,
}

pub struct ContainerManager {
    pub devices: Devices,
    pub claims: Claims,
    pub metrics: Metrics,
    /// Whether anybody gives anything here.
    plugins: bool,
    placing: OnceLock<Placing>,
    /// Held while a pod is let in.
    admitting: tokio::sync::Mutex<()>,
    active: Mutex<Option<ActivePods>>,
    /// The containers that ran when the kubelet started, by their pods' uids and their names.
    ran: Mutex<BTreeSet<(String, String)>>,
    /// Somebody's CPUs are others than before.
    moved: Notify,
}

/// What goes wrong without a reason of its own.
pub(crate) fn unexpected(error: &str) -> Rejection {
    Rejection { reason: "UnexpectedAdmissionError".to_owned(), message: format!("Allocate failed due to {error}, which is unexpected") }
}

/// The containers of a pod in the order in which they get something, and whether what they get is for those that follow.
fn in_turn(pod: &Pod) -> impl Iterator<Item = (&Container, bool)> {
    let inits = pod::init_containers(pod).iter().map(|container| (container, !pod::is_sidecar(container)));
    inits.chain(pod::containers(pod).iter().map(|container| (container, false)))
}

/// The containers that run now: their pods' uids, their names and their ids.
pub async fn running(runtime: &dyn Runtime) -> Result<Vec<(String, String, String)>, cri::Error> {
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 });
    let listed = runtime.list_containers(Some(v1::ContainerFilter { state, ..Default::default() })).await?;
    let known = listed.into_iter().filter_map(|container| {
        let pod = container.labels.get(labels::POD_UID)?.clone();
        Some((pod, container.metadata?.name, container.id))
    });
    Ok(known.collect())
}

impl ContainerManager {
    pub fn new(config: &Config, client: Client, shutdown: &Shutdown) -> ContainerManager {
        let metrics = Metrics::default();
        ContainerManager {
            devices: Devices::new(&config.root_dir, metrics.clone(), shutdown.clone()),
            claims: Claims::new(&config.root_dir, &config.node_name, client, metrics.clone(), shutdown.clone()),
            metrics,
            plugins: config.plugins,
            placing: OnceLock::new(),
            admitting: tokio::sync::Mutex::default(),
            active: Mutex::default(),
            ran: Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// Recalls what was given before the kubelet started. `reserved`: what the node keeps for itself; `ran`: the containers that run now.
    /// Fails where what is configured does not fit the machine, or what was given before.
    pub async fn start(
        &self,
        config: &Config,
        machine: Cpus,
        reserved: &BTreeMap<String, Amount>,
        ran: BTreeSet<(String, String)>,
    ) -> Result<(), String> {
        *self.ran.lock() = ran;
        let placing = self.place(&config.root_dir, &config.configuration, machine, reserved).await?;
        if self.placing.set(placing).is_err() {
            return Err("it was started before".to_owned());
        }
        self.claims.start().await;
        self.devices.start().await;
        Ok(())
    }

    async fn place(
        &self,
        root_dir: &Path,
        settings: &KubeletConfiguration,
        machine: Cpus,
        reserved: &BTreeMap<String, Amount>,
    ) -> Result<Placing, String> {
        let Policies { merger, scope, cpus, memory } = policies::of(settings, &machine, reserved)?;
        if merger.policy != Policy::None {
            for family in [&ALIGNED, &NOT_ALIGNED] {
                ["container", "pod"].into_iter().for_each(|scope| self.metrics.add(family, &[scope, "numa_node"], 0));
            }
        }
        let cpus = CpuManager::start(root_dir, cpus, self.metrics.clone()).await?;
        let memory = MemoryManager::start(root_dir, memory, self.metrics.clone()).await?;
        Ok(Placing { machine, merger, scope, cpus, memory })
    }

    pub fn set_active_pods(&self, active: ActivePods) {
        *self.active.lock() = Some(active);
    }

    fn active(&self) -> Option<BTreeSet<String>> {
        let active = self.active.lock().clone();
        active.and_then(|active| active())
    }

    /// Takes back what pods have that are over.
    pub async fn release(&self) {
        if let Some(active) = self.active() {
            self.keep(&active).await;
        }
    }

    async fn keep(&self, active: &BTreeSet<String>) {
        self.devices.keep(active);
        let Some(placing) = self.placing.get() else { return };
        let is_active = |pod: &str, _: &str| active.contains(pod);
        if placing.cpus.keep(is_active).await {
            self.moved.notify_one();
        }
        placing.memory.keep(is_active).await;
    }

    /// Whether the pod asks for something that has to be given to it before it starts; if not, it is let in by others alone.
    pub fn concerns(&self, pod: &Pod) -> bool {
        let placed = |container: &Container| {
            self.placing.get().is_some_and(|placing| placing.cpus.concerns(pod, container) || placing.memory.concerns(pod, container))
        };
        let concerns = self.devices.concerns(pod) || in_turn(pod).any(|(container, _)| placed(container));
        if !concerns {
            self.metrics.count(&ADMISSION_REQUESTS, &[]);
        }
        concerns
    }

    /// Gives all containers of the pod what they ask for.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Rejection> {
        let _turn = self.admitting.lock().await;
        self.metrics.count(&ADMISSION_REQUESTS, &[]);
        let began = Instant::now();
        let given = self.give(pod).await;
        self.metrics.observe(&ADMISSION_DURATION, &[], began.elapsed().as_secs_f64() * 1000.0);
        self.moved.notify_one();
        given.inspect_err(|_| self.metrics.count(&ADMISSION_ERRORS, &[]))
    }

    async fn give(&self, pod: &Pod) -> Result<(), Rejection> {
        let active = self.active();
        if let Some(mut active) = active.clone() {
            active.insert(pod.uid().to_owned());
            self.keep(&active).await;
        }
        let placing = self.placing.get().filter(|placing| placing.merger.policy != Policy::None);
        let mut hint = match placing {
            Some(placing) if placing.scope == Scope::Pod => Some(self.hint(placing, pod, None)?),
            _ => None,
        };
        for (container, leaves) in in_turn(pod) {
            if let Some(placing) = placing.filter(|placing| placing.scope == Scope::Container) {
                hint = Some(self.hint(placing, pod, Some(container))?);
            }
            // While not all pods are known this is the pod's first time since the start: what runs has what it needs.
            let runs = active.is_none() && self.ran.lock().contains(&(pod.uid().to_owned(), container.name.clone()));
            self.give_one(pod, container, leaves, runs, hint).await?;
            if placing.is_some_and(|placing| placing.scope == Scope::Container && placing.merger.policy.guarantees_alignment()) {
                self.metrics.count(&ALIGNED, &["container", "numa_node"]);
            }
        }
        if placing.is_some_and(|placing| placing.scope == Scope::Pod && placing.merger.policy.guarantees_alignment()) {
            self.metrics.count(&ALIGNED, &["pod", "numa_node"]);
        }
        Ok(())
    }

    async fn give_one(&self, pod: &Pod, container: &Container, leaves: bool, runs: bool, hint: Option<Hint>) -> Result<(), Rejection> {
        let affinity = hint.and_then(|hint| hint.affinity);
        let given = self.devices.allocate(pod, container, leaves, runs, affinity).await;
        given.map_err(|error| unexpected(&error))?;
        let Some(placing) = self.placing.get() else { return Ok(()) };
        let pinned = placing.cpus.concerns(pod, container);
        let whole_cores = pinned && placing.cpus.policy_options().full_cores;
        let given = placing.cpus.allocate(pod, container, affinity).await;
        if whole_cores {
            self.metrics.count(if given.is_ok() { &ALIGNED } else { &NOT_ALIGNED }, &["container", "physical_cpu"]);
        }
        given?;
        if pinned && placing.cpus.shares_cache(pod, container) {
            self.metrics.count(&ALIGNED, &["container", "uncore_cache"]);
        }
        placing.memory.allocate(pod, container, hint).await.map_err(|error| unexpected(&error))
    }

    /// Where all that a container, or the whole pod, asks for shall come from.
    fn hint(&self, placing: &Placing, pod: &Pod, container: Option<&Container>) -> Result<Hint, Rejection> {
        let nodes = placing.machine.numa_nodes();
        let cpus = placing.cpus.hints(pod, container).map(|hints| ("cpu".to_owned(), Some(hints)));
        let hints: [Hints; 3] =
            [self.devices.hints(pod, container, &nodes), cpus.into_iter().collect(), placing.memory.hints(pod, container)];
        let (hint, admitted) = placing.merger.merge(&hints);
        tracing::debug!(pod = %pod::describe(pod), ?hints, ?hint, admitted, "NUMA nodes for a pod");
        if admitted {
            return Ok(hint);
        }
        if placing.merger.policy.guarantees_alignment() {
            let scope = if container.is_some() { "container" } else { "pod" };
            self.metrics.count(&NOT_ALIGNED, &[scope, "numa_node"]);
        }
        let message = "Resources cannot be allocated with Topology locality".to_owned();
        Err(Rejection { reason: "TopologyAffinityError".to_owned(), message })
    }

    /// What a container that is about to be made gets.
    pub async fn grant(&self, pod: &Pod, container: &Container) -> Result<Granted, String> {
        if !self.plugins {
            return Ok(Granted::default());
        }
        let cdi_devices = self.claims.cdi_devices(pod, container)?;
        let active = self.active().is_none_or(|active| active.contains(pod.uid()));
        let mut granted = self.devices.options(pod, container, active).await?;
        let of_plugins = std::mem::take(&mut granted.cdi_devices);
        cdi_devices.iter().chain(&of_plugins).for_each(|name| granted.add_cdi_device(name));
        if let Some(placing) = self.placing.get() {
            granted.cpus = placing.cpus.affinity(pod.uid(), &container.name).to_string();
            granted.memory_nodes = placing.memory.nodes(pod.uid(), &container.name);
            granted.no_cpu_quota = !placing.cpus.exclusive(pod.uid(), &container.name).is_empty();
        }
        Ok(granted)
    }

    /// Whether a container of the pod has CPUs for itself, so that nothing is gained by a limit on its time.
    pub fn has_exclusive_cpus(&self, pod: &Pod) -> bool {
        let has = |container: &Container| {
            self.placing.get().is_some_and(|placing| !placing.cpus.exclusive(pod.uid(), &container.name).is_empty())
        };
        in_turn(pod).any(|(container, _)| has(container))
    }

    /// Has the pod's claims prepared, before its sandbox is made.
    pub async fn prepare_claims(&self, pod: &Pod) -> Result<(), String> {
        if self.plugins { self.claims.prepare(pod).await } else { Ok(()) }
    }

    /// Undoes that, once the pod's containers have ended.
    pub async fn unprepare_claims(&self, pod: &Pod) -> Result<(), String> {
        self.claims.unprepare(pod).await
    }

    /// Looks after what pods have left behind, and holds containers to their CPUs, until shutdown.
    pub async fn run(&self, runtime: &dyn Runtime, settings: &KubeletConfiguration, shutdown: Shutdown) {
        let holding = async {
            while self.placing.get().is_some_and(|placing| placing.cpus.is_static()) {
                tokio::select! {
                    () = tokio::time::sleep(settings.cpu_manager_reconcile_period) => {}
                    () = self.moved.notified() => {}
                    () = shutdown.cancelled() => return,
                }
                self.release().await;
                self.hold(runtime).await;
            }
        };
        tokio::join!(self.claims.run(|| self.active(), shutdown.clone()), holding);
    }

    /// Holds the containers that run to their CPUs.
    pub async fn hold(&self, runtime: &dyn Runtime) {
        let (Some(placing), Some(active)) = (self.placing.get(), self.active()) else { return };
        let mut known = match running(runtime).await {
            Ok(running) => running,
            Err(error) => return tracing::warn!(%error, "the container runtime does not tell whom to hold to their CPUs"),
        };
        known.retain(|(pod, ..)| active.contains(pod));
        placing.cpus.hold(runtime, &known).await;
    }

    /// The CPUs that a container has for itself.
    pub fn exclusive_cpus(&self, pod_uid: &str, container: &str) -> Vec<i64> {
        let cpus = self.placing.get().map(|placing| placing.cpus.exclusive(pod_uid, container)).unwrap_or_default();
        cpus.iter().filter_map(|cpu| i64::try_from(cpu).ok()).collect()
    }

    /// The CPUs that containers may have for themselves at all.
    pub fn allocatable_cpus(&self) -> Vec<i64> {
        let cpus = self.placing.get().map(|placing| placing.cpus.allocatable()).unwrap_or_default();
        cpus.iter().filter_map(|cpu| i64::try_from(cpu).ok()).collect()
    }

    /// The memory that a container has of its own.
    pub fn memory(&self, pod_uid: &str, container: &str) -> Vec<crate::memory::policy::Block> {
        self.placing.get().map(|placing| placing.memory.blocks(pod_uid, container)).unwrap_or_default()
    }

    pub fn allocatable_memory(&self) -> Vec<crate::memory::policy::Block> {
        self.placing.get().map(|placing| placing.memory.allocatable()).unwrap_or_default()
    }

    /// The node as it is for this pod: it has at least the devices that were given away.
    pub fn node_for<'a>(&self, pod_uid: &str, node: &'a Node) -> Cow<'a, Node> {
        let mut node = Cow::Borrowed(node);
        for (resource, count) in self.devices.allocated_beside(pod_uid) {
            let given = i64::try_from(count).unwrap_or(i64::MAX);
            let Some(allocatable) = node.to_mut().status.as_mut().and_then(|status| status.allocatable.as_mut()) else { break };
            let told = allocatable.get(&resource).map_or(0, |told| pod_resources::parse(told).value());
            if told < given {
                allocatable.insert(resource, crate::node::status::whole(given));
            }
        }
        node
    }

    /// Adds to a pod's status what is to be told of what was given to it.
    pub fn add_to_status(&self, pod: &Pod, status: &mut PodStatus) {
        self.devices.add_health(pod.uid(), status);
        self.claims.add_health(pod, status);
    }

    /// Tells of pods for whom something has changed.
    pub fn on_change(&self, call: devices::OnChange) {
        self.claims.on_change(call.clone());
        self.devices.on_change(call);
    }
}
