//! The drivers on this node: whoever puts a socket into `<root dir>/plugins_registry` is asked what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use kube::Client;
use notify::Watcher;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::driver::{Driver, Socket};
use super::messages::RegistrationStatus;
use super::node_info;

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
    drivers: RwLock<BTreeMap<String, Driver>>,
    /// The names of the drivers behind the sockets.
    sockets: Mutex<BTreeMap<PathBuf, String>>,
}

impl Registry {
    pub fn new(root_dir: &Path, node_name: &str, client: Client) -> Registry {
        let directory = root_dir.join("plugins_registry");
        let node_name = node_name.to_owned();
        Registry { shared: Arc::new(Shared { directory, node_name, client, drivers: RwLock::default(), sockets: Mutex::default() }) }
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
        let known: BTreeMap<PathBuf, String> = self.shared.sockets.lock().clone();
        for (socket, name) in known.iter().filter(|(socket, _)| !found.contains(*socket)) {
            self.shared.sockets.lock().remove(socket);
            self.shared.drivers.write().remove(name);
            tracing::info!(driver = name, "a CSI driver has gone");
            if let Err(error) = node_info::tell(&self.shared.client, &self.shared.node_name, name, None).await {
                tracing::warn!(driver = name, error, "cannot tell that a CSI driver has gone");
            }
        }
        for socket in found.iter().filter(|socket| !known.contains_key(*socket)) {
            match self.register(socket).await {
                Ok(name) => {
                    tracing::info!(driver = name, "a CSI driver has registered itself");
                    self.shared.sockets.lock().insert(socket.clone(), name);
                }
                Err(error) => tracing::warn!(socket = %socket.display(), error, "cannot register a plugin"),
            }
        }
    }

    async fn register(&self, path: &Path) -> Result<String, String> {
        let registrar = Socket::at(path);
        let info = registrar.plugin_info().await?;
        let registered = match info.kind.as_str() {
            "CSIPlugin" => self.add(&info.name, &info.endpoint, &info.supported_versions).await,
            other => Err(format!("no handler registered for plugin type: {other} at socket {}", path.display())),
        };
        let error = registered.as_ref().err().cloned().unwrap_or_default();
        registrar.notify(RegistrationStatus { plugin_registered: registered.is_ok(), error }).await?;
        registered.map(|()| info.name)
    }

    async fn add(&self, name: &str, endpoint: &str, versions: &[String]) -> Result<(), String> {
        if !versions.iter().any(|version| version.trim_start_matches('v').split('.').next() == Some("1")) {
            return Err(format!(
                "validation failed for CSI Driver {name} at endpoint {endpoint}: none of the CSI versions reported by this driver are supported"
            ));
        }
        let socket = Socket::at(Path::new(endpoint));
        let info = socket.node_info().await.map_err(|error| format!("error getting node info: {error}"))?;
        let capabilities = socket.capabilities().await?;
        node_info::tell(&self.shared.client, &self.shared.node_name, name, Some(&info)).await?;
        self.shared.drivers.write().insert(name.to_owned(), Driver { socket, capabilities });
        Ok(())
    }
}

fn sockets_below(directory: &Path) -> BTreeSet<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = BTreeSet::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_socket() => drop(found.insert(entry.path())),
                _ => {}
            }
        }
    }
    found
}
