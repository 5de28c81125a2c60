//! Dynamic resources: the claims of a pod are prepared by their drivers before its sandbox is made, and undone when its containers
//! have ended.
//!
//! The shell around the [`Ledger`]: fetches claims, calls drivers, keeps the checkpoint. Upstream: pkg/kubelet/cm/dra.

mod checkpoint;
mod driver;
mod health;
mod ledger;
pub mod messages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::devices::OnChange;
use crate::metrics::{Family, Kind, Metrics};
use crate::pod;
use crate::pod_resources::messages as told;
use crate::state_file;
use driver::{DURATION_BUCKETS, Drivers};
use health::Health;
use ledger::{Info, Ledger};

/// How often pods are looked for that are gone and have left claims behind.
const RECONCILE_PERIOD: Duration = Duration::from_secs(60);

static DURATION: Family = Family {
    name: "dra_operations_duration_seconds",
    kind: Kind::Histogram(DURATION_BUCKETS),
    help: "Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation. The number of failed operations is provided through the histogram's overall count.",
    labels: &["operation_name", "is_error"],
};
static IN_USE: Family = Family {
    name: "dra_resource_claims_in_use",
    kind: Kind::Gauge,
    help: "The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts is not the total number of in-use ResourceClaims because the same ResourceClaim might use devices from different drivers. Instead, use the count for the <any> driver_name.",
    labels: &["driver_name"],
};
/// All drivers together.
const ANY_DRIVER: &str = "<any>";

/// The claims on this node. Clones are the same.
#[derive(Clone)]
pub struct Claims {
    shared: Arc<Shared>,
}

struct Shared {
    root_dir: PathBuf,
    client: Client,
    metrics: Metrics,
    drivers: Drivers,
    ledger: Mutex<Ledger>,
    health: Mutex<Health>,
    on_change: Mutex<Option<OnChange>>,
    /// Held while the checkpoint is written, so that an older one never replaces a newer.
    writing: tokio::sync::Mutex<()>,
    /// Why nothing can be prepared: what is known of earlier claims could not be read.
    problem: Mutex<Option<String>>,
}

impl Claims {
    pub fn new(root_dir: &Path, node_name: &str, client: Client, metrics: Metrics, shutdown: Shutdown) -> Claims {
        let drivers = Drivers::new(client.clone(), node_name, metrics.clone(), shutdown);
        Claims::with(root_dir, client, metrics, drivers)
    }

    fn with(root_dir: &Path, client: Client, metrics: Metrics, drivers: Drivers) -> Claims {
        let shared = Shared {
            root_dir: root_dir.to_owned(),
            client,
            metrics,
            drivers: drivers.clone(),
            ledger: Mutex::default(),
            health: Mutex::default(),
            on_change: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            problem: Mutex::default(),
        };
        let claims = Claims { shared: Arc::new(shared) };
        let health = Arc::downgrade(&claims.shared);
        drivers.on_health(Arc::new(move |driver, told| {
            if let Some(shared) = health.upgrade() {
                shared.take_health(driver, told);
            }
        }));
        claims
    }

    pub fn on_change(&self, call: OnChange) {
        *self.shared.on_change.lock() = Some(call);
    }

    /// Who takes drivers that register themselves.
    pub fn drivers(&self) -> Drivers {
        self.shared.drivers.clone()
    }

    /// Recalls which pods use which claims.
    pub async fn start(&self) {
        match checkpoint::read(&self.shared.root_dir).await {
            Ok(ledger) => *self.shared.ledger.lock() = ledger,
            Err(error) => {
                // Upstream does not start; here pods without claims run all the same.
                tracing::error!(%error, "cannot read which pods use which claims; drain the node and remove the file");
                *self.shared.problem.lock() = Some(format!("could not read the state of ResourceClaims: {error}"));
            }
        }
        self.count();
        self.shared.drivers.start();
    }

