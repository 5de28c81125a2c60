//! The KMS plugin API (v2): three calls over gRPC on a Unix socket.
//!
//! Owns the messages and the connection, which is made anew when it has broken.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::config::Kms;
use super::kms_metrics::KMS;

const STATUS: &str = "/v2.KeyManagementService/Status";
const ENCRYPT: &str = "/v2.KeyManagementService/Encrypt";
const DECRYPT: &str = "/v2.KeyManagementService/Decrypt";

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// A plugin.
pub struct Service {
    name: String,
    channel: Channel,
    timeout: Duration,
}

impl Service {
    /// Connects with the first call. Must be made within a runtime.
    pub fn new(kms: &Kms) -> Service {
        // A name without a file begins with a zero.
        let path = kms.socket.strip_prefix('@').map_or_else(|| kms.socket.clone(), |name| format!("\0{name}"));
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Service { name: kms.name.clone(), channel, timeout: kms.timeout }
    }

    pub async fn status(&self) -> Result<StatusResponse, String> {
        self.call(STATUS, StatusRequest {}).await
    }

    pub async fn encrypt(&self, plaintext: Vec<u8>) -> Result<EncryptResponse, String> {
        self.call(ENCRYPT, EncryptRequest { plaintext, uid: uuid::Uuid::new_v4().to_string() }).await
    }

    pub async fn decrypt(&self, ciphertext: Vec<u8>, key_id: String, annotations: BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, String> {
        let uid = uuid::Uuid::new_v4().to_string();
        let response: DecryptResponse = self.call(DECRYPT, DecryptRequest { ciphertext, uid, key_id, annotations }).await?;
        Ok(response.plaintext)
    }

    /// One call. Errors are in the words of Go's client.
    async fn call<Q, R>(&self, path: &'static str, request: Q) -> Result<R, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut client = Grpc::new(self.channel.clone());
            let unavailable = |error: &dyn std::error::Error| format!("rpc error: code = Unavailable desc = {}", deepest(error));
            client.ready().await.map_err(|error| unavailable(&error))?;
            let answered = client.unary(tonic::Request::new(request), PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await;
            answered.map(tonic::Response::into_inner).map_err(|status| match std::error::Error::source(&status) {
                Some(source) => unavailable(source),
                None => format!("rpc error: code = {:?} desc = {}", status.code(), status.message()),
            })
        };
        let since = Instant::now();
        let answer = match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()),
        };
        KMS.called(&self.name, path, since.elapsed(), answer.as_ref().err());
        answer
    }
}

/// What lies under an error, which says most.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
