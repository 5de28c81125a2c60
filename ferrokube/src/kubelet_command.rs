//! `ferrokube kubelet`: the agent of one node, beside a container runtime that runs already.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use client::Shutdown;
use kube::Client;
use kubelet::{Config, KubeletConfiguration};

use crate::client_flags::ClientFlags;
use crate::feature_gates;
use crate::logging_flags::Logging;

/// `ferrokube kubelet`.
#[derive(Args)]
pub struct Kubelet {
    /// The KubeletConfiguration file.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    pub logging: Logging,
    /// The node's name; the machine's by default.
    #[arg(long)]
    hostname_override: Option<String>,
    /// The node's addresses: one, or one of each family.
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Labels that the node has when it registers, key=value.
    #[arg(long, value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// Where the kubelet keeps volumes and the like.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Where the container runtime listens, whatever the file says.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Switches features on and off: Name=true|false. Only what is so already is accepted.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<feature_gates::Setting>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text} is not key=value"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Kubelet {
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let config = self.settings()?;
        let client = Client::try_from(self.client.config("kubelet").await?)?;
        kubelet::run(client, config, shutdown).await.context("kubelet")
    }

    fn settings(&self) -> anyhow::Result<Config> {
        let host = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
        let name = self.hostname_override.as_ref().map_or_else(|| host.clone(), |name| name.trim().to_lowercase());
        if name.is_empty() {
            bail!("empty hostname is invalid");
        }
        let mut config = Config::new(&name);
        config.hostname = host;
        config.node_ips = self.node_ip.clone();
        config.node_labels = self.node_labels.iter().cloned().collect::<BTreeMap<_, _>>();
        config.root_dir = self.root_dir.clone();
        if let Some(path) = &self.config {
            config.configuration = read(path)?;
        }
        if let Some(endpoint) = &self.container_runtime_endpoint {
            config.configuration.container_runtime_endpoint.clone_from(endpoint);
        }
        Ok(config)
    }
}

fn read(path: &PathBuf) -> anyhow::Result<KubeletConfiguration> {
    let text = std::fs::read(path).with_context(|| format!("--config {}", path.display()))?;
    let parsed = apimachinery::yaml::parse(&text).with_context(|| format!("--config {}", path.display()))?;
    let word = |name: &str| parsed.value.get(name).and_then(serde_json::Value::as_str).unwrap_or("");
    if (word("apiVersion"), word("kind")) != ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration") {
        bail!("--config {}: it is no KubeletConfiguration of kubelet.config.k8s.io/v1beta1", path.display());
    }
    serde_json::from_value(parsed.value).with_context(|| format!("--config {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        kubelet: Kubelet,
    }

    #[test]
    fn flags_go_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 7\ncontainerRuntimeEndpoint: unix:///a\n";
        std::fs::write(file.path(), text).unwrap();
        let line = format!("--config={}", file.path().display());
        let parsed = Line::try_parse_from([
            "test",
            &line,
            "--hostname-override=N1",
            "--node-labels=a=b,c=",
            "--container-runtime-endpoint=unix:///b",
        ]);
        let config = parsed.unwrap().kubelet.settings().unwrap();
        assert_eq!((config.node_name.as_str(), config.node_labels["a"].as_str(), config.node_labels["c"].as_str()), ("n1", "b", ""));
        assert_eq!((config.configuration.max_pods, config.configuration.container_runtime_endpoint.as_str()), (7, "unix:///b"));
    }
}
