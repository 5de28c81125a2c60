//! An API server as far as a scheduler needs one: it holds objects, streams their changes, and takes bindings, status patches and deletions.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Events that wait for a watcher.
const WATCH: usize = 4096;

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, mpsc::Sender<Bytes>)>,
    revision: u64,
    /// What was asked that changes something, as `METHOD path`.
    pub asked: Vec<String>,
    events: Vec<Value>,
    /// Bindings are done, but whoever asks is told that they failed, and nobody hears of them.
    denies_bindings: bool,
    /// Bindings are not done.
    refuses_bindings: bool,
}

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub struct Api(Arc<Mutex<State>>);

fn name_of(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or("").to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    Bytes::from(text)
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).expect("the parts are valid")
}

fn not_found() -> Answer {
    answer(
        404,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404}),
    )
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match (value, key.as_str()) {
                    (Value::Null, _) => drop(target.remove(key)),
                    // Conditions are one of each type.
                    (Value::Array(new), "conditions") => {
                        let old = target.entry(key.clone()).or_insert(json!([]));
                        let Some(old) = old.as_array_mut() else { continue };
                        old.retain(|known| !new.iter().any(|n| n["type"] == known["type"]));
                        old.extend(new.iter().cloned());
                    }
                    _ => merge(target.entry(key.clone()).or_insert(Value::Null), value),
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

impl State {
    fn put(&mut self, resource: &str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let known = self.objects.insert((resource.to_owned(), name_of(&object)), object.clone());
        self.tell(resource, if known.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    fn remove(&mut self, resource: &str, name: &str) -> Option<Value> {
        let object = self.objects.remove(&(resource.to_owned(), name.to_owned()))?;
        self.tell(resource, "DELETED", &object);
        Some(object)
    }

    fn tell(&mut self, resource: &str, kind: &str, object: &Value) {
        let line = line(kind, object);
        self.watchers.retain(|(watched, sink)| watched != resource || sink.try_send(line.clone()).is_ok());
    }
}

impl Api {
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn put(&self, resource: &str, object: Value) {
        self.0.lock().put(resource, object);
    }

    pub fn delete(&self, resource: &str, name: &str) {
        self.0.lock().remove(resource, name);
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.0.lock().objects.get(&(resource.to_owned(), name.to_owned())).cloned()
    }

    /// From now on bindings are done, told to have failed, and seen by nobody who watches.
    pub fn deny_bindings(&self) {
        self.0.lock().denies_bindings = true;
    }

    /// From now on nothing is bound.
    pub fn refuse_bindings(&self) {
        self.0.lock().refuses_bindings = true;
    }

    pub fn asked(&self) -> Vec<String> {
        self.0.lock().asked.clone()
    }

    pub fn events(&self) -> Vec<Value> {
        self.0.lock().events.clone()
    }

    /// Waits until something holds; what it gives.
    pub async fn until<T>(&self, what: &str, holds: impl Fn(&Api) -> Option<T>) -> T {
        for _ in 0..1000 {
            if let Some(value) = holds(self) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what} never came; asked were {:?}", self.asked());
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or("");
        if query.contains("watch=true") {
            return self.watch(path.rsplit('/').next().unwrap_or(""));
        }
        let mut state = self.0.lock();
        if parts.method != Method::GET {
            let asked = format!("{} {path}", parts.method);
            state.asked.push(asked);
        }
        // After the version: maybe a namespace, then resource, name and subresource.
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').skip(if path.starts_with("/apis") { 3 } else { 2 }).collect();
        let (namespace, rest) = match segments.as_slice() {
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, name, sub) = match rest {
            [resource] => (*resource, "", ""),
            [resource, name] => (*resource, *name, ""),
            [resource, name, sub] => (*resource, *name, *sub),
            _ => return not_found(),
        };
        let key = format!("{namespace}/{name}");
        if resource == "events" {
            state.events.push(body.clone());
            return answer(201, &body);
        }
        if (&parts.method, name) == (&Method::POST, "") {
            let mut made = body;
            state.revision += 1;
            let number = state.revision;
            if let Some(prefix) = made["metadata"]["generateName"].as_str().map(str::to_owned) {
                made["metadata"]["name"] = json!(format!("{prefix}{number}"));
            }
            made["metadata"]["uid"] = json!(format!("uid-{number}"));
            return answer(201, &state.put(resource, made));
        }
        let Some(mut known) = state.objects.get(&(resource.to_owned(), key.clone())).cloned() else { return not_found() };
        match (&parts.method, sub) {
            (&Method::GET, _) => answer(200, &known),
            (&Method::POST, "binding") if state.refuses_bindings => {
                let status =
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "message": "no", "code": 403});
                answer(403, &status)
            }
            (&Method::POST, "binding") => {
                known["spec"]["nodeName"] = body["target"]["name"].clone();
                if state.denies_bindings {
                    state.objects.insert((resource.to_owned(), key), known);
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Timeout", "message": "late", "code": 504});
                    return answer(504, &status);
                }
                state.put(resource, known);
                answer(201, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}))
            }
            (&Method::PATCH, "status") => {
                merge(&mut known, &body);
                answer(200, &state.put(resource, known))
            }
            (&Method::PUT, "status") => {
                known["status"] = body["status"].clone();
                answer(200, &state.put(resource, known))
            }
            (&Method::PUT, "") => answer(200, &state.put(resource, body)),
            (&Method::DELETE, "") => match state.remove(resource, &key) {
                Some(object) => answer(200, &object),
                None => not_found(),
            },
            _ => not_found(),
        }
    }

    fn watch(&self, resource: &str) -> Answer {
        let (sink, source) = mpsc::channel(WATCH);
        let mut state = self.0.lock();
        for ((_, _), object) in state.objects.iter().filter(|((of, _), _)| of == resource) {
            sink.try_send(line("ADDED", object)).expect("there is room for what the tests put");
        }
        let end = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": {"resourceVersion": state.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}});
        sink.try_send(line("BOOKMARK", &end)).expect("there is room");
        state.watchers.push((resource.to_owned(), sink));
        let lines = futures::stream::unfold(source, |mut source| async move { Some((source.recv().await?, source)) });
        let body = StreamBody::new(lines.map(|line| Ok(http_body::Frame::data(line)))).boxed_unsync();
        Response::builder().status(200).header("content-type", "application/json").body(body).expect("the parts are valid")
    }
}
