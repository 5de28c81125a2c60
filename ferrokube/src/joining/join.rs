//! `ferrokube join`: this machine becomes a node of a running cluster.
//!
//! Everything that the node keeps is in its data directory: its certificates, its runtime's images and state, what it was told of the
//! cluster. Started again it goes on with these; its containers do not notice. `ferrokube down` ends it for good.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use apiserver::pki::write_file;
use apiserver::run::store_path;
use clap::Args;
use client::Shutdown;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Config};
use kubelet::KubeletConfiguration;
use kubelet::certificate::rotation::Rotation;
use kubelet::certificate::store::Store;
use serde::{Deserialize, Serialize};

use super::discovery::{self, CaHash};
use super::policy::{KUBELET_CONFIG, KUBELET_KEY, PROXY_CONFIG, PROXY_KEY};
use super::token::{self, Token};
use crate::client_flags::introduce;
use crate::nodes::agent::{Clients, NodeConfig};
use crate::nodes::command::run;
use crate::nodes::routes::{PROTOCOL, Way};
use crate::nodes::site::Site;
use crate::nodes::{cgroup, mounts, network};
use crate::pid_file::{self, PidFile};

/// `ferrokube join`.
#[derive(Args)]
pub struct Join {
    /// The cluster's API server as this machine reaches it, such as https://192.168.1.10:6443.
    #[arg(value_parser = server)]
    server: http::Uri,
    /// A bootstrap token of the cluster, as `ferrokube token create` prints it; needed until the node has its certificate.
    #[arg(long)]
    token: Option<Token>,
    /// The hash of the public key of the cluster's CA, sha256:HEX; may be repeated. Needed as long as --token.
    #[arg(long)]
    ca_cert_hash: Vec<CaHash>,
    /// The node's name; the machine's by default.
    #[arg(long)]
    node_name: Option<String>,
    /// The node's address; the one that this machine has towards the cluster by default.
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Everything that the node keeps.
    #[arg(long, default_value = "/var/lib/ferrokube")]
    data_dir: PathBuf,
    /// Where the node is, once it is entered.
    #[arg(skip)]
    entered: Option<Entered>,
}

struct Entered {
    data_dir: PathBuf,
    site: Site,
}

fn server(text: &str) -> Result<http::Uri, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(uri),
        _ => Err("https://ADDRESS:PORT is expected".to_owned()),
    }
}

/// Where a data directory says that it is a node's.
pub fn site_file(data_dir: &Path) -> PathBuf {
    data_dir.join("join.json")
}

/// Where a joined node's data directory says which directories were made on the machine.
pub fn places_file(data_dir: &Path) -> PathBuf {
    data_dir.join("places")
}

/// The node of a data directory, if it has one.
pub fn site_of(data_dir: &Path) -> anyhow::Result<Option<Site>> {
    let file = site_file(data_dir);
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).map(Some).with_context(|| file.display().to_string())
}

/// What the node was told of its cluster; kept, so that it starts while the cluster cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    cluster_dns: Vec<String>,
    cluster_cidr: String,
    /// Whether nodes enforce network policies.
    #[serde(default)]
    network_policy: bool,
}

