//! The listener: TCP, TLS, HTTP/1.1 and HTTP/2, and an orderly end.
//!
//! Knows connections and nothing of the API: each request goes to one handler, with the peer's address and certificate.

pub mod lanes;
mod lingering;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use futures::future::Either;
use http::{Method, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::RngExt;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use self::lanes::{Belonging, Lanes, Metered};
use self::lingering::Lingering;

/// Connections open at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 50_000;
/// A TLS handshake must be over by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request must have arrived by then (HTTP/1.1).
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(32);
/// A request's headers over HTTP/2, as upstream allows; over HTTP/1.1 hyper's limit of 417 kB holds.
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// Streams of one HTTP/2 connection if nothing else is said, as upstream allows.
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// What a client may send ahead on a stream. All streams together may be sent as much at once.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const MAX_WINDOW_BYTES: u32 = i32::MAX as u32;
/// Open connections get this long to finish after the shutdown signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    pub local: SocketAddr,
    /// The client's certificate chain; empty without one. That the client holds the key is proved, who certified it is not.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// To be told whose the connection is, as soon as that is known.
    pub belonging: Belonging,
}

/// How connections are served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `--goaway-chance`: this share of the answers over HTTP/2 is the connection's last, so that clients find other servers.
    pub goaway_chance: f64,
    /// `--http2-max-streams-per-connection`; 0 for the default.
    pub http2_max_streams: u32,
    /// `--disable-http2-serving`
    pub disable_http2: bool,
    /// Clients that take much of the processor give way to others.
    pub lanes: bool,
}

impl Settings {
    fn builder(&self, belonging: &Belonging) -> auto::Builder<Metered> {
        let mut builder = auto::Builder::new(Metered(belonging.clone()));
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
        let streams = if self.http2_max_streams == 0 { MAX_CONCURRENT_STREAMS } else { self.http2_max_streams };
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES.saturating_mul(streams).min(MAX_WINDOW_BYTES))
            .keep_alive_interval(Some(Duration::from_secs(30)));
        builder
    }
}

/// What connections are greeted with. Clones are the same: what one replaces, all have.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    pub fn new(config: ServerConfig) -> Tls {
        Tls(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// Connections that stand go on as they are.
    pub fn replace(&self, config: ServerConfig) {
        self.0.store(Arc::new(config));
    }
}

/// Serves until `shutdown` turns true, then drains.
///
/// `handler` never fails: errors are responses.
/// `tls` may change meanwhile: each connection is greeted with what it is then.
pub async fn serve<H, F>(listener: TcpListener, tls: Tls, settings: Settings, handler: H, mut shutdown: watch::Receiver<bool>)
where
    H: Fn(http::Request<Incoming>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let lanes = if settings.lanes { Lanes::two() } else { Ok(Lanes::one()) };
    let lanes = lanes.unwrap_or_else(|error| {
        tracing::warn!(%error, "busy clients do not give way to others");
        Lanes::one()
    });
    let settings = Arc::new(settings);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, address, slot)) = accepted else { continue };
        let tls = TlsAcceptor::from(tls.0.load_full());
        let (handler, settings, shutdown, belonging) = (handler.clone(), settings.clone(), shutdown.clone(), lanes.belonging());
        let whose = belonging.clone();
        let serving = async move {
            if let Err(error) = connection(stream, (address, whose), tls, handler, &settings, shutdown).await {
                tracing::debug!(%address, %error, "connection ended");
            }
            drop(slot);
        };
        lanes.serve(Box::pin(serving), belonging);
    }
    drop(listener);
    let everyone = slots.acquire_many(MAX_CONNECTIONS as u32);
    if tokio::time::timeout(DRAIN_TIMEOUT, everyone).await.is_err() {
        tracing::warn!("connections were still open after the drain time");
    }
}

/// The answer to HEAD: over HTTP/2 nobody else leaves the body out, and clients take one for a broken stream.
fn without_body(answer: http::Response<Body>) -> http::Response<Body> {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = http_body::Body::size_hint(&body).exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    http::Response::from_parts(head, Body::empty())
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<Accepted> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, address, slot)),
        Err(error) => {
            // Out of descriptors or the peer has gone already: the listener itself is still good.
            tracing::warn!(%error, "accept failed");
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    (address, belonging): (SocketAddr, Belonging),
    tls: TlsAcceptor,
    handler: H,
    settings: &Settings,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    H: Fn(http::Request<Incoming>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
    let certificates: Arc<[CertificateDer<'static>]> = match stream.get_ref().1.peer_certificates() {
        Some(chain) => chain.iter().map(|c| c.clone().into_owned()).collect(),
        None => Arc::new([]),
    };
    let builder = settings.builder(&belonging);
    let peer = Peer { address, local, certificates, belonging };
    let upgraded = Arc::new(AtomicBool::new(false));
    let stream = Lingering::new(stream, upgraded.clone());
    let enough = Arc::new(Notify::new());
    let (last, goaway_chance, no_http2) = (enough.clone(), settings.goaway_chance, settings.disable_http2);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (version, head_only) = (request.version(), request.method() == Method::HEAD);
        if version == Version::HTTP_2 && no_http2 {
            // Nobody has agreed to it.
            let mut refused = http::Response::new(Body::empty());
            *refused.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            last.notify_one();
            return Either::Left(std::future::ready(Ok(refused)));
        }
        // On the heap: what serves a request is big, and is moved several times before it is first asked.
        let answer: Pin<Box<F>> = Box::pin(handler(request, peer.clone()));
        let (upgraded, last) = (upgraded.clone(), last.clone());
        Either::Right(async move {
            let mut answer = answer.await;
            if version == Version::HTTP_2 {
                // HTTP/2 has no such header; it says goodbye in a frame.
                let is_last = answer.headers_mut().remove(header::CONNECTION).is_some_and(|value| value == "close");
                if is_last || rand::rng().random::<f64>() < goaway_chance {
                    last.notify_one();
                }
            }
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                upgraded.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(if head_only { without_body(answer) } else { answer })
        })
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        result = serving.as_mut() => return result,
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = enough.notified() => {}
    }
    serving.as_mut().graceful_shutdown();
    serving.await
}
