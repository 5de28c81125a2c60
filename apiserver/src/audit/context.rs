//! The event of the request that is being served, reachable from wherever something is worth telling.
//!
//! The filter makes it and names the stages; others only add to it, by the functions of [`super`]. Without an audit policy there is
//! none, and they do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::Auditor;
use super::event::{Event, Level, ObjectRef, Stage};
use super::policy::Rule;
use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;

/// Requests that take longer tell where the time went.
const SLOW: Duration = Duration::from_millis(500);

/// Where time goes, as the annotations name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Authentication,
    Authorization,
    Impersonation,
    ApfQueueWait,
    MutatingWebhook,
    ValidatingWebhook,
}

impl Layer {
    const ALL: [Layer; 6] = [
        Layer::Authentication,
        Layer::Authorization,
        Layer::Impersonation,
        Layer::ApfQueueWait,
        Layer::MutatingWebhook,
        Layer::ValidatingWebhook,
    ];

    const fn key(self) -> &'static str {
        match self {
            Layer::Authentication => "apiserver.latency.k8s.io/authentication",
            Layer::Authorization => "apiserver.latency.k8s.io/authorization",
            Layer::Impersonation => "apiserver.latency.k8s.io/impersonation",
            Layer::ApfQueueWait => "apiserver.latency.k8s.io/apf-queue-wait",
            Layer::MutatingWebhook => "apiserver.latency.k8s.io/mutating-webhook",
            Layer::ValidatingWebhook => "apiserver.latency.k8s.io/validating-webhook",
        }
    }
}

/// What a request says before anything is known of it.
pub struct Seen {
    pub audit_id: String,
    pub request_uri: String,
    pub user_agent: String,
    pub source_ips: Vec<String>,
    pub long_running: bool,
}

struct Known {
    event: Event,
    rule: Option<Rule>,
    spent: [Duration; Layer::ALL.len()],
}

/// The event of one request. When the last one who holds it lets go, the request has ended.
pub struct Context {
    auditor: Arc<Auditor>,
    started: Instant,
    pub long_running: bool,
    known: Mutex<Known>,
    /// Nobody is let in without being known; of those who were not, only the answer is told.
    unauthenticated: AtomicBool,
    /// Somebody else has answered, in a form that is not ours to read.
    passed_on: AtomicBool,
    ended: AtomicBool,
}

