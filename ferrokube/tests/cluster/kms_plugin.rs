//! A KMS plugin (v2) served by a test on a Unix socket: gRPC by hand, and a cipher that fools nobody.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Encrypted {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// Requests and the answer to one of them begin with the bytes that they are about.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

#[derive(Default)]
pub struct Calls {
    pub encrypt: AtomicUsize,
    pub decrypt: AtomicUsize,
}

/// The plugin, for as long as this lives.
pub struct Plugin {
    socket: PathBuf,
    pub calls: Arc<Calls>,
    task: JoinHandle<()>,
}

impl Plugin {
    pub fn start(socket: &Path) -> Plugin {
        // One that died has left it.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("a socket");
        let calls = Arc::new(Calls::default());
        Plugin { socket: socket.to_owned(), calls: calls.clone(), task: tokio::spawn(serve(listener, calls)) }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve(listener: UnixListener, calls: Arc<Calls>) {
    // Connections end with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let calls = calls.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, calls.clone()));
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // Clients go as they like.
            let _ = serving.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x5a).collect()
}

type Frames = stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>;

async fn answer(request: Request<Incoming>, calls: Arc<Calls>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.expect("a request").to_bytes();
    let payload = Payload::decode(body.get(5..).unwrap_or_default()).unwrap_or_default().bytes;
    let message = match method.as_str() {
        "Status" => StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id: "1".into() }.encode_to_vec(),
        "Encrypt" => {
            calls.encrypt.fetch_add(1, Ordering::Relaxed);
            let annotations = BTreeMap::from([("test.example.com".to_owned(), b"x".to_vec())]);
            Encrypted { ciphertext: turned(&payload), key_id: "1".into(), annotations }.encode_to_vec()
        }
        _ => {
            calls.decrypt.fetch_add(1, Ordering::Relaxed);
            Payload { bytes: turned(&payload) }.encode_to_vec()
        }
    };
    let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
    let framed = [[0].as_slice(), &length, &message].concat();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let frames = [Ok(Frame::data(framed.into())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
