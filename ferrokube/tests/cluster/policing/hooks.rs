//! Webhooks of all sorts: those that change, refuse, warn, and those that go wrong in one way each.

use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::webhook_server::{self, Serving};

fn answer(review: &Value, more: Value) -> Json<Value> {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    for (key, value) in more.as_object().into_iter().flatten() {
        response[key] = value.clone();
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

fn patched(review: &Value, patch: &Value, mut more: Value) -> Json<Value> {
    more["patch"] = STANDARD.encode(patch.to_string()).into();
    more["patchType"] = "JSONPatch".into();
    answer(review, more)
}

fn labelled(review: &Value) -> Json<Value> {
    let patch = json!([{"op": "add", "path": "/metadata/labels/labelled", "value": "yes"}]);
    let annotations = json!({"labelled": "by-a-webhook", "operation": review["request"]["operation"]});
    patched(review, &patch, json!({"auditAnnotations": annotations, "warnings": ["a label was added"]}))
}

/// Counts how often it was asked, in the object.
fn counted(review: &Value) -> Json<Value> {
    let before = review["request"]["object"]["data"]["count"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let patch = json!([{"op": "add", "path": "/data/count", "value": (before + 1).to_string()}]);
    patched(review, &patch, json!({"auditAnnotations": {"count": format!("{}", before + 1)}}))
}

fn later(review: &Value) -> Json<Value> {
    if review["request"]["object"]["data"]["later"].is_string() {
        return answer(review, json!({}));
    }
    patched(review, &json!([{"op": "add", "path": "/data/later", "value": "yes"}]), json!({}))
}

fn sidecar(review: &Value) -> Json<Value> {
    let container = json!({"name": "proxy", "image": "proxy:1"});
    let patch = json!([
        {"op": "add", "path": "/spec/containers/-", "value": container},
        {"op": "add", "path": "/metadata/annotations", "value": {"injected": "yes"}},
    ]);
    patched(review, &patch, json!({}))
}

fn denied(review: &Value, status: Value) -> Json<Value> {
    answer(review, json!({"allowed": false, "status": status, "auditAnnotations": {"denied": "yes"}}))
}

/// What each says, by its path.
fn say(path: &str, review: &Value) -> Json<Value> {
    match path {
        "label" => labelled(review),
        "count" => counted(review),
        "later" => later(review),
        "sidecar" => sidecar(review),
        "bad-patch" => answer(review, json!({"patch": STANDARD.encode("nonsense"), "patchType": "JSONPatch"})),
        "bad-operation" => patched(review, &json!([{"op": "replace", "path": "/data/absent/deeper", "value": 1}]), json!({})),
        "other-kind" => patched(review, &json!([{"op": "replace", "path": "/data", "value": [1, 2]}]), json!({})),
        "untyped-patch" => answer(review, json!({"patch": STANDARD.encode("[]")})),
        "uid" => answer(review, json!({"uid": "somebody"})),
        "absent" => Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})),
        "deny" => denied(review, json!({"message": "nobody may", "reason": "for good reasons"})),
        "deny-silently" => answer(review, json!({"allowed": false})),
        "deny-code" => denied(review, json!({"message": "try later", "code": 429, "reason": "TooManyRequests"})),
        "deny-whole" => denied(
            review,
            json!({"status": "Failure", "message": "not well", "reason": "Invalid", "code": 422, "details": {"name": "it", "kind": "thing",
                "causes": [{"field": "data.k", "message": "must be w", "reason": "FieldValueInvalid"}], "retryAfterSeconds": 3}}),
        ),
        "warn" => answer(review, json!({"warnings": ["it will go away", "it is old"], "auditAnnotations": {"a": "b", "a.b/c": "d"}})),
        _ => answer(review, json!({})),
    }
}

pub async fn serve() -> Serving {
    let told = |path: &'static str| post(async move |Json(review): Json<Value>| say(path, &review));
    let paths = [
        "label",
        "count",
        "later",
        "sidecar",
        "bad-patch",
        "bad-operation",
        "other-kind",
        "untyped-patch",
        "uid",
        "absent",
        "deny",
        "deny-silently",
        "deny-code",
        "deny-whole",
        "warn",
        "nothing",
        "allow",
    ];
    let app = paths.into_iter().fold(Router::new(), |app, path| app.route(&format!("/{path}"), told(path)));
    let app = app
        .route("/error", post(async || (StatusCode::INTERNAL_SERVER_ERROR, "it is broken")))
        .route("/garbage", post(async || "<html>not what was asked for</html>"))
        .route("/hang", post(async || std::future::pending::<Json<Value>>().await));
    webhook_server::serve(app, || {}).await
}
