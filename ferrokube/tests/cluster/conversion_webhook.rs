//! A conversion webhook served by a test: three versions of a kind, which hold the same in different fields.
//!
//! `v1` has `hostPort: "h:p"`, `v2` has `host` and `port`, `v3` has `endpoint: {host, port}`. Each has in `trail` the versions that an
//! object came through, so that a test sees that it was the webhook which converted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use serde_json::{Value, json};

use crate::webhook_server;

pub const GROUP: &str = "conversion.example.com";
pub const KIND: &str = "Endpoint";
pub const PLURAL: &str = "endpoints";

#[derive(Default)]
pub struct Seen {
    /// Answers are refused while this is true.
    pub down: AtomicBool,
    /// Milliseconds that an answer takes.
    pub delay_ms: AtomicU64,
    pub calls: AtomicUsize,
    pub objects: AtomicUsize,
    pub connections: AtomicUsize,
    /// The versions of the objects, new and old, that admission was asked about.
    pub admitted: Mutex<Vec<(Option<String>, Option<String>)>>,
}

/// The webhook, for as long as this lives.
pub struct Server {
    pub port: u16,
    pub ca: String,
    pub seen: Arc<Seen>,
    _serving: webhook_server::Serving,
}

fn parts(object: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some((host, port)) = object["hostPort"].as_str().and_then(|both| both.split_once(':')) {
        return (host.to_owned(), port.to_owned());
    }
    if object["endpoint"].is_object() {
        return (text(&object["endpoint"]["host"]), text(&object["endpoint"]["port"]));
    }
    (text(&object["host"]), text(&object["port"]))
}

fn convert(object: &Value, to: &str) -> Value {
    let (host, port) = parts(object);
    let version = to.rsplit_once('/').expect("a group and a version").1;
    let mut converted = object.clone();
    let map = converted.as_object_mut().expect("an object");
    for field in ["hostPort", "host", "port", "endpoint"] {
        map.remove(field);
    }
    map.insert("apiVersion".to_owned(), to.into());
    match version {
        "v1" => drop(map.insert("hostPort".to_owned(), format!("{host}:{port}").into())),
        "v2" => map.extend([("host".to_owned(), host.into()), ("port".to_owned(), port.into())]),
        _ => drop(map.insert("endpoint".to_owned(), json!({ "host": host, "port": port }))),
    }
    let from = object["apiVersion"].as_str().expect("a version").rsplit_once('/').expect("a group and a version").1;
    let trail = object["trail"].as_str().unwrap_or_default();
    map.insert("trail".to_owned(), format!("{trail}{from}>").into());
    // Nobody believes this.
    map["metadata"]["ownerReferences"] = json!([]);
    converted
}

async fn answer(State(seen): State<Arc<Seen>>, Json(review): Json<Value>) -> Result<Json<Value>, StatusCode> {
    if seen.down.load(Ordering::SeqCst) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    tokio::time::sleep(Duration::from_millis(seen.delay_ms.load(Ordering::SeqCst))).await;
    let request = &review["request"];
    let objects = request["objects"].as_array().expect("objects");
    seen.calls.fetch_add(1, Ordering::SeqCst);
    seen.objects.fetch_add(objects.len(), Ordering::SeqCst);
    let to = request["desiredAPIVersion"].as_str().expect("a version");
    assert!(objects.iter().all(|o| o["apiVersion"] != to), "asked about what needs no conversion");
    let names: HashSet<&str> = objects.iter().map(|o| o["metadata"]["name"].as_str().expect("a name")).collect();
    let poisoned = names.iter().find(|name| name.starts_with("poison"));
    let result = match poisoned {
        Some(name) => json!({ "status": "Failure", "message": format!("{name} is poisoned") }),
        None => json!({ "status": "Success" }),
    };
    let converted: Vec<Value> = objects.iter().map(|object| convert(object, to)).collect();
    Ok(Json(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "response": { "uid": request["uid"], "result": result, "convertedObjects": converted },
    })))
}

/// A mutating admission webhook beside it, which asks for `v2`: every port below 10 becomes ten times as much.
async fn admit(State(seen): State<Arc<Seen>>, Json(review): Json<Value>) -> Json<Value> {
    let request = &review["request"];
    let shown = |object: &Value| object["apiVersion"].as_str().map(str::to_owned);
    seen.admitted.lock().expect("no test has failed").push((shown(&request["object"]), shown(&request["oldObject"])));
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    if let Some(port) = request["object"]["port"].as_str().filter(|port| port.len() == 1) {
        let patch = json!([{ "op": "replace", "path": "/port", "value": format!("{port}0") }]).to_string();
        response["patchType"] = "JSONPatch".into();
        response["patch"] = base64::engine::general_purpose::STANDARD.encode(patch).into();
    }
    Json(json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }))
}

/// The configuration of [`admit`].
pub fn admission(server: &Server) -> Value {
    let rule = json!({ "apiGroups": [GROUP], "apiVersions": ["v2"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": [PLURAL] });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": { "name": "ports" },
        "webhooks": [{
            "name": "ports.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "matchPolicy": "Equivalent",
            "rules": [rule],
            "clientConfig": {
                "url": format!("https://127.0.0.1:{}/admit", server.port),
                "caBundle": base64::engine::general_purpose::STANDARD.encode(&server.ca),
            },
        }],
    })
}

/// Starts the webhook on a free port.
pub async fn serve() -> Server {
    let seen = Arc::new(Seen::default());
    let app = Router::new().route("/convert", post(answer)).route("/admit", post(admit)).with_state(seen.clone());
    let counter = seen.clone();
    let count = move || {
        counter.connections.fetch_add(1, Ordering::SeqCst);
    };
    let serving = webhook_server::serve(app, count).await;
    Server { port: serving.port, ca: serving.ca.clone(), seen, _serving: serving }
}

/// The definition of the kind, with one version stored and the others served.
pub fn definition(server: &Server, stored: &str) -> Value {
    let text = json!({ "type": "string" });
    let fields = [
        ("v1", json!({ "hostPort": text }), vec![".hostPort"]),
        ("v2", json!({ "host": text, "port": text }), vec![".host", ".port"]),
        ("v3", json!({ "endpoint": { "type": "object", "properties": { "host": text, "port": text } } }), vec![".endpoint.port"]),
    ];
    let versions: Vec<Value> = fields
        .into_iter()
        .map(|(name, mut properties, selectable)| {
            properties["trail"] = text.clone();
            properties["status"] = json!({ "type": "object", "properties": { "ready": { "type": "integer" } } });
            properties["spec"] = json!({ "type": "object", "properties": { "replicas": { "type": "integer" } } });
            let columns = selectable.iter().map(|path| json!({ "name": path[1..], "type": "string", "jsonPath": path }));
            json!({
                "name": name, "served": true, "storage": name == stored,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": properties } },
                "subresources": { "status": {}, "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.ready" } },
                "selectableFields": selectable.iter().map(|path| json!({ "jsonPath": path })).collect::<Vec<_>>(),
                "additionalPrinterColumns": columns.collect::<Vec<_>>(),
            })
        })
        .collect();
    let bundle = base64::engine::general_purpose::STANDARD.encode(&server.ca);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{PLURAL}.{GROUP}") },
        "spec": {
            "group": GROUP, "scope": "Namespaced", "versions": versions,
            "names": { "plural": PLURAL, "singular": "endpoint", "kind": KIND, "listKind": "EndpointList" },
            "conversion": { "strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": { "url": format!("https://127.0.0.1:{}/convert", server.port), "caBundle": bundle },
            } },
        },
    })
}
