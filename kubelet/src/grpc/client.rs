//! Calls to whoever listens at a unix socket.

use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// A socket that speaks gRPC. Clones share one connection, which is made when it is first needed.
#[derive(Clone, Debug)]
pub struct Socket {
    channel: Channel,
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

impl Socket {
    /// Must be called within a tokio runtime.
    pub fn at(path: &Path) -> Socket {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        Socket { channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector) }
    }

    /// One call with one answer. A limit of none leaves the time to the other side.
    pub async fn call<Q, A>(&self, path: &'static str, request: Q, limit: Option<Duration>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let call = async {
            client.ready().await.map_err(unavailable)?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            client.unary(Request::new(request), PathAndQuery::from_static(path), codec).await
        };
        let answer = match limit {
            None => call.await,
            Some(limit) => tokio::time::timeout(limit, call)
                .await
                .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded"))),
        };
        Ok(answer?.into_inner())
    }

    /// One call that is answered again and again.
    pub async fn stream<Q, A>(&self, path: &'static str, request: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(unavailable)?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(client.server_streaming(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}
