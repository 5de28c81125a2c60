//! A kubelet whose serving certificate the cluster signs.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kubelet::cri::fake::Fake;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::Server;
use crate::{PATIENCE, config, start, until};

/// Who signs.
struct Authority {
    key: KeyPair,
    params: CertificateParams,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Authority { key, params, certificate }
    }

    /// Approves a request and signs what it asks for.
    async fn sign(&self, server: &Server, request: &Value) {
        let bytes = BASE64_STANDARD.decode(request["spec"]["request"].as_str().expect("a request")).expect("base64");
        let asked = CertificateSigningRequestParams::from_pem(std::str::from_utf8(&bytes).expect("PEM")).expect("a request");
        let issued = asked.signed_by(&Issuer::from_params(&self.params, &self.key)).expect("a certificate");
        let mut signed = request.clone();
        signed["status"] = json!({
            "conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": ""}],
            "certificate": BASE64_STANDARD.encode(issued.pem()),
        });
        let api: kube::Api<CertificateSigningRequest> = kube::Api::all(server.client());
        let signed: CertificateSigningRequest = serde_json::from_value(signed).expect("a request");
        let name = signed.metadata.name.clone().unwrap_or_default();
        api.replace(&name, &Default::default(), &signed).await.expect("it is signed");
    }

    /// Whether a server shows a certificate of this authority for an address.
    async fn vouches_for(&self, address: Ipv4Addr, port: u16) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let Ok(stream) = TcpStream::connect((address, port)).await else { return false };
        connector.connect(ServerName::IpAddress(address.into()), stream).await.is_ok()
    }

    /// Waits until it does.
    async fn is_shown(&self, address: Ipv4Addr, port: u16) {
        let shown = async {
            while !self.vouches_for(address, port).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, shown).await.expect("the certificate is served with");
    }
}

fn requests(server: &Server) -> Vec<Value> {
    server.list("certificatesigningrequests")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_serves_with_what_the_cluster_signs_and_keeps_it() {
    let (server, directory, authority) = (Server::default(), tempfile::tempdir().expect("there is a place"), Authority::new());
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let settings = || {
        let mut config = config(directory.path());
        config.node_ips = vec![Ipv4Addr::LOCALHOST.into()];
        config.configuration.enable_server = true;
        config.configuration.address = Ipv4Addr::LOCALHOST.to_string();
        config.configuration.port = port;
        config.configuration.server_tls_bootstrap = true;
        config
    };
    let kubelet = start(&server, settings(), Some(Arc::new(Fake::default())));
    let request = until("a request", || requests(&server).pop().ok_or(Value::Null)).await;
    assert_eq!(request["spec"]["signerName"], "kubernetes.io/kubelet-serving");
    assert!(!authority.vouches_for(Ipv4Addr::LOCALHOST, port).await, "nothing was signed yet");
    authority.sign(&server, &request).await;
    authority.is_shown(Ipv4Addr::LOCALHOST, port).await;
    kubelet.stop().await;

    let kubelet = start(&server, settings(), Some(Arc::new(Fake::default())));
    authority.is_shown(Ipv4Addr::LOCALHOST, port).await;
    assert_eq!(requests(&server).len(), 1, "what was kept is still good");
    kubelet.stop().await;
}
