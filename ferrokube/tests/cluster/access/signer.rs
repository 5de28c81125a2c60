//! A signer of service account tokens in a program of its own, served by a test: keys on P-256, and whatever is to go wrong.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use rcgen::PublicKeyData;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::unix_grpc_server::{self, Answer, Serving};

/// The one field of a request or answer that is a text.
#[derive(Clone, PartialEq, Message)]
struct SignRequest {
    #[prost(string, tag = "1")]
    claims: String,
}

#[derive(Clone, PartialEq, Message)]
struct SignResponse {
    #[prost(string, tag = "1")]
    header: String,
    #[prost(string, tag = "2")]
    signature: String,
}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PublicKey {
    #[prost(string, tag = "1")]
    key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bool, tag = "3")]
    exclude_from_oidc_discovery: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Keys {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<PublicKey>,
    #[prost(message, optional, tag = "2")]
    data_timestamp: Option<Time>,
    #[prost(int64, tag = "3")]
    refresh_hint_seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(int64, tag = "1")]
    max_token_expiration_seconds: i64,
}

/// A key on P-256 that signs tokens.
pub struct Key(rcgen::KeyPair);

impl Key {
    pub fn new() -> Key {
        Key(rcgen::KeyPair::generate().expect("a key"))
    }

    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The signature of a header and a payload, all in base64.
    fn sign(&self, header: &str, payload: &str) -> String {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.0.serialize_der(), &random).expect("a key");
        let signature = pair.sign(&random, format!("{header}.{payload}").as_bytes()).expect("a signature");
        URL_SAFE_NO_PAD.encode(signature)
    }

    /// A token.
    pub fn token(&self, header: &Value, payload: &Value) -> String {
        let (header, payload) = (URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload.to_string()));
        let signature = self.sign(&header, &payload);
        format!("{header}.{payload}.{signature}")
    }
}

/// What the signer has and says.
pub struct State {
    /// By id, and whether relying parties are told; the last one signs.
    pub keys: Vec<(&'static str, bool, Key)>,
    /// More members of the header.
    pub header: Value,
    /// Why nothing is signed.
    pub refuses: Option<(u8, &'static str)>,
    pub refresh_seconds: i64,
    pub max_seconds: i64,
    pub fetches: usize,
}

impl Default for State {
    fn default() -> State {
        State {
            keys: vec![("first", true, Key::new())],
            header: json!({}),
            refuses: None,
            refresh_seconds: 600,
            max_seconds: 3600,
            fetches: 0,
        }
    }
}

pub struct Signer {
    pub state: Arc<Mutex<State>>,
    _serving: Serving,
}

impl Signer {
    pub fn start(socket: &Path, state: State) -> Signer {
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let serving = unix_grpc_server::serve(socket, move |method, request| {
            answer(method, request, &mut shared.lock().expect("no test has failed"))
        });
        Signer { state, _serving: serving }
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no test has failed"));
    }
}

fn answer(method: &str, request: &[u8], state: &mut State) -> Answer {
    Ok(match method {
        "Sign" => {
            if let Some(why) = state.refuses {
                return Err(why);
            }
            let (id, _, key) = state.keys.last().expect("a key");
            let mut header = json!({ "alg": "ES256", "kid": id, "typ": "JWT" });
            let more = state.header.as_object().expect("members").clone();
            header.as_object_mut().expect("an object").extend(more);
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            let claims = SignRequest::decode(request).expect("a request").claims;
            SignResponse { signature: key.sign(&header, &claims), header }.encode_to_vec()
        }
        "FetchKeys" => {
            state.fetches += 1;
            let keys = state.keys.iter().map(|(id, is_told, key)| PublicKey {
                key_id: (*id).to_owned(),
                key: key.0.subject_public_key_info(),
                exclude_from_oidc_discovery: !is_told,
            });
            let data_timestamp = Some(Time { seconds: 1_700_000_000 });
            Keys { keys: keys.collect(), data_timestamp, refresh_hint_seconds: state.refresh_seconds }.encode_to_vec()
        }
        _ => Metadata { max_token_expiration_seconds: state.max_seconds }.encode_to_vec(),
    })
}
