//! Starts everything: informers, one loop for each family that the host has, and the servers for health and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use client::events::{Event, Recorder, Type};
use client::{Informer, Reference, Shutdown};
use k8s_openapi::api::core::v1::{Node as NodeObject, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::changes::Changes;
use crate::command::Runner;
use crate::config::{Config, Mode as ModeName};
use crate::frontend::PROXY_NAME_LABEL;
use crate::health::{self, Health};
use crate::iptables::Iptables;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::nftables::Nftables;
use crate::node::{self, Node};
use crate::proxier::{Proxier, publish};
use crate::service_health::ServiceHealth;
use crate::settings::Settings;
use crate::{Error, ipvs, sysctl};
use netfilter::family::{Cidr, Family, parse_cidr};

/// The endpoints of headless Services have this label; nothing leads to them through us.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";

/// What upstream says to those who have not chosen a mode.
const DEFAULT_MODE: &str = "No kube-proxy mode specified: defaulting to 'iptables'. Note that in Kubernetes 1.40 the default mode will \
    switch to 'nftables'. If you wish to continue using 'iptables' mode, you must explicitly specify 'mode: iptables' in the kube-proxy \
    config file, or '--proxy-mode iptables' on the kube-proxy command line.";

/// What of the API kube-proxy looks at.
#[derive(Clone)]
pub struct Sources {
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    /// This node alone, or all.
    pub nodes: Informer<NodeObject>,
    pub service_cidrs: Informer<ServiceCIDR>,
}

impl Sources {
    /// Watches no more than is needed.
    pub fn start(client: &Client, node_name: &str, shutdown: &Shutdown) -> Sources {
        let config = || watcher::Config::default().streaming_lists();
        let services = config().labels(&format!("!{PROXY_NAME_LABEL}")).fields("spec.clusterIP!=None");
        let slices = config().labels(&format!("!{HEADLESS_LABEL}"));
        let nodes = config().fields(&format!("metadata.name={node_name}"));
        Sources {
            services: Informer::start(Api::all(client.clone()), services, shutdown.clone()),
            slices: Informer::start(Api::all(client.clone()), slices, shutdown.clone()),
            nodes: Informer::start(Api::all(client.clone()), nodes, shutdown.clone()),
            service_cidrs: Informer::start(Api::all(client.clone()), config(), shutdown.clone()),
        }
    }
}

/// The name of the node: what the configuration says, or else the host's.
pub fn node_name(config: &Config) -> Result<String, Error> {
    if !config.hostname_override.is_empty() {
        return Ok(config.hostname_override.trim().to_lowercase());
    }
    let name = nix::unistd::gethostname().map_err(|error| Error::Hostname(error.into()))?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

/// The families that the kernel has.
fn families() -> Vec<Family> {
    let has_v6 =
        std::path::Path::new("/proc/net/if_inet6").exists() && !sysctl::get("net/ipv6/conf/all/disable_ipv6").is_ok_and(|value| value == 1);
    if has_v6 { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
}

/// Keeps the kernel's rules as the cluster's Services are, until shutdown. The rules stay.
///
/// # Errors
/// The configuration is wrong, or the host lacks what the mode needs.
pub async fn run(client: Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let name = node_name(&config)?;
    let recorder = Recorder::new(client.clone(), "kube-proxy", &name, shutdown.clone());
    let sources = Sources::start(&client, &name, &shutdown);
    run_from(sources, &name, config, recorder, Runner::default(), shutdown).await
}

/// [`run`], with informers that somebody else may have, too, and a way to start programs.
pub async fn run_from(
    sources: Sources,
    name: &str,
    mut config: Config,
    recorder: Recorder,
    runner: Runner,
    shutdown: Shutdown,
) -> Result<(), Error> {
    config.default_fields();
    config.validate()?;
    sysctl::set_conntrack(&config.conntrack);
    sysctl::set_oom_score_adj(config.oom_score_adj);
    clean_up(Some(config.mode()), &runner).await;
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::default());
    // Without knowing the node, rules would be wrong twice.
    tokio::select! {
        () = sources.nodes.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let of_this_node = {
        let (nodes, name) = (sources.nodes.clone(), name.to_owned());
        move || nodes.get("", &name)
    };
    let first = Node::new(name, of_this_node().as_deref(), &config.bind_address);
    let primary = first.primary;
    let (node_sender, node) = watch::channel(first);
    let eligible = of_this_node.clone();
    let health = Arc::new(Health::new(2 * config.sync_period(), metrics.clone(), move || node::is_eligible(eligible().as_deref())));
    follow_node(&sources.nodes, name, &config, node_sender);
    let service_cidrs = follow_service_cidrs(&sources.service_cidrs);

    let about = about_node(name);
    tell(&recorder, &about, Type::Normal, "Starting", "");
    if config.mode.is_none() {
        tell(&recorder, &about, Type::Warning, "KubeProxyDefaultMode", DEFAULT_MODE);
    }

    let mut servers = tokio::task::JoinSet::new();
    let hard_fail = config.bind_address_hard_fail;
    if let Ok(address) = config.healthz_bind_address.parse::<SocketAddr>() {
        servers.spawn(health::serve("healthz", address, health::router(health.clone()), hard_fail, shutdown.clone()));
    }
    let changes = Families::new(&sources);
    if let Ok(address) = config.metrics_bind_address.parse::<SocketAddr>() {
        let router = metrics_router(metrics.clone(), config.clone(), changes.clone());
        servers.spawn(health::serve("metrics", address, router, hard_fail, shutdown.clone()));
    }

    let mut loops = tokio::task::JoinSet::new();
    for family in families() {
        let mode = match open(family, &config, &runner).await {
            Ok(mode) => mode,
            Err(error) if family == primary => return Err(error),
            Err(error) => {
                tracing::warn!(%family, %error, "the host does not support this family, going on without");
                continue;
            }
        };
        let proxier = Proxier {
            family,
            config: config.clone(),
            services: sources.services.clone(),
            slices: sources.slices.clone(),
            node: node.clone(),
            service_cidrs: service_cidrs.clone(),
            changes: changes.of(family),
            mode,
            metrics: metrics.clone(),
            health: health.clone(),
            service_health: ServiceHealth::new(name, health.clone(), recorder.clone(), shutdown.clone()),
            localhost_node_ports: allow_localhost(&config, &node.borrow(), family),
        };
        tracing::info!(%family, mode = %config.mode(), node = name, "starting");
        loops.spawn(proxier.run(shutdown.clone()));
    }
    tokio::select! {
        ended = servers.join_next(), if hard_fail => match ended {
            Some(Ok(Err(source))) => {
                tell(&recorder, &about, Type::Warning, "FailedToStartProxierHealthcheck", &source.to_string());
                return Err(Error::Serve(source));
            }
            _ => shutdown.cancelled().await,
        },
        () = shutdown.cancelled() => {}
    }
    // They end soon; a sync that is under way is not torn apart.
    while loops.join_next().await.is_some() {}
    Ok(())
}

fn tell(recorder: &Recorder, about: &Reference, kind: Type, reason: &str, message: &str) {
    let mut event = Event::new(about, kind, reason, message);
    event.action = "StartKubeProxy".to_owned();
    recorder.tell(event);
}

fn about_node(name: &str) -> Reference {
    Reference(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    })
}

/// What has changed, for each family: both are told of everything.
#[derive(Clone)]
struct Families([Arc<Changes>; 2]);

impl Families {
    fn new(sources: &Sources) -> Families {
        let changes = [Arc::new(Changes::default()), Arc::new(Changes::default())];
        let present = families();
        for (changes, _) in changes.iter().zip(Family::ALL).filter(|(_, family)| present.contains(family)) {
            changes.follow(&sources.services, &sources.slices);
        }
        Families(changes)
    }

    fn of(&self, family: Family) -> Arc<Changes> {
        self.0[usize::from(family == Family::V6)].clone()
    }
}

/// Takes away what the modes that are not in use may have left, or what all modes have left if none is. The rules of a mode that
/// this host does not have are not there either.
pub async fn clean_up(in_use: Option<ModeName>, runner: &Runner) {
    for family in families() {
        if in_use != Some(ModeName::Iptables) {
            let iptables = Iptables::new(family, runner.clone());
            if let Err(error) = iptables.clean_up().await {
                tracing::debug!(%family, %error, "cannot look for rules of iptables mode");
            }
        }
        if in_use != Some(ModeName::Nftables) {
            let cleaned = match Nftables::open(family) {
                Ok(mut nftables) => nftables.clean_up().await,
                Err(error) => Err(error),
            };
            if let Err(error) = cleaned {
                tracing::debug!(%family, %error, "cannot look for rules of nftables mode");
            }
        }
    }
}

async fn open(family: Family, config: &Config, runner: &Runner) -> Result<Mode, Error> {
    match config.mode() {
        ModeName::Iptables => {
            let iptables = Iptables::new(family, runner.clone());
            iptables.check().await.map_err(|source| Error::Unsupported { mode: "iptables", source: source.into() })?;
            Ok(Mode::Iptables(iptables))
        }
        ModeName::Nftables => {
            let nftables = Nftables::open(family).map_err(|source| Error::Unsupported { mode: "nftables", source: source.into() })?;
            Ok(Mode::Nftables(Box::new(nftables)))
        }
        ModeName::Ipvs => Err(ipvs::check(&config.ipvs.scheduler).map_or_else(Error::Ipvs, |()| Error::Ipvs(ipvs::Error::NotImplemented))),
    }
}

/// Node ports on 127.0.0.1 need packets to leave from there, which the kernel forbids unless told otherwise.
fn allow_localhost(config: &Config, node: &Node, family: Family) -> bool {
    if !Settings::new(config, node, family).localhost_node_ports {
        return false;
    }
    match sysctl::ensure(ROUTE_LOCALNET, 1) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "cannot set route_localnet, so node ports are not served on 127.0.0.1");
            false
        }
    }
}

