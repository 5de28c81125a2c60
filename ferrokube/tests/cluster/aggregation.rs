//! An API that somebody else serves behind a service: it is reached in the user's name, shows in discovery, and its end leaves the rest alone.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::process::Cluster;

const DEADLINE: Duration = Duration::from_secs(60);
const GROUP: &str = "things.example.com";
const LIST: &str = "/apis/things.example.com/v1/things";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// An address of this machine that may stand in an EndpointSlice. Connecting a UDP socket sends nothing.
fn machine_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).expect("this test needs a network interface besides the loopback");
    socket.local_addr().expect("an address").ip()
}

/// The extension server, for as long as this lives.
struct Extension {
    port: u16,
    ca: String,
    task: tokio::task::JoinHandle<()>,
}

impl Extension {
    /// Stops answering; open connections end with their tasks.
    fn stop(&self) {
        self.task.abort();
    }
}

/// Answers nobody but a front proxy, and tells it whom it speaks for.
async fn answer(uri: Uri, headers: HeaderMap) -> Response {
    let resource = json!({
        "resource": "things", "responseKind": { "group": GROUP, "version": "v1", "kind": "Thing" }, "scope": "Cluster",
        "singularResource": "thing", "verbs": ["list"],
    });
    let of = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().expect("text")).collect::<Vec<_>>().join(",");
    match uri.path() {
        "/apis" => {
            let versions = json!([{ "version": "v1", "resources": [resource], "freshness": "Current" }]);
            let items = json!([{ "metadata": { "name": GROUP }, "versions": versions }]);
            let list = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items });
            ([(header::CONTENT_TYPE, DISCOVERY)], list.to_string()).into_response()
        }
        "/apis/things.example.com/v1" => Json(json!({ "kind": "APIResourceList", "groupVersion": format!("{GROUP}/v1") })).into_response(),
        LIST => Json(json!({ "user": of("x-remote-user"), "groups": of("x-remote-group"), "query": uri.query() })).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn serve(address: IpAddr, front_proxy_ca: &str) -> Extension {
    let parameters = rcgen::CertificateParams::new(vec!["things.extension.svc".to_owned()]).expect("parameters");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut proxies = RootCertStore::empty();
    proxies.add(CertificateDer::from_pem_slice(front_proxy_ca.as_bytes()).expect("a certificate")).expect("an authority");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(proxies), provider.clone()).build().expect("a verifier");
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let chain = vec![certificate.der().clone()];
    let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, private).expect("a usable identity");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((address, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let app = Router::new().fallback(answer);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let app = app.clone();
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let service = hyper_util::service::TowerToHyperService::new(app);
                // A client that goes away is nobody's concern.
                let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    Extension { port, ca: certificate.pem(), task }
}

async fn apply<K>(api: &Api<K>, object: Value)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.expect("the object is taken");
}

/// Tells the cluster of the server; returns when it is found well.
async fn register(client: &Client, extension: &Extension, address: IpAddr) {
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "extension" } });
    apply(&Api::<Namespace>::all(client.clone()), namespace).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "things" }, "spec": { "ports": [{ "name": "https", "port": 443 }] },
    });
    apply(&Api::<Service>::namespaced(client.clone(), "extension"), service).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "things-1", "labels": { "kubernetes.io/service-name": "things" } },
        "addressType": "IPv4", "endpoints": [{ "addresses": [address] }], "ports": [{ "name": "https", "port": extension.port }],
    });
    apply(&Api::<EndpointSlice>::namespaced(client.clone(), "extension"), slice).await;
    let services: Api<APIService> = Api::all(client.clone());
    let registration = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": format!("v1.{GROUP}") },
        "spec": {
            "group": GROUP, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "service": { "namespace": "extension", "name": "things" },
            "caBundle": base64::engine::general_purpose::STANDARD.encode(&extension.ca),
        },
    });
    apply(&services, registration).await;
    let available = async || {
        let status = services.get(&format!("v1.{GROUP}")).await.expect("the registration").status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        conditions.iter().find(|c| c.type_ == "Available").map(|c| (c.status.clone(), c.reason.clone().unwrap_or_default()))
    };
    until("the server is found well", async || available().await == Some(("True".to_owned(), "Passed".to_owned()))).await;
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < DEADLINE, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(client: &Client, path: &str, accept: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(path).header(header::ACCEPT, accept).body(Vec::new()).expect("a request");
    client.request(request).await
}

/// Which groups aggregated discovery tells of, with the resources of their first version and its freshness.
async fn told(client: &Client) -> Option<(usize, String)> {
    let document = get(client, "/apis", DISCOVERY).await.expect("discovery");
    let group = document["items"].as_array().expect("groups").iter().find(|g| g["metadata"]["name"] == GROUP)?.clone();
    let version = &group["versions"][0];
    Some((version["resources"].as_array().map_or(0, Vec::len), version["freshness"].as_str().expect("freshness").to_owned()))
}

#[tokio::test]
async fn an_api_of_somebody_else_is_served_while_it_is_registered_and_its_death_harms_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(directory.path());
    let client = cluster.impatient_client().await;
    let trust: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let trust = trust.get("extension-apiserver-authentication").await.expect("what extension servers are told").data.expect("data");
    let address = machine_address();
    let extension = serve(address, &trust["requestheader-client-ca-file"]).await;
    register(&client, &extension, address).await;

    let answer = get(&client, &format!("{LIST}?limit=5"), "application/json").await.expect("the list");
    assert_eq!(answer, json!({ "user": "kubernetes-admin", "groups": "system:masters,system:authenticated", "query": "limit=5" }));
    until("discovery tells of it", async || told(&client).await == Some((1, "Current".to_owned()))).await;

    extension.stop();
    until("its end is noticed", async || get(&client, LIST, "application/json").await.is_err()).await;
    match get(&client, LIST, "application/json").await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 503),
        other => panic!("{other:?}"),
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert!(namespaces.list(&ListParams::default()).await.is_ok());
    assert_eq!(told(&client).await.map(|(resources, _)| resources), Some(1), "what it served is remembered");

    let services: Api<APIService> = Api::all(client.clone());
    services.delete(&format!("v1.{GROUP}"), &DeleteParams::default()).await.expect("deleted");
    until("discovery forgets it", async || told(&client).await.is_none()).await;
    match get(&client, LIST, "application/json").await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 404),
        other => panic!("{other:?}"),
    }
}
