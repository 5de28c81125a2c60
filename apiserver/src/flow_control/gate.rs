//! The shell around a [`QueueSet`]: one lock, and those who wait in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::config::Queuing;
use super::limits::Demand;
use super::queue_set::{Arrival, Flow, Id, QueueSet, Reason};
use super::retry_after::RetryAfter;

/// Schemas that refusals and dispatches are counted by; more are counted under no name, so that memory stays bounded.
const MAX_SCHEMAS: usize = 1_000;

/// A priority level that requests go through.
pub struct Gate {
    pub name: String,
    inner: Mutex<Inner>,
    /// What [`RetryAfter`] counts from.
    epoch: Instant,
}

struct Inner {
    set: QueueSet,
    waiters: HashMap<Id, oneshot::Sender<()>>,
    retry_after: RetryAfter,
    demand: Demand,
    counts: BTreeMap<Arc<str>, Counts>,
}

/// What happened to the requests of one schema.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub dispatched: u64,
    pub rejected: BTreeMap<Reason, u64>,
    /// Of those that were refused and of those that ran, how long they waited; of levels without limit nobody waits.
    pub waits: [Waits; 2],
}

/// How long requests have waited.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// How many waited no longer than each of [`WAIT_SECONDS`] and longer than the one before; the last have waited longer than all.
    pub counts: [u64; WAIT_SECONDS.len() + 1],
    pub seconds: f64,
}

impl Waits {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.counts[WAIT_SECONDS.partition_point(|bound| *bound < seconds)] += 1;
        self.seconds += seconds;
    }
}

/// Upper bounds by which waits are counted.
pub const WAIT_SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// A request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub retry_after_seconds: u64,
}

/// The right to run; given back when dropped.
pub struct Seat {
    gate: Arc<Gate>,
    id: Id,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.gate.inner.lock();
        let started = inner.set.leave(Instant::now(), self.id);
        inner.waiters.remove(&self.id);
        inner.wake(started);
        inner.note_demand(self.gate.epoch);
    }
}

impl Inner {
    fn note_demand(&mut self, epoch: Instant) {
        let seats = self.set.seats_in_use.saturating_add(self.set.seats_waiting);
        self.demand.set(epoch.elapsed().as_secs_f64(), seats);
    }

    fn wake(&mut self, started: Vec<Id>) {
        for id in started {
            if let Some(waiter) = self.waiters.remove(&id) {
                // Who has just given up drops its seat, and the next one is woken then.
                let _ = waiter.send(());
            }
        }
    }

    fn count(&mut self, schema: &Arc<str>) -> &mut Counts {
        let known = self.counts.len() < MAX_SCHEMAS || self.counts.contains_key(schema);
        let key: Arc<str> = if known { schema.clone() } else { "".into() };
        self.counts.entry(key).or_default()
    }

    fn dispatch(&mut self, schema: &Arc<str>, waited: Duration) {
        let is_limited = self.set.limit().is_some();
        let counts = self.count(schema);
        counts.dispatched += 1;
        if is_limited {
            counts.waits[1].add(waited);
        }
    }

    fn refuse(&mut self, schema: &Arc<str>, reason: Reason, waited: Duration, since_epoch: Duration) -> Refusal {
        let counts = self.count(schema);
        *counts.rejected.entry(reason).or_default() += 1;
        counts.waits[0].add(waited);
        Refusal { reason, retry_after_seconds: self.retry_after.refused(since_epoch) }
    }
}

impl Gate {
    pub fn new(name: &str) -> Gate {
        let now = Instant::now();
        let inner = Inner {
            set: QueueSet::new(now),
            waiters: HashMap::new(),
            retry_after: RetryAfter::default(),
            demand: Demand::default(),
            counts: BTreeMap::new(),
        };
        Gate { name: name.to_owned(), inner: Mutex::new(inner), epoch: now }
    }

    /// Sets the limits. `None` for no limit: an exempt level.
    pub fn configure(&self, limit: Option<u32>, queuing: Option<Queuing>) {
        let mut inner = self.inner.lock();
        let started = inner.set.configure(Instant::now(), limit, queuing);
        inner.wake(started);
    }

