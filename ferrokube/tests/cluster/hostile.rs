//! Requests and webhooks that mean harm, or are merely very wrong: each is refused in bounded time and memory, in upstream's words, and the
//! server goes on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use futures::future::join_all;
use kube::Client;
use serde_json::{Value, json};

use crate::process::Cluster;
use crate::webhook_server::{self, Serving};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// None of these requests takes a second on an idle machine; what explodes takes minutes or all memory.
const PROMPT: Duration = Duration::from_secs(20);
/// What the server may grow by through all of them.
const MAX_GROWTH_KIB: u64 = 700 * 1024;

/// Sends a request and gives the code and the message of the answer, or its kind if it is none of refusal.
async fn send(client: &Client, method: &str, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(path).header("content-type", content_type).body(body.into()).expect("a request");
    let started = Instant::now();
    let answer = client.request::<Value>(request).await;
    assert!(started.elapsed() < PROMPT, "{method} {path} took {:?}", started.elapsed());
    match answer {
        Ok(object) => (200, object["kind"].as_str().unwrap_or_default().to_owned()),
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(other) => panic!("{method} {path}: {other}"),
    }
}

async fn create(client: &Client, body: &Value) -> (u16, String) {
    send(client, "POST", MAPS, JSON, body.to_string()).await
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn refused((code, message): (u16, String), expected: u16, text: &str) {
    assert!(code == expected && message.contains(text), "expected {expected} {text}, found {code} {}", &message[..message.len().min(500)]);
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

fn entry(manager: usize, fields: Value) -> Value {
    json!({"manager": format!("m{manager}"), "operation": "Update", "apiVersion": "v1", "time": "2020-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields})
}

/// Webhooks that should not be trusted.
struct Traps {
    client: Client,
    calls: AtomicUsize,
}

async fn hang() -> Json<Value> {
    std::future::pending().await
}

/// Writes what it is asked about once more, so that it is asked again before it has answered.
async fn call_back(State(traps): State<Arc<Traps>>, Json(review): Json<Value>) -> Json<Value> {
    let call = traps.calls.fetch_add(1, Ordering::SeqCst);
    let mut again = review["request"]["object"].clone();
    again["metadata"] = json!({"name": format!("again-{call}"), "labels": again["metadata"]["labels"]});
    let request = http::Request::post(MAPS).header("content-type", JSON).body(again.to_string().into_bytes()).expect("a request");
    // Whether it is written is not what this is about.
    let _ = traps.client.request::<Value>(request).await;
    allow(&review, json!({}))
}

fn allow(review: &Value, more: Value) -> Json<Value> {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    for (key, value) in more.as_object().into_iter().flatten() {
        response[key] = value.clone();
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

async fn explode(Json(review): Json<Value>) -> Json<Value> {
    let bomb: Vec<Value> = copies().collect();
    let patch = base64::engine::general_purpose::STANDARD.encode(json!(bomb).to_string());
    allow(&review, json!({"patchType": "JSONPatch", "patch": patch}))
}

async fn endless() -> axum::body::Body {
    let chunk = axum::body::Bytes::from(vec![b' '; 1 << 16]);
    axum::body::Body::from_stream(futures::stream::repeat(Ok::<_, std::io::Error>(chunk)))
}

async fn deep() -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", JSON)], nested("{\"response\":", "}", 100_000))
}

/// Operations of which each doubles what the one before has made.
fn copies() -> impl Iterator<Item = Value> {
    let start = [json!({"op": "add", "path": "/metadata/annotations", "value": {}}), json!({"op": "add", "path": "/metadata/annotations/a", "value": {}})];
    let double = |i: usize| json!({"op": "copy", "from": "/metadata/annotations", "path": format!("/metadata/annotations/c{i}")});
    start.into_iter().chain((0..60).map(double))
}

async fn serve(client: Client) -> (Serving, Arc<Traps>) {
    let traps = Arc::new(Traps { client, calls: AtomicUsize::new(0) });
    let app = Router::new()
        .route("/hang", post(hang))
        .route("/call-back", post(call_back))
        .route("/explode", post(explode))
        .route("/endless", post(endless))
        .route("/deep", post(deep))
        .with_state(traps.clone());
    (webhook_server::serve(app, || {}).await, traps)
}

/// Asks the trap of that name about everything that is labelled with it, or about all there is.
async fn configure(client: &Client, serving: &Serving, trap: &str, failure_policy: &str, everything: bool) {
    let rule = if everything {
        json!({"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]})
    } else {
        json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]})
    };
    let selector = if everything { json!({}) } else { json!({"matchLabels": {"trap": format!("{trap}-{failure_policy}")}}) };
    let webhook = json!({
        "name": format!("{trap}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 1,
        "failurePolicy": failure_policy, "rules": [rule], "objectSelector": selector,
        "clientConfig": {
            "url": format!("https://127.0.0.1:{}/{trap}", serving.port),
            "caBundle": base64::engine::general_purpose::STANDARD.encode(&serving.ca),
        },
    });
    let name = format!("{trap}-{}", failure_policy.to_lowercase());
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": name}, "webhooks": [webhook],
    });
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    assert_eq!(send(client, "POST", path, JSON, configuration.to_string()).await.0, 200);
}

fn labelled(name: &str, trap: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"trap": trap}}})
}

