//! Device plugins: who registers himself at `<root dir>/device-plugins/kubelet.sock` gives devices to containers.
//!
//! The shell around the [`Ledger`]: speaks with plugins and keeps the checkpoint. Decides nothing about who gets what.

mod checkpoint;
pub mod ledger;
pub mod messages;
mod plugin;
mod registration;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use parking_lot::Mutex;

use crate::container_config::pod_resources;
use crate::container_manager::granted::Granted;
use crate::grpc::told;
use crate::metrics::{DEFAULT_BUCKETS, Family, Kind, Metrics};
use crate::pod;
use crate::state_file;
use crate::topology::{Hints, Mask};
use ledger::{Choice, Holder, Ids, Ledger, Pending};
use messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerPreferredAllocationRequest, Empty, PreStartContainerRequest,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use plugin::Plugins;

/// A plugin has so long to prepare devices for a start, as upstream.
const PRE_START_LIMIT: Duration = Duration::from_secs(30);
/// And so long to give them; upstream waits for ever, and lets no other pod in meanwhile.
const ALLOCATE_LIMIT: Duration = Duration::from_secs(120);
/// How long the resource of a plugin that is gone stays in the node's status, with no device that can be used.
const STOP_GRACE: Duration = Duration::from_secs(300);

static REGISTRATIONS: Family = Family {
    name: "kubelet_device_plugin_registration_total",
    kind: Kind::Counter,
    help: "Cumulative number of device plugin registrations. Broken down by resource name.",
    labels: &["resource_name"],
};
static ALLOCATION_DURATION: Family = Family {
    name: "kubelet_device_plugin_alloc_duration_seconds",
    kind: Kind::Histogram(DEFAULT_BUCKETS),
    help: "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.",
    labels: &["resource_name"],
};

/// Called with the uid of a pod that something has changed for.
pub type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// Plugins, their devices, and who has these. Clones are the same.
#[derive(Clone)]
pub struct Devices {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    ledger: Mutex<Ledger>,
    plugins: Mutex<Plugins>,
    metrics: Metrics,
    on_change: Mutex<Option<OnChange>>,
    /// Held while the checkpoint is written, so that an older one never replaces a newer.
    writing: tokio::sync::Mutex<()>,
    /// There was no checkpoint: extended resources in the node's status are of a node that was here before.
    is_new: AtomicBool,
    /// Why no plugin can register itself.
    problem: Mutex<Option<String>>,
    shutdown: Shutdown,
}

/// What the node's status tells of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// By resource: how many there are, and how many can be used.
    pub by_resource: BTreeMap<String, (usize, usize)>,
    /// Resources that there are no plugins for any more.
    pub removed: BTreeSet<String>,
    /// What else the status has of extended resources counts for nothing.
    pub reset: bool,
}

/// One device of a container, or one that can be allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub resource: String,
    pub id: String,
    /// The NUMA node that it is at; an instance is there for each.
    pub numa_node: Option<i64>,
}

impl Devices {
    pub fn new(root_dir: &Path, metrics: Metrics, shutdown: Shutdown) -> Devices {
        let shared = Shared {
            directory: root_dir.join("device-plugins"),
            ledger: Mutex::default(),
            plugins: Mutex::default(),
            metrics,
            on_change: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            is_new: AtomicBool::new(false),
            problem: Mutex::default(),
            shutdown,
        };
        Devices { shared: Arc::new(shared) }
    }

    pub fn on_change(&self, call: OnChange) {
        *self.shared.on_change.lock() = Some(call);
    }

    /// Recalls who has what, and lets plugins register themselves. What goes wrong is told; pods without devices run all the same.
    pub async fn start(&self) {
        let directory = &self.shared.directory;
        match checkpoint::read(directory).await {
            Ok(Some(recalled)) => {
                let now = Instant::now();
                recalled.resources().iter().for_each(|resource| self.shared.plugins.lock().expect_back(resource, now));
                *self.shared.ledger.lock() = recalled;
            }
            Ok(None) => self.shared.is_new.store(true, Ordering::Relaxed),
            Err(error) => tracing::error!(%error, "cannot read who has which devices; what is known of that may not be up to date"),
        }
        if let Err(error) = registration::start(self.clone()).await {
            tracing::error!(directory = %directory.display(), %error, "no device plugin can register itself");
            let what = "device registration error: device plugin registration gRPC server failed and no device plugins can register";
            *self.shared.problem.lock() = Some(format!("{what}: {error}"));
        }
    }

