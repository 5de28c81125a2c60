//! A service at a unix socket.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use client::Shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status};

/// Plugins and their friends that are connected to one socket at once.
const MAX_CONNECTIONS: usize = 256;

/// What a method says: one encoded message, or one after the other.
pub type Answer = Result<BoxStream<'static, Result<Vec<u8>, Status>>, Status>;

/// Answers calls by the method's path (`/package.Service/Method`).
pub trait Service: Send + Sync + 'static {
    fn call(self: Arc<Self>, path: String, request: Bytes) -> BoxFuture<'static, Answer>;
}

/// An answer of one message.
pub fn one(message: &impl Message) -> Answer {
    let bytes = message.encode_to_vec();
    Ok(futures::stream::once(async move { Ok(bytes) }).boxed())
}

/// The request as a message of its type.
pub fn read<M: Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request).map_err(|error| Status::internal(format!("failed to unmarshal the received message: {error}")))
}

/// What a method that the service does not have is answered.
pub fn unknown(path: &str) -> Answer {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    Err(Status::unimplemented(format!("unknown method {method} for service {service}")))
}

/// Listens at this path, where nobody else does any more. Must be called within a tokio runtime.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Serves until shutdown.
pub async fn serve(listener: UnixListener, service: Arc<dyn Service>, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = shutdown.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection at a socket for plugins");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        let answering = hyper::service::service_fn(move |request| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(answer(service, request).await) }
        });
        connections.spawn(async move {
            let _slot = slot;
            let connection =
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answering);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of a plugin has ended");
            }
        });
    }
}

async fn answer(service: Arc<dyn Service>, request: http::Request<hyper::body::Incoming>) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    let method = tower::service_fn(move |request: Request<Bytes>| {
        let answered = service.clone().call(path.clone(), request.into_inner());
        async move { answered.await.map(Response::new) }
    });
    // An answer of one message looks on the wire as a stream of one does.
    tonic::server::Grpc::new(BytesCodec).server_streaming(method, request).await
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = BytesCodec;
    type Decoder = BytesCodec;

    fn encoder(&mut self) -> BytesCodec {
        BytesCodec
    }

    fn decoder(&mut self) -> BytesCodec {
        BytesCodec
    }
}

impl Encoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Socket;

    #[derive(Clone, PartialEq, Message)]
    struct Word {
        #[prost(string, tag = "1")]
        word: String,
    }

    struct Echo;

    impl Service for Echo {
        fn call(self: Arc<Self>, path: String, request: Bytes) -> BoxFuture<'static, Answer> {
            Box::pin(async move {
                let word: Word = read(request)?;
                match path.as_str() {
                    "/echo.Echo/Once" => one(&word),
                    "/echo.Echo/Twice" => {
                        let bytes = word.encode_to_vec();
                        Ok(futures::stream::iter([Ok(bytes.clone()), Ok(bytes)]).boxed())
                    }
                    "/echo.Echo/Never" => Err(Status::unknown("no")),
                    other => unknown(other),
                }
            })
        }
    }

    #[tokio::test]
    async fn calls_are_answered_once_more_than_once_or_with_an_error() {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let path = directory.path().join("e.sock");
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(serve(listen(&path).expect("it can be bound"), Arc::new(Echo), shutdown.clone()));
        let socket = Socket::at(&path);
        let word = Word { word: "a".to_owned() };
        let once: Word = socket.call("/echo.Echo/Once", word.clone(), None).await.expect("it answers");
        assert_eq!(once, word);
        let twice: tonic::Streaming<Word> = socket.stream("/echo.Echo/Twice", word.clone()).await.expect("it answers");
        assert_eq!(twice.map(|word| word.expect("it arrives").word).collect::<Vec<_>>().await, ["a", "a"]);
        let error = socket.call::<_, Word>("/echo.Echo/Never", word.clone(), None).await.expect_err("it fails");
        assert_eq!(crate::grpc::told(&error), "rpc error: code = Unknown desc = no");
        let error = socket.call::<_, Word>("/echo.Echo/Other", word, None).await.expect_err("it fails");
        assert_eq!(crate::grpc::told(&error), "rpc error: code = Unimplemented desc = unknown method Other for service echo.Echo");
        shutdown.cancel();
        serving.await.expect("it ends");
    }
}
