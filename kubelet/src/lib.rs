//! The kubelet: runs the pods that are bound to its node, and tells the API server how they and the node are.
//!
//! Speaks CRI to a container runtime and nothing else: it starts no container itself. Decisions about pods are functions of values
//! (`sync_pod`, `status`); one task per pod carries them out.

mod admission;
mod app_armor;
mod backoff;
pub mod certificate;
pub mod cgroups;
pub mod claims;
pub mod config;
pub mod configuration;
mod configuration_rules;
pub mod container_config;
mod container_gc;
mod container_logs;
pub mod container_manager;
mod core;
pub mod cpus;
pub mod cri;
pub mod devices;
mod evicting;
pub mod eviction;
pub mod grpc;
mod hooks;
mod http_get;
mod images;
mod instruments;
mod kill;
pub mod memory;
pub mod metrics;
mod mirror_pods;
mod node;
mod node_shutdown;
mod orphans;
mod pleg;
mod plugin_watcher;
mod pod;
pub mod pod_resources;
mod pod_worker;
mod pods;
mod preemption;
mod probes;
mod resize;
mod run;
mod runtime_state;
mod runtime_status;
mod served;
pub mod server;
mod state_file;
mod static_pods;
pub mod stats;
mod status;
mod status_manager;
mod sync;
mod sync_pod;
mod sysctls;
pub mod topology;
mod user_namespaces;
pub mod volumes;

pub use config::Config;
pub use configuration::KubeletConfiguration;
pub use run::run;

/// Why a kubelet could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[source] cri::Error),
    #[error("cannot use {path}: {source}")]
    Directory { path: std::path::PathBuf, source: std::io::Error },
    #[error(transparent)]
    Cgroups(#[from] cgroups::Error),
    #[error("failed to start ContainerManager: {0}")]
    ContainerManager(String),
    #[error("eviction thresholds: {0}")]
    Eviction(String),
    #[error(transparent)]
    CredentialProviders(#[from] images::provider_config::Error),
    #[error("failed to create user namespaces manager: {0}")]
    UserNamespaces(#[from] user_namespaces::Error),
    #[error("image pull records: {0}")]
    PullRecords(String),
}
