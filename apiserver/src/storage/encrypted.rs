//! A store of which others see the plain values: what is written is encrypted on its way, what is read is decrypted.
//!
//! Owns which keys belong to which resource, and so which cipher they have; not the ciphers. The root that is part of what a cipher
//! authenticates is upstream's, whichever store lies below. A value that cannot be decrypted is told of as such and harms no other.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::BoxStream;
use parking_lot::{Mutex, RwLock};

use super::key;
use super::store::{Batch, Change, Coming, Entry, Follower, Key, Loaded, Revision, Round, Store, StoreError, Txn};

/// A resource as the configuration of ciphers names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: Arc<str>,
    pub resource: Arc<str>,
}

/// What encrypts and decrypts values. A key is the whole of it, with the root.
pub trait Ciphers: Send + Sync + 'static {
    /// Whether nothing is configured for a resource.
    fn is_plain(&self, kind: &Kind) -> bool;

    fn seal(&self, kind: &Kind, key: &str, plain: Bytes) -> Result<Bytes, String>;

    /// The plain value, and whether it would be written in another way now.
    fn open<'a>(&'a self, kind: &'a Kind, key: &'a str, stored: Bytes) -> BoxFuture<'a, Result<(Bytes, bool), String>>;
}

/// The store, and what is between it and everybody.
pub struct Encrypted {
    store: Arc<dyn Store>,
    veil: Arc<Veil>,
    /// Who follows, as long as this is here.
    unveiled: Mutex<Option<Arc<Unveiled>>>,
}

/// Tells a follower plain values. All that a store tells of itself was written through here, and what was encrypted is known.
struct Unveiled(Weak<dyn Follower>);

impl Follower for Unveiled {
    fn changed(&self, mut batch: Batch) {
        let Some(follower) = self.0.upgrade() else { return };
        for event in &mut batch.events {
            if let Some(plain) = event.plain.take() {
                event.value = Some(plain);
            }
        }
        follower.changed(batch);
    }
}

struct Veil {
    ciphers: Arc<dyn Ciphers>,
    root: String,
    kinds: RwLock<HashMap<Box<str>, Kind>>,
}

impl Encrypted {
    /// `root` is what all keys begin with in an etcd, without a slash at its end.
    pub fn new(store: Arc<dyn Store>, ciphers: Arc<dyn Ciphers>, root: &str) -> Encrypted {
        let root = format!("/{}/", root.trim_matches('/'));
        Encrypted { store, veil: Arc::new(Veil { ciphers, root, kinds: RwLock::default() }), unveiled: Mutex::default() }
    }
}

impl Veil {
    fn kind(&self, key: &str) -> Option<Kind> {
        let kinds = self.kinds.read();
        key::split(key).find_map(|(prefix, _)| kinds.get(prefix).cloned())
    }

    fn whole(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    /// The plain value, or the value as it lies and why it cannot be read.
    async fn open(&self, key: &Key, stored: Bytes) -> (Bytes, Option<Arc<str>>) {
        let Some(kind) = self.kind(key) else { return (stored, None) };
        match self.ciphers.open(&kind, &self.whole(key), stored.clone()).await {
            Ok((plain, _)) => (plain, None),
            Err(why) => (stored, Some(why.into())),
        }
    }

    async fn open_all(&self, mut batch: Batch) -> Batch {
        for event in &mut batch.events {
            if let Some(value) = event.value.take() {
                let (value, unreadable) = self.open(&event.key, value).await;
                (event.value, event.unreadable) = (Some(value), unreadable);
            }
        }
        batch
    }
}

impl Store for Encrypted {
    fn commit(&self, mut txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move {
            if let Change::Put { value, .. } = &mut txn.change
                && let Some(kind) = self.veil.kind(&txn.key)
            {
                let whole = self.veil.whole(&txn.key);
                let sealed = self.veil.ciphers.seal(&kind, &whole, value.clone());
                let plain = std::mem::replace(value, sealed.map_err(|why| StoreError::Unencryptable { key: whole, why })?);
                txn.plain = (plain != *value).then_some(plain);
            }
            self.store.commit(txn).await
        }
        .boxed()
    }

