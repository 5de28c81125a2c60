//! A node seen from the cluster's process: its credentials, its process, which is started again when it ends, and its end.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use apiserver::pki::{Pki, kubeconfig, write_file};
use client::Shutdown;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::agent::NodeConfig;
use super::site::Site;
use super::{Host, Layout, cgroup, mounts, network};
use crate::{default_storage, network_policies};

/// A node's process that ended is started again after this long.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// A node's process that was told to end has ended by then, or is killed with everything else of the node.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What nodes are told of their cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where the API server is, as nodes reach it.
    pub server: String,
    /// Where pods send their questions about names.
    pub cluster_dns: Vec<String>,
    /// Whether they run a kube-proxy.
    pub proxy: bool,
    /// Whether they provide volumes.
    pub default_storage: bool,
    /// Whether they enforce network policies.
    pub network_policy: bool,
}

/// Writes what a node's process needs: who it is, and whom it talks to.
pub fn prepare(layout: &Layout, host: &Host, cluster: &Cluster, pki: &Pki) -> anyhow::Result<PathBuf> {
    let directory = &host.directory;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let ca = pki.ca()?;
    let user = format!("system:node:{}", host.name);
    let kubelet = pki.client(&format!("{}-kubelet", host.name), &user, &["system:nodes"])?;
    let serving = pki.kubelet_serving(&format!("{}-kubelet-serving", host.name), &host.name, &[IpAddr::V4(host.address)])?;
    let proxy = pki.client("kube-proxy", "system:kube-proxy", &[])?;
    let provisioner = pki.client("local-path-provisioner", default_storage::USER, &[])?;
    let policies = pki.client("network-policy", network_policies::USER, &[])?;
    let write = |name: &str, text: &str, secret: bool| -> anyhow::Result<PathBuf> {
        let path = directory.join(name);
        write_file(&path, text, secret)?;
        Ok(path)
    };
    let config = NodeConfig {
        site: Site {
            name: host.name.clone(),
            netns: Some(network::namespace(host)),
            directory: directory.clone(),
            cgroup: host.cgroup.clone(),
            registries: layout.registries(),
        },
        address: host.address.into(),
        images: layout.images(),
        kubelet_kubeconfig: write("kubelet.conf", &kubeconfig(&cluster.server, &ca, &user, &kubelet), true)?,
        proxy: cluster.proxy,
        proxy_kubeconfig: write("kube-proxy.conf", &kubeconfig(&cluster.server, &ca, "system:kube-proxy", &proxy), true)?,
        provisioner: cluster.default_storage,
        provisioner_kubeconfig: write(
            "local-path-provisioner.conf",
            &kubeconfig(&cluster.server, &ca, default_storage::USER, &provisioner),
            true,
        )?,
        network_policy: cluster.network_policy,
        network_policy_kubeconfig: write(
            "network-policy.conf",
            &kubeconfig(&cluster.server, &ca, network_policies::USER, &policies),
            true,
        )?,
        client_ca: write("ca.crt", &ca, false)?,
        serving: Some((write("kubelet.crt", &serving.certificate, false)?, write("kubelet.key", &serving.key, true)?)),
        cluster_dns: cluster.cluster_dns.clone(),
        cluster_cidr: layout.pod_cidr(),
        gateway: Some(layout.gateway().into()),
    };
    write("node.json", &serde_json::to_string_pretty(&config)?, false)
}

fn start(host: &Host, config: &PathBuf) -> anyhow::Result<Child> {
    let agent = format!("{}/agent", host.cgroup);
    cgroup::create(&agent)?;
    let log = host.directory.join("node.log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let child = Command::new(std::env::current_exe().context("this program's own file")?)
        .arg("node")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for this process, which ends nodes in order.
        .process_group(0)
        .spawn()
        .context("a node's process cannot be started")?;
    if let Some(pid) = child.id() {
        cgroup::enter(&agent, pid)?;
    }
    Ok(child)
}

/// Keeps a node's process running until shutdown, then ends it. Its containers stay; see [`remove`].
pub async fn run(host: Host, config: PathBuf, shutdown: Shutdown) {
    while !shutdown.is_cancelled() {
        match start(&host, &config) {
            Ok(mut child) => tokio::select! {
                status = child.wait() => {
                    let log = host.directory.join("node.log");
                    tracing::warn!(node = %host.name, ?status, "the node's process ended, starting it again; see {}", log.display());
                }
                () = shutdown.cancelled() => return end(child).await,
            },
            Err(error) => tracing::error!(node = %host.name, "{error:#}"),
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn end(mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        // Its end is waited for by whoever removes the node's cgroup.
        let _ = child.start_kill();
    }
}

/// Removes everything that nodes of a cluster have left on the machine but their files.
pub async fn remove_all(layout: &Layout) -> anyhow::Result<()> {
    let nodes = layout.data_dir.join("nodes");
    cgroup::destroy(&layout.cgroup()).await?;
    cgroup::remove_if_empty("/ferrokube");
    let listing = fs::read_dir(&nodes).with_context(|| nodes.display().to_string())?;
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(n) = name.strip_prefix("node-").and_then(|n| n.parse().ok()) else { continue };
        network::remove(&layout.host(n)).await?;
    }
    network::tear_down(layout).await?;
    mounts::leave_places(&places_file(layout))
}

/// The file with the directories that were made on the machine for nodes to mount theirs over.
fn places_file(layout: &Layout) -> PathBuf {
    layout.data_dir.join("nodes").join("places")
}

/// Makes the directories that nodes mount theirs over, and remembers which.
pub fn take_places(layout: &Layout) -> anyhow::Result<()> {
    mounts::take_places(&places_file(layout))
}
