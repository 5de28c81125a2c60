//! Puts the kubelet together and runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::events::{Recorder, Type};
use client::{Informer, Object, Shutdown};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::certificate::request::Names;
use crate::certificate::serving::Serving;
use crate::certificate::store::{Pair, Store};
use crate::cgroups::{self, Cgroups};
use crate::config::Config;
use crate::configuration::{AuthorizationMode, KubeletConfiguration};
use crate::container_config::{self, HostDns};
use crate::container_manager::{self, ContainerManager};
use crate::core::{Core, FIRST_RESTART_DELAY};
use crate::cpus::machine::Cpus;
use crate::cri::remote::Remote;
use crate::cri::{SharedRuntime, v1};
use crate::evicting::Evicting;
use crate::eviction;
use crate::images::credentials::Keyring;
use crate::images::providers::{Cluster, Providers};
use crate::images::pull_records::{Policy, PullRecords};
use crate::images::{Images, Limits};
use crate::instruments::Instruments;
use crate::mirror_pods::Mirrors;
use crate::node::lease::Heart;
use crate::node::machine::{self, Machine};
use crate::node::{self, NodeTask, status};
use crate::orphans::{self, Orphans};
use crate::pleg;
use crate::pods::Pods;
use crate::probes::{Probes, Verdicts};
use crate::runtime_state::RuntimeState;
use crate::served::Served;
use crate::server;
use crate::server::tls::{Certificate, Identity};
use crate::stats;
use crate::status_manager::StatusManager;
use crate::user_namespaces::UserNamespaces;
use crate::volumes::{self, Volumes};
use crate::{Error, certificate, container_gc, container_logs, images, node_shutdown, pod_resources, static_pods};

/// At the start the runtime is waited for this long between two tries, and so often.
const RUNTIME_WAIT: Duration = Duration::from_millis(200);
const RUNTIME_TRIES: usize = 300;