/// Waits until a configuration is in force, which servers learn of a moment later.
async fn until<F: Future<Output = bool>>(mut done: impl FnMut() -> F) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < PROMPT, "it does not take effect");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_hang_call_back_or_explode_cost_their_timeout_and_no_more() {
    let data = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.impatient_client().await;
    let (serving, traps) = serve(client.clone()).await;
    for trap in ["hang", "call-back", "explode", "endless", "deep"] {
        configure(&client, &serving, trap, "Fail", false).await;
        configure(&client, &serving, trap, "Ignore", false).await;
        // A name that is new each time, as one may get through before.
        let attempts = AtomicUsize::new(0);
        until(|| async {
            let name = format!("{trap}-{}", attempts.fetch_add(1, Ordering::SeqCst));
            create(&client, &labelled(&name, &format!("{trap}-Fail"))).await.0 != 200 || trap == "call-back"
        })
        .await;
    }
    let port = serving.port;
    let failing = |trap: &str, why: &str| format!("failed calling webhook \"{trap}.example.com\": failed to call webhook: {why}");
    let late = |trap: &str| failing(trap, &format!("Post \"https://127.0.0.1:{port}/{trap}?timeout=1s\": context deadline exceeded"));

    refused(create(&client, &labelled("hung", "hang-Fail")).await, 500, &late("hang"));
    let started = Instant::now();
    assert_eq!(create(&client, &labelled("ignored", "hang-Ignore")).await.0, 200);
    assert!(started.elapsed() >= Duration::from_secs(1));

    // Many that hang wait side by side, and nobody else waits for them.
    let started = Instant::now();
    let names: Vec<Value> = (0..200).map(|i| labelled(&format!("many-{i}"), "hang-Fail")).collect();
    let (hung, quick) = tokio::join!(join_all(names.iter().map(|body| create(&client, body))), async {
        let started = Instant::now();
        assert_eq!(create(&client, &map("beside", json!({}))).await.0, 200);
        started.elapsed()
    });
    assert!(hung.iter().all(|(code, _)| *code == 500));
    assert!(started.elapsed() < Duration::from_secs(15), "200 hung requests took {:?}", started.elapsed());
    assert!(quick < Duration::from_secs(10), "one beside them took {quick:?}");

    // Each round of the circle waits for the next, so the first timeout ends them all.
    let started = Instant::now();
    let calls = traps.calls.load(Ordering::SeqCst);
    refused(create(&client, &labelled("round", "call-back-Fail")).await, 500, &late("call-back"));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(traps.calls.load(Ordering::SeqCst) > calls + 1, "the webhook was not asked about its own writes");
    let settled = async || {
        let before = traps.calls.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        before == traps.calls.load(Ordering::SeqCst)
    };
    until(settled).await;

    refused(create(&client, &labelled("bomb", "explode-Fail")).await, 500, "Internal error occurred: ");
    refused(create(&client, &labelled("endless", "endless-Fail")).await, 500, "failed calling webhook \"endless.example.com\"");
    refused(create(&client, &labelled("deep", "deep-Fail")).await, 500, "failed calling webhook \"deep.example.com\"");
    assert_eq!(create(&client, &labelled("endless", "endless-Ignore")).await.0, 200);
    assert_eq!(create(&client, &labelled("deep", "deep-Ignore")).await.0, 200);
    assert!(cluster.resident_kib() < 1 << 20, "{} KiB", cluster.resident_kib());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_for_everything_that_is_gone_can_itself_be_removed() {
    let data = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.impatient_client().await;
    let (serving, _) = serve(client.clone()).await;
    configure(&client, &serving, "gone", "Fail", true).await;
    let attempts = AtomicUsize::new(0);
    until(|| async { create(&client, &map(&format!("m{}", attempts.fetch_add(1, Ordering::SeqCst)), json!({}))).await.0 == 500 }).await;
    drop(serving);
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/gone-fail";
    let patch = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    // Upstream asks no webhook about webhooks.
    assert_eq!(send(&client, "PATCH", path, "application/merge-patch+json", patch).await, (200, "MutatingWebhookConfiguration".to_owned()));
    assert_eq!(send(&client, "DELETE", path, JSON, "").await.0, 200);
    until(|| async { create(&client, &map(&format!("n{}", attempts.fetch_add(1, Ordering::SeqCst)), json!({}))).await.0 == 200 }).await;
}
