//! What the runtime is told to make: sandboxes and containers as CRI messages, from a pod and the facts of this node.
//!
//! Everything here is a function of values, but for [`prepare`], which fetches and writes what a container needs on this node
//! first (config maps and secrets for its environment, its hosts file, its sub paths, its termination log). It never calls the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1::{ContainerConfig, ImageSpec, UserNamespace};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cri::ContainerExtension;
use crate::volumes::PodVolumes;

mod container;
mod dns;
pub(crate) mod downward;
mod env;
mod env_file;
mod expansion;
pub mod hostname;
mod hosts_file;
pub mod labels;
pub(crate) mod mounts;
mod node;
pub mod pod_resources;
mod prepare;
pub mod qos;
pub mod resources;
mod sandbox;
pub mod security;
mod service_env;
#[cfg(test)]
mod tests_with_containerd;

pub use prepare::prepare;
pub use sandbox::{log_directory, sandbox_config};

/// What this node is and how it is configured: everything that a container gets from its node rather than from its pod.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    /// The node's own addresses, the primary one first.
    pub host_ips: Vec<String>,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The host's resolver configuration; none if `--resolv-conf` is empty.
    pub host_dns: Option<HostDns>,
    /// `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// What the downward API tells of limits that a container does not have.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Bytes of memory that the machine has.
    pub memory_capacity: i64,
    pub cgroup_v2: bool,
    pub cpu_cfs_quota: bool,
    pub cpu_cfs_quota_period: Duration,
    /// Whether pods without a seccomp profile get the runtime's.
    pub seccomp_default: bool,
    /// `<root dir>/seccomp`.
    pub seccomp_profile_root: PathBuf,
    /// The lowest `oom_score_adj` that this process may give; -1000 with CAP_SYS_RESOURCE.
    pub min_oom_score_adj: i64,
    /// On cgroup v2: whether the OOM killer takes one process rather than the whole container.
    pub single_process_oom_kill: bool,
    /// Sizes as cgroups name them: `2MB`, `1GB`.
    pub hugepage_sizes: Vec<String>,
    /// Whether the pod's runtime handler can mount read-only recursively.
    pub recursive_read_only: bool,
    pub selinux: bool,
    /// Whether control groups count swap.
    pub swap_controller: bool,
    /// `/sys/devices/system/cpu/cpu<n>/thermal_throttle` as far as they exist, which containers do not see.
    pub thermal_throttle_paths: Vec<String>,
    /// The ids that the pod's user namespace maps; none if its runtime handler has no user namespaces.
    pub user_namespace: Option<UserNamespace>,
}

/// What a resolver configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// What is known of the image that a container is made from.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The runtime's reference (image id), which `ContainerConfig.image` carries.
    pub reference: String,
    /// The numeric user that the image says to run as; none if it names one, or says nothing.
    pub uid: Option<i64>,
    /// The user that the image names.
    pub username: String,
}

/// Everything that decides how one container is made.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    /// One of the pod's containers; see [`as_container`] for ephemeral ones.
    pub container: &'a Container,
    pub node: &'a Node,
    pub pod_ips: &'a [String],
    pub volumes: &'a PodVolumes,
    pub image: &'a Image,
    /// What image volumes were pulled as, by the volume's name.
    pub image_volumes: &'a BTreeMap<String, ImageSpec>,
    pub restart_count: u32,
    /// The id of the container whose process namespace an ephemeral container joins.
    pub target_id: Option<&'a str>,
    /// All services that the node knows of.
    pub services: &'a [Arc<Service>],
}

/// A container cannot be made from what its pod says; told in its status as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub message: String,
}

impl Error {
    /// The reason in the container's status.
    pub const REASON: &'static str = "CreateContainerConfigError";

    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into() }
    }
}

/// Something to tell about the pod: a warning event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub reason: &'static str,
    pub message: String,
}

/// A container that can be created, and what there is to tell about it.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub config: ContainerConfig,
    pub extension: ContainerExtension,
    pub warnings: Vec<Warning>,
}

/// Makes an ephemeral container look like any other. It has no probes, no lifecycle and no ports.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    Container {
        args: ephemeral.args.clone(),
        command: ephemeral.command.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        image: ephemeral.image.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        name: ephemeral.name.clone(),
        resources: ephemeral.resources.clone(),
        security_context: ephemeral.security_context.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        working_dir: ephemeral.working_dir.clone(),
        ..Container::default()
    }
}

/// A pod as messages call it: `name_namespace(uid)`.
pub fn pod_format(pod: &Pod) -> String {
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{}_{}({})", of(&metadata.name), of(&metadata.namespace), of(&metadata.uid))
}

#[cfg(test)]
pub(crate) fn test_node() -> Node {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Node {
        name: "node".to_owned(),
        host_ips: owned(&["192.168.0.2"]),
        cluster_dns: owned(&["10.96.0.10"]),
        cluster_domain: "cluster.local".to_owned(),
        host_dns: Some(HostDns { servers: owned(&["192.168.0.1"]), searches: owned(&["lan"]), options: Vec::new() }),
        pod_logs_dir: PathBuf::from("/var/log/pods"),
        allocatable: BTreeMap::new(),
        memory_capacity: 10 << 30,
        cgroup_v2: false,
        cpu_cfs_quota: true,
        cpu_cfs_quota_period: Duration::from_millis(100),
        seccomp_default: false,
        seccomp_profile_root: PathBuf::from("/var/lib/kubelet/seccomp"),
        min_oom_score_adj: -1000,
        single_process_oom_kill: false,
        hugepage_sizes: owned(&["1GB", "2MB"]),
        recursive_read_only: false,
        selinux: false,
        swap_controller: false,
        thermal_throttle_paths: Vec::new(),
        user_namespace: None,
    }
}
