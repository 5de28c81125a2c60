//! The endpoints controller: a service with a selector has an Endpoints object of its name, as older clients expect.
//!
//! Services without a selector keep the Endpoints that somebody else writes.

mod subsets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::endpoint_slice::slicing::HEADLESS_LABEL;
use crate::endpoint_slice::triggers::{self, Triggers};
use crate::endpoint_slice::{pods, selected_pods, watch_services};
use crate::failure;
use crate::manager::Context;
use crate::pod_state;
pub use subsets::repack;

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Leader election once used Endpoints that belong to no service.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses in one Endpoints object.
const CAPACITY: usize = 1000;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("endpoints informer cache is out of date, resource version {0} already processed")]
    Stale(String),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    triggers: Triggers,
    /// The revisions that were replaced: the informer that shows one of them lags. One entry a service.
    replaced: Mutex<HashMap<ObjectKey, String>>,
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        services: context.informers.of(),
        pods: context.informers.of(),
        endpoints: context.informers.of(),
        triggers: Triggers::default(),
        replaced: Mutex::default(),
    };
    let queue = Queue::named("endpoint");
    watch_services(&controller.services, &controller.pods, &queue, context.config.endpoint_updates_batch_period);
    controller.services.synced().await;
    controller.pods.synced().await;
    controller.endpoints.synced().await;
    let sink = queue.clone();
    // Known ones are looked at once: their services may have been deleted while nobody watched.
    controller.endpoints.on_change(move |change| {
        if let Change::Deleted(endpoints) = change {
            sink.add(endpoints.key());
        }
    });
    // Later ones that have no service are somebody's own.
    controller.endpoints.list().iter().filter(|known| known.annotation(LEADER).is_none()).for_each(|known| queue.add(known.key()));
    let workers = context.config.concurrent_endpoint_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(service) = self.services.get_key(&key) else {
            if self.endpoints.get_key(&key).is_some() {
                answer::or_absent(api.delete(&key.name, &DeleteParams::default()).await)?;
            }
            self.triggers.forget(&key);
            self.replaced.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        let Some(pods) = selected_pods(&service, &self.pods) else { return Ok(Outcome::Done) };
        let trigger = self.triggers.since_last(&service, &pods);
        let current = self.endpoints.get_key(&key);
        let revision = current.as_ref().and_then(|endpoints| endpoints.metadata.resource_version.clone());
        if let Some(revision) = &revision
            && self.replaced.lock().get(&key) == Some(revision)
        {
            return Err(Error::Stale(revision.clone()));
        }
        let subsets = desired(&service, &pods);
        if current.as_ref().is_some_and(|current| is_current(current, &service, &subsets)) {
            return Ok(Outcome::Done);
        }
        let wanted = write_into(current.as_deref().cloned().unwrap_or_default(), &service, subsets, trigger);
        let written = match revision {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
        };
        match written {
            Ok(written) => {
                if let Some(old) = revision
                    && written.metadata.resource_version.as_ref() != Some(&old)
                {
                    self.replaced.lock().insert(key, old);
                }
                Ok(Outcome::Done)
            }
            Err(error) if answer::is_namespace_terminating(&error) => Ok(Outcome::Done),
            Err(error) => {
                let (reason, what) = match revision {
                    None => ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {key}")),
                    Some(_) => ("FailedToUpdateEndpoint", format!("Failed to update endpoint {key}")),
                };
                self.recorder.warning(&wanted.reference(), reason, format!("{what}: {}", failure::message(&error)));
                Err(error.into())
            }
        }
    }
}

