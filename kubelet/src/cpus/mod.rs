//! CPUs that containers have for themselves, and the pool that all others share.
//!
//! The shell around the policy: keeps the state, and holds running containers to their CPUs. Upstream: pkg/kubelet/cm/cpumanager.

mod assignment;
pub mod machine;
pub mod policy;
pub mod set;
mod state;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use client::Object;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

use crate::admission::Rejection;
use crate::cri::{Runtime, v1};
use crate::metrics::{Family, Kind, Metrics};
use crate::topology::{Hint, Mask};
use policy::{State, Static};
use set::CpuSet;

macro_rules! family {
    ($name:ident, $kind:expr, $text:literal, $help:literal, $labels:expr) => {
        static $name: Family = Family { name: $text, kind: $kind, help: $help, labels: $labels };
    };
}

family!(
    REQUESTS,
    Kind::Counter,
    "kubelet_cpu_manager_pinning_requests_total",
    "The number of cpu core allocations which required pinning.",
    &[]
);
family!(
    ERRORS,
    Kind::Counter,
    "kubelet_cpu_manager_pinning_errors_total",
    "The number of cpu core allocations which required pinning failed.",
    &[]
);
family!(
    SHARED,
    Kind::Gauge,
    "kubelet_cpu_manager_shared_pool_size_millicores",
    "The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.",
    &[]
);
family!(
    EXCLUSIVE,
    Kind::Gauge,
    "kubelet_cpu_manager_exclusive_cpu_allocation_count",
    "The total number of CPUs exclusively allocated to containers running on this node",
    &[]
);
family!(BY_NODE, Kind::Gauge, "kubelet_cpu_manager_allocation_per_numa", "Number of CPUs allocated per NUMA node", &["numa_node"]);

/// The name of the policy in the state.
const STATIC: &str = "static";
const NONE: &str = "none";

/// Who has which CPUs.
pub struct CpuManager {
    root_dir: PathBuf,
    metrics: Metrics,
    inner: Option<Mutex<Inner>>,
    /// What containers (by id) were held to last. Bounded by those that run.
    held: Mutex<HashMap<String, CpuSet>>,
    writing: tokio::sync::Mutex<()>,
}

struct Inner {
    policy: Static,
    state: State,
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

impl CpuManager {
    /// Takes up the state that was written down; one of another policy, or of another machine, is refused.
    pub async fn start(root_dir: &Path, policy: Option<Static>, metrics: Metrics) -> Result<CpuManager, String> {
        let refused = |error: String| format!("start cpu manager error: {error}");
        let name = if policy.is_some() { STATIC } else { NONE };
        let read = state::read(root_dir, name).await.map_err(|error| refused(error.to_string()))?;
        let inner = match policy {
            None => None,
            Some(policy) => Some(Mutex::new(Inner { state: policy.begin(read).map_err(refused)?, policy })),
        };
        let (held, writing) = (Mutex::default(), tokio::sync::Mutex::default());
        let manager = CpuManager { root_dir: root_dir.to_owned(), metrics, inner, held, writing };
        manager.count();
        manager.save().await.map_err(refused)?;
        Ok(manager)
    }

    async fn save(&self) -> Result<(), String> {
        let _turn = self.writing.lock().await;
        let (name, state) = match &self.inner {
            None => (NONE, State::default()),
            Some(inner) => (STATIC, inner.lock().state.clone()),
        };
        state::write(&self.root_dir, name, &state).await.map_err(|error| error.to_string())
    }

    fn count(&self) {
        let Some(inner) = &self.inner else { return };
        let inner = inner.lock();
        let exclusive = inner.state.exclusive();
        self.metrics.set(&SHARED, &[], number(inner.policy.available(&inner.state).len()) * 1000.0);
        self.metrics.set(&EXCLUSIVE, &[], number(exclusive.len()));
        let by_node = inner.policy.by_node(&exclusive);
        self.metrics.keep(&BY_NODE, |labels| labels.iter().any(|node| by_node.keys().any(|known| known.to_string() == *node)));
        by_node.iter().for_each(|(node, count)| self.metrics.set(&BY_NODE, &[&node.to_string()], number(*count)));
    }

