//! The endpoint slice mirroring controller: Endpoints that people write for services without a selector appear as slices too.
//!
//! It writes slices of its own alone, one for each subset and family, and deletes them with the Endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::events::Recorder;
use client::metrics::Looking;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::endpoint_slice::numbers::{self, Numbers, Totals};
use crate::endpoint_slice::pods::{IPV4, IPV6, PortKey, port_key};
use crate::endpoint_slice::slicing::{MANAGED_BY_LABEL, Plan, SERVICE_NAME_LABEL, name_prefix};
use crate::endpoint_slice::tracker::{self, Tracker};
use crate::endpoint_slice::{SERVICE_INDEX, index_by_service, triggers};
use crate::endpoints::{LEADER, repack};
use crate::manager::Context;
use crate::{failure, metrics};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("EndpointSlice informer cache is out of date")]
    Stale,
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    tracker: Arc<Tracker>,
    max_endpoints: usize,
    totals: Arc<Totals>,
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        services: context.informers.of(),
        endpoints: context.informers.of(),
        slices: context.informers.of(),
        tracker: Arc::default(),
        max_endpoints: context.config.mirroring_max_endpoints_per_subset,
        totals: Arc::default(),
    };
    let _told = controller.tell_numbers();
    let queue = Queue::named("endpoint_slice_mirroring");
    controller.watch(&queue, context.config.mirroring_endpointslice_updates_batch_period);
    controller.services.synced().await;
    controller.endpoints.synced().await;
    controller.slices.synced().await;
    let workers = context.config.mirroring_concurrent_service_endpoint_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown, |key: ObjectKey| async {
        let started = Instant::now();
        let result = controller.sync(key).await;
        metrics::MIRRORED_DURATION.only().observe_time(started.elapsed());
        result
    })
    .await;
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.label(MANAGED_BY_LABEL) == Some(MANAGER)
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP_LABEL) != Some("true") && endpoints.annotation(LEADER).is_none()
}

