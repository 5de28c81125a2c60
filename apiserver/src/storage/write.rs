//! Writes: create, update, delete.
//!
//! Owns the way of a write: encode once, commit, wait until the cache has it, answer with the very object in the
//! cache. It never retries a conflict that the caller should know of.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use super::cache::Resource;
use super::encode::Prepared;
use super::key;
use super::object::Object;
use super::store::{Change, Expected, Key, Revision, StoreError, Txn};
use super::{Error, Storage};

/// How often an unconditional deletion tries again when the object changes under it.
const DELETE_ATTEMPTS: usize = 16;

impl Storage {
    /// Writes a new object and gives it back as it is stored. `AlreadyExists` if there is one.
    pub async fn create(&self, resource: &Resource, value: &Value, ttl_seconds: Option<u32>) -> Result<Arc<Object>, Error> {
        self.put(resource, value, Expected::Absent, ttl_seconds).await
    }

    /// Writes an object over the revision `expected`, or over whatever there is if that is `None`. `Conflict` if the object
    /// has another revision, `NotFound` if `expected` is given and there is no object. An update that changes nothing is
    /// not written and answers with the object as it is.
    pub async fn update(
        &self,
        resource: &Resource,
        value: &Value,
        expected: Option<Revision>,
        ttl_seconds: Option<u32>,
    ) -> Result<Arc<Object>, Error> {
        self.put(resource, value, expected.map_or(Expected::Any, Expected::At), ttl_seconds).await
    }

