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
/// None of these requests takes a second on an idle machine, and all of them more on one that has much else to do; what explodes takes minutes
/// or all memory.
const PROMPT: Duration = Duration::from_secs(90);
/// What the server may grow by through all of them.
const MAX_GROWTH_KIB: u64 = 700 * 1024;

/// Sends a request and gives the code and the message of the answer, or its kind if it is none of refusal.
async fn send(client: &Client, method: &str, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", content_type).body(body.into()).expect("a request");
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
    axum::body::Body::from_stream(futures::stream::repeat(Ok::<_, std::convert::Infallible>(chunk)))
}

async fn deep() -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", JSON)], nested("{\"response\":", "}", 100_000))
}

/// Operations of which each doubles what the one before has made.
fn copies() -> impl Iterator<Item = Value> {
    let start = [
        json!({"op": "add", "path": "/metadata/annotations", "value": {}}),
        json!({"op": "add", "path": "/metadata/annotations/a", "value": {}}),
    ];
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
    // One after the other they take 200 seconds.
    assert!(started.elapsed() < PROMPT, "200 hung requests took {:?}", started.elapsed());
    assert!(quick < PROMPT / 2, "one beside them took {quick:?}");

    // Each round of the circle waits for the next, so the first timeout ends them all.
    let started = Instant::now();
    let calls = traps.calls.load(Ordering::SeqCst);
    refused(create(&client, &labelled("round", "call-back-Fail")).await, 500, &late("call-back"));
    assert!(started.elapsed() < PROMPT, "the circle went on for {:?}", started.elapsed());
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

/// A policy about config maps that are labelled with its name, in force with a binding.
async fn police(client: &Client, name: &str, spec: Value) {
    let group = "/apis/admissionregistration.k8s.io/v1";
    let kind = if spec["mutations"].is_null() { "ValidatingAdmissionPolicy" } else { "MutatingAdmissionPolicy" };
    let mut policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    policy["spec"]["matchConstraints"] = json!({
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "objectSelector": {"matchLabels": {"trap": name}},
    });
    let mut binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": {"name": name}, "spec": {"policyName": name},
    });
    if kind == "ValidatingAdmissionPolicy" {
        binding["spec"]["validationActions"] = json!(["Deny"]);
    }
    let plural = if kind == "ValidatingAdmissionPolicy" { "validatingadmissionpolicies" } else { "mutatingadmissionpolicies" };
    let bindings = plural.replace("policies", "policybindings");
    let made = send(client, "POST", &format!("{group}/{plural}"), JSON, policy.to_string()).await;
    assert_eq!(made, (200, kind.to_owned()));
    assert_eq!(send(client, "POST", &format!("{group}/{bindings}"), JSON, binding.to_string()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_that_never_end_are_cut_short() {
    let data = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.impatient_client().await;
    let digits = json!({"name": "d", "expression": "'0123456789012345678901234567890123456789012345678901234567890123'.split('')"});
    // Each variable holds the one before twice, so that the last holds more than any memory does.
    let doubled = |make: &dyn Fn(usize) -> String| {
        let first = json!({"name": "v0", "expression": "['0', '1']"});
        let rest = (1..60).map(|i| json!({"name": format!("v{i}"), "expression": make(i - 1)}));
        std::iter::once(first).chain(rest).collect::<Vec<_>>()
    };
    let lists = doubled(&|i| format!("[variables.v{i}, variables.v{i}]"));
    let sums = doubled(&|i| format!("variables.v{i} + variables.v{i}"));
    let maps = doubled(&|i| format!("{{'a': variables.v{i}, 'b': variables.v{i}}}"));
    let mapped = doubled(&|i| format!("['x', 'y'].map(x, variables.v{i})"));
    let texts = doubled(&|i| format!("[variables.v{i}[0] + variables.v{i}[0]]"));
    let loops = "variables.d.all(a, variables.d.all(b, variables.d.all(c, variables.d.all(e, a + b + c + e != ''))))";
    let over = "actual cost limit exceeded";
    // What costs little a step may run into the time limit first, on a slow machine.
    let cut_short = |(code, message): (u16, String), expected: u16| {
        assert!(code == expected && (message.contains(over) || message.contains("the evaluation took too long")), "{code} {message}");
    };
    for (name, variables, expression) in [
        ("loops", json!([digits]), loops.to_owned()),
        ("lists", json!(lists), "variables.v59 == variables.v59".to_owned()),
        ("listed", json!(lists), "'%s'.format([variables.v59]) != ''".to_owned()),
        ("sums", json!(sums), "variables.v59.size() > 0".to_owned()),
        ("maps", json!(maps), "variables.v59 == variables.v59".to_owned()),
        ("mapped", json!(mapped), "variables.v59 == variables.v59".to_owned()),
        ("counted", json!(mapped), "variables.v59.size() > 0".to_owned()),
        ("texts", json!(texts), "variables.v59.size() > 0".to_owned()),
        ("compared", json!([]), "object.data.all(a, object.data.all(b, object.data.all(c, object == object)))".to_owned()),
    ] {
        let spec = json!({"variables": variables, "validations": [{"expression": expression}]});
        police(&client, name, spec.clone()).await;
        let mut body = labelled(name, name);
        body["data"] = (0..300).map(|i| (format!("k{i}"), Value::from("v"))).collect::<serde_json::Map<_, _>>().into();
        cut_short(create(&client, &body).await, 422);
        let mut open = spec;
        open["failurePolicy"] = "Ignore".into();
        let name = format!("{name}-open");
        police(&client, &name, open).await;
        body["metadata"] = json!({"name": name, "labels": {"trap": name}});
        assert_eq!(create(&client, &body).await.0, 200);
    }
    let conditions = json!([{"name": "loops", "expression": loops.replace("variables.d", "('0123456789' + '0123456789' + '0123456789' + '0123456789').split('')")}]);
    police(&client, "conditions", json!({"matchConditions": conditions, "validations": [{"expression": "true"}]})).await;
    cut_short(create(&client, &labelled("conditions", "conditions")).await, 422);
    let change = "[JSONPatch{op: 'add', path: '/data', value: {'a': string(variables.v59.size())}}]";
    let mutations = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": change}}]);
    police(&client, "mutation", json!({"reinvocationPolicy": "Never", "variables": sums, "mutations": mutations})).await;
    cut_short(create(&client, &labelled("mutation", "mutation")).await, 403);

    // Rules of definitions must be known to end before they are taken.
    let rule = |rule: &str| json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": rule}]}}});
    let definition = |rule: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "traps.example.com"},
            "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "traps", "kind": "Trap"}, "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": rule}}]},
        })
        .to_string()
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let endless = rule("self.all(a, self.all(b, self.all(c, a + b != c)))");
    refused(
        send(&client, "POST", path, JSON, definition(endless)).await,
        422,
        "estimated rule cost exceeds budget by factor of more than 100x",
    );
    assert_eq!(create(&client, &map("after", json!({}))).await.0, 200);
    assert!(cluster.resident_kib() < 1 << 20, "{} KiB", cluster.resident_kib());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_explode_are_refused_at_once() {
    let data = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.impatient_client().await;
    assert_eq!(create(&client, &map("a", json!({"x": "y".repeat(1000)}))).await.0, 200);
    let before = cluster.resident_kib();
    let a = format!("{MAPS}/a");

    // Patches: too many operations, copies of copies, much work for nothing.
    let many = |n: usize, op: &dyn Fn(usize) -> Value| json!((0..n).map(op).collect::<Vec<_>>()).to_string();
    let add = |i: usize| json!({"op": "add", "path": format!("/data/k{}", i % 3), "value": "1"});
    refused(
        send(&client, "PATCH", &a, JSON_PATCH, many(10_001, &add)).await,
        413,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
    );
    assert_eq!(send(&client, "PATCH", &a, JSON_PATCH, many(10_000, &add)).await.0, 200);
    let bomb = json!(copies().collect::<Vec<_>>()).to_string();
    refused(send(&client, "PATCH", &a, JSON_PATCH, bomb).await, 422, "the server rejected our request due to an error in our request");
    let wide = |i: usize| json!({"op": "copy", "from": "/data/x", "path": format!("/data/c{i}")});
    refused(send(&client, "PATCH", &a, JSON_PATCH, many(5_000, &wide)).await, 422, "the server rejected our request");
    let insert = |i: usize| match i {
        0 => json!({"op": "add", "path": "/metadata/finalizers", "value": []}),
        _ => json!({"op": "add", "path": "/metadata/finalizers/0", "value": "x.io/a"}),
    };
    assert_eq!(send(&client, "PATCH", &a, JSON_PATCH, many(10_000, &insert)).await.0, 200);

    // Depth, in every form of body.
    for (method, path, content_type, body, code, text) in [
        ("POST", MAPS, JSON, nested("{\"a\":", "}", 100_000), 400, "exceeded max depth"),
        ("POST", MAPS, JSON, "[".repeat(1_000_000), 400, "exceeded max depth"),
        ("POST", MAPS, "application/yaml", nested("[", "]", 20_000), 400, "exceeded max depth of 10000"),
        ("PATCH", &a, JSON_PATCH, nested("[", "]", 20_000), 400, "invalid JSON patch"),
        ("PATCH", &a, "application/merge-patch+json", nested("{\"data\":", "}", 20_000), 400, "invalid JSON patch"),
        (
            "PATCH",
            &a,
            "application/strategic-merge-patch+json",
            nested("{\"data\":", "}", 9_000),
            422,
            " \"\" is invalid: patch: Invalid value: ",
        ),
        ("PATCH", &format!("{a}?fieldManager=m"), APPLY, nested("{\"a\":", "}", 20_000), 400, "exceeded max depth of 10000"),
    ] {
        refused(send(&client, method, path, content_type, body).await, code, text);
    }
    let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..10 {
        aliases += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    }
    for (method, path, content_type) in [("POST", MAPS.to_owned(), "application/yaml"), ("PATCH", format!("{a}?fieldManager=m"), APPLY)] {
        refused(send(&client, method, &path, content_type, aliases.clone()).await, 400, "yaml: document contains excessive aliasing");
    }

    // Size and number.
    refused(create(&client, &map("big", json!({"x": "y".repeat(4 << 20)}))).await, 413, "Request entity too large: limit is 3145728");
    let annotations: serde_json::Map<String, Value> = (0..300).map(|i| (format!("a{i}"), "y".repeat(1000).into())).collect();
    let object = json!({"metadata": {"name": "annotated", "annotations": annotations}});
    refused(create(&client, &object).await, 422, "metadata.annotations: Too long: may not be more than 262144 bytes");
    let labels: serde_json::Map<String, Value> = (0..20_000).map(|i| (format!("l{i}"), "v".into())).collect();
    assert_eq!(create(&client, &json!({"metadata": {"name": "labelled", "labels": labels}})).await.0, 200);
    let owner = |uid: usize| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": format!("u{uid}")});
    for (name, distinct) in [("owned", 9_000), ("owned-by-one", 1)] {
        let owners: Vec<Value> = (0..20_000).map(|i| owner(i % distinct)).collect();
        assert_eq!(create(&client, &json!({"metadata": {"name": name, "ownerReferences": owners}})).await.0, 200);
    }
    let nobody: Vec<Value> = vec![json!({}); 2_000];
    refused(
        create(&client, &json!({"metadata": {"name": "x", "ownerReferences": nobody}})).await,
        422,
        "ownerReferences[0].uid: Required value",
    );

    // Owners of fields: many, wide, deep.
    let with_entries = |name: &str, entries: Vec<Value>| json!({"metadata": {"name": name, "managedFields": entries}});
    let managers = (0..10_000).map(|i| entry(i, json!({"f:data": {format!("f:k{i}"): {}}}))).collect();
    assert_eq!(create(&client, &with_entries("managers", managers)).await.0, 200);
    let request = http::Request::get(format!("{MAPS}/managers")).body(Vec::new()).expect("a request");
    let stored: Value = client.request(request).await.expect("it is there");
    assert_eq!(stored["metadata"]["managedFields"].as_array().map(Vec::len), Some(10));
    let fields: serde_json::Map<String, Value> = (0..40_000).map(|i| (format!("f:k{i}"), json!({}))).collect();
    assert_eq!(create(&client, &with_entries("wide", vec![entry(0, json!({"f:data": fields}))])).await.0, 200);
    let deep = |depth: usize| {
        let text = nested("{\"f:a\":", "}", depth).replace('1', "{}");
        format!(
            "{{\"metadata\":{{\"name\":\"deep-{depth}\",\"managedFields\":[{{\"manager\":\"m\",\"operation\":\"Update\",\"apiVersion\":\"v1\",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{text}}}]}}}}"
        )
    };
    refused(send(&client, "POST", MAPS, JSON, deep(90_000)).await, 400, "exceeded max depth");
    let strange = json!({"k:{\"a\":[[[[1]]]]}": {}, "v:{\"x\":{}}": {}, "i:99999999999999999999": {}});
    assert_eq!(create(&client, &with_entries("strange", vec![entry(0, strange)])).await.0, 200);

    // Lists that are merged item by item.
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let variables =
        |order: &mut dyn Iterator<Item = usize>| order.map(|i| json!({"name": format!("E{i}"), "value": "v"})).collect::<Vec<_>>();
    let deployment = |env: Vec<Value>| {
        let containers = json!([{"name": "c", "image": "i", "env": env}]);
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}}})
        .to_string()
    };
    let apply = format!("{deployments}/d?fieldManager=m");
    assert_eq!(send(&client, "PATCH", &apply, APPLY, deployment(variables(&mut (0..6_000)))).await.0, 200);
    assert_eq!(send(&client, "PATCH", &apply, APPLY, deployment(variables(&mut (0..6_000).rev()))).await.0, 200);
    let order: Vec<Value> = (0..6_000).map(|i| json!({"name": format!("E{i}")})).collect();
    let merge = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "$setElementOrder/env": order, "env": variables(&mut (0..6_000))}]}}}});
    let path = format!("{deployments}/d");
    assert_eq!(send(&client, "PATCH", &path, "application/strategic-merge-patch+json", merge.to_string()).await.0, 200);
    let huge = deployment(Vec::new()).replace("\"selector\"", &format!("\"replicas\":1{},\"selector\"", "0".repeat(100_000)));
    refused(send(&client, "POST", deployments, JSON, huge).await, 400, "json: cannot unmarshal number");

    assert_eq!(create(&client, &map("after", json!({}))).await.0, 200);
    let grown = cluster.resident_kib().saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "the server has grown by {grown} KiB");
}
