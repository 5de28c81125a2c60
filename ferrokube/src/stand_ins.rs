//! Credentials for whoever stands in for a part that was left out: a kubeconfig with the name that the part would have.

use std::path::{Path, PathBuf};

use anyhow::Context;
use apiserver::pki::{Pki, kubeconfig, write_file};
use apiserver::run::kubeconfig_path;
use kube::config::Kubeconfig;

use crate::control_plane::Part;

/// The component and its user; nothing for parts that are not clients of their own.
fn identity(part: Part) -> Option<(&'static str, &'static str)> {
    match part {
        Part::KubeControllerManager => Some(("kube-controller-manager", "system:kube-controller-manager")),
        Part::KubeScheduler => Some(("kube-scheduler", "system:kube-scheduler")),
        Part::KubeProxy => Some(("kube-proxy", "system:kube-proxy")),
        Part::Dns | Part::DefaultStorage | Part::NetworkPolicy | Part::ResourceMetrics => None,
    }
}

/// Where the credentials of a component are.
fn path(data_dir: &Path, component: &str) -> PathBuf {
    data_dir.join(format!("{component}.kubeconfig"))
}

/// Writes `<data-dir>/<component>.kubeconfig` for each part, with the server that the administrator's names.
pub fn write(data_dir: &Path, pki: &Pki, parts: &[Part]) -> anyhow::Result<()> {
    for (component, user) in parts.iter().copied().filter_map(identity) {
        let admin = Kubeconfig::read_from(kubeconfig_path(data_dir)).context("the administrator's kubeconfig")?;
        let cluster = admin.clusters.first().and_then(|named| named.cluster.as_ref());
        let server = cluster.and_then(|cluster| cluster.server.as_deref()).context("the administrator's kubeconfig names no server")?;
        let text = kubeconfig(server, &pki.ca()?, user, &pki.client(component, user, &[])?);
        let path = path(data_dir, component);
        write_file(&path, &text, true)?;
        tracing::info!("{component} is left out; its credentials are in {}", path.display());
    }
    Ok(())
}
