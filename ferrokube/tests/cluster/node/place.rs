//! A namespace of a story's own in a cluster that several share, and what stories do there.

use std::fmt::Debug;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ContainerStateWaiting, Event, Namespace, Node, NodeRuntimeHandlerFeatures, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::asking::{PATIENCE, object, until};

/// The image of all stories, with busybox in it.
pub(super) const IMAGE: &str = "registry.test/test/web:1";

/// A kind with namespaces.
pub(super) trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static
{
}

impl<K> Kind for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static
{
}

#[derive(Clone)]
pub(super) struct Place {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl Place {
    /// Makes the namespace, and waits until pods can be made there.
    pub(super) async fn new(client: &Client, namespace: &str) -> Place {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made = object(json!({ "metadata": { "name": namespace } }));
        namespaces.create(&PostParams::default(), &made).await.expect("a namespace");
        let place = Place { client: client.clone(), namespace: namespace.to_owned() };
        until("there is a service account", async || place.api::<ServiceAccount>().get_opt("default").await.expect("an answer").is_some())
            .await;
        place
    }

    pub(super) fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) async fn create<K: Kind>(&self, value: Value) -> K {
        let text = value.to_string();
        self.api().create(&PostParams::default(), &object(value)).await.unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub(super) async fn get<K: Kind>(&self, name: &str) -> K {
        self.api().get(name).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(super) async fn is_there<K: Kind>(&self, name: &str) -> bool {
        self.api::<K>().get_opt(name).await.expect("an answer").is_some()
    }

    pub(super) async fn merge<K: Kind>(&self, name: &str, patch: Value) -> K {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(super) async fn delete<K: Kind>(&self, name: &str, how: &DeleteParams) {
        self.api::<K>().delete(name, how).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Waits until an object is as it should be, and gives it.
    pub(super) async fn until_is<K: Kind>(&self, name: &str, what: &str, is_so: impl Fn(&K) -> bool) -> K {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now: Option<K> = self.api().get_opt(name).await.expect("an answer");
            match now {
                Some(object) if is_so(&object) => return object,
                now if Instant::now() >= deadline => {
                    let text = serde_json::to_string(&now).unwrap_or_default();
                    panic!("{}/{name} within {PATIENCE:?}: {what}; it is {text}", self.namespace)
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub(super) async fn until_gone<K: Kind>(&self, name: &str) {
        until(&format!("{}/{name} is gone", self.namespace), async || !self.is_there::<K>(name).await).await;
    }

    pub(super) async fn list<K: Kind>(&self, labels: &str) -> Vec<K> {
        self.api().list(&ListParams::default().labels(labels)).await.expect("a list").items
    }

    /// What a command in a pod's container `c` says on its standard output, without space around it.
    pub(super) async fn says(&self, pod: &str, command: &str) -> String {
        self.says_in(pod, "c", command).await
    }

    /// The same of another container. Where the command cannot be run, this tells why instead.
    pub(super) async fn says_in(&self, pod: &str, container: &str, command: &str) -> String {
        let parameters = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
        let mut process = match self.api::<Pod>().exec(pod, ["sh", "-c", command], &parameters).await {
            Ok(process) => process,
            Err(error) => return format!("not asked: {error}"),
        };
        let outcome = process.take_status().expect("nobody has taken it before");
        let mut text = String::new();
        let read = process.stdout().expect("it was asked for").read_to_string(&mut text).await;
        match (read, outcome.await) {
            (Err(error), _) => format!("not heard: {error}"),
            (_, None) => format!("{text:?} without an end"),
            (_, Some(Status { reason: Some(reason), message, .. })) if reason != "NonZeroExitCode" => {
                format!("{text:?} and then {reason}: {}", message.unwrap_or_default())
            }
            _ => text.trim().to_owned(),
        }
    }

    /// Makes a pod that ends by itself, and waits until it has succeeded.
    pub(super) async fn succeeds(&self, name: &str, spec: Value) -> Pod {
        self.create::<Pod>(pod(name, spec)).await;
        let pod = self.until_is(name, "it has ended", |pod: &Pod| matches!(phase(pod), "Succeeded" | "Failed")).await;
        if phase(&pod) != "Succeeded" {
            let logs = self.api::<Pod>().logs(name, &LogParams::default()).await;
            panic!("{name} failed: {logs:?} {}", serde_json::to_string(&pod.status).unwrap_or_default());
        }
        pod
    }

    /// What the container `c` of a pod of this spec says until it ends well, without space around it.
    pub(super) async fn output(&self, name: &str, spec: Value) -> String {
        self.succeeds(name, spec).await;
        self.logs(name, "c").await.trim().to_owned()
    }

    /// Makes a pod and waits until it is ready.
    pub(super) async fn runs(&self, name: &str, spec: Value) -> Pod {
        self.create::<Pod>(pod(name, spec)).await;
        self.until_is(name, "it is ready", is_ready).await
    }

    pub(super) async fn logs(&self, pod: &str, container: &str) -> String {
        let of = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        self.api::<Pod>().logs(pod, &of).await.unwrap_or_else(|error| panic!("{pod}: {error}"))
    }

    /// What the runtime of a node can do for pods that name no handler.
    pub(super) async fn features_of(&self, node: &str) -> NodeRuntimeHandlerFeatures {
        let node: Node = Api::all(self.client.clone()).get(node).await.expect("the node");
        let handlers = node.status.and_then(|status| status.runtime_handlers).unwrap_or_default();
        let usual = handlers.into_iter().find(|handler| handler.name.as_deref().unwrap_or_default().is_empty());
        usual.and_then(|handler| handler.features).unwrap_or_default()
    }

    /// What events about an object with this reason say.
    pub(super) async fn told(&self, name: &str, reason: &str) -> Vec<String> {
        let only = ListParams::default().fields(&format!("involvedObject.name={name},reason={reason}"));
        let events = self.api::<Event>().list(&only).await.expect("events").items;
        events.into_iter().filter_map(|event| event.message).collect()
    }

    /// Waits for an event about an object with this reason and these words.
    pub(super) async fn is_told(&self, name: &str, reason: &str, words: &str) {
        until(&format!("{}/{name} has an event {reason} that says {words:?}", self.namespace), async || {
            self.told(name, reason).await.iter().any(|message| message.contains(words))
        })
        .await;
    }
}

/// A container `c` that runs this in its shell.
pub(super) fn container(command: &str) -> Value {
    json!({ "name": "c", "image": IMAGE, "command": ["sh", "-c", command] })
}

/// The container `name` that runs this, with these fields besides.
pub(super) fn named(name: &str, command: &str, fields: Value) -> Value {
    with(with(container(command), json!({ "name": name })), fields)
}

/// A pod that is not restarted and goes at once, unless its spec says otherwise.
pub(super) fn pod(name: &str, spec: Value) -> Value {
    let usual = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0 });
    json!({ "metadata": { "name": name, "labels": { "app": name } }, "spec": with(usual, spec) })
}

/// A spec of one container `c` that runs this, with these fields of the container besides.
pub(super) fn one(command: &str, fields: Value) -> Value {
    json!({ "containers": [with(container(command), fields)] })
}

/// `over` laid over `value`, object by object.
pub(super) fn with(mut value: Value, over: Value) -> Value {
    match (&mut value, over) {
        (Value::Object(fields), Value::Object(over)) => {
            for (name, field) in over {
                let old = fields.remove(&name).unwrap_or(Value::Null);
                fields.insert(name, with(old, field));
            }
            value
        }
        (_, over) => over,
    }
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && has_condition(pod, "Ready")
}

pub(super) fn has_condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// What the first container waits for, if it does.
pub(super) fn waiting(pod: &Pod) -> Option<&ContainerStateWaiting> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.as_ref()
}

/// Why the first container waits, in a word; empty if it does not.
pub(super) fn why_waiting(pod: &Pod) -> &str {
    waiting(pod).and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default()
}

pub(super) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub(super) fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// The value of a variable of the first container, as the pod's author wrote it.
pub(super) fn variable(pod: &Pod, variable: &str) -> Option<String> {
    let env = pod.spec.as_ref()?.containers.first()?.env.as_ref()?;
    env.iter().find(|entry| entry.name == variable)?.value.clone()
}

/// A line for whoever watches the tests.
pub(super) fn say(line: &str) {
    // Nobody is hurt if nobody can read it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs stories side by side, each in a namespace that has its name, and fails with the names of all that failed.
pub(super) struct Stories {
    client: Client,
    told: Vec<LocalBoxFuture<'static, (&'static str, bool)>>,
}

impl Stories {
    pub(super) fn of(client: &Client) -> Stories {
        Stories { client: client.clone(), told: Vec::new() }
    }

    /// `FERROKUBE_STORIES` names those that are told, separated by commas; without it all are.
    pub(super) fn tell<Fut>(&mut self, name: &'static str, story: impl FnOnce(Place) -> Fut + 'static)
    where
        Fut: Future<Output = ()> + 'static,
    {
        let only = std::env::var("FERROKUBE_STORIES").unwrap_or_default();
        if !only.is_empty() && !only.split(',').any(|one| one == name) {
            return;
        }
        let client = self.client.clone();
        let told = async move {
            let start = Instant::now();
            let outcome = AssertUnwindSafe(async { story(Place::new(&client, name).await).await }).catch_unwind().await;
            say(&format!("    {name}: {} after {:.0?}", if outcome.is_ok() { "told" } else { "FAILED" }, start.elapsed()));
            (name, outcome.is_ok())
        };
        self.told.push(told.boxed_local());
    }

    /// A story that fails does not end the others.
    pub(super) async fn end(self) {
        let outcomes = futures::future::join_all(self.told).await;
        let failed: Vec<&str> = outcomes.into_iter().filter(|(_, is_well)| !is_well).map(|(name, _)| name).collect();
        assert!(failed.is_empty(), "these stories failed: {failed:?}");
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let list = namespaces.list(&ListParams::default()).await.expect("namespaces");
        for namespace in list.items.iter().filter_map(|namespace| namespace.metadata.name.as_deref()) {
            if namespace != "default" && !namespace.starts_with("kube-") {
                namespaces.delete(namespace, &DeleteParams::default()).await.expect("the namespace goes");
            }
        }
        until("all namespaces are gone", async || {
            let pods = Api::<Pod>::all(self.client.clone()).list(&ListParams::default()).await.expect("pods");
            let left = namespaces.list(&ListParams::default()).await.expect("namespaces").items.len();
            pods.items.is_empty() && left == 4
        })
        .await;
    }
}
