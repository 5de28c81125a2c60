//! The event log of one resource, and where its readers stand.
//!
//! Owns a bounded ring of events, shared by all watchers: a watcher is a position in it, never a queue of its own.
//! Watchers with an exact selector stand on a *topic*, which lists only the events that can match; an event
//! wakes the topics that it touches and nobody else. A reader whose next event has left the ring is told so.
//! Nothing here locks or waits; [`super::cache`] does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use super::object::Object;
use super::store::Revision;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub revision: Revision,
    pub kind: EventKind,
    /// The object after the change; for a deletion its last state, under the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
    /// `previous` under this event's revision.
    departed: OnceLock<Arc<Object>>,
}

impl Event {
    pub(super) fn new(revision: Revision, kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Event {
        Event { revision, kind, object, previous, departed: OnceLock::new() }
    }

    /// The same event about the same objects in another version.
    pub fn about(&self, object: Arc<Object>, previous: Option<Arc<Object>>) -> Event {
        Event::new(self.revision, self.kind, object, previous)
    }

    /// The event as a watcher sees it who only sees objects that match: an object that starts to match is added,
    /// one that ceases to match is deleted. `None` if the watcher sees nothing.
    pub fn seen_by(&self, matches: impl Fn(&Object) -> bool) -> Option<(EventKind, &Arc<Object>)> {
        let before = self.previous.as_ref().filter(|p| matches(p));
        let after = self.kind != EventKind::Deleted && matches(&self.object);
        match (before, after) {
            (None, true) => Some((EventKind::Added, &self.object)),
            (Some(_), true) => Some((EventKind::Modified, &self.object)),
            (Some(_), false) if self.kind == EventKind::Deleted => Some((EventKind::Deleted, &self.object)),
            (Some(previous), false) => {
                Some((EventKind::Deleted, self.departed.get_or_init(|| Arc::new(previous.at_revision(self.revision)))))
            }
            (None, false) => None,
        }
    }

    /// What the log holds in memory because of this event alone: objects that are no longer current.
    fn cost(&self) -> usize {
        let superseded = self.previous.as_ref().map_or(0, |p| p.json().len());
        let departed = if self.kind == EventKind::Deleted { self.object.json().len() } else { 0 };
        EVENT_OVERHEAD_BYTES + superseded + departed
    }
}

const EVENT_OVERHEAD_BYTES: usize = 256;

/// How much history a resource keeps for its watchers.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    pub events: usize,
    pub bytes: usize,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { events: 10_000, bytes: 16 * 1024 * 1024 }
    }
}

/// Which events a watcher wants to be woken for. A watcher filters what it reads all the same: a scope may hold more
/// than the watcher's selector does, never less.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    All,
    /// `metadata.namespace`.
    Namespace(Arc<str>),
    /// `metadata.name`, in any namespace.
    Name(Arc<str>),
    /// The value of the resource's n-th selectable field.
    Field(usize, Arc<str>),
}

/// The history asked for is no longer kept: 410 Gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct Expired {
    pub requested: Revision,
    /// The oldest revision after which everything is still known.
    pub oldest: Revision,
}

/// A reader's place: the sequence number of the next event it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position(u64);

#[derive(Debug)]
pub(super) struct Log {
    ring: VecDeque<Arc<Event>>,
    /// The sequence number of the event to come; those in the ring count down from here.
    next: u64,
    /// Every event after this revision is in the ring.
    start: Revision,
    /// No more events will come: readers get what they have not read, and then nobody is to wait for more.
    closed: bool,
    cost: usize,
    limits: LogLimits,
    all: Arc<Notify>,
    topics: HashMap<Scope, Topic>,
    /// Which of the selectable fields have topics, and how many.
    field_topics: Vec<usize>,
}

#[derive(Debug)]
struct Topic {
    /// Sequence numbers of the events that touch this topic, ascending.
    events: VecDeque<u64>,
    /// `events` has all that touch this topic from this number on.
    complete_from: u64,
    readers: usize,
    wake: Arc<Notify>,
}

