//! Keeps the index in step with the watch cache: one task, woken by changes of roles and bindings alone.

use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::watch;

use super::index::{Index, Kind};
use super::{GROUP, Rbac};
use crate::catalog::Catalog;
use crate::storage::{Cursor, Event, EventKind, Object, Resource, Scope};

const RESOURCES: [(&str, Kind); 4] =
    [("clusterroles", Kind::Role), ("clusterrolebindings", Kind::Binding), ("roles", Kind::Role), ("rolebindings", Kind::Binding)];

/// A kind, its objects, and the place in its log.
struct Followed {
    kind: Kind,
    resource: Arc<Resource>,
}

impl Rbac {
    /// Reads what there is at once, then follows what changes until the shutdown.
    pub fn follow(&self, catalog: &Catalog, mut shutdown: watch::Receiver<bool>) {
        let followed: Vec<Followed> = RESOURCES
            .iter()
            .filter_map(|(plural, kind)| Some(Followed { kind: *kind, resource: catalog.stored_resource(GROUP, plural)?.cache()?.clone() }))
            .collect();
        let (index, mut cursors) = read_all(&followed);
        self.index.store(Arc::new(index));
        if followed.is_empty() {
            return;
        }
        let rbac = self.clone();
        tokio::spawn(async move {
            loop {
                let waiting = cursors.iter_mut().map(|cursor| Box::pin(cursor.next()));
                let (changes, at, _) = tokio::select! {
                    changed = select_all(waiting) => changed,
                    _ = shutdown.wait_for(|stop| *stop) => return,
                };
                match changes {
                    Ok(events) => rbac.apply(followed[at].kind, &events),
                    Err(_) => {
                        let (index, anew) = read_all(&followed);
                        rbac.index.store(Arc::new(index));
                        cursors = anew;
                    }
                }
            }
        });
    }

    fn apply(&self, kind: Kind, events: &[Arc<Event>]) {
        let mut index = Index::clone(&self.index.load());
        for event in events {
            take(&mut index, kind, &event.object, event.kind != EventKind::Deleted);
        }
        self.index.store(Arc::new(index));
    }
}

fn read_all(followed: &[Followed]) -> (Index, Vec<Cursor>) {
    let mut index = Index::default();
    let cursors = followed
        .iter()
        .map(|one| {
            let (snapshot, cursor) = one.resource.list_and_watch(Scope::All);
            snapshot.range("", None).for_each(|object| take(&mut index, one.kind, object, true));
            cursor
        })
        .collect();
    (index, cursors)
}

fn take(index: &mut Index, kind: Kind, object: &Object, exists: bool) {
    let value = exists.then(|| object.value());
    index.set(kind, object.namespace(), object.name(), value.as_ref());
}
