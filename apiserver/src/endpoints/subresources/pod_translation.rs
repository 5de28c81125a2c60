//! Remote commands and port forwarding of clients that speak WebSocket where kubelets speak SPDY.

use std::sync::Arc;

use apimachinery::field::quote;
use apimachinery::status::Status;
use axum::body::Body;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::forward::{self, Agreement};
use super::location::Target;
use crate::api::Api;
use crate::endpoints::{Answer, Call};
use crate::streaming::remote_command::{self, Backend, SPDY_PROTOCOLS, Streams};
use crate::streaming::{spdy, tunnel, web_socket};

/// Bytes of what a kubelet says in place of a stream.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Agrees to the WebSocket at once, then connects to the kubelet: what goes wrong from here is told on the socket.
pub fn translated(call: &mut Call, target: Target, streams: Streams) -> Answer {
    let client = call.request.upgrade.take();
    let agreement = web_socket::agreement(&call.request.headers, Some(remote_command::PROTOCOL));
    let (Some(client), Some(agreement)) = (client, agreement) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let api = call.api.clone();
    let held = (crate::audit::current(), crate::metrics::tally::current());
    tokio::spawn(async move {
        match web_socket::open(client).await {
            Ok(socket) => remote_command::translate(socket, streams, connect(api, target)).await,
            Err(error) => tracing::debug!(%error, "a client did not take its WebSocket"),
        }
        drop(held);
    });
    Ok(agreement)
}

/// A SPDY connection to the kubelet. Errors are the words of Go's client.
async fn connect(api: Arc<Api>, target: Target) -> Result<Backend, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    tunnel::ask_for_spdy(&mut headers, &SPDY_PROTOCOLS);
    let url = format!("{}://{}{}", target.scheme(), target.authority(), target.path_and_query());
    let request = forward::outgoing(Method::POST, &target, headers, Body::empty()).map_err(|status| status.message)?;
    let sent = api.backends.send(&target, request).await;
    let mut response = sent.map_err(|error| format!("error sending request: Post {}: {error}", quote(&url)))?;
    if response.status().is_redirection() && response.headers().contains_key(header::LOCATION) {
        return Err(format!("error sending request: Post {}: redirect not allowed", quote(&url)));
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS || !tunnel::agrees_to_spdy(response.headers()) {
        return match Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await {
            Ok(body) => Err(format!("unable to upgrade connection: {}", refusal(&body.to_bytes()))),
            Err(_) => Err("unable to upgrade connection: unable to read error from server response".to_owned()),
        };
    }
    let protocol = response.headers().get(tunnel::PROTOCOL_VERSION).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| error.to_string())?;
    let connection = spdy::Connection::client(TokioIo::new(upgraded)).map_err(|error| error.to_string())?;
    Ok(Backend { connection, protocol })
}

/// The message of a Status, or else the text as it is.
fn refusal(body: &[u8]) -> String {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let said =
        ["message", "error"].into_iter().filter_map(|field| status.get(field)?.as_str()).map(str::trim).find(|text| !text.is_empty());
    if let Some(said) = said {
        return said.to_owned();
    }
    match String::from_utf8_lossy(body).trim() {
        "" => "empty server response".to_owned(),
        text => text.to_owned(),
    }
}

/// Has the kubelet agree to SPDY first, then agrees to the WebSocket that carries it.
pub async fn tunnelled(call: &mut Call, target: &Target, protocols: &[String]) -> Answer {
    let Some(client) = call.request.upgrade.take() else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let mut headers = forward::passed_on(call);
    let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
    tunnel::ask_for_spdy(&mut headers, &protocols);
    let request: Request<Body> = forward::outgoing(Method::POST, target, headers, Body::empty())?;
    let (head, backend) = match forward::agreed(&call.api, target, request).await? {
        Agreement::Refused(response) => return Ok(response),
        Agreement::Upgraded(head, backend) => (head, backend),
    };
    if !tunnel::agrees_to_spdy(&head.headers) {
        return Ok(failed("unable to upgrade: missing upgrade headers in response"));
    }
    let protocol = tunnel::chosen(&head.headers);
    let Some(agreement) = web_socket::agreement(&call.request.headers, protocol.as_deref()) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let held = (crate::audit::current(), crate::metrics::tally::current());
    tokio::spawn(async move {
        let socket = async { web_socket::open(client).await };
        match tokio::try_join!(socket, backend) {
            Ok((socket, backend)) => tunnel::carry(socket, TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "a tunnel was not joined"),
        }
        drop(held);
    });
    Ok(agreement)
}

fn failed(why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_message() {
        assert_eq!(refusal(br#"{"kind":"Status","message":" no "}"#), "no");
        assert_eq!(refusal(br#"{"error":"x"}"#), "x");
        assert_eq!(refusal(b"container not found (\"a\")\n"), "container not found (\"a\")");
        assert_eq!(refusal(b""), "empty server response");
    }
}
