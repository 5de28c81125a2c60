//! The config maps and secrets that this node's pods refer to, each followed by a watch of its own, as the node authorizer allows.
//!
//! An object is watched from when the first pod refers to it until the last one is gone. Immutable ones are read once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Object, Shutdown};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};

use super::ObjectError;

/// How long a pod waits for the first answer of a watch.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// What a kind is called in messages, and whether an object of it says that it never changes.
pub trait Watched: Object {
    const NAME: &'static str;
    fn is_immutable(&self) -> bool;
    fn api(client: Client, namespace: &str) -> Api<Self>;
}

impl Watched for ConfigMap {
    const NAME: &'static str = "configmap";

    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    fn api(client: Client, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(client, namespace)
    }
}

impl Watched for Secret {
    const NAME: &'static str = "secret";

    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    fn api(client: Client, namespace: &str) -> Api<Secret> {
        Api::namespaced(client, namespace)
    }
}

type Handler = Box<dyn Fn(&str) + Send + Sync>;

/// Whoever wants to know of pods whose objects have changed.
#[derive(Default)]
pub struct Handlers(RwLock<Vec<Handler>>);

impl Handlers {
    pub fn add(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        self.0.write().push(Box::new(handler));
    }

    pub fn tell(&self, pod_uid: &str) {
        self.0.read().iter().for_each(|handler| handler(pod_uid));
    }
}

struct Entry<K> {
    informer: Informer<K>,
    stop: Shutdown,
    pods: Arc<Mutex<BTreeSet<String>>>,
}

type Key = (String, String);

/// The watched objects of one kind. Their number is bounded by what the node's pods refer to.
pub struct Objects<K> {
    client: Client,
    shutdown: Shutdown,
    handlers: Arc<Handlers>,
    entries: Mutex<HashMap<Key, Entry<K>>>,
}

impl<K: Watched> Objects<K> {
    pub fn new(client: Client, shutdown: Shutdown, handlers: Arc<Handlers>) -> Objects<K> {
        Objects { client, shutdown, handlers, entries: Mutex::default() }
    }

    /// The pod refers to exactly these objects from now on.
    pub fn refer(&self, pod_uid: &str, namespace: &str, names: &BTreeSet<String>) {
        let mut entries = self.entries.lock();
        entries.retain(|(its_namespace, name), entry| {
            let mut pods = entry.pods.lock();
            if its_namespace != namespace || !names.contains(name) {
                pods.remove(pod_uid);
            }
            let kept = !pods.is_empty();
            if !kept {
                entry.stop.cancel();
            }
            kept
        });
        for name in names {
            let key = (namespace.to_owned(), name.clone());
            let entry = entries.entry(key).or_insert_with(|| self.follow(namespace, name));
            entry.pods.lock().insert(pod_uid.to_owned());
        }
    }

    fn follow(&self, namespace: &str, name: &str) -> Entry<K> {
        let stop = self.shutdown.child_token();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}")).streaming_lists();
        let informer = Informer::start(K::api(self.client.clone(), namespace), config, stop.clone());
        let pods: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (seen, told, handlers, ending) = (informer.clone(), pods.clone(), self.handlers.clone(), stop.clone());
        informer.on_change(move |change| {
            if change.object().is_immutable() && seen.has_synced() {
                ending.cancel();
            }
            // Whoever asked first waits for the first answer anyway.
            if seen.has_synced() {
                let pods: Vec<String> = told.lock().iter().cloned().collect();
                pods.iter().for_each(|pod| handlers.tell(pod));
            }
        });
        Entry { informer, stop, pods }
    }

    /// The object as the watch shows it, or as the API server gives it if no pod refers to it.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Arc<K>, ObjectError> {
        let watched = {
            let entries = self.entries.lock();
            entries.get(&(namespace.to_owned(), name.to_owned())).map(|entry| (entry.informer.clone(), entry.stop.clone()))
        };
        let Some((informer, stop)) = watched else { return self.read(namespace, name).await };
        if tokio::time::timeout(SYNC_TIMEOUT, informer.synced()).await.is_err() {
            return Err(ObjectError::Other(format!("failed to sync {} cache: timed out waiting for the condition", K::NAME)));
        }
        let found = informer.get(namespace, name);
        if found.as_ref().is_some_and(|object| object.is_immutable()) {
            stop.cancel();
        }
        found.ok_or_else(|| ObjectError::NotFound(format!("{} \"{name}\" not found", K::NAME)))
    }

    async fn read(&self, namespace: &str, name: &str) -> Result<Arc<K>, ObjectError> {
        match K::api(self.client.clone(), namespace).get(name).await {
            Ok(object) => Ok(Arc::new(object)),
            Err(error) if client::answer::is_not_found(&error) => Err(ObjectError::NotFound(format!("{} \"{name}\" not found", K::NAME))),
            Err(error) => Err(ObjectError::Other(super::message(&error))),
        }
    }
}

/// The names of the config maps and of the secrets that a pod refers to, anywhere in its spec.
pub fn references(pod: &Pod) -> BTreeMap<&'static str, BTreeSet<String>> {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    secrets.extend(spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(crate::container_config::as_container);
    let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).cloned().chain(ephemeral).collect();
    for container in &containers {
        for from in container.env_from.iter().flatten() {
            config_maps.extend(from.config_map_ref.as_ref().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_ref.as_ref().map(|reference| reference.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(from.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        let published = volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref());
        secrets.extend(published.map(|reference| reference.name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    for names in [&mut config_maps, &mut secrets] {
        names.remove("");
    }
    BTreeMap::from([(ConfigMap::NAME, config_maps), (Secret::NAME, secrets)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_a_pod_refers_to_is_found() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}, {"name": ""}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "from"}}]}],
            "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "volume"}},
                {"name": "b", "secret": {"secretName": "secret"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "projected"}}, {"secret": {"name": "other"}}]}}]}}))
        .expect("it is a pod");
        let found = references(&pod);
        assert_eq!(found[ConfigMap::NAME].iter().collect::<Vec<_>>(), ["from", "projected", "volume"]);
        assert_eq!(found[Secret::NAME].iter().collect::<Vec<_>>(), ["key", "other", "pull", "secret"]);
    }
}
