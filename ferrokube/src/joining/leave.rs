//! The end of a node that had joined: nothing of it stays on the machine but its data. Its Node object is the cluster's to delete.

use std::path::Path;
use std::time::Duration;

use kube_proxy::command::Runner;
use kube_proxy::iptables::chain::KUBELET_FIREWALL as FIREWALL;
use kubelet::cri::Runtime;
use kubelet::cri::remote::Remote;

use super::join::{places_file, site_file};
use crate::nodes::command::{feed, run};
use crate::nodes::routes::PROTOCOL;
use crate::nodes::site::Site;
use crate::nodes::{cgroup, containerd, masquerade, mounts};

const RUNTIME_TIMEOUT: Duration = Duration::from_secs(30);

/// Ends the containers and removes what they, the proxy and the routes have left. The node's process must have ended.
pub async fn leave(data_dir: &Path, site: &Site) -> anyhow::Result<()> {
    if let Some(pid) = site.runtime().running() {
        // In an orderly way, so that network plugins take back what they have given.
        let endpoint = format!("unix:///proc/{pid}/root{}", containerd::SOCKET);
        if let Err(error) = remove_sandboxes(&Remote::connect(&endpoint, RUNTIME_TIMEOUT)).await {
            tracing::warn!(%error, "the runtime does not remove its pods; they are killed");
        }
    }
    cgroup::destroy(&site.cgroup).await?;
    cgroup::remove_if_empty("/ferrokube");
    kube_proxy::clean_up(None, &Runner::default()).await;
    network_policy::clean_up().await;
    remove_firewall().await;
    masquerade::remove().await?;
    run("ip", &["route", "flush", "proto", PROTOCOL]).await?;
    mounts::leave_places(&places_file(data_dir))?;
    std::fs::remove_file(site_file(data_dir))?;
    tracing::info!("the cluster still knows the node: kubectl delete node {}", site.name);
    Ok(())
}

/// Takes away the chain that belongs to kubelets, which a proxy's cleaning leaves to them.
async fn remove_firewall() {
    for program in ["iptables", "ip6tables"] {
        if run(program, &["-w", "-S", FIREWALL]).await.is_err() {
            continue;
        }
        let text = format!("*filter\n-D INPUT -j {FIREWALL}\n-D OUTPUT -j {FIREWALL}\n-F {FIREWALL}\n-X {FIREWALL}\nCOMMIT\n");
        if let Err(error) = feed(&format!("{program}-restore"), &["-w", "--noflush"], &text).await {
            tracing::warn!(%error, "{FIREWALL} stays");
        }
    }
}

async fn remove_sandboxes(runtime: &dyn Runtime) -> Result<(), kubelet::cri::Error> {
    for sandbox in runtime.list_pod_sandboxes(None).await? {
        runtime.stop_pod_sandbox(sandbox.id.clone()).await?;
        runtime.remove_pod_sandbox(sandbox.id).await?;
    }
    Ok(())
}
