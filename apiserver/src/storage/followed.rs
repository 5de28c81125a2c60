//! Which resources are kept up to date.
//!
//! Owns the answer to "whose is this key". A prefix has one resource that new readers are led to, and, while that takes the place
//! of another, the other one too.

use std::collections::HashMap;
use std::sync::Arc;

use super::cache::Resource;
use super::key;

/// Where the changes of a key go.
pub(super) struct Route<'k> {
    pub resource: Arc<Resource>,
    /// Those that the resource has replaced and that are still read.
    pub replaced: Vec<Arc<Resource>>,
    /// The object's key in them.
    pub key: &'k str,
}

#[derive(Default)]
pub(super) struct Followed {
    by_prefix: HashMap<Arc<str>, Arc<Resource>>,
    /// Those that have been replaced and are still read. Empty but for moments.
    replaced: Vec<Arc<Resource>>,
}

impl Followed {
    pub fn get_or_insert(&mut self, prefix: &Arc<str>, new: impl FnOnce() -> Arc<Resource>) -> Arc<Resource> {
        self.by_prefix.entry(prefix.clone()).or_insert_with(new).clone()
    }

    /// Leads the changes of the prefix to `new` from now on, and to `old` as well if they went there.
    pub fn succeed(&mut self, old: &Arc<Resource>, new: Arc<Resource>) {
        if let Some(before) = self.by_prefix.insert(new.spec.prefix.clone(), new)
            && Arc::ptr_eq(&before, old)
        {
            self.replaced.push(before);
        }
    }

    /// Undoes [`Followed::succeed`].
    pub fn restore(&mut self, old: &Arc<Resource>, new: &Arc<Resource>) {
        self.remove(new);
        if let Some(at) = self.replaced.iter().position(|r| Arc::ptr_eq(r, old)) {
            self.by_prefix.insert(old.spec.prefix.clone(), self.replaced.swap_remove(at));
        }
    }

    pub fn remove(&mut self, resource: &Arc<Resource>) {
        self.replaced.retain(|r| !Arc::ptr_eq(r, resource));
        if self.by_prefix.get(&resource.spec.prefix).is_some_and(|known| Arc::ptr_eq(known, resource)) {
            self.by_prefix.remove(&resource.spec.prefix);
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_prefix.values().chain(&self.replaced)
    }

    /// Where the changes of a key go.
    pub fn route<'k>(&self, key: &'k str) -> Option<Route<'k>> {
        let (resource, key) = key::split(key).find_map(|(prefix, rest)| Some((self.by_prefix.get(prefix)?.clone(), rest)))?;
        let replaced = self.replaced.iter().filter(|r| r.spec.prefix == resource.spec.prefix).cloned().collect();
        Some(Route { resource, replaced, key })
    }
}