impl Join {
    /// Enters the node. The process must have no other thread yet.
    pub fn enter(&mut self) -> anyhow::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a node needs root");
        }
        std::fs::create_dir_all(&self.data_dir).with_context(|| self.data_dir.display().to_string())?;
        let data_dir = self.data_dir.canonicalize().with_context(|| self.data_dir.display().to_string())?;
        if store_path(&data_dir).exists() {
            bail!("{} is the data directory of a cluster; a node that joins another needs its own, see --data-dir", data_dir.display());
        }
        if let Some(pid) = pid_file::read(&data_dir).filter(|pid| u32::try_from(*pid).ok() != Some(std::process::id())) {
            bail!("process {pid} is this node already");
        }
        let site = self.site(&data_dir)?;
        for directory in [&site.directory, &site.registries, &images(&data_dir)] {
            std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        write_file(&site_file(&data_dir), &serde_json::to_string_pretty(&site)?, false)?;
        mounts::take_places(&places_file(&data_dir))?;
        cgroup::create(&site.cgroup)?;
        site.enter()?;
        self.entered = Some(Entered { data_dir, site });
        Ok(())
    }

    /// The same as at the last start, if there was one.
    fn site(&self, data_dir: &Path) -> anyhow::Result<Site> {
        let known = site_of(data_dir)?;
        let given = self.node_name.as_ref().map(|name| name.trim().to_lowercase());
        if let (Some(known), Some(given)) = (&known, &given)
            && known.name != *given
        {
            bail!("{} is the data directory of node {}, not of {given}", data_dir.display(), known.name);
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let name = match given {
            Some(name) => name,
            None => nix::unistd::gethostname().context("the machine's name")?.to_string_lossy().to_lowercase(),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte)) {
            bail!("{name:?} cannot be the name of a node; see --node-name");
        }
        Ok(Site {
            cgroup: format!("/ferrokube/join-{name}"),
            netns: None,
            directory: data_dir.join("node"),
            registries: data_dir.join("certs.d"),
            name,
        })
    }

    /// Is the node until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let Entered { data_dir, site } = self.entered.as_ref().context("the node was not entered")?;
        let _pid_file = PidFile::write(data_dir)?;
        let (name, store) = (site.name.clone(), Store::new(&data_dir.join("pki")));
        let ca = tokio::select! {
            ca = self.certificates(data_dir, &name, &store) => ca?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let kubeconfig = data_dir.join("kubelet.conf");
        write_file(&kubeconfig, &kubelet_kubeconfig(&self.server, &data_dir.join("pki/ca.crt"), &store.current_path()), true)?;
        let rotation = Rotation::new(&name, store, self.config(&ca)?)?;
        let client = rotation.client();
        tokio::spawn(rotation.run(shutdown.clone()));

        let server_address = self.server_address().await?;
        let address = match self.node_ip {
            Some(address) => address,
            None => network::address_towards(server_address).with_context(|| format!("no way to {server_address}"))?,
        };
        let told_file = data_dir.join("cluster.json");
        let told = tokio::select! {
            told = told(&client, &told_file) => told?,
            () = shutdown.cancelled() => return Ok(()),
        };
        reach_control_plane(&client, server_address).await;
        let config = NodeConfig {
            site: site.clone(),
            address,
            images: images(data_dir),
            kubelet_kubeconfig: kubeconfig.clone(),
            proxy: true,
            proxy_kubeconfig: kubeconfig.clone(),
            provisioner: may(&client, "create", "", "persistentvolumes").await,
            provisioner_kubeconfig: kubeconfig.clone(),
            network_policy: told.network_policy,
            network_policy_kubeconfig: kubeconfig,
            client_ca: data_dir.join("pki/ca.crt"),
            serving: None,
            cluster_dns: told.cluster_dns,
            cluster_cidr: told.cluster_cidr,
            gateway: Some(server_address),
        };
        let clients = Clients { kubelet: client.clone(), proxy: client.clone(), provisioner: client.clone(), network_policy: client };
        config.run(clients, shutdown).await?;
        tracing::info!("stopped; containers go on: see ferrokube down");
        Ok(())
    }

    /// Sees to it that the node has a certificate; gives the cluster's CA.
    async fn certificates(&self, data_dir: &Path, name: &str, store: &Store) -> anyhow::Result<String> {
        let file = data_dir.join("pki/ca.crt");
        let known = std::fs::read_to_string(&file).ok();
        let good = store.current_if_good(name, jiff::Timestamp::now())?.is_some();
        if let Some(ca) = known.filter(|_| good) {
            return Ok(ca);
        }
        let (Some(token), false) = (&self.token, self.ca_cert_hash.is_empty()) else {
            bail!("this machine has no certificate of the cluster that is good: it needs --token and --ca-cert-hash");
        };
        let ca = discovery::discover(&self.server, token, &self.ca_cert_hash).await?;
        std::fs::create_dir_all(data_dir.join("pki")).context("pki")?;
        write_file(&file, &ca, false)?;
        let mut config = self.config(&ca)?;
        config.auth_info.token = Some(token.to_string().into());
        kubelet::certificate::bootstrap(Client::try_from(config)?, name, store).await?;
        tracing::info!(node = name, "the cluster has certified this node");
        Ok(ca)
    }

    /// The way to the API server, with nobody's credentials.
    fn config(&self, ca: &str) -> anyhow::Result<Config> {
        let mut config = Config::new(self.server.clone());
        config.root_cert = Some(discovery::certificates(ca)?);
        introduce(&mut config, "kubelet");
        Ok(config)
    }

    async fn server_address(&self) -> anyhow::Result<IpAddr> {
        let (host, port) = (self.server.host().unwrap_or_default().trim_matches(['[', ']']), self.server.port_u16().unwrap_or(443));
        let mut found = tokio::net::lookup_host((host, port)).await.with_context(|| format!("the address of {host}"))?;
        found.next().map(|address| address.ip()).with_context(|| format!("{host} has no address"))
    }
}

