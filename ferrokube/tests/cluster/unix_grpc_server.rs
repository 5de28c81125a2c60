//! A gRPC server of a test on a Unix socket, by hand: calls of one message each way.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

/// What a call is answered: a message, or a code and what is to be said.
pub type Answer = Result<Vec<u8>, (u8, &'static str)>;

/// The server, for as long as this lives.
pub struct Serving {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// `answer` gets the last part of a method's name and the message.
pub fn serve(socket: &Path, answer: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static) -> Serving {
    // One that died has left it.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("a socket");
    let answer = Arc::new(answer);
    let task = tokio::spawn(async move {
        // Connections end with it.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| called(request, answer.clone()));
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // Clients go as they like.
                let _ = serving.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Serving { socket: socket.to_owned(), task }
}

type Frames = stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

async fn called(
    request: Request<Incoming>,
    answer: Arc<impl Fn(&str, &[u8]) -> Answer>,
) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.expect("a request").to_bytes();
    let (code, said, message) = match answer(&method, body.get(5..).unwrap_or_default()) {
        Ok(message) => (0, "", Some(message)),
        Err((code, said)) => (code, said, None),
    };
    let mut frames = Vec::new();
    if let Some(message) = message {
        let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
        frames.push(Ok(Frame::data([[0].as_slice(), &length, &message].concat().into())));
    }
    let text = |text: &str| HeaderValue::try_from(text).expect("a value");
    let trailers = [("grpc-status", text(&code.to_string())), ("grpc-message", text(said))];
    let trailers = trailers.map(|(name, value)| (http::HeaderName::from_static(name), value));
    frames.push(Ok(Frame::trailers(HeaderMap::from_iter(trailers))));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
