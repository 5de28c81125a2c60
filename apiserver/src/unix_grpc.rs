//! gRPC over a Unix socket: one connection, made with the first call and anew when it has broken.
//!
//! Errors are in the words of Go's client. Knows no service.

use std::error::Error;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// Who waits for somebody to listen tries again after this, and after twice as long each time up to the next.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Why a call has failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("rpc error: code = {code} desc = {description}")]
pub struct Failure {
    /// As Go's client names it.
    pub code: String,
    pub description: String,
    /// The call has reached nobody.
    pub is_unheard: bool,
}

impl Failure {
    fn deadline(description: &str) -> Failure {
        Failure { code: "DeadlineExceeded".to_owned(), description: description.to_owned(), is_unheard: false }
    }

    fn unavailable(error: &(dyn Error + 'static)) -> Failure {
        let deepest = deepest(error);
        let kind = deepest.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let is_unheard = matches!(kind, Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused));
        Failure { code: "Unavailable".to_owned(), description: deepest.to_string(), is_unheard }
    }
}

/// A server behind a socket.
pub struct Connection(Channel);

impl Connection {
    /// `socket` is a path, or `@name` for a name without a file. Must be made within a runtime.
    pub fn new(socket: &str) -> Connection {
        // A name without a file begins with a zero.
        let path = socket.strip_prefix('@').map_or_else(|| socket.to_owned(), |name| format!("\0{name}"));
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Connection(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
    }

    /// One call, which fails if nobody listens.
    pub async fn call<Q, R>(&self, path: &'static str, request: Q, timeout: Duration) -> Result<R, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let answer = tokio::time::timeout(timeout, self.once(path, request)).await;
        answer.unwrap_or_else(|_| Err(Failure::deadline("context deadline exceeded")))
    }

    /// One call, which waits for somebody to listen as long as it may take.
    pub async fn call_when_ready<Q, R>(&self, path: &'static str, request: Q, timeout: Duration) -> Result<R, Failure>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let deadline = Instant::now() + timeout;
        let mut retry = FIRST_RETRY;
        loop {
            let answer = self.call(path, request.clone(), deadline.saturating_duration_since(Instant::now())).await;
            let Err(failure) = answer else { return answer };
            if !failure.is_unheard {
                return Err(failure);
            }
            if Instant::now() + retry >= deadline {
                tokio::time::sleep_until(deadline.into()).await;
                return Err(Failure::deadline(&format!("context deadline exceeded, latest connection error: {}", failure.description)));
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn once<Q, R>(&self, path: &'static str, request: Q) -> Result<R, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.0.clone());
        client.ready().await.map_err(|error| Failure::unavailable(&error))?;
        let answered = client.unary(tonic::Request::new(request), PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await;
        answered.map(tonic::Response::into_inner).map_err(|status| match status.source() {
            Some(source) => Failure::unavailable(source),
            None => {
                // The one code that Go spells otherwise.
                let code = if status.code() == tonic::Code::Cancelled { "Canceled".to_owned() } else { format!("{:?}", status.code()) };
                Failure { code, description: status.message().to_owned(), is_unheard: false }
            }
        })
    }
}

/// What lies under an error, which says most.
fn deepest<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
