//! The process of one node: enters the node's namespaces, keeps its container runtime running, and is its kubelet and kube-proxy.
//!
//! Its end leaves the containers and the runtime alone; started again it finds them and goes on.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use client::{Informer, Informers, Object, Shutdown};
use controllers::local_path_provisioner;
use k8s_openapi::api::core::v1::Node;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::containerd::Runtime;
use super::{cni, containerd, images, mounts, pause, routes};
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
    pub name: String,
    pub address: Ipv4Addr,
    pub netns: PathBuf,
    pub directory: PathBuf,
    pub cgroup: String,
    pub images: PathBuf,
    pub registries: PathBuf,
    pub kubelet_kubeconfig: PathBuf,
    /// Whether this process is the node's kube-proxy too.
    pub proxy: bool,
    pub proxy_kubeconfig: PathBuf,
    pub provisioner_kubeconfig: PathBuf,
    pub client_ca: PathBuf,
    pub serving_certificate: PathBuf,
    pub serving_key: PathBuf,
    pub cluster_dns: Vec<String>,
    pub cluster_cidr: String,
}

/// Kernel settings of the node's network namespace. One that a kernel does not have is left out.
const NETWORK_SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("bridge/bridge-nf-call-iptables", "1"),
];

impl NodeCommand {
    /// Enters the node. The process must have no other thread yet.
    pub fn enter(&mut self) -> anyhow::Result<()> {
        // A node does not outlive its cluster's process.
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("asking for a signal at the parent's end")?;
        let text = fs::read_to_string(&self.config).with_context(|| self.config.display().to_string())?;
        let config: NodeConfig = serde_json::from_str(&text).with_context(|| self.config.display().to_string())?;
        join(&config.netns, CloneFlags::CLONE_NEWNET)?;
        match config.runtime().running() {
            Some(pid) => {
                join(&PathBuf::from(format!("/proc/{pid}/ns/uts")), CloneFlags::CLONE_NEWUTS)?;
                join(&PathBuf::from(format!("/proc/{pid}/ns/mnt")), CloneFlags::CLONE_NEWNS)?;
                std::env::set_current_dir("/").context("/")?;
            }
            None => make(&config)?,
        }
        self.node = Some(config);
        Ok(())
    }

    /// Is the node until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        self.node.context("the node was not entered")?.run(shutdown).await
    }
}

/// Makes the node's own mounts and name, before its runtime starts.
fn make(config: &NodeConfig) -> anyhow::Result<()> {
    fs::copy(resolvers(), config.resolv_conf()).context("the machine's resolvers")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("a node needs mounts and a name of its own; are you root?")?;
    nix::unistd::sethostname(&config.name).context("the node's name")?;
    mounts::enter(&config.directory)?;
    for (setting, value) in NETWORK_SETTINGS {
        if let Err(error) = fs::write(Path::new("/proc/sys/net").join(setting), value) {
            tracing::debug!(setting, %error, "not set");
        }
    }
    Ok(())
}

/// The file that names the machine's real resolvers: one behind a stub on loopback cannot be reached from a node.
fn resolvers() -> &'static str {
    let systemd = "/run/systemd/resolve/resolv.conf";
    if Path::new(systemd).exists() { systemd } else { "/etc/resolv.conf" }
}

fn join(namespace: &Path, kind: CloneFlags) -> anyhow::Result<()> {
    let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
    setns(file, kind).with_context(|| format!("entering {}", namespace.display()))
}

impl NodeConfig {
    fn runtime(&self) -> Runtime {
        Runtime { directory: self.directory.clone(), registries: self.registries.clone(), cgroup: self.cgroup.clone() }
    }

    fn provisioner(&self, shutdown: &Shutdown) -> local_path_provisioner::Config {
        local_path_provisioner::Config {
            node_name: self.name.clone(),
            directory: self.directory.join("volumes"),
            shutdown: shutdown.clone(),
        }
    }

    fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }

    /// Runs the node until shutdown.
    async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let runtime = tokio::spawn(self.runtime().supervise(shutdown.clone()));
        containerd::ready().await?;
        let archive = self.directory.join("pause.tar");
        if pause::write(&archive)? {
            images::import(&archive).await?;
        }
        let (first, imported) = tokio::sync::oneshot::channel();
        tokio::spawn(images::follow(self.images.clone(), first, shutdown.clone()));
        imported.await.context("importing images")?;

        let client = client_flags::connect(&self.kubelet_kubeconfig, "kubelet").await?;
        // A kubelet may read its own node alone; routes need them all, which a proxy may read.
        let proxy_client = client_flags::connect(&self.proxy_kubeconfig, "kube-proxy").await?;
        let nodes = Informers::new(proxy_client.clone(), shutdown.clone()).of::<Node>();
        self.configure_network(&nodes);
        tokio::spawn(routes::follow(nodes, Some(self.name.clone()), shutdown.clone()));
        let provisioner = client_flags::connect(&self.provisioner_kubeconfig, "local-path-provisioner").await?;
        tokio::spawn(local_path_provisioner::run(provisioner, self.provisioner(&shutdown)));
        let proxy = async {
            if self.proxy { kube_proxy::run(proxy_client, self.proxy(), shutdown.clone()).await } else { std::future::pending().await }
        };
        let kubelet = kubelet::run(client, self.kubelet(), shutdown.clone());
        tracing::info!(node = %self.name, address = %self.address, "starting");
        tokio::select! {
            result = kubelet => result.context("kubelet")?,
            result = proxy => result.context("kube-proxy")?,
        }
        runtime.await.context("containerd")?;
        Ok(())
    }

    /// Writes the pods' network configuration as soon as the node has a range for them.
    fn configure_network(&self, nodes: &Informer<Node>) {
        let (name, written) = (self.name.clone(), parking_lot::Mutex::new(None));
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
            hostname_override: self.name.clone(),
            cluster_cidr: self.cluster_cidr.clone(),
            ..kube_proxy::Config::default()
        }
    }

    fn kubelet(&self) -> kubelet::Config {
        let mut config = kubelet::Config::new(&self.name);
        config.node_ips = vec![IpAddr::V4(self.address)];
        let c = &mut config.configuration;
        c.container_runtime_endpoint = format!("unix://{}", containerd::SOCKET);
        c.cgroup_root = self.cgroup.clone();
        c.cluster_dns = self.cluster_dns.clone();
        c.cluster_domain = "cluster.local".to_owned();
        c.resolv_conf = self.resolv_conf().display().to_string();
        c.tls_cert_file = self.serving_certificate.display().to_string();
        c.tls_private_key_file = self.serving_key.display().to_string();
        c.authentication.x509.client_ca_file = self.client_ca.display().to_string();
        // Of a disk that nodes share with the machine a share is no measure; what is left of it in bytes is.
        let limits =
            [("memory.available", "100Mi"), ("nodefs.available", "200Mi"), ("imagefs.available", "200Mi"), ("nodefs.inodesFree", "1%")];
        c.eviction_hard = limits.map(|(signal, limit)| (signal.to_owned(), limit.to_owned())).into();
        c.image_gc_high_threshold_percent = 100;
        c.static_pod_path = "/etc/kubernetes/manifests".to_owned();
        config
    }
}
