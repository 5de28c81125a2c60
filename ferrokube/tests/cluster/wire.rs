//! TLS connections without a client library: bytes go out as they are.

pub mod frames;

use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No answer takes longer; none at all is an answer too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1 << 24;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// How to connect to the server.
#[derive(Clone)]
pub struct Way {
    address: String,
    roots: Arc<RootCertStore>,
}

/// Shows a certificate, whatever it is.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Way {
    pub fn to(config: &Config) -> Way {
        let mut roots = RootCertStore::empty();
        for der in config.root_cert.iter().flatten() {
            roots.add(CertificateDer::from(der.clone())).expect("an authority");
        }
        let (host, port) = (config.cluster_url.host().expect("a host"), config.cluster_url.port_u16().expect("a port"));
        Way { address: format!("{host}:{port}"), roots: Arc::new(roots) }
    }

    /// A connection over which `protocol` is spoken.
    pub async fn connect(&self, protocol: &str) -> Connection {
        self.connect_as(protocol, None).await.expect("a connection")
    }

    /// The same for one who shows certificates and has a key, which need not fit; fails if the server ends the handshake.
    pub async fn connect_as(&self, protocol: &str, shown: Option<Arc<CertifiedKey>>) -> std::io::Result<Connection> {
        Ok(Connection { stream: self.open(protocol, shown).await?, read: Vec::new() })
    }

    /// The stream alone. Each has a session of its own.
    pub async fn open(&self, protocol: &str, shown: Option<Arc<CertifiedKey>>) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder().with_root_certificates(self.roots.clone());
        let mut config = match shown {
            Some(shown) => config.with_client_cert_resolver(Arc::new(Shown(shown))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// What has come and was not looked at.
    read: Vec<u8>,
}

impl Connection {
    /// False if the server has ended the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() };
        tokio::time::timeout(ANSWER_TIMEOUT, written).await.unwrap_or(false)
    }

    /// Ends the sending side.
    pub async fn half_close(&mut self) {
        // The server may have been quicker.
        let _ = self.stream.shutdown().await;
    }

    /// Reads more; false if there is nothing more to come for now.
    async fn fill(&mut self) -> bool {
        let mut chunk = [0; 1 << 14];
        match tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read(&mut chunk)).await {
            Ok(Ok(length)) if length > 0 && self.read.len() < MAX_ANSWER_BYTES => {
                self.read.extend_from_slice(&chunk[..length]);
                true
            }
            _ => false,
        }
    }

    /// The next HTTP/1.1 answer; `None` if the server has none, or ends the connection.
    pub async fn answer(&mut self) -> Option<Answer> {
        let (status, start, length) = loop {
            if let Some(head) = head(&self.read) {
                break head;
            }
            if !self.fill().await {
                return None;
            }
        };
        if status == 100 {
            self.read.drain(..start);
            return Box::pin(self.answer()).await;
        }
        let end = loop {
            let end = match length {
                Length::Known(length) => (self.read.len() >= start + length).then_some(start + length),
                Length::Chunked => self.read[start..].windows(5).position(|five| five == b"0\r\n\r\n").map(|at| start + at + 5),
            };
            if end.is_some() || !self.fill().await {
                break end.unwrap_or(self.read.len());
            }
        };
        let body = self.read[start..end].to_vec();
        self.read.drain(..end);
        Some(Answer { status, body })
    }

    /// All that comes until the server ends the connection, or says nothing for a while.
    pub async fn rest(mut self, quiet: Duration) -> Vec<u8> {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(Ok(length)) = tokio::time::timeout(quiet, self.stream.read(&mut chunk)).await {
            if length == 0 || self.read.len() > MAX_ANSWER_BYTES {
                break;
            }
            self.read.extend_from_slice(&chunk[..length]);
        }
        self.read
    }
}

#[derive(Clone, Copy)]
enum Length {
    Known(usize),
    Chunked,
}

/// The status of an answer, where its body starts and how long that is, once its head is there.
fn head(bytes: &[u8]) -> Option<(u16, usize, Length)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = text.get(9..12)?.parse().ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let chunked = text.contains("transfer-encoding: chunked");
    Some((status, end, if chunked { Length::Chunked } else { Length::Known(length.unwrap_or(0)) }))
}
