//! How a component of its own process reaches the API server: by a kubeconfig, or as a pod.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use client::requests::Counting;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Flags that all components have.
#[derive(Args, Clone, Debug)]
pub struct ClientFlags {
    /// The kubeconfig file with the API server's address and this component's credentials; without it, those of the pod it runs in.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The API server's address, whatever the kubeconfig says.
    #[arg(long)]
    master: Option<http::Uri>,
    /// Taken for compatibility: the API server is the one that limits requests.
    #[arg(long)]
    kube_api_qps: Option<f32>,
    /// Taken for compatibility, as --kube-api-qps.
    #[arg(long)]
    kube_api_burst: Option<i32>,
    /// Taken for compatibility: requests are JSON.
    #[arg(long)]
    kube_api_content_type: Option<String>,
}

impl ClientFlags {
    /// What a client of this `component` needs to know.
    pub async fn config(&self, component: &str) -> anyhow::Result<kube::Config> {
        let mut config = match &self.kubeconfig {
            Some(path) => read(path).await?,
            None => kube::Config::incluster()
                .context("no configuration has been provided: neither --kubeconfig nor the credentials of a pod are there")?,
        };
        if let Some(master) = &self.master {
            config.cluster_url = master.clone();
        }
        introduce(&mut config, component);
        Ok(config)
    }
}

/// A client for the kubeconfig in a file.
pub async fn connect(kubeconfig: &Path, component: &str) -> anyhow::Result<kube::Client> {
    let mut config = read(kubeconfig).await?;
    introduce(&mut config, component);
    Ok(client(config)?)
}

/// A client whose requests are counted.
pub fn client(config: kube::Config) -> kube::Result<kube::Client> {
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    Ok(ClientBuilder::try_from(config)?.with_layer(&Counting::new(&host)).build())
}

async fn read(path: &Path) -> anyhow::Result<kube::Config> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("--kubeconfig {}", path.display()))
}

/// Says who asks; the API server takes the names of field managers from it.
pub fn introduce(config: &mut kube::Config, component: &str) {
    let text =
        format!("{component}/{} ({}/{})", apiserver::discovery::documents::GIT_VERSION, std::env::consts::OS, std::env::consts::ARCH);
    if let Ok(agent) = HeaderValue::from_str(&text) {
        config.headers.push((USER_AGENT, agent));
    }
}
