//! The embedded store: durable by one log-structured engine in the data directory, without a server beside.
//!
//! Owns the data directory, the revision counter and the order of writes. One thread writes: it takes all
//! transactions that have come in, checks them against the revisions in memory, appends what is to be changed
//! as one batch with one sync (group commit), publishes it, tells who follows, and then acknowledges. So nothing is acknowledged or visible before
//! it is durable. If the disk refuses a batch, nothing is ever written again until the store is opened anew; so that a full
//! disk need not come to that, nothing is put there while it has little room ([`room`]).
//!
//! It keeps live state and the current revision, no history: the watch cache's logs are the history. A load of
//! a past revision is answered with `Compacted`; a watch can be taken up within a small window ([`feed`]).

mod disk;
mod feed;
mod gathering;
mod room;
pub mod snapshot;
mod ttl;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::store::{Batch, Change, Coming, Follower, Loaded, MAX_VALUE_BYTES, Revision, Round, Store, StoreError, Txn};
pub(crate) use disk::{Append, FjallDisk, Record};
use feed::Feed;
use writer::{Job, Writer};

/// How many transactions wait for the writer before those who commit have to wait.
const QUEUE_LIMIT: usize = 1024;

/// A store in a data directory.
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` once the store is being dropped.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    expiry: tokio::task::JoinHandle<()>,
}

/// What the writer, loads and watches share.
struct Shared {
    disk: FjallDisk,
    feed: Feed,
    /// Held while a batch is appended and published, so that a load sees whole revisions.
    publishing: Mutex<()>,
    compacted: AtomicU64,
    expiries: Arc<ttl::Expiries>,
    /// Why nothing is written any more.
    failed: OnceLock<String>,
    /// How many writes have been announced.
    coming: Arc<AtomicUsize>,
    /// Who is told of every batch, by the writer itself.
    followers: Mutex<Vec<Weak<dyn Follower>>>,
}

impl Shared {
    fn tell(&self, batch: Batch) {
        let followers: Vec<Arc<dyn Follower>> = self.followers.lock().iter().filter_map(Weak::upgrade).collect();
        for follower in followers {
            follower.changed(batch.clone());
        }
    }
}

impl Embedded {
    /// Opens the data directory, creating it if need be. `Locked` if another process has it open.
    /// Must be called within a tokio runtime; blocks while the log is replayed.
    pub fn open(directory: &Path) -> Result<Embedded, StoreError> {
        let disk = FjallDisk::open(directory)?;
        let append = Box::new(disk.clone());
        Embedded::start(disk, append)
    }

    /// `append` is what the writer writes to; tests put faults between it and the disk.
    pub(crate) fn start(disk: FjallDisk, append: Box<dyn Append>) -> Result<Embedded, StoreError> {
        let (index, revision) = disk.index()?;
        let expiries = Arc::new(ttl::Expiries::default());
        for (key, slot) in &index {
            if let Some(at) = slot.expires_ms {
                expiries.add(at, key.clone(), slot.revision);
            }
        }
        let feed = Feed::new(revision);
        let shared = Arc::new(Shared {
            disk,
            feed,
            publishing: Mutex::default(),
            compacted: AtomicU64::new(0),
            expiries,
            failed: OnceLock::new(),
            coming: Arc::default(),
            followers: Mutex::default(),
        });
        let (queue, jobs) = mpsc::channel(QUEUE_LIMIT);
        let writer = Writer::new(shared.clone(), append, index, revision, jobs);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| StoreError::Failed(format!("starting the writer: {e}")))?;
        let expiry = tokio::spawn(ttl::run(shared.expiries.clone(), queue.downgrade()));
        Ok(Embedded { shared, queue: Some(queue), writer: Some(writer), expiry })
    }

    /// Writes a consistent copy of everything to one file; see [`snapshot`]. Writes go on meanwhile.
    pub async fn save_snapshot(&self, file: &Path) -> Result<Revision, StoreError> {
        let shared = self.shared.clone();
        let file = file.to_owned();
        blocking(move || {
            let view = {
                let _whole = shared.publishing.lock();
                shared.disk.view(shared.feed.revision())
            };
            snapshot::write(&file, &view)
        })
        .await
    }

    async fn submit(&self, txn: Txn) -> Result<Revision, StoreError> {
        if let Change::Put { value, .. } = &txn.change
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(StoreError::TooLarge { size: value.len() });
        }
        let gone = || StoreError::Failed("the writer has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send(Job { txn, reply: Some(reply) }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Store for Embedded {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.submit(txn).boxed()
    }

    fn announce(&self) -> Option<Coming> {
        Some(Coming::counted(&self.shared.coming))
    }

    fn load<'a>(&'a self, prefix: &'a str, at: Option<Revision>) -> BoxFuture<'a, Result<Loaded, StoreError>> {
        let shared = self.shared.clone();
        let prefix = prefix.to_owned();
        blocking(move || {
            let view = {
                let _whole = shared.publishing.lock();
                shared.disk.view(shared.feed.revision())
            };
            match at {
                Some(requested) if requested != view.revision => Err(StoreError::Compacted { requested, oldest: view.revision }),
                _ => Ok(Loaded { entries: view.entries(&prefix)?, revision: view.revision }),
            }
        })
        .boxed()
    }

    fn watch(&self, after: Revision) -> BoxStream<'static, Result<Batch, StoreError>> {
        self.shared.feed.watch(after)
    }

    fn tell(&self, follower: Weak<dyn Follower>) -> Option<Revision> {
        // Between two batches.
        let _whole = self.shared.publishing.lock();
        let mut followers = self.shared.followers.lock();
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(follower);
        Some(self.shared.feed.revision())
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        std::future::ready(Ok(self.shared.feed.revision())).boxed()
    }

    fn health(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let failed = self.shared.failed.get().map(|reason| StoreError::Failed(reason.clone()));
        std::future::ready(failed.map_or(Ok(()), Err)).boxed()
    }

    fn size_bytes(&self) -> BoxFuture<'_, Option<u64>> {
        let shared = self.shared.clone();
        blocking(move || shared.disk.size_bytes()).map(Result::ok).boxed()
    }

    /// There is no history to compact: the round only moves the revision before which nobody may ask.
    fn compact(&self, round: Round) -> BoxFuture<'_, Result<(Round, Option<Revision>), StoreError>> {
        let next = Round { time: round.time + 1, revision: self.shared.feed.revision() };
        let compacted = (round.revision > Revision(0)).then(|| {
            let before = self.shared.compacted.fetch_max(round.revision.0, Ordering::AcqRel);
            Revision(before.max(round.revision.0))
        });
        std::future::ready(Ok((next, compacted))).boxed()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.expiry.abort();
        // The writer ends when the queue is closed and empty; what was accepted is still written.
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer has panicked");
        }
        self.shared.feed.close();
    }
}

/// Runs disk work beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Unavailable(e.to_string()))?
}

/// A key's state in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub revision: Revision,
    /// When the key's time runs out, in milliseconds of Unix time.
    pub expires_ms: Option<u64>,
}

/// A value as it is appended: `None` deletes.
pub(crate) type Value = Option<(Bytes, Slot)>;
