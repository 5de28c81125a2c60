//! Informers: a local copy of the objects of one kind, kept up to date by a watch, that tells of every change.
//!
//! A process has one informer per kind ([`Informers::of`]), so there is one copy of each object. Handlers run in the order of
//! events, one at a time, after the store has the change; they put keys on queues and do nothing that takes time.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::SetOnce;

use crate::Shutdown;
use crate::object::{Object, ObjectKey};
use crate::store::{IndexFn, Store};
use crate::watching;

/// A failed watch is tried again after this long at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) | Change::Updated { new: object, .. } => object,
        }
    }

    /// The object as it was before, if it was known.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Updated { old, .. } => Some(old),
            Change::Added(_) | Change::Deleted(_) => None,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    store: RwLock<Store<K>>,
    /// Held while handlers run, so that they see changes in order; never locked while `store` is.
    handlers: Mutex<Vec<Handler<K>>>,
    /// Set when the first list has arrived in whole. Wakes those who wait in the order in which they came.
    synced: SetOnce<()>,
}

/// One kind's local copy. Clones are the same informer.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Informer<K> {
        Informer { shared: self.shared.clone() }
    }
}

impl<K: Object> Default for Informer<K> {
    fn default() -> Informer<K> {
        Informer::detached()
    }
}

impl<K: Object> Informer<K> {
    /// An informer that watches nothing; tests feed it with [`Informer::apply`] and [`Informer::remove`].
    pub fn detached() -> Informer<K> {
        let shared = Shared { store: RwLock::new(Store::default()), handlers: Mutex::new(Vec::new()), synced: SetOnce::new() };
        Informer { shared: Arc::new(shared) }
    }

    /// Watches what `api` and the selectors of `config` name, until shutdown.
    pub fn start(api: Api<K>, config: watcher::Config, shutdown: Shutdown) -> Informer<K> {
        let informer = Informer::detached();
        let following = informer.clone();
        tokio::spawn(async move {
            // Whoever waits for the first list would otherwise wait for ever.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = following.follow(api, config) => {}
            }
        });
        informer
    }

    async fn follow(&self, api: Api<K>, config: watcher::Config) {
        let mut retry = RETRY_MIN;
        let mut events = watching::events(api, config).boxed();
        // The keys of a list in progress: what is not among them at its end is gone.
        let mut listed: Option<HashSet<ObjectKey>> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    retry = RETRY_MIN;
                    self.take(event, &mut listed);
                }
                Err(error) => {
                    tracing::warn!(kind = <K as k8s_openapi::Resource>::KIND, %error, "watch failed, trying again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn take(&self, event: Event<K>, listed: &mut Option<HashSet<ObjectKey>>) {
        match event {
            Event::Init => *listed = Some(HashSet::new()),
            Event::InitApply(object) => {
                if let Some(listed) = listed {
                    listed.insert(object.key());
                }
                self.apply(object);
            }
            Event::InitDone => {
                if let Some(listed) = listed.take() {
                    let gone: Vec<ObjectKey> = self.shared.store.read().keys().filter(|key| !listed.contains(key)).cloned().collect();
                    gone.iter().for_each(|key| self.remove(key));
                }
                self.mark_synced();
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                // The last state, which differs from what was known: handlers are told of it.
                self.apply_quietly(strip(object.clone()));
                self.remove(&object.key());
            }
        }
    }

    fn apply_quietly(&self, object: K) {
        self.shared.store.write().insert(Arc::new(object));
    }

    /// Takes an object in and tells of it, unless this very revision is known already.
    pub fn apply(&self, object: K) {
        let handlers = self.shared.handlers.lock();
        let new = Arc::new(strip(object));
        let old = self.shared.store.write().insert(new.clone());
        let change = match old {
            Some(old) if is_same_revision::<K>(&old, &new) => return,
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        };
        handlers.iter().for_each(|handler| handler(&change));
    }

    /// Takes an object out and tells of it.
    pub fn remove(&self, key: &ObjectKey) {
        let handlers = self.shared.handlers.lock();
        let Some(old) = self.shared.store.write().remove(key) else { return };
        let change = Change::Deleted(old);
        handlers.iter().for_each(|handler| handler(&change));
    }

    /// Says that everything there is has been applied.
    pub fn mark_synced(&self) {
        // Set already by an earlier list.
        let _ = self.shared.synced.set(());
    }

    /// Calls `handler` for each object that is known already, as added, and for each change from now on.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        let known: Vec<Arc<K>> = self.shared.store.read().iter().cloned().collect();
        known.into_iter().for_each(|object| handler(&Change::Added(object)));
        handlers.push(Box::new(handler));
    }

    /// Waits until the first list has arrived in whole.
    pub async fn synced(&self) {
        self.shared.synced.wait().await;
    }

    pub fn has_synced(&self) -> bool {
        self.shared.synced.initialized()
    }

    /// Makes objects findable by other keys, see [`Informer::by_index`]. The same name twice is one index.
    pub fn add_index(&self, name: &'static str, keys_of: IndexFn<K>) {
        self.shared.store.write().add_index(name, keys_of);
    }

    /// `namespace` is empty for kinds without.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.store.read().get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.store.read().iter().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.store.read().in_namespace(namespace).cloned().collect()
    }

    /// What the index `name` lists under `key`.
    pub fn by_index(&self, name: &str, key: &str) -> Vec<Arc<K>> {
        self.shared.store.read().by_index(name, key).cloned().collect()
    }

    /// The objects that the object with this uid manages; needs [`Informer::index_controllers`].
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(CONTROLLER_INDEX, uid)
    }

    /// Makes objects findable by the uid of their managing owner.
    pub fn index_controllers(&self) {
        self.add_index(CONTROLLER_INDEX, |object| object.controller().map(|owner| owner.uid.clone()).into_iter().collect());
    }
}

