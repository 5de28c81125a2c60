//! Keeps the graph in step with the watch cache: one task for the few kinds that tie objects to nodes.

use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::watch;

use super::NodeAuthorizer;
use super::graph::{Graph, Kind};
use crate::catalog::Catalog;
use crate::registry::read::str_at;
use crate::storage::{Cursor, EventKind, Object, Resource, Scope};

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
                        let changes: Vec<Change> =
                            events.iter().map(|event| Change::of(&event.object, event.kind != EventKind::Deleted)).collect();
                        let mut graph = authorizer.graph.write();
                        changes.iter().for_each(|change| change.enter(&mut graph, followed[at].0));
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
    fn of(object: &Object, exists: bool) -> Change<'_> {
        Change { object, value: exists.then(|| object.value()) }
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

fn read_all(followed: &[(Entry, Arc<Resource>)]) -> (Graph, Vec<Cursor>) {
    let mut graph = Graph::default();
    let cursors = followed
        .iter()
        .map(|(entry, resource)| {
            let (snapshot, cursor) = resource.list_and_watch(Scope::All);
            snapshot.range("", None).for_each(|object| Change::of(object, true).enter(&mut graph, *entry));
            cursor
        })
        .collect();
    (graph, cursors)
}
