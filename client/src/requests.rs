//! A layer around the transport to the API server that counts and times requests: client-go's `rest_client_*`.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Body;
use tokio::time::Instant;
use tower::Service;

use crate::metrics::{Buckets, Counter, Family, Histogram, Told, counters, histograms};

static REQUESTS: Family<Counter> = counters(
    "rest_client_requests_total",
    "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
    &["code", "method", "host"],
);
static DURATION: Family<Histogram> = histograms(
    "rest_client_request_duration_seconds",
    "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
    &["verb", "host"],
    Buckets::Listed(&[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0]),
);
static SIZE: Family<Histogram> = histograms(
    "rest_client_request_size_bytes",
    "[ALPHA] Request size in bytes. Broken down by verb and host.",
    &["verb", "host"],
    Buckets::Listed(&[64.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0]),
);

/// What the requests of this process tell.
pub static METRICS: &[&dyn Told] = &[&REQUESTS, &DURATION, &SIZE];

/// A transport whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    /// Where it leads, as the label has it.
    host: Arc<str>,
}

impl<S> Counted<S> {
    pub fn new(inner: S, host: &str) -> Counted<S> {
        Counted { inner, host: Arc::from(host) }
    }
}

/// Makes transports counted ones; `host` and port are those of the API server.
#[derive(Clone)]
pub struct Counting {
    host: Arc<str>,
}

impl Counting {
    pub fn new(host: &str) -> Counting {
        Counting { host: Arc::from(host) }
    }
}

impl<S> tower::Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, host: self.host.clone() }
    }
}

/// Whether the answer goes on for as long as somebody reads it, so that its beginning is no measure.
fn is_watch(request: &Request<impl Body>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")))
}

/// A method as the label has it: what is unknown has no label of its own.
fn verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Counts a request; `code` is nothing if there was no answer, and `time` if it is none that counts.
fn note(verb: &str, host: &str, code: Option<StatusCode>, time: Option<Duration>, size: Option<u64>) {
    match code {
        Some(code) => REQUESTS.with(&[code.as_str(), verb, host]).inc(),
        None => REQUESTS.with(&["<error>", verb, host]).inc(),
    }
    if let Some(time) = time {
        DURATION.with(&[verb, host]).observe_time(time);
    }
    if let Some(size) = size {
        SIZE.with(&[verb, host]).observe(size as f64);
    }
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (verb, host) = (verb(request.method()), self.host.clone());
        let is_timed = !is_watch(&request);
        let size = request.body().size_hint().exact();
        let started = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().ok().map(|response| response.status());
            note(verb, &host, code, is_timed.then(|| started.elapsed()), size);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_what_became_of_them() {
        let answer = |request: Request<Full<bytes::Bytes>>| async move {
            match request.uri().path() {
                "/none" => Err("no answer"),
                "/gone" => Ok(Response::builder().status(404).body(()).unwrap()),
                _ => Ok(Response::new(())),
            }
        };
        let transport = Counted::new(tower::service_fn(answer), "test.requests:1");
        for (method, uri) in [("GET", "/a"), ("GET", "/gone"), ("POST", "/none"), ("GET", "/a?x=y&watch=true"), ("PURGE", "/a")] {
            let request = Request::builder().method(method).uri(uri).body(Full::from("four")).unwrap();
            // What becomes of it is counted.
            let _ = transport.clone().oneshot(request).await;
        }
        let requests = |code, method| REQUESTS.with(&[code, method, "test.requests:1"]).get();
        assert_eq!((requests("200", "GET"), requests("404", "GET")), (2, 1));
        assert_eq!((requests("<error>", "POST"), requests("200", "other")), (1, 1));
        let timed = DURATION.with(&["GET", "test.requests:1"]).count();
        assert_eq!((timed, SIZE.with(&["GET", "test.requests:1"]).sum()), (2, 12.0));
    }
}
