//! A small API server in memory, without sockets: objects of any kind, selectors by field, watches, strategic merge patches, and the
//! graceful deletion of pods. Just what a kubelet needs of one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apimachinery::patch::strategic;
use apimachinery::schema;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

type Key = (String, String, String);
type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

struct Change {
    revision: u64,
    resource: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    log: Vec<Change>,
    revision: u64,
}

/// The server. Clones are the same.
#[derive(Clone, Default)]
pub struct Server {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// What a path names.
struct Target {
    /// `core` has no group.
    resource: String,
    group_version: (String, String),
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn parse(path: &str) -> Option<Target> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let group_version = match parts.next()?.as_str() {
            "api" => (String::new(), parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut rest: Vec<String> = parts.collect();
        let mut namespace = String::new();
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = rest[1].clone();
            rest.drain(..2);
        }
        let mut rest = rest.into_iter();
        Some(Target {
            resource: rest.next()?,
            group_version,
            namespace,
            name: rest.next().unwrap_or_default(),
            subresource: rest.next().unwrap_or_default(),
        })
    }

    fn key(&self) -> Key {
        (self.resource.clone(), self.namespace.clone(), self.name.clone())
    }

    fn kind(&self) -> &'static str {
        match self.resource.as_str() {
            "pods" => "Pod",
            "nodes" => "Node",
            "leases" => "Lease",
            "events" => "Event",
            "services" => "Service",
            "runtimeclasses" => "RuntimeClass",
            "configmaps" => "ConfigMap",
            "secrets" => "Secret",
            "certificatesigningrequests" => "CertificateSigningRequest",
            _ => "Unknown",
        }
    }
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| text.replace("%3D", "=").replace("%2C", ",").replace('+', " ");
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), decoded(value))).collect()
}

fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter_map(|term| term.split_once('=')).all(|(field, wanted)| {
        let pointer = format!("/{}", field.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str).unwrap_or("") == wanted.trim_start_matches('=')
    })
}

fn whole(status: StatusCode, value: &Value) -> Answer {
    let frame = Ok(Frame::data(Bytes::from(value.to_string())));
    let body = StreamBody::new(futures::stream::once(async { frame }).boxed());
    Response::builder().status(status).header("content-type", "application/json").body(body).expect("it is well formed")
}

fn failure(status: StatusCode, reason: &str) -> Answer {
    let code = status.as_u16();
    whole(status, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}))
}

