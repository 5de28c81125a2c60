//! Headers: none of them makes one who shows nothing, or a robot, somebody else.

use serde_json::json;

use super::{Random, Target, WHO, no_fault, seeds};

const CASES: u64 = 300;
const ANSWERED_BY_NOBODY: &str = "/api/v1/namespaces/kube-system/secrets";

const NAMES: [&str; 32] = [
    "Impersonate-User",
    "Impersonate-Group",
    "Impersonate-Uid",
    "Impersonate-Extra-A",
    "Impersonate-Extra-%",
    "Impersonate-Extra-",
    "X-Remote-User",
    "X-Remote-Group",
    "X-Remote-Extra-A",
    "X-Remote-Uid",
    "X-Forwarded-For",
    "X-Forwarded-Uri",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "Authorization",
    "Proxy-Authorization",
    "Audit-Id",
    "Content-Length",
    "Transfer-Encoding",
    "Content-Encoding",
    "Content-Type",
    "Accept",
    "Accept-Encoding",
    "Connection",
    "Upgrade",
    "Expect",
    "Host",
    "Sec-WebSocket-Protocol",
    "X-HTTP-Method-Override",
    "User-Agent",
    "Trailer",
    "Cookie",
];

fn value(random: &mut Random) -> Vec<u8> {
    const VALUES: [&str; 24] = [
        "system:admin",
        "system:masters",
        "",
        " ",
        "-1",
        "0",
        "18446744073709551616",
        "0x10",
        "1, 1",
        "chunked",
        "chunked, chunked",
        "identity",
        "gzip",
        "close, X-Remote-User, Authorization",
        "Upgrade",
        "websocket",
        "h2c",
        "100-continue",
        "application/json;as=Table;g=meta.k8s.io;v=v1,*/*;q=\u{7f}",
        "application/vnd.kubernetes.protobuf",
        "base64url.bearer.authorization.k8s.io.AAAA",
        "Bearer ",
        "Basic c3lzdGVtOmFkbWluOg==",
        "a\r\n X-Remote-User: system:admin",
    ];
    match random.below(8) {
        0 => {
            let length = random.below(40);
            random.bytes(length)
        }
        1 => vec![b'a' + random.below(26) as u8; random.below(100_000)],
        _ => random.one_of(&VALUES).as_bytes().to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_makes_somebody_else_of_one() {
    let target = Target::start(&[]).await;
    let robot = target.robot().await;
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    for seed in seeds(CASES) {
        let mut random = Random(seed);
        let case = format!("headers of seed {seed}");
        let is_robot = random.below(2) == 0;
        let mut headers = if is_robot { format!("Authorization: Bearer {robot}\r\n").into_bytes() } else { Vec::new() };
        for _ in 0..=random.below(4) {
            headers.extend_from_slice(random.one_of(&NAMES).as_bytes());
            headers.extend_from_slice(random.one_of(&[": ", ":", " : ", ":\t", "\0: "]).as_bytes());
            headers.extend_from_slice(&value(&mut random));
            headers.extend_from_slice(random.one_of(&["\r\n", "\r\n", "\r\n", "\n", "\r\n folded\r\n"]).as_bytes());
        }
        let (method, path, length) = if is_robot { ("POST", WHO, body.len()) } else { ("GET", ANSWERED_BY_NOBODY, 0) };
        let start = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        let mut connection = target.way.connect("http/1.1").await;
        connection.write(&[start.as_bytes(), &headers, b"\r\n", if is_robot { body.as_bytes() } else { b"" }].concat()).await;
        connection.half_close().await;
        let Some(answer) = connection.answer().await else { continue };
        let told = String::from_utf8_lossy(&headers).into_owned();
        no_fault(&case, &answer);
        if is_robot && answer.status < 300 {
            // It may have asked for another form than JSON, but names are text in all.
            let review = String::from_utf8_lossy(&answer.body);
            assert!(review.contains("system:serviceaccount:default:robot"), "{case}: {told}: {review}");
            assert!(!review.contains("system:admin") && !review.contains("masters"), "{case}: {told}: {review}");
        } else {
            assert!(answer.status >= 400, "{case}: {}: {told}", answer.status);
        }
    }
    target.is_well("after headers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_measure_are_refused() {
    let target = Target::start(&[]).await;
    for (case, headers) in [
        ("a header of a megabyte", format!("X-A: {}\r\n", "a".repeat(1 << 20))),
        ("a name of a megabyte", format!("{}: a\r\n", "a".repeat(1 << 20))),
        ("ten thousand headers", (0..10_000).map(|i| format!("X-{i}: a\r\n")).collect()),
        ("ten thousand groups", (0..10_000).map(|_| "Impersonate-Group: g\r\n").collect()),
        ("a path of a megabyte", format!("\r\nGET /{} HTTP/1.1\r\nHost: a\r\n", "a".repeat(1 << 20))),
    ] {
        let mut connection = target.way.connect("http/1.1").await;
        let request = format!("GET /livez HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        connection.write(request.as_bytes()).await;
        // Of the last, the first request is good.
        if case.starts_with("a path") {
            assert_eq!(connection.answer().await.map(|answer| answer.status), Some(200));
        }
        if let Some(answer) = connection.answer().await {
            assert!((400..500).contains(&answer.status), "{case}: {}", answer.status);
        }
        target.is_well(case).await;
    }
}
