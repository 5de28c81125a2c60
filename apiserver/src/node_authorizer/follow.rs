//! Keeps the graph in step with the watch cache: one task for the few kinds that tie objects to nodes.

use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::watch;

use super::NodeAuthorizer;
use super::graph::{Graph, Kind};
use crate::catalog::Catalog;
use crate::registry::read::str_at;
use crate::storage::{Cursor, Event, EventKind, Object, Resource, Scope};

/// How a followed kind enters the graph.
#[derive(Clone, Copy)]
enum Entry {
    Pod,
    Volume,
    /// Where the object says which node it is for.
    Owned(Kind, &'static str),
}

const RESOURCES: [(&str, &str, Entry); 5] = [
    ("", "pods", Entry::Pod),
    ("", "persistentvolumes", Entry::Volume),
    ("storage.k8s.io", "volumeattachments", Entry::Owned(Kind::Attachment, "/spec/nodeName")),
    ("resource.k8s.io", "resourceslices", Entry::Owned(Kind::Slice, "/spec/nodeName")),
    ("certificates.k8s.io", "podcertificaterequests", Entry::Owned(Kind::CertificateRequest, "/spec/nodeName")),
];

impl NodeAuthorizer {
    /// Reads what there is at once, then follows what changes until the shutdown.
    pub fn follow(&self, catalog: &Catalog, mut shutdown: watch::Receiver<bool>) {
        let followed: Vec<(Entry, Arc<Resource>)> = RESOURCES
            .iter()
            .filter_map(|(group, plural, entry)| Some((*entry, catalog.stored_resource(group, plural)?.cache()?.clone())))
            .collect();
        let (graph, mut cursors) = read_all(&followed);
        *self.graph.write() = graph;
        if followed.is_empty() {
            return;
        }
        let authorizer = self.clone();
        tokio::spawn(async move {
            loop {
                let waiting = cursors.iter_mut().map(|cursor| Box::pin(cursor.next()));
                let (changes, at, _) = tokio::select! {
                    changed = select_all(waiting) => changed,
                    _ = shutdown.wait_for(|stop| *stop) => return,
                };
                match changes {
                    Ok(events) => {
                        // Objects are decoded before the lock is taken.
                        let (entry, resource) = &followed[at];
                        let exists = |event: &Event| event.kind != EventKind::Deleted;
                        let changes: Vec<Change> =
                            events.iter().map(|event| Change::of(&event.object, *entry, resource, exists(event))).collect();
                        let mut graph = authorizer.graph.write();
                        changes.iter().for_each(|change| change.enter(&mut graph, *entry));
                    }
                    Err(_) => {
                        let (graph, anew) = read_all(&followed);
                        *authorizer.graph.write() = graph;
                        cursors = anew;
                    }
                }
            }
        });
    }
}

/// An object as it is now.
struct Change<'a> {
    object: &'a Object,
    value: Option<serde_json::Value>,
}

impl Change<'_> {
    fn of<'a>(object: &'a Object, entry: Entry, resource: &Resource, exists: bool) -> Change<'a> {
        // A pod that is on no node is as one that is not there, and its node is known without reading it.
        let concerns_a_node = || match entry {
            Entry::Pod => node_of_pod(resource, object).is_none_or(|node| !node.is_empty()),
            Entry::Volume | Entry::Owned(..) => true,
        };
        Change { object, value: (exists && concerns_a_node()).then(|| object.value()) }
    }

    fn enter(&self, graph: &mut Graph, entry: Entry) {
        let (namespace, name, value) = (self.object.namespace(), self.object.name(), self.value.as_ref());
        match entry {
            Entry::Pod => graph.set_pod(namespace, name, value),
            Entry::Volume => graph.set_volume(name, value),
            Entry::Owned(kind, pointer) => graph.set_owned(kind, namespace, name, value.map(|value| str_at(value, pointer))),
        }
    }
}

/// From the index of the pod's selectable fields, if they have it.
fn node_of_pod<'a>(resource: &Resource, pod: &'a Object) -> Option<&'a str> {
    let at = resource.spec.fields.iter().position(|field| &*field.name == "spec.nodeName")?;
    Some(pod.field(at)?)
}

fn read_all(followed: &[(Entry, Arc<Resource>)]) -> (Graph, Vec<Cursor>) {
    let mut graph = Graph::default();
    let cursors = followed
        .iter()
        .map(|(entry, resource)| {
            let (snapshot, cursor) = resource.list_and_watch(Scope::All);
            snapshot.range("", None).for_each(|object| Change::of(object, *entry, resource, true).enter(&mut graph, *entry));
            cursor
        })
        .collect();
    (graph, cursors)
}
