//! What the writer has published, for those who watch the store.
//!
//! Owns a bounded window of batches. A watch is a place in it. The window waits for a slow watch up to a limit; a watch
//! that falls out of it is told that the store has compacted.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::store::{Batch, Revision, StoreError};

/// The window that is kept even if every watch has seen it, so that a watch can be taken up again.
const KEPT_EVENTS: usize = 1024;
const KEPT_BYTES: usize = 2 * 1024 * 1024;
/// The window that is kept for a slow watch.
const MAX_EVENTS: usize = 64 * 1024;
const MAX_BYTES: usize = 64 * 1024 * 1024;

#[derive(Clone)]
pub(super) struct Feed(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    window: VecDeque<Arc<Batch>>,
    events: usize,
    bytes: usize,
    /// Every batch after this revision is in the window.
    start: Revision,
    revision: Revision,
    closed: bool,
    /// Up to where each watch has come.
    watches: BTreeMap<u64, Revision>,
    next_watch: u64,
}

fn bytes(batch: &Batch) -> usize {
    batch.events.iter().map(|e| e.key.len() + e.value.as_ref().map_or(0, |v| v.len())).sum()
}

impl Feed {
    pub fn new(revision: Revision) -> Feed {
        let state = State {
            window: VecDeque::new(),
            events: 0,
            bytes: 0,
            start: revision,
            revision,
            closed: false,
            watches: BTreeMap::new(),
            next_watch: 0,
        };
        Feed(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }))
    }

    /// The revision of the last batch published.
    pub fn revision(&self) -> Revision {
        self.0.state.lock().revision
    }

    pub fn publish(&self, batch: Batch) {
        let mut state = self.0.state.lock();
        state.revision = batch.revision;
        state.events += batch.events.len();
        state.bytes += bytes(&batch);
        state.window.push_back(Arc::new(batch));
        state.trim();
        drop(state);
        self.0.wake.notify_waiters();
    }

    /// Ends all watches once they have seen everything.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_waiters();
    }

    pub fn watch(&self, after: Revision) -> BoxStream<'static, Result<Batch, StoreError>> {
        let mut state = self.0.state.lock();
        let id = state.next_watch;
        state.next_watch += 1;
        state.watches.insert(id, after);
        drop(state);
        let watch = Watch { feed: self.clone(), id, ended: false };
        stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) }).boxed()
    }
}

impl State {
    fn trim(&mut self) {
        let slowest = self.watches.values().min().copied();
        while let Some(oldest) = self.window.front() {
            let seen = slowest.is_none_or(|s| s >= oldest.revision);
            let over_kept = self.events > KEPT_EVENTS || self.bytes > KEPT_BYTES;
            let over_max = (self.events > MAX_EVENTS || self.bytes > MAX_BYTES) && self.window.len() > 1;
            if !(over_max || over_kept && seen) {
                return;
            }
            self.events -= oldest.events.len();
            self.bytes -= bytes(oldest);
            self.start = oldest.revision;
            self.window.pop_front();
        }
    }
}

struct Watch {
    feed: Feed,
    id: u64,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Batch, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            let mut woken = pin!(self.feed.0.wake.notified());
            woken.as_mut().enable();
            if let Some(found) = self.look()? {
                self.ended = found.is_err();
                return Some(found);
            }
            woken.await;
        }
    }

    /// The next batch if it is here; `None` at the end.
    fn look(&self) -> Option<Option<Result<Batch, StoreError>>> {
        let mut state = self.feed.0.state.lock();
        let after = state.watches.get(&self.id).copied()?;
        if after < state.start {
            return Some(Some(Err(StoreError::Compacted { requested: after, oldest: state.start })));
        }
        let at = state.window.partition_point(|b| b.revision <= after);
        let Some(batch) = state.window.get(at).cloned() else {
            return if state.closed { None } else { Some(None) };
        };
        state.watches.insert(self.id, batch.revision);
        drop(state);
        let events = batch.events.iter().filter(|e| e.revision > after).cloned().collect();
        Some(Some(Ok(Batch { events, revision: batch.revision })))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.feed.0.state.lock().watches.remove(&self.id);
    }
}
