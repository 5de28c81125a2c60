//! From the store into the caches: what the store itself tells, or the one task that follows its watch, and the upkeep of what it leaves
//! behind.
//!
//! Owns the order in which changes become visible. It is the only caller of [`Resource::apply`], which is why every
//! log is in the order of revisions. It never writes objects.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::Notify;

use super::cache::{CacheChange, Resource, Unreadable};
use super::followed::Route;
use super::object::Object;
use super::store::{Batch, Entry, Follower, Key, Loaded, Revision, Round, StoreError, StoreEvent};
use super::{Error, Inner};

/// The pauses before following a store again that has broken off.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How often unused encodings are dropped.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

/// How often what could not be decrypted is tried again, and how many values of a resource.
const READ_AGAIN_PERIOD: Duration = Duration::from_secs(2);
const READ_AGAIN_LIMIT: usize = 16;

/// Applies every batch of the store, forever. A stream that breaks is taken up where it broke; if
/// the store has forgotten that place, everything is loaded anew and watchers are expired.
pub(super) async fn follow(inner: Arc<Inner>, mut after: Revision) {
    let mut pause = RETRY_FIRST;
    loop {
        let mut batches = inner.store.watch(after);
        let broken = loop {
            match batches.next().await {
                Some(Ok(batch)) => {
                    after = after.max(batch.revision);
                    pause = RETRY_FIRST;
                    inner.apply(batch);
                }
                Some(Err(error)) => break error,
                None => break StoreError::Unavailable("the watch has ended".to_owned()),
            }
        };
        if let StoreError::Compacted { .. } = broken {
            tracing::warn!(%after, "the store has compacted what the cache had yet to see; loading anew");
            match inner.reload().await {
                Ok(revision) => {
                    after = revision;
                    continue;
                }
                Err(error) => tracing::warn!(%error, "loading anew failed; will try again"),
            }
        } else {
            tracing::warn!(error = %broken, %after, "following the store failed; will try again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// Compacts history at the configured interval and drops encodings that nobody uses.
pub(super) async fn upkeep(inner: Arc<Inner>) {
    let interval = inner.config.compaction_interval;
    let compactions = async {
        let mut round = Round::default();
        if interval.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(interval).await;
            match inner.store.compact(round).await {
                Ok((next, compacted)) => {
                    round = next;
                    if let Some(revision) = compacted {
                        inner.compacted.fetch_max(revision.0, Ordering::AcqRel);
                        inner.each_resource(|r| r.unpin(revision));
                    }
                }
                Err(error) => tracing::warn!(%error, "compaction failed; will try again"),
            }
        }
    };
    let sweeps = async {
        loop {
            tokio::time::sleep(SWEEP_PERIOD).await;
            inner.each_resource(|r| r.sweep_encodings());
        }
    };
    let again = async {
        loop {
            tokio::time::sleep(READ_AGAIN_PERIOD).await;
            inner.read_again().await;
        }
    };
    futures::join!(compactions, sweeps, again);
}

impl Follower for Inner {
    fn changed(&self, batch: Batch) {
        self.apply(batch);
    }
}

impl Inner {
    fn each_resource(&self, f: impl Fn(&Resource)) {
        let resources: Vec<_> = self.resources.read().all().cloned().collect();
        resources.iter().for_each(|r| f(r));
    }

    /// Makes a batch visible: all caches first, then the common revision, then those who wait.
    fn apply(&self, batch: Batch) {
        let mut wake: Vec<Arc<Notify>> = Vec::new();
        let mut changes: Vec<(Arc<Resource>, Vec<CacheChange>)> = Vec::new();
        for event in batch.events {
            let Some(Route { resource, replaced, key }) = self.resources.read().route(&event.key) else { continue };
            for resource in std::iter::once(resource).chain(replaced) {
                let change = self.change(&resource, key, &event);
                match changes.iter_mut().find(|(r, _)| Arc::ptr_eq(r, &resource)) {
                    Some((_, list)) => list.push(change),
                    None => changes.push((resource, vec![change])),
                }
            }
        }
        for (resource, list) in changes {
            resource.apply(list, &mut wake);
        }
        self.progress.advance(batch.revision);
        notify(wake);
    }

    fn change(&self, resource: &Resource, key: &str, event: &StoreEvent) -> CacheChange {
        let readable = event.value.as_ref().filter(|_| event.unreadable.is_none());
        let object = readable.and_then(|stored| self.object(resource, key, &event.key, stored, event.revision));
        resource.note(key, event.value.as_ref().and_then(|stored| unreadable(&event.key, stored, event.unreadable.as_ref())));
        let key = match &object {
            Some(object) => object.key().clone(),
            None => resource.shared_key(key).unwrap_or_else(|| key.into()),
        };
        CacheChange { key, revision: event.revision, object }
    }

    /// The object in stored bytes: what a writer of this process has prepared if it is the same, decoded
    /// otherwise. `None`, with a report, for bytes that cannot be understood: such an object is not served.
    fn object(&self, resource: &Resource, key: &str, full: &str, stored: &Bytes, revision: Revision) -> Option<Arc<Object>> {
        let shared = resource.shared_key(key).unwrap_or_else(|| key.into());
        if let Some(write) = self.pending.find(resource, full, stored) {
            let object = Arc::new(Object::new(shared, &write.prepared, revision));
            write.landed(object.clone());
            return Some(object);
        }
        let decoded = resource.spec.codec.decode(stored).map_err(Error::from);
        match decoded.and_then(|value| Ok(self.encoder(resource).prepare(&value)?)) {
            Ok(prepared) => {
                let object = Object::new(shared, &prepared, revision);
                Some(Arc::new(if resource.spec.codec.is_current(stored) { object } else { object.outdated() }))
            }
            Err(error) => {
                tracing::error!(key = full, %revision, %error, "a stored object cannot be understood and is left out");
                None
            }
        }
    }

    /// Fills a resource's cache from the store.
    pub(super) async fn load(&self, resource: &Arc<Resource>) -> Result<Revision, Error> {
        let loaded = self.store.load(&format!("{}/", resource.spec.prefix), None).await?;
        let prefix = resource.spec.prefix.len() + 1;
        let hidden = loaded.entries.iter().filter_map(|entry| {
            let hidden = unreadable(&entry.key, &entry.value, entry.unreadable.as_ref())?;
            Some((Arc::from(&entry.key[prefix..]), hidden))
        });
        resource.note_all(hidden.collect());
        let (objects, revision) = self.objects(resource, loaded);
        let mut wake = Vec::new();
        resource.reset(objects, revision, &mut wake);
        notify(wake);
        Ok(revision)
    }

    pub(super) async fn load_objects(&self, resource: &Resource, at: Option<Revision>) -> Result<(Vec<Arc<Object>>, Revision), StoreError> {
        let loaded = self.store.load(&format!("{}/", resource.spec.prefix), at).await?;
        Ok(self.objects(resource, loaded))
    }

    fn objects(&self, resource: &Resource, loaded: Loaded) -> (Vec<Arc<Object>>, Revision) {
        let prefix = resource.spec.prefix.len() + 1;
        let readable = loaded.entries.into_iter().filter(|entry| entry.unreadable.is_none());
        let object = |Entry { key, revision, value, .. }: Entry| self.object(resource, &key[prefix..], &key, &value, revision);
        (readable.filter_map(object).collect(), loaded.revision)
    }

    /// Loads resources anew of which something can be read that could not before.
    async fn read_again(&self) {
        let resources: Vec<_> = self.resources.read().all().cloned().collect();
        for resource in resources {
            let mut better = false;
            for unreadable in resource.unreadable(READ_AGAIN_LIMIT) {
                better |= self.store.can_read(&unreadable.key, &unreadable.stored).await;
            }
            if better && let Err(error) = self.load(&resource).await {
                tracing::warn!(resource = &*resource.spec.prefix, %error, "loading anew failed; will try again");
            }
        }
    }

    /// Loads every resource anew: the revision after which to follow the store again.
    async fn reload(&self) -> Result<Revision, Error> {
        let from = self.store.revision().await?;
        let resources: Vec<_> = self.resources.read().all().cloned().collect();
        for resource in &resources {
            self.load(resource).await?;
        }
        self.progress.advance(from);
        Ok(from)
    }
}

/// A value that could not be decrypted, with a report.
fn unreadable(key: &Key, stored: &Bytes, why: Option<&Arc<str>>) -> Option<Unreadable> {
    let why = why?.clone();
    tracing::error!(key = &**key, %why, "a stored object cannot be decrypted");
    Some(Unreadable { key: key.clone(), stored: stored.clone(), why })
}

/// Wakes each of those to be woken once.
pub(super) fn notify(mut wake: Vec<Arc<Notify>>) {
    wake.sort_unstable_by_key(Arc::as_ptr);
    wake.dedup_by(|a, b| Arc::ptr_eq(a, b));
    wake.iter().for_each(|w| w.notify_waiters());
}