    fn announce(&self) -> Option<Coming> {
        self.store.announce()
    }

    fn load<'a>(&'a self, prefix: &'a str, at: Option<Revision>) -> BoxFuture<'a, Result<Loaded, StoreError>> {
        async move {
            let loaded = self.store.load(prefix, at).await?;
            let mut entries = Vec::with_capacity(loaded.entries.len());
            for Entry { key, revision, value, .. } in loaded.entries {
                let (value, unreadable) = self.veil.open(&key, value).await;
                entries.push(Entry { key, revision, value, unreadable });
            }
            Ok(Loaded { entries, revision: loaded.revision })
        }
        .boxed()
    }

    fn watch(&self, after: Revision) -> BoxStream<'static, Result<Batch, StoreError>> {
        let veil = self.veil.clone();
        let open = move |batch: Result<Batch, StoreError>| {
            let veil = veil.clone();
            async move {
                match batch {
                    Ok(batch) => Ok(veil.open_all(batch).await),
                    Err(error) => Err(error),
                }
            }
        };
        self.store.watch(after).then(open).boxed()
    }

    fn tell(&self, follower: Weak<dyn Follower>) -> Option<Revision> {
        let mut unveiled = self.unveiled.lock();
        let unveiled = unveiled.insert(Arc::new(Unveiled(follower)));
        let told: Weak<Unveiled> = Arc::downgrade(unveiled);
        self.store.tell(told)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.store.revision()
    }

    fn health(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.health()
    }