impl Context {
    pub fn new(auditor: Arc<Auditor>, seen: Seen) -> Arc<Context> {
        let now = Timestamp::now();
        let event = Event {
            level: Level::None,
            audit_id: seen.audit_id,
            stage: Stage::ResponseStarted,
            request_uri: seen.request_uri,
            verb: String::new(),
            user: User::default(),
            impersonated_user: None,
            impersonation_constraint: String::new(),
            source_ips: seen.source_ips,
            user_agent: seen.user_agent,
            object_ref: None,
            response_status: None,
            request_object: None,
            response_object: None,
            received: now,
            staged: now,
            annotations: std::collections::BTreeMap::new(),
        };
        Arc::new(Context {
            auditor,
            started: Instant::now(),
            long_running: seen.long_running,
            known: Mutex::new(Known { event, rule: None, spent: Default::default() }),
            unauthenticated: AtomicBool::new(false),
            passed_on: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    /// Decides what is told, and tells that the request has come. False if that had to succeed and did not.
    pub async fn decide(&self, user: Option<&User>, info: &RequestInfo) -> bool {
        let rule = self.auditor.policy.evaluate(user, info).clone();
        self.auditor.counters.level(rule.level);
        {
            let mut known = self.known.lock();
            let event = &mut known.event;
            event.level = rule.level;
            event.verb.clone_from(&info.verb);
            if let Some(user) = user {
                event.user.clone_from(user);
            }
            if info.is_resource {
                event.object_ref = Some(ObjectRef {
                    resource: info.resource.clone(),
                    namespace: info.namespace.clone(),
                    name: info.name.clone(),
                    api_group: info.group.clone(),
                    api_version: info.version.clone(),
                    subresource: info.subresource.clone(),
                    ..ObjectRef::default()
                });
            }
            known.rule = Some(rule);
        }
        if user.is_none() {
            self.unauthenticated.store(true, Ordering::Relaxed);
            return true;
        }
        let taken = self.stage(Stage::RequestReceived).await;
        if !taken {
            self.auditor.counters.rejected();
            self.ended.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// How much is told; nothing before that is decided.
    pub fn level(&self) -> Level {
        self.known.lock().event.level
    }

    pub fn omits_managed_fields(&self) -> bool {
        self.known.lock().rule.as_ref().is_some_and(|rule| rule.omit_managed_fields)
    }

    pub fn is_unauthenticated(&self) -> bool {
        self.unauthenticated.load(Ordering::Relaxed)
    }

    pub fn pass_on(&self) {
        self.passed_on.store(true, Ordering::Relaxed);
    }

    pub fn is_passed_on(&self) -> bool {
        self.passed_on.load(Ordering::Relaxed)
    }

    pub fn annotate(&self, key: &str, value: String) {
        let mut known = self.known.lock();
        if known.rule.as_ref().is_some_and(|rule| rule.level == Level::None) {
            return;
        }
        match known.event.annotations.get(key) {
            Some(told) if *told != value => {
                tracing::warn!(key, value, told, "an audit annotation has been set already");
            }
            Some(_) => {}
            None => {
                known.event.annotations.insert(key.to_owned(), value);
            }
        }
    }

    pub fn spent(&self, layer: Layer, time: Duration) {
        self.known.lock().spent[layer as usize] += time;
    }

    pub fn impersonated(&self, user: &User, constraint: &str) {
        let mut known = self.known.lock();
        known.event.impersonated_user = Some(user.clone());
        constraint.clone_into(&mut known.event.impersonation_constraint);
    }

    /// What is posted or put: it may tell more of what the request is about.
    pub fn request_object(&self, metadata: &Value, object: Option<Bytes>) {
        let mut known = self.known.lock();
        let reference = known.event.object_ref.get_or_insert_default();
        let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or("");
        for (place, name) in [
            (&mut reference.namespace, "namespace"),
            (&mut reference.name, "name"),
            (&mut reference.uid, "uid"),
            (&mut reference.resource_version, "resourceVersion"),
        ] {
            if place.is_empty() {
                text(name).clone_into(place);
            }
        }
        known.event.request_object = object;
    }

    pub fn request_patch(&self, patch: Bytes) {
        self.known.lock().event.request_object = Some(patch);
    }

    pub fn response(&self, code: u16, status: Option<Value>, object: Option<Bytes>) {
        let mut known = self.known.lock();
        known.event.response_status = Some(status.unwrap_or_else(|| status_value("", "", "", code)));
        known.event.response_object = object;
    }

    /// The event as of now and this stage; `None` if it is not told.
    fn staged(&self, stage: Stage) -> Option<Arc<Event>> {
        let mut known = self.known.lock();
        let rule = known.rule.as_ref()?;
        if rule.level == Level::None || rule.omit_stages.contains(&stage) {
            return None;
        }
        let event = &mut known.event;
        event.stage = stage;
        event.staged = if stage == Stage::RequestReceived { event.received } else { Timestamp::now() };
        Some(Arc::new(event.clone()))
    }

    /// Tells of a stage. False if that had to succeed and did not.
    pub async fn stage(&self, stage: Stage) -> bool {
        match self.staged(stage) {
            Some(event) => self.auditor.tell(event).await,
            None => true,
        }
    }

    /// Tells that the request has ended, once.
    pub async fn complete(&self) {
        if self.begin_end() {
            self.stage(Stage::ResponseComplete).await;
        }
    }

    /// Tells that the server panicked, instead of how the request ended.
    pub async fn panicked(&self, message: &str) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.known.lock().event.response_status =
                Some(status_value("Failure", &format!("APIServer panic'd: {message}"), "InternalError", 500));
            self.stage(Stage::Panic).await;
        }
    }

    /// Nothing more will be told.
    pub fn end_silently(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// False if the end has been told.
    fn begin_end(&self) -> bool {
        if self.ended.swap(true, Ordering::Relaxed) {
            return false;
        }
        let taken = self.started.elapsed();
        let mut known = self.known.lock();
        let spent = known.spent;
        let event = &mut known.event;
        if event.response_status.is_none() {
            event.response_status = Some(status_value("Success", "Connection closed early", "", 200));
        }
        if taken > SLOW {
            let mut annotate = |key: &str, time: Duration| {
                let nanoseconds = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
                event.annotations.insert(key.to_owned(), apimachinery::time::format_duration(nanoseconds));
            };
            for layer in Layer::ALL.into_iter().filter(|layer| !spent[*layer as usize].is_zero()) {
                annotate(layer.key(), spent[layer as usize]);
            }
            annotate("apiserver.latency.k8s.io/total", taken);
        }
        true
    }
}

/// Whoever went away without an answer is told of, too.
impl Drop for Context {
    fn drop(&mut self) {
        if self.is_unauthenticated() {
            return;
        }
        let known = self.known.get_mut();
        let is_told = known.rule.as_ref().is_some_and(|rule| rule.level != Level::None);
        let was_answered = known.event.response_status.is_some();
        if !is_told || !self.begin_end() {
            return;
        }
        let started = (self.long_running && !was_answered).then(|| self.staged(Stage::ResponseStarted)).flatten();
        for event in started.into_iter().chain(self.staged(Stage::ResponseComplete)) {
            self.auditor.tell_without_waiting(event);
        }
    }
}

/// A Status with these members.
fn status_value(status: &str, message: &str, reason: &str, code: u16) -> Value {
    let mut map = Map::new();
    map.insert("metadata".to_owned(), Value::Object(Map::new()));
    for (name, text) in [("status", status), ("message", message), ("reason", reason)] {
        if !text.is_empty() {
            map.insert(name.to_owned(), text.into());
        }
    }
    map.insert("code".to_owned(), code.into());
    map.into()
}
