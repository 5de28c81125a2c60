//! How connections and requests are served by what flags say: streams, goodbyes, and places for requests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use crate::process::Cluster;
use crate::wire::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS, frame, frames, get};
use crate::wire::{Connection, Way};

const QUIET: Duration = Duration::from_millis(500);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server that takes `master` for one of its masters, and `ann` and `bob` for users.
fn start(data: &Path, flags: &[&str]) -> Cluster {
    let tokens = data.join("tokens.csv");
    std::fs::write(&tokens, "master,admin,1,system:masters\nann,ann,2\nbob,bob,3\n").expect("a file");
    let tokens = tokens.display().to_string();
    Cluster::api_server_with(&data.join("data"), &[&["--token-auth-file", &tokens], flags].concat())
}

fn folder(data: &Path, name: &str) -> PathBuf {
    let path = data.join(name);
    std::fs::create_dir(&path).expect("a directory");
    path
}

async fn open(way: &Way) -> Connection {
    let mut connection = way.connect("h2").await;
    assert!(connection.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
    connection
}

/// What is sent over a new connection after so many requests for a path, all at once.
async fn answers(way: &Way, requests: u32, path: &str, token: &str) -> Vec<u8> {
    let mut connection = open(way).await;
    let all = (0..requests).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get(path, token)));
    assert!(connection.write(&all.collect::<Vec<u8>>()).await);
    connection.rest(QUIET).await
}

fn count(bytes: &[u8], kind: u8) -> usize {
    frames(bytes).iter().filter(|(found, _)| *found == kind).count()
}

/// SETTINGS_MAX_CONCURRENT_STREAMS, as a server greets with it.
fn streams(bytes: &[u8]) -> Option<u32> {
    let (_, settings) = frames(bytes).into_iter().find(|(kind, _)| *kind == SETTINGS)?;
    let setting = settings.chunks_exact(6).find(|setting| setting[..2] == [0, 3])?;
    Some(u32::from_be_bytes(setting[2..].try_into().ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_as_wide_as_told_and_some_answers_are_their_last() {
    const REQUESTS: u32 = 90;
    const CONNECTIONS: usize = 20;
    let data = tempfile::tempdir().expect("a directory");
    let plain = start(&folder(data.path(), "plain"), &[]);
    let way = Way::to(&plain.anonymous().await);
    let answered = answers(&way, REQUESTS, "/version", "master").await;
    assert_eq!((streams(&answered), count(&answered, HEADERS), count(&answered, GOAWAY)), (Some(100), REQUESTS as usize, 0));

    let flags = ["--goaway-chance=0.02", "--http2-max-streams-per-connection=91"];
    let told = start(&folder(data.path(), "told"), &flags);
    let way = Way::to(&told.anonymous().await);
    let mut goodbyes = 0;
    for _ in 0..CONNECTIONS {
        let answered = answers(&way, REQUESTS, "/version", "master").await;
        assert_eq!((streams(&answered), count(&answered, HEADERS)), (Some(91), REQUESTS as usize), "a goodbye takes nothing away");
        goodbyes += usize::from(count(&answered, GOAWAY) > 0);
    }
    // None of 1,800 answers is the last of its connection once in 10^15 runs.
    assert!(goodbyes > 0, "no connection was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_can_be_turned_off() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = start(data.path(), &["--disable-http2-serving"]);
    let way = Way::to(&cluster.anonymous().await);
    assert!(way.connect_as("h2", None).await.is_err(), "nobody agrees to HTTP/2");
    let mut connection = way.connect("http/1.1").await;
    connection.write(b"GET /version HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(connection.answer().await.expect("an answer").status, 200);
    let mut connection = way.connect("http/1.1").await;
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/version", "master"));
    connection.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).await;
    let answered = connection.rest(QUIET).await;
    let statuses: Vec<&[u8]> = frames(&answered).into_iter().filter(|(kind, _)| *kind == HEADERS).map(|(_, head)| head).collect();
    // `:status` is literal: none of those that the table has, such as 200.
    assert!(statuses.iter().all(|head| head.first().is_some_and(|first| *first & 0x80 == 0)), "nor without asking");
}

#[test]
fn chances_and_times_beyond_their_bounds_are_refused_in_upstreams_words() {
    for (flag, words) in [
        ("--goaway-chance=0.03", "--goaway-chance can not be less than 0 or greater than 0.02"),
        ("--goaway-chance=-0.01", "--goaway-chance can not be less than 0 or greater than 0.02"),
        ("--service-account-max-token-expiration=30m", "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ferrokube")).args(["apiserver", flag]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{flag}: {said}");
    }
}

async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.request(request.body(body).expect("a request")).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// More than a client's window of HTTP/2 takes, which `ann` and `bob` may read.
async fn fill(client: &Client) {
    for n in 0..4 {
        let map = json!({"metadata": {"name": format!("big-{n}")}, "data": {"x": "y".repeat(250_000)}});
        ask(client, "POST", MAPS, &map).await;
    }
    let binding = json!({
        "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": (["ann", "bob"].map(|name| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}))),
    });
    ask(client, "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &binding).await;
}

/// What somebody is answered who reads an object.
struct Attempt {
    status: u16,
    /// The uid of the priority level.
    level: Option<String>,
    retry_after: Option<String>,
}

async fn attempt(way: &Way, token: &str) -> Attempt {
    let mut connection = way.connect("http/1.1").await;
    let request = format!("GET {MAPS}/big-0 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
    assert!(connection.write(request.as_bytes()).await);
    let answer = String::from_utf8_lossy(&connection.rest(Duration::from_secs(5)).await).to_ascii_lowercase();
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:.200}"));
    let header = |name| answer.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()));
    Attempt { status, level: header("x-kubernetes-pf-prioritylevel-uid: "), retry_after: header("retry-after: ") }
}

/// Waits until an attempt is answered so.
async fn until(way: &Way, token: &str, status: u16, level: Option<&str>) -> Attempt {
    for _ in 0..100 {
        let found = attempt(way, token).await;
        if (found.status, found.level.as_deref()) == (status, level) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{token} is not answered {status} at the level {level:?}")
}

/// Lets `ann` ask for a list that she does not read, until `bob` is refused beside her. On a busy machine her time may be over before
/// he has asked, so that she has to ask again.
async fn unread(way: &Way, level: Option<&str>) -> (Connection, Attempt) {
    for _ in 0..ROUNDS {
        let mut unread = open(way).await;
        assert!(unread.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(MAPS, "ann"))).await);
        for _ in 0..ROUNDS {
            let found = attempt(way, "bob").await;
            if (found.status, found.level.as_deref()) == (429, level) {
                return (unread, found);
            }
        }
    }
    panic!("bob is not refused at the level {level:?}")
}