impl Server {
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    fn put(&self, state: &mut State, key: Key, mut object: Value, kind: &'static str) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if kind == "DELETED" {
            state.objects.remove(&key);
        } else {
            state.objects.insert(key.clone(), object.clone());
        }
        state.log.push(Change { revision: state.revision, resource: key.0, kind, object: object.clone() });
        self.changed.notify_waiters();
        object
    }

    /// All objects of a resource.
    pub fn list(&self, resource: &str) -> Vec<Value> {
        self.state.lock().objects.iter().filter(|((of, ..), _)| of == resource).map(|(_, object)| object.clone()).collect()
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    async fn handle(self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let Some(target) = Target::parse(head.uri.path()) else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        let query = parameters(head.uri.query().unwrap_or(""));
        let sent = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match head.method {
            Method::GET if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") => self.watch(&target, &query),
            Method::GET if target.name.is_empty() => self.listed(&target, &query),
            Method::GET => match self.state.lock().objects.get(&target.key()) {
                Some(object) => whole(StatusCode::OK, object),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::POST => self.create(target, sent),
            Method::PUT => self.change(&target, |_| sent.clone()),
            Method::PATCH => self.patch(&target, sent),
            Method::DELETE => self.delete(&target, &sent),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn listed(&self, target: &Target, query: &BTreeMap<String, String>) -> Answer {
        let state = self.state.lock();
        let selector = query.get("fieldSelector").map_or("", String::as_str);
        let of = |(key, object): &(&Key, &Value)| key.0 == target.resource && selected(object, selector);
        let items: Vec<&Value> = state.objects.iter().filter(of).map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": state.revision.to_string()});
        let (group, version) = &target.group_version;
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let kind = format!("{}List", target.kind());
        whole(StatusCode::OK, &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}))
    }

    fn watch(&self, target: &Target, query: &BTreeMap<String, String>) -> Answer {
        let from: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let selector = query.get("fieldSelector").cloned().unwrap_or_default();
        let (first, from) = match query.get("sendInitialEvents").is_some_and(|send| send == "true") {
            true => self.initial(target, &selector),
            false => (String::new(), from),
        };
        let (server, resource) = (self.clone(), target.resource.clone());
        let next = move |from: u64| {
            let (server, resource, selector) = (server.clone(), resource.clone(), selector.clone());
            async move {
                loop {
                    let waiting = server.changed.notified();
                    tokio::pin!(waiting);
                    waiting.as_mut().enable();
                    let (lines, last) = {
                        let state = server.state.lock();
                        let news = state.log.iter().filter(|change| change.revision > from);
                        let ours = news.filter(|change| change.resource == resource && selected(&change.object, &selector));
                        let lines: Vec<String> =
                            ours.map(|change| format!("{}\n", json!({"type": change.kind, "object": change.object}))).collect();
                        (lines, state.revision)
                    };
                    if !lines.is_empty() {
                        return Some((Ok(Frame::data(Bytes::from(lines.concat()))), last));
                    }
                    waiting.await;
                }
            }
        };
        let first = futures::stream::once(async { Ok(Frame::data(Bytes::from(first))) });
        let body = StreamBody::new(first.chain(futures::stream::unfold(from, next)).boxed());
        Response::builder().header("content-type", "application/json").body(body).expect("it is well formed")
    }

    /// What there is already, and the bookmark after it.
    fn initial(&self, target: &Target, selector: &str) -> (String, u64) {
        let state = self.state.lock();
        let ours = state.objects.iter().filter(|(key, object)| key.0 == target.resource && selected(object, selector));
        let mut lines: String = ours.map(|(_, object)| format!("{}\n", json!({"type": "ADDED", "object": object}))).collect();
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let metadata = json!({"resourceVersion": state.revision.to_string(), "annotations": annotations});
        let (group, version) = &target.group_version;
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let bookmark = json!({"kind": target.kind(), "apiVersion": api_version, "metadata": metadata});
        lines.push_str(&format!("{}\n", json!({"type": "BOOKMARK", "object": bookmark})));
        (lines, state.revision)
    }

    fn create(&self, mut target: Target, mut object: Value) -> Answer {
        if !target.subresource.is_empty() {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        let mut state = self.state.lock();
        if let Some(prefix) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = json!(format!("{prefix}{}", state.revision));
        }
        target.name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        if state.objects.contains_key(&target.key()) {
            return failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
        metadata["creationTimestamp"] = json!(Timestamp::now().to_string());
        metadata["generation"] = json!(1);
        if !target.namespace.is_empty() {
            metadata["namespace"] = json!(target.namespace);
        }
        let created = self.put(&mut state, target.key(), object, "ADDED");
        whole(StatusCode::CREATED, &created)
    }

    fn change(&self, target: &Target, change: impl FnOnce(&Value) -> Value) -> Answer {
        let mut state = self.state.lock();
        let Some(old) = state.objects.get(&target.key()).cloned() else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        let new = change(&old);
        if new["metadata"]["uid"] != old["metadata"]["uid"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        let changed = self.put(&mut state, target.key(), new, "MODIFIED");
        whole(StatusCode::OK, &changed)
    }

    fn patch(&self, target: &Target, mut patch: Value) -> Answer {
        let (group, version) = &target.group_version;
        let types = schema::builtin();
        let Some(id) = types.by_kind(group, version, target.kind()) else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        self.change(target, |old| strategic::apply(types, id, old, &mut patch).unwrap_or_else(|_| old.clone()))
    }

    fn delete(&self, target: &Target, options: &Value) -> Answer {
        let mut state = self.state.lock();
        let Some(mut object) = state.objects.get(&target.key()).cloned() else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let grace = options["gracePeriodSeconds"].as_i64().unwrap_or(own);
        if target.resource == "pods" && grace > 0 {
            object["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            let changed = self.put(&mut state, target.key(), object, "MODIFIED");
            return whole(StatusCode::OK, &changed);
        }
        let gone = self.put(&mut state, target.key(), object, "DELETED");
        whole(StatusCode::OK, &gone)
    }
}

impl tower::Service<Request<Body>> for Server {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}
