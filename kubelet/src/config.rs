//! How a kubelet is started: what its flags say, and its configuration file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;

use crate::configuration::KubeletConfiguration;
use crate::cri::SharedRuntime;

/// Asked with a pod and the addresses of its sandbox before a container of it starts; what it says instead of letting it pass is why
/// the pod has to wait.
pub type NetworkGate = Arc<dyn Fn(Arc<Pod>, Vec<String>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Everything that [`crate::run`] needs beside a client.
#[derive(Clone)]
pub struct Config {
    /// The node's name (`--hostname-override`, else the host's name, in lower case).
    pub node_name: String,
    /// What the label `kubernetes.io/hostname` says; the host's name.
    pub hostname: String,
    /// `--node-ip`: the addresses of the node, the primary one first; found out from the routes if there are none.
    pub node_ips: Vec<IpAddr>,
    /// `--node-labels`
    pub node_labels: BTreeMap<String, String>,
    /// `--root-dir`
    pub root_dir: PathBuf,
    /// `--cert-dir`; `pki` in the root directory by default.
    pub cert_dir: Option<PathBuf>,
    /// Where the links for log collectors are kept; `/var/log/containers`.
    pub container_logs_dir: PathBuf,
    /// `--image-credential-provider-config` and `--image-credential-provider-bin-dir`: what plugins there are, and where.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// Where another runtime than the one behind `containerRuntimeEndpoint` is, for simulated nodes.
    pub runtime: Option<SharedRuntime>,
    /// Whether device plugins and drivers of dynamic resources may register themselves; on nodes that only pretend none does.
    pub plugins: bool,
    /// Who has a word in when a pod's network is ready, beside the runtime.
    pub network_gate: Option<NetworkGate>,
    /// What `--config` says.
    pub configuration: KubeletConfiguration,
}

impl Config {
    /// The flags' defaults for a node of this name.
    pub fn new(node_name: &str) -> Config {
        Config {
            node_name: node_name.to_owned(),
            hostname: node_name.to_owned(),
            node_ips: Vec::new(),
            node_labels: BTreeMap::new(),
            root_dir: PathBuf::from("/var/lib/kubelet"),
            cert_dir: None,
            container_logs_dir: PathBuf::from("/var/log/containers"),
            credential_providers: None,
            runtime: None,
            plugins: true,
            network_gate: None,
            configuration: KubeletConfiguration::default(),
        }
    }
}
