//! What a webhook thinks: it is asked by SubjectAccessReview, and its answers are believed for a while.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use apimachinery::selector::label::Operator;
use serde_json::{Map, Value, json};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

use super::match_condition::{Condition, all_hold};
use crate::expiring::Expiring;
use crate::filters::authentication::User;
use crate::filters::authorization::{Answer, Authorizer, Decision, Rules};
use crate::filters::request_info::RequestInfo;
use crate::registry::read::{at, bool_at, str_at};
use crate::webhook_client::remote::Remote;

/// Answers that are believed at once.
const MAX_KNOWN: usize = 8192;
/// Bytes of what a requester chooses; answers to longer questions are not kept.
const MAX_KEPT_QUESTION_BYTES: usize = 10_000;
/// Threads that wait for an answer at once, of those who cannot wait otherwise.
const MAX_BLOCKED: usize = 64;
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// How a webhook is asked.
pub struct Settings {
    /// Of SubjectAccessReview.
    pub version: String,
    pub timeout: Duration,
    pub allowed_for: Duration,
    pub refused_for: Duration,
    /// Whether nobody else is asked when there is no answer.
    pub deny_on_error: bool,
    pub conditions: Vec<Condition>,
}

/// The webhook as an authorizer.
pub struct WebhookAuthorizer {
    asked: Arc<Asked>,
    runtime: Handle,
}

struct Asked {
    remote: Remote,
    settings: Settings,
    known: Expiring<String, Opinion>,
    blocked: Semaphore,
}

/// What the status of a review says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Opinion {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl WebhookAuthorizer {
    /// Must be made where tasks run.
    pub fn new(remote: Remote, settings: Settings) -> Result<WebhookAuthorizer, String> {
        if !VERSIONS.contains(&settings.version.as_str()) {
            let known = VERSIONS.map(quote).join(", ");
            return Err(format!("unsupported webhook authorizer version {}, supported versions are {known}", quote(&settings.version)));
        }
        let asked = Asked { remote, settings, known: Expiring::new(MAX_KNOWN), blocked: Semaphore::new(MAX_BLOCKED) };
        Ok(WebhookAuthorizer { asked: Arc::new(asked), runtime: Handle::current() })
    }
}

impl Authorizer for WebhookAuthorizer {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        if let Some(decided) = self.asked.at_once(user, request) {
            return decided;
        }
        let Ok(_place) = self.asked.blocked.try_acquire() else {
            return self.asked.failed("too many threads wait for the webhook".to_owned());
        };
        let (asked, user, request) = (self.asked.clone(), user.clone(), request.clone());
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            // Whoever asked may have gone.
            let _ = sender.send(asked.decide(&user, &request).await);
        });
        let wait = || receiver.recv().unwrap_or_else(|_| self.asked.failed("the webhook was not asked".to_owned()));
        let shares_thread = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        if shares_thread { tokio::task::block_in_place(wait) } else { wait() }
    }

    fn ask<'a>(&'a self, user: &'a User, request: &'a RequestInfo) -> Answer<'a> {
        match self.asked.at_once(user, request) {
            Some(decided) => Answer::Now(decided),
            None => Answer::Later(Box::pin(self.asked.decide(user, request))),
        }
    }

    fn rules(&self, _user: &User, _namespace: &str) -> Rules {
        let errors = vec!["webhook authorizer does not support user rule resolution".to_owned()];
        Rules { incomplete: true, errors, ..Rules::default() }
    }
}

impl Asked {
    fn failed(&self, error: String) -> Decision {
        Decision::Failed { error, reason: String::new(), is_final: self.settings.deny_on_error }
    }

    /// What can be said without asking: the webhook is not for this question, or has answered it.
    fn at_once(&self, user: &User, request: &RequestInfo) -> Option<Decision> {
        let spec = spec(user, request);
        match all_hold(&self.settings.conditions, &spec) {
            Err(error) => return Some(self.failed(error)),
            Ok(false) => return Some(Decision::NoOpinion(String::new())),
            Ok(true) => {}
        }
        self.known.get(spec.to_string().as_str()).map(Opinion::decision)
    }

    /// Asks the webhook.
    async fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
        let spec = spec(user, request);
        let key = spec.to_string();
        let answer = self.remote.post(&review(&spec, &self.settings.version), self.settings.timeout).await;
        let opinion = match answer.and_then(|answer| Opinion::read(&answer)) {
            Ok(opinion) => opinion,
            Err(error) => {
                tracing::error!(error, "Failed to make webhook authorizer request");
                return self.failed(error);
            }
        };
        if controlled_bytes(request) < MAX_KEPT_QUESTION_BYTES {
            let ttl = if opinion.allowed { self.settings.allowed_for } else { self.settings.refused_for };
            self.known.keep(key, opinion.clone(), ttl);
        }
        opinion.decision()
    }
}

impl Opinion {
    fn read(answer: &Value) -> Result<Opinion, String> {
        let kind = str_at(answer, "/kind");
        if kind != "SubjectAccessReview" {
            return Err(format!("the webhook answered with the kind {} instead of a SubjectAccessReview", quote(kind)));
        }
        let status = at(answer, "/status");
        Ok(Opinion {
            allowed: bool_at(status, "/allowed"),
            denied: bool_at(status, "/denied"),
            reason: str_at(status, "/reason").to_owned(),
        })
    }

