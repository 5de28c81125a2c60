//! What the runtime is told to make: sandboxes and containers as CRI messages, from a pod and the facts of this node.
//!
//! Everything here is a function of values, but for [`prepare`], which fetches and writes what a container needs on this node
//! first (config maps and secrets for its environment, its hosts file, its sub paths, its termination log). It never calls the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1::{ContainerConfig, ImageSpec, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::volumes::{PodVolumes, Volumes};

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
    pub warnings: Vec<Warning>,
}

/// Makes an ephemeral container look like any other.
pub fn as_container(container: &EphemeralContainer) -> Container {
    Container { name: container.name.clone(), image: container.image.clone(), ..Container::default() }
}

/// What the runtime is told to make of a pod: the sandbox, under the pod's cgroup.
pub fn sandbox_config(pod: &Pod, node: &Node, attempt: u32, cgroup_parent: &str) -> Result<(PodSandboxConfig, Vec<Warning>), Error> {
    let _ = (pod, node, attempt, cgroup_parent);
    Err(Error::new("sandboxes cannot be described yet"))
}

/// Prepares what a container needs on this node and says how it is made. Not to be called before the pod's volumes are mounted.
pub async fn prepare(volumes: &Volumes, inputs: Inputs<'_>) -> Result<Prepared, Error> {
    let _ = (volumes, inputs);
    Err(Error::new("containers cannot be described yet"))
}