    /// Why no plugin can register itself, for health checks.
    pub fn problem(&self) -> Option<String> {
        self.shared.problem.lock().clone()
    }

    async fn save(&self) -> Result<(), state_file::Error> {
        let _turn = self.shared.writing.lock().await;
        let ledger = self.shared.ledger.lock().clone();
        checkpoint::write(&self.shared.directory, &ledger).await
    }

    async fn save_or_tell(&self) {
        if let Err(error) = self.save().await {
            tracing::error!(%error, "cannot write down who has which devices");
        }
    }

    /// Frees what pods have that are not active any more.
    pub fn keep(&self, active: &BTreeSet<String>) {
        self.shared.ledger.lock().keep(active);
    }

    /// The resources that the pod's containers ask plugins for.
    pub fn concerns(&self, pod: &Pod) -> bool {
        let ledger = self.shared.ledger.lock();
        let mut containers = pod::init_containers(pod).iter().chain(pod::containers(pod));
        containers.any(|container| limits(container).any(|(resource, _)| ledger.knows(resource)))
    }

    /// Gives a container what it asks for, or has it already. `leaves_devices`: an init container's devices are for those that follow.
    pub async fn allocate(
        &self,
        pod: &Pod,
        container: &Container,
        leaves_devices: bool,
        runs: bool,
        affinity: Option<Mask>,
    ) -> Result<(), String> {
        let holder = Holder { pod_uid: pod.uid(), container: &container.name };
        self.shared.ledger.lock().begin(pod.uid());
        let mut given = false;
        for (resource, amount) in limits(container) {
            if is_dynamic(pod, &container.name, resource) || !self.shared.ledger.lock().knows(resource) {
                continue;
            }
            let required = usize::try_from(amount).unwrap_or(0);
            let choice = self.shared.ledger.lock().choose(holder, resource, required, runs, affinity)?;
            let ids = match choice {
                Choice::Nothing => continue,
                Choice::Chosen(ids) => ids,
                Choice::Pending(pending) => self.ask_what_is_preferred(resource, pending).await?,
            };
            self.ask_for(holder, resource, &ids).await?;
            given = true;
        }
        if given {
            self.save().await.map_err(|error| format!("failed to write checkpoint file {:?}: {error}", checkpoint::FILE))?;
        }
        self.shared.ledger.lock().settle(holder, leaves_devices);
        Ok(())
    }

    async fn ask_what_is_preferred(&self, resource: &str, pending: Pending) -> Result<Ids, String> {
        let missing = || format!("endpoint not found in cache for a registered resource: {resource}");
        let (live, options) = {
            let plugins = self.shared.plugins.lock();
            let plugin = plugins.get(resource).ok_or_else(missing)?;
            (plugin.live(resource), plugin.options())
        };
        if !options.get_preferred_allocation_available {
            return pending.finish(None);
        }
        let request = ContainerPreferredAllocationRequest {
            available_device_ids: pending.available().into_iter().collect(),
            must_include_device_ids: pending.taken.iter().cloned().collect(),
            allocation_size: i32::try_from(pending.required).unwrap_or(i32::MAX),
        };
        let failed = |error: String| format!("device plugin GetPreferredAllocation rpc failed with err: {error}");
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let path = "/v1beta1.DevicePlugin/GetPreferredAllocation";
        let live = live.map_err(failed)?;
        let answer: PreferredAllocationResponse =
            live.socket.call(path, request, Some(ALLOCATE_LIMIT)).await.map_err(|status| failed(told(&status)))?;
        let preferred = answer.container_responses.into_iter().next().map(|response| response.device_ids.into_iter().collect::<Ids>());
        pending.finish(Some(&preferred.unwrap_or_default()))
    }