impl Log {
    pub fn new(start: Revision, limits: LogLimits, fields: usize) -> Log {
        Log {
            ring: VecDeque::new(),
            next: 0,
            start,
            closed: false,
            cost: 0,
            limits,
            all: Arc::default(),
            topics: HashMap::new(),
            field_topics: vec![0; fields],
        }
    }

    /// Every event after this revision is known.
    pub fn start(&self) -> Revision {
        self.start
    }

    fn first(&self) -> u64 {
        self.next - self.ring.len() as u64
    }

    /// Drops encodings that nobody asks for any more, of the objects that are only here. The current ones are the cache's.
    pub fn sweep_encodings(&self) {
        for event in &self.ring {
            if event.kind == EventKind::Deleted {
                event.object.sweep_encodings();
            }
            if let Some(previous) = &event.previous {
                previous.sweep_encodings();
            }
        }
    }

    /// Appends an event and names those to be woken once it may be seen.
    pub fn append(&mut self, event: Event, wake: &mut Vec<Arc<Notify>>) {
        let event = Arc::new(event);
        let number = self.next;
        wake.push(self.all.clone());
        self.each_topic(&event, |topic| {
            topic.events.push_back(number);
            wake.push(topic.wake.clone());
        });
        self.cost += event.cost();
        self.ring.push_back(event);
        self.next += 1;
        while self.ring.len() > self.limits.events || (self.cost > self.limits.bytes && self.ring.len() > 1) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let number = self.first();
        let Some(event) = self.ring.pop_front() else { return };
        self.cost -= event.cost();
        self.start = event.revision;
        self.each_topic(&event, |topic| {
            if topic.events.front() == Some(&number) {
                topic.events.pop_front();
                topic.complete_from = topic.complete_from.max(number + 1);
            }
        });
    }

    /// Calls `f` once for each topic that has readers and that the event touches.
    fn each_topic(&mut self, event: &Event, mut f: impl FnMut(&mut Topic)) {
        if self.topics.is_empty() {
            return;
        }
        let Log { topics, field_topics, .. } = self;
        let mut visit = |scope: &Scope| {
            if let Some(topic) = topics.get_mut(scope) {
                f(topic);
            }
        };
        visit(&Scope::Namespace(event.object.namespace().into()));
        visit(&Scope::Name(event.object.name().into()));
        for (n, _) in field_topics.iter().enumerate().filter(|(_, readers)| **readers > 0) {
            let before = event.previous.as_ref().and_then(|p| p.field(n));
            let after = event.object.field(n);
            if let Some(after) = after {
                visit(&Scope::Field(n, after.clone()));
            }
            if let Some(before) = before.filter(|b| Some(*b) != after) {
                visit(&Scope::Field(n, before.clone()));
            }
        }
    }

    /// Forgets everything: every reader is expired, and history starts after `start`.
    pub fn reset(&mut self, start: Revision, wake: &mut Vec<Arc<Notify>>) {
        self.ring.clear();
        self.cost = 0;
        self.start = start;
        // A number that no event has: even a reader that had seen all is now behind.
        self.next += 1;
        wake.push(self.all.clone());
        for topic in self.topics.values_mut() {
            topic.events.clear();
            topic.complete_from = self.next;
            wake.push(topic.wake.clone());
        }
    }

    /// Ends the log: a reader is expired once it has read what is here, and nobody takes a place any more.
    pub fn close(&mut self, wake: &mut Vec<Arc<Notify>>) {
        self.closed = true;
        wake.push(self.all.clone());
        wake.extend(self.topics.values().map(|topic| topic.wake.clone()));
    }

