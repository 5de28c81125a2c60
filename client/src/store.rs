//! What an informer knows: the objects by key, and by whatever else they are looked up by.
//!
//! Pure: it is told of objects and says what changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::object::{Object, ObjectKey};

/// The keys under which an index lists an object.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    keys_of: IndexFn<K>,
    objects: HashMap<String, BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &Arc<K>) {
        for value in (self.keys_of)(object) {
            self.objects.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.keys_of)(object) {
            let Some(set) = self.objects.get_mut(&value) else { continue };
            set.remove(key);
            if set.is_empty() {
                self.objects.remove(&value);
            }
        }
    }
}

/// Objects of one kind, in the order of their keys.
pub struct Store<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K> Default for Store<K> {
    fn default() -> Store<K> {
        Store { objects: BTreeMap::new(), indexes: HashMap::new() }
    }
}

impl<K: Object> Store<K> {
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        let namespace = namespace.to_owned();
        self.objects.range(from..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// Makes objects findable by other keys. A name that is taken keeps its index.
    pub fn add_index(&mut self, name: &'static str, keys_of: IndexFn<K>) {
        if self.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { keys_of, objects: HashMap::new() };
        for (key, object) in &self.objects {
            index.insert(key, object);
        }
        self.indexes.insert(name, index);
    }

    /// The objects that an index lists under a key; none if there is no such index.
    pub fn by_index(&self, name: &str, key: &str) -> impl Iterator<Item = &Arc<K>> {
        self.indexes.get(name).and_then(|index| index.objects.get(key)).into_iter().flat_map(BTreeMap::values)
    }

    /// Puts an object in; gives the one that was there.
    pub fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = K::key(&object);
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};

    use super::*;

    fn pod(namespace: &str, name: &str, node: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(namespace.to_owned());
        pod.metadata.name = Some(name.to_owned());
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        Arc::new(pod)
    }

    fn names<'a>(objects: impl Iterator<Item = &'a Arc<Pod>>) -> Vec<String> {
        objects.map(|pod| pod.key().to_string()).collect()
    }

    #[test]
    fn an_index_follows_its_objects() {
        let mut store = Store::default();
        store.insert(pod("a", "1", "x"));
        store.add_index("node", |pod: &Pod| pod.spec.iter().flat_map(|s| s.node_name.clone()).collect());
        store.insert(pod("b", "2", "x"));
        store.insert(pod("b", "1", "y"));
        assert_eq!(names(store.by_index("node", "x")), ["a/1", "b/2"]);
        store.insert(pod("a", "1", "y"));
        assert_eq!(names(store.by_index("node", "x")), ["b/2"]);
        store.remove(&ObjectKey::new("b", "1"));
        assert_eq!(names(store.by_index("node", "y")), ["a/1"]);
        assert_eq!(names(store.by_index("other", "y")), [""; 0]);
    }

    #[test]
    fn a_namespace_is_a_range() {
        let mut store = Store::default();
        for (namespace, name) in [("a", "1"), ("ab", "2"), ("b", "3"), ("b", "4")] {
            store.insert(pod(namespace, name, ""));
        }
        assert_eq!(names(store.in_namespace("b")), ["b/3", "b/4"]);
        assert_eq!(names(store.in_namespace("a")), ["a/1"]);
        assert_eq!(names(store.in_namespace("c")), [""; 0]);
        assert_eq!(Store::<ConfigMap>::default().len(), 0);
    }
}
