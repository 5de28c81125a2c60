//! The drivers on this node: whoever puts a socket into `<root dir>/plugins_registry` is asked what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use client::Shutdown;
use kube::Client;
use notify::Watcher;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::driver::{Driver, Socket};
use super::messages::RegistrationStatus;
use super::node_info;
use crate::instruments::Instruments;
use crate::plugin_watcher::Handler;

/// How often the directory is read although nothing was told, and a failed registration is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the node's object is asked for while it is not there.
const NODE_AGAIN: Duration = Duration::from_secs(2);

/// Who is registered. Clones are the same.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    node_name: String,
    client: Client,
    metrics: Instruments,
    drivers: RwLock<BTreeMap<String, Driver>>,
    /// Who takes plugins that are no CSI drivers, by their kind.
    handlers: RwLock<BTreeMap<&'static str, Arc<dyn Handler>>>,
    sockets: Mutex<BTreeMap<PathBuf, Plugin>>,
}

/// Tells a socket from one that took its place: its inode, and when that was made.
type Identity = (u64, Option<SystemTime>);

/// What is behind a socket.
#[derive(Clone, Debug)]
struct Plugin {
    kind: String,
    name: String,
    endpoint: String,
    identity: Identity,
}

impl Registry {
    pub fn new(root_dir: &Path, node_name: &str, client: Client, metrics: Instruments) -> Registry {
        let directory = root_dir.join("plugins_registry");
        let node_name = node_name.to_owned();
        let (drivers, handlers, sockets) = (RwLock::default(), RwLock::default(), Mutex::default());
        Registry { shared: Arc::new(Shared { directory, node_name, client, metrics, drivers, handlers, sockets }) }
    }

    pub fn set_handler(&self, kind: &'static str, handler: Arc<dyn Handler>) {
        self.shared.handlers.write().insert(kind, handler);
    }

    pub fn driver(&self, name: &str) -> Result<Driver, String> {
        let drivers = self.shared.drivers.read();
        drivers.get(name).cloned().ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// Follows the directory until shutdown.
    pub async fn run(&self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn follow(&self) {
        while let Err(error) = node_info::ensure(&self.shared.client, &self.shared.node_name).await {
            tracing::debug!(error, "the CSINode cannot be made yet");
            tokio::time::sleep(NODE_AGAIN).await;
        }
        let directory = self.shared.directory.clone();
        if let Err(error) = tokio::fs::create_dir_all(&directory).await {
            tracing::error!(directory = %directory.display(), %error, "no driver can register itself");
            return;
        }
        // One word is enough: whoever hears it looks at everything.
        let (teller, mut told) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Looking into the directory is an event too, and must not be a reason to look again.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = teller.try_send(());
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&directory, notify::RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watching {
            tracing::warn!(%error, "drivers are found only by looking now and then");
        }
        loop {
            self.look().await;
            // Without a watcher the channel is closed.
            tokio::select! {
                Some(()) = told.recv() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Registers who is new, forgets who is gone.
    pub async fn look(&self) {
        let found = sockets_below(&self.shared.directory);
        let known: BTreeMap<PathBuf, Plugin> = self.shared.sockets.lock().clone();
        for (socket, plugin) in known.iter().filter(|(socket, plugin)| found.get(*socket) != Some(&plugin.identity)) {
            self.shared.sockets.lock().remove(socket);
            tracing::info!(kind = plugin.kind, name = plugin.name, "a plugin has gone");
            self.forget(plugin).await;
        }
        for (socket, identity) in &found {
            if self.shared.sockets.lock().contains_key(socket) {
                continue;
            }
            match self.register(socket, *identity).await {
                Ok(plugin) => {
                    tracing::info!(kind = plugin.kind, name = plugin.name, "a plugin has registered itself");
                    self.shared.sockets.lock().insert(socket.clone(), plugin);
                }
                Err(error) => tracing::warn!(socket = %socket.display(), error, "cannot register a plugin"),
            }
        }
    }

    fn handler(&self, kind: &str) -> Option<Arc<dyn Handler>> {
        self.shared.handlers.read().get(kind).cloned()
    }

    async fn forget(&self, plugin: &Plugin) {
        let Plugin { kind, name, endpoint, .. } = plugin;
        if let Some(handler) = self.handler(kind) {
            handler.deregister(name, endpoint).await;
            return;
        }
        self.shared.drivers.write().remove(name);
        if let Err(error) = node_info::tell(&self.shared.client, &self.shared.node_name, name, None).await {
            tracing::warn!(driver = name, error, "cannot tell that a CSI driver has gone");
        }
    }

    async fn register(&self, path: &Path, identity: Identity) -> Result<Plugin, String> {
        let registrar = Socket::at(path);
        let info = registrar.plugin_info().await?;
        // Who names no place is reached where he registered himself.
        let endpoint = if info.endpoint.is_empty() { path.to_string_lossy().into_owned() } else { info.endpoint.clone() };
        let registered = match (info.kind.as_str(), self.handler(&info.kind)) {
            ("CSIPlugin", _) => self.add(&info.name, &endpoint, &info.supported_versions).await,
            (_, Some(handler)) => handler.register(&info.name, &endpoint, &info.supported_versions).await,
            (other, None) => Err(format!("no handler registered for plugin type: {other} at socket {}", path.display())),
        };
        let error = registered.as_ref().err().cloned().unwrap_or_default();
        registrar.notify(RegistrationStatus { plugin_registered: registered.is_ok(), error }).await?;
        registered.map(|()| Plugin { kind: info.kind, name: info.name, endpoint, identity })
    }

    async fn add(&self, name: &str, endpoint: &str, versions: &[String]) -> Result<(), String> {
        if !versions.iter().any(|version| version.trim_start_matches('v').split('.').next() == Some("1")) {
            return Err(format!(
                "validation failed for CSI Driver {name} at endpoint {endpoint}: none of the CSI versions reported by this driver are supported"
            ));
        }
        let socket = Socket::at(Path::new(endpoint)).measured(name, self.shared.metrics.clone());
        let info = socket.node_info().await.map_err(|error| format!("error getting node info: {error}"))?;
        let capabilities = socket.capabilities().await?;
        node_info::tell(&self.shared.client, &self.shared.node_name, name, Some(&info)).await?;
        self.shared.drivers.write().insert(name.to_owned(), Driver { socket, capabilities });
        Ok(())
    }
}

/// The sockets below a directory.
fn sockets_below(directory: &Path) -> BTreeMap<PathBuf, Identity> {
    use std::os::unix::fs::{DirEntryExt, FileTypeExt};
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_socket() => {
                    let made = entry.metadata().and_then(|metadata| metadata.created()).ok();
                    found.insert(entry.path(), (entry.ino(), made));
                }
                _ => {}
            }
        }
    }
    found
}
