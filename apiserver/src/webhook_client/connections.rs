//! Connections to webhooks, kept for the next call.
//!
//! A connection is kept under all that it depends on: the address, the name that the peer has proved to have, whom it was trusted
//! by, and what was shown to it. So a changed configuration never meets an old connection, which is closed when it has been idle for a while. HTTP/2 where the
//! peer speaks it, with calls side by side on one connection; else HTTP/1.1, with one call at a time on each.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::backend;
use crate::endpoints::subresources::location::Target;

/// Bytes of an answer; more is no answer. Conversion answers with as much as it was asked about.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// HTTP/1.1 connections to one peer that are kept while nobody uses them.
const MAX_IDLE: usize = 8;
/// Peers with connections that are kept; the one that was used longest ago goes first.
const MAX_PEERS: usize = 128;
/// A connection that nobody has used for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// An HTTP/2 peer in use that says nothing for so long is asked for a sign of life, and given up without one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Everything that a connection depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Host and port that are dialled.
    pub address: String,
    /// Whom the certificate must be of.
    pub server_name: String,
    /// The authorities that must have certified it, PEM; the machine's without.
    pub authorities: Option<Arc<[u8]>>,
    /// Whatever else the configuration of TLS depends on.
    pub identity: Option<Arc<[u8]>>,
}

/// How to make a connection that is not kept yet. TLS is left out if the target is without.
pub struct Way<'a> {
    pub target: &'a Target,
    pub trust: &'a (dyn Fn() -> Result<Arc<ClientConfig>, String> + Sync),
}

/// A request: what it says in each version of HTTP.
pub struct Call<'a> {
    pub method: Method,
    pub authority: &'a str,
    pub path_and_query: &'a str,
    /// Beside those that each call has.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What came back, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The connections that are kept.
#[derive(Default)]
pub struct Connections {
    peers: Mutex<HashMap<Peer, Kept>>,
}

struct Kept {
    shared: Option<http2::SendRequest<Full<Bytes>>>,
    idle: Vec<(http1::SendRequest<Full<Bytes>>, Instant)>,
    used: Instant,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

/// Why there is no answer.
enum Failure {
    /// The connection was of no more use; nothing of an answer has been seen.
    Gone(String),
    Other(String),
}

impl Connections {
    /// Sends and reads the whole answer. A kept connection that has ended meanwhile is replaced by a new one: what is asked of webhooks
    /// can be asked twice.
    pub async fn call(self: &Arc<Self>, peer: &Peer, way: &Way<'_>, call: &Call<'_>) -> Result<Reply, String> {
        while let Some(sender) = self.take(peer) {
            match self.exchange(peer, sender, call).await {
                Err(Failure::Gone(why)) => {
                    tracing::debug!(peer = peer.address, why, "a kept connection has ended");
                    self.forget_shared(peer);
                }
                Err(Failure::Other(why)) => return Err(why),
                Ok(answer) => return Ok(answer),
            }
        }
        let sender = connect(peer, way).await?;
        self.exchange(peer, sender, call).await.map_err(|failure| match failure {
            Failure::Gone(why) | Failure::Other(why) => why,
        })
    }

    async fn exchange(self: &Arc<Self>, peer: &Peer, sender: Sender, call: &Call<'_>) -> Result<Reply, Failure> {
        match sender {
            Sender::Many(mut sender) => {
                sender.ready().await.map_err(gone)?;
                self.keep(peer, |kept| kept.shared = Some(sender.clone()));
                let answer = read(sender.send_request(call.request(true)?).await.map_err(failure)?).await;
                answer.map_err(Failure::Other)
            }
            Sender::One(mut sender) => {
                sender.ready().await.map_err(gone)?;
                let answer = read(sender.send_request(call.request(false)?).await.map_err(failure)?).await.map_err(Failure::Other)?;
                if !sender.is_closed() {
                    self.keep(peer, |kept| {
                        if kept.idle.len() < MAX_IDLE {
                            kept.idle.push((sender, Instant::now()));
                        }
                    });
                }
                Ok(answer)
            }
        }
    }

    /// A kept connection that still stands, as far as is known.
    fn take(&self, peer: &Peer) -> Option<Sender> {
        let mut peers = self.peers.lock();
        let kept = peers.get_mut(peer)?;
        if let Some(shared) = kept.shared.take_if(|shared| shared.is_closed()) {
            drop(shared);
        }
        if let Some(shared) = &kept.shared {
            // It comes back when it has shown to be good; others may have it meanwhile.
            return Some(Sender::Many(shared.clone()));
        }
        std::iter::from_fn(|| kept.idle.pop()).find(|(sender, _)| !sender.is_closed()).map(|(sender, _)| Sender::One(sender))
    }

