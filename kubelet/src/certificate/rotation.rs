//! Renewing a client certificate before it expires, and moving requests over to the new one.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Shutdown;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use parking_lot::RwLock;
use rcgen::KeyPair;

use super::Error;
use super::issue::{Interval, obtain};
use super::request::{self, Named};
use super::store::{Pair, Store};

/// A certificate is renewed when between 70 and 90 % of its time have passed, so that nodes that joined together do not ask together.
const EARLIEST: f64 = 0.7;
const SPREAD: f64 = 0.2;
/// One that takes longer is asked for anew.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// After a failure, doubled by each further one up to the longest.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(2);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(128);

/// When a certificate is renewed; `jitter` is from 0 to 1.
pub fn renewal(pair: &Pair, jitter: f64) -> Timestamp {
    let total = pair.not_after.duration_since(pair.not_before).as_secs_f64();
    let wait = SignedDuration::try_from_secs_f64(total * (EARLIEST + SPREAD * jitter.clamp(0.0, 1.0))).unwrap_or_default();
    pair.not_before.checked_add(wait).unwrap_or(pair.not_before)
}

/// The credentials of a node, and the client that always shows the newest of them.
pub struct Rotation {
    node_name: String,
    store: Store,
    /// Where the API server is and who certifies it.
    server: Config,
    current: Arc<RwLock<Client>>,
}

impl Rotation {
    /// From what the store has. `server`'s own credentials are not used.
    pub fn new(node_name: &str, store: Store, server: Config) -> Result<Rotation, Error> {
        let pair = store.current()?.ok_or_else(|| Error::Certificate("there is none yet".to_owned()))?;
        let current = Arc::new(RwLock::new(connect(&server, &pair)?));
        Ok(Rotation { node_name: node_name.to_owned(), store, server, current })
    }

    /// A client whose requests, from a renewal on, are made with the new certificate.
    pub fn client(&self) -> Client {
        follow(self.current.clone())
    }

    /// Renews the certificate again and again until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut retry = FIRST_RETRY;
        while !shutdown.is_cancelled() {
            let wait = match self.store.current() {
                Ok(Some(pair)) => wait(renewal(&pair, rand::random()), Timestamp::now()),
                Ok(None) => Duration::ZERO,
                Err(error) => {
                    tracing::error!(%error, "the node's certificate cannot be read");
                    LONGEST_RETRY
                }
            };
            if !wait.is_zero() {
                tracing::info!(seconds = wait.as_secs(), "until the node's certificate is renewed");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
            match self.renew().await {
                Ok(pair) => {
                    tracing::info!(until = %pair.not_after, "the node's certificate was renewed");
                    retry = FIRST_RETRY;
                }
                Err(error) => {
                    tracing::error!(%error, "the node's certificate was not renewed, trying again in {} s", retry.as_secs());
                    tokio::select! {
                        () = tokio::time::sleep(retry) => {}
                        () = shutdown.cancelled() => return,
                    }
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// Asks for a new certificate as the node that this is, keeps it, and shows it from now on.
    async fn renew(&self) -> Result<Pair, Error> {
        let key = KeyPair::generate()?;
        let asked = request::client(&self.node_name, &key, Named::Generated)?;
        let certificate = obtain(&self.client(), &asked, TIMEOUT, Interval::FIRST).await?;
        let pair = Pair::new(certificate, key.serialize_pem())?;
        let client = connect(&self.server, &pair)?;
        self.store.update(&pair, Timestamp::now())?;
        *self.current.write() = client;
        Ok(pair)
    }
}

/// How long until then; nothing if it has passed.
fn wait(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

fn connect(server: &Config, pair: &Pair) -> Result<Client, Error> {
    let mut config = server.clone();
    config.auth_info = AuthInfo {
        client_certificate_data: Some(STANDARD.encode(&pair.certificate)),
        client_key_data: Some(STANDARD.encode(&pair.key).into()),
        ..AuthInfo::default()
    };
    Client::try_from(config).map_err(Error::Client)
}

/// A client that hands each request to whichever client is the current one then.
fn follow(current: Arc<RwLock<Client>>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = current.read().clone();
        async move {
            let response: Response<Body> = client.send(request).await?;
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, "default")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::super::store::tests::pair;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// An API server that approves and signs at once, valid for ten days.
    fn signing(asked: Arc<Mutex<Vec<CertificateSigningRequest>>>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let asked = asked.clone();
            async move {
                let (head, body) = request.into_parts();
                let answer = if head.method == http::Method::POST {
                    let mut posted: CertificateSigningRequest = serde_json::from_slice(&body.collect_bytes().await?).unwrap();
                    posted.metadata.name = Some("csr-1".to_owned());
                    asked.lock().push(posted.clone());
                    posted
                } else {
                    let mut signed = asked.lock().last().cloned().unwrap();
                    let condition = json!([{ "type": "Approved", "status": "True" }]);
                    let status = signed.status.get_or_insert_default();
                    status.conditions = serde_json::from_value::<Option<Vec<_>>>(condition).unwrap();
                    status.certificate = Some(ByteString(issued(&signed.spec.request.0).into_bytes()));
                    signed
                };
                let text = serde_json::to_vec(&answer).unwrap();
                Ok::<_, kube::Error>(Response::new(http_body_util::Full::new(bytes::Bytes::from(text))))
            }
        });
        Client::new(service, "default")
    }

    /// A certificate for the key of a request, as far as a test can make one: its subject and its key are the request's.
    fn issued(request: &[u8]) -> String {
        let params = rcgen::CertificateSigningRequestParams::from_pem(std::str::from_utf8(request).unwrap()).unwrap();
        let ca = KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), ca);
        params.signed_by(&issuer).unwrap().pem()
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_kept_and_shown_from_then_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let first = pair("a", at("2026-01-01T00:00:00Z"), at("2026-01-11T00:00:00Z"));
        store.update(&first, at("2026-01-01T00:00:00Z")).unwrap();
        // Nobody listens there: whoever asks by the new client fails.
        let server = Config::new("https://127.0.0.1:1".parse().unwrap());
        let rotation = Rotation::new("a", store.clone(), server).unwrap();
        let asked = Arc::<Mutex<Vec<CertificateSigningRequest>>>::default();
        *rotation.current.write() = signing(asked.clone());
        let client = rotation.client();

        let renewed = rotation.renew().await.unwrap();
        assert_eq!(renewed.common_name, "system:node:a");
        let kept = store.current().unwrap().unwrap();
        assert_eq!(kept, renewed);
        assert_ne!(kept.key.trim(), first.key.trim());
        assert_eq!(asked.lock().len(), 1);
        let api: kube::Api<CertificateSigningRequest> = kube::Api::all(client);
        assert!(api.get("csr-1").await.is_err(), "the old client is used no more");
    }
}
