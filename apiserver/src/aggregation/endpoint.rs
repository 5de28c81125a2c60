//! Where a service's server is: a ready endpoint of the port, chosen anew for each request.

use apimachinery::field::quote;
use rand::RngExt;
use serde_json::Value;

use super::registration::ServiceRef;
use crate::api::Api;
use crate::endpoints::subresources::location::{self, Target};
use crate::registry::read::{list_at, str_at};
use crate::system::watched::cache;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// An endpoint of a service, or why there is none.
pub fn resolve(api: &Api, service: &ServiceRef) -> Result<Target, String> {
    let ServiceRef { namespace, name, port } = service;
    let found = cache(api, "", "services").and_then(|services| services.get(namespace, name)).map(|service| service.value());
    let found = found.ok_or_else(|| format!("services {} not found", quote(name)))?;
    let slices: Vec<Value> = match cache(api, "discovery.k8s.io", "endpointslices") {
        Some(slices) => {
            let snapshot = slices.snapshot();
            let own = snapshot.range(namespace, None).filter(|slice| slice.labels().get(SERVICE_NAME_LABEL) == Some(name.as_str()));
            own.map(|slice| slice.value()).collect()
        }
        None => Vec::new(),
    };
    choose(&found, slices, name, *port, |n| rand::rng().random_range(0..n.max(1)))
}

fn choose(service: &Value, mut slices: Vec<Value>, name: &str, port: i64, random: impl FnMut(usize) -> usize) -> Result<Target, String> {
    let kind = str_at(service, "/spec/type");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        return Err(format!("unsupported service type {}", quote(kind)));
    }
    let port_name = location::service_port_name(service, name, port).map_err(|status| status.message)?;
    // A port without a name has none in the slices either.
    for port in slices.iter_mut().filter_map(|slice| slice.get_mut("ports").and_then(Value::as_array_mut)).flatten() {
        if let Some(port) = port.as_object_mut() {
            port.entry("name").or_insert_with(|| Value::String(String::new()));
        }
    }
    let preferred = list_at(service, "/spec/ipFamilies").first().and_then(Value::as_str).unwrap_or("IPv4");
    let (host, port) = location::endpoint(name, &slices, &port_name, preferred, |_| true, random).map_err(|status| status.message)?;
    Ok(location::anybody("https", &host, port))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ready_endpoint_of_the_port_is_taken() {
        let service = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 443}, {"name": "other", "port": 80}]}});
        let slice = json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]}],
            "ports": [{"port": 8443}, {"name": "other", "port": 8080}],
        });
        let chosen = |service: &Value, slices: Vec<Value>, port| choose(service, slices, "s", port, |_| 0).map(|t| t.authority());
        assert_eq!(chosen(&service, vec![slice.clone()], 443), Ok("10.0.0.2:8443".to_owned()));
        assert_eq!(chosen(&service, vec![slice.clone()], 80), Ok("10.0.0.2:8080".to_owned()));
        assert_eq!(chosen(&service, vec![], 443), Err("no endpoints available for service \"s\"".to_owned()));
        assert_eq!(chosen(&service, vec![slice.clone()], 81), Err("no service port 81 found for service \"s\"".to_owned()));
        let elsewhere = json!({"spec": {"type": "ExternalName"}});
        assert_eq!(chosen(&elsewhere, vec![slice], 443), Err("unsupported service type \"ExternalName\"".to_owned()));
    }
}
