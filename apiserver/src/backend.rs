//! Connections of the API server to kubelets, pods and services.
//!
//! Opens one HTTP/1.1 connection a request and knows nothing of the API. Kubelets are shown the API server's client
//! certificate, and must show one of their CA's if that is known; nobody else's serving certificate is verified.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::endpoints::subresources::location::{self, Target, Transport};
use crate::pki::Identity;
use crate::tls;

/// A connection must stand by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request could not be passed on. The words are those of Go's dialer, which clients and their users know.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("dial tcp: lookup tcp/{0}: unknown port")]
    UnknownPort(String),
    #[error("dial tcp: lookup {0}: no such host")]
    NoSuchHost(String),
    #[error("dial tcp {0}: connect: connection refused")]
    Refused(String),
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    #[error("dial tcp {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("{}", tls_failure(.0))]
    Tls(std::io::Error),
    #[error("{0} is no server name")]
    ServerName(String),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// TLS in Go's words, where people know them.
fn tls_failure(error: &std::io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        // Authorities often have the same name: then it is the signature that does not fit.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) => format!("tls: failed to verify certificate: x509: {why}"),
        _ => format!("tls: {error}"),
    }
}

/// How kubelets are reached. Field names follow upstream's flags.
pub struct Kubelets {
    /// `--kubelet-client-certificate` and `--kubelet-client-key`: what kubelets are shown.
    pub client: Identity,
    /// `--kubelet-certificate-authority`: who certifies kubelets, PEM. Nobody is asked without.
    pub certificate_authority: Option<String>,
    /// `--kubelet-preferred-address-types`: which of a node's addresses its kubelet is reached at, best first.
    pub preferred_address_types: Vec<String>,
}

/// An address that needs no name server comes first, since hosts seldom know each other by name.
pub const PREFERRED_ADDRESS_TYPES: [&str; 5] = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"];

/// How connections are made.
pub struct Backends {
    kubelet: TlsConnector,
    kubelet_unverified: TlsConnector,
    anybody: TlsConnector,
    preferred_address_types: Vec<String>,
}

impl Backends {
    pub fn new(kubelets: &Kubelets) -> Result<Backends, tls::Error> {
        let chain = CertificateDer::pem_slice_iter(kubelets.client.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(kubelets.client.key.as_bytes())?;
        let trusting = unverified()?.with_client_auth_cert(chain.clone(), key.clone_key())?;
        let verified = match &kubelets.certificate_authority {
            Some(authority) => certified_by(authority)?.with_client_auth_cert(chain, key)?,
            None => trusting.clone(),
        };
        let anybody = unverified()?.with_no_client_auth();
        Ok(Backends {
            kubelet: TlsConnector::from(Arc::new(verified)),
            kubelet_unverified: TlsConnector::from(Arc::new(trusting)),
            anybody: TlsConnector::from(Arc::new(anybody)),
            preferred_address_types: kubelets.preferred_address_types.clone(),
        })
    }

    /// A path on the kubelet of a node.
    pub fn on_kubelet(&self, node: &Value, path: String, query: String) -> Result<Target, Status> {
        location::on_kubelet(node, &self.preferred_address_types, path, query)
    }

    /// Sends a request to a target and gives the head of the response. The connection lives as long as the response's body, or
    /// as long as what it has been upgraded to.
    pub async fn send(&self, target: &Target, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let stream = dial(target).await?;
        if !target.https {
            return exchange(stream, request).await;
        }
        let connector = match target.transport {
            Transport::Kubelet => &self.kubelet,
            Transport::KubeletUnverified => &self.kubelet_unverified,
            Transport::Anybody => &self.anybody,
        };
        let name = ServerName::try_from(target.host.clone()).map_err(|_| Error::ServerName(target.host.clone()))?;
        exchange(secure(target, connector, name, stream).await?, request).await
    }
}

/// Sends a request to a target that must prove to be `name`, whatever address it was found at.
pub async fn send_verified(
    target: &Target,
    connector: &TlsConnector,
    name: ServerName<'static>,
    request: Request<Body>,
) -> Result<Response<Incoming>, Error> {
    exchange(connect_verified(target, connector, name).await?, request).await
}

/// A connection to a target that has proved to be `name`.
pub async fn connect_verified(
    target: &Target,
    connector: &TlsConnector,
    name: ServerName<'static>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let stream = dial(target).await?;
    secure(target, connector, name, stream).await
}

async fn secure(
    target: &Target,
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let secured = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream)).await;
    secured.map_err(|_| Error::Timeout(target.authority()))?.map_err(Error::Tls)
}

