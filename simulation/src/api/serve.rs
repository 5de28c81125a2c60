//! The way of a request to the server and of its answer back, with all that may go wrong on it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::core::{Assumed, Core, Deletion, Part, listed};
use super::failure::{Failure, Result};
use super::kinds::{self, KindId};
use super::request::Request;
use super::state::{Author, Key};
use super::watch::Watch;
use super::{Api, Life, discovery, eviction};
use crate::faults::Fate;
use crate::object;

type Answer = std::result::Result<Response<UnsyncBoxBody<Bytes, io::Error>>, io::Error>;

pub fn client(api: Api, life: Arc<Life>) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (api, life) = (api.clone(), life.clone());
        async move { api.serve(life, request).await }
    });
    kube::Client::new(service, "default")
}

fn answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).map_err(io::Error::other)
}

fn lost() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

/// The rest of a request that is not in its path.
struct Posted {
    body: Value,
    patch_type: String,
}

impl Api {
    async fn serve(self, life: Arc<Life>, request: http::Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let bytes = body.collect_bytes().await.map_err(io::Error::other)?;
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        let patch_type = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        let request = Request::parse(&head.method, &head.uri);
        let journey = {
            let mut core = self.core();
            core.sent(&request, &body);
            core.journey(&request)
        };
        sleep(journey.there).await;
        let cut_off = life.cut_off_until();
        if let Some(until) = cut_off {
            sleep_until(until.min(Instant::now() + journey.patience)).await;
        }
        if life.is_over() {
            std::future::pending::<()>().await;
        }
        if cut_off.is_some() {
            return Err(lost());
        }
        if request.asks("watch") {
            return self.watch(&life, &request, &journey.fate);
        }
        let done = self.arrive(&life, &request, Posted { body, patch_type }, &journey.fate);
        sleep(journey.back).await;
        if life.is_over() {
            std::future::pending::<()>().await;
        }
        match done {
            Ok(Ok(body)) => answer(if request.method == Method::POST { 201 } else { 200 }, &body),
            Ok(Err(failure)) => answer(failure.code, &failure.status()),
            Err(error) => Err(error),
        }
    }

    fn watch(&self, life: &Arc<Life>, request: &Request, fate: &Fate) -> Answer {
        let (Some(kind), Fate::Fair) = (request.kind, fate) else {
            let failure = if request.kind.is_none() { Failure::not_found(&request.path) } else { Failure::too_many_requests("later") };
            return answer(failure.code, &failure.status());
        };
        let lines = Watch::open(self, life, kind, request).lines();
        let body = StreamBody::new(lines.map(|line| line.map(Frame::data))).boxed_unsync();
        Response::builder().status(200).header("content-type", "application/json").body(body).map_err(io::Error::other)
    }

    /// The request is at the server: it is done or not, and its answer is the true one or not.
    fn arrive(&self, life: &Life, request: &Request, posted: Posted, fate: &Fate) -> std::result::Result<Result<Value>, io::Error> {
        let mut core = self.core();
        let by = Author { name: life.name.clone(), is_denied: matches!(fate, Fate::Denied(_) | Fate::Unanswered) };
        let done = match fate {
            Fate::Refused(failure) => Err(failure.clone()),
            Fate::Lost => Err(Failure::timeout()),
            _ => core.handle(&by, request, posted),
        };
        let code = done.as_ref().map_or_else(|failure| failure.code, |_| 200);
        let told = match fate {
            Fate::Fair => String::new(),
            other => format!(" but {other:?}"),
        };
        let at = core.start.elapsed();
        let line = format!("{} {} {} {code}{told}", life.name, request.method, request.path);
        if request.is_write() && core.is_telling(request) {
            core.trace.note(at, &line);
            core.last_write = Some((Instant::now(), line));
        } else {
            core.trace.count(at, &line);
        }
        match fate {
            Fate::Denied(failure) => Ok(done.and(Err(failure.clone()))),
            Fate::Unanswered | Fate::Lost => Err(lost()),
            Fate::Fair | Fate::Refused(_) => Ok(done),
        }
    }
}

/// The node on which the scheduler takes a pod to be when it sends this: it asks for the binding, or, for a pod whose volumes or claims
/// have to be made ready first, it tells where the pod will be. Where it only makes room it tells of the room that there was not, too.
fn destination<'a>(request: &Request, body: &'a Value) -> Option<&'a str> {
    if request.kind != Some(kinds::POD) {
        return None;
    }
    let node = match request.part.as_str() {
        "binding" => object::text(body, "/target/name"),
        "status" if request.method == Method::PATCH && body.pointer("/status/conditions").is_none() => {
            object::text(body, "/status/nominatedNodeName")
        }
        _ => "",
    };
    Some(node).filter(|node| !node.is_empty())
}

impl Core {
    /// A request has left whoever asks.
    fn sent(&mut self, request: &Request, body: &Value) {
        let Some(node) = destination(request, body) else { return };
        let uid = object::text(body, "/metadata/uid");
        let pod = Assumed { namespace: &request.namespace, name: &request.name, uid, node };
        for listener in &mut self.listeners {
            listener.assumed(&self.state, &pod);
        }
    }