fn selects(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

impl Controller {
    fn watch(&self, queue: &Queue<ObjectKey>, batch: Duration) {
        index_by_service(&self.slices);
        let sink = queue.clone();
        self.services.on_change(move |change| {
            let concerned = change.old().map_or(!selects(change.object()), |old| selects(old) != selects(change.object()));
            if concerned {
                sink.add(change.object().key());
            }
        });
        let sink = queue.clone();
        self.endpoints.on_change(move |change| {
            if is_mirrored(change.object()) || change.old().is_some_and(|old| is_mirrored(old)) {
                sink.add_after(change.object().key(), batch);
            }
        });
        let (sink, tracker) = (queue.clone(), self.tracker.clone());
        let add = move |slice: &EndpointSlice| {
            if let Some(key) = tracker::service_key(slice) {
                sink.add_after(key, batch);
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
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut slices = self.slices.by_index(SERVICE_INDEX, &key.to_string());
        slices.retain(|slice| is_ours(slice));
        let endpoints = self.endpoints.get_key(&key).filter(|endpoints| is_mirrored(endpoints));
        let service = self.services.get_key(&key).filter(|service| !selects(service));
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            self.tracker.forget(&key);
            self.totals.forget(&key);
            for slice in slices {
                answer::or_absent(api.delete(slice.name(), &DeleteParams::default()).await)?;
            }
            return Ok(Outcome::Done);
        };
        if self.tracker.is_stale(&key, slices.iter().map(AsRef::as_ref)) {
            return Err(Error::Stale);
        }
        let desired = desired(&endpoints, self.max_endpoints);
        self.tell(&endpoints, &desired);
        let existing: Vec<EndpointSlice> = slices.iter().map(|slice| slice.as_ref().clone()).collect();
        let plan = plan(&endpoints, existing, desired.groups);
        metrics::MIRRORED_SKIPPED.only().observe(desired.skipped as f64);
        self.count(&key, &slices, &plan);
        self.write(&api, &endpoints, plan).await?;
        Ok(Outcome::Done)
    }

    /// What is looked up when somebody asks, for as long as it is kept.
    fn tell_numbers(&self) -> [Looking; 3] {
        let look = |of: fn(&Numbers) -> usize| {
            let totals = self.totals.clone();
            move || vec![(Vec::new(), totals.sum(of))]
        };
        [
            metrics::MIRRORED_ENDPOINTS.by(look(|numbers| numbers.endpoints)),
            metrics::MIRRORED_NUMBER.by(look(|numbers| numbers.slices)),
            metrics::MIRRORED_DESIRED.by(look(|numbers| numbers.desired)),
        ]
    }

    fn count(&self, key: &ObjectKey, existing: &[Arc<EndpointSlice>], plan: &Plan) {
        let changes = numbers::changes(existing, plan);
        metrics::MIRRORED_ADDED.only().observe(changes.added as f64);
        metrics::MIRRORED_UPDATED.only().observe(changes.updated as f64);
        metrics::MIRRORED_REMOVED.only().observe(changes.removed as f64);
        self.totals.set(key, numbers::numbers(existing, plan, self.max_endpoints));
    }

    fn tell(&self, endpoints: &Endpoints, desired: &Desired) {
        if desired.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", desired.invalid);
            self.recorder.warning(&endpoints.reference(), "InvalidIPAddress", message);
        }
        if desired.skipped > desired.invalid {
            let (max, skipped) = (self.max_endpoints, desired.skipped);
            let message = format!(
                "A max of {max} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            self.recorder.warning(&endpoints.reference(), "TooManyAddressesToMirror", message);
        }
    }

    async fn write(&self, api: &Api<EndpointSlice>, endpoints: &Endpoints, plan: Plan) -> Result<(), kube::Error> {
        let key = endpoints.key();
        let create = if endpoints.is_terminating() { Vec::new() } else { plan.create };
        for slice in create {
            match api.create(&PostParams::default(), &slice).await {
                Ok(written) => {
                    self.tracker.written(&key, &written);
                    metrics::MIRRORED_CHANGES.with(&["create"]).inc();
                }
                Err(error) if answer::is_namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for slice in plan.update {
            let written = api.replace(slice.name(), &PostParams::default(), &slice).await?;
            self.tracker.written(&key, &written);
            metrics::MIRRORED_CHANGES.with(&["update"]).inc();
        }
        for slice in plan.delete {
            answer::or_absent(api.delete(slice.name(), &DeleteParams::default()).await)?;
            self.tracker.deleted(&key, &slice);
            metrics::MIRRORED_CHANGES.with(&["delete"]).inc();
        }
        Ok(())
    }
}

type GroupKey = (&'static str, Vec<PortKey>);

/// What is to be mirrored, by family and ports.
#[derive(Debug, Default, PartialEq)]
struct Desired {
    groups: BTreeMap<GroupKey, (Vec<EndpointPort>, Vec<Endpoint>)>,
    /// Addresses that are no addresses.
    invalid: usize,
    /// Addresses that are not mirrored: these, and those beyond the limit.
    skipped: usize,
}

fn desired(endpoints: &Endpoints, max: usize) -> Desired {
    let mut desired = Desired::default();
    for subset in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let mut ports: Vec<EndpointPort> = subset
            .ports
            .into_iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol,
            })
            .collect();
        ports.sort_by_key(port_key);
        let key: Vec<PortKey> = ports.iter().map(port_key).collect();
        let ready = subset.addresses.into_iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.into_iter().flatten().map(|address| (address, false));
        let mut added = 0;
        for (address, ready) in ready.chain(not_ready) {
            if added >= max {
                desired.skipped += 1;
                continue;
            }
            let Some((family, endpoint)) = endpoint(address, ready) else {
                desired.invalid += 1;
                desired.skipped += 1;
                continue;
            };
            added += 1;
            desired.groups.entry((family, key.clone())).or_insert_with(|| (ports.clone(), Vec::new())).1.push(endpoint);
        }
    }
    desired
}

fn endpoint(address: EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref,
        node_name: address.node_name,
        hostname: address.hostname.filter(|name| !name.is_empty()),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { IPV6 } else { IPV4 }, endpoint))
}