fn follow_node(nodes: &Informer<NodeObject>, name: &str, config: &Arc<Config>, sender: watch::Sender<Node>) {
    let (name, config) = (name.to_owned(), config.clone());
    nodes.on_change(move |change| {
        let object = change.object();
        // The rules of a node that is gone stay as they are, for it may come back.
        if client::Object::name(&**object) == name && !matches!(change, client::Change::Deleted(_)) {
            publish(&sender, Node::new(&name, Some(object), &config.bind_address));
        }
    });
}

fn follow_service_cidrs(informer: &Informer<ServiceCIDR>) -> watch::Receiver<Vec<Cidr>> {
    let (sender, receiver) = watch::channel(Vec::new());
    let known = informer.clone();
    informer.on_change(move |_| {
        let all = known.list();
        let specs = all.iter().filter_map(|object| object.spec.as_ref());
        let mut cidrs: Vec<Cidr> = specs.flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|text| parse_cidr(text)).collect();
        cidrs.sort();
        publish(&sender, cidrs);
    });
    receiver
}

fn metrics_router(metrics: Arc<Metrics>, config: Arc<Config>, changes: Families) -> Router {
    use std::sync::atomic::Ordering::Relaxed;
    let mode = config.mode();
    let text = move || {
        let of = changes.of(Family::V4);
        metrics.service_changes.set(of.service_changes.load(Relaxed) as f64);
        metrics.endpoint_changes.set(of.endpoint_changes.load(Relaxed) as f64);
        metrics.service_changes_pending.set(of.service_changes_pending.load(Relaxed) as f64);
        metrics.endpoint_changes_pending.set(of.endpoint_changes_pending.load(Relaxed) as f64);
        metrics.render(mode)
    };
    let configz = serde_json::json!({ "kubeproxy.config.k8s.io": &*config });
    Router::new()
        .route("/metrics", get(move || async move { text() }))
        .route("/healthz", get(|| async { "ok" }))
        .route("/proxyMode", get(move || async move { mode.to_string() }))
        .route("/configz", get(move || async move { axum::Json(configz) }))
}
