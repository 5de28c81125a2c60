//! Extenders: what the core asks them and makes of their answers, and the whole over HTTP.

use std::sync::Arc;

use client::Shutdown;
use k8s_openapi::ByteString;
use parking_lot::Mutex;
use scheduler::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::model::{NodeSpec, PodSpec};

fn config(extenders: Value) -> Config {
    let api_version = "kubescheduler.config.k8s.io/v1";
    let config = json!({"apiVersion": api_version, "kind": "KubeSchedulerConfiguration", "extenders": extenders});
    serde_json::from_value::<Config>(config).expect("the form is right").complete().expect("it is valid")
}

fn node(name: &str) -> NodeSpec {
    NodeSpec { name: name.into(), zone: "a".into(), disk: "ssd".into(), cpu: 4000, memory: 4000, pods: 10, ..NodeSpec::default() }
}

fn pod(name: &str, cpu: i64) -> PodSpec {
    PodSpec { name: name.into(), app: "web".into(), cpu, ..PodSpec::default() }
}

fn cluster(extenders: Value, nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::with(&config(extenders), 1);
    nodes.iter().for_each(|name| cluster.set_node(node(name)));
    cluster
}

fn message(cluster: &Cluster, name: &str) -> String {
    let status = cluster.pod(name).status.as_ref().expect("it has a status");
    let condition = status.conditions.as_ref().and_then(|all| all.first()).expect("it has a condition");
    format!("{} {}", condition.reason.as_deref().unwrap_or(""), condition.message.as_deref().unwrap_or(""))
}

#[test]
fn extenders_filter_one_after_the_other_and_score_together() {
    let mut cluster = cluster(
        json!([
            {"urlPrefix": "http://spare", "filterVerb": "filter", "prioritizeVerb": "score", "weight": 1, "nodeCacheCapable": true, "ignorable": true},
            {"urlPrefix": "http://first", "filterVerb": "sieve", "prioritizeVerb": "rank", "weight": 10, "nodeCacheCapable": true},
        ]),
        &["a", "b", "c"],
    );
    cluster.create(pod("p", 100));
    cluster.settle();
    let [(verb, body)] = cluster.question().try_into().expect("one is asked");
    assert_eq!((verb.as_str(), body["NodeNames"].as_array().map(Vec::len)), ("sieve", Some(3)));
    cluster.answer(vec![Ok(json!({"NodeNames": ["a", "c"], "FailedNodes": {"b": "not b"}}))]);
    let [(verb, body)] = cluster.question().try_into().expect("one is asked");
    assert_eq!((verb.as_str(), &body["NodeNames"]), ("filter", &json!(["a", "c"])));
    cluster.answer(vec![Err("it is away".into())]);
    let asked: Vec<String> = cluster.question().into_iter().map(|(verb, _)| verb).collect();
    assert_eq!(asked, ["rank", "score"]);
    cluster.answer(vec![Ok(json!([{"Host": "c", "Score": 10}, {"Host": "a", "Score": 1}])), Err("it is away".into())]);
    assert_eq!(cluster.model.placed["p"].1, "c");
}

#[test]
fn a_pod_that_extenders_refuse_is_told_why_and_tried_again_when_anything_happens() {
    let mut cluster = cluster(json!([{"urlPrefix": "http://e", "filterVerb": "f", "nodeCacheCapable": true}]), &["a", "b", "c"]);
    cluster.create(pod("p", 100));
    cluster.settle();
    let answer = json!({"NodeNames": [], "FailedNodes": {"a": "full", "b": "full"}, "FailedAndUnresolvableNodes": {"b": "broken"}});
    cluster.answer(vec![Ok(answer.clone())]);
    let none =
        "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.";
    assert_eq!(message(&cluster, "p"), format!("Unschedulable 0/3 nodes are available: 1 broken, 1 full. {none}"));
    // That it is told so is a change too; after that nothing happens.
    cluster.pass(2);
    cluster.answer(vec![Ok(answer)]);
    cluster.pass(20);
    assert!(cluster.asked.is_none());
    cluster.set_node(NodeSpec { cpu: 5000, ..node("a") });
    cluster.settle();
    cluster.answer(vec![Ok(json!({"NodeNames": ["a"]}))]);
    assert_eq!(cluster.model.placed["p"].1, "a");
}

#[test]
fn an_extender_that_fails_and_cannot_be_done_without_fails_the_attempt() {
    let mut cluster = cluster(json!([{"urlPrefix": "http://e", "filterVerb": "f"}]), &["a"]);
    cluster.create(pod("p", 100));
    cluster.settle();
    cluster.answer(vec![Ok(json!({"Error": "no idea"}))]);
    assert_eq!(message(&cluster, "p"), "SchedulerError no idea");
}

