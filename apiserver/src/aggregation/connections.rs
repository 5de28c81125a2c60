//! Connections to extension API servers, kept for the next request.
//!
//! HTTP/2 where the server speaks it: requests go side by side on a connection, watches too. Else HTTP/1.1, where a connection is free again
//! when the answer was read to its end. What is upgraded has a connection of its own, which is not made here.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// Requests on one HTTP/2 connection. Servers take 100 and more; a watch holds its place as long as it lasts, and nobody may wait for one to end.
const MAX_STREAMS: usize = 80;
/// HTTP/1.1 connections to one endpoint that are kept while nobody uses them.
const MAX_IDLE: usize = 8;
/// Endpoints with connections that are kept; the one that was used longest ago goes first.
const MAX_ENDPOINTS: usize = 16;
/// A connection that nobody has used for this long is not used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// A server that says nothing for so long is asked for a sign of life, and given up without one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// The connections of one registration, all made alike.
#[derive(Default)]
pub struct Connections(Mutex<HashMap<Endpoint, Kept>>);

/// Where a server is, and who it has proved to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub authority: String,
    pub server_name: String,
}

struct Kept {
    shared: Vec<Shared>,
    idle: Vec<(http1::SendRequest<Body>, Instant)>,
    used: Instant,
}

/// An HTTP/2 connection. Whatever goes on there has a share of `streams`.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Body>,
    streams: Arc<()>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Many(Shared),
}

enum Failure {
    /// Nothing of the request has been sent.
    Unsent(Box<Request<Body>>),
    /// Nothing of an answer has been seen.
    Unanswered(String),
}

impl Connections {
    /// Sends a request, and gives the head of the answer; `connect` is waited for if no kept connection will do. A request that a kept connection could not take, because it has ended meanwhile, is sent
    /// again; and so is one that only reads and was not answered.
    pub async fn send(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        connect: impl Future<Output = Result<TlsStream<TcpStream>, String>> + Send,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, String> {
        while let Some(sender) = self.take(endpoint) {
            let again = repeatable(&request);
            request = match self.exchange(endpoint, sender, request).await {
                Ok(response) => return Ok(response),
                Err(Failure::Unsent(request)) => *request,
                Err(Failure::Unanswered(why)) => again.ok_or(why)?,
            };
        }
        let sender = open(connect.await?).await?;
        self.exchange(endpoint, sender, request).await.map_err(|failure| match failure {
            Failure::Unsent(_) => "the connection was closed".to_owned(),
            Failure::Unanswered(why) => why,
        })
    }

    async fn exchange(self: &Arc<Self>, endpoint: &Endpoint, sender: Sender, request: Request<Body>) -> Result<Response<Body>, Failure> {
        match sender {
            Sender::Many(mut shared) => {
                let streams = shared.streams.clone();
                if shared.sender.ready().await.is_err() {
                    return Err(Failure::Unsent(Box::new(request)));
                }
                self.keep(endpoint, |kept| {
                    if !kept.shared.iter().any(|known| Arc::ptr_eq(&known.streams, &streams)) {
                        kept.shared.push(shared.clone());
                    }
                });
                match shared.sender.try_send_request(absolute(request)).await {
                    Ok(response) => Ok(response.map(|body| Body::new(Answer { body, _stream: streams }))),
                    Err(mut error) => Err(match error.take_message() {
                        Some(request) => Failure::Unsent(Box::new(relative(request))),
                        None => Failure::Unanswered(error.into_error().to_string()),
                    }),
                }
            }
            Sender::One(mut sender) => {
                if sender.ready().await.is_err() {
                    return Err(Failure::Unsent(Box::new(request)));
                }
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        self.keep_when_read(endpoint.clone(), sender);
                        Ok(response.map(Body::new))
                    }
                    Err(mut error) => Err(match error.take_message() {
                        Some(request) => Failure::Unsent(Box::new(request)),
                        None => Failure::Unanswered(error.into_error().to_string()),
                    }),
                }
            }
        }
    }

    /// Takes a connection back when the answer that it brings was read; if that is given up, the connection ends.
    fn keep_when_read(self: &Arc<Self>, endpoint: Endpoint, mut sender: http1::SendRequest<Body>) {
        let connections = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok()
                && let Some(connections) = connections.upgrade()
            {
                connections.keep(&endpoint, |kept| {
                    if kept.idle.len() < MAX_IDLE {
                        kept.idle.push((sender, Instant::now()));
                    }
                });
            }
        });
    }

    /// A kept connection that still stands, as far as is known, and has room.
    fn take(&self, endpoint: &Endpoint) -> Option<Sender> {
        let now = Instant::now();
        let mut all = self.0.lock();
        all.values_mut().for_each(|kept| kept.close_idle(now));
        all.retain(|_, kept| !kept.shared.is_empty() || !kept.idle.is_empty());
        let kept = all.get_mut(endpoint)?;
        let has_room = |shared: &&Shared| Arc::strong_count(&shared.streams) <= MAX_STREAMS;
        match kept.shared.iter().find(has_room) {
            Some(shared) => Some(Sender::Many(shared.clone())),
            None => kept.idle.pop().map(|(sender, _)| Sender::One(sender)),
        }
    }

    fn keep(&self, endpoint: &Endpoint, put: impl FnOnce(&mut Kept)) {
        let now = Instant::now();
        let mut all = self.0.lock();
        if all.len() >= MAX_ENDPOINTS && !all.contains_key(endpoint) {
            let oldest = all.iter().min_by_key(|(_, kept)| kept.used).map(|(endpoint, _)| endpoint.clone());
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        let kept = all.entry(endpoint.clone()).or_insert_with(|| Kept { shared: Vec::new(), idle: Vec::new(), used: now });
        kept.used = now;
        put(kept);
    }
}

