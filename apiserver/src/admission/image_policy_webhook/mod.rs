//! ImagePolicyWebhook: whether a pod's images may run is asked of a webhook that the configuration names, by ImageReview.
//!
//! Answers are believed for a while, within a bound. [`config`] reads the configuration.

mod config;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use apimachinery::status::{Cause, Details, Status};
use apimachinery::validation::is_qualified_name;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use self::config::Settings;
use super::{Attributes, Cluster, WaitingPlugin};
use crate::audit;
use crate::expiring::Expiring;
use crate::registry;
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::webhook_client::remote::{Failure, Remote};
use crate::webhook_client::{Connections, kubeconfig};

const API_VERSION: &str = "imagepolicy.k8s.io/v1alpha1";
const KIND: &str = "ImageReview";
/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that are believed at once.
const MAX_KNOWN: usize = 1024;
/// Bytes of a question and its answer; longer ones are not kept.
const MAX_KEPT_BYTES: usize = 64 * 1024;
/// What annotations of pods that the webhook is told of have in their names.
const TOLD: &str = ".image-policy.k8s.io/";
/// What the names of audit annotations begin with.
const AUDIT_PREFIX: &str = "imagepolicywebhook.image-policy.k8s.io/";
const EPHEMERAL: &str = "ephemeralcontainers";

/// What the webhook said of some images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    allowed: bool,
    reason: String,
    annotations: Vec<(String, String)>,
}

impl Verdict {
    /// Reads an answer. One that does not say what it is counts as what was asked for.
    fn read(answer: &Value) -> Result<Verdict, String> {
        let (kind, version) = (str_at(answer, "/kind"), str_at(answer, "/apiVersion"));
        if !matches!(kind, "" | KIND) || !matches!(version, "" | API_VERSION) {
            return Err(no_review(kind, version));
        }
        let status = at(answer, "/status");
        let annotations = at(status, "/auditAnnotations").as_object().into_iter().flatten();
        Ok(Verdict {
            allowed: bool_at(status, "/allowed"),
            reason: str_at(status, "/reason").to_owned(),
            annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        })
    }

    fn bytes(&self) -> usize {
        self.reason.len() + self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }

    /// Why the images may not run.
    fn denial(&self) -> Option<String> {
        match (self.allowed, self.reason.as_str()) {
            (true, _) => None,
            (false, "") => Some("one or more images rejected by webhook backend".to_owned()),
            (false, reason) => Some(format!("image policy webhook backend denied one or more images: {reason}")),
        }
    }
}

/// An answer with an error code as a Status.
fn passed_on(code: u16, message: &str) -> Status {
    let causes = vec![Cause { reason: "UnexpectedServerResponse".to_owned(), message: message.to_owned(), field: String::new() }];
    let details = Some(Details { causes, ..Details::default() });
    Status { details, ..Status::generic(code, "POST", "", "", "", message) }
}

/// What is said of an answer that is something else.
fn no_review(kind: &str, api_version: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_kind = |d: &&registry::Definition| d.group == group && d.version == version && d.kind == kind;
    if (kind, api_version) == ("Status", "v1") || registry::definitions().iter().any(is_kind) {
        return format!("converting ({version}.{kind}) to (v1alpha1.{KIND}): unknown conversion");
    }
    let (kind, version) = (quote(kind), quote(api_version));
    format!("no kind {kind} is registered for version {version} in scheme \"pkg/runtime/scheme.go:111\"")
}

/// The plugin.
pub struct ImagePolicyWebhook {
    settings: Settings,
    remote: Remote,
    known: Expiring<String, Verdict>,
}

impl ImagePolicyWebhook {
    pub fn new(configuration: Option<&[u8]>, connections: &Arc<Connections>) -> Result<ImagePolicyWebhook, String> {
        let settings = Settings::read(configuration)?;
        let endpoint = match settings.kubeconfig.as_str() {
            "" => return Err(kubeconfig::EMPTY.to_owned()),
            path => kubeconfig::read(Path::new(path))?,
        };
        let remote = Remote::new(&endpoint, connections.clone())?.with_first_pause(settings.retry_backoff);
        Ok(ImagePolicyWebhook { settings, remote, known: Expiring::new(MAX_KNOWN) })
    }

    async fn verdict(&self, spec: Value) -> Result<Verdict, Failure> {
        let question = spec.to_string();
        if let Some(known) = self.known.get(question.as_str()) {
            return Ok(known);
        }
        let answer = self.remote.try_post(&review(spec), TIMEOUT).await?;
        let verdict = Verdict::read(&answer).map_err(Failure::local)?;
        if question.len() + verdict.bytes() <= MAX_KEPT_BYTES {
            let ttl = if verdict.allowed { self.settings.allow_ttl } else { self.settings.deny_ttl };
            self.known.keep(question, verdict.clone(), ttl);
        }
        Ok(verdict)
    }