#[test]
fn to_a_paused_attempt_the_world_stands_still() {
    let mut cluster = cluster(json!([{"urlPrefix": "http://e", "filterVerb": "f", "nodeCacheCapable": true}]), &["a", "b"]);
    cluster.create(pod("p", 100));
    cluster.settle();
    // The node goes and another pod comes while the extender thinks.
    cluster.set_node(node("c"));
    cluster.create(pod("q", 100));
    cluster.settle();
    assert_eq!((cluster.core.deferred(), cluster.core.world.snapshot.find("c")), (2, None));
    cluster.answer(vec![Ok(json!({"NodeNames": ["b"]}))]);
    assert_eq!(cluster.model.placed["p"].1, "b");
    let [(_, body)] = cluster.question().try_into().expect("the other pod is asked about");
    assert_eq!((&body["Pod"]["metadata"]["name"], body["NodeNames"].as_array().map(Vec::len)), (&json!("q"), Some(3)));
    // Nobody answers: at the limit the attempt goes on without.
    cluster.core.give_up_question(cluster.now);
    cluster.settle();
    assert_eq!(message(&cluster, "q"), "SchedulerError context deadline exceeded");
}

#[test]
fn an_extender_chooses_where_room_is_made() {
    let extender = json!([{"urlPrefix": "http://e", "preemptVerb": "preempt", "nodeCacheCapable": true}]);
    let mut cluster = cluster(extender, &["a", "b"]);
    for name in ["x", "y"] {
        cluster.create(pod(name, 3000));
    }
    cluster.settle();
    cluster.create(PodSpec { priority: 10, ..pod("high", 3000) });
    cluster.settle();
    let [(verb, body)] = cluster.question().try_into().expect("one is asked");
    assert_eq!(verb, "preempt");
    let nodes = body["NodeNameToMetaVictims"].as_object().expect("it is by node");
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["a", "b"]);
    cluster.answer(vec![Ok(json!({"NodeNameToMetaVictims": {"b": nodes["b"]}}))]);
    cluster.pass(3);
    assert_eq!(cluster.model.placed["high"].1, "b");
}

#[test]
fn an_extender_cannot_have_strangers_removed() {
    let mut cluster = cluster(json!([{"urlPrefix": "http://e", "preemptVerb": "preempt"}]), &["a"]);
    cluster.create(pod("low", 3000));
    cluster.settle();
    for (answer, expected) in [
        (
            json!({"a": {"Pods": [{"UID": "nobody"}]}}),
            "extender: http://e claims to preempt pod (UID: &{nobody}) on node: a, but the pod is not found on that node",
        ),
        (json!({"a": {"Pods": []}}), "expected at least one victim pod on node \"a\""),
        (json!({"z": {"Pods": []}}), "nodeinfo not found for node name \"z\""),
        (json!({}), "no candidate node for preemption"),
    ] {
        cluster.create(PodSpec { priority: 10, ..pod("high", 3000) });
        cluster.settle();
        cluster.answer(vec![Ok(json!({"NodeNameToMetaVictims": answer}))]);
        assert_eq!(message(&cluster, "high"), format!("Unschedulable 0/1 nodes are available: 1 Insufficient cpu. preemption: {expected}"));
        cluster.delete("high");
    }
    assert!(cluster.removed.is_empty());
}

/// What an extender does with a request: its path, its body, and the status and body of the answer.
type Serve = Arc<dyn Fn(&str, Value) -> (u16, Value) + Send + Sync>;

/// An extender over HTTP; its address.
async fn serve(answer: Serve) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, answer.clone()));
        }
    });
    format!("http://{address}/prefix/")
}

/// An extender over HTTPS with a certificate that vouches for itself; its address and the certificate.
async fn serve_securely(answer: Serve) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate is made");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it is a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions are known");
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).expect("key and certificate fit");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    converse(stream, answer).await;
                }
            });
        }
    });
    (format!("https://localhost:{port}"), made.cert.pem())
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, answer: Serve) {
    let mut stream = BufReader::new(stream);
    while let Some((path, body)) = request(&mut stream).await {
        let (status, body) = answer(&path, body);
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let sent = stream.write_all((head + &body).as_bytes()).await;
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<(String, Value)> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((path, serde_json::from_slice(&body).ok()?))
}

fn api_with_nodes(names: &[&str]) -> Api {
    let api = Api::default();
    for name in names {
        api.put(
            "nodes",
            json!({"metadata": {"name": name, "uid": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}}),
        );
    }
    api
}

fn waiting(name: &str) -> Value {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}});
    json!({"metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
        "spec": {"schedulerName": "default-scheduler", "containers": [container]}, "status": {"phase": "Pending"}})
}

fn start(api: &Api, extenders: Value) -> (Shutdown, tokio::task::JoinHandle<Result<(), scheduler::Error>>) {
    let shutdown = Shutdown::new();
    let running = tokio::spawn(scheduler::run(api.client(), config(extenders), shutdown.clone()));
    (shutdown, running)
}

fn node_of(api: &Api, pod: &str) -> Option<String> {
    api.get("pods", &format!("d/{pod}"))?["spec"]["nodeName"].as_str().map(str::to_owned)
}