    /// Takes a place after `revision`; it must be given back with [`Log::unsubscribe`].
    pub fn subscribe(&mut self, scope: &Scope, after: Revision) -> Result<(Position, Arc<Notify>), Expired> {
        if after < self.start || self.closed {
            return Err(Expired { requested: after, oldest: self.start });
        }
        Ok(self.subscribe_at_end(scope, after))
    }

    /// Takes a place after a revision that is no older than the start of the log.
    pub fn subscribe_at_end(&mut self, scope: &Scope, after: Revision) -> (Position, Arc<Notify>) {
        let first = self.first();
        let from = first + self.ring.partition_point(|e| e.revision <= after) as u64;
        if *scope == Scope::All {
            return (Position(from), self.all.clone());
        }
        if !self.topics.contains_key(scope) {
            let topic = Topic { events: VecDeque::new(), complete_from: self.next, readers: 0, wake: Arc::default() };
            self.topics.insert(scope.clone(), topic);
            if let Scope::Field(n, _) = scope
                && let Some(count) = self.field_topics.get_mut(*n)
            {
                *count += 1;
            }
        }
        let topic = self.topics.get_mut(scope).expect("it was inserted above");
        topic.readers += 1;
        if from < topic.complete_from {
            let upto = (topic.complete_from - first) as usize;
            for n in ((from - first) as usize..upto).rev().filter(|n| self.ring.get(*n).is_some_and(|e| touches(e, scope))) {
                topic.events.push_front(first + n as u64);
            }
            topic.complete_from = from;
        }
        (Position(from), topic.wake.clone())
    }

    pub fn unsubscribe(&mut self, scope: &Scope) {
        let Some(topic) = self.topics.get_mut(scope) else { return };
        topic.readers -= 1;
        if topic.readers == 0 {
            self.topics.remove(scope);
            if let Scope::Field(n, _) = scope
                && let Some(count) = self.field_topics.get_mut(*n)
            {
                *count -= 1;
            }
        }
    }

    /// The next events of a scope, at most `limit`, and the place after them. `None` if the reader has been outrun, or has read
    /// all of a log that has ended.
    pub fn read(&self, scope: &Scope, at: Position, limit: usize) -> Option<(Vec<Arc<Event>>, Position)> {
        self.unread(scope, at, limit).filter(|(events, _)| !(self.closed && events.is_empty()))
    }

    fn unread(&self, scope: &Scope, at: Position, limit: usize) -> Option<(Vec<Arc<Event>>, Position)> {
        let first = self.first();
        if *scope == Scope::All {
            let skip = usize::try_from(at.0.checked_sub(first)?).ok()?;
            let events: Vec<_> = self.ring.range(skip.min(self.ring.len())..).take(limit).cloned().collect();
            let next = Position(at.0 + events.len() as u64);
            return Some((events, next));
        }
        let topic = self.topics.get(scope)?;
        if at.0 < topic.complete_from {
            return None;
        }
        let skip = topic.events.partition_point(|n| *n < at.0);
        let numbers = topic.events.range(skip..).take(limit).copied();
        let events: Vec<_> = numbers.clone().filter_map(|n| self.ring.get((n - first) as usize)).cloned().collect();
        let next = if events.len() < limit { self.next } else { numbers.max().map_or(at.0, |n| n + 1) };
        Some((events, Position(next)))
    }

    /// The events after a revision, newest first: what must be undone to see the past. `None` if some are gone.
    pub fn newest_first(&self, after: Revision) -> Option<impl Iterator<Item = &Arc<Event>>> {
        (after >= self.start).then(|| self.ring.iter().rev().take_while(move |e| e.revision > after))
    }
}

fn touches(event: &Event, scope: &Scope) -> bool {
    match scope {
        Scope::All => true,
        Scope::Namespace(namespace) => event.object.namespace() == &**namespace,
        Scope::Name(name) => event.object.name() == &**name,
        Scope::Field(n, value) => {
            event.object.field(*n) == Some(value) || event.previous.as_ref().is_some_and(|p| p.field(*n) == Some(value))
        }
    }
}
