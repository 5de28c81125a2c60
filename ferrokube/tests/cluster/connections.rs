//! Connections that do nothing, little or half of it, and bytes that are no text: others are served meanwhile, and memory is bounded.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::process::Cluster;
use crate::wire::Way;

/// Idle connections in one run of the test; `FERROKUBE_CONNECTIONS` asks for more. Each is a file of the server's and one of the test's.
const IDLE: usize = 300;
/// What a connection may cost: the state of TLS, and buffers that begin small.
const MAX_IDLE_KIB: u64 = 64;
const SLOW: usize = 200;
const UNREAD: usize = 60;
/// Of an answer that nobody reads no more is made than fits into buffers, however long it is.
const MAX_UNREAD_KIB: u64 = 2 * 1024;
/// None of this takes a second on an idle machine.
const PROMPT: Duration = Duration::from_secs(20);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The way to a server, in HTTP/1.1.
struct Door(Way);

impl Door {
    async fn of(cluster: &Cluster) -> Door {
        Door(Way::to(&cluster.anonymous().await))
    }

    async fn open(&self) -> TlsStream<TcpStream> {
        self.0.open("http/1.1", None).await.expect("a connection")
    }

    /// Sends bytes and gives the first line of the answer and its body, which ends with the connection.
    async fn exchange(&self, request: &[u8]) -> (String, String) {
        let mut stream = self.open().await;
        stream.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        // A server that does not say goodbye has still answered.
        let _ = tokio::time::timeout(PROMPT, stream.read_to_end(&mut answer)).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer t\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A server that takes the token `t` for one of its masters.
fn start(data: &tempfile::TempDir) -> Cluster {
    let tokens = data.path().join("tokens.csv");
    std::fs::write(&tokens, "t,admin,admin,system:masters\n").expect("a file");
    Cluster::api_server_with(data.path(), &["--token-auth-file", &tokens.to_string_lossy()])
}

async fn is_served(cluster: &Cluster) {
    let started = Instant::now();
    let request = http::Request::get("/version").body(Vec::new()).expect("a request");
    cluster.client().await.request::<Value>(request).await.expect("an answer");
    assert!(started.elapsed() < PROMPT, "somebody else waited for {:?}", started.elapsed());
}

fn grown(cluster: &Cluster, before: u64) -> u64 {
    cluster.resident_kib().saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cost_little_and_keep_nobody_else_from_being_served() {
    let idle = std::env::var("FERROKUBE_CONNECTIONS").ok().and_then(|k| k.parse().ok()).unwrap_or(IDLE);
    let data = tempfile::tempdir().expect("a directory");
    let cluster = start(&data);
    let door = Door::of(&cluster).await;
    is_served(&cluster).await;
    let before = cluster.resident_kib();
    // Every other has been of use once.
    let open = async |n: usize| {
        let mut stream = door.open().await;
        if n.is_multiple_of(2) {
            stream.write_all(b"GET /version HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\n\r\n").await.expect("sent");
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("an answer");
        }
        stream
    };
    let mut held = Vec::with_capacity(idle);
    for n in 0..idle {
        held.push(tokio::time::timeout(PROMPT, open(n)).await.expect("it is let in"));
    }
    is_served(&cluster).await;
    let each = grown(&cluster, before) / idle as u64;
    assert!(each < MAX_IDLE_KIB, "an idle connection costs {each} KiB");
    drop(held);
    is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_slow_and_unread_connections_end_or_wait_in_bounded_memory() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = start(&data);
    let door = Door::of(&cluster).await;
    is_served(&cluster).await;

    // Half-closed: before a request, amid a head, amid a body. The server closes its half.
    let amid = request("POST", MAPS, "application/json", &[b' '; 100]);
    for sent in [&b""[..], &b"GET /version HTTP/1.1\r\nHost"[..], &amid[..amid.len() - 50]] {
        let mut stream = door.open().await;
        stream.write_all(sent).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PROMPT, stream.read_to_end(&mut rest)).await.expect("the server closes its half");
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "half a request is no request");
    }

    // Slow: bodies that come byte by byte. Nobody waits for them.
    let before = cluster.resident_kib();
    let begin = async |_: usize| {
        let mut stream = door.open().await;
        let head = format!(
            "POST {MAPS} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    };
    let mut slow: Vec<TlsStream<TcpStream>> = stream::iter(0..SLOW).map(begin).buffer_unordered(32).collect().await;
    for _ in 0..5 {
        for stream in &mut slow {
            stream.write_all(b" ").await.expect("sent");
        }
        is_served(&cluster).await;
    }
    assert!(grown(&cluster, before) / SLOW as u64 <= MAX_IDLE_KIB * 2, "slow bodies cost {} KiB", grown(&cluster, before));
    drop(slow);

    // Unread: answers of 10 MB that nobody takes.
    let client = cluster.client().await;
    for n in 0..20 {
        let object = json!({"metadata": {"name": format!("big-{n}")}, "data": {"x": "y".repeat(500_000)}});
        let create = http::Request::post(MAPS).header("content-type", "application/json").body(object.to_string().into_bytes());
        client.request::<Value>(create.expect("a request")).await.expect("created");
    }
    let before = cluster.resident_kib();
    let ask = async |_: usize| {
        let mut stream = door.open().await;
        stream.write_all(&request("GET", MAPS, "application/json", b"")).await.expect("sent");
        let mut byte = [0];
        tokio::time::timeout(PROMPT, stream.read_exact(&mut byte)).await.expect("an answer begins").expect("an answer");
        stream
    };
    let unread: Vec<TlsStream<TcpStream>> = stream::iter(0..UNREAD).map(ask).buffer_unordered(8).collect().await;
    is_served(&cluster).await;
    let each = grown(&cluster, before) / UNREAD as u64;
    assert!(each < MAX_UNREAD_KIB, "an answer that nobody reads costs {each} KiB");
    drop(unread);
    is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_refused_or_replaced_as_upstream_does() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = start(&data);
    let door = Door::of(&cluster).await;
    let map = |name: &[u8], value: &[u8]| [&b"{\"metadata\":{\"name\":\""[..], name, b"\"},\"data\":{\"a\":\"", value, b"\"}}"].concat();
    let (json, merge) = ("application/json", "application/merge-patch+json");
    let yaml = |value: &[u8]| [&b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {a: \""[..], value, b"\"}\n"].concat();
    let protobuf = b"k8s\0\n\x0f\n\x02v1\x12\x09ConfigMap\x12\x13\n\x09\n\x02pb\x1a\0\"\0*\x00\x12\x06\n\x01k\x12\x01\xff\x1a\0\"\0";
    let one = format!("{MAPS}/one");
    let in_path = |rest: &str| format!("{MAPS}{rest}");
    for (what, request, code) in [
        ("an escaped NUL in a value", request("POST", MAPS, json, &map(b"one", b"x\\u0000y")), 201),
        ("a NUL in a value", request("POST", MAPS, json, &map(b"two", b"x\0y")), 400),
        ("no UTF-8 in a value", request("POST", MAPS, json, &map(b"three", b"x\xff\xfey")), 201),
        ("half a surrogate", request("POST", MAPS, json, &map(b"four", b"\\ud800")), 201),
        ("a NUL in a name", request("POST", MAPS, json, &map(b"n\\u0000", b"")), 422),
        ("no UTF-8 in a name", request("POST", MAPS, json, &map(b"n\xff", b"")), 422),
        ("nothing but NULs", request("POST", MAPS, json, b"\0\0\0"), 400),
        ("a NUL after the object", request("POST", MAPS, json, &[&map(b"five", b"")[..], b"\0"].concat()), 400),
        ("a NUL in YAML", request("POST", MAPS, "application/yaml", &yaml(b"x\0y")), 400),
        ("an escaped NUL in YAML", request("POST", MAPS, "application/yaml", &yaml(b"x\\0y")), 201),
        ("no UTF-8 in YAML", request("POST", MAPS, "application/yaml", &yaml(b"\xff")), 400),
        ("no UTF-8 in protobuf", request("POST", MAPS, "application/vnd.kubernetes.protobuf", protobuf), 400),
        ("a NUL in a path", request("GET", &in_path("/a%00b"), json, b""), 404),
        ("no UTF-8 in a path", request("GET", &in_path("/a%ff"), json, b""), 404),
        ("no escape in a path", request("GET", &in_path("/a%zz"), json, b""), 400),
        ("a NUL in a selector", request("GET", &in_path("?labelSelector=a%00"), json, b""), 200),
        ("no UTF-8 in a selector", request("GET", &in_path("?labelSelector=a%3d%ff"), json, b""), 400),
        ("a NUL for a number", request("GET", &in_path("?limit=%00"), json, b""), 400),
        ("no escape in a query", request("GET", &in_path("?limit=%zz"), json, b""), 200),
        ("no UTF-8 for a token", request("GET", &in_path("?continue=%ff%00"), json, b""), 400),
        ("NULs in a patch", request("PATCH", &one, merge, b"{\"data\":{\"a\\u0000\":\"\\u0000\"}}"), 422),
        ("no UTF-8 in a patch", request("PATCH", &one, merge, b"{\"data\":{\"b\":\"\xff\"}}"), 200),
        (
            "no UTF-8 in an apply",
            request("PATCH", &format!("{one}?fieldManager=m"), "application/apply-patch+yaml", b"{\"data\":{\"b\":\"\xff\"}}"),
            400,
        ),
        ("a NUL for a manager", request("PATCH", &format!("{one}?fieldManager=%00"), merge, b"{}"), 422),
    ] {
        let (first, body) = door.exchange(&request).await;
        assert!(first.starts_with(&format!("HTTP/1.1 {code} ")), "{what}: {first} {body}");
    }
    let (_, stored) = door.exchange(&request("GET", &in_path("/three"), json, b"")).await;
    assert!(stored.contains("x\u{fffd}\u{fffd}y"), "{stored}");
    is_served(&cluster).await;
}
