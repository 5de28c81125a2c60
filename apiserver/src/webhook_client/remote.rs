//! A server outside of the cluster that is known by its address: webhooks that say who somebody is or what they may do, and issuers of
//! tokens.
//!
//! Where it is, whom it must prove to be and what it is shown are settled when the configuration is read; a call says only what is asked.
//! Errors are in the words of Go's HTTP client.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use apimachinery::time::format_duration;
use bytes::Bytes;
use http::header::{AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use super::connections::{Call, Connections, Peer, Reply, Way};
use super::{read_answer, trust};
use crate::backend;
use crate::endpoints::subresources::location::{self, Target};
use crate::pki::Identity;
use crate::tls;

/// Attempts at a call whose failure may pass, and what lies between them.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: f64 = 1.5;
const PAUSE_JITTER: f64 = 0.2;

/// Whom a server must prove to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Somebody whom the authorities of this machine have certified.
    #[default]
    Machine,
    /// Somebody whom these authorities have certified, PEM.
    Bundle(Vec<u8>),
    Anybody,
}

/// How a server is reached.
#[derive(Clone, Default)]
pub struct Endpoint {
    pub url: String,
    pub trust: Trust,
    /// Whom the certificate must be of, if not the host.
    pub server_name: Option<String>,
    /// What the server is shown.
    pub identity: Option<Identity>,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
}

/// A server, with the connections to it that are kept.
pub struct Remote {
    url: Uri,
    target: Target,
    peer: Peer,
    tls: Arc<ClientConfig>,
    headers: HeaderMap,
    connections: Arc<Connections>,
    first_pause: Duration,
}

/// Why there is no answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// The code of the answer, if there was one.
    pub code: Option<u16>,
    /// Whether another attempt may succeed.
    passes: bool,
}

impl Failure {
    /// Of an answer that cannot be used.
    pub fn local(message: String) -> Failure {
        Failure { message, code: None, passes: false }
    }
}

impl Remote {
    pub fn new(endpoint: &Endpoint, connections: Arc<Connections>) -> Result<Remote, String> {
        let url: Uri = endpoint.url.parse().map_err(|error| format!("parse {}: {error}", quote(&endpoint.url)))?;
        let scheme = url.scheme_str().unwrap_or_default();
        if !matches!(scheme, "https" | "http") {
            return Err(format!("unsupported protocol scheme {}", quote(scheme)));
        }
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().map_or_else(String::new, |port| port.to_string());
        let target = location::anybody(scheme, &host, port);
        let mut headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static("kube-apiserver"))]);
        if let Some(authorization) = &endpoint.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| "the credentials cannot be sent in a header".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let authorities = match &endpoint.trust {
            Trust::Bundle(pem) => Some(Arc::from(pem.as_slice())),
            Trust::Machine | Trust::Anybody => None,
        };
        let shown = endpoint.identity.as_ref().map_or("", |identity| identity.certificate.as_str());
        let distinct = format!("{}\n{shown}", endpoint.trust == Trust::Anybody);
        let peer = Peer {
            address: format!("{scheme}://{}", target.authority()),
            server_name: endpoint.server_name.clone().unwrap_or(host),
            authorities,
            identity: Some(Arc::from(distinct.into_bytes())),
        };
        Ok(Remote { tls: client_config(endpoint)?, url, target, peer, headers, connections, first_pause: FIRST_PAUSE })
    }

    /// The same, with another time between the first attempt and the second.
    pub fn with_first_pause(self, first_pause: Duration) -> Remote {
        Remote { first_pause, ..self }
    }

    /// Reads a document at a path of the server; `headers` come beside the usual ones.
    pub async fn get(&self, headers: HeaderMap, timeout: Duration) -> Result<Reply, String> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        self.call(Method::GET, path, headers, Bytes::new(), timeout)
            .await
            .map_err(|why| format!("Get {}: {why}", quote(&self.url.to_string())))
    }

    /// Posts a JSON document and gives the one that comes back. A failure that may pass is waited for, a few times.
    pub async fn post(&self, document: &Value, timeout: Duration) -> Result<Value, String> {
        self.try_post(document, timeout).await.map_err(|failure| failure.message)
    }

    /// The same, for those who want to know the code.
    pub async fn try_post(&self, document: &Value, timeout: Duration) -> Result<Value, Failure> {
        let body = Bytes::from(document.to_string());
        let mut pause = self.first_pause;
        for attempt in 1.. {
            match self.post_once(body.clone(), timeout).await {
                Err(failure) if failure.passes && attempt < ATTEMPTS => {
                    tokio::time::sleep(pause.mul_f64(1.0 + PAUSE_JITTER * rand::random::<f64>())).await;
                    pause = pause.mul_f64(PAUSE_FACTOR);
                }
                answered => return answered,
            }
        }
        Err(Failure::local("no attempt was made".to_owned()))
    }

    async fn post_once(&self, body: Bytes, timeout: Duration) -> Result<Value, Failure> {
        let query = format!("timeout={}", format_duration(i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)));
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let path = format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' });
        let reply = self.call(Method::POST, &path, HeaderMap::new(), body, timeout).await.map_err(|why| {
            let passes = why.contains("connection reset") || why.contains("connection closed");
            let origin = format!("{}://{}", self.target.scheme(), self.target.authority());
            Failure { message: format!("Post {}: {why}", quote(&format!("{origin}{path}"))), code: None, passes }
        })?;
        let passes = reply.headers.contains_key(RETRY_AFTER)
            || matches!(reply.status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GATEWAY_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        read_answer(&reply).map_err(|message| Failure { message, code: Some(reply.status.as_u16()), passes })
    }

    async fn call(&self, method: Method, path: &str, more: HeaderMap, body: Bytes, timeout: Duration) -> Result<Reply, String> {
        let mut headers = self.headers.clone();
        headers.extend(more);
        let authority = self.target.authority();
        let call = Call { method, authority: &authority, path_and_query: path, headers, body };
        let way = Way { target: &self.target, trust: &|| Ok(self.tls.clone()) };
        let exchange = self.connections.call(&self.peer, &way, &call);
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }
}

/// The TLS of an endpoint.
pub(super) fn client_config(endpoint: &Endpoint) -> Result<Arc<ClientConfig>, String> {
    let builder = match &endpoint.trust {
        Trust::Anybody => backend::unverified().map_err(|error| error.to_string())?,
        Trust::Machine | Trust::Bundle(_) => {
            let bundle = match &endpoint.trust {
                Trust::Bundle(pem) => Some(pem.as_slice()),
                _ => None,
            };
            let provider = Arc::new(crate::nist_p521::provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
            builder.dangerous().with_custom_certificate_verifier(trust::verifier(bundle)?)
        }
    };
    let mut config = match &endpoint.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) = tls::identity(identity)
                .map_err(|error| format!("tls: failed to find any PEM data in certificate or key input: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