/// A connection to a target, without TLS.
pub async fn dial(target: &Target) -> Result<TcpStream, Error> {
    let default = if target.https { 443 } else { 80 };
    let port = if target.port.is_empty() { Ok(default) } else { target.port.parse::<u16>() };
    let port = port.map_err(|_| Error::UnknownPort(target.port.clone()))?;
    let found = tokio::net::lookup_host((target.host.as_str(), port)).await;
    let addresses: Vec<std::net::SocketAddr> = found.map_err(|_| Error::NoSuchHost(target.host.clone()))?.collect();
    let shown = addresses.first().map_or_else(|| target.authority(), ToString::to_string);
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addresses.as_slice())).await {
        Err(_) => Err(Error::Timeout(shown)),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(Error::Refused(shown)),
        Ok(Err(source)) => Err(Error::Connect { address: shown, source }),
        Ok(Ok(stream)) => {
            // Keystrokes are to travel at once. A socket that cannot be told so is still good.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot turn Nagle's algorithm off");
            }
            Ok(stream)
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Response<Incoming>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a backend connection ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

pub type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn certified_by(authority: &str) -> Result<Builder, tls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(crate::nist_p521::provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots))
}

pub(crate) fn unverified() -> Result<Builder, rustls::Error> {
    let provider = Arc::new(crate::nist_p521::provider());
    let verifier = Arc::new(Unverified { provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// Takes every certificate; signatures must still be the certificate's.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::pki::Pki;

    fn backends() -> Backends {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let client = pki.client("client", "tester", &[]).unwrap();
        Backends::new(&Kubelets { client, certificate_authority: None, preferred_address_types: Vec::new() }).unwrap()
    }

    #[tokio::test]
    async fn an_upgraded_connection_carries_bytes_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte + 1).await.unwrap();
        });
        let target = location::anybody("http", "127.0.0.1", port.to_string());
        let request =
            Request::builder().uri("/").header(header::HOST, "h").header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "x");
        let mut response = backends().send(&target, request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), http::StatusCode::SWITCHING_PROTOCOLS);
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        stream.write_u8(1).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn refusals_read_as_gos() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let backends = backends();
        for (port, text) in [
            (port.to_string(), format!("dial tcp 127.0.0.1:{port}: connect: connection refused")),
            ("web".to_owned(), "dial tcp: lookup tcp/web: unknown port".to_owned()),
        ] {
            let target = location::anybody("http", "127.0.0.1", port);
            let error = backends.send(&target, Request::new(Body::empty())).await.unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
    #[tokio::test]
    async fn a_kubelet_must_show_a_certificate_of_its_authority() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let serving = pki.serving(&[], &[[127, 0, 0, 1].into()]).unwrap();
        let acceptor = tls::acceptor(&serving.certificate, &serving.key, &tls::roots(&pki.ca().unwrap()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not like the certificate goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let has_certificate = stream.get_ref().1.peer_certificates().is_some();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    // A client that refuses our certificate may say so only now.
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                if head.is_empty() {
                    continue;
                }
                let code = if has_certificate { 200 } else { 401 };
                stream.write_all(format!("HTTP/1.1 {code} x\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let other = tempfile::tempdir().unwrap();
        let other = Pki::open(other.path()).unwrap().ca().unwrap();
        let send = async |authority: Option<String>, transport: Transport| {
            let client = pki.client("client", "tester", &[]).unwrap();
            let backends = Backends::new(&Kubelets { client, certificate_authority: authority, preferred_address_types: vec![] }).unwrap();
            let target = Target { transport, ..location::anybody("https", "127.0.0.1", port.to_string()) };
            let request = Request::builder().uri("/").header(header::HOST, "h").body(Body::empty()).unwrap();
            backends.send(&target, request).await.map(|response| response.status().as_u16()).map_err(|error| error.to_string())
        };
        assert_eq!(send(None, Transport::Kubelet).await, Ok(200));
        assert_eq!(send(Some(pki.ca().unwrap()), Transport::Kubelet).await, Ok(200));
        let refusal = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
        assert_eq!(send(Some(other.clone()), Transport::Kubelet).await, Err(refusal.to_owned()));
        assert_eq!(send(Some(other), Transport::KubeletUnverified).await, Ok(200));
        assert_eq!(send(None, Transport::Anybody).await, Ok(401));
    }
}