    /// Whether this container is to have CPUs for itself.
    pub fn concerns(&self, pod: &Pod, container: &Container) -> bool {
        self.inner.is_some() && policy::wanted(pod, container) > 0
    }

    /// Gives a container CPUs for itself, if it is to have any.
    pub async fn allocate(&self, pod: &Pod, container: &Container, affinity: Option<Mask>) -> Result<(), Rejection> {
        let Some(inner) = self.inner.as_ref().filter(|_| self.concerns(pod, container)) else { return Ok(()) };
        self.metrics.count(&REQUESTS, &[]);
        let given = {
            let mut inner = inner.lock();
            let Inner { policy, state } = &mut *inner;
            policy.allocate(state, pod, container, affinity)
        };
        let new = given.inspect_err(|_| self.metrics.count(&ERRORS, &[]))?;
        if new {
            self.count();
            self.save().await.map_err(|error| crate::container_manager::unexpected(&error))?;
        }
        Ok(())
    }

    /// Where a container's CPUs could come from, or, without one, the whole pod's. None: nothing is asked for.
    pub fn hints(&self, pod: &Pod, container: Option<&Container>) -> Option<Vec<Hint>> {
        let inner = self.inner.as_ref()?.lock();
        inner.policy.hints(&inner.state, pod, container)
    }

    /// Takes back what these containers do not have any more; whether there was anything.
    pub async fn keep(&self, active: impl Fn(&str, &str) -> bool) -> bool {
        let Some(inner) = &self.inner else { return false };
        let released = {
            let mut inner = inner.lock();
            let Inner { policy, state } = &mut *inner;
            policy.keep(state, active)
        };
        if released {
            self.count();
            if let Err(error) = self.save().await {
                tracing::error!(error, "cannot write down who has which CPUs");
            }
        }
        released
    }

    /// The CPUs that a container is held to: its own or the shared ones; empty: all.
    pub fn affinity(&self, pod_uid: &str, container: &str) -> CpuSet {
        let Some(inner) = &self.inner else { return CpuSet::default() };
        let inner = inner.lock();
        inner.state.of(pod_uid, container).unwrap_or(&inner.state.shared).clone()
    }

    /// The CPUs that a container has for itself.
    pub fn exclusive(&self, pod_uid: &str, container: &str) -> CpuSet {
        let Some(inner) = &self.inner else { return CpuSet::default() };
        inner.lock().state.of(pod_uid, container).cloned().unwrap_or_default()
    }

    /// The CPUs that containers may have for themselves at all.
    pub fn allocatable(&self) -> CpuSet {
        self.inner.as_ref().map(|inner| inner.lock().policy.allocatable()).unwrap_or_default()
    }

    /// Whether anybody has CPUs for himself.
    pub fn is_static(&self) -> bool {
        self.inner.is_some()
    }

    /// Holds containers that run to their CPUs. `containers`: the pods' uids, names and ids.
    pub async fn hold(&self, runtime: &dyn Runtime, containers: &[(String, String, String)]) {
        if self.inner.is_none() {
            return;
        }
        self.held.lock().retain(|id, _| containers.iter().any(|(_, _, known)| known == id));
        for (pod_uid, name, id) in containers {
            let cpus = self.affinity(pod_uid, name);
            if cpus.is_empty() || self.held.lock().get(id) == Some(&cpus) {
                continue;
            }
            let resources = v1::LinuxContainerResources { cpuset_cpus: cpus.to_string(), ..Default::default() };
            let request = v1::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(resources), ..Default::default() };
            match runtime.update_container_resources(request).await {
                Ok(()) => drop(self.held.lock().insert(id.clone(), cpus)),
                Err(error) => tracing::warn!(pod = pod_uid, container = name, cpus = %cpus, %error, "cannot hold a container to its CPUs"),
            }
        }
    }

    pub fn policy_options(&self) -> policy::Options {
        self.inner.as_ref().map(|inner| inner.lock().policy.options()).unwrap_or_default()
    }

    /// Whether the CPUs of a container are those of one cache.
    pub fn shares_cache(&self, pod: &Pod, container: &Container) -> bool {
        let Some(inner) = &self.inner else { return false };
        let inner = inner.lock();
        inner.state.of(pod.uid(), &container.name).is_some_and(|cpus| inner.policy.shares_cache(cpus))
    }
}
