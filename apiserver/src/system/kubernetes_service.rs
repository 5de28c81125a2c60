//! The service `kubernetes` in `default`, and its Endpoints and EndpointSlice: where clients in the cluster find the API server.
//!
//! The service is created and then left to administrators; the addresses are kept as they should be. Where several API servers share a
//! store they are those of all that live ([`EndpointLeases`]): a server that is told to stop takes itself away, and one that is dead is taken
//! away by the others. Alone on its store a server leaves its address there when it stops, since nobody else would be found instead.

use std::net::IpAddr;
use std::time::Duration;

use apimachinery::status::Status;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::endpoint_leases::EndpointLeases;
use super::service_cidr::ServiceRange;
use super::watched::Watched;
use super::{Reconciler, Settings};
use crate::api::Api;
use crate::endpoints::meta;
use crate::loopback::{Loopback, is_overtaken};
use crate::registry::read::{list_at, str_at};

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
/// Taking oneself away must not keep a server from stopping, as upstream has it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Whose addresses the endpoints are.
enum Keeper {
    /// Somebody else's.
    Nobody,
    /// This server's alone.
    Alone(IpAddr),
    /// This server's and that of the others on the store.
    Shared(IpAddr, EndpointLeases),
}

impl Keeper {
    fn of(api: &Api, settings: &Settings) -> Keeper {
        match (settings.advertise_address, settings.reconciler) {
            (None, _) | (_, Reconciler::Nobody) => Keeper::Nobody,
            (Some(address), Reconciler::Own) => Keeper::Alone(address),
            (Some(address), Reconciler::Leases) => Keeper::Shared(address, EndpointLeases::new(api)),
        }
    }
}

/// Before the server is ready: the service is there, and no lease of an earlier process says that this one serves already.
pub async fn prepare(client: &Loopback, settings: &Settings) -> Result<(), Status> {
    let keeper = Keeper::of(client.api(), settings);
    let endpoints = async {
        match &keeper {
            Keeper::Shared(address, leases) if leases.give_up(*address).await? => set_endpoints(client, settings, &keeper, true).await,
            Keeper::Shared(..) | Keeper::Nobody => Ok(()),
            Keeper::Alone(_) => set_endpoints(client, settings, &keeper, false).await,
        }
    };
    ensure_service(client, settings).await.and(endpoints.await)
}

/// Goes on ensuring until `stop` turns true, and then takes this server away from those that are found.
pub async fn keep(client: &Loopback, settings: &Settings, mut stop: watch::Receiver<bool>) {
    let keeper = Keeper::of(client.api(), settings);
    let resources = [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")];
    let watched = Watched::named(client.api(), &resources, NAME);
    tokio::select! {
        // An error says that nobody is left who could tell it.
        _ = stop.wait_for(|stop| *stop) => {}
        () = go_on(client, settings, &keeper, watched) => {}
    }
    let Keeper::Shared(address, leases) = &keeper else { return };
    let leaving = async {
        leases.give_up(*address).await?;
        set_endpoints(client, settings, &keeper, true).await
    };
    match tokio::time::timeout(LEAVE_TIMEOUT, leaving).await {
        Ok(Ok(())) => {}
        Ok(Err(status)) => tracing::error!(error = status.message, "unable to remove endpoints from kubernetes service"),
        Err(_) => tracing::warn!("removing endpoints from kubernetes service took too long"),
    }
}

async fn go_on(client: &Loopback, settings: &Settings, keeper: &Keeper, mut watched: Watched) {
    loop {
        let last = Instant::now();
        match ensure(client, settings, keeper).await {
            // Nothing tells that a lease has ended.
            Ok(()) if matches!(keeper, Keeper::Shared(..)) => {}
            Ok(()) => watched.changed().await,
            Err(status) => tracing::warn!(error = status.message, "the service kubernetes is not as it should be"),
        }
        tokio::time::sleep_until(last + PERIOD).await;
    }
}

/// One look at everything. The endpoints are set right even where the service cannot be made.
async fn ensure(client: &Loopback, settings: &Settings, keeper: &Keeper) -> Result<(), Status> {
    if let Keeper::Shared(address, leases) = keeper {
        leases.renew(*address).await?;
    }
    let service = ensure_service(client, settings).await;
    service.and(set_endpoints(client, settings, keeper, false).await)
}

/// Sets the endpoints right. `leaving`: this server is none of them any more, and there may be no other.
async fn set_endpoints(client: &Loopback, settings: &Settings, keeper: &Keeper, leaving: bool) -> Result<(), Status> {
    let (addresses, own_ports) = match keeper {
        Keeper::Nobody => return Ok(()),
        Keeper::Alone(address) => (vec![*address], true),
        Keeper::Shared(_, leases) => {
            // Ports are set by whoever comes or goes, or servers that differ in them would set them in turn for ever.
            (leases.addresses().await?, leaving)
        }
    };
    if addresses.is_empty() && !leaving {
        let why = "no API server IP addresses were listed in storage, refusing to erase all endpoints for the kubernetes Service";
        return Err(Status::internal_error(why));
    }
    let has_endpoints = client.serves("", "endpoints");
    let current = client.get("", "endpoints", NAMESPACE, NAME);
    if has_endpoints && current.is_none() && leaving {
        return Ok(());
    }
    let subsets = subsets(current.as_ref(), &addresses, settings.port, own_ports);
    if has_endpoints {
        keep_object(client, ENDPOINTS, current, endpoints(&subsets), &["subsets"]).await?;
    }
    if client.serves("discovery.k8s.io", "endpointslices") {
        let wanted = slice(&subsets);
        let mut current = client.get("discovery.k8s.io", "endpointslices", NAMESPACE, NAME);
        // The family of a slice does not change.
        if let Some(other) = current.take_if(|current| current["addressType"] != wanted["addressType"]) {
            client.delete(&format!("{SLICES}/{NAME}"), meta::text(&other, "uid")).await?;
        }
        keep_object(client, SLICES, current, wanted, &["endpoints", "ports"]).await?;
    }
    Ok(())
}

/// What the subsets of the endpoints should be. Those of `current` stay if their addresses are right, whatever their order; their ports
/// too, unless `own_ports`.
fn subsets(current: Option<&Value>, addresses: &[IpAddr], port: u16, own_ports: bool) -> Value {
    let mut texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.sort();
    texts.dedup();
    if texts.is_empty() {
        return json!([]);
    }
    let ports = json!([{ "name": "https", "port": port, "protocol": "TCP" }]);
    let listed: Vec<Value> = texts.iter().map(|ip| json!({ "ip": ip })).collect();
    let Some([only]) = current.and_then(|current| current["subsets"].as_array()).map(Vec::as_slice) else {
        return json!([{ "addresses": listed, "ports": ports }]);
    };
    let mut only = only.clone();
    let mut there: Vec<&str> = list_at(&only, "/addresses").iter().map(|address| str_at(address, "/ip")).collect();
    there.sort_unstable();
    if there != texts {
        only["addresses"] = listed.into();
    }
    if own_ports || only["ports"].is_null() {
        only["ports"] = ports;
    }
    json!([only])
}

/// Creates the service and its address if they are missing.
async fn ensure_service(client: &Loopback, settings: &Settings) -> Result<(), Status> {
    let Some(address) = settings.service_ranges.first().map(ServiceRange::first) else { return Ok(()) };
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

fn endpoints(subsets: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": subsets,
    })
}

