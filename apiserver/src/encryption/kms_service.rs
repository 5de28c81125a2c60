//! The KMS plugin API (v2): three calls over gRPC on a Unix socket.
//!
//! Owns the messages; every call is counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::config::Kms;
use super::kms_metrics::KMS;
use crate::unix_grpc::Connection;

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
    connection: Connection,
    timeout: Duration,
}

impl Service {
    /// Connects with the first call. Must be made within a runtime.
    pub fn new(kms: &Kms) -> Service {
        Service { name: kms.name.clone(), connection: Connection::new(&kms.socket), timeout: kms.timeout }
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

    /// One call, counted.
    async fn call<Q, R>(&self, path: &'static str, request: Q) -> Result<R, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let since = Instant::now();
        let answer = self.connection.call(path, request, self.timeout).await;
        KMS.called(&self.name, path, since.elapsed(), answer.as_ref().err().map(|failure| failure.code.as_str()));
        answer.map_err(|failure| failure.to_string())
    }
}
