//! What is asked from outside, served by a test over TLS: an issuer of tokens, and webhooks that know tokens and permissions.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::webhook_server;

/// What the webhooks were asked, and what they are to say.
#[derive(Default)]
pub struct Seen {
    pub token_reviews: Mutex<Vec<Value>>,
    pub access_reviews: Mutex<Vec<Value>>,
    /// Whether webhooks answer at all.
    pub down: std::sync::atomic::AtomicBool,
    /// What the endpoint of distributed claims answers.
    pub claims: Mutex<String>,
    keys: Mutex<Vec<Value>>,
    url: Mutex<String>,
}

/// The server, for as long as this lives.
pub struct Outside {
    pub url: String,
    pub ca: String,
    pub seen: Arc<Seen>,
    key: Mutex<(String, EcdsaKeyPair)>,
    _serving: webhook_server::Serving,
}

pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    i64::try_from(now).expect("a time")
}

fn new_key(id: &str) -> (EcdsaKeyPair, Value) {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": encode(x), "y": encode(y) });
    (pair, jwk)
}

impl Outside {
    /// A token of the issuer with these claims beside the usual ones.
    pub fn token(&self, claims: &Value) -> String {
        let key = self.key.lock().expect("no test has failed");
        let mut all = json!({ "iss": self.url, "aud": "ferrokube", "exp": now() + 600, "iat": now() });
        let given = claims.as_object().expect("an object").clone();
        all.as_object_mut().expect("an object").extend(given);
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({ "alg": "ES256", "kid": key.0 })), encode(&all));
        let signature = key.1.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Signs with another key from now on, which takes the place of the old one.
    pub fn rotate(&self, id: &str) {
        let (pair, jwk) = new_key(id);
        *self.key.lock().expect("no test has failed") = (id.to_owned(), pair);
        *self.seen.keys.lock().expect("no test has failed") = vec![jwk];
    }

    /// A kubeconfig of a webhook.
    pub fn webhook(&self, file: &Path, path: &str) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
            "clusters": [{ "name": "k", "cluster": {
                "server": format!("{}{path}", self.url), "certificate-authority-data": STANDARD.encode(&self.ca),
            } }],
            "users": [{ "name": "u", "user": { "token": "s3cr3t" } }],
        });
        std::fs::write(file, config.to_string()).expect("a file");
    }
}

async fn describe(State(seen): State<Arc<Seen>>) -> Json<Value> {
    let url = seen.url.lock().expect("no test has failed").clone();
    Json(json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "id_token_signing_alg_values_supported": ["ES256"] }))
}

async fn keys(State(seen): State<Arc<Seen>>) -> Json<Value> {
    Json(json!({ "keys": *seen.keys.lock().expect("no test has failed") }))
}

async fn claims(State(seen): State<Arc<Seen>>, headers: http::HeaderMap) -> Result<String, StatusCode> {
    answers(&seen, &headers)?;
    Ok(seen.claims.lock().expect("no test has failed").clone())
}

/// Knows tokens of the form `known:<name>:<group>`.
async fn review_token(
    State(seen): State<Arc<Seen>>,
    headers: http::HeaderMap,
    Json(review): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    answers(&seen, &headers)?;
    let token = review["spec"]["token"].as_str().expect("a token").to_owned();
    seen.token_reviews.lock().expect("no test has failed").push(review.clone());
    let parts: Vec<&str> = token.split(':').collect();
    let status = match parts.as_slice() {
        ["known", name, group] => {
            json!({ "authenticated": true, "user": { "username": name, "groups": [group], "extra": { "from": ["webhook"] } } })
        }
        _ => json!({ "authenticated": false }),
    };
    Ok(Json(json!({ "apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status })))
}

/// Lets everybody do what is asked of ConfigMaps called `open`, and nobody what is asked of those called `shut`.
async fn review_access(
    State(seen): State<Arc<Seen>>,
    headers: http::HeaderMap,
    Json(review): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    answers(&seen, &headers)?;
    seen.access_reviews.lock().expect("no test has failed").push(review.clone());
    let status = match review["spec"]["resourceAttributes"]["name"].as_str() {
        Some("open") => json!({ "allowed": true, "reason": "it is open" }),
        Some("shut") => json!({ "allowed": false, "denied": true, "reason": "it is shut" }),
        _ => json!({ "allowed": false, "reason": "not known" }),
    };
    Ok(Json(json!({ "apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status })))
}

fn answers(seen: &Seen, headers: &http::HeaderMap) -> Result<(), StatusCode> {
    if seen.down.load(std::sync::atomic::Ordering::SeqCst) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
    if shown == Some("Bearer s3cr3t") { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
}

/// Starts the server on a free port.
pub async fn serve() -> Outside {
    let seen = Arc::new(Seen::default());
    let (pair, jwk) = new_key("first");
    *seen.keys.lock().expect("no test has failed") = vec![jwk];
    let app = Router::new()
        .route("/.well-known/openid-configuration", get(describe))
        .route("/keys", get(keys))
        .route("/claims", get(claims))
        .route("/tokens", post(review_token))
        .route("/access", post(review_access))
        .with_state(seen.clone());
    let serving = webhook_server::serve(app, || {}).await;
    let url = format!("https://127.0.0.1:{}", serving.port);
    seen.url.lock().expect("no test has failed").clone_from(&url);
    Outside { url, ca: serving.ca.clone(), seen, key: Mutex::new(("first".to_owned(), pair)), _serving: serving }
}
