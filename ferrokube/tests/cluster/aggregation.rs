//! An API that somebody else serves behind a service: it is reached in the user's name, over connections that are kept, shows in discovery and
//! OpenAPI, and its end leaves the rest alone.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

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
    /// Connections that were accepted.
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Extension {
    /// Stops answering; open connections end.
    fn stop(&self) {
        self.task.abort();
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Events of a watch, the second a while after the first.
fn events() -> Response {
    let event = |n: u64| async move {
        tokio::time::sleep(Duration::from_millis(500 * n)).await;
        Ok::<_, std::io::Error>(format!("{}\n", json!({ "type": "ADDED", "object": { "n": n } })))
    };
    let body = Body::from_stream(futures::stream::iter(0..3).then(event));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Says everything that it hears.
fn echo(request: Request) -> Response {
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(hyper::upgrade::on(request).await.expect("an upgrade")));
        // A client that goes away is nobody's concern.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "echo/1")]).into_response()
}

/// Answers nobody but a front proxy, and tells it whom it speaks for.
async fn answer(request: Request) -> Response {
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    if uri.query().is_some_and(|query| query.contains("watch=")) {
        return events();
    }
    if uri.path().ends_with("/exec") {
        return echo(request);
    }
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

/// A server of old: it tells of its resources version by version, and knows OpenAPI 2 alone.
async fn answer_of_old(request: Request) -> Response {
    let kind = json!({ "kind": "Thing", "name": "things", "singularName": "thing", "namespaced": false, "verbs": ["list"] });
    let version = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/v1"), "resources": [kind] });
    let thing = json!({ "type": "object", "description": "A thing.", "properties": { "size": { "type": "integer" } },
        "x-kubernetes-group-version-kind": [{ "group": GROUP, "version": "v1", "kind": "Thing" }] });
    let list = json!({ "get": { "operationId": "listThings", "produces": ["application/json"],
        "responses": { "200": { "description": "OK", "schema": { "$ref": "#/definitions/com.example.Thing" } } } } });
    match request.uri().path() {
        "/apis/things.example.com/v1" => Json(version).into_response(),
        "/openapi/v2" => Json(json!({ "swagger": "2.0", "info": { "title": "old", "version": "1" }, "paths": { LIST: list },
            "definitions": { "com.example.Thing": thing } }))
        .into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `protocols` are those of HTTP that the server speaks, best first.
async fn serve(address: IpAddr, front_proxy_ca: &str, protocols: &[&str], app: Router) -> Extension {
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
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, private).expect("a usable identity");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((address, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let task = tokio::spawn(async move {
        // They end with this task.
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            count.fetch_add(1, Ordering::Relaxed);
            let app = app.clone();
            connections.spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let service = hyper_util::service::TowerToHyperService::new(app);
                // A client that goes away is nobody's concern.
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    Extension { port, ca: certificate.pem(), accepted, task }
}

async fn apply<K>(api: &Api<K>, object: Value)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.expect("the object is taken");
}

/// A server that is registered and trusts the front proxy that it is told of.
async fn registered(client: &Client, protocols: &[&str], app: Router) -> Extension {
    let trust: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let trust = trust.get("extension-apiserver-authentication").await.expect("what extension servers are told").data.expect("data");
    let address = machine_address();
    let extension = serve(address, &trust["requestheader-client-ca-file"], protocols, app).await;
    register(client, &extension, address).await;
    extension
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
    let extension = registered(&client, &["h2", "http/1.1"], Router::new().fallback(answer)).await;

    let answer = get(&client, &format!("{LIST}?limit=5"), "application/json").await.expect("the list");
    assert_eq!(answer, json!({ "user": "kubernetes-admin", "groups": "system:masters,system:authenticated", "query": "limit=5" }));
    watches_and_upgrades_pass(&client).await;
    connections_are_kept(&client, &extension).await;
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

/// What a watch tells arrives when it is told, and an upgraded connection carries bytes both ways.
async fn watches_and_upgrades_pass(client: &Client) {
    let request = http::Request::get(format!("{LIST}?watch=true")).body(Vec::new()).expect("a request");
    let started = Instant::now();
    let mut lines = client.request_stream(request).await.expect("a stream").lines();
    let first = lines.try_next().await.expect("a line").expect("an event");
    assert!(first.contains("\"n\":0") && started.elapsed() < Duration::from_millis(450), "{first} after {:?}", started.elapsed());
    let rest: Vec<String> = lines.try_collect().await.expect("all lines");
    assert_eq!(rest.len(), 2);

    let request = http::Request::get(format!("{LIST}/a/exec")).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "echo/1");
    let response = client.send(request.body(kube::client::Body::empty()).expect("a request")).await.expect("an answer");
    assert_eq!((response.status(), response.headers()[header::UPGRADE].as_bytes()), (StatusCode::SWITCHING_PROTOCOLS, &b"echo/1"[..]));
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("an upgraded connection"));
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await.expect("sent");
        let mut heard = [0; 3];
        stream.read_exact(&mut heard).await.expect("heard");
        assert_eq!(heard, word.as_bytes());
    }
}

/// Requests one after the other, and side by side, need few connections.
async fn connections_are_kept(client: &Client, extension: &Extension) {
    let before = extension.accepted();
    for _ in 0..30 {
        get(client, LIST, "application/json").await.expect("the list");
    }
    futures::future::join_all((0..30).map(|_| get(client, LIST, "application/json"))).await.into_iter().for_each(|answer| {
        answer.expect("the list");
    });
    let made = extension.accepted() - before;
    assert!(made <= 10, "{made} connections for 60 requests");
}

#[tokio::test]
async fn a_server_of_old_shows_in_discovery_and_in_both_versions_of_openapi() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(directory.path());
    let client = cluster.impatient_client().await;
    let extension = registered(&client, &[], Router::new().fallback(answer_of_old)).await;
    until("discovery tells of it", async || told(&client).await == Some((1, "Current".to_owned()))).await;

    let path = format!("apis/{GROUP}/v1");
    let url =
        async || get(&client, "/openapi/v3", "application/json").await.expect("the index")["paths"][&path]["serverRelativeURL"].clone();
    until("OpenAPI tells of it", async || url().await.is_string()).await;
    let url = url().await;
    let v3 = get(&client, url.as_str().expect("a path"), "application/json").await.expect("the document");
    assert_eq!(v3["components"]["schemas"]["com.example.Thing"]["properties"]["size"]["type"], "integer");
    let carried = &v3["paths"][LIST]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(carried, "#/components/schemas/com.example.Thing");
    let v2 = get(&client, "/openapi/v2", "application/json").await.expect("the document");
    assert_eq!(v2["definitions"]["com.example.Thing"]["description"], "A thing.");
    connections_are_kept_by_version_1(&client, &extension).await;
}

/// One request at a time needs one connection, even if it cannot be shared.
async fn connections_are_kept_by_version_1(client: &Client, extension: &Extension) {
    let before = extension.accepted();
    for _ in 0..30 {
        get(client, &format!("/apis/{GROUP}/v1"), "application/json").await.expect("the resources");
    }
    let made = extension.accepted() - before;
    assert!(made <= 10, "{made} connections for 30 requests");
}
