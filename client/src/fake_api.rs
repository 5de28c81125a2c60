//! An API server for tests of this crate: a function that answers requests, and a record of what was asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// A request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Value,
}

/// What the fake says to it.
pub enum Answer {
    Status(u16, Value),
    Unreachable,
}

impl Answer {
    pub fn ok(object: Value) -> Answer {
        Answer::Status(200, object)
    }

    fn failure(code: u16, reason: &str) -> Answer {
        let status =
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code });
        Answer::Status(code, status)
    }

    pub fn not_found() -> Answer {
        Answer::failure(404, "NotFound")
    }

    pub fn forbidden() -> Answer {
        Answer::failure(403, "Forbidden")
    }

    pub fn conflict() -> Answer {
        Answer::failure(409, "Conflict")
    }

    pub fn unreachable() -> Answer {
        Answer::Unreachable
    }
}

type Respond = dyn Fn(&Seen) -> Answer + Send + Sync;

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct FakeApi {
    respond: Arc<Respond>,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: watch::Sender<usize>,
}

impl FakeApi {
    pub fn new(respond: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> FakeApi {
        FakeApi { respond: Arc::new(respond), seen: Arc::default(), count: watch::Sender::new(0) }
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service =
            tower::service_fn(move |request: Request<Body>| -> BoxFuture<'static, Result<Response<Full<Bytes>>, std::io::Error>> {
                let api = api.clone();
                Box::pin(async move { api.answer(request).await })
            });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        let query = head.uri.query().unwrap_or_default().to_owned();
        let seen = Seen { method: head.method.to_string(), path: head.uri.path().to_owned(), query, body };
        let answer = (self.respond)(&seen);
        self.seen.lock().push(seen);
        self.count.send_modify(|count| *count += 1);
        match answer {
            Answer::Unreachable => Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
            Answer::Status(code, value) => {
                let response = Response::builder().status(code).body(Full::new(Bytes::from(value.to_string())));
                response.map_err(std::io::Error::other)
            }
        }
    }

    /// Everything asked so far, once it is so much.
    pub async fn wait_for(&self, count: usize) -> Vec<Seen> {
        let mut counts = self.count.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(3600), counts.wait_for(|c| *c >= count)).await;
        waited.expect("so many requests come").expect("the sender lives");
        self.seen.lock().clone()
    }
}