    async fn check(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
        let verdict = match self.verdict(spec(attributes, pod)).await {
            Ok(verdict) => verdict,
            Err(failure) if self.settings.default_allow => {
                tracing::debug!(error = failure.message, "no verdict on images; they are allowed");
                audit::annotate(&format!("{AUDIT_PREFIX}failed-open"), || "true".to_owned());
                return Ok(());
            }
            // What the webhook forbids is passed on as it is.
            Err(Failure { code: Some(code @ 403), message, .. }) => return Err(passed_on(code, &message)),
            Err(failure) => return Err(attributes.forbidden(Some(pod), &failure.message)),
        };
        for (key, value) in &verdict.annotations {
            let key = format!("{AUDIT_PREFIX}{key}");
            if is_qualified_name(&key).is_empty() {
                audit::annotate(&key, || value.clone());
            } else {
                tracing::warn!(key, "failed to set admission audit annotation");
            }
        }
        verdict.denial().map_or(Ok(()), |why| Err(attributes.forbidden(Some(pod), &why)))
    }
}

/// What the webhook is asked about: a pod's images, or those of its ephemeral containers if these are written.
fn spec(attributes: &Attributes<'_>, pod: &Value) -> Value {
    let lists: &[&str] =
        if attributes.subresource == EPHEMERAL { &["/spec/ephemeralContainers"] } else { &["/spec/containers", "/spec/initContainers"] };
    let containers = lists.iter().flat_map(|list| list_at(pod, list)).map(|container| match str_at(container, "/image") {
        "" => json!({}),
        image => json!({ "image": image }),
    });
    let containers: Vec<Value> = containers.collect();
    let annotations = at(pod, "/metadata/annotations").as_object().into_iter().flatten();
    let mut told: Vec<(String, Value)> =
        annotations.filter(|(key, _)| key.contains(TOLD)).map(|(key, value)| (key.clone(), value.clone())).collect();
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut spec = Map::new();
    if !containers.is_empty() {
        spec.insert("containers".to_owned(), containers.into());
    }
    if !told.is_empty() {
        spec.insert("annotations".to_owned(), told.into_iter().collect::<Map<_, _>>().into());
    }
    if !attributes.namespace.is_empty() {
        spec.insert("namespace".to_owned(), attributes.namespace.into());
    }
    spec.into()
}

fn review(spec: Value) -> Value {
    json!({ "kind": KIND, "apiVersion": API_VERSION, "metadata": {}, "spec": spec, "status": { "allowed": false } })
}

