//! The API server as a component: from its configuration to a listener that serves.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admission::{self, SelectionError};
use crate::aggregation::{self, Aggregation};
use crate::allocation::{self, Allocator, ports::PortRange};
use crate::api::{Api, StoreTimeouts, Told};
use crate::audit::{self, Auditor};
use crate::authentication::{self, Surroundings};
use crate::authorization::{self, Mode};
use crate::backend::{self, Backends};
use crate::catalog::{self, Catalog};
use crate::discovery::{self, Served};
use crate::encryption::{self, Encryption};
use crate::filters::authentication::{Authenticator, TokenFileError, TokenVerifier, read_token_file};
use crate::filters::browsers::Browsers;
use crate::filters::client_certificate::ClientCertificates;
use crate::filters::front_proxy;
use crate::filters::impersonation::Modes;
use crate::flow_control::FlowControl;
use crate::flow_control::in_flight::InFlight;
use crate::loopback::Loopback;
use crate::node_authorizer::NodeAuthorizer;
use crate::openapi::OpenApi;
use crate::parsed::Parsed;
use crate::pki::{self, Pki};
use crate::rbac::{Rbac, escalation::Escalation};
use crate::registry;
use crate::resource_metrics::{self, ResourceMetrics};
use crate::server::Tls;
use crate::storage::embedded::Embedded;
use crate::storage::encrypted::{Encrypted, Kind};
use crate::storage::etcd;
use crate::storage::{self, Codec, FieldOrder, JsonCodec, ResourceSpec, SelectableField, Storage, Store};
use crate::stored_form::StoredForm;
use crate::system::Reconciler;
use crate::system::service_cidr::ServiceRange;
use crate::tokens::bootstrap::Bootstrap;
use crate::tokens::verify::{Cached, KnownSignatures, Verifier};
use crate::tokens::{self, Issuer};
use crate::webhook_client::Connections;
use crate::{bootstrap, crd, filters, server, serving, system, tls};

/// What the API server is told at start. Field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the embedded store and the certificates live.
    pub data_dir: PathBuf,
    pub bind_address: IpAddr,
    /// 0 takes a free port.
    pub secure_port: u16,
    pub token_auth_file: Option<PathBuf>,
    /// Whose tokens are accepted besides service accounts', and who may be anonymous.
    pub authentication: authentication::Config,
    /// Who says what users may do.
    pub authorization: authorization::Config,
    pub tokens: tokens::Config,
    /// Let in those who show a bootstrap token.
    pub enable_bootstrap_token_auth: bool,
    /// Which admission plugins run, and their settings.
    pub admission: admission::Config,
    /// Names and addresses beyond the usual ones that the serving certificate is for.
    pub extra_sans: Vec<String>,
    /// The address that others in the cluster reach this server at; found out if absent.
    pub advertise_address: Option<IpAddr>,
    /// Where services get their addresses from: one range, or one of each family.
    pub service_cluster_ip_range: Vec<ServiceRange>,
    /// What services of type NodePort and LoadBalancer are given.
    pub service_node_port_range: PortRange,
    /// Where nodes serve the service `kubernetes`; 0 for nowhere.
    pub kubernetes_service_node_port: u16,
    /// Who keeps the endpoints of the service `kubernetes`; alone on its store this server does without leases.
    pub endpoint_reconciler: Reconciler,
    pub told: Told,
    /// How long the server goes on as before once it is told to stop, but that it says it is not ready.
    pub shutdown_delay_duration: Duration,
    /// The etcd that keeps the objects; the embedded store in the data directory if there is none.
    pub etcd: Option<etcd::Address>,
    /// How often history is compacted; zero for never.
    pub compaction_interval: Duration,
    /// What to serve with, a certificate chain and its key; made and kept in the data directory if absent.
    pub tls_files: Option<(PathBuf, PathBuf)>,
    /// What to serve with to clients that ask for other names: a chain, its key, and the names if not those of the certificate.
    pub tls_sni: Vec<SniFiles>,
    pub tls_settings: tls::Settings,
    /// How connections are served.
    pub connections: server::Settings,
    /// Who may certify users, besides the CA of the data directory.
    pub client_ca_file: Option<PathBuf>,
    /// Priority levels with fair queues; without, the next two are limits each, and 0 is none.
    pub enable_priority_and_fairness: bool,
    /// How many requests are worked at; the two add up to what priority levels share.
    pub max_requests_inflight: u32,
    pub max_mutating_requests_inflight: u32,
    /// How long a request may take that is no watch or the like.
    pub request_timeout: Duration,
    /// By when the store must answer for the server to be well, or ready.
    pub store_timeouts: StoreTimeouts,
    /// Let other processes listen at the same address and port.
    pub permit_port_sharing: bool,
    /// What browsers are told.
    pub browsers: Browsers,
    pub kubelets: Kubelets,
    pub front_proxies: FrontProxies,
    pub audit: audit::Config,
    pub encryption: encryption::Config,
    /// Serve metrics.k8s.io from what kubelets tell, while nobody else does.
    pub resource_metrics: bool,
}

