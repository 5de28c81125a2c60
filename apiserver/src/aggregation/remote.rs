//! Requests to extension API servers: what they are shown, what they must show, and what is read of their answers.
//!
//! Connects to one endpoint and knows nothing of what is asked.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::connections::{Connections, Endpoint};
use super::registration::Registration;
use crate::backend;
use crate::endpoints::subresources::location::Target;
use crate::filters::authentication::User;
use crate::filters::front_proxy;
use crate::webhook_client::trust;
use crate::{pki, tls};

/// Bytes of a document; more is none.
const MAX_DOCUMENT_BYTES: usize = 32 * 1024 * 1024;

/// The certificate that servers are shown.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn new(identity: &pki::Identity) -> Result<Identity, tls::Error> {
        let (chain, key) = tls::identity(identity)?;
        Ok(Identity { chain, key })
    }
}

/// Whom a server must be certified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By nobody.
    Anybody,
    /// By one of these authorities: base64 of PEM, or empty for those that this machine trusts.
    Bundle(String),
}

impl Trust {
    pub fn read(insecure: bool, bundle: &str) -> Trust {
        if insecure { Trust::Anybody } else { Trust::Bundle(bundle.to_owned()) }
    }

    /// How connections are made.
    pub fn way(&self, identity: &Identity) -> Result<Way, String> {
        let builder = match self {
            Trust::Anybody => backend::unverified(),
            Trust::Bundle(bundle) => {
                let verifier = authorities(bundle)?;
                let provider = Arc::new(crate::nist_p521::provider());
                let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                builder.map(|builder| builder.dangerous().with_custom_certificate_verifier(verifier))
            }
        };
        let config = builder.and_then(|builder| builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()));
        let plain = config.map_err(|error| error.to_string())?;
        let mut either = plain.clone();
        either.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let [either, upgrading] = [either, plain].map(|config| TlsConnector::from(Arc::new(config)));
        Ok(Way { either, upgrading, kept: Arc::default() })
    }
}

/// How a server is reached. Clones share their connections.
#[derive(Clone)]
pub struct Way {
    /// For connections of either version of HTTP, which are kept.
    either: TlsConnector,
    /// For those that are upgraded, which version 2 does not know.
    upgrading: TlsConnector,
    kept: Arc<Connections>,
}

fn authorities(bundle: &str) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if bundle.is_empty() {
        return trust::verifier(None);
    }
    let pem = STANDARD.decode(bundle).map_err(|error| format!("unable to load root certificates: {error}"))?;
    trust::verifier(Some(&pem))
}

impl Registration {
    /// Sends a request to an endpoint of the service; gives the head of the answer.
    pub async fn send(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, String> {
        let way = self.way.as_ref().map_err(Clone::clone)?;
        let (server_name, name) = self.server_name()?;
        let connect = async { backend::connect_verified(target, &way.either, name).await.map_err(|error| error.to_string()) };
        let endpoint = Endpoint { authority: target.authority(), server_name };
        way.kept.send(&endpoint, connect, request).await
    }

    /// Sends a request that wishes to upgrade its connection.
    pub async fn send_upgrade(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, String> {
        let way = self.way.as_ref().map_err(Clone::clone)?;
        let (_, name) = self.server_name()?;
        let sent = backend::send_verified(target, &way.upgrading, name, request).await;
        sent.map(|response| response.map(Body::new)).map_err(|error| error.to_string())
    }

    fn server_name(&self) -> Result<(String, ServerName<'static>), String> {
        let name = self.service.server_name();
        let parsed = ServerName::try_from(name.clone()).map_err(|_| format!("{name} is no server name"))?;
        Ok((name, parsed))
    }

    /// Reads a document whole, in a user's name. The error is in the words of Go's HTTP client.
    pub async fn read_document(&self, target: &Target, path: &str, user: &User, question: Question<'_>) -> Result<Fetched, String> {
        let shown = |why: String| format!("Get {}: {why}", quote(&format!("https://{}{path}", target.authority())));
        let mut request = Request::get(path).body(Body::empty()).map_err(|error| shown(error.to_string()))?;
        let headers = request.headers_mut();
        let mut say = |name: header::HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        say(header::HOST, &target.authority());
        say(header::ACCEPT, question.accept);
        say(header::USER_AGENT, "kube-apiserver-aggregator");
        if !question.etag.is_empty() {
            say(header::IF_NONE_MATCH, question.etag);
        }
        front_proxy::speak_for(user, headers);
        let exchange = async {
            let (head, body) = self.send(target, request).await?.into_parts();
            Ok::<_, String>(Fetched { status: head.status, headers: head.headers, body: read_body(body).await? })
        };
        match tokio::time::timeout(question.timeout, exchange).await {
            Ok(fetched) => fetched.map_err(shown),
            Err(_) => Err(shown("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())),
        }
    }
}

/// How a document is asked for.
pub struct Question<'a> {
    pub accept: &'a str,
    /// Of what is known already; empty for nothing.
    pub etag: &'a str,
    pub timeout: Duration,
}

/// An answer as a whole.
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Fetched {
    pub fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

async fn read_body(mut body: Body) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            if whole.len() + data.len() > MAX_DOCUMENT_BYTES {
                return Err(format!("the answer has more than {MAX_DOCUMENT_BYTES} bytes"));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// Who this server is to the others when it asks for itself.
pub fn aggregator() -> User {
    User { name: "system:kube-aggregator".to_owned(), groups: vec!["system:masters".to_owned()], ..User::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let pki = pki::Pki::open(directory.path()).unwrap();
        let identity = Identity::new(&pki.front_proxy_client().unwrap()).unwrap();
        let error = |bundle: &str| Trust::read(false, bundle).way(&identity).err().unwrap_or_default();
        assert_eq!(error(&STANDARD.encode("rubbish")), "unable to load root certificates: unable to parse bytes as PEM block");
        assert_eq!(error(&STANDARD.encode(pki.ca().unwrap())), "");
        assert!(Trust::read(true, "").way(&identity).is_ok());
    }
}