/// Archives put here are imported.
fn images(data_dir: &Path) -> PathBuf {
    data_dir.join("images")
}

/// As upstream's kubelets have theirs: the certificate's file is the one that is always the newest.
fn kubelet_kubeconfig(server: &http::Uri, ca: &Path, current: &Path) -> String {
    let (server, ca, current) = (server.to_string(), ca.display(), current.display());
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default-cluster\n  cluster:\n    server: {}\n    certificate-authority: {ca}\nusers:\n- name: default-auth\n  user:\n    client-certificate: {current}\n    client-key: {current}\ncontexts:\n- name: default-context\n  context:\n    cluster: default-cluster\n    user: default-auth\ncurrent-context: default-context\n",
        server.trim_end_matches('/')
    )
}

/// What the cluster says, or said last.
async fn told(client: &Client, file: &Path) -> anyhow::Result<Told> {
    match ask(client).await {
        Ok(told) => {
            write_file(file, &serde_json::to_string_pretty(&told)?, false)?;
            Ok(told)
        }
        Err(error) => {
            let text = std::fs::read_to_string(file).map_err(|_| error).context("the cluster's configuration")?;
            tracing::warn!("the cluster cannot be asked, going on with what it said last");
            serde_json::from_str(&text).with_context(|| file.display().to_string())
        }
    }
}

async fn ask(client: &Client) -> anyhow::Result<Told> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), token::NAMESPACE);
    let text = async |name: &str, key: &str| {
        let map = maps.get(name).await.with_context(|| format!("ConfigMap {name}"))?;
        map.data.and_then(|mut data| data.remove(key)).with_context(|| format!("ConfigMap {name} has no {key}"))
    };
    let kubelet = KubeletConfiguration::parse(&text(KUBELET_CONFIG, KUBELET_KEY).await?).context(KUBELET_CONFIG)?;
    let proxy = kube_proxy::Config::parse(text(PROXY_CONFIG, PROXY_KEY).await?.as_bytes()).context(PROXY_CONFIG)?;
    let network_policy = may(client, "watch", "networking.k8s.io", "networkpolicies").await;
    Ok(Told { cluster_dns: kubelet.cluster_dns, cluster_cidr: proxy.cluster_cidr, network_policy })
}

/// Whether nodes of this cluster may do this, and so are meant to.
async fn may(client: &Client, verb: &str, group: &str, resource: &str) -> bool {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    match Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await {
        Ok(answer) => answer.status.is_some_and(|status| status.allowed),
        // It cannot be asked now; whether it may will show.
        Err(_) => true,
    }
}

/// The control plane may have addresses, for its own service and for names, that only its own machine knows the way to.
async fn reach_control_plane(client: &Client, server: IpAddr) {
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    let of = ListParams::default().labels("kubernetes.io/service-name in (kubernetes, kube-dns)");
    let found = match slices.list(&of).await {
        Ok(found) => found.items,
        Err(error) => {
            tracing::warn!(%error, "cannot see where the control plane is");
            return;
        }
    };
    let way = Way { own: None, gateway: None, protocol: Some(PROTOCOL) };
    for slice in found.iter().filter(|slice| matches!(slice.metadata.namespace.as_deref(), Some("default" | "kube-system"))) {
        for address in slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses) {
            let Some(address) = address.parse().ok().filter(|address: &IpAddr| *address != server) else { continue };
            if is_next_door(address).await {
                continue;
            }
            if let Err(error) = way.replace(&address.to_string(), server).await {
                tracing::debug!(%error, "the way to {address} is left as it is");
            }
        }
    }
}

/// Whether packets for the address go there without anybody in between.
async fn is_next_door(address: IpAddr) -> bool {
    let route = run("ip", &["-o", "route", "get", &address.to_string()]).await.unwrap_or_else(|_| " via ".to_owned());
    !route.contains(" via ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_reached_by_tls() {
        assert_eq!(server("10.0.0.1:6443").unwrap().to_string(), "https://10.0.0.1:6443/");
        assert_eq!(server("https://[fd00::1]:6443").unwrap().host(), Some("[fd00::1]"));
        assert!(server("http://10.0.0.1:6443").is_err());
        assert!(server("").is_err());
    }

    #[test]
    fn the_kubeconfig_names_the_newest_certificate() {
        let text = kubelet_kubeconfig(&"https://10.0.0.1:6443".parse().unwrap(), Path::new("/d/ca.crt"), Path::new("/d/current.pem"));
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://10.0.0.1:6443"));
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!((user.client_certificate.as_deref(), user.client_key.as_deref()), (Some("/d/current.pem"), Some("/d/current.pem")));
    }
}