    fn size_bytes(&self) -> BoxFuture<'_, Option<u64>> {
        self.store.size_bytes()
    }

    fn request_progress(&self) {
        self.store.request_progress();
    }

    fn compact(&self, round: Round) -> BoxFuture<'_, Result<(Round, Option<Revision>), StoreError>> {
        self.store.compact(round)
    }

    fn declare(&self, prefix: &str, kind: &Kind) {
        self.veil.kinds.write().insert(prefix.into(), kind.clone());
    }

    fn is_stale<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, bool> {
        async move {
            let Some(kind) = self.veil.kind(key).filter(|kind| !self.veil.ciphers.is_plain(kind)) else { return false };
            let Ok(loaded) = self.store.load(key, None).await else { return false };
            let Some(entry) = loaded.entries.into_iter().find(|entry| entry.key == *key) else { return false };
            matches!(self.veil.ciphers.open(&kind, &self.veil.whole(key), entry.value).await, Ok((_, true)))
        }
        .boxed()
    }

    fn can_read<'a>(&'a self, key: &'a Key, stored: &'a Bytes) -> BoxFuture<'a, bool> {
        async move {
            if self.veil.open(key, stored.clone()).await.1.is_none() {
                return true;
            }
            // It may have been replaced or deleted meanwhile.
            let Ok(loaded) = self.store.load(key, None).await else { return false };
            loaded.entries.iter().find(|entry| entry.key == *key).is_none_or(|entry| entry.value != *stored)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::embedded::Embedded;
    use super::super::store::Expected;
    use super::*;

    /// Turns every byte, and knows where a value lies.
    struct Turn;

    impl Ciphers for Turn {
        fn is_plain(&self, kind: &Kind) -> bool {
            &*kind.resource != "secrets"
        }

        fn seal(&self, kind: &Kind, key: &str, plain: Bytes) -> Result<Bytes, String> {
            if self.is_plain(kind) {
                return Ok(plain);
            }
            let turned: Vec<u8> = plain.iter().map(|byte| !byte).collect();
            Ok([key.as_bytes(), b"=", &turned].concat().into())
        }

        fn open<'a>(&'a self, kind: &'a Kind, key: &'a str, stored: Bytes) -> BoxFuture<'a, Result<(Bytes, bool), String>> {
            async move {
                if self.is_plain(kind) {
                    return Ok((stored, false));
                }
                let text = stored.strip_prefix(format!("{key}=").as_bytes()).ok_or("no matching prefix found")?;
                Ok((text.iter().map(|byte| !byte).collect(), text.len() > 10))
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn values_lie_encrypted_and_are_read_plain() {
        let directory = tempfile::tempdir().unwrap();
        let below: Arc<dyn Store> = Arc::new(Embedded::open(directory.path()).unwrap());
        let store = Encrypted::new(below.clone(), Arc::new(Turn), "/registry");
        for resource in ["secrets", "pods"] {
            store.declare(resource, &Kind { group: "".into(), resource: resource.into() });
        }
        let mut watch = store.watch(store.revision().await.unwrap());
        for key in ["secrets/a/b", "pods/a/b", "ranges/x"] {
            store.commit(Txn::put(Key::new(key), Bytes::from_static(b"plain"), Expected::Absent)).await.unwrap();
        }
        let lying = below.load("secrets/", None).await.unwrap().entries;
        assert_eq!(lying[0].value, [b"/registry/secrets/a/b=".as_slice(), &b"plain".map(|byte| !byte)].concat());
        for prefix in ["secrets/", "pods/", "ranges/"] {
            assert_eq!(store.load(prefix, None).await.unwrap().entries[0].value, b"plain".as_slice());
        }
        let seen = watch.next().await.unwrap().unwrap().events;
        assert_eq!(seen[0].value.as_deref(), Some(b"plain".as_slice()));
        assert!(!store.is_stale(&Key::new("secrets/a/b")).await);
    }

    #[derive(Default)]
    struct Notes(Mutex<Vec<(Key, Option<Bytes>)>>);

    impl Follower for Notes {
        fn changed(&self, batch: Batch) {
            self.0.lock().extend(batch.events.into_iter().map(|event| (event.key, event.value)));
        }
    }

    #[tokio::test]
    async fn who_follows_has_been_told_the_plain_value_of_what_is_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let store = Encrypted::new(Arc::new(Embedded::open(directory.path()).unwrap()), Arc::new(Turn), "/registry");
        for resource in ["secrets", "pods"] {
            store.declare(resource, &Kind { group: "".into(), resource: resource.into() });
        }
        let first = store.commit(Txn::put(Key::new("pods/a/first"), Bytes::from_static(b"before"), Expected::Absent)).await.unwrap();
        let notes = Arc::new(Notes::default());
        let follower: Weak<Notes> = Arc::downgrade(&notes);
        assert_eq!(store.tell(follower), Some(first));
        for key in ["secrets/a/b", "pods/a/b"] {
            store.commit(Txn::put(Key::new(key), Bytes::from_static(b"plain"), Expected::Absent)).await.unwrap();
            assert_eq!(notes.0.lock().pop(), Some((Key::new(key), Some(Bytes::from_static(b"plain")))));
        }
        store.commit(Txn::delete(Key::new("pods/a/b"), Expected::Any)).await.unwrap();
        assert_eq!(*notes.0.lock(), [(Key::new("pods/a/b"), None)]);
        drop(notes);
        store.commit(Txn::delete(Key::new("pods/a/first"), Expected::Any)).await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_decrypted_is_told_and_harms_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let below: Arc<dyn Store> = Arc::new(Embedded::open(directory.path()).unwrap());
        let store = Encrypted::new(below.clone(), Arc::new(Turn), "/registry");
        store.declare("secrets", &Kind { group: "".into(), resource: "secrets".into() });
        below.commit(Txn::put(Key::new("secrets/a/a"), Bytes::from_static(b"foreign"), Expected::Absent)).await.unwrap();
        store.commit(Txn::put(Key::new("secrets/a/b"), Bytes::from_static(b"a long plain text"), Expected::Absent)).await.unwrap();
        let entries = store.load("secrets/", None).await.unwrap().entries;
        assert_eq!(entries[0].unreadable.as_deref(), Some("no matching prefix found"));
        assert_eq!((entries[1].unreadable.as_deref(), &*entries[1].value), (None, b"a long plain text".as_slice()));
        assert!(store.is_stale(&Key::new("secrets/a/b")).await);
        assert!(!store.can_read(&entries[0].key, &entries[0].value).await);
    }
}