fn told(api: &Api, pod: &str) -> Option<String> {
    let conditions = api.get("pods", &format!("d/{pod}"))?["status"]["conditions"].clone();
    conditions[0]["message"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_extenders_filter_score_and_bind() {
    let api = api_with_nodes(&["a", "b", "c"]);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, cluster) = (asked.clone(), api.clone());
    let url = serve(Arc::new(move |path, body| {
        seen.lock().push(path.to_owned());
        let kept = |name: &&Value| name["metadata"]["name"] != "a";
        match path {
            "/prefix/filter" => {
                let items: Vec<Value> = body["Nodes"]["items"].as_array().into_iter().flatten().filter(kept).cloned().collect();
                (200, json!({"Nodes": {"items": items}, "FailedNodes": {"a": "not a"}}))
            }
            "/prefix/score" => (200, json!([{"Host": "b", "Score": 1}, {"Host": "c", "Score": 10}])),
            _ => {
                let (name, node) = (body["PodName"].as_str().unwrap_or(""), &body["Node"]);
                let mut pod = cluster.get("pods", &format!("d/{name}")).expect("the pod is there");
                assert_eq!((&pod["metadata"]["uid"], &body["PodNamespace"]), (&body["PodUID"], &json!("d")));
                pod["spec"]["nodeName"] = node.clone();
                cluster.put("pods", pod);
                (200, json!({}))
            }
        }
    }))
    .await;
    let extender = json!({"urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "score", "bindVerb": "bind", "weight": 100});
    let (shutdown, running) = start(&api, json!([extender]));
    api.put("pods", waiting("p"));
    assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "c");
    let scheduled = |api: &Api| api.events().into_iter().find(|event| event["reason"] == "Scheduled");
    assert_eq!(api.until("the event", scheduled).await["note"], "Successfully assigned d/p to c");
    assert_eq!(*asked.lock(), ["/prefix/filter", "/prefix/score", "/prefix/bind"]);
    assert!(!api.asked().iter().any(|asked| asked.contains("binding")), "{:?}", api.asked());
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extenders_that_do_not_answer_are_told_of_or_done_without() {
    let broken = serve(Arc::new(|_, _| (500, json!({})))).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let quiet = silent.local_addr().expect("it is bound");
    let table = [
        (json!({"urlPrefix": broken}), format!("failed f with extender at URL {}/f, code 500", broken.trim_end_matches('/'))),
        (
            json!({"urlPrefix": format!("http://{address}")}),
            format!("Post \"http://{address}/f\": dial tcp {address}: connect: connection refused"),
        ),
        (
            json!({"urlPrefix": format!("http://{quiet}"), "httpTimeout": "50ms"}),
            format!("Post \"http://{quiet}/f\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
        ),
    ];
    for (mut extender, expected) in table {
        extender["filterVerb"] = json!("f");
        let api = api_with_nodes(&["a"]);
        let (shutdown, running) = start(&api, json!([extender]));
        api.put("pods", waiting("p"));
        assert_eq!(api.until("the condition", |api| told(api, "p")).await, expected);
        shutdown.cancel();
        running.await.expect("it does not panic").expect("it ends well");
        extender["ignorable"] = json!(true);
        let api = api_with_nodes(&["a"]);
        let (shutdown, running) = start(&api, json!([extender]));
        api.put("pods", waiting("p"));
        assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "a");
        shutdown.cancel();
        running.await.expect("it does not panic").expect("it ends well");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_https_an_extender_is_trusted_by_its_authority_or_blindly_if_there_is_none() {
    let (url, certificate) = serve_securely(Arc::new(|_, body| (200, json!({"NodeNames": body["NodeNames"]})))).await;
    // Bytes are base64 in JSON.
    let authority = json!(ByteString(certificate.into_bytes()));
    let (_, other) = serve_securely(Arc::new(|_, _| (200, json!({})))).await;
    let other = json!(ByteString(other.into_bytes()));
    for (tls, trusted) in [
        (json!({"tlsConfig": {"caData": authority, "serverName": "localhost"}}), true),
        (json!({"enableHTTPS": true}), true),
        (json!({"tlsConfig": {"insecure": true}}), true),
        (json!({"enableHTTPS": true, "tlsConfig": {"caData": other}}), false),
        (json!({}), false),
    ] {
        let mut extender = tls.clone();
        extender["urlPrefix"] = json!(url);
        extender["filterVerb"] = json!("filter");
        extender["nodeCacheCapable"] = json!(true);
        let api = api_with_nodes(&["a"]);
        let (shutdown, running) = start(&api, json!([extender]));
        api.put("pods", waiting("p"));
        if trusted {
            assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "a", "{tls}");
        } else {
            let told = api.until("the condition", |api| told(api, "p")).await;
            assert!(told.starts_with(&format!("Post \"{url}/filter\": ")), "{tls} {told}");
            assert_eq!(node_of(&api, "p"), None);
        }
        shutdown.cancel();
        running.await.expect("it does not panic").expect("it ends well");
    }
}
