//! The one reverse proxy: passes a request on to a target and the answer back, upgraded connections included.

use apimachinery::status::Status;
use axum::body::Body;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::location::Target;
use crate::api::Api;
use crate::backend;
use crate::endpoints::{Answer, Call};
use crate::streaming::splice::splice;

/// How a request is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only upgrades make sense (exec, attach, portforward).
    UpgradeOnly,
    /// A web page behind the API server's own path: the target is told the path, redirections come back to it.
    Rewriting,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Headers that concern one connection and are not passed on.
const HOP_BY_HOP: [HeaderName; 8] = [
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
const CROSS_ORIGIN: [HeaderName; 4] = [
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
    tell_origin(call, &mut headers);
    let body = call.request.body.take().map_or_else(Body::empty, Body::new);
    let request = outgoing(call.request.method.clone(), &target, headers, body)?;
    let sent = call.api.backends.send(&target, request).await;
    let response = sent.map_err(|e| Status::service_unavailable(format!("error trying to reach service: {e}")))?;
    let (mut head, body) = response.into_parts();
    HOP_BY_HOP.iter().chain(&CROSS_ORIGIN).for_each(|name| {
        head.headers.remove(name);
    });
    if let Some(location) = head.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| rewritten(l, &target, &path)) {
        head.headers.insert(header::LOCATION, location);
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
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

/// Tells the target how the client sees it.
fn tell_origin(call: &Call, headers: &mut HeaderMap) {
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Ok(uri) = HeaderValue::from_str(&call.request.info.path) {
        headers.insert(FORWARDED_URI, uri);
    }
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

/// A redirection to the target itself as one to the API server's path to it; `None` for those that lead elsewhere.
fn rewritten(location: &str, target: &Target, request_path: &str) -> Option<HeaderValue> {
    let own = format!("{}://{}", target.scheme(), target.authority());
    let path = location.strip_prefix(&own).unwrap_or(location);
    if !path.starts_with('/') || path.starts_with("//") {
        return None;
    }
    let prefix = request_path.strip_suffix(target.path.as_str()).unwrap_or(request_path);
    let prefix = prefix.trim_end_matches('/');
    HeaderValue::from_str(&if path.starts_with(prefix) { path.to_owned() } else { format!("{prefix}{path}") }).ok()
}

/// Passes an upgrade on: when the target agrees, both connections are joined until one ends.
async fn upgrade(call: &mut Call, target: &Target, client: OnUpgrade) -> Answer {
    let body = call.request.body.take().map_or_else(Body::empty, Body::new);
    let request = outgoing(call.request.method.clone(), target, passed_on(call), body)?;
    let (head, backend) = match agreed(&call.api, target, request).await? {
        Agreement::Refused(response) => return Ok(response),
        Agreement::Upgraded(head, backend) => (head, backend),
    };
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => splice(TokioIo::new(client), TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "an upgraded connection was not joined"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::subresources::location;

    #[test]
    fn redirections_of_the_target_come_back() {
        let mut target = location::anybody("", "10.0.0.1", "80".to_owned());
        target.path = "/a".to_owned();
        let to = |location: &str| rewritten(location, &target, "/api/v1/pods/p/proxy/a").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(to("/b").as_deref(), Some("/api/v1/pods/p/proxy/b"));
        assert_eq!(to("http://10.0.0.1:80/b?c").as_deref(), Some("/api/v1/pods/p/proxy/b?c"));
        assert_eq!(to("/api/v1/pods/p/proxy/x").as_deref(), Some("/api/v1/pods/p/proxy/x"));
        assert_eq!(to("https://elsewhere/"), None);
        assert_eq!(to("//elsewhere/"), None);
    }
}
