//! The contract of a store: what must hold of whatever keeps the cluster's state.
//!
//! Owns the words in which storage speaks to a store (revisions, keys, transactions, events). It never
//! interprets a value: values are opaque bytes, and only [`super::codec`] knows what is in them.
//!
//! Every store gives these guarantees, and one suite (`storage::suite`) holds all of them to it:
//! - *atomic*: a transaction compares one key's revision and changes that key, or does nothing;
//! - *ordered*: revisions grow strictly with every change, and a watch delivers changes in that order;
//! - *durable*: a change is neither acknowledged nor visible to a watch or a load before it survives a crash;
//! - *resumable*: a watch after revision R delivers every change after R exactly once, or says `Compacted`.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::encrypted::Kind;

/// A point in the store's history; one counter for all keys. 0 is before everything; an empty store is at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key below the store's root: `pods/default/web-0`. See [`super::key`] for how resources are laid out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(text: impl Into<Arc<str>>) -> Key {
        Key(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What must hold of the key for the transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A put always happens; a deletion happens if the key is present.
    Any,
    /// The key is absent. A deletion that expects this is refused.
    Absent,
    /// The key was last changed at this revision.
    At(Revision),
}

#[derive(Clone, Debug)]
pub enum Change {
    /// Without a time to live the key stays; each put sets the time anew.
    Put {
        value: Bytes,
        ttl_seconds: Option<u32>,
    },
    Delete,
}

/// A compare-and-swap of one key.
#[derive(Clone, Debug)]
pub struct Txn {
    pub key: Key,
    pub change: Change,
    pub expected: Expected,
    /// What the value was before it was encrypted, if it was: what a [`Follower`] is told.
    pub plain: Option<Bytes>,
}

impl Txn {
    pub fn put(key: Key, value: Bytes, expected: Expected) -> Txn {
        Txn { key, change: Change::Put { value, ttl_seconds: None }, expected, plain: None }
    }

    pub fn delete(key: Key, expected: Expected) -> Txn {
        Txn { key, change: Change::Delete, expected, plain: None }
    }
}

/// A key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    /// The revision of the key's last change.
    pub revision: Revision,
    pub value: Bytes,
    /// Why the value is not what was written but what became of it; see [`super::encrypted`].
    pub unreadable: Option<Arc<str>>,
}

/// All entries below a prefix, in key order, as they were at `revision`.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub entries: Vec<Entry>,
    pub revision: Revision,
}

/// One change as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEvent {
    pub key: Key,
    pub revision: Revision,
    /// `None` when the key was deleted (or its time ran out).
    pub value: Option<Bytes>,
    /// As with [`Entry`].
    pub unreadable: Option<Arc<str>>,
    /// As with [`Txn`].
    pub plain: Option<Bytes>,
}

/// Consecutive changes. A revision is never split over two batches.
#[derive(Clone, Debug)]
pub struct Batch {
    pub events: Vec<StoreEvent>,
    /// Everything up to this revision has now been delivered; there may be no events at all in between.
    pub revision: Revision,
}

/// One round of the compaction protocol, which any number of API servers on one store may run: whoever wins
/// a round compacts to the revision that the round before saw, so that at least one interval of history stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How many rounds there have been, as far as the caller knows. 0 at first.
    pub time: u64,
    /// The store's revision at the caller's last round. 0 at first: the first round compacts nothing.
    pub revision: Revision,
}

/// Why a store did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The transaction expected the key to be absent. `seen` is a revision at which it was present.
    #[error("key {key:?} exists")]
    Exists { key: Key, seen: Revision },
    /// The transaction needs the key, and at revision `seen` it was not there.
    #[error("key {key:?} not found")]
    Absent { key: Key, seen: Revision },
    /// The key's last change is `current`, not what was expected. `seen` is a revision at which that held.
    #[error("key {key:?} is at revision {current}")]
    Changed { key: Key, current: Revision, seen: Revision },
    /// The history asked for is gone; what is after `oldest` is still there.
    #[error("revision {requested} has been compacted, the oldest is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("etcdserver: request is too large")]
    TooLarge { size: usize },
    /// There is no room for more; nothing was written. Deletions are still taken, and puts once there is room again.
    #[error("etcdserver: mvcc: database space exceeded")]
    Full,
    /// A write could not be made durable. The store refuses all further writes until it is opened anew.
    #[error("the store has failed and refuses writes: {0}")]
    Failed(String),
    /// The value could not be encrypted, and nothing was written.
    #[error("unable to transform key {key:?}: {why}")]
    Unencryptable { key: String, why: String },
    /// Try again later. A transaction that ends so may or may not have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    #[error("the data directory {0} is in use by another process")]
    Locked(String),
    #[error("the store's data is corrupt: {0}")]
    Corrupt(String),
}

/// The largest value a store takes, as etcd's default request limit has it.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024 * 3 / 2;

/// A write that somebody works on and that will come to the store soon, as long as this is kept.
#[derive(Debug)]
pub struct Coming(Arc<AtomicUsize>);

impl Coming {
    /// One more of those that are counted here.
    pub fn counted(count: &Arc<AtomicUsize>) -> Coming {
        count.fetch_add(1, Ordering::Relaxed);
        Coming(count.clone())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who is told of changes by the store itself.
pub trait Follower: Send + Sync {
    /// These changes are durable, and not acknowledged yet. Whoever waits here keeps all writes waiting.
    fn changed(&self, batch: Batch);
}

/// A durable, ordered, watchable map from keys to bytes.
pub trait Store: Send + Sync + 'static {
    /// Performs the transaction and tells its revision, once the change is durable.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Announces a write, so that others may wait a moment for it. `None` from a store to which that is nothing.
    fn announce(&self) -> Option<Coming> {
        None
    }

    /// Everything below a prefix, now or at a past revision. A store may keep no history
    /// and answer `Compacted` for all but the current revision.
    fn load<'a>(&'a self, prefix: &'a str, at: Option<Revision>) -> BoxFuture<'a, Result<Loaded, StoreError>>;

    /// All changes after a revision, without end. An error ends the stream; after `Compacted` the caller must
    /// load anew, after any other error (or the end) it may watch again from where it was.
    fn watch(&self, after: Revision) -> BoxStream<'static, Result<Batch, StoreError>>;

    /// Tells a follower of every change after the revision that this gives, in order, before the change is acknowledged. `None`
    /// from a store that others write to as well: follow its watch.
    fn tell(&self, _follower: Weak<dyn Follower>) -> Option<Revision> {
        None
    }

    /// The current revision, as recent as any write acknowledged before the call.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Whether reads and writes can be expected to succeed, but for those that there is no room for.
    fn health(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.revision().await.map(drop) })
    }

    /// The bytes that the store takes on its disk, if it tells.
    fn size_bytes(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(std::future::ready(None))
    }

    /// Asks for a batch that tells how far watches are, even if there are no events. Stores whose watches always
    /// tell need not do anything.
    fn request_progress(&self) {}

    /// Tells which resource the keys below a prefix are of, before any of them is read or written.
    fn declare(&self, _prefix: &str, _kind: &Kind) {}

    /// Whether the key's value would lie there in another form if it were written again.
    fn is_stale<'a>(&'a self, _key: &'a Key) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Whether a value that could not be read can be now, or lies there no more.
    fn can_read<'a>(&'a self, _key: &'a Key, _stored: &'a Bytes) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }

    /// Plays one round of compaction. The answer is the next round to play and, when it is known,
    /// the revision up to which history is now gone.
    fn compact(&self, round: Round) -> BoxFuture<'_, Result<(Round, Option<Revision>), StoreError>>;
}
