//! Work queues: a key waits at most once, is worked on by one worker at a time, and comes back later when it failed.

mod metrics;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::metrics::METRICS;
use self::metrics::{Counts, UnderWay};

/// How long a key that failed waits: the first time, doubled each time, up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be put there when its worker is done; since when.
    dirty: HashMap<T, Instant>,
    /// Since when workers have them.
    processing: HashMap<T, Instant>,
    /// When keys become ready, earliest first, with a number that breaks ties; stale entries are those that `due` does not confirm.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, T>,
    due: HashMap<T, (Instant, u64)>,
    next: u64,
    failures: HashMap<T, u32>,
    closed: bool,
}

/// A queue of keys. Clones are the same queue. It is bounded by the number of distinct keys.
pub struct Queue<T> {
    state: Arc<Mutex<State<T>>>,
    changed: Arc<Notify>,
    counts: Option<Arc<Counts>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { state: self.state.clone(), changed: self.changed.clone(), counts: self.counts.clone() }
    }
}

impl<T: Clone + Eq + Hash + Send + 'static> Queue<T> {
    /// A queue that is counted and timed under this name.
    pub fn named(name: &'static str) -> Queue<T> {
        let mut queue = Queue::default();
        queue.counts = Some(Arc::new(Counts::new(name, &queue.state)));
        queue
    }
}

impl<T: Send> UnderWay for Mutex<State<T>> {
    fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    fn since(&self) -> Vec<Instant> {
        self.lock().processing.values().copied().collect()
    }
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Queue<T> {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            due: HashMap::new(),
            next: 0,
            failures: HashMap::new(),
            closed: false,
        };
        Queue { state: Arc::new(Mutex::new(state)), changed: Arc::default(), counts: None }
    }
}

/// What became of a key that was added.
#[derive(Debug, PartialEq)]
enum Added {
    /// It was there already, or the queue is closed.
    Not,
    /// Its worker has it; it is ready when that is done.
    ForLater,
    /// Somebody who waits has something to do now.
    Ready,
}

