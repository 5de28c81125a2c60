//! The API server as a component: from its configuration to a listener that serves.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admission::{Chain, namespace_lifecycle::NamespaceLifecycle};
use crate::api::Api;
use crate::backend::Backends;
use crate::catalog::{self, Catalog};
use crate::discovery::{self, Index};
use crate::filters::authentication::{self, Authenticator};
use crate::filters::authorization::{SystemMasters, Union};
use crate::flow_control::FlowControl;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::pki::{self, Pki};
use crate::registry;
use crate::storage::embedded::Embedded;
use crate::storage::{self, FieldOrder, JsonCodec, ResourceSpec, SelectableField, Storage, Store};
use crate::allocation::{self, Allocator};
use crate::{bootstrap, filters, server, tls};

/// What the API server is told at start. Field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the embedded store and the certificates live.
    pub data_dir: PathBuf,
    pub bind_address: IpAddr,
    /// 0 takes a free port.
    pub secure_port: u16,
    pub token_auth_file: Option<PathBuf>,
    pub anonymous_auth: bool,
    /// Names and addresses beyond the usual ones that the serving certificate is for.
    pub extra_sans: Vec<String>,
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
    Tokens(#[from] authentication::TokenFileError),
    #[error("listening on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("filling the cluster: {0}")]
    Bootstrap(apimachinery::status::Status),
}

/// A server that listens already.
pub struct Server {
    pub api: Arc<Api>,
    pub address: SocketAddr,
    listener: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    shutdown: watch::Receiver<bool>,
}

impl Server {
    /// Opens the store, loads every resource, fills an empty cluster, listens, and writes `kubeconfig` for the administrator.
    pub async fn start(config: &Config, shutdown: watch::Receiver<bool>) -> Result<Server, Error> {
        std::fs::create_dir_all(&config.data_dir).map_err(|source| Error::File { path: config.data_dir.clone(), source })?;
        let pki = Pki::open(&config.data_dir.join("pki"))?;
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&config.data_dir.join("store"))?);
        let storage = Storage::open(store, storage::Config::default()).await?;
        let catalog = load_catalog(&storage).await?;

        let address = SocketAddr::new(config.bind_address, config.secure_port);
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let tls = acceptor(config, &pki)?;

        let tokens = match &config.token_auth_file {
            Some(path) => authentication::read_token_file(path)?,
            None => Default::default(),
        };
        let api = Arc::new(Api {
            openapi: OpenApi::new(&registry::definitions(), apimachinery::schema::builtin(), discovery::documents::GIT_VERSION),
            discovery: ArcSwap::from_pointee(Index::new(discovery::builtin::group_versions(&registry::definitions()))),
            catalog: ArcSwap::from_pointee(catalog),
            storage,
            authenticator: Authenticator::new(tokens, Vec::new(), config.anonymous_auth),
            authorizer: Box::new(Union(vec![Box::new(SystemMasters)])),
            admission: Chain::new(vec![Box::new(NamespaceLifecycle)]),
            allocator: Allocator::default(),
            backends: Backends::new(&pki.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"])?)?,
            flow_control: FlowControl::default(),
            metrics: Metrics::default(),
            shutdown: shutdown.clone(),
        });
        bootstrap::run(&api).await.map_err(Error::Bootstrap)?;
        tokio::spawn(allocation::repair::run(api.clone()));
        write_kubeconfig(config, &pki, address)?;
        Ok(Server { api, address, listener, tls, shutdown })
    }

    /// Serves until the shutdown signal, then drains.
    pub async fn serve(self) {
        let api = self.api;
        let handler = move |request, peer| filters::serve(api.clone(), request, peer);
        server::serve(self.listener, self.tls, handler, self.shutdown).await;
    }
}

/// Resolves the built-in resources and loads their objects into memory.
async fn load_catalog(storage: &Storage) -> Result<Catalog, Error> {
    let types = apimachinery::schema::builtin();
    let hooks = registry::default_hooks();
    let hooks = apimachinery::schema::defaults::Hooks::new(types, &hooks).map_err(catalog::Error::UnknownHooks)?;
    let catalog = Catalog::builtin(types, &registry::definitions(), &registry::versioned(), hooks)?;
    for stored in catalog.stored() {
        let fields = stored
            .selectable
            .iter()
            .map(|(name, get)| {
                let get = *get;
                SelectableField { name: (&**name).into(), value: Arc::new(move |value| get(value)) }
            })
            .collect();
        let spec = ResourceSpec {
            prefix: (&*stored.prefix).into(),
            namespaced: stored.namespaced,
            order: FieldOrder::Declared,
            fields,
            codec: Arc::new(JsonCodec),
        };
        let cache = storage.register(spec).await?;
        // Set once: a stored resource is registered by this loop alone.
        let _ = stored.cache.set(cache);
    }
    Ok(catalog)
}

fn acceptor(config: &Config, pki: &Pki) -> Result<tokio_rustls::TlsAcceptor, Error> {
    let mut names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
            .map(str::to_owned)
            .to_vec();
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 96, 0, 1])];
    if !config.bind_address.is_unspecified() && !addresses.contains(&config.bind_address) {
        addresses.push(config.bind_address);
    }
    for san in &config.extra_sans {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(san.clone()),
        }
    }
    let identity = pki.serving(&names, &addresses)?;
    Ok(tls::acceptor(&identity.certificate, &identity.key, &pki.ca()?)?)
}

/// The address that clients on this machine use.
fn client_address(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port()) } else { address }
}

fn write_kubeconfig(config: &Config, pki: &Pki, address: SocketAddr) -> Result<(), Error> {
    let admin = pki.client("admin", "kubernetes-admin", &["system:masters"])?;
    let text = pki::kubeconfig(&format!("https://{}", client_address(address)), &pki.ca()?, "kubernetes-admin", &admin);
    pki::write_file(&kubeconfig_path(&config.data_dir), &text, true)?;
    Ok(())
}

/// Where the administrator's kubeconfig is.
pub fn kubeconfig_path(data_dir: &Path) -> PathBuf {
    data_dir.join("kubeconfig")
}
