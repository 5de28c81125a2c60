//! `ferrokube up`: a cluster on one machine. The control plane runs in this process, each node in a process and namespaces of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use apiserver::api::Api;
use apiserver::in_process;
use apiserver::pki::Pki;
use apiserver::run::{Server, kubeconfig_path};
use clap::Args;
use client::{Informer, Informers, Object, Shutdown};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::apiserver_flags::Flags;
use crate::control_plane::{self, Part};
use crate::feature_gates;
use crate::joining::policy::{self, Published};
use crate::nodes::{self, Layout, network, routes, simulated, supervise};
use crate::pid_file::PidFile;
use crate::{shutdown, stand_ins};

/// `ferrokube up`.
#[derive(Args)]
pub struct Up {
    /// Everything that the cluster keeps: store, certificates, kubeconfig, and what its nodes keep.
    #[arg(long, default_value = "/var/lib/ferrokube")]
    data_dir: PathBuf,
    /// Nodes on this machine. 0 is a control plane alone, which needs neither root nor a container runtime.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(nodes::MAX_NODES)))]
    nodes: u32,
    /// Nodes beside these that run their pods in memory only, with no containers, to see what a large cluster does. They need neither
    /// root nor a container runtime.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(simulated::MAX_SIMULATED)))]
    simulated_nodes: u32,
    /// Parts that are left out, for somebody else's in their place.
    #[arg(long, value_delimiter = ',')]
    disable: Vec<Part>,
    #[command(flatten)]
    flags: Flags,
}

/// Nodes that are not ready by then are told of; they may still become so.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

impl Up {
    pub async fn run(self, signal: watch::Receiver<bool>) -> anyhow::Result<()> {
        let started = Instant::now();
        std::fs::create_dir_all(&self.data_dir).with_context(|| self.data_dir.display().to_string())?;
        let data_dir = self.data_dir.canonicalize().with_context(|| self.data_dir.display().to_string())?;
        let layout = match self.nodes {
            0 => None,
            _ if !nix::unistd::geteuid().is_root() => bail!("nodes need root; run as root, or with --nodes 0 for a control plane alone"),
            _ => Some(network::claim(&data_dir).await?),
        };
        let mut config = self.flags.config(data_dir.clone(), false)?;
        config.resource_metrics = layout.is_some() && !self.disable.contains(&Part::ResourceMetrics);
        if let Some(layout) = &layout {
            network::prepare(layout).await?;
            config.advertise_address = config.advertise_address.or(Some(layout.gateway().into()));
            config.extra_sans.push(layout.gateway().to_string());
        }
        let outward = outward_address(&config);
        config.extra_sans.extend(outward.map(|address| address.to_string()));
        let server = Server::start(&config, signal.clone()).await?;
        server.api.metrics.tell_also(feature_gates::render);
        // From here on the data directory is this process's: the store is locked.
        let pid_file = PidFile::write(&data_dir)?;
        let (api, address) = (server.api.clone(), server.address);
        let stop = shutdown::token(signal);
        let serving = tokio::spawn(server.serve());
        tracing::info!(address = %address, "API server ready in {} ms", started.elapsed().as_millis());
        let plane = control_plane::Config::new(&config, layout.as_ref(), &self.disable)?;
        let plane = tokio::spawn(control_plane::run(api.clone(), plane, stop.clone()));
        let pki = Pki::open(&data_dir.join("pki"))?;
        let default_storage = layout.is_some() && !self.disable.contains(&Part::DefaultStorage);
        let network_policy = !self.disable.contains(&Part::NetworkPolicy);
        let published = Published {
            server: format!("https://{}", SocketAddr::new(outward.unwrap_or(address.ip()), address.port())),
            ca: pki.ca()?,
            cluster_dns: vec![control_plane::dns_address(&config)?.to_string()],
            cluster_cidr: control_plane::cluster_cidr(layout.as_ref()),
            default_storage,
            network_policy,
        };
        policy::publish(&api, &published).await.map_err(|status| anyhow::anyhow!("what joining nodes are told: {}", status.message))?;
        stand_ins::write(&data_dir, &pki, &self.disable)?;
        simulated::start(&api, &data_dir.join("simulated"), self.simulated_nodes, &stop).context("simulated nodes")?;
        let all = (self.nodes + self.simulated_nodes) as usize;
        let nodes = (all > 0).then(|| nodes_of(&api, &stop));
        let mut result = Ok(());
        if let (Some(layout), Some(nodes)) = (&layout, &nodes) {
            let proxy = !self.disable.contains(&Part::KubeProxy);
            let cluster = Cluster { layout, server: &config, port: address.port(), pki: &pki, proxy, default_storage, network_policy };
            result = cluster.start_nodes(self.nodes, nodes, &stop).await;
        }
        if result.is_err() {
            stop.cancel();
        } else {
            if let Some(nodes) = &nodes {
                wait_for_nodes(nodes, all, &stop, started).await;
            }
            let next = if all > 0 { "nodes" } else { "namespaces" };
            tracing::info!("try: kubectl --kubeconfig {} get {next}", kubeconfig_path(&data_dir).display());
        }
        if let Some(layout) = &layout {
            stop.cancelled().await;
            tracing::info!("stopping the nodes");
            // Whatever happened, the machine is left as it was found.
            supervise::remove_all(layout).await?;
        }
        result?;
        plane.await.context("control plane")??;
        serving.await.context("API server")?;
        drop(pid_file);
        tracing::info!("stopped");
        Ok(())
    }
}