fn count(counts: Option<&Counts>, added: &Added) {
    if let Some(counts) = counts.filter(|_| *added != Added::Not) {
        counts.adds.inc();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Takes a key in.
    fn add(&mut self, key: T, now: Instant) -> Added {
        if self.closed || self.dirty.contains_key(&key) {
            return Added::Not;
        }
        self.dirty.insert(key.clone(), now);
        if self.processing.contains_key(&key) {
            return Added::ForLater;
        }
        self.ready.push_back(key);
        Added::Ready
    }

    /// Makes ready what is due, counts it, and says when the next is.
    fn promote(&mut self, now: Instant, counts: Option<&Counts>) -> Option<Instant> {
        while let Some(Reverse((at, number))) = self.delayed.peek().copied() {
            if at > now {
                return Some(at);
            }
            self.delayed.pop();
            let Some(key) = self.delayed_keys.remove(&number) else { continue };
            if self.due.get(&key).is_some_and(|(_, current)| *current == number) {
                self.due.remove(&key);
                let added = self.add(key, now);
                count(counts, &added);
            }
        }
        None
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    pub fn add(&self, key: T) {
        let added = self.state.lock().add(key, Instant::now());
        count(self.counts.as_deref(), &added);
        if added == Added::Ready {
            self.changed.notify_one();
        }
    }

    /// Adds the key when the time has passed. Of several times for one key the earliest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if let Some(counts) = &self.counts {
            counts.retries.inc();
        }
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.state.lock();
        if state.closed || state.due.get(&key).is_some_and(|(earlier, _)| *earlier <= at) {
            return;
        }
        let number = state.next;
        state.next += 1;
        if let Some((_, old)) = state.due.insert(key.clone(), (at, number)) {
            state.delayed_keys.remove(&old);
        }
        state.delayed_keys.insert(number, key);
        state.delayed.push(Reverse((at, number)));
        self.changed.notify_one();
    }

    /// Adds the key after a time that doubles with each call since [`Queue::forget`].
    pub fn add_rate_limited(&self, key: T) {
        let delay = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = backoff(*failures);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }

    /// The key succeeded: its next failure waits the shortest time again.
    pub fn forget(&self, key: &T) {
        self.state.lock().failures.remove(key);
    }

    /// How often the key failed in a row.
    pub fn failures(&self, key: &T) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key to work on; [`Queue::done`] must follow. Nothing once the queue is closed.
    pub async fn next(&self) -> Option<T> {
        loop {
            let wake = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                let wake = state.promote(now, self.counts.as_deref());
                if let Some(key) = state.ready.pop_front() {
                    let added = state.dirty.remove(&key);
                    state.processing.insert(key.clone(), now);
                    if let (Some(counts), Some(added)) = (&self.counts, added) {
                        counts.queued.observe_time(now.saturating_duration_since(added));
                    }
                    if !state.ready.is_empty() || wake.is_some() {
                        self.changed.notify_one();
                    }
                    return Some(key);
                }
                wake
            };
            match wake {
                Some(at) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// The worker is through with the key; it may be handed out again.
    pub fn done(&self, key: &T) {
        let mut state = self.state.lock();
        if let (Some(since), Some(counts)) = (state.processing.remove(key), &self.counts) {
            counts.worked.observe_time(since.elapsed());
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            self.changed.notify_one();
        }
    }

    /// How many keys are ready to be worked on.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the queue: whoever waits is told.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.checked_mul(1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).map_or(BACKOFF_MAX, |d| d.min(BACKOFF_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_worked_on_by_one_at_a_time() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.next().await, Some("b"));
        assert!(tokio::time::timeout(Duration::from_secs(5), queue.next()).await.is_err());
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_delays_the_shorter_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(20));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            assert_eq!(queue.next().await, Some("a"));
            waits.push(start.elapsed().as_millis());
            queue.done(&"a");
        }
        assert_eq!(waits, [5, 10, 20, 40]);
        assert_eq!(backoff(40), BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_with_a_name_is_counted_and_timed() {
        let queue = Queue::named("test_counted");
        let tell = || {
            let mut text = String::new();
            crate::metrics::render(&mut text, METRICS);
            text.lines().filter(|line| line.contains("test_counted") && !line.contains("_bucket")).map(str::to_owned).collect::<Vec<_>>()
        };
        queue.add("a");
        queue.add("a");
        queue.add_after("b", Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(queue.next().await, Some("a"));
        // Once more while it is worked on: it is not ready before that is done.
        queue.add("a");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(queue.next().await, Some("b"));
        let expected = [
            "workqueue_depth{name=\"test_counted\"} 0",
            "workqueue_adds_total{name=\"test_counted\"} 3",
            "workqueue_queue_duration_seconds_sum{name=\"test_counted\"} 2",
            "workqueue_queue_duration_seconds_count{name=\"test_counted\"} 2",
            "workqueue_work_duration_seconds_sum{name=\"test_counted\"} 0",
            "workqueue_work_duration_seconds_count{name=\"test_counted\"} 0",
            "workqueue_unfinished_work_seconds{name=\"test_counted\"} 2",
            "workqueue_longest_running_processor_seconds{name=\"test_counted\"} 2",
            "workqueue_retries_total{name=\"test_counted\"} 1",
        ];
        assert_eq!(tell(), expected);
        queue.done(&"a");
        let told = tell();
        assert!(told.contains(&"workqueue_depth{name=\"test_counted\"} 1".to_owned()), "{told:?}");
        assert!(told.contains(&"workqueue_work_duration_seconds_sum{name=\"test_counted\"} 2".to_owned()), "{told:?}");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_the_end() {
        let queue = Queue::<u8>::default();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(waiting.await.expect("it does not panic"), None);
    }
}