    async fn ask_for(&self, holder: Holder<'_>, resource: &str, ids: &Ids) -> Result<(), String> {
        let live = {
            let plugins = self.shared.plugins.lock();
            plugins.get(resource).ok_or_else(|| format!("unknown Device Plugin {resource}"))?.live(resource)?
        };
        let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() }] };
        let began = Instant::now();
        let answered = live.socket.call("/v1beta1.DevicePlugin/Allocate", request, Some(ALLOCATE_LIMIT)).await;
        self.shared.metrics.observe(&ALLOCATION_DURATION, &[resource], began.elapsed().as_secs_f64());
        let answer: AllocateResponse = answered.map_err(|status| told(&status))?;
        let response = answer.container_responses.into_iter().next();
        let response = response.ok_or_else(|| format!("no containers return in allocation response of {resource}"))?;
        self.shared.ledger.lock().give(holder, resource, ids, response);
        Ok(())
    }

    /// What a container that is about to be made gets with its devices. `active`: whether the pod is to run at all.
    pub async fn options(&self, pod: &Pod, container: &Container, active: bool) -> Result<Granted, String> {
        let holder = Holder { pod_uid: pod.uid(), container: &container.name };
        let mut lacks = false;
        for (resource, amount) in limits(container) {
            if amount == 0 || is_dynamic(pod, &container.name, resource) || !self.shared.ledger.lock().knows(resource) {
                continue;
            }
            self.pre_start(holder, resource).await?;
            lacks |= self.shared.ledger.lock().container(holder).is_none_or(|has| !has.contains_key(resource));
        }
        if lacks && active {
            // The plugin has come back after the pod was let in.
            let leaves = pod::init_containers(pod).iter().any(|init| init.name == container.name && !pod::is_sidecar(init));
            self.allocate(pod, container, leaves, false, None).await?;
        }
        let ledger = self.shared.ledger.lock();
        let mut granted = Granted::default();
        for allocation in ledger.container(holder).into_iter().flat_map(BTreeMap::values) {
            granted.add_devices(&allocation.response);
        }
        Ok(granted)
    }

    async fn pre_start(&self, holder: Holder<'_>, resource: &str) -> Result<(), String> {
        let missing = || format!("endpoint not found in cache for a registered resource: {resource}");
        let (live, options) = {
            let plugins = self.shared.plugins.lock();
            let plugin = plugins.get(resource).ok_or_else(missing)?;
            (plugin.live(resource), plugin.options())
        };
        if !options.pre_start_required {
            return Ok(());
        }
        let ids = self.shared.ledger.lock().container(holder).and_then(|has| has.get(resource)).map(ledger::Allocation::ids);
        let Some(ids) = ids else {
            let Holder { pod_uid, container } = holder;
            return Err(format!("no devices found allocated in local cache for pod {pod_uid}, container {container}, resource {resource}"));
        };
        let failed = |error: String| format!("device plugin PreStartContainer rpc failed with err: {error}");
        let request = PreStartContainerRequest { devices_ids: ids.into_iter().collect() };
        let answered = live.map_err(failed)?.socket.call("/v1beta1.DevicePlugin/PreStartContainer", request, Some(PRE_START_LIMIT)).await;
        answered.map(|_: Empty| ()).map_err(|status| failed(told(&status)))
    }

    /// Where a container's devices could come from, or, without one, the whole pod's.
    pub fn hints(&self, pod: &Pod, container: Option<&Container>, machine: &[usize]) -> Hints {
        let ledger = self.shared.ledger.lock();
        let asked: BTreeMap<String, i64> = match container {
            Some(container) => limits(container).map(|(name, amount)| (name.to_owned(), amount)).collect(),
            None => pod_resources::limits(pod, false).into_iter().map(|(name, amount)| (name, amount.value())).collect(),
        };
        let known = asked.into_iter().filter(|(resource, _)| ledger.knows(resource));
        known
            .map(|(resource, amount)| {
                let requested = usize::try_from(amount).unwrap_or(0);
                let hints = ledger.hints(pod.uid(), container.map(|container| container.name.as_str()), &resource, requested, machine);
                (resource, hints)
            })
            .collect()
    }

    /// What the node's status tells of devices; forgets the resources whose plugins have been away for too long.
    pub async fn amounts(&self) -> Amounts {
        let amounts = {
            let mut ledger = self.shared.ledger.lock();
            let mut plugins = self.shared.plugins.lock();
            let mut amounts = Amounts { reset: self.shared.is_new.load(Ordering::Relaxed), ..Amounts::default() };
            for resource in ledger.resources() {
                if plugins.get(&resource).is_none_or(|plugin| plugin.is_gone_for(STOP_GRACE)) {
                    plugins.remove(&resource);
                    ledger.forget_resource(&resource);
                    amounts.removed.insert(resource);
                } else {
                    amounts.by_resource.insert(resource.clone(), ledger.amounts(&resource));
                }
            }
            amounts
        };
        if !amounts.removed.is_empty() {
            self.save_or_tell().await;
        }
        amounts
    }

    /// The node's status has been told.
    pub fn amounts_are_told(&self) {
        self.shared.is_new.store(false, Ordering::Relaxed);
    }

    /// What pods have by resource, if this pod has anything: the node has at least that, whatever its status tells.
    pub fn allocated_beside(&self, pod_uid: &str) -> BTreeMap<String, usize> {
        let ledger = self.shared.ledger.lock();
        if !ledger.pods().contains_key(pod_uid) {
            return BTreeMap::new();
        }
        ledger.allocated().into_iter().map(|(resource, ids)| (resource, ids.len())).collect()
    }

    /// Tells in the status of a pod how its devices are.
    pub fn add_health(&self, pod_uid: &str, status: &mut PodStatus) {
        let ledger = self.shared.ledger.lock();
        for container in status.container_statuses.iter_mut().flatten() {
            let Some(has) = ledger.container(Holder { pod_uid, container: &container.name }) else { continue };
            for (resource, allocation) in has {
                let health = |id: &String| if ledger.is_healthy(resource, id) { "Healthy" } else { "Unhealthy" };
                let resources: Vec<ResourceHealth> = allocation
                    .ids()
                    .iter()
                    .map(|id| ResourceHealth { resource_id: id.clone(), health: Some(health(id).to_owned()), ..Default::default() })
                    .collect();
                let told = ResourceStatus { name: resource.clone(), resources: Some(resources) };
                let all = container.allocated_resources_status.get_or_insert_default();
                match all.iter_mut().find(|status| status.name == told.name) {
                    Some(old) => *old = told,
                    None => all.push(told),
                }
            }
        }
    }

    /// The devices of a container.
    pub fn of_container(&self, pod_uid: &str, container: &str) -> Vec<Instance> {
        let ledger = self.shared.ledger.lock();
        let has = ledger.container(Holder { pod_uid, container }).into_iter().flatten();
        has.flat_map(|(resource, allocation)| {
            allocation.devices.iter().flat_map(move |(node, ids)| {
                let numa_node = (*node != ledger::WITHOUT_TOPOLOGY).then_some(*node);
                ids.iter().map(move |id| Instance { resource: resource.clone(), id: id.clone(), numa_node })
            })
        })
        .collect()
    }

    /// All devices that can be used, whether or not somebody has them.
    pub fn allocatable(&self) -> Vec<Instance> {
        let ledger = self.shared.ledger.lock();
        let mut found = Vec::new();
        for resource in ledger.healthy().keys() {
            for device in ledger.healthy_devices(resource) {
                let instance = |numa_node| Instance { resource: resource.clone(), id: device.id.clone(), numa_node };
                match &device.topology {
                    None => found.push(instance(None)),
                    Some(topology) => found.extend(topology.nodes.iter().map(|node| instance(Some(node.id)))),
                }
            }
        }
        found
    }

    fn tell(&self, pods: &BTreeSet<String>) {
        let call = self.shared.on_change.lock().clone();
        if let Some(call) = call {
            pods.iter().for_each(|uid| call(uid));
        }
    }
}

/// What a container may have of each resource. Of devices it requests as much.
fn limits(container: &Container) -> impl Iterator<Item = (&str, i64)> {
    let limits = container.resources.iter().filter_map(|resources| resources.limits.as_ref()).flatten();
    limits.map(|(name, amount)| (name.as_str(), pod_resources::parse(amount).value()))
}

/// Whether a claim stands behind the resource instead of a plugin.
fn is_dynamic(pod: &Pod, container: &str, resource: &str) -> bool {
    let claim = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let mut mappings = claim.into_iter().flat_map(|claim| &claim.request_mappings);
    mappings.any(|mapping| mapping.container_name == container && mapping.resource_name == resource)
}
