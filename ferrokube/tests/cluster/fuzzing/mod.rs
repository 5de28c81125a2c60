//! Random tokens, certificates, headers and framing: nobody is taken for somebody else, nothing ends in a 5xx, and the server goes on within
//! its memory.
//!
//! Seeded: a failure names its seed. `FERROKUBE_CASES` multiplies the number of cases.

mod certificates;
mod framing;
mod headers;
mod streams;
mod tokens;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Cluster;
use crate::wire::{Answer, Way};

/// What the server may grow by in one of these tests.
const MAX_GROWTH_KIB: u64 = 300 * 1024;
/// What it may take to answer somebody else meanwhile.
const PROMPT: Duration = Duration::from_secs(10);
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// SplitMix64: as random as this needs to be, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("it is less than a usize")
    }

    fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Changes some bytes, takes some out and puts some in.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 if !bytes.is_empty() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => {
                    let length = self.below(20);
                    let more = self.bytes(length);
                    bytes.splice(at..at, more);
                }
            }
        }
    }
}

/// Seeds of so many cases.
fn seeds(cases: u64) -> impl Iterator<Item = u64> {
    let times: u64 = std::env::var("FERROKUBE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    0..cases * times
}

/// A server under attack: what must hold of it all the time.
struct Target {
    cluster: Cluster,
    client: kube::Client,
    way: Way,
    before_kib: u64,
    _data: tempfile::TempDir,
}

impl Target {
    async fn start(flags: &[&str]) -> Target {
        let data = tempfile::tempdir().expect("a folder");
        let cluster = Cluster::api_server_with(data.path(), flags);
        let client = cluster.impatient_client().await;
        let way = Way::to(&cluster.anonymous().await);
        let target = Target { before_kib: cluster.resident_kib(), cluster, client, way, _data: data };
        target.is_well("at the start").await;
        target
    }

    /// Sends the administrator's request.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.client.request(request.body(body).expect("a request")).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A service account's token.
    async fn robot(&self) -> String {
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        self.ask("POST", accounts, &json!({"metadata": {"name": "robot"}})).await;
        let answer = self.ask("POST", &format!("{accounts}/robot/token"), &json!({"spec": {}})).await;
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Others are served in time, and memory is bounded.
    async fn is_well(&self, when: &str) {
        let started = Instant::now();
        let served = tokio::time::timeout(PROMPT, self.ask("GET", "/api/v1/namespaces/default", &Value::Null)).await;
        assert!(served.is_ok(), "{when}: others wait for more than {:?}", started.elapsed());
        let grown = self.cluster.resident_kib().saturating_sub(self.before_kib);
        assert!(grown < MAX_GROWTH_KIB, "{when}: the server has grown by {grown} KiB");
    }
}

/// No answer may tell of a fault of the server, whatever was sent.
fn no_fault(case: &str, answer: &Answer) {
    let Answer { status, body } = answer;
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
    assert!(*status < 500, "{case}: {status} {text}");
}

/// Whom an answer to a SelfSubjectReview tells of; `None` for refusals.
fn named(case: &str, answer: &Answer) -> Option<Value> {
    no_fault(case, answer);
    let review: Value = (200..300).contains(&answer.status).then(|| serde_json::from_slice(&answer.body).expect("JSON"))?;
    Some(review["status"]["userInfo"].clone())
}