    /// Looks after claims of pods that are gone, until shutdown. `active`: the pods that are there, once all are known.
    pub async fn run(&self, active: impl Fn() -> Option<BTreeSet<String>>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RECONCILE_PERIOD) => {}
                () = shutdown.cancelled() => return,
            }
            if let Some(active) = active() {
                self.reconcile(&active).await;
            }
        }
    }

    async fn reconcile(&self, active: &BTreeSet<String>) {
        let left = self.shared.ledger.lock().left_behind(active);
        for uid in left {
            if let Err(error) = self.undo(&uid).await {
                tracing::info!(pod = uid, error, "cannot undo the claims of a pod that is gone; it will be tried again");
            }
        }
    }

    async fn save(&self) -> Result<(), state_file::Error> {
        let _turn = self.shared.writing.lock().await;
        let ledger = self.shared.ledger.lock().clone();
        checkpoint::write(&self.shared.root_dir, &ledger).await
    }

    fn count(&self) {
        let (by_driver, all) = self.shared.ledger.lock().in_use();
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.shared.metrics.keep(&IN_USE, |labels| labels.iter().any(|driver| by_driver.contains_key(driver) || driver == ANY_DRIVER));
        by_driver.iter().for_each(|(driver, count)| self.shared.metrics.set(&IN_USE, &[driver], number(*count)));
        self.shared.metrics.set(&IN_USE, &[ANY_DRIVER], number(all));
    }

    /// Has the drivers prepare what the pod's claims were given.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let began = Instant::now();
        let prepared = self.try_prepare(pod).await;
        let failed = prepared.is_err().to_string();
        self.shared.metrics.observe(&DURATION, &["PrepareResources", &failed], began.elapsed().as_secs_f64());
        prepared.map_err(|error| format!("prepare dynamic resources: {error}"))
    }

    async fn try_prepare(&self, pod: &Pod) -> Result<(), String> {
        let claims = self.fetch(pod).await?;
        if claims.is_empty() {
            return Ok(());
        }
        if let Some(problem) = self.shared.problem.lock().clone() {
            return Err(problem);
        }
        let begun = self.shared.ledger.lock().begin(pod.uid(), &claims);
        self.save().await.map_err(|error| format!("checkpoint ResourceClaim cache: {error}"))?;
        for (driver, batch) in begun? {
            let response = self.shared.drivers.prepare(&driver, batch.clone()).await?;
            self.shared.ledger.lock().take_prepared(&driver, &batch, response)?;
        }
        self.shared.ledger.lock().set_prepared(&claims);
        self.count();
        self.save().await.map_err(|error| format!("checkpoint ResourceClaim state: {error}"))
    }

    /// The pod's claims as the API server has them, if it may use them and all their drivers are there.
    async fn fetch(&self, pod: &Pod) -> Result<Vec<Info>, String> {
        let api: Api<ResourceClaim> = Api::namespaced(self.shared.client.clone(), pod.namespace());
        let mut infos = Vec::new();
        for named in ledger::of_pod(pod)? {
            let name = &named.name;
            let claim = api.get(name).await.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
            if let Some(refusal) = ledger::refusal(pod, &named, &claim) {
                return Err(refusal);
            }
            let info = Info::of(&claim).map_err(|error| format!("ResourceClaim {name}: {error}"))?;
            info.drivers.keys().try_for_each(|driver| self.shared.drivers.check(driver))?;
            infos.push(info);
        }
        Ok(infos)
    }

    /// Has the drivers undo what they prepared for this pod alone.
    pub async fn unprepare(&self, pod: &Pod) -> Result<(), String> {
        if self.shared.ledger.lock().of_pod(pod.uid()).is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let undone = self.undo(pod.uid()).await;
        let failed = undone.is_err().to_string();
        self.shared.metrics.observe(&DURATION, &["UnprepareResources", &failed], began.elapsed().as_secs_f64());
        undone.map_err(|error| format!("unprepare dynamic resources: {error}"))
    }

    async fn undo(&self, pod_uid: &str) -> Result<(), String> {
        let (batches, last) = self.shared.ledger.lock().end(pod_uid);
        for (driver, batch) in batches {
            let response = self.shared.drivers.unprepare(&driver, batch.clone()).await?;
            ledger::undone(&batch, &response)?;
        }
        self.shared.ledger.lock().forget(&last);
        self.count();
        self.save().await.map_err(|error| format!("checkpoint ResourceClaim state: {error}"))
    }

    /// The devices that a container gets, by the names that the runtime knows.
    pub fn cdi_devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, String> {
        self.shared.ledger.lock().cdi_devices(pod, container)
    }

    /// Tells in the status of a pod how the devices of its claims are.
    pub fn add_health(&self, pod: &Pod, status: &mut PodStatus) {
        let ledger = self.shared.ledger.lock();
        let health = self.shared.health.lock();
        let now = Instant::now();
        let names = ledger::of_pod(pod).unwrap_or_default();
        for told in status.container_statuses.iter_mut().flatten() {
            let spec = pod::containers(pod).iter().find(|container| container.name == told.name);
            let asked = spec
                .into_iter()
                .filter_map(|container| container.resources.as_ref())
                .flat_map(|resources| resources.claims.iter().flatten());
            for claim in asked {
                let named = names.iter().find(|named| named.reference.as_ref() == Some(&claim.name));
                let Some(info) = named.and_then(|named| ledger.get(pod.namespace(), &named.name)) else { continue };
                let request = claim.request.as_deref().unwrap_or("");
                let name = if request.is_empty() { format!("claim:{}", claim.name) } else { format!("claim:{}/{request}", claim.name) };
                let resources = healths(info, request, &health, now);
                let all = told.allocated_resources_status.get_or_insert_default();
                all.retain(|status| status.name != name);
                if !resources.is_empty() {
                    all.push(ResourceStatus { name, resources: Some(resources) });
                }
            }
        }
    }

    /// What a container has of its pod's claims, for those who ask.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Vec<told::DynamicResource> {
        let ledger = self.shared.ledger.lock();
        let wanted = ledger::requests(pod, container).unwrap_or_default();
        let infos = wanted.iter().filter_map(|(named, _)| ledger.get(pod.namespace(), &named.name));
        infos
            .map(|info| told::DynamicResource {
                claim_name: info.name.clone(),
                claim_namespace: info.namespace.clone(),
                claim_resources: resources(&info.drivers),
            })
            .collect()
    }
}

