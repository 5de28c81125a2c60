//! The watch cache of one resource: its objects as of now, and the log of how they came to be so.
//!
//! Owns the objects in memory, their snapshots and the positions of watchers. Changes come from the store alone, in
//! the order of their revisions; nothing here writes. The map is persistent: a snapshot costs
//! nothing and holds no lock, and the past is the present with the log undone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::RwLock;
use tokio::sync::{Notify, OnceCell};

use super::Error;
use super::log::{Event, EventKind, Expired, Log, LogLimits, Position, Scope};
use super::object::Object;
use super::progress::Progress;
use super::resource::ResourceSpec;
use super::store::{Key, Revision};

/// How many events a watcher takes at a time.
const READ_LIMIT: usize = 256;
/// How many snapshots a resource keeps for paged lists, and for how long.
const PINNED_SNAPSHOTS: usize = 32;
const PINNED_FOR: Duration = Duration::from_secs(300);

type Map = OrdMap<Arc<str>, Arc<Object>>;

/// A resource in memory.
pub struct Resource {
    pub spec: ResourceSpec,
    /// Tells it from those that it replaces, or that replace it.
    pub(super) number: u64,
    /// Set when the resource has been loaded.
    pub(super) ready: OnceCell<()>,
    state: RwLock<State>,
    /// What is in the store and cannot be decrypted, by its key here.
    unreadable: RwLock<BTreeMap<Arc<str>, Unreadable>>,
    progress: Arc<Progress>,
    /// How many changes the store has told of.
    changes: AtomicU64,
}

/// Which state of which resource something was made of: another state has another stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub resource: u64,
    /// Of the last change.
    pub revision: Revision,
}

/// A value that cannot be decrypted now.
#[derive(Clone)]
pub(super) struct Unreadable {
    pub key: Key,
    pub stored: Bytes,
    pub why: Arc<str>,
}

struct State {
    map: Map,
    log: Log,
    /// The revision of the last change applied, or of the load.
    revision: Revision,
    /// The revision of the load, which brought all changes up to it.
    loaded: Revision,
    /// While the resource is being loaded, changes wait here.
    waiting: Option<Vec<CacheChange>>,
    pinned: VecDeque<Pinned>,
}

struct Pinned {
    revision: Revision,
    map: Map,
    at: Instant,
}

/// A change of this resource, decoded.
pub(super) struct CacheChange {
    /// `namespace/name` or `name`.
    pub key: Arc<str>,
    pub revision: Revision,
    /// `None` for a deletion.
    pub object: Option<Arc<Object>>,
}

impl Resource {
    /// A resource whose load is under way.
    pub(super) fn new(spec: ResourceSpec, limits: LogLimits, progress: Arc<Progress>) -> Resource {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let log = Log::new(Revision(0), limits, spec.fields.len());
        let zero = Revision(0);
        let state = State { map: Map::new(), log, revision: zero, loaded: zero, waiting: Some(Vec::new()), pinned: VecDeque::new() };
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (state, unreadable) = (RwLock::new(state), RwLock::default());
        Resource { spec, number, ready: OnceCell::new(), state, unreadable, progress, changes: AtomicU64::new(0) }
    }

    /// Notes what has become of a key: that it cannot be read, or that there is nothing to say of it.
    pub(super) fn note(&self, key: &str, unreadable: Option<Unreadable>) {
        if unreadable.is_none() && self.unreadable.read().is_empty() {
            return;
        }
        let mut all = self.unreadable.write();
        match unreadable {
            Some(unreadable) => all.insert(key.into(), unreadable),
            None => all.remove(key),
        };
    }

    /// Everything that cannot be read, and nothing else.
    pub(super) fn note_all(&self, unreadable: BTreeMap<Arc<str>, Unreadable>) {
        *self.unreadable.write() = unreadable;
    }

    /// Some of what cannot be read.
    pub(super) fn unreadable(&self, limit: usize) -> Vec<Unreadable> {
        self.unreadable.read().values().take(limit).cloned().collect()
    }

    pub(super) fn first_unreadable(&self) -> Option<Error> {
        self.unreadable.read().values().next().map(|first| self.error(first))
    }

    /// Why an object is not here.
    pub(super) fn why_absent(&self, namespace: &str, name: &str) -> Error {
        let unreadable = self.unreadable.read();
        if unreadable.is_empty() {
            return Error::NotFound;
        }
        let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        unreadable.get(key.as_str()).map_or(Error::NotFound, |found| self.error(found))
    }

    fn error(&self, unreadable: &Unreadable) -> Error {
        Error::Unreadable { key: format!("/registry/{}", &*unreadable.key), why: unreadable.why.clone() }
    }

