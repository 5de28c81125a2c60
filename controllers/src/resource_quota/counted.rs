//! How many objects of other kinds a namespace has: those that some quota counts by `count/…` are watched, no others.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Shutdown, watching};
use futures::StreamExt;
use kube::Client;
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;

use crate::discovery::{Metadata, Resource};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Resources that were counted under their own name before `count/…` was.
const OLD_NAMES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// What a quota's name counts: `deployments.apps`, if it counts objects of other kinds at all.
pub fn group_resource(name: &str) -> Option<&str> {
    let counted = name.strip_prefix("count/").or_else(|| OLD_NAMES.contains(&name).then_some(name))?;
    (!matches!(counted, "pods" | "services" | "persistentvolumeclaims" | "events" | "events.events.k8s.io")).then_some(counted)
}

/// The objects of one resource, by namespace.
#[derive(Default)]
struct Objects {
    by_namespace: HashMap<String, HashSet<String>>,
    synced: bool,
    /// The watch broke, and nothing was heard since: perhaps nobody serves the resource any more.
    broken: bool,
}

struct Watch {
    objects: Arc<Mutex<Objects>>,
    stop: Shutdown,
}

/// Told of namespaces in which there are more or fewer objects than before.
type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

pub struct Counts {
    client: Client,
    shutdown: Shutdown,
    on_change: OnChange,
    /// By `deployments.apps`.
    watches: Mutex<HashMap<String, Watch>>,
}

impl Counts {
    pub fn new(client: Client, shutdown: Shutdown, on_change: impl Fn(&str) + Send + Sync + 'static) -> Counts {
        Counts { client, shutdown, on_change: Arc::new(on_change), watches: Mutex::default() }
    }

    /// Whether some of the names are not watched yet.
    pub fn missing(&self, names: &BTreeSet<String>) -> bool {
        let watches = self.watches.lock();
        names.iter().any(|name| !watches.contains_key(name))
    }

    /// Whether discovery would change what is watched: names come and go, and resources behind them may.
    pub fn is_unsettled(&self, names: &BTreeSet<String>) -> bool {
        let watches = self.watches.lock();
        watches.len() != names.len() || names.iter().any(|name| watches.get(name).is_none_or(|watch| watch.objects.lock().broken))
    }

    /// Watches the resources with these names and no others. Names that nothing is served for are left for later.
    pub fn set(&self, names: &BTreeSet<String>, served: &[Resource]) {
        let mut watches = self.watches.lock();
        watches.retain(|name, watch| {
            let resource = served.iter().find(|resource| resource.group_resource() == *name);
            let keep = names.contains(name) && resource.is_some();
            if !keep {
                watch.stop.cancel();
            }
            keep
        });
        for name in names {
            let resource = served.iter().find(|resource| resource.group_resource() == *name && resource.namespaced);
            let Some(resource) = resource.filter(|_| !watches.contains_key(name)) else { continue };
            let watch = Watch { objects: Arc::default(), stop: self.shutdown.child_token() };
            tokio::spawn({
                let (resource, client, on_change) = (resource.clone(), self.client.clone(), self.on_change.clone());
                let (objects, stop) = (watch.objects.clone(), watch.stop.clone());
                async move {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = follow(&resource, &client, &objects, &on_change) => {}
                    }
                }
            });
            watches.insert(name.clone(), watch);
        }
    }

    /// How many there are; nothing if that is not known (yet).
    pub fn get(&self, name: &str, namespace: &str) -> Option<usize> {
        let watches = self.watches.lock();
        let objects = watches.get(name)?.objects.lock();
        objects.synced.then(|| objects.by_namespace.get(namespace).map_or(0, HashSet::len))
    }
}

async fn follow(resource: &Resource, client: &Client, objects: &Mutex<Objects>, on_change: &OnChange) {
    let mut retry = RETRY_MIN;
    let mut events = watching::events(resource.everywhere(client), watcher::Config::default().streaming_lists()).boxed();
    let mut listed = Objects::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                retry = RETRY_MIN;
                objects.lock().broken = false;
                let changed = take(event, &mut listed, objects);
                changed.iter().for_each(|namespace| on_change(namespace));
            }
            Err(error) => {
                tracing::debug!(resource = resource.group_resource(), %error, "watch failed, trying again");
                objects.lock().broken = true;
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// The namespaces in which the number changed.
fn take(event: Event<Metadata>, listed: &mut Objects, objects: &Mutex<Objects>) -> Vec<String> {
    let names = |object: Metadata| (object.metadata.namespace.unwrap_or_default(), object.metadata.uid.unwrap_or_default());
    match event {
        Event::Init => *listed = Objects::default(),
        Event::InitApply(object) => {
            let (namespace, uid) = names(object);
            listed.by_namespace.entry(namespace).or_default().insert(uid);
        }
        Event::InitDone => {
            let new = Objects { synced: true, ..std::mem::take(listed) };
            let old = std::mem::replace(&mut *objects.lock(), new);
            let all: BTreeSet<String> = old.by_namespace.into_keys().chain(objects.lock().by_namespace.keys().cloned()).collect();
            return all.into_iter().collect();
        }
        Event::Apply(object) => {
            let (namespace, uid) = names(object);
            if objects.lock().by_namespace.entry(namespace.clone()).or_default().insert(uid) {
                return vec![namespace];
            }
        }
        Event::Delete(object) => {
            let (namespace, uid) = names(object);
            let mut objects = objects.lock();
            let Some(known) = objects.by_namespace.get_mut(&namespace) else { return Vec::new() };
            known.remove(&uid);
            if known.is_empty() {
                objects.by_namespace.remove(&namespace);
            }
            return vec![namespace];
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::core::PartialObjectMetaExt;

    use super::*;

    fn object(namespace: &str, uid: &str) -> Metadata {
        let (namespace, uid) = (Some(namespace.to_owned()), Some(uid.to_owned()));
        ObjectMeta { namespace, uid, ..ObjectMeta::default() }.into_response_partial()
    }

    #[test]
    fn names_say_what_is_counted() {
        assert_eq!(group_resource("count/deployments.apps"), Some("deployments.apps"));
        assert_eq!(group_resource("configmaps"), Some("configmaps"));
        assert_eq!(group_resource("count/pods"), None);
        assert_eq!(group_resource("requests.cpu"), None);
    }

    #[test]
    fn objects_are_counted_by_namespace() {
        let (objects, mut listed) = (Mutex::default(), Objects::default());
        let mut take = |event| take(event, &mut listed, &objects);
        take(Event::Init);
        take(Event::InitApply(object("a", "1")));
        assert_eq!(take(Event::InitDone), ["a"]);
        assert_eq!(take(Event::Apply(object("a", "1"))), [""; 0]);
        assert_eq!(take(Event::Apply(object("b", "2"))), ["b"]);
        assert_eq!(take(Event::Delete(object("a", "1"))), ["a"]);
        assert_eq!(objects.lock().by_namespace.len(), 1);
    }
}
