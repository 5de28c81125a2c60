//! How plugins come and go: the registration service, and the stream of devices of each.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::validation::is_qualified_name;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::net::UnixStream;
use tonic::Status;

use super::messages::{Empty, ListAndWatchResponse, Options, RegisterRequest, VERSION};
use super::{Devices, REGISTRATIONS, checkpoint};
use crate::grpc::server::{self, Answer, Service};
use crate::grpc::{Socket, told};

/// The registration service's name among the plugins' sockets.
const SOCKET: &str = "kubelet.sock";
/// A plugin that registers itself must be listening within this, as upstream.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
const DIAL_AGAIN: Duration = Duration::from_millis(50);
/// Options are small talk.
const OPTIONS_LIMIT: Duration = Duration::from_secs(30);

/// Makes the directory, takes sockets of before away, and serves until shutdown.
pub(super) async fn start(devices: Devices) -> std::io::Result<()> {
    let directory = devices.shared.directory.clone();
    let path = directory.join(SOCKET);
    let cleaned = tokio::task::spawn_blocking(move || {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&directory)?;
        clean(&directory)
    });
    cleaned.await.map_err(std::io::Error::other)??;
    let listener = server::listen(&path)?;
    let shutdown = devices.shared.shutdown.clone();
    tokio::spawn(server::serve(listener, Arc::new(Registration(devices)), shutdown));
    Ok(())
}

/// Plugins see their socket go, and register themselves again.
fn clean(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() != checkpoint::FILE && entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether plugins may give a resource of this name.
fn is_extended_resource(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    !is_native && !name.starts_with("requests.") && is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Why a plugin cannot be registered.
fn refusal(version: &str, resource: &str) -> Option<String> {
    if version != VERSION {
        return Some(format!("requested API version {version:?} is not supported by kubelet. Supported version is [{VERSION:?}]"));
    }
    (!is_extended_resource(resource)).then(|| format!("the ResourceName {resource:?} is invalid"))
}

struct Registration(Devices);

impl Service for Registration {
    fn call(self: Arc<Self>, path: String, request: Bytes) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            if path != "/v1beta1.Registration/Register" {
                return server::unknown(&path);
            }
            let request: RegisterRequest = server::read(request)?;
            let resource = &request.resource_name;
            let devices = &self.0;
            let refused = refusal(&request.version, resource);
            // Names of nobody's choice would be series without end.
            if refused.is_none() {
                devices.shared.metrics.count(&REGISTRATIONS, &[resource]);
            }
            let registered = match refused {
                Some(refusal) => Err(refusal),
                None => devices.connect(resource, &devices.shared.directory.join(&request.endpoint)).await,
            };
            registered.map_err(|error| {
                tracing::warn!(resource, endpoint = request.endpoint, error, "a device plugin cannot register itself");
                Status::unknown(error)
            })?;
            server::one(&Empty {})
        })
    }
}

/// Waits until somebody listens.
async fn dial(path: &Path) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Ok(_) => return Ok(()),
            Err(_) if began.elapsed() < DIAL_LIMIT => tokio::time::sleep(DIAL_AGAIN).await,
            Err(error) => return Err(format!("failed to dial device plugin: {error}")),
        }
    }
}

impl Devices {
    /// Connects to a plugin and follows its list of devices.
    pub(super) async fn connect(&self, resource: &str, path: &Path) -> Result<(), String> {
        dial(path).await?;
        let socket = Socket::at(path);
        let options = socket.call("/v1beta1.DevicePlugin/GetDevicePluginOptions", Empty {}, Some(OPTIONS_LIMIT)).await;
        let options: Options = options.map_err(|status| format!("failed to get device plugin options: {}", told(&status)))?;
        let connection = self.shared.plugins.lock().connect(resource, path, socket.clone(), options);
        tracing::info!(resource, socket = %path.display(), ?options, "a device plugin has registered itself");
        let (devices, resource) = (self.clone(), resource.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = devices.follow(&resource, socket, connection) => {}
                () = devices.shared.shutdown.cancelled() => return,
            }
            devices.disconnect(&resource, connection);
        });
        Ok(())
    }

    /// Takes a plugin's lists until it ends, or another has taken its place.
    async fn follow(&self, resource: &str, socket: Socket, connection: u64) {
        let mut lists = match socket.stream::<_, ListAndWatchResponse>("/v1beta1.DevicePlugin/ListAndWatch", Empty {}).await {
            Ok(lists) => lists,
            Err(status) => {
                tracing::warn!(resource, error = told(&status), "a device plugin does not list its devices");
                return;
            }
        };
        loop {
            let list = match lists.message().await {
                Ok(Some(list)) => list,
                Ok(None) => return tracing::info!(resource, "a device plugin has ended its list of devices"),
                Err(status) => return tracing::warn!(resource, error = told(&status), "a device plugin is gone"),
            };
            if !self.shared.plugins.lock().is_connected(resource, connection) {
                return;
            }
            tracing::debug!(resource, devices = list.devices.len(), "a device plugin has told its devices");
            let concerned = self.shared.ledger.lock().update(resource, list.devices);
            self.tell(&concerned);
            self.save_or_tell().await;
        }
    }

    fn disconnect(&self, resource: &str, connection: u64) {
        if self.shared.plugins.lock().disconnect(resource, connection, Instant::now()) {
            self.shared.ledger.lock().mark_unhealthy(resource);
            tracing::info!(resource, "the last device plugin of a resource is gone");
        }
    }
}

/// Plugins that register themselves in the directory of all plugins instead.
impl crate::plugin_watcher::Handler for Devices {
    fn register<'a>(&'a self, name: &'a str, endpoint: &'a str, versions: &'a [String]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            if !versions.iter().any(|version| version == VERSION) {
                return Err(format!("manager version, {VERSION}, is not among plugin supported versions [{}]", versions.join(" ")));
            }
            if !is_extended_resource(name) {
                return Err(format!("invalid name of device plugin socket: the ResourceName {name:?} is invalid"));
            }
            self.connect(name, Path::new(endpoint)).await
        })
    }

    fn deregister<'a>(&'a self, name: &'a str, endpoint: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let connection = self.shared.plugins.lock().connection_at(name, Path::new(endpoint));
            if let Some(connection) = connection {
                self.disconnect(name, connection);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_register_himself_is_told_why() {
        for (version, resource, expect) in [
            (VERSION, "example.com/gpu", None),
            (
                "v1alpha1",
                "example.com/gpu",
                Some("requested API version \"v1alpha1\" is not supported by kubelet. Supported version is [\"v1beta1\"]"),
            ),
            (VERSION, "gpu", Some("the ResourceName \"gpu\" is invalid")),
            (VERSION, "kubernetes.io/gpu", Some("the ResourceName \"kubernetes.io/gpu\" is invalid")),
            (VERSION, "requests.example.com/gpu", Some("the ResourceName \"requests.example.com/gpu\" is invalid")),
            (VERSION, "example.com/_", Some("the ResourceName \"example.com/_\" is invalid")),
        ] {
            assert_eq!(refusal(version, resource).as_deref(), expect, "{resource}");
        }
    }
}
