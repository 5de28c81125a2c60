//! Paths that are not resources: health, version, discovery, OpenAPI, metrics.

use std::time::Duration;

use apimachinery::status::Status;

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode};

use super::negotiate::{self, Offer};
use super::options::Query;
use super::{Answer, respond};
use crate::api::{Api, StoreTimeouts};
use crate::filters::Authorized;
use crate::metrics;
use crate::tokens::discovery;
use crate::tokens::external_metrics::EXTERNAL;
use crate::tokens::keys::KeySet;

/// The checks that health endpoints list, in upstream's order, for what this server has of them.
const CHECKS: [&str; 4] = ["ping", "log", "etcd", "shutdown"];

/// The media type of JSON Web Key Sets.
const KEY_SET: &str = "application/jwk-set+json";
/// How long metrics wait for the store to say how big it is.
const STORE_SIZE_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers a request to a path outside the resources.
pub async fn serve(api: &Api, request: &Authorized) -> Answer {
    let path = request.info.path.as_str();
    let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let segments: Vec<&str> = trimmed.split('/').filter(|s| !s.is_empty()).collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", rest @ ..] if rest.len() <= 1 => Ok(health(api, request, &segments).await),
        ["version"] => read_only(request).and_then(|()| version(request)),
        ["metrics"] => Ok(metrics(api).await),
        ["metrics", "slis"] => Ok(slis(api)),
        ["debug", "api_priority_and_fairness", dump] if api.flow_control.in_flight.is_none() => {
            Ok(api.flow_control.dump(dump).map_or_else(respond::page_not_found, debug_text))
        }
        [".well-known", "openid-configuration"] => openid_configuration(api, request).await,
        ["openid", "v1", "jwks"] => openid_keys(api, request).await,
        ["openapi", rest @ ..] => crate::openapi::serve::serve(api, request, rest),
        _ => crate::discovery::serve::serve(api, request, &segments),
    }
}

/// Documents can only be read.
pub fn read_only(request: &Authorized) -> Result<(), Status> {
    if request.method == Method::GET { Ok(()) } else { Err(Status::generic(405, "", "", "", "", "")) }
}

fn version(request: &Authorized) -> Answer {
    negotiate::route_accepts(&request.headers, &[negotiate::Encoding::Json])?;
    let query = Query::parse(&request.raw_query);
    let form = negotiate::output(&request.headers, query.get("pretty"), Offer::PLAIN)?;
    let value = crate::discovery::documents::version(&crate::version::BUILD);
    Ok(respond::bytes(StatusCode::OK, "application/json", respond::json_text(&value, form.pretty)))
}

/// Where relying parties learn who issues service account tokens.
async fn openid_configuration(api: &Api, request: &Authorized) -> Answer {
    read_only(request)?;
    negotiate::route_accepts(&request.headers, &[negotiate::Encoding::Json])?;
    let keys = signing_keys(api).await?;
    let address = api.told.external_address(request.peer.local);
    let document = discovery::configuration(&api.issuer, &keys, &address);
    Ok(discovery::document(&document, &keys, "application/json"))
}

/// The keys that verify service account tokens. Only clients that take JSON Web Key Sets get them.
async fn openid_keys(api: &Api, request: &Authorized) -> Answer {
    read_only(request)?;
    negotiate::route_accepts_types(&request.headers, &[KEY_SET])?;
    let keys = signing_keys(api).await?;
    Ok(discovery::document(&discovery::key_set(&keys), &keys, KEY_SET))
}

async fn signing_keys(api: &Api) -> Result<std::sync::Arc<KeySet>, Status> {
    api.issuer.keys.ready().await.ok_or_else(|| Status::service_unavailable("there is no key to sign service account tokens with"))
}

/// `/healthz`, `/livez`, `/readyz`, with `verbose`, `exclude` and single checks below them.
async fn health(api: &Api, request: &Authorized, segments: &[&str]) -> Response<Body> {
    let query = Query::parse(&request.raw_query);
    let excluded: Vec<&str> = query.all("exclude").collect();
    let endpoint = segments[0];
    if let Some(single) = segments.get(1) {
        if !checks(api).contains(single) {
            return respond::page_not_found();
        }
        if healthy(api, single, endpoint).await {
            return respond::text(StatusCode::OK, "ok");
        }
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {single} failed\n"));
    }
    let mut report = String::new();
    let mut failed = Vec::new();
    for check in checks(api) {
        if excluded.contains(&check) {
            report.push_str(&format!("[+]{check} excluded: ok\n"));
            continue;
        }
        let is_passed = healthy(api, check, endpoint).await;
        api.metrics.health.checked(check, endpoint, is_passed);
        if is_passed {
            report.push_str(&format!("[+]{check} ok\n"));
        } else {
            report.push_str(&format!("[-]{check} failed: reason withheld\n"));
            failed.push(check);
        }
    }
    if failed.is_empty() {
        if query.get("verbose").is_none() {
            return respond::text(StatusCode::OK, "ok");
        }
        report.push_str(&format!("{endpoint} check passed\n"));
        return respond::text(StatusCode::OK, report);
    }
    report.push_str(&format!("{endpoint} check failed\n"));
    respond::text(StatusCode::INTERNAL_SERVER_ERROR, report)
}

/// The checks that there are; what encrypts values is checked if it can fail.
fn checks(api: &Api) -> Vec<&'static str> {
    CHECKS.into_iter().chain(api.encryption.health_check()).collect()
}

async fn healthy(api: &Api, check: &str, endpoint: &str) -> bool {
    match check {
        "etcd" => {
            let StoreTimeouts { health, readiness } = api.store_timeouts;
            let timeout = if endpoint == "readyz" { readiness } else { health };
            matches!(tokio::time::timeout(timeout, api.storage.store().health()).await, Ok(Ok(())))
        }
        "kms-providers" => api.encryption.check().await.inspect_err(|why| tracing::warn!(why, "health check failed")).is_ok(),
        // A server that is shutting down is alive but no longer ready.
        "shutdown" => endpoint != "readyz" || !*api.leaving.borrow(),
        _ => true,
    }
}

/// Text that browsers may sniff at, as upstream serves its dumps.
fn debug_text(text: String) -> Response<Body> {
    let mut response = respond::text(StatusCode::OK, text);
    response.headers_mut().remove("x-content-type-options");
    response
}

async fn metrics(api: &Api) -> Response<Body> {
    // A store that does not tell in time is left out.
    let size = tokio::time::timeout(STORE_SIZE_TIMEOUT, api.storage.store().size_bytes()).await.ok().flatten();
    let mut text = String::with_capacity(256 * 1024);
    metrics::process::render_build(&mut text);
    metrics::process::render(&mut text);
    api.metrics.render(&mut text);
    api.authenticator.render(&mut text);
    api.admission.render(&mut text);
    metrics::admission::render_webhooks(&mut text);
    metrics::objects::render(&mut text, &api.catalog.load(), size);
    api.flow_control.render(&mut text);
    api.aggregation.availability.render(&mut text);
    api.encryption.render(&mut text);
    EXTERNAL.render(&mut text);
    if let Some(audit) = &api.audit {
        audit.render(&mut text);
    }
    api.metrics.render_others(&mut text);
    page(text)
}

/// How the server has fared when its health was asked for.
fn slis(api: &Api) -> Response<Body> {
    let mut text = String::new();
    api.metrics.health.render(&mut text);
    page(text)
}

fn page(text: String) -> Response<Body> {
    let mut response = respond::text(StatusCode::OK, text);
    let headers = response.headers_mut();
    headers.remove("x-content-type-options");
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores"));
    response
}
