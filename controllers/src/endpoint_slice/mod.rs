//! The endpoint slice controller: a service with a selector has slices that tell where its pods are.
//!
//! Services without a selector and slices that others manage are left alone.

pub mod hints;
pub mod numbers;
pub mod pods;
pub mod slicing;
pub mod tracker;
pub mod triggers;

use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::events::Recorder;
use client::metrics::Looking;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::manager::Context;
use crate::{failure, metrics};
use hints::Distribution;
use numbers::{Numbers, Totals};
use slicing::{Desired, Plan, Template};
use tracker::Tracker;
use triggers::Triggers;

const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Changes of slices by others are gathered for this long at least.
const SLICE_CHANGE_DELAY: Duration = Duration::from_secs(1);
/// Slices by the service that they belong to.
pub const SERVICE_INDEX: &str = "service";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("EndpointSlice informer cache is out of date")]
    Stale,
    #[error("skipping Pod {pod} for Service {service}: Node {node} Not Found")]
    NodeNotFound { pod: String, service: ObjectKey, node: String },
    #[error("failed to {verb} EndpointSlice for Service {service}: {}", failure::message(.source))]
    Write { verb: &'static str, service: ObjectKey, source: kube::Error },
}

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    tracker: Arc<Tracker>,
    triggers: Triggers,
    max_endpoints: usize,
    totals: Arc<Totals>,
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        services: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        slices: context.informers.of(),
        tracker: Arc::default(),
        triggers: Triggers::default(),
        max_endpoints: context.config.max_endpoints_per_slice,
        totals: Arc::default(),
    };
    let _told = controller.tell();
    let queue = Queue::named("endpoint_slice");
    watch_services(&controller.services, &controller.pods, &queue, context.config.endpointslice_updates_batch_period);
    controller.watch_slices(&queue, SLICE_CHANGE_DELAY.max(context.config.endpointslice_updates_batch_period));
    controller.services.synced().await;
    controller.pods.synced().await;
    controller.nodes.synced().await;
    controller.slices.synced().await;
    let workers = context.config.concurrent_service_endpoint_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown, |key: ObjectKey| async {
        let result = controller.sync(key).await;
        metrics::SLICES_SYNCS.with(&[outcome(&result)]).inc();
        result
    })
    .await;
}

/// What a sync came to, as the label has it.
fn outcome(result: &Result<Outcome, Error>) -> &'static str {
    match result {
        Ok(_) => "success",
        Err(Error::Stale) => "stale",
        Err(_) => "error",
    }
}

/// Queues services that changed, and after `batch` those whose pods did.
pub fn watch_services(services: &Informer<Service>, pods: &Informer<Pod>, queue: &Queue<ObjectKey>, batch: Duration) {
    let sink = queue.clone();
    services.on_change(move |change| sink.add(change.object().key()));
    let (sink, services) = (queue.clone(), services.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        for service in services.list_namespace(pod.namespace()) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if pods::concerns(selector, change.old().map(AsRef::as_ref), pod) {
                sink.add_after(service.key(), batch);
            }
        }
    });
}

/// The pods that the service selects; nothing if it selects none by itself.
pub fn selected_pods(service: &Service, pods: &Informer<Pod>) -> Option<Vec<Arc<Pod>>> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut selected = pods.list_namespace(service.namespace());
    selected.retain(|pod| pods::is_selected(Some(selector), pod.metadata.labels.as_ref()));
    Some(selected)
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.label(slicing::MANAGED_BY_LABEL) == Some(MANAGER)
}

/// The service of a slice, as an index lists it.
pub fn index_by_service(slices: &Informer<EndpointSlice>) {
    slices.add_index(SERVICE_INDEX, |slice| tracker::service_key(slice).map(|key| key.to_string()).into_iter().collect());
}

impl Controller {
    fn watch_slices(&self, queue: &Queue<ObjectKey>, delay: Duration) {
        index_by_service(&self.slices);
        let (queue, tracker) = (queue.clone(), self.tracker.clone());
        let add = move |slice: &EndpointSlice| {
            if let Some(key) = tracker::service_key(slice) {
                queue.add_after(key, delay);
            }
        };
        self.slices.on_change(move |change| match change {
            Change::Added(slice) if is_ours(slice) && tracker.is_news(slice) => add(slice),
            Change::Updated { old, new } if tracker::service_key(old) != tracker::service_key(new) => {
                add(new);
                add(old);
            }
            Change::Updated { old, new } if is_ours(old) != is_ours(new) || (is_ours(new) && tracker.is_news(new)) => add(new),
            Change::Deleted(slice) if is_ours(slice) && tracker.gone(slice) => add(slice),
            _ => {}
        });
    }

