//! The drivers of dynamic resources on this node: who registers himself, whether he is there, and what is left of him.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Shutdown;
use futures::future::BoxFuture;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;

use super::messages::{self, ClaimsRequest, Empty};
use crate::grpc::{Socket, told};
use crate::metrics::{Family, Kind, Metrics};

/// A driver has so long for a call, as upstream.
const CALL_LIMIT: Duration = Duration::from_secs(45);
/// What a driver offers stays for so long without it.
const WIPING_DELAY: Duration = Duration::from_secs(30);
/// How soon a driver that is not there is looked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// And its health asked for again.
const HEALTH_AGAIN: Duration = Duration::from_secs(5);
/// Waits between tries to delete what a driver has offered.
const FIRST_WIPE_RETRY: Duration = Duration::from_secs(1);
const LAST_WIPE_RETRY: Duration = Duration::from_secs(300);

/// Bounds of upstream's histograms of dynamic resources, in seconds.
pub const DURATION_BUCKETS: &[f64] = &[
    0.1,
    0.153_412_740_463_439_1,
    0.235_354_689_365_025_24,
    0.361_064_078_764_099_46,
    0.553_918_298_061_075_2,
    0.849_781_240_983_936_3,
    1.303_672_689_737_678,
    1.999_999_999_999_999_3,
    3.068_254_809_268_781,
    4.707_093_787_300_503,
    7.221_281_575_281_985,
    11.078_365_961_221_5,
    16.995_624_819_678_717,
    26.073_453_794_753_55,
    39.999_999_999_999_97,
];

static CALL_DURATION: Family = Family {
    name: "dra_grpc_operations_duration_seconds",
    kind: Kind::Histogram(DURATION_BUCKETS),
    help: "Duration in seconds of the DRA gRPC operations",
    labels: &["driver_name", "method_name", "grpc_status_code"],
};

