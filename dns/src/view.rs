//! What of the cluster names depend on. Informers' local copies, looked up by name or by address.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Informer, Informers, Object, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

const BY_SERVICE: &str = "service";
const BY_ADDRESS: &str = "address";

/// The cluster, as far as names go.
#[derive(Clone)]
pub struct View {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
}

/// The Service whose endpoints a slice holds.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    slice.label(SERVICE_NAME_LABEL).filter(|name| !name.is_empty()).map(|name| ObjectKey::new(slice.namespace(), name))
}

/// The Service's cluster IPs; none if it is headless.
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let one = spec.cluster_ip.as_slice();
    if several.is_empty() { one } else { several }.iter().filter_map(|text| text.parse().ok()).collect()
}

impl View {
    /// Informers of somebody, with the indexes that names need.
    pub fn new(services: Informer<Service>, slices: Informer<EndpointSlice>, namespaces: Informer<Namespace>) -> View {
        services.add_index(BY_ADDRESS, |service| cluster_ips(service).iter().map(ToString::to_string).collect());
        slices.add_index(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        slices.add_index(BY_ADDRESS, |slice| {
            slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
        });
        View { services, slices, namespaces }
    }

    /// The informers of a process.
    pub fn of(informers: &Informers) -> View {
        View::new(informers.of(), informers.of(), informers.of())
    }

    /// Whether everything there is is known.
    pub fn is_complete(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced() && self.namespaces.has_synced()
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get("", name).is_some()
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    /// The slices of a Service.
    pub fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &ObjectKey::new(namespace, name).to_string())
    }

    pub fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        self.services.by_index(BY_ADDRESS, &ip.to_string())
    }

    /// The slices that have an endpoint at this address.
    pub fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_ADDRESS, &ip.to_string())
    }
}
