//! Storage: the watch cache over a durable store.
//!
//! Owns every object at rest and every revision. Only this folder names a store or etcd; it never sees HTTP, and it never
//! decides what an object may contain. From the outside in:
//! - [`Storage`] reads and writes objects: encode, commit, and the same bytes answer, enter the cache, go to watchers;
//! - [`cache`] holds each resource in memory, [`log`] tells its changes to watchers, [`object`] is one revision of one object;
//! - [`store`] is the contract that [`embedded`] and [`etcd`] fulfil.
//!
//! What holds at all times: events enter every log in the order of revisions; nothing is visible before it is durable;
//! a write is acknowledged after the cache has it, so that whoever was answered reads what was written.

pub mod cache;
mod dispatch;
pub mod embedded;
pub mod encode;
pub mod encrypted;
pub mod etcd;
mod followed;
pub mod intern;
pub mod key;
pub mod log;
pub mod mortal;
pub mod object;
mod progress;
pub mod resource;
pub mod store;
#[cfg(test)]
mod suite;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use serde_json::Value;
use tokio::task::JoinHandle;

pub use cache::{Cursor, Resource, Snapshot, Stamp};
pub use encode::{EncodeError, Prepared};
pub use log::{Event, EventKind, Expired, LogLimits, Scope};
pub use mortal::Mortal;
pub use object::{EncodingId, Labels, Object};
pub use resource::{Codec, CodecError, FieldOrder, JsonCodec, ResourceSpec, SelectableField};
pub use store::{Coming, Key, Revision, Store, StoreError};

use encode::Encoder;
use followed::Followed;
use intern::Interner;
use progress::Progress;
use write::Pending;

/// How long a read waits for a revision that the cache does not have yet, as upstream.
pub const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Why storage did not do as asked. One bridge turns these into a Status.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    AlreadyExists,
    /// The object has changed; the cache holds the change already.
    #[error("the object has been modified")]
    Conflict { current: Revision },
    #[error(transparent)]
    Expired(#[from] Expired),
    /// It is there, but cannot be decrypted.
    #[error("unable to transform key {key:?}: {why}")]
    Unreadable { key: String, why: Arc<str> },
    /// A read asked for a revision that did not come in time.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeRevision { requested: Revision, current: Revision },
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How fresh a read must be: what `resourceVersion` and `resourceVersionMatch` ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// No `resourceVersion`: at least as fresh as any write acknowledged before.
    Latest,
    /// `resourceVersion=0`: whatever the cache has.
    Any,
    NotOlderThan(Revision),
    Exact(Revision),
}

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub log: LogLimits,
    /// How often history is compacted, and so how long it is kept at least. Zero: never.
    pub compaction_interval: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config { log: LogLimits::default(), compaction_interval: Duration::from_secs(300) }
    }
}

/// All resources in one store.
pub struct Storage {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

struct Inner {
    store: Arc<dyn Store>,
    config: Config,
    interner: Interner,
    progress: Arc<Progress>,
    /// History before this revision is gone.
    compacted: AtomicU64,
    resources: RwLock<Followed>,
    pending: Pending,
}

impl Storage {
    /// Starts to follow a store. Resources are loaded when they are registered.
    pub async fn open(store: Arc<dyn Store>, config: Config) -> Result<Storage, Error> {
        let start = store.revision().await?;
        let inner = Arc::new(Inner {
            store,
            config,
            interner: Interner::default(),
            progress: Arc::new(Progress::new(start)),
            compacted: AtomicU64::new(0),
            resources: RwLock::default(),
            pending: Pending::default(),
        });
        let mut tasks = vec![tokio::spawn(dispatch::upkeep(inner.clone()))];
        let follower: Weak<Inner> = Arc::downgrade(&inner);
        match inner.store.tell(follower) {
            Some(told_after) => inner.progress.advance(told_after),
            None => tasks.push(tokio::spawn(dispatch::follow(inner.clone(), start))),
        }
        Ok(Storage { inner, tasks })
    }

    /// Keys below a prefix that go when nobody renews them; `kind` is what the configuration of ciphers calls them.
    pub fn mortal(&self, prefix: &'static str, kind: &encrypted::Kind) -> Mortal {
        Mortal::new(self.inner.store.clone(), prefix, kind)
    }

    /// Loads a resource into memory. A prefix that is registered already gives the resource that is there, whatever the
    /// description: use [`Storage::replace`] if that has changed. Objects that cannot be decoded are reported and left out.
    pub async fn register(&self, spec: ResourceSpec) -> Result<Arc<Resource>, Error> {
        let inner = &self.inner;
        let resource = inner.resources.write().get_or_insert(&spec.prefix.clone(), || inner.resource(spec));
        inner.store.declare(&resource.spec.prefix, &resource.spec.kind);
        // From here on the resource's changes wait in it, so that the load may take its time.
        let loaded = resource.ready.get_or_try_init(|| async { inner.load(&resource).await.map(|_| ()) }).await;
        if let Err(error) = loaded {
            self.unregister(&resource);
            return Err(error);
        }
        Ok(resource)
    }

