//! The device taint eviction controller: pods leave devices with a NoExecute taint that their claims do not tolerate, at once or when
//! their `tolerationSeconds` are over. Taints are those that drivers set in ResourceSlices and those of DeviceTaintRules, whose
//! status says how far the eviction is.
//!
//! It taints nothing, and takes no claim from a pod: the resource claim controller does when the pod is gone.

mod evictions;
mod progress;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, Reference, answer};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::resource::v1::{Device, DeviceTaint, DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::manager::Context;
use crate::pod_disruption::{self, Cause};
use crate::tolerations::NO_EXECUTE;
use crate::{metrics, pod_state, resource_claim};
use evictions::{Eviction, Taints};
use progress::Counts;

const CAUSE: Cause = Cause { reason: "DeletionByDeviceTaintManager", message: "Device Taint manager: deleting due to NoExecute taint" };
const EVENT: &str = "DeviceTaintManagerEviction";
/// The shortest time between two changes of a rule's status.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// Allocated claims, and slices, by the pools of their devices.
const BY_POOL: &str = "device pool";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Pod(ObjectKey),
    Rule(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Pod(key) => write!(f, "pod {key}"),
            Work::Rule(name) => write!(f, "rule {name}"),
        }
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    rules: Informer<DeviceTaintRule>,
    queue: Queue<Work>,
    /// Pods that are to go, by the uid that they had; only pods that there are.
    scheduled: Mutex<HashMap<ObjectKey, String>>,
    /// How many pods went because of a rule, by its uid; only rules that there are.
    evicted: Mutex<HashMap<String, u64>>,
}

pub async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        pods: informers.of(),
        claims: informers.of(),
        slices: informers.of(),
        rules: informers.of(),
        queue: Queue::named(context.name),
        scheduled: Mutex::default(),
        evicted: Mutex::default(),
    });
    controller.claims.add_index(BY_POOL, pools);
    controller.slices.add_index(BY_POOL, |slice| vec![pool(&slice.spec.driver, &slice.spec.pool.name)]);
    controller.clone().follow();
    let Controller { pods, claims, slices, rules, .. } = &*controller;
    tokio::join!(pods.synced(), claims.synced(), slices.synced(), rules.synced());
    let (queue, workers) = (controller.queue.clone(), context.config.concurrent_device_taint_eviction_syncs);
    client::controller::run(context.name, queue, workers, context.shutdown, |work: Work| async {
        match work {
            Work::Pod(key) => controller.sync_pod(key).await,
            Work::Rule(name) => controller.sync_rule(&name).await,
        }
    })
    .await;
}

/// A driver's pool, as the index has it.
fn pool(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

/// The pools of a claim's devices, each once.
fn pools(claim: &ResourceClaim) -> Vec<String> {
    let pools: BTreeSet<String> = evictions::allocated(claim).iter().map(|device| pool(&device.driver, &device.pool)).collect();
    pools.into_iter().collect()
}

/// The taints of a slice's devices.
fn taints(slice: &ResourceSlice) -> Vec<(&str, &[DeviceTaint])> {
    let taints = |device: &'_ Device| device.taints.as_ref().is_some_and(|taints| !taints.is_empty());
    let tainted = slice.spec.devices.iter().flatten().filter(|device| taints(device));
    tainted.map(|device| (device.name.as_str(), device.taints.as_deref().unwrap_or_default())).collect()
}

fn reference(key: &ObjectKey, uid: &str) -> Reference {
    Reference(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    })
}

impl Controller {
    fn follow(self: Arc<Self>) {
        let controller = self.clone();
        self.pods.on_change(move |change| {
            let uses = |pod: &Pod| (pod_state::node_name(pod).to_owned(), resource_claim::claims_of(pod));
            let pod = change.object();
            let concerned = match change {
                Change::Added(pod) => !resource_claim::claims_of(pod).is_empty(),
                Change::Updated { old, new } => old.uid() != new.uid() || uses(old) != uses(new),
                Change::Deleted(pod) => controller.scheduled.lock().contains_key(&pod.key()),
            };
            if concerned {
                controller.queue.add(Work::Pod(pod.key()));
            }
        });
        let controller = self.clone();
        self.claims.on_change(move |change| {
            change.old().iter().for_each(|old| controller.look_at_users(old));
            controller.look_at_users(change.object());
        });
        let controller = self.clone();
        self.slices.on_change(move |change| {
            let slice = change.object();
            // A slice without taints may still put an older generation with taints out of force.
            let concerned = change.old().is_none_or(|old| taints(old) != taints(slice) || old.spec.pool != slice.spec.pool);
            if concerned {
                let pool = pool(&slice.spec.driver, &slice.spec.pool.name);
                controller.claims.by_index(BY_POOL, &pool).iter().for_each(|claim| controller.look_at_users(claim));
            }
        });
        let controller = self.clone();
        self.rules.on_change(move |change| {
            let rule = change.object();
            if change.old().is_some_and(|old| old.uid() == rule.uid() && old.spec == rule.spec) && !matches!(change, Change::Deleted(_)) {
                return;
            }
            if matches!(change, Change::Deleted(_)) {
                controller.evicted.lock().remove(rule.uid());
            } else {
                // Told before anybody is evicted.
                controller.queue.add(Work::Rule(Object::name(&**rule).to_owned()));
            }
            controller.claims.list().iter().for_each(|claim| controller.look_at_users(claim));
        });
    }