/// `ann` asks for a list and does not read it: nobody else in her place is served until her time is over, or she goes.
async fn an_unread_list_keeps_its_place(way: &Way, level: Option<&str>) {
    until(way, "ann", 200, level).await;
    let (connection, refused) = unread(way, level).await;
    assert!(refused.retry_after.is_some());
    assert_eq!(attempt(way, "master").await.status, 200, "masters are never refused");
    drop(connection);
    until(way, "bob", 200, level).await;

    let (unread, _) = unread(way, level).await;
    // The connection stands, but the request's time is over.
    until(way, "bob", 200, level).await;
    assert!(count(&unread.rest(QUIET).await, DATA) > 0, "it has been answered");
}

/// How often somebody tries.
const ROUNDS: usize = 10;
const SHORT: &str = "--request-timeout=3s";

#[tokio::test(flavor = "multi_thread")]
async fn without_fairness_requests_are_counted_until_their_answers_are_written() {
    let data = tempfile::tempdir().expect("a directory");
    let flags = ["--enable-priority-and-fairness=false", "--max-requests-inflight=1", "--max-mutating-requests-inflight=0", SHORT];
    let cluster = start(data.path(), &flags);
    let client = cluster.client().await;
    fill(&client).await;
    let way = Way::to(&cluster.anonymous().await);
    assert_eq!(attempt(&way, "master").await.level, None, "there are no levels");
    let mut connection = way.connect("http/1.1").await;
    let dump = b"GET /debug/api_priority_and_fairness/dump_queues HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer master\r\n\r\n";
    assert!(connection.write(dump).await);
    assert_eq!(connection.answer().await.expect("an answer").status, 404);
    an_unread_list_keeps_its_place(&way, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_is_kept_until_the_answer_is_written() {
    let data = tempfile::tempdir().expect("a directory");
    // One seat altogether, which every level rounds up to one of its own.
    let cluster = start(data.path(), &["--max-requests-inflight=1", "--max-mutating-requests-inflight=0", SHORT]);
    let client = cluster.client().await;
    fill(&client).await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
    }}});
    let level = ask(&client, "POST", &format!("{group}/prioritylevelconfigurations"), &level).await;
    let schema = json!({"metadata": {"name": "narrow"}, "spec": {
        "matchingPrecedence": 10, "priorityLevelConfiguration": {"name": "narrow"},
        "rules": [{
            "subjects": (["ann", "bob"].map(|name| json!({"kind": "User", "user": {"name": name}}))),
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        }],
    }});
    ask(&client, "POST", &format!("{group}/flowschemas"), &schema).await;
    let way = Way::to(&cluster.anonymous().await);
    an_unread_list_keeps_its_place(&way, level["metadata"]["uid"].as_str()).await;
}