/// The slice that says what the endpoints say. Of addresses of both families it has the IPv4 ones.
fn slice(subsets: &Value) -> Value {
    let addresses: Vec<&str> = list_at(subsets, "/0/addresses").iter().map(|address| str_at(address, "/ip")).collect();
    let is_v6 = |address: &str| address.contains(':');
    let all_v6 = !addresses.is_empty() && addresses.iter().all(|address| is_v6(address));
    let ready = |address: &&str| json!({ "addresses": [address], "conditions": { "ready": true } });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": NAME } },
        "addressType": if all_v6 { "IPv6" } else { "IPv4" },
        "endpoints": addresses.iter().filter(|address| is_v6(address) == all_v6).map(ready).collect::<Vec<_>>(),
        "ports": subsets.pointer("/0/ports").cloned().unwrap_or(Value::Null),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_set_right_and_left_alone_when_they_are() {
        let wanted = endpoints(&subsets(None, &[IpAddr::from([10, 1, 2, 3])], 6443, true));
        assert_eq!(revise(&wanted, &wanted, &["subsets"]), None);
        let mut other = endpoints(&subsets(None, &[IpAddr::from([10, 9, 9, 9])], 6443, true));
        other["metadata"]["labels"] = json!({"mine": "1"});
        let revised = revise(&other, &wanted, &["subsets"]).unwrap();
        assert_eq!(revised["subsets"], wanted["subsets"]);
        assert_eq!(revised["metadata"]["labels"], json!({"mine": "1", "endpointslice.kubernetes.io/skip-mirror": "true"}));
    }

    #[test]
    fn subsets_are_those_who_live_and_otherwise_what_they_were() {
        let port = |port: u16| json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let of = |ips: &[&str], at: u16| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            json!([{"addresses": addresses, "ports": port(at)}])
        };
        let (a, b) = ("10.0.0.1", "10.0.0.2");
        for (name, current, living, own_ports, expected) in [
            ("nothing is there", json!([]), vec![b, a], false, of(&[a, b], 6443)),
            ("as it should be, in another order and at another port", of(&[b, a], 7443), vec![a, b], false, of(&[b, a], 7443)),
            ("one has come", of(&[a], 7443), vec![a, b], false, of(&[a, b], 7443)),
            ("one has gone, and sets the ports", of(&[a, b], 7443), vec![b], true, of(&[b], 6443)),
            ("the last has gone", of(&[a], 6443), vec![], true, json!([])),
            (
                "two subsets are nobody's work",
                json!([{"addresses": [{"ip": a}]}, {"addresses": [{"ip": b}]}]),
                vec![a],
                false,
                of(&[a], 6443),
            ),
            ("twice the same", of(&[a, a], 6443), vec![a, a], false, of(&[a], 6443)),
        ] {
            let living: Vec<IpAddr> = living.into_iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(subsets(Some(&json!({"subsets": current})), &living, 6443, own_ports), expected, "{name}");
        }
    }

    #[test]
    fn a_slice_is_of_one_family() {
        let of = |ips: &[&str]| {
            let addresses: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let slice = slice(&subsets(None, &addresses, 6443, true));
            let told: Vec<String> = list_at(&slice, "/endpoints").iter().map(|e| str_at(e, "/addresses/0").to_owned()).collect();
            (str_at(&slice, "/addressType").to_owned(), told)
        };
        let owned = |family: &str, ips: &[&str]| (family.to_owned(), ips.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["10.0.0.1", "fd00::1"]), owned("IPv4", &["10.0.0.1"]));
        assert_eq!(of(&["fd00::2", "fd00::1"]), owned("IPv6", &["fd00::1", "fd00::2"]));
        assert_eq!(of(&[]), owned("IPv4", &[]));
    }
}
