//! The volumes of this node's pods: what is mounted where, and what is written into it.
//!
//! Owns `<root dir>/pods/<uid>/` and everything below it. Never starts or stops containers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;

/// Where volumes are kept and who asks for them.
#[derive(Clone)]
pub struct Config {
    /// `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    pub node_name: String,
    pub client: Client,
    pub shutdown: Shutdown,
}

/// The volumes of all pods. Clones are the same.
#[derive(Clone)]
pub struct Volumes {
    shared: Arc<Config>,
}

/// A volume as its pod's containers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVolume {
    pub source: Source,
    /// Whether it can only be read, whatever a mount says.
    pub read_only: bool,
}

/// Where a volume's contents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory (or file) of this host.
    Path(PathBuf),
    /// A device of this host.
    Device(PathBuf),
    /// An image, which the runtime mounts.
    Image,
}

/// A pod's volumes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodVolumes {
    pub by_name: BTreeMap<String, PodVolume>,
}

/// Not all of a pod's volumes are there.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong with the pod as a whole: `unmounted volumes=[a], unattached volumes=[], …`.
    pub message: String,
    /// `FailedMount` warnings to tell about the pod now; none if this failure was told already.
    pub events: Vec<String>,
    /// When trying again may help.
    pub retry_after: Duration,
}

impl Error {
    /// The reason of the events.
    pub const REASON: &'static str = "FailedMount";
}

impl Volumes {
    pub fn new(config: Config) -> Volumes {
        Volumes { shared: Arc::new(config) }
    }

    /// What the downward API tells of limits that a container does not have; to be set before pods are mounted.
    pub fn set_allocatable(&self, allocatable: BTreeMap<String, Quantity>) {
        let _ = allocatable;
    }

    /// Mounts what is not mounted and brings files up to date. To be called whenever the pod is synced; does little when there is little to do.
    pub async fn mount(&self, pod: &Pod) -> Result<PodVolumes, Error> {
        let _ = (pod, &self.shared.client);
        Ok(PodVolumes::default())
    }

    /// Unmounts and removes everything of a pod whose containers are gone, and forgets it.
    pub async fn unmount(&self, pod_uid: &str) -> Result<(), Error> {
        let _ = pod_uid;
        Ok(())
    }

    /// Calls `handler` with the uid of a pod when a config map or secret that it refers to has changed.
    pub fn on_change(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        let _ = handler;
    }

    /// Removes what is left of pods that are not among `known` and have no running container: those of an earlier run of this process.
    pub async fn clean_orphans(&self, known: &BTreeSet<String>) -> Vec<Error> {
        let _ = known;
        Vec::new()
    }

    /// A config map of a namespace, from the cache if a pod of this node refers to it. The error is upstream's message.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        Err(ObjectError::NotFound(format!("configmap \"{name}\" not found in {namespace}")))
    }

    /// A secret of a namespace, likewise.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ObjectError> {
        Err(ObjectError::NotFound(format!("secret \"{name}\" not found in {namespace}")))
    }

    /// `<root dir>/pods/<uid>`.
    pub fn pod_dir(&self, pod_uid: &str) -> PathBuf {
        pod_dir(&self.shared.root_dir, pod_uid)
    }
}

fn pod_dir(root: &Path, pod_uid: &str) -> PathBuf {
    root.join("pods").join(pod_uid)
}

/// An object that a pod refers to cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Other(String),
}