impl Kept {
    fn close_idle(&mut self, now: Instant) {
        let is_old = now.duration_since(self.used) >= IDLE_TIMEOUT;
        self.shared.retain(|shared| !shared.sender.is_closed() && (!is_old || Arc::strong_count(&shared.streams) > 1));
        self.idle.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < IDLE_TIMEOUT);
    }
}

async fn open(stream: TlsStream<TcpStream>) -> Result<Sender, String> {
    let ended = |error: hyper::Error| tracing::debug!(%error, "a connection to an extension API server ended");
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if speaks_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
        let (sender, connection) = builder.handshake(io).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
        return Ok(Sender::Many(Shared { sender, streams: Arc::default() }));
    }
    let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
    Ok(Sender::One(sender))
}

/// The same request, if sending it twice does no harm and it carries nothing.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// HTTP/2 has the authority in the address, HTTP/1.1 in a header.
fn absolute(mut request: Request<Body>) -> Request<Body> {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = authority.is_some().then_some(Scheme::HTTPS);
    parts.authority = authority;
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request
}

fn relative(mut request: Request<Body>) -> Request<Body> {
    let parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = parts.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    request
}

/// The body of an answer, which has its place on the connection until it is dropped.
struct Answer {
    body: Incoming,
    _stream: Arc<()>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_same_in_both_versions() {
        let request = Request::get("/apis/g/v1?limit=5").header(header::HOST, "10.0.0.1:8443").body(Body::empty()).unwrap();
        let request = absolute(request);
        assert_eq!((request.uri().to_string().as_str(), request.headers().len()), ("https://10.0.0.1:8443/apis/g/v1?limit=5", 0));
        let request = relative(request);
        assert_eq!(
            (request.uri().to_string().as_str(), request.headers()[header::HOST].as_bytes()),
            ("/apis/g/v1?limit=5", &b"10.0.0.1:8443"[..])
        );
    }

    #[test]
    fn only_what_carries_nothing_and_changes_nothing_is_repeated() {
        let request = |method: &str, body: Body| Request::builder().method(method).uri("/a").body(body).unwrap();
        assert!(repeatable(&request("GET", Body::empty())).is_some());
        assert!(repeatable(&request("GET", Body::from("x"))).is_none());
        assert!(repeatable(&request("DELETE", Body::empty())).is_none());
    }
}