    async fn sync(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(service) = self.services.get_key(&key) else {
            self.tracker.forget(&key);
            self.triggers.forget(&key);
            self.totals.forget(&key);
            return Ok(Outcome::Done);
        };
        let Some(pods) = selected_pods(&service, &self.pods) else { return Ok(Outcome::Done) };
        let mut slices = self.slices.by_index(SERVICE_INDEX, &key.to_string());
        slices.retain(|slice| is_ours(slice) && !slice.is_terminating());
        if self.tracker.is_stale(&key, slices.iter().map(AsRef::as_ref)) {
            return Err(Error::Stale);
        }
        let trigger = self.triggers.since_last(&service, &pods);
        let existing: Vec<EndpointSlice> = slices.iter().map(|slice| slice.as_ref().clone()).collect();
        let (plan, homeless) = self.plan(&service, &pods, existing);
        self.count(&service, &slices, &plan);
        let written = self.write(&service, plan, trigger).await;
        // Written without that pod; the service is looked at again until its node or the pod's end is seen.
        let result = written.and(homeless.map_or(Ok(Outcome::Done), Err));
        if let Err(error) = &result {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            self.recorder.warning(&service.reference(), "FailedToUpdateEndpointSlices", message);
        }
        result
    }

    /// What is looked up when somebody asks, for as long as it is kept.
    fn tell(&self) -> [Looking; 4] {
        let look = |of: fn(&Numbers) -> usize| {
            let totals = self.totals.clone();
            move || vec![(Vec::new(), totals.sum(of))]
        };
        let services = self.services.clone();
        let distributions = move || {
            let wanted = |service: &Arc<Service>| service.spec.as_ref()?.traffic_distribution.clone();
            metrics::tally(services.list().iter().filter_map(wanted).map(|wanted| vec![wanted]))
        };
        [
            metrics::SLICES_ENDPOINTS.by(look(|numbers| numbers.endpoints)),
            metrics::SLICES_NUMBER.by(look(|numbers| numbers.slices)),
            metrics::SLICES_DESIRED.by(look(|numbers| numbers.desired)),
            metrics::SLICES_SERVICES.by(distributions),
        ]
    }

    fn count(&self, service: &Service, existing: &[Arc<EndpointSlice>], plan: &Plan) {
        let changes = numbers::changes(existing, plan);
        metrics::SLICES_ADDED.only().observe(changes.added as f64);
        metrics::SLICES_REMOVED.only().observe(changes.removed as f64);
        self.totals.set(&service.key(), numbers::numbers(existing, plan, self.max_endpoints));
    }

    /// What to write, and an error if a pod could not be placed because its node is unknown.
    fn plan(&self, service: &Service, pods: &[Arc<Pod>], slices: Vec<EndpointSlice>) -> (Plan, Option<Error>) {
        let Some(spec) = &service.spec else { return (Plan::default(), None) };
        let (mut all, mut homeless) = (Plan::default(), None);
        let families = pods::families(spec);
        for family in &families {
            let mut desired = Desired::default();
            for pod in pods.iter().filter(|pod| pods::is_endpoint(pod, true)) {
                let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
                let node = self.nodes.get("", name);
                let ports = pods::ports(spec, pod);
                if node.is_none() && spec.publish_not_ready_addresses != Some(true) {
                    desired.keep(ports);
                    homeless = Some(Error::NodeNotFound { pod: pod.name().to_owned(), service: service.key(), node: name.to_owned() });
                    continue;
                }
                desired.insert(ports, pods::endpoint(pod, node.as_deref(), service, family));
            }
            let existing: Vec<EndpointSlice> = slices.iter().filter(|slice| slice.address_type == *family).cloned().collect();
            let template = Template { service, manager: MANAGER, family, max_endpoints: self.max_endpoints };
            let mut plan = slicing::plan(&template, &existing, desired);
            hints::add(Distribution::parse(spec.traffic_distribution.as_deref()), &existing, &mut plan);
            all.create.append(&mut plan.create);
            all.update.append(&mut plan.update);
            all.delete.append(&mut plan.delete);
        }
        all.delete.extend(slices.into_iter().filter(|slice| !families.contains(&slice.address_type.as_str())));
        (all, homeless)
    }

    async fn write(&self, service: &Service, plan: Plan, trigger: Option<Timestamp>) -> Result<Outcome, Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), service.namespace());
        let key = service.key();
        let failed = |verb: &'static str| {
            let service = key.clone();
            move |source| Error::Write { verb, service, source }
        };
        // The garbage collector deletes the slices of a service that is going; new ones would race with it.
        let create = if service.is_terminating() { Vec::new() } else { plan.create };
        let changed = create.len() + plan.update.len() + plan.delete.len();
        for mut slice in create {
            triggers::annotate(&mut slice.metadata, trigger);
            match api.create(&PostParams::default(), &slice).await {
                Ok(written) => {
                    self.tracker.written(&key, &written);
                    metrics::SLICES_CHANGES.with(&["create"]).inc();
                }
                Err(error) if answer::is_namespace_terminating(&error) => return Ok(Outcome::Done),
                Err(error) => return Err(failed("create")(error)),
            }
        }
        for mut slice in plan.update {
            triggers::annotate(&mut slice.metadata, trigger);
            let written = api.replace(slice.name(), &PostParams::default(), &slice).await.map_err(failed("update"))?;
            self.tracker.written(&key, &written);
            metrics::SLICES_CHANGES.with(&["update"]).inc();
        }
        for slice in plan.delete {
            answer::or_absent(api.delete(slice.name(), &DeleteParams::default()).await).map_err(failed("delete"))?;
            self.tracker.deleted(&key, &slice);
            metrics::SLICES_CHANGES.with(&["delete"]).inc();
        }
        let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
        metrics::SLICES_CHANGED.with(&["Disabled", distribution.unwrap_or("")]).observe(changed as f64);
        Ok(Outcome::Done)
    }
}
