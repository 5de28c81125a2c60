//! Calls of webhooks (admission, conversion): where one is, who it must prove to be, and what it answers.
//!
//! A service is called at one of its ready endpoints, not at its cluster IP, so that a control plane needs no proxy; [`connections`]
//! keeps the connections. Knows nothing of what is asked. Errors are in the words of Go's HTTP client, which people know from upstream.

mod connections;
pub mod credentials;
pub mod kubeconfig;
pub mod remote;
pub(crate) mod trust;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use apimachinery::status::Status;
use apimachinery::{json, yaml};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Uri};
use rand::RngExt;
use serde_json::Value;

pub use connections::Connections;
use connections::{Call, Peer, Reply, Way};
use credentials::{Credentials, Shown};
use remote::{Endpoint, Trust};

use crate::admission::Lookup;
use crate::endpoints::body::no_object;
use crate::endpoints::subresources::location::{self, Target};
use crate::registry::read::{at, list_at, str_at};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const DEFAULT_PORT: i64 = 443;
const HTTPS_PORT: u16 = 443;

/// A webhook's `clientConfig`.
#[derive(Clone, Debug)]
pub struct Webhook {
    address: Address,
    /// PEM; the system's authorities count without.
    ca_bundle: Option<Arc<[u8]>>,
    /// What it is shown; an error says why that cannot be had.
    shown: Result<Option<Arc<Shown>>, String>,
}

#[derive(Clone, Debug)]
enum Address {
    Url(Uri),
    Service { namespace: String, name: String, port: i64, path: String },
}

/// Where one call goes.
struct Destination {
    target: Target,
    /// As the webhook's certificate has it.
    server_name: String,
    authority: String,
    path: String,
}

impl Webhook {
    /// Reads a `clientConfig` that validation has let pass.
    pub fn read(config: &Value) -> Result<Webhook, String> {
        let service = at(config, "/service");
        let address = if service.is_object() {
            let path = str_at(service, "/path");
            Address::Service {
                namespace: str_at(service, "/namespace").to_owned(),
                name: str_at(service, "/name").to_owned(),
                port: at(service, "/port").as_i64().unwrap_or(DEFAULT_PORT),
                path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            }
        } else {
            let url = str_at(config, "/url");
            Address::Url(url.parse().map_err(|error| format!("parse {}: {error}", quote(url)))?)
        };
        let ca_bundle = match str_at(config, "/caBundle") {
            "" => None,
            text => Some(STANDARD.decode(text).map_err(|error| format!("the CA bundle is not base64: {error}"))?),
        };
        // Nothing but white space counts as nothing, as upstream.
        let ca_bundle = ca_bundle.filter(|bundle| !bundle.trim_ascii().is_empty()).map(Arc::from);
        Ok(Webhook { address, ca_bundle, shown: Ok(None) })
    }

    /// The same, shown what the credentials have for it.
    pub fn with_credentials(mut self, credentials: &Credentials) -> Webhook {
        self.shown = match &self.address {
            Address::Url(url) => {
                let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
                credentials.of(host, url.port_u16().unwrap_or(HTTPS_PORT))
            }
            Address::Service { namespace, name, port, .. } => {
                credentials.of(&format!("{name}.{namespace}.svc"), u16::try_from(*port).unwrap_or(HTTPS_PORT))
            }
        };
        self
    }

    /// Sends a JSON document and gives the JSON document that comes back.
    pub async fn post(&self, lookup: &dyn Lookup, body: Bytes, timeout: Duration) -> Result<Value, String> {
        let shown = |what: String| format!("Post {}: {what}", quote(&self.url(timeout)));
        match tokio::time::timeout(timeout, self.exchange(lookup, body, timeout)).await {
            Ok(Ok(answer)) => read_answer(&answer),
            Ok(Err(error)) => Err(shown(error)),
            Err(_) => Err(shown("context deadline exceeded".to_owned())),
        }
    }

    /// The address that messages show.
    fn url(&self, timeout: Duration) -> String {
        let timeout = timeout_query(timeout);
        match &self.address {
            Address::Url(url) => with_query(&url.to_string(), &timeout),
            Address::Service { namespace, name, port, path } => {
                with_query(&format!("https://{name}.{namespace}.svc:{port}{path}"), &timeout)
            }
        }
    }

    fn destination(&self, lookup: &dyn Lookup) -> Result<Destination, String> {
        match &self.address {
            Address::Url(url) => {
                let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let port = url.port_u16().map_or_else(String::new, |port| port.to_string());
                let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                let target = location::anybody("https", &host, port);
                Ok(Destination { authority: target.authority(), target, server_name: host, path })
            }
            Address::Service { namespace, name, port, path } => {
                let (host, endpoint_port) = endpoint(lookup, namespace, name, *port)?;
                Ok(Destination {
                    target: location::anybody("https", &host, endpoint_port),
                    server_name: format!("{name}.{namespace}.svc"),
                    authority: format!("{name}.{namespace}.svc:{port}"),
                    path: path.clone(),
                })
            }
        }
    }

