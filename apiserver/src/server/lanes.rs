//! Two lanes: who takes much of the processor gives way to who takes little.
//!
//! Fair queues say how many requests of whom run at once; on few processors a handful that run is enough to make everybody else wait. So the time in
//! which the tasks of connections run is metered by whose they are. Connections of somebody who takes more than [`SHARE`] go on in a second runtime, whose
//! threads run when a processor is idle, until their owner has been modest for [`BUSY_FOR`]. Nothing is refused here, and who is
//! alone gives way to nobody. Should there be no idle processor at all, the second lane is left to itself no
//! longer than [`PATIENCE`]: then all are equal for a while.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::threads;

/// What is taken in this time is compared with [`SHARE`] of one processor.
const WINDOW: Duration = Duration::from_millis(100);
const SHARE: f64 = 0.2;
/// Who has taken too much is busy for so long.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// A task that runs longer at a time did not run all the time: its thread had to wait for a processor.
const LONGEST_TURN: Duration = Duration::from_millis(2);
/// Who has had the server to themselves for so long is alone.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// How often the second lane is tried while anybody is in it.
const PULSE: Duration = Duration::from_millis(100);
/// A lane that does nothing for so long gets no processor.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long there is one lane when the second gets no processor.
const RELIEF: Duration = Duration::from_secs(2);
/// Owners that are told apart; more are one together.
const MAX_OWNERS: usize = 10_000;

/// What somebody takes.
#[derive(Debug)]
struct Meter {
    began: Instant,
    taken: Duration,
    busy_until: Instant,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter { began: now, taken: Duration::ZERO, busy_until: now }
    }

    /// Whether its owner is busy, now that it has taken this too.
    fn add(&mut self, now: Instant, taken: Duration) -> bool {
        if now.saturating_duration_since(self.began) > WINDOW {
            (self.began, self.taken) = (now, Duration::ZERO);
        }
        self.taken += taken.min(LONGEST_TURN);
        if self.taken > WINDOW.mul_f64(SHARE) {
            self.busy_until = now + BUSY_FOR;
        }
        now < self.busy_until
    }
}

/// One owner of connections.
struct Owner {
    name: Arc<str>,
    meter: Mutex<Meter>,
    busy: AtomicBool,
}

impl Owner {
    fn new(name: &str) -> Arc<Owner> {
        Arc::new(Owner { name: name.into(), meter: Mutex::new(Meter::new(Instant::now())), busy: AtomicBool::new(false) })
    }