    /// Waits for a seat, for as long as the request may wait.
    pub async fn enter(self: &Arc<Self>, flow: Flow, wait: Duration) -> Result<Seat, Refusal> {
        let schema = flow.schema.clone();
        let since = Instant::now();
        let (seat, waiter) = {
            let mut inner = self.inner.lock();
            let arrival = inner.set.arrive(Instant::now(), flow);
            inner.note_demand(self.epoch);
            match arrival {
                Arrival::Refuse(reason) => return Err(inner.refuse(&schema, reason, Duration::ZERO, self.epoch.elapsed())),
                Arrival::Run(id) => {
                    inner.dispatch(&schema, Duration::ZERO);
                    return Ok(Seat { gate: self.clone(), id });
                }
                Arrival::Wait(id) => {
                    let (sender, receiver) = oneshot::channel();
                    inner.waiters.insert(id, sender);
                    (Seat { gate: self.clone(), id }, receiver)
                }
            }
        };
        // If the client goes while it waits, this future is dropped, and its place in the queue with it.
        if matches!(tokio::time::timeout(wait, waiter).await, Ok(Ok(()))) {
            self.inner.lock().dispatch(&schema, since.elapsed());
            return Ok(seat);
        }
        Err(self.inner.lock().refuse(&schema, Reason::TimeOut, since.elapsed(), self.epoch.elapsed()))
    }

    /// Ends a period of watching the demand: the most seats that could have been used, and the estimate for the next.
    /// `None` if there is no demand and has not been any lately.
    pub fn close_period(&self) -> Option<(f64, f64)> {
        let mut inner = self.inner.lock();
        let quiet = inner.demand.is_quiet();
        let closed = inner.demand.close(self.epoch.elapsed().as_secs_f64());
        (!quiet).then_some(closed)
    }

    /// Changes the number of seats alone.
    pub fn limit(&self, seats: u32) {
        let mut inner = self.inner.lock();
        if inner.set.limit().is_some_and(|limit| limit != seats) {
            let queuing = inner.set.queuing();
            let started = inner.set.configure(Instant::now(), Some(seats), queuing);
            inner.wake(started);
        }
    }

    /// Looks at the level's state.
    pub fn look<T>(&self, look: impl FnOnce(&QueueSet, &BTreeMap<Arc<str>, Counts>) -> T) -> T {
        let inner = self.inner.lock();
        look(&inner.set, &inner.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow { schema: "s".into(), distinguisher: "".into(), hash: 0, seats: 1 }
    }

    #[tokio::test]
    async fn a_seat_that_is_given_back_goes_to_who_waits() {
        let gate = Arc::new(Gate::new("level"));
        gate.configure(Some(1), Some(Queuing { queues: 2, hand_size: 1, queue_length_limit: 2 }));
        let first = gate.enter(flow(), Duration::ZERO).await.ok().unwrap();
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(flow(), Duration::from_secs(60)).await.is_ok() }
        });
        while gate.look(|set, _| set.waiting) == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(gate.look(|set, _| set.is_idle()));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_to_come_back() {
        let gate = Arc::new(Gate::new("level"));
        gate.configure(Some(1), Some(Queuing { queues: 2, hand_size: 1, queue_length_limit: 2 }));
        let seat = gate.enter(flow(), Duration::ZERO).await.ok().unwrap();
        let refusal = gate.enter(flow(), Duration::from_millis(1)).await.err().unwrap();
        assert_eq!(refusal, Refusal { reason: Reason::TimeOut, retry_after_seconds: 1 });
        drop(seat);
        assert!(gate.look(|set, counts| set.is_idle() && counts["s"].dispatched == 1 && counts["s"].rejected[&Reason::TimeOut] == 1));
        let [refused, ran] = gate.look(|_, counts| counts["s"].waits.clone());
        assert_eq!((refused.counts.iter().sum::<u64>(), refused.counts[0], ran.counts[0]), (1, 0, 1), "{refused:?} {ran:?}");
        assert!(refused.seconds >= 0.001 && ran.seconds == 0.0, "{refused:?} {ran:?}");
    }

    #[tokio::test]
    async fn a_client_that_goes_away_gives_up_its_place() {
        let gate = Arc::new(Gate::new("level"));
        gate.configure(Some(1), Some(Queuing { queues: 2, hand_size: 1, queue_length_limit: 2 }));
        let seat = gate.enter(flow(), Duration::ZERO).await.ok().unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(1), gate.enter(flow(), Duration::from_secs(60))).await;
        assert_eq!(gate.look(|set, _| set.waiting), 0);
        drop(seat);
        assert!(gate.look(|set, _| set.is_idle()));
    }
}