/// The address at which other machines reach this server: where it listens, if that is said, or what this machine has towards others.
fn outward_address(config: &apiserver::run::Config) -> Option<IpAddr> {
    if !config.bind_address.is_unspecified() {
        return Some(config.bind_address);
    }
    // An address from the range for documentation is behind the default route.
    network::address_towards(Ipv4Addr::new(192, 0, 2, 1).into()).or(config.advertise_address)
}

/// The control plane as its nodes need it.
struct Cluster<'a> {
    layout: &'a Layout,
    server: &'a apiserver::run::Config,
    port: u16,
    pki: &'a Pki,
    proxy: bool,
    default_storage: bool,
    network_policy: bool,
}

impl Cluster<'_> {
    /// Starts the nodes, with ways to the pods of all `nodes`.
    async fn start_nodes(&self, count: u32, nodes: &Informer<Node>, stop: &Shutdown) -> anyhow::Result<()> {
        let Cluster { layout, server, port, pki, proxy, default_storage, network_policy } = *self;
        supervise::take_places(layout)?;
        for directory in [layout.images(), layout.registries()] {
            std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        let told = supervise::Cluster {
            server: format!("https://{}:{port}", layout.gateway()),
            cluster_dns: vec![control_plane::dns_address(server)?.to_string()],
            proxy,
            default_storage,
            network_policy,
        };
        let hosts: Vec<_> = (1..=count).map(|n| layout.host(n)).collect();
        for host in &hosts {
            network::add(layout, host).await.with_context(|| format!("network of {}", host.name))?;
            let config = supervise::prepare(layout, host, &told, pki)?;
            tokio::spawn(supervise::run(host.clone(), config, stop.clone()));
            tracing::info!(node = %host.name, address = %host.address, "starting");
        }
        for range in server.service_cluster_ip_range.iter().filter(|range| range.first().is_ipv4()) {
            network::route_services(&range.to_string(), &hosts[0]).await?;
        }
        tokio::spawn(routes::follow(nodes.clone(), routes::Way::default(), stop.clone()));
        Ok(())
    }
}

fn nodes_of(api: &Arc<Api>, stop: &Shutdown) -> Informer<Node> {
    let client = in_process::client(api, in_process::component("system:kube-controller-manager"), "ferrokube");
    Informers::new(client, stop.clone()).of::<Node>()
}

/// Returns when so many nodes are ready, when that takes too long, or at shutdown.
async fn wait_for_nodes(nodes: &Informer<Node>, count: usize, stop: &Shutdown, started: Instant) {
    tokio::select! {
        ready = all_ready(nodes, count) => tracing::info!("{ready} nodes ready in {:.1} s", started.elapsed().as_secs_f32()),
        () = tokio::time::sleep(READY_TIMEOUT) => tracing::warn!("not all nodes are ready; see nodes/*/node.log in the data directory"),
        () = stop.cancelled() => {}
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Waits until so many nodes are ready, and tells of each as it becomes so.
async fn all_ready(nodes: &Informer<Node>, count: usize) -> usize {
    let (sender, mut ready) = watch::channel(0);
    let watched = nodes.clone();
    nodes.on_change(move |change| {
        let newly = is_ready(change.object()) && change.old().is_none_or(|old| !is_ready(old));
        if newly {
            tracing::info!(node = change.object().name(), "ready");
        }
        sender.send_replace(watched.list().iter().filter(|node| is_ready(node)).count());
    });
    ready.wait_for(|ready| *ready >= count).await.map_or(0, |ready| *ready)
}
