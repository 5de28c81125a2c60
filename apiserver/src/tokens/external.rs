//! A signer of service account tokens in a program of its own (`--service-account-signing-endpoint`): three calls over gRPC on a Unix
//! socket, the API `k8s.io/externaljwt` v1.
//!
//! Owns the keys that the program has told last. They are fetched anew when it has said they would be, and when a token names a key that
//! is not among them; while it does not answer, the old ones go on. It never sees a private key, and health does not depend on it: what
//! is lost with the program are new tokens and new keys.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use apimachinery::field::quote;
use apimachinery::time::format_duration;
use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::Mutex;

use super::external_metrics::EXTERNAL;
use super::keys::{self, KeySet, PublicKey};
use crate::unix_grpc::{Connection, Failure};

const SIGN: &str = "/v1.ExternalJWTSigner/Sign";
const FETCH_KEYS: &str = "/v1.ExternalJWTSigner/FetchKeys";
const METADATA: &str = "/v1.ExternalJWTSigner/Metadata";

/// How long the program may take to come up and tell its keys, and to tell them again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than requests may take, which end a call before.
const SIGN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request waits for the keys because it names one that is not known.
const UNKNOWN_KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys are fetched once a year at least.
const LONGEST_HINT: Duration = Duration::from_secs(365 * 24 * 3600);
/// When keys are fetched again that could not be.
const RETRY: Duration = Duration::from_secs(10);
/// The shortest validity that a token may be asked for.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_KEY_ID_BYTES: usize = 1024;
/// Keys of one program that are looked at.
const MAX_KEYS: usize = 1024;
/// The last second of the year 9999, the first of the year 1: what a timestamp may be.
const TIMESTAMPS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