    /// Whether a write says that a component is not at rest: renewals of leases and events do not.
    fn is_telling(&self, request: &Request) -> bool {
        !matches!(request.kind, Some(kinds::LEASE | kinds::EVENT | kinds::SERIES_EVENT))
    }

    fn handle(&mut self, by: &Author, request: &Request, posted: Posted) -> Result<Value> {
        match request.path.as_str() {
            "/api" => return Ok(discovery::groups(true)),
            "/apis" => return Ok(discovery::groups(false)),
            _ => {}
        }
        let kind = request.kind.ok_or_else(|| Failure::not_found(&request.path))?;
        let key = Key::new(kind, &request.namespace, &request.name);
        let part = match request.part.as_str() {
            "" => Part::Main,
            "status" => Part::Status,
            "finalize" => Part::Finalize,
            "binding" => return self.bind(by, &request.namespace, &posted.body).map(|()| success()),
            "eviction" => return eviction::evict(self, by, &request.namespace, &request.name).map(|()| success()),
            "scale" if request.method == Method::GET => return self.scale(&key),
            _ => return Err(Failure::not_found(&request.path)),
        };
        match (&request.method, request.name.is_empty()) {
            (&Method::GET, true) => Ok(listed(kind, self.state.revision(), self.state.list(kind, &request.namespace))),
            (&Method::GET, false) => self.get(kind, &key.namespace, &key.name).map(|object| (*object).clone()),
            (&Method::POST, true) => self.create(by, kind, &request.namespace, posted.body).map(|object| (*object).clone()),
            (&Method::PUT, false) => self.update(by, &key, part, posted.body).map(|object| (*object).clone()),
            (&Method::PATCH, false) => {
                let strategic = match posted.patch_type.as_str() {
                    // Nobody else owns what is applied here, so that it is only merged.
                    "application/strategic-merge-patch+json" | "application/apply-patch+yaml" => true,
                    "application/merge-patch+json" => false,
                    _ => return Err(Failure::unsupported_media_type()),
                };
                self.patch(by, &key, part, posted.body, strategic).map(|object| (*object).clone())
            }
            (&Method::DELETE, false) => {
                let (object, is_gone) = self.delete(by, &key, &deletion(&posted.body))?;
                Ok(if is_gone { success() } else { (*object).clone() })
            }
            (&Method::DELETE, true) => self.delete_all(by, kind, &request.namespace, &deletion(&posted.body)),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    fn delete_all(&mut self, by: &Author, kind: KindId, namespace: &str, how: &Deletion) -> Result<Value> {
        let all: Vec<String> = self.state.list(kind, namespace).map(|object| object::name(object).to_owned()).collect();
        for name in all {
            self.delete(by, &Key::new(kind, namespace, &name), how)?;
        }
        Ok(success())
    }

    fn scale(&self, key: &Key) -> Result<Value> {
        let object = self.get(key.kind, &key.namespace, &key.name)?;
        if object["spec"]["replicas"].is_null() {
            return Err(Failure::not_found(&key.name));
        }
        let metadata = json!({"name": key.name, "namespace": key.namespace, "uid": object["metadata"]["uid"]});
        let (spec, status) =
            (json!({"replicas": object["spec"]["replicas"]}), json!({"replicas": object::number(&object, "/status/replicas")}));
        Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}))
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

fn deletion(options: &Value) -> Deletion {
    let said = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Deletion {
        grace_seconds: options["gracePeriodSeconds"].as_i64(),
        propagation: said("/propagationPolicy"),
        uid: said("/preconditions/uid"),
        resource_version: said("/preconditions/resourceVersion"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_begin_to_put_a_pod_on_a_node_say_on_which() {
        let pod = "/api/v1/namespaces/d/pods/p";
        let told = |method: Method, path: String, body: Value| {
            let request = Request::parse(&method, &path.parse().unwrap());
            destination(&request, &body).map(str::to_owned)
        };
        let binding = json!({"metadata": {"name": "p", "uid": "u"}, "target": {"kind": "Node", "name": "n"}});
        assert_eq!(told(Method::POST, format!("{pod}/binding"), binding).as_deref(), Some("n"));
        let status = |status: Value| told(Method::PATCH, format!("{pod}/status"), json!({"status": status}));
        assert_eq!(status(json!({"nominatedNodeName": "n"})).as_deref(), Some("n"));
        // Room is made for it, and it may go elsewhere.
        assert_eq!(status(json!({"nominatedNodeName": "n", "conditions": [{"type": "PodScheduled"}]})), None);
        assert_eq!(status(json!({"nominatedNodeName": null})), None);
        assert_eq!(told(Method::GET, format!("{pod}/status"), Value::Null), None);
        assert_eq!(told(Method::PATCH, "/api/v1/nodes/n/status".to_owned(), json!({"status": {"nominatedNodeName": "n"}})), None);
    }
}
