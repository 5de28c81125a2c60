//! The HTTP requests that probes and lifecycle hooks make: one connection each, any certificate taken, redirects followed within
//! the same host. Errors are worded as Go words them, since they end up in events.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How much of an answer is read.
const BODY_BYTES: usize = 10 << 10;
const REDIRECTS: usize = 10;
/// The version that requests tell.
const VERSION: &str = "1.37";

/// A request that failed, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
}

/// A request that can be sent.
#[derive(Clone, Debug)]
pub struct Get {
    https: bool,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
}

/// A port by number, or by the name that the container gives it.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, Error> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => Some(port.container_port),
                None => Some(name.parse().map_err(|_| {
                    let problem = format!("strconv.Atoi: parsing {name:?}: invalid syntax");
                    Error(problem)
                })?),
            }
        }
    };
    let number = number.unwrap_or(0);
    match u16::try_from(number) {
        Ok(valid) if valid != 0 => Ok(valid),
        _ => Err(Error(format!("invalid port number: {number}"))),
    }
}

/// A host and a port, with brackets where they are needed.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Get {
    /// `purpose`: `probe` or `lifecycle`; `pod_ip` stands for the host if the action names none.
    pub fn new(action: &HTTPGetAction, container: &Container, pod_ip: &str, purpose: &str) -> Result<Get, Error> {
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(header.name.as_str()).map_err(|error| Error(error.to_string()))?;
            let value = HeaderValue::try_from(header.value.as_str()).map_err(|error| Error(error.to_string()))?;
            headers.append(name, value);
        }
        let agent = HeaderValue::try_from(format!("kube-{purpose}/{VERSION}")).map_err(|error| Error(error.to_string()))?;
        headers.entry(header::USER_AGENT).or_insert(agent);
        match headers.get(header::ACCEPT) {
            None => {
                headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
            }
            Some(value) if value.is_empty() => {
                headers.remove(header::ACCEPT);
            }
            Some(_) => {}
        }
        let path = action.path.clone().unwrap_or_default();
        Ok(Get {
            https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
            port: resolve_port(&action.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers,
        })
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    pub fn authority(&self) -> String {
        join(&self.host, self.port)
    }

    /// The same request without TLS and without credentials.
    #[must_use]
    pub fn over_plain_http(mut self) -> Get {
        self.https = false;
        self.headers.remove(header::AUTHORIZATION);
        self
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }

    /// Sends it. Without a limit of its own: whoever calls sets one.
    pub async fn send(&self) -> Result<Answer, Error> {
        let mut get = self.clone();
        for _ in 0..REDIRECTS {
            let failed = |problem: String| Error(format!("Get {:?}: {problem}", get.url()));
            let (answer, location) = get.send_once().await.map_err(failed)?;
            match location.and_then(|location| get.redirected(&location)) {
                Some(next) if answer.status.is_redirection() && next.host == self.host => get = next,
                _ => return Ok(answer),
            }
        }
        Err(Error(format!("Get {:?}: stopped after 10 redirects", get.url())))
    }

    fn redirected(&self, location: &str) -> Option<Get> {
        let uri: Uri = location.parse().ok()?;
        let mut next = self.clone();
        next.path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        if let Some(host) = uri.host() {
            next.https = uri.scheme_str() == Some("https");
            next.host = host.trim_matches(['[', ']']).to_owned();
            next.port = uri.port_u16().unwrap_or(if next.https { 443 } else { 80 });
            next.headers.remove(header::HOST);
        }
        Some(next)
    }

    async fn send_once(&self) -> Result<(Answer, Option<String>), String> {
        let stream = dial(&self.host, self.port).await?;
        if !self.https {
            return self.exchange(stream).await;
        }
        let name = match self.host.parse::<IpAddr>() {
            Ok(ip) => rustls::pki_types::ServerName::IpAddress(ip.into()),
            Err(_) => rustls::pki_types::ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?,
        };
        let stream = tls()?.connect(name, stream).await.map_err(|error| match error.get_ref().and_then(|e| e.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(_)) => "http: server gave HTTP response to HTTPS client".to_owned(),
            _ => error.to_string(),
        })?;
        self.exchange(stream).await
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<(Answer, Option<String>), String> {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let exchange = async {
            let mut request = Request::builder().uri(&self.path).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
            *request.headers_mut() = self.headers.clone();
            let host = HeaderValue::try_from(self.authority()).map_err(|error| error.to_string())?;
            request.headers_mut().entry(header::HOST).or_insert(host);
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            let response = sender.send_request(request).await.map_err(|error| worded(&error))?;
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = response.status();
            let mut body = response.into_body();
            let mut read = Vec::new();
            while read.len() < BODY_BYTES {
                match body.frame().await {
                    Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref())),
                    Some(Err(error)) => return Err(worded(&error)),
                    None => break,
                }
            }
            read.truncate(BODY_BYTES);
            Ok((Answer { status, body: String::from_utf8_lossy(&read).into_owned() }, location))
        };
        // The connection does the work; it ends with the exchange.
        tokio::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let mut open = true;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                _ = &mut connection, if open => open = false,
            }
        }
    }
}

fn worded(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

/// Opens a connection, as Go would tell of it.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = join(host, port);
    TcpStream::connect((host, port)).await.map_err(|error| {
        let what = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            std::io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: {what}")
    })
}

fn tls() -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms }))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Probes ask whether a server answers, not who it is.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives one answer to each connection and tells what it was asked.
    async fn server(answers: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("somebody comes");
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.expect("it can be read");
                asked.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                stream.write_all(answer.as_bytes()).await.expect("it can be written");
            }
            asked
        });
        (port, asked)
    }

    fn get(port: u16, path: &str) -> Get {
        let action = HTTPGetAction { path: Some(path.to_owned()), port: IntOrString::Int(i32::from(port)), ..Default::default() };
        Get::new(&action, &Container::default(), "127.0.0.1", "probe").expect("it can be asked")
    }

    #[tokio::test]
    async fn redirects_within_a_host_are_followed() {
        let (port, asked) = server(vec![
            "HTTP/1.1 302 Found\r\nLocation: /b?c=d\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ])
        .await;
        let answer = get(port, "a").send().await.expect("it answers");
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "hi"));
        let asked = asked.await.expect("it does not panic");
        assert!(asked[0].starts_with("GET /a HTTP/1.1\r\n") && asked[0].contains("user-agent: kube-probe/1.37\r\n"), "{asked:?}");
        assert!(asked[1].starts_with("GET /b?c=d HTTP/1.1\r\n"), "{asked:?}");
    }

    #[tokio::test]
    async fn redirects_to_other_hosts_are_answers() {
        let (port, _asked) = server(vec!["HTTP/1.1 302 Found\r\nLocation: http://0.0.0.0/\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(get(port, "/").send().await.map(|answer| answer.status.as_u16()), Ok(302));
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_in_gos_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let url = format!("http://127.0.0.1:{port}/x");
        let expected = format!("Get {url:?}: dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(get(port, "/x").send().await, Err(Error(expected)));
    }
}