    /// Loads a resource that takes the place of another of the same prefix, whose description has changed. The old one is kept
    /// up to date all the same, for those who still read it; unregister it when nobody is led to it any more. If the load
    /// fails, everything is as it was.
    pub async fn replace(&self, old: &Arc<Resource>, spec: ResourceSpec) -> Result<Arc<Resource>, Error> {
        let resource = self.inner.resource(spec);
        self.inner.resources.write().succeed(old, resource.clone());
        let loaded = resource.ready.get_or_try_init(|| async { self.inner.load(&resource).await.map(|_| ()) }).await;
        if let Err(error) = loaded {
            self.inner.resources.write().restore(old, &resource);
            self.retire(&resource);
            return Err(error);
        }
        Ok(resource)
    }

    /// Forgets a resource (a custom resource whose definition is gone or has changed). Its watchers are expired once they have seen
    /// all that has happened to it, those to come at once; its objects stay in the store.
    pub fn unregister(&self, resource: &Arc<Resource>) {
        self.inner.resources.write().remove(resource);
        self.retire(resource);
    }

    fn retire(&self, resource: &Resource) {
        let mut wake = Vec::new();
        resource.close(&mut wake);
        dispatch::notify(wake);
    }

    /// The revision that the caches have reached.
    pub fn revision(&self) -> Revision {
        self.inner.progress.now()
    }

    /// History before this revision is gone; 0 if none is.
    pub fn compacted(&self) -> Revision {
        Revision(self.inner.compacted.load(Ordering::Acquire))
    }

    /// The store itself, for what is kept beside objects (leases of API servers, allocations).
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// Announces a write, which the store may let others wait for.
    pub fn announce(&self) -> Option<Coming> {
        self.inner.store.announce()
    }

    /// Waits until the caches are as fresh as the store was when this was called.
    pub async fn refresh(&self) -> Result<Revision, Error> {
        let current = self.inner.store.revision().await?;
        self.wait_until(current).await?;
        Ok(current)
    }

    /// Waits until the caches have a revision, at most [`FRESHNESS_TIMEOUT`].
    pub async fn wait_until(&self, revision: Revision) -> Result<(), Error> {
        let store = &self.inner.store;
        if self.inner.progress.reaches(revision, FRESHNESS_TIMEOUT, || store.request_progress()).await {
            return Ok(());
        }
        Err(Error::TooLargeRevision { requested: revision, current: self.revision() })
    }

    /// One object.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str, freshness: Freshness) -> Result<Arc<Object>, Error> {
        let found = match freshness {
            Freshness::Exact(_) => self.list(resource, freshness).await?.get(namespace, name).cloned(),
            _ => {
                self.await_freshness(freshness).await?;
                resource.get(namespace, name)
            }
        };
        found.ok_or_else(|| resource.why_absent(namespace, name))
    }

    /// All objects of a resource at one revision. Pages of one list read one snapshot: pin it
    /// ([`Resource::pin`]) after the first page and ask for its exact revision later.
    pub async fn list(&self, resource: &Resource, freshness: Freshness) -> Result<Snapshot, Error> {
        self.await_freshness(freshness).await?;
        // Nobody is to believe that what cannot be read is not there.
        if let Some(unreadable) = resource.first_unreadable() {
            return Err(unreadable);
        }
        let Freshness::Exact(revision) = freshness else { return Ok(resource.snapshot()) };
        let oldest = self.compacted();
        if revision < oldest {
            return Err(Expired { requested: revision, oldest }.into());
        }
        match resource.snapshot_at(revision) {
            Ok(snapshot) => Ok(snapshot),
            // The store may remember more than the log does.
            Err(expired) => match self.inner.load_objects(resource, Some(revision)).await {
                Ok((objects, revision)) => Ok(Snapshot::new(objects.into_iter(), revision)),
                Err(StoreError::Compacted { .. }) => Err(expired.into()),
                Err(error) => Err(error.into()),
            },
        }
    }

    async fn await_freshness(&self, freshness: Freshness) -> Result<(), Error> {
        match freshness {
            Freshness::Any => Ok(()),
            Freshness::Latest => self.refresh().await.map(|_| ()),
            Freshness::NotOlderThan(revision) | Freshness::Exact(revision) => self.wait_until(revision).await,
        }
    }

    /// Encodes and indexes an object without writing it: what a dry run answers with.
    pub fn prepare(&self, resource: &Resource, value: &Value) -> Result<Prepared, Error> {
        let prepared = self.inner.encoder(resource).prepare(value)?;
        if prepared.namespace.is_empty() == resource.spec.namespaced {
            return Err(EncodeError::WrongScope.into());
        }
        Ok(prepared)
    }
}

impl Inner {
    fn encoder<'a>(&'a self, resource: &'a Resource) -> Encoder<'a> {
        Encoder { order: resource.spec.order, fields: &resource.spec.fields, embedded: &resource.spec.embedded, interner: &self.interner }
    }

    fn resource(&self, spec: ResourceSpec) -> Arc<Resource> {
        Arc::new(Resource::new(spec, self.config.log, self.progress.clone()))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Storage {
    /// Stops following the store and lets it go; returns when the tasks have ended.
    pub async fn close(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // An aborted task ends with an error by design.
            let _ = task.await;
        }
    }
}