    /// Deletes the object at revision `expected`, or whatever there is, and gives its last state under the
    /// revision of the deletion.
    pub async fn delete(&self, resource: &Resource, namespace: &str, name: &str, expected: Option<Revision>) -> Result<Arc<Object>, Error> {
        let key = key::object(&resource.spec.prefix, namespace, name);
        for _ in 0..DELETE_ATTEMPTS {
            let Some(object) = self.current(resource, namespace, name).await? else { return Err(resource.why_absent(namespace, name)) };
            if let Some(expected) = expected
                && expected != object.revision()
            {
                self.refresh().await?;
                match resource.get(namespace, name) {
                    None => return Err(Error::NotFound),
                    Some(now) if now.revision() != expected => return Err(Error::Conflict { current: now.revision() }),
                    // The cache was behind and has caught up with what the caller knew.
                    Some(_) => continue,
                }
            }
            match self.commit(Txn::delete(key.clone(), Expected::At(object.revision()))).await {
                Ok(revision) => return Ok(Arc::new(object.at_revision(revision))),
                Err(Error::Conflict { .. }) if expected.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        let current = resource.get(namespace, name).map_or(Revision(0), |o| o.revision());
        Err(Error::Conflict { current })
    }

    async fn put(&self, resource: &Resource, value: &Value, expected: Expected, ttl_seconds: Option<u32>) -> Result<Arc<Object>, Error> {
        let prepared = self.prepare(resource, value)?;
        if expected != Expected::Absent
            && let Some(same) = self.unchanged(resource, &prepared, expected).await?
        {
            return Ok(same);
        }
        let stored = resource.spec.codec.encode(value, prepared.whole())?;
        let key = key::object(&resource.spec.prefix, &prepared.namespace, &prepared.name);
        let write = Arc::new(PendingWrite { by: resource.number, stored: stored.clone(), prepared, object: OnceLock::new() });
        let guard = self.inner.pending.add(key.clone(), write.clone());
        let change = Change::Put { value: stored, ttl_seconds };
        let revision = self.commit(Txn { key, change, expected, plain: None }).await?;
        drop(guard);
        // Another write of the same bytes may have taken the place of this one in the cache; then this is the object that
        // this write made.
        Ok(match write.object.get() {
            Some(object) if object.revision() == revision => object.clone(),
            _ => {
                let name = &*write.prepared.name;
                let key = if resource.spec.namespaced { format!("{}/{name}", write.prepared.namespace) } else { name.to_owned() };
                Arc::new(Object::new(key.into(), &write.prepared, revision))
            }
        })
    }

    /// The current object, if it is at the expected revision and a write would not change it.
    async fn unchanged(&self, resource: &Resource, prepared: &Prepared, expected: Expected) -> Result<Option<Arc<Object>>, Error> {
        let current = || {
            let object = resource.get(&prepared.namespace, &prepared.name)?;
            let fits = match expected {
                Expected::At(revision) => object.revision() == revision,
                Expected::Any => true,
                Expected::Absent => false,
            };
            (fits && object.is_same_as(prepared)).then_some(object)
        };
        if current().is_none() {
            return Ok(None);
        }
        // The cache may be behind the store, and then there is something to write after all.
        self.refresh().await?;
        let key = key::object(&resource.spec.prefix, &prepared.namespace, &prepared.name);
        if self.inner.store.is_stale(&key).await {
            return Ok(None);
        }
        Ok(current())
    }

    /// The object as the cache has it; the store is asked before an absence is believed.
    async fn current(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Error> {
        if let Some(object) = resource.get(namespace, name) {
            return Ok(Some(object));
        }
        self.refresh().await?;
        Ok(resource.get(namespace, name))
    }

    /// Commits, and returns when the cache shows the outcome, be it this write or the one that was in its way.
    async fn commit(&self, txn: Txn) -> Result<Revision, Error> {
        let (error, seen) = match self.inner.store.commit(txn).await {
            Ok(revision) => {
                // The write is durable and has to be acknowledged, even by a cache that cannot follow (a store that is lost
                // just now).
                if let Err(error) = self.wait_until(revision).await {
                    tracing::warn!(%revision, %error, "a write is acknowledged before the cache has it");
                }
                return Ok(revision);
            }
            Err(StoreError::Exists { seen, .. }) => (Error::AlreadyExists, seen),
            Err(StoreError::Absent { seen, .. }) => (Error::NotFound, seen),
            Err(StoreError::Changed { current, seen, .. }) => (Error::Conflict { current }, seen),
            Err(other) => return Err(other.into()),
        };
        self.wait_until(seen).await?;
        Err(error)
    }
}

/// The writes under way, so that what comes back from the store need not be decoded.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<Key, Vec<Arc<PendingWrite>>>>);

pub(super) struct PendingWrite {
    /// The resource whose fields `prepared` has.
    by: u64,
    stored: Bytes,
    pub prepared: Prepared,
    object: OnceLock<Arc<Object>>,
}

impl PendingWrite {
    /// The write is in the cache as this object.
    pub fn landed(&self, object: Arc<Object>) {
        // If equal bytes were written twice, the first to come is kept; the writer compares revisions.
        let _ = self.object.set(object);
    }
}

impl Pending {
    /// Registers a write until the guard is dropped, even if its request is given up meanwhile.
    fn add(&self, key: Key, write: Arc<PendingWrite>) -> PendingGuard<'_> {
        self.0.lock().entry(key.clone()).or_default().push(write.clone());
        PendingGuard { pending: self, key, write }
    }

    /// A write under way of just these bytes to this very resource, whoever stored them: equal bytes are equal objects.
    pub fn find(&self, resource: &Resource, key: &str, stored: &Bytes) -> Option<Arc<PendingWrite>> {
        let pending = self.0.lock();
        let writes = pending.get(key)?;
        writes.iter().find(|w| w.by == resource.number && w.object.get().is_none() && w.stored == *stored).cloned()
    }
}

struct PendingGuard<'a> {
    pending: &'a Pending,
    key: Key,
    write: Arc<PendingWrite>,
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        let mut pending = self.pending.0.lock();
        if let Some(writes) = pending.get_mut(&self.key) {
            writes.retain(|w| !Arc::ptr_eq(w, &self.write));
            if writes.is_empty() {
                pending.remove(&self.key);
            }
        }
    }
}
