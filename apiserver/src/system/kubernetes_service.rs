//! The service `kubernetes` in `default`, and its Endpoints and EndpointSlice: where clients in the cluster find the API server.
//!
//! The service is created and then left to administrators; the addresses are kept as they should be.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Settings;
use super::watched::Watched;
use crate::api::Api;
use crate::loopback::{Loopback, is_overtaken};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// The port of the service.
const PORT: u16 = 443;
/// Changes are looked at this long after the last look at the latest, as upstream does.
const PERIOD: Duration = Duration::from_secs(10);

/// What may change the addresses.
pub fn watched(api: &Arc<Api>) -> Watched {
    Watched::named(api, &[("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")], NAME)
}

/// Goes on ensuring. Never returns; dropped at the end.
pub async fn keep(client: &Loopback, settings: &Settings, mut watched: Watched) {
    loop {
        let last = Instant::now();
        match ensure(client, settings).await {
            Ok(()) => watched.changed().await,
            Err(status) => tracing::warn!(error = status.message, "the service kubernetes is not as it should be"),
        }
        tokio::time::sleep_until(last + PERIOD).await;
    }
}

/// Creates the service and its address if they are missing, and sets its endpoints right.
pub async fn ensure(client: &Loopback, settings: &Settings) -> Result<(), Status> {
    let Some(range) = settings.service_ranges.first() else { return Ok(()) };
    let service = ensure_service(client, range.first(), settings).await;
    let endpoints = match settings.advertise_address {
        Some(_) if !settings.keeps_endpoints => Ok(()),
        Some(advertised) => ensure_endpoints(client, advertised, settings.port).await,
        None => Ok(()),
    };
    service.and(endpoints)
}

async fn ensure_service(client: &Loopback, address: IpAddr, settings: &Settings) -> Result<(), Status> {
    if !client.serves("", "services") {
        return Ok(());
    }
    if client.get("", "services", NAMESPACE, NAME).is_none() {
        client.ensure(SERVICES, service(address, settings.port, settings.node_port)).await?;
    }
    // The allocator makes this one with the service; a service that was restored without it gets it here.
    let name = address.to_string();
    if client.serves("networking.k8s.io", "ipaddresses") && client.get("networking.k8s.io", "ipaddresses", "", &name).is_none() {
        client.ensure(ADDRESSES, ip_address(address)).await?;
    }
    Ok(())
}

async fn ensure_endpoints(client: &Loopback, advertised: IpAddr, port: u16) -> Result<(), Status> {
    if client.serves("", "endpoints") {
        let current = client.get("", "endpoints", NAMESPACE, NAME);
        keep_object(client, ENDPOINTS, current, endpoints(advertised, port), &["subsets"]).await?;
    }
    if client.serves("discovery.k8s.io", "endpointslices") {
        let current = client.get("discovery.k8s.io", "endpointslices", NAMESPACE, NAME);
        keep_object(client, SLICES, current, slice(advertised, port), &["addressType", "endpoints", "ports"]).await?;
    }
    Ok(())
}

/// Creates an object, or sets the `fields` and the labels that it must have.
async fn keep_object(client: &Loopback, collection: &str, current: Option<Value>, wanted: Value, fields: &[&str]) -> Result<(), Status> {
    let Some(current) = current else { return client.ensure(collection, wanted).await.map(|_| ()) };
    let Some(revised) = revise(&current, &wanted, fields) else { return Ok(()) };
    match client.replace(&format!("{collection}/{NAME}"), revised).await {
        Err(status) if !is_overtaken(&status) => Err(status),
        _ => Ok(()),
    }
}

fn revise(current: &Value, wanted: &Value, fields: &[&str]) -> Option<Value> {
    let mut revised = current.clone();
    for field in fields {
        revised[*field] = wanted[*field].clone();
    }
    for (label, value) in wanted.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        revised["metadata"]["labels"][label] = value.clone();
    }
    (revised != *current).then_some(revised)
}

/// `node_port`: where nodes serve it; 0 for nowhere.
fn service(address: IpAddr, port: u16, node_port: u16) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "provider": "kubernetes", "component": "apiserver" } },
        "spec": {
            "ports": [{ "name": "https", "protocol": "TCP", "port": PORT, "targetPort": port }],
            "clusterIP": address.to_string(),
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    });
    if node_port > 0 {
        service["spec"]["type"] = "NodePort".into();
        service["spec"]["ports"][0]["nodePort"] = node_port.into();
    }
    service
}

fn ip_address(address: IpAddr) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family(address),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": { "parentRef": { "resource": "services", "namespace": NAMESPACE, "name": NAME } },
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn endpoints(address: IpAddr, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": [{
            "addresses": [{ "ip": address.to_string() }],
            "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
        }],
    })
}

fn slice(address: IpAddr, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": NAME } },
        "addressType": family(address),
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_set_right_and_left_alone_when_they_are() {
        let address = IpAddr::from([10, 1, 2, 3]);
        let wanted = endpoints(address, 6443);
        assert_eq!(revise(&wanted, &wanted, &["subsets"]), None);
        let mut other = endpoints(IpAddr::from([10, 9, 9, 9]), 6443);
        other["metadata"]["labels"] = json!({"mine": "1"});
        let revised = revise(&other, &wanted, &["subsets"]).unwrap();
        assert_eq!(revised["subsets"], wanted["subsets"]);
        assert_eq!(revised["metadata"]["labels"], json!({"mine": "1", "endpointslice.kubernetes.io/skip-mirror": "true"}));
    }
}
