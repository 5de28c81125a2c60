//! What all tasks of the kubelet share: the runtime, and the parts that feed and are fed by the syncs of pods.
//!
//! Only ways to these parts; decisions are made elsewhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::events::{Event, Recorder, Type};
use client::{Informer, Object};
use k8s_openapi::api::core::v1::{Pod, PodStatus as ApiStatus, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use parking_lot::{Mutex, RwLock};

use crate::backoff::Backoff;
use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::container_config::{self, qos};
use crate::container_manager::ContainerManager;
use crate::cri::SharedRuntime;
use crate::eviction;
use crate::images::Images;
use crate::instruments::{self, Instruments};
use crate::node_shutdown;
use crate::pod;
use crate::probes::{Probes, Verdicts};
use crate::runtime_state::RuntimeState;
use crate::stats;
use crate::status_manager::StatusManager;
use crate::user_namespaces::UserNamespaces;
use crate::volumes::Volumes;

/// The pods and containers that are started again after a failure.
pub type RestartKey = (String, String);

/// The delay after the first failure of a container.
pub const FIRST_RESTART_DELAY: Duration = Duration::from_secs(10);

pub struct Core {
    pub config: Config,
    pub runtime: SharedRuntime,
    /// What container ids begin with: `containerd`.
    pub runtime_name: String,
    pub volumes: Volumes,
    /// Gives devices and the like.
    pub container_manager: Arc<ContainerManager>,
    /// None on simulated nodes, and where pods have no cgroups of their own.
    pub cgroups: Option<Cgroups>,
    pub images: Images,
    pub recorder: Recorder,
    pub statuses: StatusManager,
    pub probes: Probes,
    pub verdicts: Verdicts,
    pub node: RwLock<Arc<container_config::Node>>,
    pub host_ips: RwLock<Vec<IpAddr>>,
    pub services: Informer<Service>,
    pub runtime_classes: Informer<RuntimeClass>,
    pub runtime_state: RuntimeState,
    pub eviction: eviction::Manager,
    pub node_shutdown: node_shutdown::State,
    /// None on simulated nodes.
    pub user_namespaces: Option<UserNamespaces>,
    pub stats: stats::Provider,
    pub metrics: Instruments,
    pub restarts: Mutex<Backoff<RestartKey>>,
}

impl Core {
    /// An event about a container. The runtime's ids would make each of them new, so they are told by name.
    pub fn tell_container(&self, pod: &Pod, name: &str, id: &str, kind: Type, reason: &str, message: &str) {
        let about = pod.reference().with_field_path(&pod::field_path(pod, name));
        let message = if id.is_empty() { message.to_owned() } else { message.replace(id, name) };
        self.recorder.tell(Event::new(&about, kind, reason, message));
    }

    /// What the node is for containers of this pod.
    pub fn node_for(&self, pod: &Pod) -> container_config::Node {
        let mut node = container_config::Node::clone(&self.node.read());
        node.user_namespace = self.user_namespaces.as_ref().and_then(|namespaces| namespaces.of(pod.uid()));
        node.recursive_read_only = self.mounts_read_only_recursively(pod);
        node
    }

    /// Whether the pod's runtime can mount read-only recursively.
    pub fn mounts_read_only_recursively(&self, pod: &Pod) -> bool {
        let handler = self.runtime_handler(pod).and_then(|handler| self.runtime_state.handler(&handler));
        handler.is_ok_and(|features| features.recursive_read_only_mounts)
    }

    /// Gives a pod user ids of its own, if it wants some.
    pub fn allocate_user_ids(&self, pod: &Pod) -> Result<(), String> {
        if pod::spec(pod).host_users != Some(false) {
            return Ok(());
        }
        let Some(namespaces) = &self.user_namespaces else { return Ok(()) };
        let handler = self.runtime_handler(pod)?;
        let supported = self.runtime_state.handler(&handler).map(|features| features.user_namespaces);
        namespaces.get_or_create(pod.uid(), &handler, supported).map(drop).map_err(|error| error.to_string())
    }

    /// The cgroup below which the pod's containers are.
    pub fn cgroup_parent(&self, pod: &Pod) -> String {
        self.cgroups.as_ref().map(|cgroups| cgroups.pod_parent(pod)).unwrap_or_default()
    }

    /// The runtime's handler for the pod's runtime class.
    pub fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let Some(name) = pod::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) else { return Ok(String::new()) };
        match self.runtime_classes.get("", name) {
            Some(class) => Ok(class.handler.clone()),
            None => Err(format!("failed to get RuntimeClass {name}: runtimeclasses.node.k8s.io {name:?} not found")),
        }
    }

    /// What was last told of the pod, or what it says itself.
    pub fn told(&self, pod: &Pod) -> Arc<ApiStatus> {
        self.statuses.get(pod.uid()).unwrap_or_else(|| Arc::new(pod.status.clone().unwrap_or_default()))
    }

    /// Tells that a pod is not let onto this node.
    pub fn reject(&self, pod: &Pod, reason: &str, message: &str) {
        self.recorder.tell(Event::new(&pod.reference(), Type::Warning, reason, message));
        self.metrics.count(&instruments::ADMISSION_REJECTIONS, &[reason]);
        tracing::info!(pod = %pod::describe(pod), reason, message, qos = %qos::class(pod), "pod is rejected");
        let status = crate::status::rejected(pod, reason, message, &self.host_ips.read());
        self.statuses.set(pod, status, false);
    }
}