#[derive(Clone, PartialEq, prost::Message)]
struct SignRequest {
    #[prost(string, tag = "1")]
    claims: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SignResponse {
    #[prost(string, tag = "1")]
    header: String,
    #[prost(string, tag = "2")]
    signature: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Key {
    #[prost(string, tag = "1")]
    key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bool, tag = "3")]
    exclude_from_oidc_discovery: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FetchKeysResponse {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<Key>,
    #[prost(message, optional, tag = "2")]
    data_timestamp: Option<Timestamp>,
    #[prost(int64, tag = "3")]
    refresh_hint_seconds: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MetadataResponse {
    #[prost(int64, tag = "1")]
    max_token_expiration_seconds: i64,
}

/// Why something was not to be had from the program.
#[derive(Clone, Debug, thiserror::Error)]
enum Cause {
    #[error("{what}: {failure}")]
    Call { what: &'static str, failure: Failure },
    #[error("{0}")]
    Answer(String),
}

impl Cause {
    /// As metrics name it.
    fn code(&self) -> &str {
        match self {
            Cause::Call { failure, .. } => &failure.code,
            Cause::Answer(_) => "unknown-non-grpc",
        }
    }
}

/// Why there is no such signer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("while setting up external-jwt-signer: {0}")]
    Start(String),
    #[error("{0}")]
    Expiration(String),
}

/// The program and what it has told.
pub struct External {
    connection: Connection,
    keys: ArcSwap<KeySet>,
    /// Fetches that have ended.
    fetches: AtomicU64,
    /// Why the last one failed, if it did. Whoever fetches holds it.
    failed: Mutex<Option<Cause>>,
}

impl External {
    /// Waits until the program has told its keys and the longest validity of a token, in seconds.
    pub async fn start(socket: &str) -> Result<(Arc<External>, i64), Error> {
        let external = Arc::new(External {
            connection: Connection::new(socket),
            keys: ArcSwap::from_pointee(KeySet::external(Vec::new(), 0, Instant::now())),
            fetches: AtomicU64::new(0),
            failed: Mutex::default(),
        });
        let fetched = external.fetch(FETCH_TIMEOUT).await;
        fetched.map_err(|why| Error::Start(format!("while initially filling key cache: while performing initial cache fill: {why}")))?;
        let told: Result<MetadataResponse, Failure> = external.call(METADATA, Empty {}, METADATA_TIMEOUT).await;
        let max_seconds = told.map_err(|why| Error::Start(why.to_string()))?.max_token_expiration_seconds;
        tokio::spawn(follow(Arc::downgrade(&external)));
        Ok((external, max_seconds))
    }

    /// The keys that verify now.
    pub fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    /// Fetches the keys anew if the one of this id is not among them.
    pub async fn look_for(&self, id: &str) {
        if self.keys().candidates(id).next().is_some() {
            return;
        }
        if let Err(why) = self.fetch(UNKNOWN_KEY_TIMEOUT).await {
            tracing::error!(%why, "the keys of service account tokens could not be fetched");
        }
    }

    /// A token with this payload.
    pub async fn sign(&self, payload: &Value) -> Result<String, String> {
        let signed = self.assemble(payload).await;
        EXTERNAL.signed(signed.as_ref().err().map(Cause::code));
        signed.map_err(|why| why.to_string())
    }

    async fn assemble(&self, payload: &Value) -> Result<String, Cause> {
        let claims = URL_SAFE_NO_PAD.encode(payload.to_string());
        let answer = self.call(SIGN, SignRequest { claims: claims.clone() }, SIGN_TIMEOUT).await;
        let SignResponse { header, signature } = answer.map_err(|failure| Cause::Call { what: "while signing jwt", failure })?;
        let refused = |why: String| Cause::Answer(format!("while validating header: {why}"));
        let id = key_id(&header).map_err(refused)?;
        self.look_for(&id).await;
        if self.keys().candidates(&id).any(|key| key.is_unpublished) {
            return Err(refused(format!("key used for signing JWT (kid: {id}) is excluded from OIDC discovery docs")));
        }
        if signature.is_empty() {
            return Err(Cause::Answer("empty signature returned".to_owned()));
        }
        Ok(format!("{header}.{claims}.{signature}"))
    }

    /// Takes the program's keys. Whoever comes while they are being fetched waits for that and has its outcome.
    async fn fetch(&self, timeout: Duration) -> Result<(), Cause> {
        let seen = self.fetches.load(Ordering::Acquire);
        let mut failed = self.failed.lock().await;
        if self.fetches.load(Ordering::Acquire) != seen {
            return failed.clone().map_or(Ok(()), Err);
        }
        let outcome = self.take(timeout, seen + 1).await;
        EXTERNAL.fetched(outcome.as_ref().err().map(Cause::code));
        *failed = outcome.as_ref().err().cloned();
        self.fetches.store(seen + 1, Ordering::Release);
        outcome
    }

    async fn take(&self, timeout: Duration, generation: u64) -> Result<(), Cause> {
        const WHILE: &str = "while fetching token verification keys";
        const WHILE_ASKING: &str = "while fetching token verification keys: while getting externally supported jwt signing keys";
        let answer = self.call(FETCH_KEYS, Empty {}, timeout).await;
        let answer: FetchKeysResponse = answer.map_err(|failure| Cause::Call { what: WHILE_ASKING, failure })?;
        let keys = public_keys(&answer).map_err(|why| Cause::Answer(format!("{WHILE}: {why}")))?;
        let hint = Duration::from_secs(answer.refresh_hint_seconds.unsigned_abs()).min(LONGEST_HINT);
        self.keys.store(Arc::new(KeySet::external(keys, generation, Instant::now() + hint)));
        if let Some(at) = answer.data_timestamp {
            EXTERNAL.told_data_of(at.seconds as f64 + f64::from(at.nanos) / 1e9);
        }
        Ok(())
    }

    async fn call<Q, R>(&self, path: &'static str, request: Q, timeout: Duration) -> Result<R, Failure>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let since = Instant::now();
        let answer = self.connection.call_when_ready(path, request, timeout).await;
        EXTERNAL.called(path, since.elapsed(), answer.as_ref().err().map(|failure| failure.code.as_str()));
        answer
    }
}

/// Fetches the keys when they are due, as long as somebody has the signer.
async fn follow(external: Weak<External>) {
    let mut wait = external.upgrade().map_or(RETRY, |external| external.keys().fresh_for());
    loop {
        tokio::time::sleep(wait).await;
        let Some(external) = external.upgrade() else { return };
        wait = match external.fetch(FETCH_TIMEOUT).await {
            Ok(()) => external.keys().fresh_for(),
            Err(why) => {
                tracing::error!(%why, "the keys of service account tokens could not be fetched, the old ones go on");
                RETRY
            }
        };
    }
}

/// The keys of an answer, or what is wrong with it.
fn public_keys(answer: &FetchKeysResponse) -> Result<Vec<PublicKey>, String> {
    if answer.refresh_hint_seconds <= 0 {
        return Err(format!("found invalid refresh hint ({}s)", answer.refresh_hint_seconds));
    }
    if answer.keys.is_empty() {
        return Err("found no keys".to_owned());
    }
    if answer.keys.len() > MAX_KEYS {
        return Err(format!("found {} keys, more than {MAX_KEYS}", answer.keys.len()));
    }
    let at = answer.data_timestamp.as_ref().ok_or("invalid data timestamp: proto: invalid nil Timestamp")?;
    if !TIMESTAMPS.contains(&at.seconds) || !(0..1_000_000_000).contains(&at.nanos) {
        return Err(format!("invalid data timestamp: proto: timestamp (seconds:{} nanos:{}) out of range", at.seconds, at.nanos));
    }
    let parsed = answer.keys.iter().map(|key| {
        if key.key_id.is_empty() || key.key_id.len() > MAX_KEY_ID_BYTES {
            return Err(format!("found invalid public key id {}", quote(&key.key_id)));
        }
        if key.key.is_empty() {
            return Err("found empty public key".to_owned());
        }
        let public = keys::public_key(&key.key).map_err(|why| format!("while parsing external public keys: {why}"))?;
        Ok(PublicKey { is_unpublished: key.exclude_from_oidc_discovery, ..public.named(&key.key_id) })
    });
    parsed.collect()
}

/// The id of the key in a header, if that is one that tokens may have.
fn key_id(header: &str) -> Result<String, String> {
    let bytes = URL_SAFE_NO_PAD.decode(header).map_err(|why| format!("while unwrapping header: {why}"))?;
    let parsed: Value = serde_json::from_slice(&bytes).map_err(|why| format!("while parsing header JSON: {why}"))?;
    let members = parsed.as_object().ok_or("while parsing header JSON: it is no object")?;
    let mut header = [("alg", ""), ("kid", ""), ("typ", "")];
    for (name, value) in members {
        let Some((_, known)) = header.iter_mut().find(|(known, _)| known == name) else {
            return Err(format!("while parsing header JSON: json: unknown field {}", quote(name)));
        };
        *known = value.as_str().ok_or_else(|| format!("while parsing header JSON: {name} is no string"))?;
    }
    let [(_, algorithm), (_, id), (_, kind)] = header;
    if kind != "JWT" {
        return Err("bad type".to_owned());
    }
    if id.is_empty() {
        return Err("key id missing".to_owned());
    }
    if id.len() > MAX_KEY_ID_BYTES {
        return Err("key id longer than 1 kb".to_owned());
    }
    if keys::Algorithm::ALL.iter().all(|known| known.name() != algorithm) {
        return Err(format!("bad signing algorithm {}", quote(algorithm)));
    }
    Ok(id.to_owned())
}

/// The longest validity that tokens get: what is configured, or what the program allows, which must not be less.
pub fn max_expiration_seconds(configured: Option<i64>, external: i64) -> Result<i64, Error> {
    const NANOSECONDS: i64 = 1_000_000_000;
    if external < MIN_TOKEN_SECONDS {
        return Err(Error::Expiration(format!(
            "max token life supported by external-jwt-signer ({external}s) is less than acceptable (min {MIN_TOKEN_SECONDS}s)"
        )));
    }
    match configured {
        Some(configured) if configured > external => {
            let shown = |seconds: i64| format_duration(seconds.saturating_mul(NANOSECONDS));
            Err(Error::Expiration(format!(
                "service-account-max-token-expiration cannot be set longer than the token expiration supported by service-account-signing-endpoint: {} > {}",
                shown(configured),
                shown(external)
            )))
        }
        Some(configured) => Ok(configured),
        None => Ok(external),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(header: &Value) -> String {
        URL_SAFE_NO_PAD.encode(header.to_string())
    }

    #[test]
    fn a_header_has_an_algorithm_a_key_and_a_type_and_nothing_else() {
        for algorithm in ["RS256", "ES256", "ES384", "ES512"] {
            assert_eq!(key_id(&encoded(&json!({ "alg": algorithm, "kid": "k", "typ": "JWT" }))), Ok("k".to_owned()));
        }
        let long = "k".repeat(1025);
        for (header, why) in [
            (json!({ "alg": "RS256", "kid": "k" }), "bad type"),
            (json!({ "alg": "RS256", "kid": "k", "typ": "jwt" }), "bad type"),
            (json!({ "alg": "RS256", "typ": "JWT" }), "key id missing"),
            (json!({ "alg": "RS256", "kid": long, "typ": "JWT" }), "key id longer than 1 kb"),
            (json!({ "alg": "none", "kid": "k", "typ": "JWT" }), "bad signing algorithm \"none\""),
            (json!({ "kid": "k", "typ": "JWT" }), "bad signing algorithm \"\""),
            (json!({ "alg": "RS256", "kid": "k", "typ": "JWT", "jku": "x" }), "while parsing header JSON: json: unknown field \"jku\""),
            (json!([]), "while parsing header JSON: it is no object"),
        ] {
            assert_eq!(key_id(&encoded(&header)), Err(why.to_owned()), "{header}");
        }
        assert!(key_id("%").unwrap_err().starts_with("while unwrapping header: "));
    }

    fn answer() -> FetchKeysResponse {
        let key = rcgen::KeyPair::generate().unwrap();
        let key = rcgen::PublicKeyData::subject_public_key_info(&key);
        FetchKeysResponse {
            keys: vec![Key { key_id: "k".into(), key, exclude_from_oidc_discovery: true }],
            data_timestamp: Some(Timestamp { seconds: 1, nanos: 0 }),
            refresh_hint_seconds: 10,
        }
    }

    #[test]
    fn keys_are_known_by_the_ids_that_they_are_given() {
        let keys = public_keys(&answer()).unwrap();
        assert_eq!((keys[0].id.as_str(), &keys[0].jwk["kid"], keys[0].is_unpublished), ("k", &json!("k"), true));
    }

    #[test]
    fn an_answer_that_is_not_right_is_taken_in_no_part() {
        let wrong = |change: fn(&mut FetchKeysResponse), why: &str| {
            let mut answer = answer();
            change(&mut answer);
            let said = public_keys(&answer).unwrap_err();
            assert!(said.starts_with(why), "{said}");
        };
        wrong(|a| a.refresh_hint_seconds = 0, "found invalid refresh hint (0s)");
        wrong(|a| a.keys.clear(), "found no keys");
        wrong(|a| a.data_timestamp = None, "invalid data timestamp: ");
        wrong(|a| a.data_timestamp = Some(Timestamp { seconds: 0, nanos: -1 }), "invalid data timestamp: ");
        wrong(|a| a.keys[0].key_id.clear(), "found invalid public key id \"\"");
        wrong(|a| a.keys[0].key.clear(), "found empty public key");
        wrong(|a| a.keys[0].key.truncate(9), "while parsing external public keys: ");
    }

    #[test]
    fn tokens_live_no_longer_than_their_signer_allows() {
        let limit = |configured, external| max_expiration_seconds(configured, external).map_err(|why| why.to_string());
        assert_eq!(limit(None, 600), Ok(600));
        assert_eq!(limit(Some(3600), 7200), Ok(3600));
        assert_eq!(
            limit(None, 599),
            Err("max token life supported by external-jwt-signer (599s) is less than acceptable (min 600s)".into())
        );
        let why = "service-account-max-token-expiration cannot be set longer than the token expiration supported by service-account-signing-endpoint: 2h0m0s > 1h0m0s";
        assert_eq!(limit(Some(7200), 3600), Err(why.into()));
    }
}