    /// Replaces everything by what was loaded at a revision, then applies what has waited. Watchers are expired.
    /// A load that is older than what is here changes nothing.
    pub(super) fn reset(&self, objects: Vec<Arc<Object>>, revision: Revision, wake: &mut Vec<Arc<Notify>>) {
        let mut state = self.state.write();
        if revision < state.revision {
            return;
        }
        state.loaded = revision;
        state.map = objects.into_iter().map(|o| (o.key().clone(), o)).collect();
        state.revision = revision;
        state.pinned.clear();
        state.log.reset(revision, wake);
        for change in state.waiting.take().unwrap_or_default() {
            state.apply(change, wake);
        }
    }

    /// The resource is no longer followed: watchers are expired once they have seen what is here, those to come at once.
    pub(super) fn close(&self, wake: &mut Vec<Arc<Notify>>) {
        self.state.write().log.close(wake);
    }

    /// Applies changes in order. Those that a load has brought already are passed over.
    pub(super) fn apply(&self, changes: Vec<CacheChange>, wake: &mut Vec<Arc<Notify>>) {
        self.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        let mut state = self.state.write();
        match &mut state.waiting {
            Some(waiting) => waiting.extend(changes),
            None => changes.into_iter().for_each(|change| state.apply(change, wake)),
        }
    }

    /// The shared copy of an object's key, if the object is here.
    pub(super) fn shared_key(&self, key: &str) -> Option<Arc<str>> {
        self.state.read().map.get(key).map(|o| o.key().clone())
    }

    /// An object as of now; `namespace` is empty for cluster-scoped resources.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let state = self.state.read();
        if namespace.is_empty() {
            return state.map.get(name).cloned();
        }
        state.map.get(format!("{namespace}/{name}").as_str()).cloned()
    }

    /// How many changes the store has told of since this was made.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The stamp of the state as of now.
    pub fn stamp(&self) -> Stamp {
        Stamp { resource: self.number, revision: self.state.read().revision }
    }

    /// All objects as of now.
    pub fn snapshot(&self) -> Snapshot {
        // Everything up to here is in every cache; what this cache has beyond is in its own revision. So the map is
        // exactly the state at the later of the two.
        let progress = self.progress.now();
        let state = self.state.read();
        Snapshot { map: state.map.clone(), revision: progress.max(state.revision), loaded: false }
    }

    /// All objects as of a past revision, or `Expired` if the log no longer reaches back.
    pub(super) fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Expired> {
        let state = self.state.read();
        if revision >= state.revision {
            return Ok(Snapshot { map: state.map.clone(), revision, loaded: false });
        }
        if let Some(pinned) = state.pinned.iter().find(|p| p.revision == revision) {
            return Ok(Snapshot { map: pinned.map.clone(), revision, loaded: false });
        }
        let Some(undo) = state.log.newest_first(revision) else {
            return Err(Expired { requested: revision, oldest: state.log.start() });
        };
        let mut map = state.map.clone();
        for event in undo {
            match &event.previous {
                Some(previous) => map.insert(previous.key().clone(), previous.clone()),
                None => map.remove(event.object.key()),
            };
        }
        Ok(Snapshot { map, revision, loaded: false })
    }

    /// Keeps a snapshot for the pages to come, a bounded number of them for a bounded time.
    pub fn pin(&self, snapshot: &Snapshot) {
        let mut state = self.state.write();
        let now = Instant::now();
        while state.pinned.front().is_some_and(|p| now.duration_since(p.at) > PINNED_FOR) || state.pinned.len() >= PINNED_SNAPSHOTS {
            state.pinned.pop_front();
        }
        if !state.pinned.iter().any(|p| p.revision == snapshot.revision) {
            state.pinned.push_back(Pinned { revision: snapshot.revision, map: snapshot.map.clone(), at: now });
        }
    }

    /// Lets go of the snapshots from before a compaction, and of those that have had their time.
    pub(super) fn unpin(&self, compacted: Revision) {
        let now = Instant::now();
        self.state.write().pinned.retain(|p| p.revision >= compacted && now.duration_since(p.at) <= PINNED_FOR);
    }

    /// Drops encodings that nobody asks for any more.
    pub(super) fn sweep_encodings(&self) {
        let state = self.state.read();
        state.log.sweep_encodings();
        let map = state.map.clone();
        drop(state);
        map.values().for_each(|object| object.sweep_encodings());
    }

    /// A watcher of what happens after a revision. A revision of the future is waited for.
    pub fn watch(self: &Arc<Self>, scope: Scope, after: Revision) -> Result<Cursor, Expired> {
        let (position, wake) = self.state.write().log.subscribe(&scope, after)?;
        Ok(Cursor { resource: self.clone(), scope, position, wake, delivered: after })
    }

    /// All objects as of now and a watcher of what happens afterwards, without a gap. The watcher of a resource that is no longer
    /// followed is expired from the start.
    pub fn list_and_watch(self: &Arc<Self>, scope: Scope) -> (Snapshot, Cursor) {
        let progress = self.progress.now();
        let mut state = self.state.write();
        let snapshot = Snapshot { map: state.map.clone(), revision: progress.max(state.revision), loaded: false };
        let (position, wake) = state.log.subscribe_at_end(&scope, snapshot.revision);
        drop(state);
        let delivered = snapshot.revision;
        (snapshot, Cursor { resource: self.clone(), scope, position, wake, delivered })
    }
}