    async fn exchange(&self, lookup: &dyn Lookup, body: Bytes, timeout: Duration) -> Result<Reply, String> {
        let Destination { target, server_name, authority, path } = self.destination(lookup)?;
        let shown = self.shown.clone()?;
        let identity = shown.as_ref().and_then(|shown| shown.identity.as_ref());
        let certificate = identity.map(|identity| Arc::from(identity.certificate.as_bytes()));
        let peer = Peer { address: target.authority(), server_name, authorities: self.ca_bundle.clone(), identity: certificate };
        let tls = || match identity {
            None => trust::client_config(self.ca_bundle.as_deref()),
            Some(identity) => {
                let trust = self.ca_bundle.as_deref().map_or(Trust::Machine, |bundle| Trust::Bundle(bundle.to_vec()));
                remote::client_config(&Endpoint { trust, identity: Some(identity.clone()), ..Endpoint::default() })
            }
        };
        let way = Way { target: &target, trust: &tls };
        let path_and_query = with_query(&path, &timeout_query(timeout));
        let mut headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static("kube-apiserver-admission"))]);
        if let Some(authorization) = shown.as_ref().and_then(|shown| shown.authorization.as_ref()) {
            let value = HeaderValue::from_str(authorization).map_err(|_| "the credentials cannot be sent in a header".to_owned())?;
            headers.insert(AUTHORIZATION, value);
        }
        let call = Call { method: Method::POST, authority: &authority, path_and_query: &path_and_query, headers, body };
        lookup.webhook_connections().call(&peer, &way, &call).await
    }
}

/// A ready endpoint of a service's port.
fn endpoint(lookup: &dyn Lookup, namespace: &str, name: &str, port: i64) -> Result<(String, String), String> {
    let service = lookup.get("", "services", namespace, name).ok_or_else(|| format!("service {} not found", quote(name)))?;
    let port_name = location::service_port_name(&service, name, port).map_err(|status| status.message)?;
    let mut slices = lookup.list("discovery.k8s.io", "endpointslices", namespace);
    slices.retain(|slice| at(slice, "/metadata/labels").get(SERVICE_NAME_LABEL).and_then(Value::as_str) == Some(name));
    // An unnamed port has no name in the slices either.
    for port in slices.iter_mut().map(Arc::make_mut).filter_map(|slice| slice.get_mut("ports").and_then(Value::as_array_mut)).flatten() {
        if let Some(port) = port.as_object_mut() {
            port.entry("name").or_insert_with(|| Value::String(String::new()));
        }
    }
    let preferred = list_at(&service, "/spec/ipFamilies").first().and_then(Value::as_str).unwrap_or("IPv4");
    let any = |_: &Value| true;
    location::endpoint(name, &slices, &port_name, preferred, any, |n| rand::rng().random_range(0..n.max(1)))
        .map_err(|status| status.message)
}

/// An object in JSON, or in YAML if it does not look like JSON.
fn read_object(body: &[u8]) -> Result<Value, String> {
    let value = if body.trim_ascii_start().starts_with(b"{") {
        json::parse(body).map_err(|error| error.to_string())?.0
    } else {
        yaml::parse(body).map_err(|error| error.to_string())?.value
    };
    if value.is_object() { Ok(value) } else { Err(no_object(&value)) }
}

/// The document of an answer; what an answer with an error code says is worded as Go's client words it.
fn read_answer(answer: &Reply) -> Result<Value, String> {
    if answer.status.is_success() {
        return read_object(&answer.body).map_err(|why| format!("couldn't get version/kind; json parse error: {why}"));
    }
    let read = json::parse(&answer.body).map(|(document, _)| document).unwrap_or_default();
    if (str_at(&read, "/kind"), str_at(&read, "/apiVersion"), str_at(&read, "/status")) == ("Status", "v1", "Failure") {
        return Err(str_at(&read, "/message").to_owned());
    }
    let media = answer.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
    let is_text = media.is_none_or(|media| media.trim_start().to_ascii_lowercase().starts_with("text/"));
    let text = if is_text { String::from_utf8_lossy(&answer.body) } else { "unknown".into() };
    Err(Status::generic(answer.status.as_u16(), Method::POST.as_str(), "", "", "", text.trim()).message)
}

fn timeout_query(timeout: Duration) -> String {
    format!("timeout={}s", timeout.as_secs())
}

