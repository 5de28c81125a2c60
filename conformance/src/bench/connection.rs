//! HTTP/2 over TLS to one server on this machine, with a bearer token. Opens connections and sends requests; measures nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Flow control windows: wide enough that the client never holds a server back for want of credit, as client-go's are.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// TCP, TLS and the HTTP/2 preface must be done by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is larger; 5,000 pods are 16 MB.
const MAX_BODY_BYTES: usize = 1 << 28;

/// Where a server is and how to be let in.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    token: Option<HeaderValue>,
    tls: TlsConnector,
}

/// A client certificate and its key.
pub struct Identity {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

impl Endpoint {
    /// `url` must be https and name a loopback address: load of this kind is for one's own machine, and only there is a certificate
    /// that nobody vouches for acceptable.
    pub fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        Ok(Self { address: loopback(url)?, token: Some(bearer(token)?), tls: connector(None)? })
    }

    /// The same for one who shows a certificate.
    pub fn with_certificate(url: &str, identity: &Identity) -> anyhow::Result<Self> {
        Ok(Self { address: loopback(url)?, token: None, tls: connector(Some(identity))? })
    }

    /// The same server for somebody else, who has a token or shows nothing.
    pub fn for_another(&self, token: &str) -> anyhow::Result<Self> {
        let token = if token.is_empty() { None } else { Some(bearer(token)?) };
        Ok(Self { address: self.address, token, tls: connector(None)? })
    }

    /// A new connection, with nothing sent on it yet.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let connecting = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let stream = self.tls.connect(ServerName::IpAddress(self.address.ip().into()), stream).await?;
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .handshake(TokioIo::new(stream))
                .await?;
            // Requests on the connection report why it ended; this task only moves its bytes.
            tokio::spawn(connection);
            anyhow::Ok(sender)
        };
        let sender = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.context("connecting took too long")??;
        Ok(Connection { sender, origin: Arc::from(format!("https://{}", self.address)), token: self.token.clone() })
    }
}

fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).context("the token has characters that a header cannot carry")?;
    value.set_sensitive(true);
    Ok(value)
}

fn loopback(url: &str) -> anyhow::Result<SocketAddr> {
    let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
    ensure!(uri.scheme_str() == Some("https"), "{url}: only https is measured");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let ip = if host == "localhost" {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        host.parse().with_context(|| format!("{url}: not an address"))?
    };
    ensure!(ip.is_loopback(), "{url}: only loopback addresses are measured");
    Ok(SocketAddr::new(ip, uri.port_u16().unwrap_or(443)))
}

/// What a server answered, whatever it is.
pub struct Received {
    pub status: u16,
    headers: http::HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    pub fn warnings(&self) -> Vec<String> {
        self.headers.get_all(header::WARNING).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }
}

/// One connection; clones share it and send concurrently.
#[derive(Clone)]
pub struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    origin: Arc<str>,
    token: Option<HeaderValue>,
}

impl Connection {
    /// Sends and gives the answer's head; the body is still to come.
    pub async fn send(&mut self, method: Method, path: &str, accept: &'static str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).header(header::ACCEPT, accept);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, JSON);
        }
        self.send_built(request, path, body).await
    }

    async fn send_built(&mut self, mut request: http::request::Builder, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        self.sender.ready().await?;
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.clone());
        }
        let request = request.uri(format!("{}{path}", self.origin));
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Sends a request with headers of its own and gives the answer, whatever it is.
    pub async fn perform(&mut self, request: http::request::Builder, path: &str, body: Bytes) -> anyhow::Result<Received> {
        let response = self.send_built(request, path, body).await?;
        let headers = response.headers().clone();
        let (status, body) = collect(response).await?;
        Ok(Received { status: status.as_u16(), headers, body })
    }

    /// Reads one answer to its end and gives its length; anything but success is an error.
    pub async fn get_length(&mut self, path: &str, accept: &'static str) -> anyhow::Result<u64> {
        length(self.send(Method::GET, path, accept, Bytes::new()).await?).await
    }

    /// Reads one answer to its end; anything but success is an error.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        let response = self.send(Method::GET, path, JSON, Bytes::new()).await?;
        let (status, body) = collect(response).await?;
        ensure!(status.is_success(), "GET {path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Creates an object and reads the answer to its end; 201 or an error.
    pub async fn create(&mut self, path: &str, body: Bytes) -> anyhow::Result<u64> {
        length(self.send(Method::POST, path, JSON, body).await?).await
    }

    /// Sends a request and gives status and body, whatever they are.
    pub async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        collect(self.send(method, path, JSON, body).await?).await
    }
}

async fn length(response: Response<Incoming>) -> anyhow::Result<u64> {
    if !response.status().is_success() {
        let (status, body) = collect(response).await?;
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    let mut body = response.into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(total)
}

async fn collect(response: Response<Incoming>) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = response.status();
    let mut body = response.into_body();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            ensure!(all.len() + data.len() <= MAX_BODY_BYTES, "the answer is larger than {MAX_BODY_BYTES} bytes");
            all.extend_from_slice(data);
        }
    }
    Ok((status, all.freeze()))
}

fn connector(identity: Option<&Identity>) -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let mut config = match identity {
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(&identity.certificate_pem).collect::<Result<Vec<_>, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&identity.key_pem)?)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any certificate, for servers on this machine that make their own; signatures are still verified, since that work is part
/// of what a client does.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        s: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(m, c, s, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        s: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(m, c, s, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_on_loopback_is_accepted() {
        for (url, accepted) in [
            ("https://127.0.0.1:6443", true),
            ("https://localhost:6443/", true),
            ("https://[::1]:6443", true),
            ("http://127.0.0.1:6443", false),
            ("https://10.0.0.1:6443", false),
            ("https://example.com", false),
            ("", false),
        ] {
            assert_eq!(Endpoint::new(url, "secret").is_ok(), accepted, "{url}");
        }
    }
}