/// Runs a kubelet until shutdown. Pods go on running when it ends.
pub async fn run(client: Client, mut config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let settings = config.configuration.clone();
    for directory in [config.root_dir.clone(), settings.pod_logs_dir.clone().into(), config.container_logs_dir.clone()] {
        tokio::fs::create_dir_all(&directory).await.map_err(|source| Error::Directory { path: directory, source })?;
    }
    let simulated = config.runtime.is_some();
    let metrics = Instruments::default();
    let runtime: SharedRuntime = match config.runtime.take() {
        Some(runtime) => runtime,
        None => {
            let remote = Remote::connect(&settings.container_runtime_endpoint, settings.runtime_request_timeout);
            Arc::new(remote.with_metrics(metrics.clone()))
        }
    };
    let Some(version) = wait_for(&runtime, &shutdown).await? else { return Ok(()) };
    let (machine, node, host_ips) = look_around(&config).await;
    let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name, shutdown.clone());
    recorder.normal(&node::reference(&config.node_name, &config.node_name), "Starting", "Starting kubelet.");

    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let nodes = Informer::<Node>::start(Api::all(client.clone()), named(&config.node_name), shutdown.clone());
    let pods = Pods::new(&config.node_name, nodes.clone(), shutdown.clone());
    let statuses = {
        let pods = pods.clone();
        StatusManager::new(client.clone(), move |uid| pods.api_pod(uid))
    };
    let verdicts = Verdicts::default();
    let probes = {
        let (statuses, pods) = (statuses.clone(), pods.clone());
        let status_of = move |uid: &str| statuses.get(uid);
        Probes::new(runtime.clone(), recorder.clone(), verdicts.clone(), status_of, move |uid| pods.sync(uid))
    };
    let volumes = Volumes::new(volumes::Config {
        root_dir: config.root_dir.clone(),
        node_name: config.node_name.clone(),
        client: client.clone(),
        recorder: recorder.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
        simulated,
    });
    volumes.set_allocatable(node.allocatable.clone());
    let cgroups = if simulated || !settings.cgroups_per_qos { None } else { Some(cgroups_of(&config, &node)?) };
    let limits = Limits {
        parallel: match (settings.serialize_image_pulls, settings.max_parallel_image_pulls) {
            (true, _) => Some(1),
            (false, most) => most.and_then(|most| usize::try_from(most).ok()),
        },
        qps: settings.registry_pull_qps,
        burst: settings.registry_burst,
    };
    let providers = match &config.credential_providers {
        Some((file, directory)) => {
            let accounts = Arc::new(Cluster { client: client.clone(), volumes: volumes.clone() });
            Some(Providers::new(file, directory, accounts, metrics.clone())?)
        }
        None => None,
    };
    let verifies = settings.feature_gates.get("KubeletEnsureSecretPulledImages") != Some(&false);
    let records = if simulated || !verifies { None } else { Some(pull_records(&config, &runtime).await?) };
    let user_namespaces = if simulated {
        None
    } else {
        Some(UserNamespaces::open(&config.root_dir, settings.user_namespaces.ids_per_pod, settings.max_pods)?)
    };
    let keyring = Keyring::of_node(&[&config.root_dir, Path::new("/root/.docker")]).await;
    let stats = stats::Provider::new(
        stats::Config {
            node_name: config.node_name.clone(),
            root_dir: config.root_dir.clone(),
            pod_logs_dir: settings.pod_logs_dir.clone().into(),
            cgroups: cgroups.clone(),
            memory_capacity: node.memory_capacity,
            volumes: Some(volumes.clone()),
        },
        runtime.clone(),
    );
    let core = Arc::new(Core {
        eviction: eviction::Manager::new(eviction_config(&settings)?, (!simulated).then(|| eviction::Ballast::new(&config.root_dir))),
        stats,
        metrics: metrics.clone(),
        images: Images::new(runtime.clone(), recorder.clone(), keyring, limits)
            .with_providers(providers)
            .with_records(records)
            .with_metrics(metrics),
        runtime,
        runtime_name: version.runtime_name.clone(),
        volumes,
        container_manager: Arc::new(ContainerManager::new(&config, client.clone(), &shutdown)),
        cgroups,
        recorder,
        statuses: statuses.clone(),
        probes,
        verdicts,
        node: RwLock::new(Arc::new(node)),
        host_ips: RwLock::new(host_ips),
        services: Informer::<Service>::start(Api::all(client.clone()), watcher::Config::default(), shutdown.clone()),
        runtime_classes: Informer::<RuntimeClass>::start(Api::all(client.clone()), watcher::Config::default(), shutdown.clone()),
        runtime_state: RuntimeState::default(),
        node_shutdown: node_shutdown::State::default(),
        user_namespaces,
        restarts: Mutex::new(Backoff::new(FIRST_RESTART_DELAY, settings.crash_loop_back_off.max_container_restart_period)),
        config,
    });
    pods.set_core(&core);
    let on_volumes = pods.clone();
    core.volumes.on_change(move |uid| on_volumes.sync(uid));
    let on_devices = pods.clone();
    core.container_manager.on_change(Arc::new(move |uid| on_devices.sync(uid)));
    if core.config.plugins {
        let reserved = status::reservations(&machine, &core.config.configuration);
        let memory = u64::try_from(machine.memory_bytes).unwrap_or(0);
        let cpus = tokio::task::spawn_blocking(move || Cpus::discover(Path::new("/sys"), memory)).await.unwrap_or_default();
        let started = core.container_manager.start(&core.config, cpus, &reserved, running(&core).await).await;
        started.map_err(Error::ContainerManager)?;
        core.volumes.set_plugin_handler("DevicePlugin", Arc::new(core.container_manager.devices.clone()));
        core.volumes.set_plugin_handler("DRAPlugin", Arc::new(core.container_manager.claims.drivers()));
    }
    let tasks = Tasks { core, client, pods, nodes, machine, pleg: pleg::Health::default(), shutdown };
    tasks.run().await
}

/// Everything that runs side by side.
struct Tasks {
    core: Arc<Core>,
    client: Client,
    pods: Pods,
    nodes: Informer<Node>,
    machine: Machine,
    pleg: pleg::Health,
    shutdown: Shutdown,
}

