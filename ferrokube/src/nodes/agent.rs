//! The process of one node: enters the node's namespaces, keeps its container runtime running, and is its kubelet and
//! kube-proxy, and who enforces network policies there.
//!
//! Its end leaves the containers and the runtime alone; started again it finds them and goes on.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use client::{Informer, Informers, Object, Shutdown};
use controllers::local_path_provisioner;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::site::Site;
use super::{cni, containerd, images, masquerade, pause, routes};
use crate::client_flags;

/// `ferrokube node`: started by `ferrokube up`, once a node.
#[derive(Args)]
pub struct NodeCommand {
    /// What `ferrokube up` says of the node.
    #[arg(long)]
    config: PathBuf,
    /// What is in the file, once the node is entered.
    #[arg(skip)]
    node: Option<NodeConfig>,
}

/// Everything that a node's process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    #[serde(flatten)]
    pub site: Site,
    pub address: IpAddr,
    pub images: PathBuf,
    pub kubelet_kubeconfig: PathBuf,
    /// Whether this process is the node's kube-proxy too.
    pub proxy: bool,
    pub proxy_kubeconfig: PathBuf,
    /// Whether it provides volumes of the default storage class.
    pub provisioner: bool,
    pub provisioner_kubeconfig: PathBuf,
    /// Whether it enforces network policies.
    pub network_policy: bool,
    pub network_policy_kubeconfig: PathBuf,
    pub client_ca: PathBuf,
    /// What the kubelet serves with, a certificate and its key; one of its own making if there is none.
    pub serving: Option<(PathBuf, PathBuf)>,
    pub cluster_dns: Vec<String>,
    pub cluster_cidr: String,
    /// Who knows the way to nodes that are not in this one's own network.
    pub gateway: Option<IpAddr>,
}

/// How a node's parts reach the API server.
pub struct Clients {
    pub kubelet: Client,
    pub proxy: Client,
    pub provisioner: Client,
    pub network_policy: Client,
}

impl NodeCommand {
    /// Enters the node. The process must have no other thread yet.
    pub fn enter(&mut self) -> anyhow::Result<()> {
        // A node does not outlive its cluster's process.
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("asking for a signal at the parent's end")?;
        let text = fs::read_to_string(&self.config).with_context(|| self.config.display().to_string())?;
        let config: NodeConfig = serde_json::from_str(&text).with_context(|| self.config.display().to_string())?;
        config.site.enter()?;
        self.node = Some(config);
        Ok(())
    }

    /// Is the node until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let node = self.node.context("the node was not entered")?;
        let clients = Clients {
            kubelet: client_flags::connect(&node.kubelet_kubeconfig, "kubelet").await?,
            proxy: client_flags::connect(&node.proxy_kubeconfig, "kube-proxy").await?,
            provisioner: client_flags::connect(&node.provisioner_kubeconfig, "local-path-provisioner").await?,
            network_policy: client_flags::connect(&node.network_policy_kubeconfig, "network-policy").await?,
        };
        node.run(clients, shutdown).await
    }
}

/// Where the kubelet asks whether a pod may start: its policies are in force before its first container is there.
fn network_gate(gate: network_policy::Gate) -> kubelet::config::NetworkGate {
    Arc::new(move |pod: Arc<Pod>, addresses: Vec<String>| {
        let gate = gate.clone();
        Box::pin(async move {
            // Without an address of its own nobody reaches it.
            let Some(starting) = network_policy::pod::starting(&pod, &addresses) else { return Ok(()) };
            gate.pass(pod.key(), pod.uid(), starting).await.map_err(|refused| refused.to_string())
        })
    })
}

impl NodeConfig {
    fn provisioner(&self, shutdown: &Shutdown) -> local_path_provisioner::Config {
        local_path_provisioner::Config {
            node_name: self.site.name.clone(),
            directory: self.site.directory.join("volumes"),
            shutdown: shutdown.clone(),
        }
    }