    fn took(&self, now: Instant, taken: Duration) {
        let busy = self.meter.lock().add(now, taken);
        if self.busy.load(Ordering::Relaxed) != busy {
            self.busy.store(busy, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Owners(Mutex<HashMap<Arc<str>, Weak<Owner>>>);

impl Owners {
    fn of(&self, name: &str) -> Arc<Owner> {
        let mut owners = self.0.lock();
        if let Some(owner) = owners.get(name).and_then(Weak::upgrade) {
            return owner;
        }
        if owners.len() >= MAX_OWNERS {
            owners.retain(|_, owner| owner.strong_count() > 0);
        }
        let name = if owners.len() < MAX_OWNERS { name } else { "" };
        let owner = owners.get(name).and_then(Weak::upgrade).unwrap_or_else(|| Owner::new(name));
        owners.insert(owner.name.clone(), Arc::downgrade(&owner));
        owner
    }
}

/// Whose a connection is; nobody's in particular at first.
#[derive(Clone, Default)]
pub struct Belonging(Option<Arc<Known>>);

struct Known {
    owners: Arc<Owners>,
    owner: ArcSwap<Owner>,
    traffic: Arc<Traffic>,
}

/// Who is served, and what goes on in the second lane.
struct Traffic {
    began: Instant,
    /// Whose turn was last: the address of the owner.
    last: AtomicUsize,
    /// When it was somebody else's turn last, in milliseconds from the beginning.
    changed: AtomicU64,
    connections: AtomicUsize,
    entered: Notify,
    /// It gets no processor, and nobody is sent there.
    stands: AtomicBool,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            began: Instant::now(),
            last: AtomicUsize::new(0),
            changed: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            entered: Notify::new(),
            stands: AtomicBool::new(false),
        }
    }
}

impl Traffic {
    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// This one has had a turn.
    fn turn(&self, owner: &Arc<Owner>, now: Instant) {
        let owner = Arc::as_ptr(owner).addr();
        if self.last.load(Ordering::Relaxed) != owner {
            self.last.store(owner, Ordering::Relaxed);
            self.changed.store(self.milliseconds(now), Ordering::Relaxed);
        }
    }

    /// Whether several are served.
    fn is_shared(&self, now: Instant) -> bool {
        let alone_ms = self.milliseconds(now).saturating_sub(self.changed.load(Ordering::Relaxed));
        u128::from(alone_ms) < ALONE_AFTER.as_millis()
    }

    /// Tries the second lane while anybody is in it.
    async fn watch(self: Arc<Traffic>, second: Handle) {
        loop {
            while self.connections.load(Ordering::Relaxed) == 0 {
                self.entered.notified().await;
            }
            match tokio::time::timeout(PATIENCE, second.spawn(std::future::ready(()))).await {
                Ok(Ok(())) => tokio::time::sleep(PULSE).await,
                // The lane has been closed.
                Ok(Err(_)) => return,
                Err(_) => {
                    self.stands.store(true, Ordering::Relaxed);
                    tokio::time::sleep(RELIEF).await;
                    self.stands.store(false, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Belonging {
    /// What the connection takes from now on is this one's.
    pub fn to(&self, name: &str) {
        if let Some(known) = &self.0
            && *known.owner.load().name != *name
        {
            known.owner.store(known.owners.of(name));
        }
    }

    /// Whether its owner is to give way.
    fn is_busy(&self) -> bool {
        self.0.as_ref().is_some_and(|known| {
            let Known { owner, traffic, .. } = &**known;
            owner.load().busy.load(Ordering::Relaxed) && !traffic.stands.load(Ordering::Relaxed) && traffic.is_shared(Instant::now())
        })
    }

    /// Runs a turn of a task.
    fn turn<T>(&self, turn: impl FnOnce() -> T) -> T {
        let Some(known) = &self.0 else { return turn() };
        let began = Instant::now();
        let outcome = turn();
        let now = Instant::now();
        let owner = known.owner.load();
        owner.took(now, now - began);
        known.traffic.turn(&owner, now);
        outcome
    }
}

/// Where connections are served.
pub(super) struct Lanes(Option<Second>);

struct Second {
    owners: Arc<Owners>,
    first: Handle,
    traffic: Arc<Traffic>,
    watching: AbortHandle,
    /// Always there, but for the moment in which it ends.
    runtime: Option<Runtime>,
}

impl Drop for Second {
    fn drop(&mut self) {
        self.watching.abort();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Lanes {
    /// One lane for all, the runtime of whoever calls.
    pub(super) fn one() -> Arc<Lanes> {
        Arc::new(Lanes(None))
    }

    /// The runtime of whoever calls, and one that gives way to it.
    pub(super) fn two() -> std::io::Result<Arc<Lanes>> {
        let runtime = threads::when_idle("giving-way")?;
        let first = Handle::try_current().map_err(std::io::Error::other)?;
        let traffic = Arc::<Traffic>::default();
        let watching = first.spawn(traffic.clone().watch(runtime.handle().clone())).abort_handle();
        Ok(Arc::new(Lanes(Some(Second { owners: Arc::default(), first, traffic, watching, runtime: Some(runtime) }))))
    }

    pub(super) fn belonging(&self) -> Belonging {
        Belonging(self.0.as_ref().map(|second| {
            let owner = ArcSwap::new(second.owners.of(""));
            Arc::new(Known { owners: second.owners.clone(), owner, traffic: second.traffic.clone() })
        }))
    }

    /// Serves a connection to its end, in whichever lane it belongs at the time.
    pub(super) fn serve(self: &Arc<Self>, serving: Serving, belonging: Belonging) {
        let Some(Second { first, traffic, runtime: Some(second), .. }) = &self.0 else {
            tokio::spawn(serving);
            return;
        };
        let gives_way = belonging.is_busy();
        let lane = if gives_way { second.handle() } else { first };
        let inside = gives_way.then(|| Inside::enter(traffic));
        let lanes = self.clone();
        lane.spawn(async move {
            let stay = Stay { serving: Some(serving), belonging: belonging.clone(), gives_way };
            let goes_on = stay.await;
            drop(inside);
            if let Some(serving) = goes_on {
                lanes.serve(serving, belonging);
            }
        });
    }
}

/// Counts a connection in the second lane.
struct Inside(Arc<Traffic>);

impl Inside {
    fn enter(traffic: &Arc<Traffic>) -> Inside {
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        traffic.entered.notify_one();
        Inside(traffic.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in one lane: ends with it, or gives it up when it belongs in the other.
struct Stay {
    serving: Option<Serving>,
    belonging: Belonging,
    gives_way: bool,
}

impl Future for Stay {
    type Output = Option<Serving>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Serving>> {
        let this = &mut *self;
        let Some(serving) = &mut this.serving else { return Poll::Ready(None) };
        if this.belonging.turn(|| serving.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(None);
        }
        if this.belonging.is_busy() == this.gives_way { Poll::Pending } else { Poll::Ready(this.serving.take()) }
    }
}

/// Starts the tasks of a connection (one a stream of HTTP/2) in the lane where it is.
#[derive(Clone)]
pub(super) struct Metered(pub Belonging);

impl<F> hyper::rt::Executor<F> for Metered
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(Task { task: Box::pin(task), belonging: self.0.clone() });
    }
}

struct Task<F> {
    task: Pin<Box<F>>,
    belonging: Belonging,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let task = &mut this.task;
        this.belonging.turn(|| task.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn who_takes_more_than_a_share_is_busy_until_they_have_been_modest_for_a_while() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = Meter::new(start);
        let turn = Duration::from_millis(1);
        assert!((0..20).all(|n| !meter.add(at(n), turn)), "a share is not too much");
        assert!(meter.add(at(21), turn));
        assert!(meter.add(at(300), Duration::ZERO));
        assert!(!meter.add(at(3_000), turn));
        assert!((0..20).all(|n| !meter.add(at(4_000 + n * 100), turn)), "little by little is not much");
        assert!(!meter.add(at(9_000), Duration::from_secs(1)), "one long turn was waited for");
    }

    #[test]
    fn an_owner_has_one_meter_and_owners_without_connections_are_forgotten() {
        let owners = Owners::default();
        let (a, b) = (owners.of("a"), owners.of("b"));
        assert!(Arc::ptr_eq(&a, &owners.of("a")) && !Arc::ptr_eq(&a, &b));
        let many: Vec<_> = (0..MAX_OWNERS).map(|n| owners.of(&n.to_string())).collect();
        assert_eq!(&*owners.of("late").name, "", "the rest are one");
        drop(many);
        assert_eq!(&*owners.of("late").name, "late");
    }

    #[test]
    fn who_is_alone_gives_way_to_nobody() {
        let (owners, traffic) = (Owners::default(), Traffic::default());
        let (ann, bob) = (owners.of("ann"), owners.of("bob"));
        let at = |ms| traffic.began + Duration::from_millis(ms);
        for ms in 0..2_000 {
            traffic.turn(&ann, at(ms));
        }
        assert!(!traffic.is_shared(at(2_000)));
        traffic.turn(&bob, at(2_001));
        traffic.turn(&ann, at(2_002));
        assert!(traffic.is_shared(at(2_900)));
        assert!(!traffic.is_shared(at(3_100)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_gets_no_processor_is_left_for_a_while() {
        let still = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let traffic = Arc::<Traffic>::default();
        let watching = tokio::spawn(traffic.clone().watch(still.handle().clone()));
        let stands = || traffic.stands.load(Ordering::Relaxed);
        tokio::time::sleep(2 * PATIENCE).await;
        assert!(!stands(), "nobody is in it");
        let inside = Inside::enter(&traffic);
        tokio::time::sleep(PATIENCE + PULSE).await;
        assert!(stands());
        tokio::time::sleep(RELIEF).await;
        assert!(!stands(), "it is tried again");
        drop(inside);
        watching.abort();
        still.shutdown_background();
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_other_lane_and_comes_back() {
        let lanes = Lanes::two().expect("a runtime");
        let belonging = lanes.belonging();
        belonging.to("ann");
        let (sender, seen) = oneshot::channel();
        let known = belonging.clone();
        let serving = async move {
            let mut seen = Vec::new();
            let set = |busy| known.0.iter().for_each(|known| known.owner.load().busy.store(busy, Ordering::Relaxed));
            for busy in [false, true, false] {
                if let Some(known) = &known.0 {
                    // As if the meter had found it.
                    known.owner.load().meter.lock().busy_until = Instant::now() + if busy { BUSY_FOR } else { Duration::ZERO };
                }
                set(busy);
                tokio::task::yield_now().await;
                seen.push(std::thread::current().name() == Some("giving-way"));
            }
            let _ = sender.send(seen);
        };
        lanes.serve(Box::pin(serving), belonging);
        assert_eq!(seen.await, Ok(vec![false, true, false]));
    }
}