impl Tasks {
    async fn run(self) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        let Tasks { core, client, pods, nodes, machine, pleg, shutdown } = self;
        let node_name = core.config.node_name.clone();
        tasks.spawn(core.statuses.clone().run(shutdown.clone()));
        let (volumes, volumes_shutdown) = (core.volumes.clone(), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = volumes.run() => {}
                () = volumes_shutdown.cancelled() => {}
            }
        });
        let heart = Heart {
            client: client.clone(),
            node_name: node_name.clone(),
            duration_seconds: core.config.configuration.node_lease_duration_seconds,
        };
        tasks.spawn(heart.beat(shutdown.clone()));
        let task = NodeTask {
            core: core.clone(),
            client: client.clone(),
            machine,
            informer: nodes.clone(),
            told_pod_cidr: Mutex::default(),
            pleg: pleg.clone(),
        };
        tasks.spawn(task.run(shutdown.clone()));
        tasks.spawn(serve(core.clone(), pods.clone(), pleg.clone(), client.clone(), shutdown.clone()));
        let bound = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
        let api_pods = Informer::<Pod>::start(Api::all(client.clone()), bound, shutdown.clone());
        let (heard, active) = (api_pods.clone(), pods.clone());
        core.container_manager.set_active_pods(Arc::new(move || {
            let known = heard.has_synced() && heard.list().iter().all(|pod| crate::pod::is_mirror(pod) || active.knows(pod.uid()));
            (known && active.statics_are_known()).then(|| active.active().iter().map(|pod| pod.uid().to_owned()).collect())
        }));
        if core.config.plugins {
            let (managed, manager_shutdown) = (core.clone(), shutdown.clone());
            tasks.spawn(async move {
                let manager = managed.container_manager.clone();
                manager.run(&*managed.runtime, &managed.config.configuration, manager_shutdown).await;
            });
            let (manager, active, root) = (core.container_manager.clone(), pods.clone(), core.config.root_dir.clone());
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                if let Err(error) = pod_resources::serve(&root, manager, Arc::new(move || active.active()), shutdown).await {
                    tracing::error!(%error, "cannot tell who has which resources");
                }
            });
        }
        tasks.spawn(follow_pods(api_pods.clone(), pods.clone(), nodes.clone(), shutdown.clone()));
        let (clean_core, clean_pods, heard, clean_shutdown) = (core.clone(), pods.clone(), api_pods.clone(), shutdown.clone());
        tasks.spawn(async move {
            let ready = || heard.has_synced() && heard.list().iter().all(|pod| crate::pod::is_mirror(pod) || clean_pods.knows(pod.uid()));
            orphans::clean(&clean_core, &clean_pods, ready, clean_shutdown).await;
        });
        tasks.spawn(watch_runtime(core.clone(), pods.clone(), api_pods, pleg, shutdown.clone()));
        let statics = core.config.configuration.static_pod_path.clone();
        if statics.is_empty() {
            pods.statics_are_read();
        } else {
            let changed = Arc::new(Notify::new());
            let source = static_pods::Source {
                directory: statics.into(),
                period: core.config.configuration.file_check_frequency,
                node_name: node_name.clone(),
                pods: pods.clone(),
                changed: changed.clone(),
            };
            tasks.spawn(source.run(shutdown.clone()));
            let mirrors =
                Mirrors { client: client.clone(), node_name: node_name.clone(), nodes: nodes.clone(), pods: pods.clone(), changed };
            tasks.spawn(mirrors.run(shutdown.clone()));
        }
        let about = node::reference(&node_name, &node_name);
        let stopping = Evicting { core: core.clone(), pods: pods.clone() };
        let (settings, state, recorder) = (&core.config.configuration, core.node_shutdown.clone(), core.recorder.clone());
        if let Some(manager) = node_shutdown::Manager::new(settings, stopping, state, recorder, about, &core.config.root_dir) {
            tasks.spawn(manager.run(shutdown.clone()));
        }
        let evicting = Evicting { core: core.clone(), pods: pods.clone() };
        let evict_shutdown = shutdown.clone();
        tasks.spawn(async move {
            let core = evicting.core.clone();
            let about = node::reference(&core.config.node_name, &core.config.node_name);
            core.eviction.run(&evicting, &core.stats, &core.recorder, &about, evict_shutdown).await;
        });
        let (log_core, log_shutdown) = (core.clone(), shutdown.clone());
        let policy = container_logs::Policy::of(&core.config.configuration);
        tasks.spawn(async move { container_logs::rotate(&log_core, policy, log_shutdown).await });
        let policy = images::gc::Policy::of(&core.config.configuration);
        tasks.spawn(images::gc::run(core.clone(), policy, shutdown.clone()));
        let (gc_core, gc_shutdown) = (core.clone(), shutdown.clone());
        tasks.spawn(async move { container_gc::run(&gc_core, gc_shutdown).await });
        // A task that panicked leaves the others running; it is told in the log by its own name.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task of the kubelet has panicked");
            }
        }
        Ok(())
    }
}