impl State {
    fn apply(&mut self, change: CacheChange, wake: &mut Vec<Arc<Notify>>) {
        // One revision may have several changes: a lease that runs out takes all its keys with it.
        if change.revision <= self.loaded || change.revision < self.revision {
            return;
        }
        self.revision = change.revision;
        let event = match change.object {
            Some(object) => {
                let previous = self.map.insert(change.key, object.clone());
                let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                Event::new(change.revision, kind, object, previous)
            }
            None => {
                let Some(previous) = self.map.remove(&change.key) else { return };
                let last = Arc::new(previous.at_revision(change.revision));
                Event::new(change.revision, EventKind::Deleted, last, Some(previous))
            }
        };
        self.log.append(event, wake);
    }
}

/// All objects of a resource at one revision. Cheap to make, to clone and to keep.
#[derive(Clone)]
pub struct Snapshot {
    map: Map,
    revision: Revision,
    /// Whether the store was asked for it.
    loaded: bool,
}

impl Snapshot {
    /// What the store has told of a revision that the cache does not know any more.
    pub(super) fn new(objects: impl Iterator<Item = Arc<Object>>, revision: Revision) -> Snapshot {
        Snapshot { map: objects.map(|o| (o.key().clone(), o)).collect(), revision, loaded: true }
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The list's resourceVersion.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        if namespace.is_empty() { self.map.get(name) } else { self.map.get(format!("{namespace}/{name}").as_str()) }
    }

    /// The objects of a namespace (of all, if it is empty) in the order of their keys, those after the key `after` only.
    /// Keys are `namespace/name`, or `name` for cluster-scoped resources.
    pub fn range(&self, namespace: &str, after: Option<&str>) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        // '0' is the character after '/', so these two enclose the namespace.
        let bounds = (!namespace.is_empty()).then(|| (format!("{namespace}/"), format!("{namespace}0")));
        let mut low = match &bounds {
            Some((low, _)) => Bound::Included(low.as_str()),
            None => Bound::Unbounded,
        };
        if let Some(after) = after
            && bounds.as_ref().is_none_or(|(low, _)| after >= low.as_str())
        {
            low = Bound::Excluded(after);
        }
        let high = match &bounds {
            Some((_, high)) => Bound::Excluded(high.as_str()),
            None => Bound::Unbounded,
        };
        let empty = matches!((low, high), (Bound::Excluded(l), Bound::Excluded(h)) if l >= h);
        let range = (!empty).then(|| self.map.range::<_, str>((low, high)));
        range.into_iter().flatten().map(|(_, object)| object)
    }

    /// The number of objects of all namespaces.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

/// A watcher: a place in a resource's log.
pub struct Cursor {
    resource: Arc<Resource>,
    scope: Scope,
    position: Position,
    wake: Arc<Notify>,
    /// Everything in scope up to this revision has been given out.
    delivered: Revision,
}

impl Cursor {
    /// The next events, in order; waits until there are some. After `Expired` the cursor is of no more use.
    /// May be dropped and called again without losing events.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        let wake = self.wake.clone();
        loop {
            let mut woken = pin!(wake.notified());
            // Registered before the look, so that an event between the look and the wait is not slept through.
            woken.as_mut().enable();
            let events = self.try_next()?;
            if !events.is_empty() {
                return Ok(events);
            }
            woken.await;
        }
    }

    /// The next events that are here already; none if there are none.
    pub fn try_next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        loop {
            let state = self.resource.state.read();
            let Some((mut events, position)) = state.log.read(&self.scope, self.position, READ_LIMIT) else {
                return Err(Expired { requested: self.delivered, oldest: state.log.start() });
            };
            drop(state);
            self.position = position;
            // Only a watcher of the future has to leave anything out; of what it has left out, nobody tells it again.
            let had_some = !events.is_empty();
            if events.first().is_some_and(|e| e.revision <= self.delivered) {
                events.retain(|e| e.revision > self.delivered);
            }
            if let Some(last) = events.last() {
                self.delivered = last.revision;
            }
            if !events.is_empty() || !had_some {
                return Ok(events);
            }
        }
    }

    /// The revision for a bookmark: everything up to it has been given out. `None` if events are
    /// waiting, which then go first.
    pub fn bookmark(&mut self) -> Option<Revision> {
        let progress = self.resource.progress.now();
        let state = self.resource.state.read();
        let (events, _) = state.log.read(&self.scope, self.position, 1)?;
        if !events.is_empty() {
            return None;
        }
        self.delivered = self.delivered.max(progress);
        Some(self.delivered)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if self.scope != Scope::All {
            self.resource.state.write().log.unsubscribe(&self.scope);
        }
    }
}
