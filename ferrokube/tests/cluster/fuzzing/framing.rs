//! HTTP/1.1: a request ends where it says, and only there.

use std::time::Duration;

use super::{PROMPT, Random, Target, no_fault, seeds};
use crate::wire::Connection;

const CASES: u64 = 300;
/// Connections that never finish what they say.
const SLOW: usize = 200;

/// What a server must not take for a request of its own: it is within something else, or after what is not HTTP.
const HIDDEN: &str = "GET /livez?hidden HTTP/1.1\r\nHost: a\r\n\r\n";

async fn statuses(mut connection: Connection) -> Vec<u16> {
    let mut all = Vec::new();
    while let Some(answer) = connection.answer().await {
        no_fault("framing", &answer);
        all.push(answer.status);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_where_it_says() {
    let target = Target::start(&[]).await;
    let post = |headers: &str, body: &str| format!("POST /version HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}");
    // Each with the number of requests that it is, at most; one that is unsound ends the connection with 400, or at once.
    let length = HIDDEN.len();
    for (case, sent, requests, sound) in [
        ("pipelining", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20), 20, true),
        ("a body with a request in it", post(&format!("Content-Length: {length}"), HIDDEN), 1, true),
        ("chunks with a request in them", post("Transfer-Encoding: chunked", &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n")), 1, true),
        ("extensions of chunks", post("Transfer-Encoding: chunked", "1;a=b;c=\"d\"\r\nx\r\n0;e\r\n\r\n"), 1, true),
        ("a length and chunks", post("Content-Length: 4\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{HIDDEN}")), 1, false),
        ("chunks and a length", post("Transfer-Encoding: chunked\r\nContent-Length: 4", &format!("0\r\n\r\n{HIDDEN}")), 1, false),
        ("two lengths", post(&format!("Content-Length: 0\r\nContent-Length: {length}"), HIDDEN), 1, false),
        ("a list of lengths", post(&format!("Content-Length: 0, {length}"), HIDDEN), 1, false),
        ("a signed length", post("Content-Length: +1", HIDDEN), 1, false),
        ("a negative length", post("Content-Length: -1", HIDDEN), 1, false),
        ("an unknown encoding", post("Transfer-Encoding: xchunked", HIDDEN), 1, false),
        ("chunks that are not last", post("Transfer-Encoding: chunked, identity", &format!("0\r\n\r\n{HIDDEN}")), 1, false),
        ("a space before the colon", post("Transfer-Encoding : chunked", &format!("0\r\n\r\n{HIDDEN}")), 1, false),
        ("a size that is none", post("Transfer-Encoding: chunked", &format!("xyz\r\n{HIDDEN}")), 1, false),
        ("a size that is too large", post("Transfer-Encoding: chunked", &format!("fffffffffffffffff\r\n{HIDDEN}")), 1, false),
        ("a chunk without an end", post("Transfer-Encoding: chunked", &format!("1\r\nxx0\r\n\r\n{HIDDEN}")), 1, false),
        ("a line that is folded", format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n{HIDDEN}"), 1, false),
        ("no HTTP", format!("hello\r\n\r\n{HIDDEN}"), 1, false),
        ("a NUL in the path", format!("GET /livez\0 HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}"), 1, false),
        ("another version", format!("GET /livez HTTP/3.9\r\nHost: a\r\n\r\n{HIDDEN}"), 1, false),
    ] {
        let mut connection = target.way.connect("http/1.1").await;
        connection.write(sent.as_bytes()).await;
        if sound {
            for i in 0..requests {
                let answer = connection.answer().await.unwrap_or_else(|| panic!("{case}: answer {i} does not come"));
                no_fault(case, &answer);
            }
        }
        connection.half_close().await;
        let more = statuses(connection).await;
        assert!(more.len() <= if sound { 0 } else { requests }, "{case} is more requests: {more:?}");
        assert!(!more.contains(&200), "{case} is served: {more:?}");
    }
    target.is_well("after framing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_nearly_a_request_do_no_harm() {
    let target = Target::start(&[]).await;
    let good = format!(
        "POST /api/v1/namespaces/default/configmaps?fieldManager=a HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{{\"a\"\r\n2\r\n:1\r\n0\r\n\r\n{HIDDEN}"
    );
    for seed in seeds(CASES) {
        let mut random = Random(seed);
        let mut bytes = good.clone().into_bytes();
        random.mutate(&mut bytes);
        let mut connection = target.way.connect("http/1.1").await;
        let cut = random.below(bytes.len());
        connection.write(&bytes[..cut]).await;
        connection.write(&bytes[cut..]).await;
        connection.half_close().await;
        while let Some(answer) = connection.answer().await {
            no_fault(&format!("bytes of seed {seed}"), &answer);
        }
    }
    target.is_well("after bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_never_finish_hold_nobody_up() {
    let target = Target::start(&[]).await;
    let mut waiting = Vec::new();
    for i in 0..SLOW {
        let mut connection = target.way.connect("http/1.1").await;
        let begun = match i % 4 {
            0 => "",
            1 => "GET /li",
            2 => "GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: ",
            _ => "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{",
        };
        connection.write(begun.as_bytes()).await;
        waiting.push(connection);
    }
    target.is_well("with slow ones").await;
    for connection in &mut waiting {
        connection.write(b"a").await;
    }
    let again = tokio::time::timeout(PROMPT, async {
        let mut connection = target.way.connect("http/1.1").await;
        connection.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        connection.rest(Duration::from_secs(5)).await
    });
    let answer = again.await.expect("it is served in time");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    drop(waiting);
    target.is_well("after slow ones").await;
}