/// `--tls-sni-cert-key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub names: Vec<String>,
}

impl std::str::FromStr for SniFiles {
    type Err = String;

    /// `certificate,key` or `certificate,key:name,name`.
    fn from_str(text: &str) -> Result<SniFiles, String> {
        let (files, names) = text.split_once(':').unwrap_or((text, ""));
        let Some((certificate, key)) = files.split_once(',').filter(|(_, key)| !key.contains(',')) else {
            return Err("expected comma separated certificate and key file paths".to_owned());
        };
        if certificate.trim().is_empty() || key.trim().is_empty() {
            return Err("expected comma separated certificate and key file paths".to_owned());
        }
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(SniFiles { certificate: certificate.trim().into(), key: key.trim().into(), names })
    }
}

/// Which front proxies are believed, and what this server shows when it is one itself. Field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct FrontProxies {
    /// `--requestheader-client-ca-file`; the CA of the data directory if absent.
    pub client_ca_file: Option<PathBuf>,
    /// Common names of proxies; any if empty, of the data directory's CA only this server's.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_headers_prefix: Vec<String>,
    /// `--proxy-client-cert-file` and `--proxy-client-key-file`; made and kept in the data directory if absent.
    pub proxy_client: Option<(PathBuf, PathBuf)>,
}

impl Default for FrontProxies {
    fn default() -> FrontProxies {
        let standard = front_proxy::Config::standard(String::new(), Vec::new());
        FrontProxies {
            client_ca_file: None,
            allowed_names: standard.allowed_names,
            username_headers: standard.username_headers,
            uid_headers: standard.uid_headers,
            group_headers: standard.group_headers,
            extra_headers_prefix: standard.extra_headers_prefix,
            proxy_client: None,
        }
    }
}

/// How kubelets are reached.
#[derive(Clone, Debug, Default)]
pub struct Kubelets {
    /// Who certifies kubelets; they may show what they like if there is none.
    pub certificate_authority: Option<PathBuf>,
    /// The certificate that kubelets are shown and its key; made and kept in the data directory if absent.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Which of a node's addresses are tried, best first; see [`backend::PREFERRED_ADDRESS_TYPES`] if empty.
    pub preferred_address_types: Vec<String>,
}

