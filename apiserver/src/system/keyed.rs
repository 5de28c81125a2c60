//! A controller's loop: which keys have to be looked at, one at a time, and again with growing delays while that fails.
//!
//! Owns the set of dirty keys and their retries; never decides anything. A key is in the set once however often it changes, so the set is
//! bounded by the number of objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::until_stopped;
use super::watched::cache;
use crate::loopback::{Loopback, is_overtaken};
use crate::storage::{Event, EventKind, Object, Resource, Scope};

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Names the keys that a change of an object concerns.
pub type Keys = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

/// A resource whose changes concern a controller.
pub struct Source {
    pub group: &'static str,
    pub resource: &'static str,
    pub keys: Keys,
}

impl Source {
    /// Objects are their own keys: `name`, or `namespace/name`.
    pub fn own(group: &'static str, resource: &'static str) -> Source {
        Source { group, resource, keys: Box::new(|object| vec![object.key().to_string()]) }
    }
}

/// What follows from a look at a key.
#[derive(Default)]
pub struct Next {
    /// Look at it again after this time.
    pub after: Option<Duration>,
    /// Look at these too.
    pub also: Vec<String>,
}

/// Looks at one key at a time.
pub trait Reconciler: Send + 'static {
    fn reconcile(&mut self, key: &str) -> impl Future<Output = Result<Next, Status>> + Send;
}

#[derive(Default)]
struct Dirty {
    keys: Mutex<BTreeSet<String>>,
    wake: Notify,
}

impl Dirty {
    fn add(&self, keys: impl IntoIterator<Item = String>) {
        let mut set = self.keys.lock();
        let before = set.len();
        set.extend(keys);
        if set.len() > before {
            self.wake.notify_one();
        }
    }

    fn pop(&self) -> Option<String> {
        self.keys.lock().pop_first()
    }
}

/// Runs a controller until the server stops: every key once, then those that change.
pub fn spawn(client: &Loopback, name: &'static str, sources: Vec<Source>, reconciler: impl Reconciler) {
    let dirty = Arc::new(Dirty::default());
    for source in sources {
        let Some(resource) = cache(client.api(), source.group, source.resource) else { continue };
        let dirty = dirty.clone();
        until_stopped(client.api(), async move { feed(&resource, &source.keys, &dirty).await });
    }
    until_stopped(client.api(), async move { work(name, &dirty, reconciler).await });
}

/// Turns events into dirty keys.
async fn feed(resource: &Arc<Resource>, keys: &Keys, dirty: &Dirty) {
    // The keys of the objects that were there when last looked, so that those that go unseen are looked at too.
    let mut known: HashSet<String> = HashSet::new();
    loop {
        let (snapshot, mut cursor) = resource.list_and_watch(Scope::All);
        dirty.add(known.drain());
        known.extend(snapshot.range("", None).flat_map(|object| keys(object)));
        drop(snapshot);
        dirty.add(known.iter().cloned());
        while let Ok(events) = cursor.next().await {
            events.iter().for_each(|event| note(event, keys, dirty, &mut known));
        }
    }
}

fn note(event: &Event, keys: &Keys, dirty: &Dirty, known: &mut HashSet<String>) {
    let mut touched = keys(&event.object);
    if let Some(previous) = &event.previous {
        touched.extend(keys(previous));
    }
    match event.kind {
        EventKind::Deleted => touched.iter().for_each(|key| {
            known.remove(key);
        }),
        _ => known.extend(touched.iter().cloned()),
    }
    dirty.add(touched);
}

async fn work(name: &'static str, dirty: &Dirty, mut reconciler: impl Reconciler) {
    let mut later = Later::default();
    let mut failures: HashMap<String, u32> = HashMap::new();
    loop {
        let now = Instant::now();
        dirty.add(later.due(now));
        let Some(key) = dirty.pop() else {
            let wait = later.next().map_or(Duration::MAX, |at| at.saturating_duration_since(now));
            // Whichever comes first: a change, or time for a retry.
            let _ = tokio::time::timeout(wait, dirty.wake.notified()).await;
            continue;
        };
        match reconciler.reconcile(&key).await {
            Ok(next) => {
                failures.remove(&key);
                dirty.add(next.also);
                later.set(key, next.after.map(|after| now + after));
            }
            // The change that was in the way is on its way here.
            Err(status) if is_overtaken(&status) => {}
            Err(status) => {
                let count = failures.entry(key.clone()).or_default();
                *count += 1;
                let delay = delay(*count);
                tracing::warn!(controller = name, key, error = status.message, "will be tried again in {} ms", delay.as_millis());
                later.set(key, Some(now + delay));
            }
        }
    }
}

/// When keys are to be looked at again: at most once a key, however often it was looked at meanwhile.
#[derive(Default)]
struct Later {
    order: BTreeSet<(Instant, String)>,
    of: HashMap<String, Instant>,
}

impl Later {
    /// Replaces the time of a key.
    fn set(&mut self, key: String, at: Option<Instant>) {
        if let Some(before) = self.of.remove(&key) {
            self.order.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.of.insert(key.clone(), at);
            self.order.insert((at, key));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out the keys whose time has come.
    fn due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        while self.order.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.order.pop_first() {
                self.of.remove(&key);
                due.push(key);
            }
        }
        due
    }
}

fn delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_ever_later_up_to_a_limit() {
        let delays: Vec<u128> = [1, 2, 3, 13, 14, 1000].map(|n| delay(n).as_millis()).to_vec();
        assert_eq!(delays, [5, 10, 20, 20_480, 30_000, 30_000]);
    }

    #[test]
    fn a_key_has_one_time() {
        let (mut later, now) = (Later::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        for seconds in [30, 20, 10] {
            later.set("a".to_owned(), Some(at(seconds)));
        }
        later.set("b".to_owned(), Some(at(5)));
        later.set("b".to_owned(), None);
        assert_eq!(later.next(), Some(at(10)));
        assert_eq!(later.due(at(9)), Vec::<String>::new());
        assert_eq!(later.due(at(30)), ["a"]);
        assert_eq!(later.next(), None);
    }

    #[test]
    fn a_key_is_dirty_once() {
        let dirty = Dirty::default();
        dirty.add(["a".to_owned(), "b".to_owned()]);
        dirty.add(["a".to_owned()]);
        assert_eq!((dirty.pop(), dirty.pop(), dirty.pop()), (Some("a".into()), Some("b".into()), None));
    }
}
