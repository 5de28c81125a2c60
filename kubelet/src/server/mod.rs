//! The kubelet's HTTPS API (port 10250): health, pods, statistics, metrics, logs, and streams into containers.
//!
//! Owns the listener, who may use it, and the paths. What runs on the node it asks a [`Node`]; it starts and stops nothing.

pub mod authentication;
pub mod authorization;
mod checkpoint;
pub mod container_log;
mod find;
mod health;
mod listener;
mod pages;
mod respond;
mod reviews;
mod route;
mod run;
mod serve;
mod stream;
mod system_log;
#[cfg(test)]
mod tests;
pub mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::cri::SharedRuntime;

pub use serve::serve;

/// What the server asks of the kubelet.
pub trait Node: Send + Sync + 'static {
    /// The node's name, by which requests to its kubelet are authorized.
    fn name(&self) -> &str;

    /// The pods that this kubelet is to run, static ones included, each with the status that the kubelet made last.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// One of [`Node::pods`].
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is_named = |pod: &&Arc<Pod>| pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name);
        self.pods().iter().find(is_named).cloned()
    }

    /// The runtime, which knows the containers and serves streams into them.
    fn runtime(&self) -> SharedRuntime;

    /// Why pods are not being synced, if they are not (`/healthz/syncloop`).
    fn check_sync_loop(&self) -> Result<(), String>;

    /// Why no device plugin can register itself, if so (`/healthz/device-plugin`).
    fn check_device_plugins(&self) -> Result<(), String> {
        Ok(())
    }

    /// The KubeletConfiguration in force (`/configz`).
    fn configuration(&self) -> Value;

    /// `/stats/summary`: of CPU and memory alone if so asked.
    fn summary(&self, only_cpu_and_memory: bool) -> BoxFuture<'_, Result<Value, String>>;

    /// A page of metrics in Prometheus' text format.
    fn metrics(&self, page: MetricsPage) -> BoxFuture<'_, Result<String, String>>;
}

/// The pages of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsPage {
    /// `/metrics`: the kubelet itself.
    Kubelet,
    /// `/metrics/cadvisor`: containers in detail.
    Cadvisor,
    /// `/metrics/resource`: what autoscalers read.
    Resource,
    /// `/metrics/probes`: results of probes.
    Probes,
    /// `/metrics/slis`: health checks.
    Slis,
}

/// How the server serves. Field names follow KubeletConfiguration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is served with; see [`tls::self_signed`] for one of our own.
    pub certificate: tls::Certificate,
    /// Who certifies clients, PEM (`authentication.x509.clientCAFile`).
    pub client_ca: Option<String>,
    /// `authentication.anonymous.enabled`
    pub anonymous: bool,
    /// `authentication.webhook`: bearer tokens are reviewed by the API server, and for how long an answer holds.
    pub webhook_authentication: Option<Duration>,
    pub authorization: authorization::Mode,
    /// `enableDebuggingHandlers`: everything beyond health, pods, statistics and metrics.
    pub debugging_handlers: bool,
    /// `enableSystemLogHandler`
    pub system_log_handler: bool,
    /// What `/logs/` shows.
    pub system_log_dir: PathBuf,
    /// Where checkpoints of containers are put.
    pub checkpoints_dir: PathBuf,
}

impl Config {
    /// The defaults of KubeletConfiguration.
    pub fn new(certificate: tls::Certificate, client_ca: Option<String>) -> Config {
        Config {
            certificate,
            client_ca,
            anonymous: false,
            webhook_authentication: Some(Duration::from_secs(120)),
            authorization: authorization::Mode::Webhook { allowed: Duration::from_secs(300), refused: Duration::from_secs(30) },
            debugging_handlers: true,
            system_log_handler: true,
            system_log_dir: PathBuf::from("/var/log"),
            checkpoints_dir: PathBuf::from("/var/lib/kubelet/checkpoints"),
        }
    }
}
