//! The bare server: hyper and rustls, answering with prepared bytes and doing nothing else. What it reaches is what this machine and
//! these libraries allow; nothing is decoded, kept or made durable. `bare PORT OBJECT_BYTES LIST_BYTES LIST_PROTOBUF_BYTES EVENT_BYTES`

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// More events than a run makes, so that no watcher can fall behind.
const EVENTS: usize = 8192;

struct Prepared {
    object: Bytes,
    list: Bytes,
    list_protobuf: Bytes,
    event: Bytes,
    events: broadcast::Sender<Bytes>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let [port, object, list, list_protobuf, event] = sizes[..] else { anyhow::bail!("usage: bare PORT OBJECT LIST LIST_PROTOBUF EVENT") };
    let prepared = Arc::new(Prepared {
        object: padded("{\"pad\":\"", "\"}", object),
        list: padded("{\"metadata\":{\"resourceVersion\":\"1\"},\"pad\":\"", "\"}", list),
        list_protobuf: padded("", "", list_protobuf),
        event: padded("{\"type\":\"ADDED\",\"object\":{\"pad\":\"", "\"}}\n", event),
        events: broadcast::Sender::new(EVENTS),
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", u16::try_from(port)?)).await?;
    let tls = acceptor()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, prepared) = (tls.clone(), prepared.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, prepared.clone()));
            // A connection that ends early is the client's business.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn padded(head: &str, tail: &str, size: usize) -> Bytes {
    format!("{head}{}{tail}", "x".repeat(size.saturating_sub(head.len() + tail.len()))).into()
}

fn acceptor() -> anyhow::Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .context("TLS")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn answer(request: Request<Incoming>, prepared: Arc<Prepared>) -> Result<Response<Body>, hyper::Error> {
    let is_protobuf = request.headers().get(header::ACCEPT).is_some_and(|v| v.as_bytes().ends_with(b"protobuf"));
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let is_list = path.ends_with("/pods") || path.ends_with("/configmaps");
    let status = if request.method() == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
    let body = if status == StatusCode::CREATED {
        request.into_body().collect().await?;
        // With nobody watching there is nobody to send to.
        let _ = prepared.events.send(prepared.event.clone());
        Full::new(prepared.object.clone()).boxed_unsync()
    } else if query.contains("watch=true") {
        watch(prepared.events.subscribe())
    } else if is_list {
        Full::new(if is_protobuf { prepared.list_protobuf.clone() } else { prepared.list.clone() }).boxed_unsync()
    } else {
        Full::new(prepared.object.clone()).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    Ok(response)
}

/// Every event from now on; ends if the watcher fell behind.
fn watch(events: broadcast::Receiver<Bytes>) -> Body {
    let stream = stream::unfold(events, |mut events| async {
        let event: Result<Bytes, RecvError> = events.recv().await;
        Some((Ok(Frame::data(event.ok()?)), events))
    });
    BodyExt::boxed_unsync(StreamBody::new(stream))
}