    fn forget_shared(&self, peer: &Peer) {
        if let Some(kept) = self.peers.lock().get_mut(peer) {
            kept.shared = None;
        }
    }

    fn keep(self: &Arc<Self>, peer: &Peer, put: impl FnOnce(&mut Kept)) {
        let now = Instant::now();
        let mut peers = self.peers.lock();
        if peers.is_empty() {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        if peers.len() >= MAX_PEERS && !peers.contains_key(peer) {
            let oldest = peers.iter().min_by_key(|(_, kept)| kept.used).map(|(peer, _)| peer.clone());
            oldest.and_then(|oldest| peers.remove(&oldest));
        }
        let kept = peers.entry(peer.clone()).or_insert_with(|| Kept { shared: None, idle: Vec::new(), used: now });
        kept.used = now;
        put(kept);
    }

    /// Closes what nobody has used for a while; says whether anything is left.
    fn close_idle(&self, now: Instant) -> bool {
        let mut peers = self.peers.lock();
        peers.retain(|_, kept| {
            kept.idle.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < IDLE_TIMEOUT);
            kept.shared.take_if(|shared| shared.is_closed());
            (kept.shared.is_some() || !kept.idle.is_empty()) && now.duration_since(kept.used) < IDLE_TIMEOUT
        });
        !peers.is_empty()
    }
}

/// Closes idle connections from time to time, as long as there are any.
async fn sweep(connections: Weak<Connections>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(connections) = connections.upgrade() else { return };
        if !connections.close_idle(Instant::now()) {
            return;
        }
    }
}

impl Call<'_> {
    /// HTTP/2 has the authority in the address, HTTP/1.1 in a header.
    fn request(&self, absolute: bool) -> Result<Request<Full<Bytes>>, Failure> {
        let request = Request::builder().method(self.method.clone());
        let request = if absolute {
            request.uri(format!("https://{}{}", self.authority, self.path_and_query))
        } else {
            request.uri(self.path_and_query).header(http::header::HOST, self.authority)
        };
        let made = request.header(http::header::ACCEPT, "application/json, */*").body(Full::new(self.body.clone()));
        let mut request = made.map_err(|error| Failure::Other(error.to_string()))?;
        let headers = request.headers_mut();
        if self.method != Method::GET {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(http::header::CONTENT_LENGTH, self.body.len().into());
        }
        headers.extend(self.headers.clone());
        Ok(request)
    }
}

async fn connect(peer: &Peer, way: &Way<'_>) -> Result<Sender, String> {
    let ended = |error: hyper::Error| tracing::debug!(%error, "a webhook's connection ended");
    if !way.target.https {
        let stream = backend::dial(way.target).await.map_err(|error| error.to_string())?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
        return Ok(Sender::One(sender));
    }
    let config = (way.trust)()?;
    let name = ServerName::try_from(peer.server_name.clone()).map_err(|_| format!("{} is no server name", peer.server_name))?;
    let connector = TlsConnector::from(config);
    let stream = backend::connect_verified(way.target, &connector, name).await.map_err(|error| error.to_string())?;
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if speaks_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
        let (sender, connection) = builder.handshake(io).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
        return Ok(Sender::Many(sender));
    }
    let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move { connection.await.unwrap_or_else(ended) });
    Ok(Sender::One(sender))
}

fn gone(error: hyper::Error) -> Failure {
    Failure::Gone(error.to_string())
}

/// An error before the answer began.
fn failure(error: hyper::Error) -> Failure {
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() || is_connection_end(&error) {
        return gone(error);
    }
    Failure::Other(error.to_string())
}

/// Whether the peer has closed or reset the connection, which is all that is known of one that ended while idle.
fn is_connection_end(error: &hyper::Error) -> bool {
    use std::error::Error;
    let mut cause = error.source();
    while let Some(one) = cause {
        if one.downcast_ref::<std::io::Error>().is_some() {
            return true;
        }
        cause = one.source();
    }
    false
}

async fn read(response: hyper::Response<Incoming>) -> Result<Reply, String> {
    let (head, mut body) = response.into_parts();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(format!("the answer has more than {MAX_ANSWER_BYTES} bytes"));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(Reply { status: head.status, headers: head.headers, body: whole.freeze() })
}