    /// Looks at the pods that a claim is reserved for.
    fn look_at_users(&self, claim: &ResourceClaim) {
        let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
        for consumer in reserved.filter(|consumer| consumer.resource == "pods" && consumer.api_group.as_deref().unwrap_or("").is_empty()) {
            self.queue.add(Work::Pod(ObjectKey::new(claim.namespace(), &consumer.name)));
        }
    }

    /// What taints any device.
    fn taints(&self) -> Taints {
        Taints::new(self.slices.list(), self.rules.list())
    }

    /// What taints the devices of the pod's claims.
    fn taints_of(&self, pod: &Pod) -> Taints {
        let names = resource_claim::claims_of(pod);
        let claims = names.iter().filter_map(|(name, _)| self.claims.get(pod.namespace(), name));
        let pools: BTreeSet<String> = claims.flat_map(|claim| pools(&claim)).collect();
        Taints::new(pools.iter().flat_map(|pool| self.slices.by_index(BY_POOL, pool)).collect(), self.rules.list())
    }

    fn eviction(&self, pod: &Pod, taints: &Taints) -> Option<Eviction> {
        evictions::of_pod(pod, |name| self.claims.get(pod.namespace(), name), taints)
    }

    async fn sync_pod(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get_key(&key) else {
            // Nothing is cancelled: it is gone.
            self.scheduled.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        if resource_claim::claims_of(&pod).is_empty() || pod.is_terminating() {
            self.scheduled.lock().remove(&key);
            return Ok(Outcome::Done);
        }
        let Some(eviction) = self.eviction(&pod, &self.taints_of(&pod)) else {
            if let Some(uid) = self.scheduled.lock().remove(&key) {
                self.recorder.normal(&reference(&key, &uid), EVENT, "Cancelling deletion");
            }
            return Ok(Outcome::Done);
        };
        let is_new = self.scheduled.lock().insert(key.clone(), pod.uid().to_owned()).is_none();
        if is_new {
            self.tell_later(&eviction);
        }
        let now = clock::now();
        if eviction.at > now {
            return Ok(Outcome::After(eviction.at.duration_since(now).unsigned_abs()));
        }
        self.evict(&key, &pod, &eviction, now).await?;
        self.scheduled.lock().remove(&key);
        Ok(Outcome::Done)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod, eviction: &Eviction, now: Timestamp) -> Result<(), kube::Error> {
        self.recorder.normal(&reference(key, pod.uid()), EVENT, "Marking for deletion");
        let only = DeleteParams::default().preconditions(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        if answer::or_absent(pod_disruption::delete(&self.client, pod, CAUSE, &only).await)?.is_none() {
            return Ok(());
        }
        metrics::DEVICE_EVICTIONS.only().inc();
        metrics::DEVICE_EVICTION_LATENCY.only().observe(now.duration_since(eviction.at).as_secs_f64());
        for rule in self.rules.list().iter().filter(|rule| eviction.is_by_rule(rule.uid())) {
            *self.evicted.lock().entry(rule.uid().to_owned()).or_default() += 1;
        }
        self.tell_later(eviction);
        Ok(())
    }

    /// The statuses of the rules that cause an eviction follow it, but not each pod.
    fn tell_later(&self, eviction: &Eviction) {
        eviction.rules().for_each(|rule| self.queue.add_after(Work::Rule(rule.to_owned()), STATUS_PERIOD));
    }

    async fn sync_rule(&self, name: &str) -> Result<Outcome, kube::Error> {
        let Some(rule) = self.rules.get("", name) else { return Ok(Outcome::Done) };
        let now = clock::now();
        if let Some(said) = progress::existing(&rule).filter(|said| said.observed_generation == rule.metadata.generation) {
            let since = now.duration_since(said.last_transition_time.0);
            if let Some(left) =
                Duration::try_from(since).ok().and_then(|since| STATUS_PERIOD.checked_sub(since)).filter(|left| !left.is_zero())
            {
                return Ok(Outcome::After(left));
            }
        }
        let Some(condition) = progress::condition(&rule, self.counts(&rule), now) else { return Ok(Outcome::Done) };
        let api: Api<DeviceTaintRule> = Api::all(self.client.clone());
        let applied = json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": name, "uid": rule.uid()},
            "status": {"conditions": [condition]},
        });
        let params = PatchParams::apply("device-taint-eviction-controller").force();
        answer::or_absent(api.patch_status(name, &params, &Patch::Apply(applied)).await)?;
        Ok(Outcome::Done)
    }

    fn counts(&self, rule: &DeviceTaintRule) -> Counts {
        let evicted = self.evicted.lock().get(rule.uid()).copied().unwrap_or(0);
        let taints = match rule.spec.taint.effect.as_str() {
            NO_EXECUTE => self.taints(),
            progress::NO_EFFECT => self.taints().as_if(rule),
            // Nobody leaves because of it.
            _ => return Counts { evicted, ..Counts::default() },
        };
        let mut counts = Counts { evicted, published: taints.selected(rule), ..Counts::default() };
        for claim in self.claims.list() {
            let selected = evictions::allocated(&claim).iter().filter(|d| evictions::selects(rule, &d.driver, &d.pool, &d.device));
            counts.allocated += selected.count();
        }
        let mut namespaces = BTreeSet::new();
        for pod in self.pods.list().iter().filter(|pod| !pod.is_terminating()) {
            if self.eviction(pod, &taints).is_some_and(|eviction| eviction.is_by_rule(rule.uid())) {
                counts.pods += 1;
                namespaces.insert(pod.namespace().to_owned());
            }
        }
        counts.namespaces = namespaces.len();
        counts
    }
}