impl WaitingPlugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        _cluster: &'a dyn Cluster,
        new: Option<&'a Value>,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let concerns = attributes.operation.writes() && attributes.is("", "pods") && matches!(attributes.subresource, "" | EPHEMERAL);
            match new.filter(|_| concerns) {
                Some(pod) => self.check(attributes, pod).await,
                None => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Request;
    use axum::http::StatusCode;
    use parking_lot::Mutex;
    use tokio::net::TcpListener;

    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    /// What was asked.
    type Asked = Arc<Mutex<Vec<(String, Value)>>>;

    /// A webhook that answers in order, the last answer for ever, and the plugin that asks it.
    async fn plugin(answers: Vec<(u16, Value)>, settings: &str) -> (ImagePolicyWebhook, Asked) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Asked::default();
        let heard = asked.clone();
        let answer = move |request: Request| {
            let (heard, answers) = (heard.clone(), answers.clone());
            async move {
                let uri = request.uri().to_string();
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let mut heard = heard.lock();
                let (code, answer) = &answers[heard.len().min(answers.len() - 1)];
                heard.push((uri, serde_json::from_slice(&body).unwrap()));
                (StatusCode::from_u16(*code).unwrap(), answer.to_string())
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let kubeconfig = json!({
            "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "k" } }],
            "clusters": [{ "name": "k", "cluster": { "server": format!("http://127.0.0.1:{port}/images") } }],
        });
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        let configuration = format!("imagePolicy: {{kubeConfigFile: {}, {settings}}}", path.display());
        (ImagePolicyWebhook::new(Some(configuration.as_bytes()), &Arc::default()).unwrap(), asked)
    }

    fn pod(image: &str) -> Value {
        json!({
            "metadata": { "annotations": { "a.image-policy.k8s.io/ticket": "7", "other": "x" } },
            "spec": { "containers": [{ "image": image }], "initContainers": [{ "image": "i" }], "ephemeralContainers": [{ "image": "e" }] },
        })
    }

    async fn validate(plugin: &ImagePolicyWebhook, write: Write, pod: &Value) -> Result<(), String> {
        let validated = plugin.validate(&write.attributes(), &Objects::default(), Some(pod), None, &mut Vec::new()).await;
        validated.map_err(|status| status.message)
    }

    fn create() -> Write {
        Write::new(Operation::Create, "", "v1", "pods")
    }

    fn said(status: Value) -> (u16, Value) {
        (200, json!({ "kind": KIND, "apiVersion": API_VERSION, "status": status }))
    }

    #[tokio::test]
    async fn the_webhook_is_asked_about_images_and_believed_for_a_while() {
        let answers =
            vec![said(json!({ "allowed": true })), said(json!({ "allowed": false, "reason": "old" })), said(json!({ "allowed": false }))];
        let (plugin, asked) = plugin(answers, "").await;
        for _ in 0..3 {
            validate(&plugin, create(), &pod("a")).await.unwrap();
        }
        for _ in 0..2 {
            let refused = validate(&plugin, create(), &pod("b")).await.unwrap_err();
            assert_eq!(refused, "pods \"x\" is forbidden: image policy webhook backend denied one or more images: old");
        }
        let update = || Write::new(Operation::Update, "", "v1", "pods");
        let refused = validate(&plugin, update().to("ephemeralcontainers"), &pod("a")).await.unwrap_err();
        assert_eq!(refused, "pods \"x\" is forbidden: one or more images rejected by webhook backend");
        validate(&plugin, update().to("status"), &pod("c")).await.unwrap();
        validate(&plugin, Write::new(Operation::Create, "", "v1", "configmaps"), &pod("c")).await.unwrap();
        let asked = asked.lock();
        let specs: Vec<&Value> = asked.iter().map(|(_, review)| &review["spec"]["containers"]).collect();
        assert_eq!(specs, [&json!([{"image": "a"}, {"image": "i"}]), &json!([{"image": "b"}, {"image": "i"}]), &json!([{"image": "e"}])]);
        let expect = json!({
            "kind": KIND, "apiVersion": API_VERSION, "metadata": {}, "status": { "allowed": false },
            "spec": { "containers": [{"image": "a"}, {"image": "i"}], "annotations": { "a.image-policy.k8s.io/ticket": "7" }, "namespace": "ns" },
        });
        assert_eq!(asked[0], ("/images?timeout=30s".to_owned(), expect));
    }

    #[tokio::test]
    async fn answers_that_are_not_to_be_kept_are_asked_for_again() {
        let (plugin, asked) = plugin(vec![said(json!({ "allowed": true }))], "allowTTL: -1").await;
        for _ in 0..3 {
            validate(&plugin, create(), &pod("a")).await.unwrap();
        }
        assert_eq!(asked.lock().len(), 3);
        let long = pod(&"a".repeat(MAX_KEPT_BYTES));
        for _ in 0..2 {
            validate(&plugin, create(), &long).await.unwrap();
        }
        assert_eq!(asked.lock().len(), 5);
    }

    #[tokio::test]
    async fn without_an_answer_the_configuration_decides() {
        let broken = || vec![(500, json!("broken"))];
        let (closed, asked) = plugin(broken(), "retryBackoff: 1").await;
        let refused = validate(&closed, create(), &pod("a")).await.unwrap_err();
        assert!(refused.starts_with("pods \"x\" is forbidden: an error on the server ("), "{refused}");
        assert_eq!(asked.lock().len(), 5, "it is tried again a few times");
        let (open, _) = plugin(broken(), "retryBackoff: 1, defaultAllow: true").await;
        validate(&open, create(), &pod("a")).await.unwrap();
        let (closed, _) = plugin(vec![(403, json!("not you"))], "").await;
        assert_eq!(validate(&closed, create(), &pod("a")).await.unwrap_err(), "\"not you\"", "told as it is");
        for (kind, expect) in [
            ("Pod", "converting (v1.Pod) to (v1alpha1.ImageReview): unknown conversion"),
            ("Nope", "no kind \"Nope\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""),
        ] {
            let (closed, _) = plugin(vec![(200, json!({ "kind": kind, "apiVersion": "v1" }))], "").await;
            let refused = validate(&closed, create(), &pod("a")).await.unwrap_err();
            assert_eq!(refused, format!("pods \"x\" is forbidden: {expect}"));
        }
    }

    #[test]
    fn a_configuration_without_a_webhook_is_refused() {
        let refusal = |text: &str| ImagePolicyWebhook::new(Some(text.as_bytes()), &Arc::default()).err().unwrap();
        assert_eq!(refusal("imagePolicy: {}"), kubeconfig::EMPTY);
        assert_eq!(refusal("imagePolicy: {kubeConfigFile: /nonexistent}"), "stat /nonexistent: no such file or directory");
    }
}
