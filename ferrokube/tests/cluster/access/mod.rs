//! Who is let in and what they may do, from outside: other issuers' tokens, webhooks, kubectl's credentials, and attempts to get more.

mod certificates;
mod credentials;
mod escalation;
mod issuers;
mod order;
mod outside;
mod signer;
mod signing;
mod webhooks;

use std::path::Path;

use http::StatusCode;
use kube::Client;
use serde_json::{Value, json};

use crate::process::Cluster;

/// The cluster's kubeconfig with another user in it, written to a file.
fn kubeconfig(cluster: &Cluster, path: &Path, user: &Value) {
    let text = std::fs::read(cluster.kubeconfig()).expect("a kubeconfig");
    let mut config = apimachinery::yaml::parse(&text).expect("a kubeconfig").value;
    config["users"][0]["user"] = user.clone();
    std::fs::write(path, config.to_string()).expect("a file");
}

/// A client with a bearer token.
async fn with_token(cluster: &Cluster, token: &str) -> Client {
    let mut config = cluster.anonymous().await;
    config.auth_info.token = Some(token.to_owned().into());
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// What a request is answered: its code, and the JSON of the body.
async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let mut request = http::Request::builder().method(method).uri(path);
    if !body.is_empty() {
        let media_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        request = request.header("content-type", media_type);
    }
    let answer = client.send(request.body(kube::client::Body::from(body)).expect("a request")).await.expect("an answer");
    let code = answer.status();
    let bytes = answer.into_body().collect_bytes().await.expect("a body");
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()))
}

/// Who a client is: the user of a SelfSubjectReview, or the code of the refusal.
async fn who(client: &Client) -> Result<Value, u16> {
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let (code, answer) = ask(client, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await;
    if code.is_success() { Ok(answer["status"]["userInfo"].clone()) } else { Err(code.as_u16()) }
}