fn plan(endpoints: &Endpoints, existing: Vec<EndpointSlice>, groups: BTreeMap<GroupKey, (Vec<EndpointPort>, Vec<Endpoint>)>) -> Plan {
    let mut plan = Plan::default();
    let mut by_key = BTreeMap::<(String, Vec<PortKey>), Vec<EndpointSlice>>::new();
    for slice in existing {
        let mut ports: Vec<PortKey> = slice.ports.iter().flatten().map(port_key).collect();
        ports.sort();
        by_key.entry((slice.address_type.clone(), ports)).or_default().push(slice);
    }
    for ((family, key), (ports, desired)) in groups {
        let mut slices = by_key.remove(&(family.to_owned(), key)).unwrap_or_default().into_iter();
        let first = slices.next();
        plan.delete.extend(slices);
        let mut new = new_slice(endpoints, ports, family, desired);
        match first {
            None => plan.create.push(new),
            Some(old) if is_same(&old, &new) => {}
            Some(old) => {
                new.metadata.generate_name = old.metadata.generate_name;
                new.metadata.name = old.metadata.name;
                new.metadata.resource_version = old.metadata.resource_version;
                plan.update.push(new);
            }
        }
    }
    plan.delete.extend(by_key.into_values().flatten());
    reuse(&mut plan);
    plan
}

/// A slice that would be deleted becomes one of its family that would be created.
fn reuse(plan: &mut Plan) {
    let mut create = Vec::new();
    for mut new in std::mem::take(&mut plan.create) {
        match plan.delete.iter().position(|old| old.address_type == new.address_type) {
            None => create.push(new),
            Some(index) => {
                let old = plan.delete.remove(index).metadata;
                new.metadata.generate_name = old.generate_name;
                new.metadata.name = old.name;
                plan.update.push(new);
            }
        }
    }
    plan.create = create;
}

fn new_slice(endpoints: &Endpoints, ports: Vec<EndpointPort>, family: &str, desired: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != triggers::ANNOTATION && key != LAST_APPLIED);
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(desired),
        ports: Some(ports),
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(endpoints.name())),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![endpoints.controller_reference()]),
            ..ObjectMeta::default()
        },
    }
}

fn is_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let sorted = |slice: &EndpointSlice| {
        let mut endpoints = slice.endpoints.clone().unwrap_or_default();
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses).then_with(|| uid(a).cmp(&uid(b))));
        endpoints
    };
    fn uid(endpoint: &Endpoint) -> Option<&str> {
        endpoint.target_ref.as_ref()?.uid.as_deref()
    }
    let owners = |slice: &EndpointSlice| slice.metadata.owner_references.iter().flatten().map(|o| o.uid.clone()).collect::<Vec<_>>();
    old.metadata.labels == new.metadata.labels
        && old.metadata.annotations.clone().unwrap_or_default() == new.metadata.annotations.clone().unwrap_or_default()
        && owners(old) == owners(new)
        && sorted(old) == sorted(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoints(subsets: serde_json::Value) -> Endpoints {
        let annotations = json!({triggers::ANNOTATION: "x", LAST_APPLIED: "y", "kept": "z"});
        serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "annotations": annotations},
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn mirrored(endpoints: &Endpoints, existing: Vec<EndpointSlice>) -> Plan {
        plan(endpoints, existing, desired(endpoints, 2).groups)
    }

    #[test]
    fn each_family_has_a_slice_of_its_own() {
        let endpoints = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]));
        let plan = mirrored(&endpoints, Vec::new());
        let families: Vec<&str> = plan.create.iter().map(|slice| slice.address_type.as_str()).collect();
        assert_eq!(families, [IPV4, IPV6]);
        let slice = &plan.create[0];
        assert_eq!(slice.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["kept"]);
        assert_eq!((slice.label("a"), slice.label(MANAGED_BY_LABEL)), (Some("b"), Some(MANAGER)));
        assert_eq!(mirrored(&endpoints, plan.create), Plan::default());
    }

    #[test]
    fn what_is_no_address_and_what_is_too_much_is_skipped() {
        let endpoints = endpoints(json!([{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}, {"ip": "1.1.1.3"}, {"ip": "0x"}]}]));
        let desired = desired(&endpoints, 2);
        assert_eq!((desired.invalid, desired.skipped), (1, 2));
    }

    #[test]
    fn a_change_updates_the_slice_that_is_there() {
        let before = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]));
        let mut slices = mirrored(&before, Vec::new()).create;
        slices[0].metadata.name = Some("e-1".to_owned());
        let other_port = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]}]));
        let plan = mirrored(&other_port, slices.clone());
        assert_eq!((plan.create.len(), plan.update[0].name(), plan.delete.len()), (0, "e-1", 0));
        let gone = mirrored(&endpoints(json!([])), slices);
        assert_eq!((gone.create.len(), gone.update.len(), gone.delete.len()), (0, 0, 1));
    }
}
