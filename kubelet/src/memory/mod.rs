//! Memory and huge pages that containers have from certain NUMA nodes.
//!
//! The shell around the policy: keeps the state. Upstream: pkg/kubelet/cm/memorymanager.

pub mod policy;
mod state;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

use crate::metrics::{Family, Kind, Metrics};
use crate::topology::{Hint, Hints};
use policy::{Block, State, Static};

static REQUESTS: Family = Family {
    name: "kubelet_memory_manager_pinning_requests_total",
    kind: Kind::Counter,
    help: "The number of memory pages allocations which required pinning.",
    labels: &[],
};
static ERRORS: Family = Family {
    name: "kubelet_memory_manager_pinning_errors_total",
    kind: Kind::Counter,
    help: "The number of memory pages allocations which required pinning that failed.",
    labels: &[],
};

/// The names of the policies in the state.
const STATIC: &str = "Static";
const NONE: &str = "None";

/// Who has which memory.
pub struct MemoryManager {
    root_dir: PathBuf,
    metrics: Metrics,
    inner: Option<Mutex<Inner>>,
    writing: tokio::sync::Mutex<()>,
}

struct Inner {
    policy: Static,
    state: State,
}

impl MemoryManager {
    /// Takes up the state that was written down; one of another policy, or of another machine, is refused.
    pub async fn start(root_dir: &Path, policy: Option<Static>, metrics: Metrics) -> Result<MemoryManager, String> {
        let refused = |error: String| format!("start memory manager error: {error}");
        let name = if policy.is_some() { STATIC } else { NONE };
        let read = state::read(root_dir, name).await.map_err(|error| refused(error.to_string()))?;
        let inner = match policy {
            None => None,
            Some(policy) => Some(Mutex::new(Inner { state: policy.begin(read).map_err(refused)?, policy })),
        };
        let manager = MemoryManager { root_dir: root_dir.to_owned(), metrics, inner, writing: tokio::sync::Mutex::default() };
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

    /// Whether this container is to have memory of its own.
    pub fn concerns(&self, pod: &Pod, container: &Container) -> bool {
        self.inner.is_some() && policy::concerns(pod) && !policy::wanted(container).is_empty()
    }

    /// Gives a container memory of its own, if it is to have any.
    pub async fn allocate(&self, pod: &Pod, container: &Container, hint: Option<Hint>) -> Result<(), String> {
        let Some(inner) = self.inner.as_ref().filter(|_| self.concerns(pod, container)) else { return Ok(()) };
        self.metrics.count(&REQUESTS, &[]);
        let given = {
            let mut inner = inner.lock();
            let Inner { policy, state } = &mut *inner;
            policy.allocate(state, pod, container, hint)
        };
        if given.inspect_err(|_| self.metrics.count(&ERRORS, &[]))? {
            self.save().await?;
        }
        Ok(())
    }

    /// Where a container's memory could come from, or, without one, the whole pod's.
    pub fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let Some(inner) = &self.inner else { return Hints::new() };
        let inner = inner.lock();
        inner.policy.hints(&inner.state, pod, container)
    }

    /// Takes back what these containers do not have any more.
    pub async fn keep(&self, active: impl Fn(&str, &str) -> bool) {
        let Some(inner) = &self.inner else { return };
        let released = {
            let mut inner = inner.lock();
            let Inner { policy, state } = &mut *inner;
            policy.keep(state, active)
        };
        if released && let Err(error) = self.save().await {
            tracing::error!(error, "cannot write down who has which memory");
        }
    }

    /// What a container has of its own.
    pub fn blocks(&self, pod_uid: &str, container: &str) -> Vec<Block> {
        let Some(inner) = &self.inner else { return Vec::new() };
        let inner = inner.lock();
        inner.state.assignments.get(pod_uid).and_then(|containers| containers.get(container)).cloned().unwrap_or_default()
    }

    /// The nodes that a container is held to, as the kernel lists them; empty: all.
    pub fn nodes(&self, pod_uid: &str, container: &str) -> String {
        let nodes: BTreeSet<usize> = self.blocks(pod_uid, container).into_iter().flat_map(|block| block.numa_affinity).collect();
        nodes.iter().map(usize::to_string).collect::<Vec<String>>().join(",")
    }

    /// What can be given at all.
    pub fn allocatable(&self) -> Vec<Block> {
        self.inner.as_ref().map(|inner| inner.lock().policy.allocatable()).unwrap_or_default()
    }
}