const CONTROLLER_INDEX: &str = "controller uid";

/// Nobody who watches reads who set which field, and it is a third of an object.
fn strip<K: Object>(mut object: K) -> K {
    k8s_openapi::Metadata::metadata_mut(&mut object).managed_fields = None;
    object
}

fn is_same_revision<K: Object>(a: &K, b: &K) -> bool {
    let (a, b) = (k8s_openapi::Metadata::metadata(a), k8s_openapi::Metadata::metadata(b));
    a.resource_version.is_some() && a.resource_version == b.resource_version && a.uid == b.uid
}

/// The informers of a process, one per kind, each started when it is first asked for.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: Shutdown,
    started: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>,
}

impl Informers {
    pub fn new(client: Client, shutdown: Shutdown) -> Informers {
        Informers { client, shutdown, started: Arc::default() }
    }

    /// The informer of all objects of a kind, in all namespaces.
    pub fn of<K: Object>(&self) -> Informer<K> {
        let mut started = self.started.lock();
        let known = started.entry(TypeId::of::<K>()).or_insert_with(|| {
            let config = watcher::Config::default().streaming_lists();
            Box::new(Informer::<K>::start(Api::all(self.client.clone()), config, self.shutdown.clone()))
        });
        known.downcast_ref::<Informer<K>>().expect("the map's key is the informer's kind").clone()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn config_map(name: &str, revision: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("d".to_owned());
        object.metadata.resource_version = Some(revision.to_owned());
        object
    }

    fn recorded(informer: &Informer<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        informer.on_change(move |change| {
            let word = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            writer.lock().push(format!("{word} {}", change.object().name()));
        });
        log
    }

    #[test]
    fn a_second_list_tells_only_of_what_changed() {
        let informer = Informer::detached();
        let mut listed = None;
        let log = recorded(&informer);
        for event in [
            Event::Init,
            Event::InitApply(config_map("a", "1")),
            Event::InitApply(config_map("b", "2")),
            Event::InitApply(config_map("c", "3")),
            Event::InitDone,
        ] {
            informer.take(event, &mut listed);
        }
        assert!(informer.has_synced());
        assert_eq!(std::mem::take(&mut *log.lock()), ["added a", "added b", "added c"]);
        for event in [Event::Init, Event::InitApply(config_map("a", "1")), Event::InitApply(config_map("c", "4")), Event::InitDone] {
            informer.take(event, &mut listed);
        }
        assert_eq!(*log.lock(), ["updated c", "deleted b"]);
    }

    #[test]
    fn who_comes_late_hears_of_what_is_there() {
        let informer = Informer::detached();
        informer.apply(config_map("a", "1"));
        let log = recorded(&informer);
        informer.take(Event::Delete(config_map("a", "2")), &mut None);
        assert_eq!(*log.lock(), ["added a", "deleted a"]);
    }
}