    fn decision(self) -> Decision {
        match (self.denied, self.allowed) {
            (true, true) => Decision::Failed {
                error: "webhook subject access review returned both allow and deny response".to_owned(),
                reason: self.reason,
                is_final: true,
            },
            (true, false) => Decision::Deny(self.reason),
            (false, true) => Decision::Allow(self.reason),
            (false, false) => Decision::NoOpinion(self.reason),
        }
    }
}

/// Bytes of what whoever asks has chosen.
fn controlled_bytes(request: &RequestInfo) -> usize {
    [
        &request.namespace,
        &request.verb,
        &request.group,
        &request.version,
        &request.resource,
        &request.subresource,
        &request.name,
        &request.path,
    ]
    .iter()
    .map(|text| text.len())
    .sum()
}

/// A review's spec in v1; what is empty is left out.
fn spec(user: &User, request: &RequestInfo) -> Value {
    let mut spec = Map::new();
    let mut attributes = Map::new();
    let mut say = |name: &str, value: &str| {
        if !value.is_empty() {
            attributes.insert(name.to_owned(), value.into());
        }
    };
    if request.is_resource {
        for (name, value) in [
            ("namespace", &request.namespace),
            ("verb", &request.verb),
            ("group", &request.group),
            ("version", &request.version),
            ("resource", &request.resource),
            ("subresource", &request.subresource),
            ("name", &request.name),
        ] {
            say(name, value);
        }
        for (name, requirements) in [("fieldSelector", field_requirements(request)), ("labelSelector", label_requirements(request))] {
            if !requirements.is_empty() {
                attributes.insert(name.to_owned(), json!({ "requirements": requirements }));
            }
        }
        spec.insert("resourceAttributes".to_owned(), attributes.into());
    } else {
        say("path", &request.path);
        say("verb", &request.verb);
        spec.insert("nonResourceAttributes".to_owned(), attributes.into());
    }
    if !user.name.is_empty() {
        spec.insert("user".to_owned(), user.name.as_str().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect::<Map<_, _>>().into());
    }
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), user.uid.as_str().into());
    }
    Value::Object(spec)
}

fn field_requirements(request: &RequestInfo) -> Vec<Value> {
    let operator = |negated| if negated { "NotIn" } else { "In" };
    request.field_selector.iter().map(|t| json!({ "key": t.field, "operator": operator(t.negated), "values": [t.value] })).collect()
}

/// Requirements that the form does not know are left out: that only widens the question.
fn label_requirements(request: &RequestInfo) -> Vec<Value> {
    let requirement = |requirement: &apimachinery::selector::label::Requirement| {
        let operator = match requirement.operator() {
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
            _ => "In",
        };
        let mut shown = json!({ "key": requirement.key(), "operator": operator });
        if !requirement.values().is_empty() {
            shown["values"] = json!(requirement.values());
        }
        Some(shown)
    };
    request.label_selector.iter().filter_map(requirement).collect()
}

/// The document that is sent.
fn review(spec: &Value, version: &str) -> Value {
    let mut spec = spec.clone();
    if version == "v1beta1"
        && let Some(map) = spec.as_object_mut()
        && let Some(groups) = map.remove("groups")
    {
        map.insert("group".to_owned(), groups);
    }
    json!({
        "kind": "SubjectAccessReview",
        "apiVersion": format!("authorization.k8s.io/{version}"),
        "metadata": { "creationTimestamp": null },
        "spec": spec,
        "status": { "allowed": false },
    })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn a_question_says_what_there_is_and_no_more() {
        let user = User {
            name: "ann".to_owned(),
            groups: vec!["dev".to_owned()],
            extra: vec![("k".to_owned(), vec!["v".to_owned()])],
            ..User::default()
        };
        let list =
            RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods", "fieldSelector=spec.nodeName%3Dn&labelSelector=a%20in%20(b),c");
        let expect = json!({
            "resourceAttributes": {
                "namespace": "a", "verb": "list", "version": "v1", "resource": "pods",
                "fieldSelector": { "requirements": [{ "key": "spec.nodeName", "operator": "In", "values": ["n"] }] },
                "labelSelector": { "requirements": [{ "key": "a", "operator": "In", "values": ["b"] }, { "key": "c", "operator": "Exists" }] },
            },
            "user": "ann", "groups": ["dev"], "extra": { "k": ["v"] },
        });
        assert_eq!(spec(&user, &list), expect);
        let path = spec(&user, &RequestInfo::parse(&Method::GET, "/healthz", ""));
        assert_eq!(path["nonResourceAttributes"], json!({ "path": "/healthz", "verb": "get" }));
        let old = review(&path, "v1beta1");
        assert_eq!((&old["spec"]["group"], old["spec"].get("groups")), (&json!(["dev"]), None));
        assert_eq!(old["apiVersion"], "authorization.k8s.io/v1beta1");
    }

    #[test]
    fn an_answer_is_an_opinion() {
        let read = |status: Value| Opinion::read(&json!({ "kind": "SubjectAccessReview", "status": status })).unwrap().decision();
        assert_eq!(read(json!({ "allowed": true, "reason": "r" })), Decision::Allow("r".to_owned()));
        assert_eq!(read(json!({ "allowed": false, "denied": true, "reason": "r" })), Decision::Deny("r".to_owned()));
        assert_eq!(read(json!({ "allowed": false })), Decision::NoOpinion(String::new()));
        assert!(matches!(read(json!({ "allowed": true, "denied": true })), Decision::Failed { is_final: true, .. }));
        assert!(Opinion::read(&json!({ "kind": "Status" })).is_err());
    }
}
