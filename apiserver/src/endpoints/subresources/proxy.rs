//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP requests that are passed on.

use std::net::IpAddr;

use apimachinery::field::quote;
use apimachinery::status::Status;
use rand::RngExt;
use serde_json::Value;

use super::forward::{self, Mode};
use super::location::{self, Target, Transport};
use super::{connect_admission, node};
use crate::endpoints::{Answer, Call, write};
use crate::registry::read::{list_at, str_at};
use crate::storage::{Freshness, Object};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Passes the request on to what the path names.
pub async fn proxy(call: &mut Call) -> Answer {
    connect_admission(call).await?;
    let id = call.name().to_owned();
    let kind = call.resource.singular.clone();
    let (scheme, name, port) = location::split(&id).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {}", quote(&id))))?;
    let mut target = match &*kind {
        "pod" => location::on_pod(&named(call, name).await?, scheme, port)?,
        "service" => on_service(call, scheme, name, port).await?,
        _ => on_node(call, scheme, name, port).await?,
    };
    target.path = location::subpath(&call.request.info.parts, &call.request.info.path);
    target.query = call.request.raw_query.clone();
    forward::forward(call, target, Mode::Rewriting).await
}

async fn named(call: &Call, name: &str) -> Result<Value, Status> {
    let found = call.fresh(call.namespace(), name).await?;
    found.map(|object| object.value()).ok_or_else(|| Status::not_found("", &call.resource.plural, name))
}

async fn on_node(call: &Call, scheme: &str, name: &str, port: &str) -> Result<Target, Status> {
    let node = node(call, name).await?;
    let target = call.api.backends.on_kubelet(&node, String::new(), String::new())?;
    check_host(&target.host).await?;
    if port.is_empty() || port == target.port {
        return Ok(target);
    }
    Ok(location::anybody(scheme, &target.host, port.to_owned()))
}

/// The host must be one that is not this machine or its link.
async fn check_host(host: &str) -> Result<(), Status> {
    let found = tokio::net::lookup_host((host, 0)).await;
    let addresses: Vec<IpAddr> = match found {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(_) => return Err(Status::bad_request(format!("lookup {host}: no such host"))),
    };
    if addresses.is_empty() {
        return Err(Status::bad_request("no addresses for hostname"));
    }
    if addresses.into_iter().all(location::is_global_unicast) { Ok(()) } else { Err(Status::bad_request("address not allowed")) }
}

async fn on_service(call: &Call, scheme: &str, name: &str, port: &str) -> Result<Target, Status> {
    let port_name = match port.parse::<i64>() {
        Ok(number) => location::service_port_name(&named(call, name).await?, name, number)?,
        Err(_) => port.to_owned(),
    };
    let slices = slices_of(call, name)?;
    let pods = super::pods(call)?;
    let pods = write::cache_of(&pods.stored)?;
    call.api.storage.list(pods, Freshness::Latest).await.map_err(|e| call.storage_error(e, name))?;
    let valid = |endpoint: &Value| is_pod(endpoint, call.namespace(), |pod| pods.get(call.namespace(), pod).as_deref().map(Object::value));
    let preferred = crate::allocation::addresses::families(&call.api).first().map_or("IPv4", |family| family.name());
    let (host, port) = location::endpoint(name, &slices, &port_name, preferred, valid, |n| rand::rng().random_range(0..n.max(1)))?;
    Ok(Target { transport: Transport::Anybody, ..location::anybody(scheme, &host, port) })
}

fn slices_of(call: &Call, service: &str) -> Result<Vec<Value>, Status> {
    let catalog = call.api.catalog.load();
    let Some(stored) = catalog.stored_resource("discovery.k8s.io", "endpointslices") else { return Ok(Vec::new()) };
    let snapshot = write::cache_of(stored)?.snapshot();
    let slices = snapshot.range(call.namespace(), None).map(|slice| slice.value());
    Ok(slices
        .filter(|slice| slice.pointer("/metadata/labels").and_then(|l| l.get(SERVICE_NAME_LABEL)).is_some_and(|s| s == service))
        .collect())
}

/// Only addresses that are really those of pods of the namespace are passed on to.
fn is_pod(endpoint: &Value, namespace: &str, pod: impl Fn(&str) -> Option<Value>) -> bool {
    if str_at(endpoint, "/targetRef/namespace") != namespace {
        return false;
    }
    let Some(pod) = pod(str_at(endpoint, "/targetRef/name")) else { return false };
    let address = str_at(endpoint, "/addresses/0");
    !address.is_empty() && list_at(&pod, "/status/podIPs").iter().any(|ip| str_at(ip, "/ip") == address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_pods_are_proxied_to() {
        let pod = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}});
        let check = |endpoint: Value| is_pod(&endpoint, "n", |name| (name == "p").then(|| pod.clone()));
        assert!(check(json!({"addresses": ["10.0.0.1"], "targetRef": {"namespace": "n", "name": "p"}})));
        assert!(!check(json!({"addresses": ["10.0.0.2"], "targetRef": {"namespace": "n", "name": "p"}})));
        assert!(!check(json!({"addresses": ["10.0.0.1"], "targetRef": {"namespace": "m", "name": "p"}})));
        assert!(!check(json!({"addresses": ["10.0.0.1"]})));
    }
}
