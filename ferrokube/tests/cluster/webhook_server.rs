//! Serves a test's webhooks over TLS on a free port of the loopback, with a certificate of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;

/// The server, for as long as this lives.
pub struct Serving {
    pub port: u16,
    /// Who vouches for it, as PEM.
    pub ca: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to serve; `connected` is called for each connection.
pub async fn serve(app: Router, connected: impl Fn() + Send + 'static) -> Serving {
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    parameters.subject_alt_names.push(rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let chain = CertificateDer::pem_slice_iter(certificate.pem().as_bytes()).collect::<Result<Vec<_>, _>>().expect("a chain");
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private).expect("a usable identity");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            connected();
            let app = app.clone();
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let service = hyper_util::service::TowerToHyperService::new(app);
                // A client that goes away is nobody's concern.
                let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    Serving { port, ca: certificate.pem(), task }
}