/// The services of drivers that this kubelet speaks, the newest first.
const SERVICES: [Service; 2] = [
    Service {
        name: "v1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
    },
    Service {
        name: "v1beta1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
    },
];
const HEALTH_SERVICES: [(&str, &str); 2] = [
    ("v1.DRAResourceHealth", "/v1.DRAResourceHealth/NodeWatchResources"),
    ("v1alpha1.DRAResourceHealth", "/v1alpha1.DRAResourceHealth/NodeWatchResources"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Service {
    name: &'static str,
    prepare: &'static str,
    unprepare: &'static str,
}

/// The service to speak: the first that the driver names and we know.
fn choose(versions: &[String]) -> Result<Service, String> {
    if versions.is_empty() {
        return Err("empty list of supported gRPC services (aka supported versions)".to_owned());
    }
    let known = versions.iter().find_map(|version| SERVICES.iter().find(|service| service.name == version));
    known.copied().ok_or_else(|| {
        let quoted = |names: Vec<&str>| names.iter().map(|name| format!("{name:?}")).collect::<Vec<String>>().join(" ");
        let theirs = quoted(versions.iter().map(String::as_str).collect());
        let ours = quoted(SERVICES.iter().map(|service| service.name).collect());
        format!("none of services supported by the plugin ([{theirs}]) are supported by the kubelet ([{ours}])")
    })
}

struct Plugin {
    endpoint: PathBuf,
    socket: Socket,
    service: Service,
    connected: bool,
    /// Ends what follows the driver.
    gone: Shutdown,
}

/// Called with a driver's name and what it tells of its devices, or nothing when it does not tell any more.
pub type OnHealth = Arc<dyn Fn(&str, Option<messages::Health>) + Send + Sync>;

/// Who is registered. Clones are the same.
#[derive(Clone)]
pub struct Drivers {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    node_name: String,
    metrics: Metrics,
    shutdown: Shutdown,
    on_health: Mutex<Option<OnHealth>>,
    wiping_delay: Duration,
    /// By the driver's name, the newest last. Bounded by the sockets in the plugins' directory.
    plugins: Mutex<BTreeMap<String, Vec<Plugin>>>,
}

impl Drivers {
    pub fn new(client: Client, node_name: &str, metrics: Metrics, shutdown: Shutdown) -> Drivers {
        Drivers::wiping_after(WIPING_DELAY, client, node_name, metrics, shutdown)
    }

    pub(super) fn wiping_after(wiping_delay: Duration, client: Client, node_name: &str, metrics: Metrics, shutdown: Shutdown) -> Drivers {
        let (on_health, plugins) = (Mutex::default(), Mutex::default());
        let shared = Shared { client, node_name: node_name.to_owned(), metrics, shutdown, on_health, wiping_delay, plugins };
        Drivers { shared: Arc::new(shared) }
    }

    pub fn on_health(&self, call: OnHealth) {
        *self.shared.on_health.lock() = Some(call);
    }

    /// Takes away what drivers have offered before the kubelet started; those that come back offer it again.
    pub fn start(&self) {
        let drivers = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = drivers.wipe(None) => {}
                () = drivers.shared.shutdown.cancelled() => {}
            }
        });
    }

    /// The one to call: the newest that is there, else the newest.
    fn plugin(&self, driver: &str) -> Result<(Socket, Service), String> {
        if driver.is_empty() {
            return Err("DRA driver name is empty".to_owned());
        }
        let plugins = self.shared.plugins.lock();
        let known = plugins.get(driver).map(Vec::as_slice).unwrap_or(&[]);
        let plugin = known.iter().rev().find(|plugin| plugin.connected).or_else(|| known.last());
        let plugin = plugin.ok_or_else(|| format!("DRA driver {driver} is not registered"))?;
        Ok((plugin.socket.clone(), plugin.service))
    }

    /// Whether a driver can be called.
    pub fn check(&self, driver: &str) -> Result<(), String> {
        self.plugin(driver).map(drop)
    }

    pub async fn prepare(&self, driver: &str, claims: Vec<messages::Claim>) -> Result<messages::PrepareResponse, String> {
        let (socket, service) = self.plugin(driver)?;
        let called = self.call(driver, &socket, service.prepare, claims).await;
        called.map_err(|error| format!("NodePrepareResources: {error}"))
    }

    pub async fn unprepare(&self, driver: &str, claims: Vec<messages::Claim>) -> Result<messages::UnprepareResponse, String> {
        let (socket, service) = self.plugin(driver)?;
        let called = self.call(driver, &socket, service.unprepare, claims).await;
        called.map_err(|error| format!("NodeUnprepareResources: {error}"))
    }

    async fn call<A>(&self, driver: &str, socket: &Socket, path: &'static str, claims: Vec<messages::Claim>) -> Result<A, String>
    where
        A: Message + Default + 'static,
    {
        let began = Instant::now();
        let answered = socket.call(path, ClaimsRequest { claims }, Some(CALL_LIMIT)).await;
        let code = match &answered {
            Ok(_) => "OK".to_owned(),
            Err(status) if status.code() == tonic::Code::Cancelled => "Canceled".to_owned(),
            Err(status) => format!("{:?}", status.code()),
        };
        self.shared.metrics.observe(&CALL_DURATION, &[driver, path, &code], began.elapsed().as_secs_f64());
        answered.map_err(|status| told(&status))
    }

    fn add(&self, driver: &str, endpoint: &Path, versions: &[String]) -> Result<(), String> {
        let service = choose(versions).map_err(|error| {
            format!("invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {}: {error}", endpoint.display())
        })?;
        let health = HEALTH_SERVICES.into_iter().find(|(name, _)| versions.iter().any(|version| version == name));
        let gone = self.shared.shutdown.child_token();
        let socket = Socket::at(endpoint);
        {
            let mut plugins = self.shared.plugins.lock();
            let known = plugins.entry(driver.to_owned()).or_default();
            if known.iter().any(|plugin| plugin.endpoint == endpoint) {
                return Err(format!("endpoint {} already registered for DRA driver plugin {driver}", endpoint.display()));
            }
            let (socket, gone) = (socket.clone(), gone.clone());
            known.push(Plugin { endpoint: endpoint.to_owned(), socket, service, connected: false, gone });
        }
        tracing::info!(driver, endpoint = %endpoint.display(), service = service.name, "a driver of dynamic resources has registered itself");
        let (drivers, name, place, ended) = (self.clone(), driver.to_owned(), endpoint.to_owned(), gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = drivers.watch_connection(&name, &place) => {}
                () = ended.cancelled() => {}
            }
        });
        if let Some((_, path)) = health {
            let (drivers, name) = (self.clone(), driver.to_owned());
            tokio::spawn(async move {
                tokio::select! {
                    () = drivers.watch_health(&name, &socket, path) => {}
                    () = gone.cancelled() => {}
                }
                drivers.tell_health(&name, None);
            });
        }
        self.wipe_if_gone(driver);
        Ok(())
    }

    fn remove(&self, driver: &str, endpoint: &Path) {
        {
            let mut plugins = self.shared.plugins.lock();
            let Some(known) = plugins.get_mut(driver) else { return };
            known.retain(|plugin| {
                let stays = plugin.endpoint != endpoint;
                if !stays {
                    plugin.gone.cancel();
                }
                stays
            });
            if known.is_empty() {
                plugins.remove(driver);
            }
        }
        tracing::info!(driver, endpoint = %endpoint.display(), "a driver of dynamic resources is gone");
        self.wipe_if_gone(driver);
    }

    fn is_usable(&self, driver: &str) -> bool {
        self.shared.plugins.lock().get(driver).is_some_and(|known| known.iter().any(|plugin| plugin.connected))
    }

    fn set_connected(&self, driver: &str, endpoint: &Path, connected: bool) {
        if let Some(known) = self.shared.plugins.lock().get_mut(driver) {
            known.iter_mut().filter(|plugin| plugin.endpoint == endpoint).for_each(|plugin| plugin.connected = connected);
        }
    }

    /// Holds a connection, which ends when the driver does.
    async fn watch_connection(&self, driver: &str, endpoint: &Path) {
        loop {
            if let Ok(stream) = UnixStream::connect(endpoint).await {
                let (executor, io) = (hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream));
                if let Ok((sender, connection)) = hyper::client::conn::http2::handshake::<_, _, tonic::body::Body>(executor, io).await {
                    self.set_connected(driver, endpoint, true);
                    let ended = connection.await;
                    drop(sender);
                    tracing::debug!(driver, ?ended, "a driver's connection has ended");
                    self.set_connected(driver, endpoint, false);
                    self.wipe_if_gone(driver);
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// After a while without the driver what it has offered is deleted, unless it comes back.
    fn wipe_if_gone(&self, driver: &str) {
        if self.is_usable(driver) {
            return;
        }
        let (drivers, driver) = (self.clone(), driver.to_owned());
        tokio::spawn(async move {
            let wiped = async {
                tokio::time::sleep(drivers.shared.wiping_delay).await;
                if !drivers.is_usable(&driver) {
                    drivers.wipe(Some(&driver)).await;
                }
            };
            tokio::select! {
                () = wiped => {}
                () = drivers.shared.shutdown.cancelled() => {}
            }
        });
    }

    /// Deletes the node's ResourceSlices, of one driver or of all.
    async fn wipe(&self, driver: Option<&str>) {
        let slices: Api<ResourceSlice> = Api::all(self.shared.client.clone());
        let mut selector = format!("spec.nodeName={}", self.shared.node_name);
        if let Some(driver) = driver {
            selector.push_str(&format!(",spec.driver={driver}"));
        }
        let mut wait = FIRST_WIPE_RETRY;
        loop {
            match slices.delete_collection(&DeleteParams::default(), &ListParams::default().fields(&selector)).await {
                Ok(_) => return,
                Err(error) if client::answer::is_not_found(&error) => return,
                Err(error) => tracing::debug!(driver, %error, "cannot delete what drivers have offered"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WIPE_RETRY);
            if driver.is_some_and(|driver| self.is_usable(driver)) {
                return;
            }
        }
    }

    fn tell_health(&self, driver: &str, health: Option<messages::Health>) {
        let call = self.shared.on_health.lock().clone();
        if let Some(call) = call {
            call(driver, health);
        }
    }

    async fn watch_health(&self, driver: &str, socket: &Socket, path: &'static str) {
        loop {
            let ended = match socket.stream::<_, messages::Health>(path, Empty {}).await {
                Err(status) => Some(status),
                Ok(mut stream) => loop {
                    match stream.message().await {
                        Ok(Some(health)) => self.tell_health(driver, Some(health)),
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                },
            };
            self.tell_health(driver, None);
            if ended.as_ref().is_some_and(|status| status.code() == tonic::Code::Unimplemented) {
                return;
            }
            tracing::debug!(driver, error = ended.as_ref().map(told), "a driver does not tell of its devices' health");
            tokio::time::sleep(HEALTH_AGAIN).await;
        }
    }
}

impl crate::plugin_watcher::Handler for Drivers {
    fn register<'a>(&'a self, name: &'a str, endpoint: &'a str, versions: &'a [String]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.add(name, Path::new(endpoint), versions) })
    }

    fn deregister<'a>(&'a self, name: &'a str, endpoint: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.remove(name, Path::new(endpoint)) })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_service_that_both_know_is_spoken() {
        let choose = |versions: &[&str]| {
            super::choose(&versions.iter().map(|version| (*version).to_owned()).collect::<Vec<_>>()).map(|service| service.name)
        };
        assert_eq!(choose(&["v1beta1.DRAPlugin", "v1.DRAPlugin"]), Ok("v1beta1.DRAPlugin"));
        assert_eq!(choose(&["v9.DRAPlugin", "v1.DRAPlugin"]), Ok("v1.DRAPlugin"));
        assert_eq!(choose(&[]), Err("empty list of supported gRPC services (aka supported versions)".to_owned()));
        assert_eq!(
            choose(&["x"]),
            Err("none of services supported by the plugin ([\"x\"]) are supported by the kubelet ([\"v1.DRAPlugin\" \"v1beta1.DRAPlugin\"])".to_owned())
        );
    }
}
