//! Keys that live for a time.
//!
//! Owns the deadlines. When one comes, the key is deleted by an ordinary transaction that expects the very revision that
//! set the deadline; a later write of the key makes it void.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::super::store::{Expected, Key, Revision, Txn};
use super::writer::Job;

/// Deadlines are met with this precision, so that a thousand of them in a second are one wake-up.
const TICK: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Expiries {
    heap: Mutex<BinaryHeap<Reverse<(u64, Key, Revision)>>>,
    earlier: Notify,
}

impl Expiries {
    /// Deletes a key at a time if it is at this revision then.
    pub fn add(&self, at_ms: u64, key: Key, revision: Revision) {
        let mut heap = self.heap.lock();
        let earlier = heap.peek().is_none_or(|Reverse((first, ..))| at_ms < *first);
        heap.push(Reverse((at_ms, key, revision)));
        drop(heap);
        if earlier {
            self.earlier.notify_one();
        }
    }

    /// How many deadlines there are, void ones included.
    pub fn len(&self) -> usize {
        self.heap.lock().len()
    }

    /// Forgets the deadlines that a later write has made void.
    pub fn retain(&self, stands: impl Fn(&Key, Revision) -> bool) {
        let mut heap = self.heap.lock();
        heap.retain(|Reverse((_, key, revision))| stands(key, *revision));
        heap.shrink_to_fit();
    }

    fn due(&self, now_ms: u64) -> Option<(Key, Revision)> {
        let mut heap = self.heap.lock();
        if heap.peek().is_none_or(|Reverse((at, ..))| *at > now_ms) {
            return None;
        }
        heap.pop().map(|Reverse((_, key, revision))| (key, revision))
    }

    fn first_ms(&self) -> Option<u64> {
        self.heap.lock().peek().map(|Reverse((at, ..))| *at)
    }
}

/// When a key that is written now runs out.
pub(super) fn deadline_ms(ttl_seconds: u32) -> u64 {
    now_ms() + u64::from(ttl_seconds) * 1000
}

/// Deadlines outlive the process, so they are in wall-clock time.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Deletes keys as their time runs out, until the queue is closed.
pub(super) async fn run(expiries: Arc<Expiries>, queue: mpsc::WeakSender<Job>) {
    loop {
        match expiries.first_ms() {
            None => expiries.earlier.notified().await,
            Some(at) => {
                let wait = Duration::from_millis(at.saturating_sub(now_ms()));
                // An earlier deadline cuts the wait short.
                if !wait.is_zero() && tokio::time::timeout(wait, expiries.earlier.notified()).await.is_ok() {
                    continue;
                }
                tokio::time::sleep(TICK).await;
            }
        }
        while let Some((key, revision)) = expiries.due(now_ms()) {
            let Some(queue) = queue.upgrade() else { return };
            if queue.send(Job { txn: Txn::delete(key, Expected::At(revision)), reply: None }).await.is_err() {
                return;
            }
        }
    }
}