    /// Runs the node until shutdown.
    pub async fn run(self, clients: Clients, shutdown: Shutdown) -> anyhow::Result<()> {
        let runtime = tokio::spawn(self.site.runtime().supervise(shutdown.clone()));
        containerd::ready().await?;
        let archive = self.site.directory.join("pause.tar");
        if pause::write(&archive)? {
            images::import(&archive).await?;
        }
        let (first, imported) = tokio::sync::oneshot::channel();
        tokio::spawn(images::follow(self.images.clone(), first, shutdown.clone()));
        imported.await.context("importing images")?;

        // A kubelet may read its own node alone; routes need them all, which a proxy may read.
        let nodes = Informers::new(clients.proxy.clone(), shutdown.clone()).of::<Node>();
        self.configure_network(&nodes);
        let way = routes::Way { own: Some(self.site.name.clone()), gateway: self.gateway, protocol: Some(routes::PROTOCOL) };
        tokio::spawn(routes::follow(nodes.clone(), way, shutdown.clone()));
        if self.site.netns.is_none() {
            tokio::spawn(masquerade::follow(nodes, self.cluster_cidr.clone(), self.gateway, shutdown.clone()));
        }
        if self.provisioner {
            tokio::spawn(local_path_provisioner::run(clients.provisioner, self.provisioner(&shutdown)));
        }
        let proxy = async {
            if self.proxy { kube_proxy::run(clients.proxy, self.proxy(), shutdown.clone()).await } else { std::future::pending().await }
        };
        let mut kubelet = self.kubelet();
        let (gate, keeper) = network_policy::Gate::new();
        kubelet.network_gate = self.network_policy.then(|| network_gate(gate));
        let policies = async {
            if self.network_policy {
                let enforcing = network_policy::run(clients.network_policy, self.site.name.clone(), keeper, shutdown.clone());
                // Without it no pod could start: the process ends, and starts again.
                tokio::spawn(enforcing).await.context("network policies")?;
            } else {
                // Somebody else may enforce them now.
                network_policy::clean_up().await;
            }
            std::future::pending::<anyhow::Result<()>>().await
        };
        let kubelet = kubelet::run(clients.kubelet, kubelet, shutdown.clone());
        tracing::info!(node = %self.site.name, address = %self.address, "starting");
        tokio::select! {
            result = kubelet => result.context("kubelet")?,
            result = proxy => result.context("kube-proxy")?,
            result = policies => result?,
        }
        runtime.await.context("containerd")?;
        Ok(())
    }

    /// Writes the pods' network configuration as soon as the node has a range for them.
    fn configure_network(&self, nodes: &Informer<Node>) {
        let (name, written) = (self.site.name.clone(), parking_lot::Mutex::new(None));
        nodes.on_change(move |change| {
            let node = change.object();
            if node.name() != name {
                return;
            }
            let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
            let mut written = written.lock();
            if range.is_none() || *written == range {
                return;
            }
            let result = cni::write(Path::new("/etc/cni/net.d"), range.as_deref().unwrap_or_default());
            match result {
                Ok(()) => *written = range,
                Err(error) => tracing::error!("pods have no network: {error:#}"),
            }
        });
    }

    fn proxy(&self) -> kube_proxy::Config {
        kube_proxy::Config {
            hostname_override: self.site.name.clone(),
            cluster_cidr: self.cluster_cidr.clone(),
            ..kube_proxy::Config::default()
        }
    }

    fn kubelet(&self) -> kubelet::Config {
        let mut config = kubelet::Config::new(&self.site.name);
        config.node_ips = vec![self.address];
        let c = &mut config.configuration;
        c.container_runtime_endpoint = format!("unix://{}", containerd::SOCKET);
        c.cgroup_root = self.site.cgroup.clone();
        c.cluster_dns = self.cluster_dns.clone();
        c.cluster_domain = "cluster.local".to_owned();
        c.resolv_conf = self.site.resolv_conf().display().to_string();
        if let Some((certificate, key)) = &self.serving {
            c.tls_cert_file = certificate.display().to_string();
            c.tls_private_key_file = key.display().to_string();
        }
        c.authentication.x509.client_ca_file = self.client_ca.display().to_string();
        if self.site.netns.is_some() {
            // Of a disk that nodes share with the machine a share is no measure; what is left of it in bytes is.
            let limits =
                [("memory.available", "100Mi"), ("nodefs.available", "200Mi"), ("imagefs.available", "200Mi"), ("nodefs.inodesFree", "1%")];
            c.eviction_hard = limits.map(|(signal, limit)| (signal.to_owned(), limit.to_owned())).into();
            c.image_gc_high_threshold_percent = 100;
        }
        c.static_pod_path = "/etc/kubernetes/manifests".to_owned();
        config
    }
}
