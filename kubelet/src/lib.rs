//! The kubelet: runs the pods that are bound to its node, and tells the API server how they and the node are.
//!
//! Speaks CRI to a container runtime and nothing else: it starts no container itself. Decisions about pods are functions of values
//! (`sync_pod`, `status`); one task per pod carries them out.

pub mod cgroups;
pub mod config;
pub mod configuration;
pub mod container_config;
pub mod cri;
pub mod eviction;
pub mod server;
pub mod stats;
pub mod volumes;

use client::Shutdown;
use kube::Client;

pub use config::Config;
pub use configuration::KubeletConfiguration;

/// Why a kubelet could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[source] cri::Error),
    #[error("cannot use {path}: {source}")]
    Directory { path: std::path::PathBuf, source: std::io::Error },
}

/// Runs a kubelet until shutdown. Pods go on running when it ends.
pub async fn run(client: Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let _ = (client, config);
    shutdown.cancelled().await;
    Ok(())
}
