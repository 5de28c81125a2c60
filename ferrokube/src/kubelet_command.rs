//! `ferrokube kubelet`: the agent of one node, beside a container runtime that runs already.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use apiserver::pki::write_file;
use clap::Args;
use client::Shutdown;
use jiff::Timestamp;
use kube::Client;
use kube::config::{AuthInfo, Context as KubeContext, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
use kubelet::certificate::rotation::Rotation;
use kubelet::certificate::store::Store;
use kubelet::{Config, KubeletConfiguration, certificate};

use crate::client_flags::{self, ClientFlags};
use crate::common_flags::Common;
use crate::feature_gates;

/// `ferrokube kubelet`.
#[derive(Args)]
pub struct Kubelet {
    /// The KubeletConfiguration file.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    pub common: Common,
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
    /// Credentials to ask for a client certificate with, if the kubeconfig of --kubeconfig is not there yet or no longer good; it is
    /// written then.
    #[arg(long)]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Where certificates are kept; `pki` in --root-dir by default.
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// Renew the client certificate before it expires, whatever the file says.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rotate_certificates: Option<bool>,
    /// Ask the cluster to sign what the kubelet serves with, and renew that, whatever the file says.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rotate_server_certificates: Option<bool>,
    /// What plugins give credentials for images, and for which: a CredentialProviderConfig, or a directory of them.
    #[arg(long, requires = "image_credential_provider_bin_dir")]
    image_credential_provider_config: Option<PathBuf>,
    /// Where these plugins are.
    #[arg(long, requires = "image_credential_provider_config")]
    image_credential_provider_bin_dir: Option<PathBuf>,
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
        let client = tokio::select! {
            client = self.connect(&config, &shutdown) => client?,
            () = shutdown.cancelled() => return Ok(()),
        };
        kubelet::run(client, config, shutdown).await.context("kubelet")
    }

    /// The client that the kubelet works with, after it has got itself a certificate if it needs one.
    async fn connect(&self, config: &Config, shutdown: &Shutdown) -> anyhow::Result<Client> {
        let store = Store::new(&self.cert_dir.clone().unwrap_or_else(|| self.root_dir.join("pki")));
        if let Some(bootstrap) = &self.bootstrap_kubeconfig {
            let kubeconfig = self.client.kubeconfig.as_deref().context("--bootstrap-kubeconfig needs --kubeconfig, which it writes")?;
            self.bootstrap(bootstrap, kubeconfig, &config.node_name, &store).await?;
        }
        let client = self.client.config("kubelet").await?;
        // Only certificates of the store can be renewed there; others are somebody else's to renew.
        let own = client.auth_info.client_certificate.as_deref().is_some_and(|file| Path::new(file) == store.current_path());
        if !own || !config.configuration.rotate_certificates {
            return Ok(Client::try_from(client)?);
        }
        let rotation = Rotation::new(&config.node_name, store, client)?;
        let client = rotation.client();
        tokio::spawn(rotation.run(shutdown.clone()));
        Ok(client)
    }

    /// Gets a certificate and writes the kubeconfig with it, unless there is a kubeconfig that is good.
    async fn bootstrap(&self, bootstrap: &Path, kubeconfig: &Path, node_name: &str, store: &Store) -> anyhow::Result<()> {
        if certificate::is_good(kubeconfig, Timestamp::now()) {
            return Ok(());
        }
        let file = Kubeconfig::read_from(bootstrap).with_context(|| format!("--bootstrap-kubeconfig {}", bootstrap.display()))?;
        let client = client_flags::connect(bootstrap, "kubelet").await?;
        certificate::bootstrap(client, node_name, store).await?;
        let text = serde_json::to_string_pretty(&with_certificate(file, &store.current_path())?)?;
        write_file(kubeconfig, &format!("{text}\n"), true)?;
        Ok(())
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
        config.cert_dir.clone_from(&self.cert_dir);
        config.credential_providers = self.image_credential_provider_config.clone().zip(self.image_credential_provider_bin_dir.clone());
        if let Some(path) = &self.config {
            config.configuration = read(path)?;
        }
        if let Some(rotate) = self.rotate_certificates {
            config.configuration.rotate_certificates = rotate;
        }
        if let Some(rotate) = self.rotate_server_certificates {
            config.configuration.server_tls_bootstrap = rotate;
        }
        if let Some(endpoint) = &self.container_runtime_endpoint {
            config.configuration.container_runtime_endpoint.clone_from(endpoint);
        }
        Ok(config)
    }
}

/// A kubeconfig for the same cluster, with the certificate in `current` in the place of whatever credentials it had.
fn with_certificate(bootstrap: Kubeconfig, current: &Path) -> anyhow::Result<Kubeconfig> {
    const CLUSTER: &str = "default-cluster";
    const USER: &str = "default-auth";
    const CONTEXT: &str = "default-context";
    let of_context = bootstrap.current_context.as_ref().and_then(|name| bootstrap.contexts.iter().find(|named| named.name == *name));
    let cluster_name = of_context.and_then(|named| named.context.as_ref()).map(|context| context.cluster.as_str());
    let found = bootstrap.clusters.iter().find(|named| cluster_name.is_none_or(|name| named.name == name));
    let cluster = found.and_then(|named| named.cluster.clone()).context("--bootstrap-kubeconfig names no cluster")?;
    let current = Some(current.display().to_string());
    let user = AuthInfo { client_certificate: current.clone(), client_key: current, ..AuthInfo::default() };
    let context = KubeContext { cluster: CLUSTER.to_owned(), user: Some(USER.to_owned()), ..KubeContext::default() };
    Ok(Kubeconfig {
        kind: Some("Config".to_owned()),
        api_version: Some("v1".to_owned()),
        clusters: vec![NamedCluster { name: CLUSTER.to_owned(), cluster: Some(cluster), other: BTreeMap::default() }],
        auth_infos: vec![NamedAuthInfo { name: USER.to_owned(), auth_info: Some(user), other: BTreeMap::default() }],
        contexts: vec![NamedContext { name: CONTEXT.to_owned(), context: Some(context), other: BTreeMap::default() }],
        current_context: Some(CONTEXT.to_owned()),
        ..Kubeconfig::default()
    })
}

fn read(path: &Path) -> anyhow::Result<KubeletConfiguration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
    KubeletConfiguration::parse(&text).with_context(|| format!("--config {}", path.display()))
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
        assert!(!config.configuration.rotate_certificates);
        assert_eq!((config.configuration.max_pods, config.configuration.container_runtime_endpoint.as_str()), (7, "unix:///b"));
    }

    #[test]
    fn a_kubeconfig_is_made_of_the_bootstrap_ones_cluster_and_the_certificate() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {server: https://a}\n- name: b\n  cluster: {server: https://b}\n\
                    users:\n- name: t\n  user: {token: secret}\ncontexts:\n- name: x\n  context: {cluster: b, user: t}\ncurrent-context: x\n";
        let made = with_certificate(Kubeconfig::from_yaml(text).unwrap(), Path::new("/pki/current.pem")).unwrap();
        let written = serde_json::to_string(&made).unwrap();
        assert!(!written.contains("secret"), "{written}");
        let read = Kubeconfig::from_yaml(&written).unwrap();
        assert_eq!(read.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://b"));
        assert_eq!(read.auth_infos[0].auth_info.as_ref().unwrap().client_key.as_deref(), Some("/pki/current.pem"));
        assert_eq!(read.current_context.as_deref(), Some("default-context"));
    }
}