/// The subsets that the service's pods make.
fn desired(service: &Service, selected: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut found = Vec::new();
    for pod in selected.iter().filter(|pod| pods::is_endpoint(pod, publish)) {
        let Some(address) = address(service, spec, pod) else { continue };
        let ports = ports(spec, pod);
        if ports.is_empty() && !(spec.ports.as_ref().is_none_or(Vec::is_empty) && spec.cluster_ip.as_deref() == Some("None")) {
            continue;
        }
        let (ready, not_ready) =
            if publish || pod_state::is_ready(pod) { (Some(vec![address]), None) } else { (None, Some(vec![address])) };
        found.push(EndpointSubset { addresses: ready, not_ready_addresses: not_ready, ports: Some(ports) });
    }
    repack(&found)
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let port = |port: EndpointPortOfSlice| EndpointPort {
        name: port.name.filter(|name| !name.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol,
        app_protocol: port.app_protocol,
    };
    pods::ports(spec, pod).into_iter().map(port).collect()
}

type EndpointPortOfSlice = k8s_openapi::api::discovery::v1::EndpointPort;

/// The pod's address in the service's first family.
fn address(service: &Service, spec: &ServiceSpec, pod: &Pod) -> Option<EndpointAddress> {
    let family = match (spec.ip_families.as_deref(), spec.cluster_ip.as_deref()) {
        (Some([first, ..]), _) => first.as_str(),
        (_, Some(ip)) if !pods::is_headless(spec) => {
            if ip.contains(':') {
                pods::IPV6
            } else {
                pods::IPV4
            }
        }
        _ if pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).is_some_and(|ip| ip.contains(':')) => pods::IPV6,
        _ => pods::IPV4,
    };
    Some(EndpointAddress {
        ip: pods::addresses(pod, family).next()?,
        hostname: pods::hostname(pod, service),
        node_name: Some(pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        target_ref: Some(pods::target(pod)),
    })
}

fn wanted_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_none_or(pods::is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    labels
}

/// Whether the object says all this already. Whether it says that the service is headless is not looked at.
fn is_current(endpoints: &Endpoints, service: &Service, subsets: &[EndpointSubset]) -> bool {
    let plain = |mut labels: BTreeMap<String, String>| {
        labels.remove(HEADLESS_LABEL);
        labels
    };
    let written = endpoints.subsets.as_deref().unwrap_or_default();
    let capacity = subsets::count(written) <= CAPACITY && endpoints.annotation(OVER_CAPACITY).is_none();
    capacity
        && plain(endpoints.metadata.labels.clone().unwrap_or_default()) == plain(wanted_labels(service))
        && subsets::is_same(written, subsets)
}

fn write_into(mut endpoints: Endpoints, service: &Service, mut subsets: Vec<EndpointSubset>, trigger: Option<Timestamp>) -> Endpoints {
    let truncated = subsets::truncate(&mut subsets, CAPACITY);
    endpoints.metadata.name = service.metadata.name.clone();
    endpoints.metadata.namespace = service.metadata.namespace.clone();
    endpoints.metadata.labels = Some(wanted_labels(service));
    endpoints.subsets = Some(subsets);
    triggers::annotate(&mut endpoints.metadata, trigger);
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n", "labels": {"a": "b"}}, "spec": spec})).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]});
        let spec = json!({"nodeName": "node", "containers": []});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec, "status": status}))
                .unwrap(),
        )
    }

    #[test]
    fn ready_and_other_pods_are_told_apart() {
        let service = service(json!({"clusterIP": "10.0.0.9", "ports": [{"port": 80, "targetPort": 8080}]}));
        let subsets = desired(&service, &[pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false), pod("c", "fd00::1", true)]);
        assert_eq!(subsets.len(), 1);
        let ips = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!(
            (ips(&subsets[0].addresses), ips(&subsets[0].not_ready_addresses)),
            (vec!["10.0.0.1".to_owned()], vec!["10.0.0.2".to_owned()])
        );
        assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 8080);
    }

    #[test]
    fn a_headless_service_needs_no_ports() {
        let pods = [pod("a", "10.0.0.1", true)];
        assert_eq!(desired(&service(json!({"clusterIP": "None"})), &pods).len(), 1);
        assert_eq!(desired(&service(json!({"clusterIP": "10.0.0.9"})), &pods).len(), 0);
    }

    #[test]
    fn what_was_written_is_current() {
        let service = service(json!({"clusterIP": "None"}));
        let subsets = desired(&service, &[pod("a", "10.0.0.1", true)]);
        let written = write_into(Endpoints::default(), &service, subsets.clone(), None);
        assert!(is_current(&written, &service, &subsets));
        assert!(!is_current(&written, &service, &[]));
        assert_eq!(written.label(HEADLESS_LABEL), Some(""));
        assert_eq!(written.label("a"), Some("b"));
    }
}
