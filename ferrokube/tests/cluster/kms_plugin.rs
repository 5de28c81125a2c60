//! A KMS plugin (v2) served by a test on a Unix socket, with a cipher that fools nobody.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message;

use crate::unix_grpc_server::{self, Serving};

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
    pub calls: Arc<Calls>,
    _serving: Serving,
}

impl Plugin {
    pub fn start(socket: &Path) -> Plugin {
        let calls = Arc::new(Calls::default());
        let counted = calls.clone();
        let serving = unix_grpc_server::serve(socket, move |method, request| Ok(answer(method, request, &counted)));
        Plugin { calls, _serving: serving }
    }
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x5a).collect()
}

fn answer(method: &str, request: &[u8], calls: &Calls) -> Vec<u8> {
    let payload = Payload::decode(request).unwrap_or_default().bytes;
    match method {
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
    }
}
