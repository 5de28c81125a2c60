//! OpenID discovery: where relying parties learn the issuer and its keys.

use axum::body::Body;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::Issuer;
use super::keys::KeySet;
use crate::endpoints::respond;

/// `/.well-known/openid-configuration`; `address` is where clients reach this server.
pub fn configuration(issuer: &Issuer, keys: &KeySet, address: &str) -> Value {
    let mut algorithms: Vec<&str> = keys.published().map(|key| key.algorithm.name()).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    let uri = issuer.jwks_uri.clone().unwrap_or_else(|| format!("https://{address}/openid/v1/jwks"));
    json!({
        "issuer": issuer.name(),
        "jwks_uri": uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

/// `/openid/v1/jwks`.
pub fn key_set(keys: &KeySet) -> Value {
    let keys: Vec<&Value> = keys.published().map(|key| &key.jwk).collect();
    json!({ "keys": keys })
}

/// A document of discovery as a response; unlike other JSON of the API it ends without a newline. It may be kept until the keys are
/// looked for again.
pub fn document(value: &Value, keys: &KeySet, media_type: &'static str) -> Response<Body> {
    let mut response = respond::bytes(StatusCode::OK, media_type, Bytes::from(value.to_string()));
    if let Ok(kept) = HeaderValue::try_from(format!("public, max-age={}", keys.fresh_for().as_secs())) {
        response.headers_mut().insert(CACHE_CONTROL, kept);
    }
    response
}