/// Why the API server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pki(#[from] pki::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Store(#[from] storage::StoreError),
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    #[error(transparent)]
    Admission(#[from] SelectionError),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error(transparent)]
    Encryption(#[from] encryption::Error),
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    #[error(transparent)]
    Authentication(#[from] authentication::Error),
    #[error(transparent)]
    Authorization(#[from] authorization::Error),
    #[error("client CA: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
    #[error(transparent)]
    Issuer(#[from] tokens::Error),
    #[error("listening on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("invalid configuration: MaxRequestsInFlight={0} and MaxMutatingRequestsInFlight={1}; they must add up to something positive")]
    NoSeats(u32, u32),
    #[error(
        "--requestheader-client-ca-file and --client-ca-file contain overlapping certificates; --requestheader-allowed-names must be specified to ensure regular client certificates cannot set authenticating proxy headers for arbitrary users"
    )]
    OverlappingAuthorities,
    #[error("stopped before it had started")]
    Stopped,
    #[error("filling the cluster: {0}")]
    Bootstrap(apimachinery::status::Status),
}

/// A server that listens already.
pub struct Server {
    pub api: Arc<Api>,
    pub address: SocketAddr,
    listener: TcpListener,
    tls: Tls,
    connections: server::Settings,
    /// Ends when clients are led here no more.
    found: JoinHandle<()>,
    shutdown: watch::Receiver<bool>,
}

impl Server {
    /// Opens the store, loads every resource, fills an empty cluster, listens, and writes `kubeconfig` for the administrator.
    ///
    /// `stop` turns true when the server is to end; see [`Config::shutdown_delay_duration`].
    pub async fn start(config: &Config, stop: watch::Receiver<bool>) -> Result<Server, Error> {
        let shutdown = after(stop.clone(), config.shutdown_delay_duration);
        let seats = config.max_requests_inflight.saturating_add(config.max_mutating_requests_inflight);
        if seats == 0 && config.enable_priority_and_fairness {
            return Err(Error::NoSeats(config.max_requests_inflight, config.max_mutating_requests_inflight));
        }
        let audit = Auditor::start(&config.audit).await?;
        std::fs::create_dir_all(&config.data_dir).map_err(|source| Error::File { path: config.data_dir.clone(), source })?;
        let pki = Pki::open(&config.data_dir.join("pki"))?;
        let store: Arc<dyn Store> = match &config.etcd {
            Some(address) => tokio::select! {
                etcd = address.connect() => Arc::new(etcd?),
                () = stopped(stop.clone()) => return Err(Error::Stopped),
            },
            None => Arc::new(Embedded::open(&store_path(&config.data_dir))?),
        };
        let encryption = Encryption::start(&config.encryption, shutdown.clone()).await?;
        let root = config.etcd.as_ref().map_or("/registry", |address| &address.prefix);
        let store = Arc::new(Encrypted::new(store, encryption.clone(), root));
        let limits = storage::Config { compaction_interval: config.compaction_interval, ..storage::Config::default() };
        let storage = Storage::open(store, limits).await?;
        let catalog = load_catalog(&storage, config.etcd.is_some()).await?;

        let address = SocketAddr::new(config.bind_address, config.secure_port);
        let listener = listen(address, config.permit_port_sharing).map_err(|source| Error::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let tls = Tls::new(serving::config(config, &pki)?);

        let static_tokens = match &config.token_auth_file {
            Some(path) => read_token_file(path)?,
            None => Default::default(),
        };
        let pki_dir = config.data_dir.join("pki");
        let issuer = tokio::select! {
            issuer = Issuer::start(&config.tokens, &pki_dir) => issuer?,
            () = stopped(stop.clone()) => return Err(Error::Stopped),
        };
        let mut verifiers: Vec<Box<dyn TokenVerifier>> = Vec::new();
        if config.enable_bootstrap_token_auth {
            verifiers.push(Box::new(Bootstrap::new(&catalog, issuer.audiences.clone())));
        }
        let (last_used, used_tokens) = tokens::legacy::last_used();
        let verifier = Verifier { issuer: issuer.clone(), objects: Cached::new(&catalog), last_used, known: KnownSignatures::default() };
        verifiers.push(Box::new(verifier));
        let (rbac, nodes, webhooks) = (Rbac::default(), NodeAuthorizer::default(), Arc::<Connections>::default());
        let parts = authorization::Parts { rbac: rbac.clone(), nodes: nodes.clone(), connections: webhooks.clone() };
        let authorizer = authorization::start(&config.authorization, parts, &shutdown)?;
        let around = Surroundings {
            own_issuers: &issuer.issuers,
            audiences: &issuer.audiences,
            always_allow: config.authorization.authorization_mode.contains(&Mode::AlwaysAllow),
            connections: &webhooks,
            shutdown: &shutdown,
        };
        let settled = authentication::start(&config.authentication, &around)?;
        verifiers.extend(settled.verifiers);
        let has_nodes = authorizer.has(Mode::Node);
        let mut builtin = discovery::builtin::group_versions(&registry::definitions());
        builtin.extend(config.resource_metrics.then(resource_metrics::group_version));
        let api = Arc::new(Api {
            openapi: OpenApi::new(&registry::definitions(), apimachinery::schema::builtin(), discovery::documents::EMULATED_VERSION),
            discovery: Served::new(builtin),
            catalog: ArcSwap::from_pointee(catalog),
            storage,
            authenticator: Authenticator::new(static_tokens, verifiers, settled.anonymous, issuer.audiences.clone())
                .with_front_proxy(serving::front_proxy(config, &pki)?)
                .with_client_certificates(ClientCertificates::certified_by(tls::roots(&serving::client_ca(config, &pki)?)?)?),
            authorizer: authorizer.clone(),
            issuer,
            admission: config.admission.chain(&webhooks)?.and(Escalation { rbac: rbac.clone(), authorizer }),
            audit,
            encryption,
            allocator: Allocator::new(config.service_node_port_range),
            backends: backends(&config.kubelets, &pki)?,
            webhooks,
            aggregation: Aggregation::new(&proxy_client(config, &pki)?)?,
            resource_metrics: config.resource_metrics.then(ResourceMetrics::default),
            parsed: Parsed::default(),
            flow_control: match config.enable_priority_and_fairness {
                true => FlowControl::with_seats(seats),
                false => FlowControl::counting(InFlight::new(config.max_requests_inflight, config.max_mutating_requests_inflight)),
            },
            browsers: config.browsers.clone(),
            request_timeout: config.request_timeout,
            store_timeouts: config.store_timeouts,
            told: config.told.clone(),
            impersonation: Modes::default(),
            metrics: Arc::default(),
            leaving: stop,
            shutdown: shutdown.clone(),
        });
        bootstrap::run(&api).await.map_err(Error::Bootstrap)?;
        let catalog = api.catalog.load_full();
        rbac.follow(&catalog, shutdown.clone());
        if has_nodes {
            nodes.follow(&catalog, shutdown.clone());
        }
        let settings = settings(config, &pki, address)?;
        system::prepare(&api, &settings).await.map_err(Error::Bootstrap)?;
        crd::follow::start(&api).await.map_err(Error::Bootstrap)?;
        if config.resource_metrics {
            resource_metrics::register::start(&Loopback::new(&api)).await.map_err(Error::Bootstrap)?;
        }
        aggregation::follow::start(&api);
        let found = system::spawn(&api, &settings);
        tokio::spawn(allocation::repair::run(api.clone()));
        tokio::spawn(tokens::legacy::write(api.clone(), used_tokens));
        write_kubeconfig(config, &pki, address)?;
        serving::follow(config, &api, &tls, &shutdown);
        Ok(Server { api, address, listener, tls, connections: config.connections.clone(), found, shutdown })
    }

    /// Serves until the shutdown signal, then drains.
    pub async fn serve(self) {
        let api = self.api;
        let audit = api.audit.clone();
        let handler = move |request, peer| filters::serve(api.clone(), request, peer);
        server::serve(self.listener, self.tls, self.connections, handler, self.shutdown).await;
        if let Err(error) = self.found.await {
            tracing::error!(%error, "whoever keeps the service kubernetes has ended badly");
        }
        if let Some(audit) = audit {
            audit.flush().await;
        }
    }
}

/// A listener at an address that may have been used a moment ago, and that others may use too if so wanted.
fn listen(address: SocketAddr, is_shared: bool) -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 1024;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if is_shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The same signal, so much later.
fn after(mut signal: watch::Receiver<bool>, delay: Duration) -> watch::Receiver<bool> {
    if delay.is_zero() {
        return signal;
    }
    let (late, delayed) = watch::channel(false);
    tokio::spawn(async move {
        // Without anybody who could give the signal, the end is now.
        if signal.wait_for(|stop| *stop).await.is_ok() {
            tracing::info!(?delay, "told to stop: not ready any more, and serving until the delay is over");
            tokio::time::sleep(delay).await;
        }
        late.send_replace(true);
    });
    delayed
}

/// Waits for the signal to stop, or for nobody to be left who could give it.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error says that the sender is gone.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// What the objects in the cluster say about this server.
fn settings(config: &Config, pki: &Pki, address: SocketAddr) -> Result<system::Settings, Error> {
    let advertise_address = config.advertise_address.or_else(|| advertised(config.bind_address));
    if advertise_address.is_none() {
        tracing::warn!("no address to advertise: the service kubernetes has no endpoints; see --advertise-address");
    }
    let hostname = system::identity_lease::hostname();
    Ok(system::Settings {
        advertise_address,
        port: address.port(),
        node_port: config.kubernetes_service_node_port,
        reconciler: match config.endpoint_reconciler {
            Reconciler::Leases if config.etcd.is_none() => Reconciler::Own,
            chosen => chosen,
        },
        service_ranges: config.service_cluster_ip_range.clone(),
        client_ca: serving::client_ca(config, pki)?,
        front_proxies: serving::front_proxy_config(config, pki)?,
        hostname,
    })
}

/// The bind address if others can reach it, else the address that this machine has towards its default route.
pub(crate) fn advertised(bind_address: IpAddr) -> Option<IpAddr> {
    if !bind_address.is_unspecified() && !bind_address.is_loopback() {
        return Some(bind_address);
    }
    // Connecting a UDP socket sends nothing; it only chooses the route. The address is from the range for documentation.
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((std::net::Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Resolves the built-in resources and loads their objects into memory. `shared`: the store is one that upstream reads too.
async fn load_catalog(storage: &Storage, shared: bool) -> Result<Catalog, Error> {
    let types = apimachinery::schema::builtin();
    let hooks = registry::default_hooks();
    let hooks = apimachinery::schema::defaults::Hooks::new(types, &hooks).map_err(catalog::Error::UnknownHooks)?;
    let catalog = Catalog::builtin(types, &registry::definitions(), &registry::versioned(), hooks)?;
    for stored in catalog.stored() {
        let fields = stored.selectable.iter().map(|(name, get)| SelectableField { name: (&**name).into(), value: get.clone() }).collect();
        let codec: Arc<dyn Codec> = if shared { Arc::new(StoredForm::of(&catalog, &stored)) } else { Arc::new(JsonCodec) };
        let spec = ResourceSpec {
            prefix: (&*stored.prefix).into(),
            kind: Kind { group: (&*stored.group).into(), resource: (&*stored.resource).into() },
            namespaced: stored.namespaced,
            order: FieldOrder::Declared,
            fields,
            embedded: stored.embedded.clone(),
            codec,
        };
        let cache = storage.register(spec).await?;
        // Set once: a stored resource is registered by this loop alone.
        let _ = stored.cache.set(cache);
    }
    Ok(catalog)
}

/// The connections to kubelets and what is behind them.
fn backends(kubelets: &Kubelets, pki: &Pki) -> Result<Backends, Error> {
    let client = match &kubelets.client {
        Some((certificate, key)) => pki::Identity { certificate: read_file(certificate)?, key: read_file(key)? },
        None => pki.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"])?,
    };
    let types = match kubelets.preferred_address_types.as_slice() {
        [] => backend::PREFERRED_ADDRESS_TYPES.map(str::to_owned).to_vec(),
        types => types.to_vec(),
    };
    let certificate_authority = kubelets.certificate_authority.as_deref().map(read_file).transpose()?;
    Ok(Backends::new(&backend::Kubelets { client, certificate_authority, preferred_address_types: types })?)
}

/// What this server shows extension API servers.
fn proxy_client(config: &Config, pki: &Pki) -> Result<pki::Identity, Error> {
    match &config.front_proxies.proxy_client {
        Some((certificate, key)) => Ok(pki::Identity { certificate: read_file(certificate)?, key: read_file(key)? }),
        None => Ok(pki.front_proxy_client()?),
    }
}

pub(crate) fn read_file(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// The address that clients on this machine use.
fn client_address(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port()) } else { address }
}

fn write_kubeconfig(config: &Config, pki: &Pki, address: SocketAddr) -> Result<(), Error> {
    let admin = pki.client("admin", "kubernetes-admin", &["system:masters"])?;
    let mut ca = pki.ca()?;
    if let Some((certificate, _)) = &config.tls_files {
        // Whoever issued it, this very chain is what the administrator's client will be shown.
        ca = format!("{}\n{}", ca.trim_end(), read_file(certificate)?);
    }
    let text = pki::kubeconfig(&format!("https://{}", client_address(address)), &ca, "kubernetes-admin", &admin);
    pki::write_file(&kubeconfig_path(&config.data_dir), &text, true)?;
    Ok(())
}

/// Where the administrator's kubeconfig is.
pub fn kubeconfig_path(data_dir: &Path) -> PathBuf {
    data_dir.join("kubeconfig")
}

/// Where the embedded store is.
pub fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_shared_by_those_who_all_want_to() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = listen(any, true).unwrap();
        let address = first.local_addr().unwrap();
        listen(address, true).unwrap();
        assert_eq!(listen(address, false).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        let alone = listen(any, false).unwrap();
        assert_eq!(listen(alone.local_addr().unwrap(), true).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