impl Shared {
    fn take_health(&self, driver: &str, told: Option<messages::Health>) {
        let changed = match told {
            Some(told) => self.health.lock().update(driver, told, Instant::now()),
            None => return self.health.lock().forget(driver),
        };
        let pods = self.ledger.lock().pods_with(driver, &changed);
        let call = self.on_change.lock().clone();
        if let Some(call) = call {
            pods.iter().for_each(|uid| call(uid));
        }
    }
}

fn healths(info: &Info, request: &str, health: &Health, now: Instant) -> Vec<ResourceHealth> {
    let base = request.split('/').next().unwrap_or("");
    let mut found: Vec<ResourceHealth> = Vec::new();
    for (driver, state) in &info.drivers {
        for device in &state.devices {
            if !base.is_empty() && !device.requests.is_empty() && !device.requests.iter().any(|name| name == base) {
                continue;
            }
            let resource_id = device.cdi_devices.first().cloned();
            let resource_id = resource_id.unwrap_or_else(|| format!("{driver}/{}/{}", device.pool, device.device));
            if found.iter().any(|known| known.resource_id == resource_id) {
                continue;
            }
            let (word, message) = health.of(driver, &(device.pool.clone(), device.device.clone()), now);
            found.push(ResourceHealth { resource_id, health: Some(word.to_owned()), message });
        }
    }
    found
}

fn resources(drivers: &BTreeMap<String, ledger::DriverState>) -> Vec<told::ClaimResource> {
    let mut found = Vec::new();
    for (driver_name, state) in drivers {
        // As upstream has it: each device is told with the names of those before it.
        let mut cdi_devices = Vec::new();
        for device in &state.devices {
            cdi_devices.extend(device.cdi_devices.iter().map(|name| told::CdiDevice { name: name.clone() }));
            found.push(told::ClaimResource {
                cdi_devices: cdi_devices.clone(),
                driver_name: driver_name.clone(),
                pool_name: device.pool.clone(),
                device_name: device.device.clone(),
                share_id: device.share_id.clone(),
            });
        }
    }
    found
}
