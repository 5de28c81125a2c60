//! The server from outside: TLS, who is let in, and what the paths answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use client::Shutdown;
use futures::future::BoxFuture;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Config, MetricsPage, Node, serve, tls};
use crate::cri::SharedRuntime;
use crate::cri::fake::Fake;

struct TestNode {
    runtime: Fake,
}

impl Node for TestNode {
    fn name(&self) -> &str {
        "n1"
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "1"}, "spec": {"containers": [{"name": "c"}]}});
        vec![Arc::new(serde_json::from_value(pod).unwrap())]
    }

    fn runtime(&self) -> SharedRuntime {
        Arc::new(self.runtime.clone())
    }

    fn check_sync_loop(&self) -> Result<(), String> {
        Ok(())
    }

    fn configuration(&self) -> Value {
        json!({"kind": "KubeletConfiguration"})
    }

    fn summary(&self, only_cpu_and_memory: bool) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move { Ok(json!({"only": only_cpu_and_memory})) })
    }

    fn metrics(&self, page: MetricsPage) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async move { Ok(format!("# {page:?}\n")) })
    }
}

/// An API server that knows one token, whose bearer may read statistics and pods, and lets the API server do everything.
fn api_server() -> kube::Client {
    let service = tower::service_fn(|request: Request<kube::client::Body>| async move {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        if path.ends_with("tokenreviews") {
            let good = review["spec"]["token"] == "good";
            review["status"] = json!({"authenticated": good, "user": {"username": "reader", "groups": ["readers"]}});
        } else {
            let (spec, resource) = (&review["spec"], &review["spec"]["resourceAttributes"]);
            assert_eq!((&resource["resource"], &resource["name"]), (&json!("nodes"), &json!("n1")));
            let is_read = resource["verb"] == "get" && (resource["subresource"] == "stats" || resource["subresource"] == "pods");
            let allowed = spec["user"] == "apiserver" || (spec["user"] == "reader" && is_read);
            review["status"] = json!({ "allowed": allowed });
        }
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(review.to_string())))
    });
    kube::Client::new(service, "default")
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { params, key, pem }
    }

    fn client(&self, name: &str) -> tls::Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        tls::Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

struct Served {
    port: u16,
    serving: tls::Identity,
    authority: Authority,
    shutdown: Shutdown,
}

async fn served(change: impl FnOnce(&mut Config)) -> Served {
    let authority = Authority::new();
    let serving = tls::self_signed("n1", &[[127, 0, 0, 1].into()]).unwrap();
    let mut config = Config::new(tls::Certificate::of(&serving).unwrap(), Some(authority.pem.clone()));
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = Shutdown::new();
    let node = Arc::new(TestNode { runtime: Fake::default() });
    tokio::spawn(serve(listener, config, node, api_server(), shutdown.clone()));
    Served { port, serving, authority, shutdown }
}

impl Served {
    async fn connect(&self, client: Option<&tls::Identity>) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.serving.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap()).unwrap()
            }
        };
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
    }

    async fn ask(&self, client: Option<&tls::Identity>, token: &str, method: &str, path: &str) -> (u16, String) {
        let stream = self.connect(client).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "n1");
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn only_those_who_may_are_let_in() {
    let server = served(|_| {}).await;
    let apiserver = server.authority.client("apiserver");
    assert_eq!(server.ask(None, "", "GET", "/healthz").await, (401, "Unauthorized".to_owned()));
    assert_eq!(server.ask(None, "bad", "GET", "/healthz").await, (401, "Unauthorized".to_owned()));
    assert_eq!(server.ask(Some(&apiserver), "", "GET", "/healthz").await, (200, "ok".to_owned()));
    assert_eq!(server.ask(None, "good", "GET", "/stats/summary").await, (200, r#"{"only":false}"#.to_owned()));
    assert_eq!(server.ask(None, "good", "GET", "/pods").await.0, 200);
    let refused = "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[healthz proxy])\n";
    assert_eq!(server.ask(None, "good", "GET", "/healthz").await, (403, refused.to_owned()));
    let stranger = Authority::new().client("apiserver");
    let mut stream = server.connect(Some(&stranger)).await;
    // With TLS 1.3 the client hears of its refusal with its first read.
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n1\r\n\r\n").await.unwrap();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn paths_answer_in_their_forms() {
    let server = served(|config| config.debugging_handlers = true).await;
    let client = server.authority.client("apiserver");
    let get = async |path: &str| server.ask(Some(&client), "", "GET", path).await;
    let (_, pods) = get("/pods").await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!((&pods["kind"], &pods["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("p")));
    assert_eq!(get("/configz").await.1, r#"{"kubeletconfig":{"kind":"KubeletConfiguration"}}"#);
    assert_eq!(get("/metrics/resource").await, (200, "# Resource\n".to_owned()));
    assert_eq!(get("/stats/summary?only_cpu_and_memory=true").await.1, r#"{"only":true}"#);
    assert_eq!(get("/nothing").await.0, 404);
    assert_eq!(server.ask(Some(&client), "", "POST", "/pods").await.0, 405);
    assert_eq!(get("/containerLogs/d/x/c").await, (404, "pod \"x\" does not exist".to_owned()));
    assert_eq!(get("/containerLogs/d/p/x").await, (404, "container \"x\" not found in pod \"p\"".to_owned()));
    assert_eq!(get("/containerLogs/d/p/c").await, (400, "container \"c\" in pod \"p\" is not available".to_owned()));
    assert_eq!(get("/exec/d/p/c").await, (400, "you must specify at least 1 of stdin, stdout, stderr".to_owned()));
    assert_eq!(get("/exec/d/p/c?output=1").await, (500, "container not found (\"c\")".to_owned()));
    assert_eq!(get("/attach/d/p/c?output=1").await, (500, "container c not found in pod p_d".to_owned()));
    assert_eq!(get("/portForward/d/p").await, (500, "pod not found (\"p_d\")".to_owned()));
}

#[tokio::test]
async fn a_shutdown_ends_the_server() {
    let server = served(|_| {}).await;
    server.shutdown.cancel();
    let refused = async { while TcpStream::connect(("127.0.0.1", server.port)).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
}