/// Waits until the runtime answers; none if shutdown comes first.
async fn wait_for(runtime: &SharedRuntime, shutdown: &Shutdown) -> Result<Option<v1::VersionResponse>, Error> {
    let mut tries = 0;
    loop {
        match runtime.version().await {
            Ok(version) => return Ok(Some(version)),
            Err(error) if tries >= RUNTIME_TRIES => return Err(Error::Runtime(error)),
            Err(error) => tracing::debug!(%error, "the container runtime does not answer yet"),
        }
        tries += 1;
        tokio::select! {
            () = tokio::time::sleep(RUNTIME_WAIT) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// The facts of this host, corrected by the configuration.
async fn look_around(config: &Config) -> (Machine, container_config::Node, Vec<IpAddr>) {
    let settings = &config.configuration;
    let mut node = container_config::Node::of_this_host(&config.node_name, &config.root_dir);
    let machine = Machine::discover(&config.root_dir, &node);
    let host_ips = if config.node_ips.is_empty() { machine::own_address().into_iter().collect() } else { config.node_ips.clone() };
    node.host_ips = host_ips.iter().map(ToString::to_string).collect();
    node.cluster_dns.clone_from(&settings.cluster_dns);
    node.cluster_domain.clone_from(&settings.cluster_domain);
    node.host_dns = match settings.resolv_conf.as_str() {
        "" => None,
        path => {
            HostDns::read(Path::new(path)).inspect_err(|error| tracing::warn!(path, %error, "cannot read the resolver configuration")).ok()
        }
    };
    node.pod_logs_dir = settings.pod_logs_dir.clone().into();
    node.allocatable = status::allocatable(&machine, settings);
    node.cpu_cfs_quota = settings.cpu_cfs_quota;
    node.cpu_cfs_quota_period = settings.cpu_cfs_quota_period;
    node.seccomp_default = settings.seccomp_default;
    (machine, node, host_ips)
}

/// What is remembered of pulls.
async fn pull_records(config: &Config, runtime: &SharedRuntime) -> Result<PullRecords, Error> {
    let settings = &config.configuration;
    let policy = Policy::parse(&settings.image_pull_credentials_verification_policy, &settings.preloaded_images_verification_allowlist);
    let policy = policy.map_err(Error::PullRecords)?;
    let (root, images) = (config.root_dir.clone(), runtime.list_images(None).await.map_err(Error::Runtime)?);
    let opened = tokio::task::spawn_blocking(move || PullRecords::open(&root, policy, &images)).await;
    let opened = opened.map_err(|error| Error::PullRecords(error.to_string()))?;
    opened.map_err(|error| Error::PullRecords(error.to_string()))
}

fn eviction_config(settings: &KubeletConfiguration) -> Result<eviction::Config, Error> {
    let mut soft_grace = BTreeMap::new();
    for (signal, text) in &settings.eviction_soft_grace_period {
        let grace = apimachinery::time::parse_duration(text).map_err(Error::Eviction)?;
        soft_grace.insert(signal.clone(), Duration::from_nanos(u64::try_from(grace).unwrap_or(0)));
    }
    eviction::Config::parse(
        &eviction::effective_hard(&settings.eviction_hard, settings.merge_default_eviction_settings),
        &settings.eviction_soft,
        &soft_grace,
        &settings.eviction_minimum_reclaim,
        settings.eviction_pressure_transition_period,
        i64::from(settings.eviction_max_pod_grace_period),
    )
    .map_err(Error::Eviction)
}

fn cgroups_of(config: &Config, node: &container_config::Node) -> Result<Cgroups, Error> {
    let settings = &config.configuration;
    let root = if settings.cgroup_root.is_empty() { "/".to_owned() } else { settings.cgroup_root.clone() };
    let cgroups = Cgroups::new(cgroups::Config {
        mount_point: "/sys/fs/cgroup".into(),
        root,
        cpu_cfs_quota: settings.cpu_cfs_quota,
        cpu_cfs_quota_period_us: u64::try_from(settings.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000),
        pod_pids_limit: Some(settings.pod_pids_limit).filter(|limit| *limit > 0),
    })?;
    let amount = |name: &str| node.allocatable.get(name).map(container_config::pod_resources::parse);
    cgroups.ensure_node(amount("memory").map(|amount| amount.value()), amount("cpu").map(|amount| amount.milli_value()))?;
    Ok(cgroups)
}

/// The containers that run now, by their pods' uids and their names.
async fn running(core: &Core) -> BTreeSet<(String, String)> {
    let running = container_manager::running(&*core.runtime).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the container runtime does not tell what runs; pods with devices may not be let in again");
        Vec::new()
    });
    running.into_iter().map(|(pod, name, _)| (pod, name)).collect()
}

/// Hears of pods once the node is known, since they are let in by what the node says.
async fn follow_pods(api_pods: Informer<Pod>, pods: Pods, nodes: Informer<Node>, shutdown: Shutdown) {
    tokio::select! {
        () = nodes.synced() => {}
        () = shutdown.cancelled() => return,
    }
    api_pods.on_change(move |change| pods.api_change(change));
}

async fn watch_runtime(core: Arc<Core>, pods: Pods, api_pods: Informer<Pod>, health: pleg::Health, shutdown: Shutdown) {
    let orphans = Orphans::default();
    let changed = |uid: &str| pods.sync(uid);
    let listed = |uids: &BTreeSet<String>| {
        // Before the first list nobody can be said to be unknown.
        if api_pods.has_synced() && api_pods.list().iter().all(|pod| crate::pod::is_mirror(pod) || pods.knows(pod.uid())) {
            orphans.kill(&core, &pods, uids, &shutdown);
        }
    };
    pleg::run(&core, health, changed, listed, shutdown.clone()).await;
}

/// The kubelet's own API.
async fn serve(core: Arc<Core>, pods: Pods, pleg: pleg::Health, client: Client, shutdown: Shutdown) {
    let settings = &core.config.configuration;
    if !settings.enable_server {
        return;
    }
    if let Err(error) = try_serve(&core, pods, pleg, client, shutdown).await {
        let message = format!("cannot serve the kubelet's API: {error}");
        tracing::error!(%error, "cannot serve the kubelet's API");
        let about = node::reference(&core.config.node_name, &core.config.node_name);
        core.recorder.tell(client::events::Event::new(&about, Type::Warning, "KubeletSetupFailed", message));
    }
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
    #[error("address {0}")]
    Address(#[from] std::net::AddrParseError),
    #[error("port: {0}")]
    Bind(#[source] std::io::Error),
    #[error(transparent)]
    Tls(#[from] server::tls::Error),
}

async fn read(path: &str) -> Result<String, ServeError> {
    tokio::fs::read_to_string(path).await.map_err(|error| ServeError::File(path.to_owned(), error))
}

/// A certificate that the cluster signs, as soon as it does.
fn signed_certificate(core: &Arc<Core>, client: Client, shutdown: &Shutdown) -> Certificate {
    let certificate = Certificate::default();
    let (shown, node) = (certificate.clone(), core.clone());
    let serving = Serving {
        node_name: core.config.node_name.clone(),
        store: Store::serving(&core.config.cert_dir.clone().unwrap_or_else(|| core.config.root_dir.join("pki"))),
        client,
        names: move || Names::of(&status::addresses(&node.host_ips.read(), &node.config.hostname)),
        show: move |pair: &Pair| {
            let identity = Identity { certificate: pair.certificate.clone(), key: pair.key.clone() };
            shown.replace(&identity).map_err(|error| certificate::Error::Certificate(error.to_string()))
        },
    };
    tokio::spawn(serving.run(shutdown.clone()));
    certificate
}

async fn try_serve(core: &Arc<Core>, pods: Pods, pleg: pleg::Health, client: Client, shutdown: Shutdown) -> Result<(), ServeError> {
    let settings = &core.config.configuration;
    let certificate = if !settings.tls_cert_file.is_empty() {
        let certificate = read(&settings.tls_cert_file).await?;
        Certificate::of(&Identity { certificate, key: read(&settings.tls_private_key_file).await? })?
    } else if settings.server_tls_bootstrap {
        signed_certificate(core, client.clone(), &shutdown)
    } else {
        let ips = core.host_ips.read().clone();
        Certificate::of(&server::tls::self_signed(&core.config.node_name, &ips)?)?
    };
    let client_ca = match settings.authentication.x509.client_ca_file.as_str() {
        "" => None,
        path => Some(read(path).await?),
    };
    let webhook = &settings.authorization.webhook;
    let config = server::Config {
        anonymous: settings.authentication.anonymous.enabled,
        webhook_authentication: settings.authentication.webhook.enabled.then_some(settings.authentication.webhook.cache_ttl),
        authorization: match settings.authorization.mode {
            AuthorizationMode::AlwaysAllow => server::authorization::Mode::AlwaysAllow,
            AuthorizationMode::Webhook => {
                server::authorization::Mode::Webhook { allowed: webhook.cache_authorized_ttl, refused: webhook.cache_unauthorized_ttl }
            }
        },
        debugging_handlers: settings.enable_debugging_handlers,
        system_log_handler: settings.enable_system_log_handler,
        ..server::Config::new(certificate, client_ca)
    };
    let address: IpAddr = settings.address.parse()?;
    let listener = TcpListener::bind(SocketAddr::new(address, settings.port)).await.map_err(ServeError::Bind)?;
    let node = Arc::new(Served { core: core.clone(), pods, pleg });
    server::serve(listener, config, node, client, shutdown).await?;
    Ok(())
}
