//! Objects for tests, from the part of them that a test is about.

use client::Object;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

fn object<K: Object>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's object is well formed")
}

/// The Service `default/web` with this spec and status.
pub fn service(spec: &str, status: &str) -> Service {
    named_service("web", spec, status)
}

pub fn named_service(name: &str, spec: &str, status: &str) -> Service {
    let (spec, status): (Value, Value) = (serde_json::from_str(spec).expect("a spec"), serde_json::from_str(status).expect("a status"));
    object(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status}),
    )
}

/// A slice of `default/web` with these ports and endpoints.
pub fn slice(ports: &str, endpoints: &str) -> EndpointSlice {
    named_slice("web", ports, endpoints)
}

pub fn named_slice(service: &str, ports: &str, endpoints: &str) -> EndpointSlice {
    let (ports, endpoints): (Value, Value) =
        (serde_json::from_str(ports).expect("ports"), serde_json::from_str(endpoints).expect("endpoints"));
    object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": ports, "endpoints": endpoints}))
}