fn with_query(path: &str, query: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{query}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_webhook_is_shown_as_go_shows_it() {
        let service = json!({ "service": { "namespace": "n", "name": "s", "path": "check", "port": 8443 } });
        let webhook = Webhook::read(&service).unwrap();
        assert_eq!(webhook.url(Duration::from_secs(10)), "https://s.n.svc:8443/check?timeout=10s");
        let url = Webhook::read(&json!({ "url": "https://h:1/a?b=c" })).unwrap();
        assert_eq!(url.url(Duration::from_secs(3)), "https://h:1/a?b=c&timeout=3s");
        assert!(Webhook::read(&json!({ "url": "https://h", "caBundle": "?" })).is_err());
    }

    #[test]
    fn answers_that_are_none_are_explained() {
        let read = |code: u16, media: &'static str, body: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]);
            read_answer(&Reply { status: code.try_into().unwrap(), headers, body: Bytes::from_static(body.as_bytes()) })
        };
        assert_eq!(read(200, "application/json", "{}"), Ok(json!({})));
        let none = r#"json: cannot unmarshal string into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        let error = read(200, "text/html", "<html>").unwrap_err();
        assert_eq!(error, format!("couldn't get version/kind; json parse error: {none}"));
        for (code, media, body, expect) in [
            (500, "text/plain", "broken\n", "an error on the server (\"broken\") has prevented the request from succeeding"),
            (500, "application/json", "{}", "an error on the server (\"unknown\") has prevented the request from succeeding"),
            (403, "text/plain; charset=utf-8", "not you", "not you"),
            (404, "text/plain", "what?", "the server could not find the requested resource"),
            (500, "application/json", r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"full"}"#, "full"),
        ] {
            assert_eq!(read(code, media, body).unwrap_err(), expect);
        }
    }
}

#[cfg(test)]
mod connection_tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::post;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto::Builder;
    use hyper_util::service::TowerToHyperService;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::admission::testing::Objects;
    use crate::pki::Pki;

    /// A webhook on this machine that counts its connections.
    struct Peer {
        port: u16,
        authority: String,
        accepted: Arc<AtomicUsize>,
        serving: JoinSet<()>,
    }

    async fn peer(listener: TcpListener, protocols: &[&[u8]]) -> Peer {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let identity = pki.serving(&[], &["127.0.0.1".parse().unwrap()]).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    let app = Router::new().route("/", post(|body: Bytes| async move { body }));
                    let served = Builder::new(TokioExecutor::new());
                    let _ = served.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await;
                });
            }
        });
        Peer { port, authority: pki.ca().unwrap(), accepted, serving }
    }

    fn webhook(port: u16, authority: &str) -> Webhook {
        Webhook::read(&json!({ "url": format!("https://127.0.0.1:{port}/"), "caBundle": STANDARD.encode(authority) })).unwrap()
    }

    async fn call(webhook: &Webhook, cluster: &Objects, n: u64) -> Result<Value, String> {
        webhook.post(cluster, Bytes::from(json!({ "n": n }).to_string()), Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn calls_one_after_another_use_one_connection() {
        for protocols in [&[b"h2".as_slice(), b"http/1.1"][..], &[b"http/1.1"], &[]] {
            let peer = peer(TcpListener::bind("127.0.0.1:0").await.unwrap(), protocols).await;
            let (webhook, cluster) = (webhook(peer.port, &peer.authority), Objects::default());
            for n in 0..20 {
                assert_eq!(call(&webhook, &cluster, n).await, Ok(json!({ "n": n })));
            }
            assert_eq!(peer.accepted.load(Ordering::SeqCst), 1, "{protocols:?}");
        }
    }

    #[tokio::test]
    async fn calls_at_the_same_time_share_an_http2_connection() {
        let peer = peer(TcpListener::bind("127.0.0.1:0").await.unwrap(), &[b"h2"]).await;
        let (webhook, cluster) = (webhook(peer.port, &peer.authority), Objects::default());
        call(&webhook, &cluster, 0).await.unwrap();
        let answers = futures::future::join_all((0..50).map(|n| call(&webhook, &cluster, n))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(peer.accepted.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_connection_is_not_used_for_another_ca_bundle() {
        let peer = peer(TcpListener::bind("127.0.0.1:0").await.unwrap(), &[b"h2"]).await;
        let cluster = Objects::default();
        call(&webhook(peer.port, &peer.authority), &cluster, 0).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let other = Pki::open(directory.path()).unwrap().ca().unwrap();
        let refused = call(&webhook(peer.port, &other), &cluster, 0).await.unwrap_err();
        assert!(refused.contains("certificate signed by unknown authority"), "{refused}");
        call(&webhook(peer.port, &format!("{}\n{other}", peer.authority)), &cluster, 0).await.unwrap();
        assert_eq!(peer.accepted.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_is_replaced() {
        for protocols in [&[b"h2".as_slice()][..], &[b"http/1.1"]] {
            let mut first = peer(TcpListener::bind("127.0.0.1:0").await.unwrap(), protocols).await;
            let (webhook, cluster) = (webhook(first.port, &first.authority), Objects::default());
            call(&webhook, &cluster, 0).await.unwrap();
            first.serving.shutdown().await;
            let down = call(&webhook, &cluster, 1).await.unwrap_err();
            assert!(down.contains("connection refused"), "{down}");
        }
    }
}
