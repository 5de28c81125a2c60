//! The one reverse proxy: passes a request on to a target and the answer back, upgraded connections included.

use apimachinery::status::Status;
use axum::body::Body;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::html;
use super::links::Links;
use super::location::{self, Target};
use crate::api::Api;
use crate::backend;
use crate::endpoints::{Answer, Call};
use crate::streaming::splice::splice;

/// How a request is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only upgrades make sense (exec, attach, portforward).
    UpgradeOnly,
    /// A web page behind the API server's own path: the target is told the path, links and redirections come back to it.
    Rewriting,
}

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Headers that concern one connection and are not passed on.
pub(crate) const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a target may not say for the API server.
pub(crate) const CROSS_ORIGIN: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// Passes the request on.
pub async fn forward(call: &mut Call, mut target: Target, mode: Mode) -> Answer {
    if is_upgrade(&call.request.headers)
        && let Some(client) = call.request.upgrade.take()
    {
        return upgrade(call, &target, client).await;
    }
    if mode == Mode::UpgradeOnly {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let path = call.request.info.path.clone();
    if path.ends_with('/') && !target.path.ends_with('/') {
        target.path.push('/');
    }
    if target.path.is_empty() && matches!(call.request.method, Method::GET | Method::HEAD) {
        return redirect(&path, &call.request.raw_query);
    }
    let mut headers = passed_on(call);
    HOP_BY_HOP.iter().for_each(|name| {
        headers.remove(name);
    });
    let request_host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("").to_owned();
    let links = Links::new(&path, &location::encode_path(&target.path), target.authority(), request_host);
    if let Ok(uri) = HeaderValue::from_str(&path) {
        headers.insert(FORWARDED_URI, uri);
    }
    let body = call.request.body.take().map_or_else(Body::empty, Body::new);
    let request = outgoing(call.request.method.clone(), &target, headers, body)?;
    let unreachable = |error: &dyn std::fmt::Display| Status::service_unavailable(format!("error trying to reach service: {error}"));
    let response = call.api.backends.send(&target, request).await.map_err(|error| unreachable(&error))?;
    let (mut head, body) = response.into_parts();
    HOP_BY_HOP.iter().chain(&CROSS_ORIGIN).for_each(|name| {
        head.headers.remove(name);
    });
    if let Some(link) = head.headers.get(header::LOCATION).and_then(|link| link.to_str().ok()) {
        if let Some(changed) = links.changed(link).and_then(|link| HeaderValue::from_str(&link).ok()) {
            head.headers.insert(header::LOCATION, changed);
        }
        return Ok(Response::from_parts(head, Body::new(body)));
    }
    if html::is_page(&head.headers) && call.request.method != Method::HEAD {
        let page = html::with_links(&mut head.headers, body, &links).await.map_err(|error| unreachable(&error))?;
        return Ok(Response::from_parts(head, page));
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("upgrade")))
}

/// The client's headers, without what told us who it is.
pub(super) fn passed_on(call: &Call) -> HeaderMap {
    let mut headers = call.request.headers.clone();
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| {
        headers.remove(name);
    });
    let client = call.request.peer.address.ip().to_string();
    let before = headers.get(&FORWARDED_FOR).and_then(|v| v.to_str().ok());
    let chain = before.map_or_else(|| client.clone(), |before| format!("{before}, {client}"));
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    headers
}

pub(super) fn outgoing(method: Method, target: &Target, mut headers: HeaderMap, body: Body) -> Result<Request<Body>, Status> {
    let broken = |e: &dyn std::fmt::Display| Status::internal_error(&e.to_string());
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_str(&target.authority()).map_err(|e| broken(&e))?);
    }
    let request = Request::builder().method(method).uri(target.path_and_query()).body(body);
    let mut request = request.map_err(|e| broken(&e))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A GET of the bare proxy path goes to its root, so that relative links work.
fn redirect(path: &str, query: &str) -> Answer {
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&format!("{path}/{query}")).map_err(|e| Status::internal_error(&e.to_string()))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Passes an upgrade on: when the target agrees, both connections are joined until one ends.
async fn upgrade(call: &mut Call, target: &Target, client: OnUpgrade) -> Answer {
    let body = call.request.body.take().map_or_else(Body::empty, Body::new);
    let request = outgoing(call.request.method.clone(), target, passed_on(call), body)?;
    let (head, backend) = match agreed(&call.api, target, request).await? {
        Agreement::Refused(response) => return Ok(response),
        Agreement::Upgraded(head, backend) => (head, backend),
    };
    let held = (crate::audit::current(), crate::metrics::tally::current());
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => splice(TokioIo::new(client), TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "an upgraded connection was not joined"),
        }
        drop(held);
    });
    Ok(Response::from_parts(*head, Body::empty()))
}

/// What a target made of the wish to upgrade.
pub(super) enum Agreement {
    /// The error that it answered instead, which is the client's answer too.
    Refused(Response<Body>),
    Upgraded(Box<http::response::Parts>, OnUpgrade),
}

/// Sends a request to upgrade.
pub(super) async fn agreed(api: &Api, target: &Target, request: Request<Body>) -> Result<Agreement, Status> {
    let sent = api.backends.send(target, request).await;
    let mut response = sent.map_err(|error| {
        let before = if matches!(error, backend::Error::Http(_)) { "" } else { "error dialing backend: " };
        Status::unknown(format!("{before}{error}"))
    })?;
    let code = response.status();
    if code == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut response);
        return Ok(Agreement::Upgraded(Box::new(response.into_parts().0), backend));
    }
    if code.as_u16() < 400 {
        return Err(Status::unknown(format!("invalid upgrade response: status code {}", code.as_u16())));
    }
    let (head, body) = response.into_parts();
    Ok(Agreement::Refused(Response::from_parts(head, Body::new(body))))
}
