//! Events: what components tell people about objects. Aggregated, rate limited and sent in the background; never a reason to wait or to fail.
//!
//! Two kinds are written, as upstream's components do: core/v1 events that count ([`Recorder::new`]), and events.k8s.io/v1 events that
//! know actions and series ([`Recorder::with_actions`]), which the scheduler tells.

mod correlate;
mod recent;
mod send;
mod series;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EventSource, ObjectReference};
use kube::Client;
use tokio::sync::mpsc;

use crate::Shutdown;
use crate::clock;
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
    pub annotations: BTreeMap<String, String>,
}

/// Tells events under the name of a component. Clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    sink: Sink,
}

#[derive(Clone)]
enum Sink {
    Server(mpsc::Sender<send::Told>),
    Test(mpsc::Sender<Event>),
}

/// Events that wait to be sent; more are dropped.
const QUEUE: usize = 1000;

impl Recorder {
    /// A recorder that sends core/v1 events of `component` (`kubelet`, `deployment-controller`) on `host` (a node's name, or empty).
    pub fn new(client: Client, component: &str, host: &str, shutdown: Shutdown) -> Recorder {
        let (sink, told) = mpsc::channel(QUEUE);
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let source = EventSource { component: named(component), host: named(host) };
        tokio::spawn(send::core(client, source, told, shutdown));
        Recorder { sink: Sink::Server(sink) }
    }

    /// A recorder that sends events.k8s.io/v1 events of `controller` (`default-scheduler`) on the machine `host`. They must have an action.
    pub fn with_actions(client: Client, controller: &str, host: &str, shutdown: Shutdown) -> Recorder {
        let (sink, told) = mpsc::channel(QUEUE);
        tokio::spawn(send::series(client, controller.to_owned(), format!("{controller}-{host}"), told, shutdown));
        Recorder { sink: Sink::Server(sink) }
    }

    /// A recorder for tests, and what it was told.
    pub fn recording() -> (Recorder, mpsc::Receiver<Event>) {
        let (sink, told) = mpsc::channel(QUEUE);
        (Recorder { sink: Sink::Test(sink) }, told)
    }

    pub fn normal(&self, about: &Reference, reason: &str, message: impl Into<String>) {
        self.tell(Event::new(about, Type::Normal, reason, message));
    }

    pub fn warning(&self, about: &Reference, reason: &str, message: impl Into<String>) {
        self.tell(Event::new(about, Type::Warning, reason, message));
    }

    /// An event with more to say than the two above.
    pub fn tell(&self, event: Event) {
        let told = match &self.sink {
            Sink::Server(sink) => sink.try_send((event, clock::now())).is_ok(),
            Sink::Test(sink) => sink.try_send(event).is_ok(),
        };
        if !told {
            tracing::debug!("too many events at once, one is dropped");
        }
    }
}

impl Event {
    pub fn new(about: &Reference, kind: Type, reason: &str, message: impl Into<String>) -> Event {
        Event {
            about: about.0.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            action: String::new(),
            related: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The same event, with what was done.
    pub fn with_action(mut self, action: &str) -> Event {
        self.action = action.to_owned();
        self
    }
}
