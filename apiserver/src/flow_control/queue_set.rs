//! Fair queuing of one priority level: seats, queues and virtual time (KEP-1040).
//!
//! Pure: time is an argument, and every method says which requests may run now. A request takes seats while it runs.
//! Flows share the seats fairly because a queue's next request is given out by the virtual time at which it would end,
//! were every queue served at the same rate; a request's work is not known beforehand, so it is guessed and put right when the request ends.
//! Bounded: a full queue refuses, and who waits gives up in time.
//!
//! A flow of which nothing runs comes before those of which something does, and a few seats are spare for it. Else one flow could hold
//! all seats for as long as its requests take, and fairness would begin with the first of them to end.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::config::Queuing;
use super::shuffle_shard::deal;

/// The guess at how long a request runs.
const SERVICE_SECONDS: f64 = 0.003;
/// One seat of so many is spare.
const SPARE: u32 = 10;

/// Names a request while it waits and runs.
pub type Id = u64;

/// Why a request is turned away, as metrics tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ConcurrencyLimit => "concurrency-limit",
            Reason::QueueFull => "queue-full",
            Reason::TimeOut => "time-out",
        }
    }
}

/// What a request is to this level.
#[derive(Clone, Debug)]
pub struct Flow {
    pub schema: Arc<str>,
    pub distinguisher: Arc<str>,
    pub hash: u64,
    pub seats: u32,
}

/// What becomes of a request that arrives.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    Run(Id),
    Wait(Id),
    Refuse(Reason),
}

/// A request that waits or runs.
#[derive(Debug)]
pub struct Request {
    pub flow: Flow,
    /// `None` at levels without queues.
    pub queue: Option<usize>,
    pub arrived: Instant,
    pub started: Option<Instant>,
    arrival_r: f64,
}

impl Request {
    /// In seat-seconds.
    fn work(&self) -> f64 {
        f64::from(self.flow.seats) * SERVICE_SECONDS
    }
}

#[derive(Debug, Default)]
pub struct Queue {
    pub waiting: VecDeque<Id>,
    pub executing: usize,
    pub seats_in_use: u32,
    pub seats_waiting: u32,
    /// The virtual time at which its next request begins.
    pub next_r: f64,
    /// Of all that waits, in seat-seconds.
    pub work_waiting: f64,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.executing == 0
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub dispatched: u64,
    pub rejected: u64,
    pub cancelled: u64,
}

/// One priority level.
#[derive(Debug)]
pub struct QueueSet {
    /// `None` where there is no limit: an exempt level.
    limit: Option<u32>,
    queuing: Option<Queuing>,
    pub queues: Vec<Queue>,
    requests: HashMap<Id, Request>,
    /// How many requests run of a flow (by its hash) of which any does.
    running: HashMap<u64, u32>,
    next_id: Id,
    pub seats_in_use: u32,
    pub seats_waiting: u32,
    pub executing: usize,
    pub waiting: usize,
    active_queues: usize,
    /// Virtual time, in seat-seconds, and when it was that.
    r: f64,
    at: Instant,
    robin: usize,
    enqueued: usize,
    pub totals: Totals,
}

impl QueueSet {
    pub fn new(now: Instant) -> QueueSet {
        QueueSet {
            limit: None,
            queuing: None,
            queues: Vec::new(),
            requests: HashMap::new(),
            running: HashMap::new(),
            next_id: 0,
            seats_in_use: 0,
            seats_waiting: 0,
            executing: 0,
            waiting: 0,
            active_queues: 0,
            r: 0.0,
            at: now,
            robin: 0,
            enqueued: 0,
            totals: Totals::default(),
        }
    }

    /// Sets the limits; gives the requests that may run under the new ones.
    pub fn configure(&mut self, now: Instant, limit: Option<u32>, queuing: Option<Queuing>) -> Vec<Id> {
        self.advance(now);
        self.limit = limit;
        self.queuing = queuing;
        // Queues that are no longer dealt stay until what is in them has gone.
        let wanted = queuing.map_or(0, |q| usize::try_from(q.queues).unwrap_or(0));
        while self.queues.len() > wanted && self.queues.last().is_some_and(Queue::is_idle) {
            self.queues.pop();
        }
        while self.queues.len() < wanted {
            self.queues.push(Queue::default());
        }
        self.dispatch_all(now)
    }

    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    pub fn queuing(&self) -> Option<Queuing> {
        self.queuing
    }

    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.executing == 0
    }

    /// The virtual time.
    pub fn virtual_time(&self) -> f64 {
        self.r
    }

    pub fn request(&self, id: Id) -> Option<&Request> {
        self.requests.get(&id)
    }

    pub fn requests(&self) -> impl Iterator<Item = (&Id, &Request)> {
        self.requests.iter()
    }

    /// A request arrives.
    pub fn arrive(&mut self, now: Instant, flow: Flow) -> Arrival {
        self.advance(now);
        let Some(queuing) = self.queuing.filter(|_| self.limit.is_some()) else {
            if !self.fits(flow.seats, 0) {
                self.totals.rejected += 1;
                return Arrival::Refuse(Reason::ConcurrencyLimit);
            }
            let id = self.add(now, flow, None);
            self.start(now, id);
            return Arrival::Run(id);
        };
        let Some(at) = self.choose(flow.hash, queuing) else {
            self.totals.rejected += 1;
            return Arrival::Refuse(Reason::QueueFull);
        };
        let length = i64::try_from(self.queues[at].waiting.len()).unwrap_or(i64::MAX);
        let no_seat = !self.has_seat(self.runs(&flow));
        if (no_seat || length > 0) && length >= queuing.queue_length_limit {
            self.totals.rejected += 1;
            return Arrival::Refuse(Reason::QueueFull);
        }
        let nobody_waits = self.waiting == 0;
        let id = self.enqueue(now, flow, at);
        // When nobody else waits, this is the one that fairness would choose.
        let is_next = nobody_waits || (self.queues[at].waiting.len() == 1 && self.next_queue() == Some(at));
        if is_next && self.has_room(at) {
            self.robin = at;
            self.run_next(now, at);
            return Arrival::Run(id);
        }
        Arrival::Wait(id)
    }

    /// A request ends, or gives up waiting; gives the requests that may run instead.
    pub fn leave(&mut self, now: Instant, id: Id) -> Vec<Id> {
        self.advance(now);
        let Some(request) = self.requests.remove(&id) else { return Vec::new() };
        let seats = request.flow.seats;
        match request.started {
            Some(started) => {
                self.executing -= 1;
                self.seats_in_use -= seats;
                if let Entry::Occupied(mut running) = self.running.entry(request.flow.hash) {
                    *running.get_mut() -= 1;
                    if *running.get() == 0 {
                        running.remove();
                    }
                }
                if let Some(queue) = request.queue.and_then(|at| self.queues.get_mut(at)) {
                    queue.executing -= 1;
                    queue.seats_in_use -= seats;
                    // The guess is put right by what it was.
                    let actual = now.saturating_duration_since(started).as_secs_f64();
                    queue.next_r -= f64::from(seats) * (SERVICE_SECONDS - actual);
                }
            }
            None => {
                self.totals.rejected += 1;
                self.totals.cancelled += 1;
                self.waiting -= 1;
                self.seats_waiting -= seats;
                if let Some(queue) = request.queue.and_then(|at| self.queues.get_mut(at)) {
                    queue.waiting.retain(|waiting| *waiting != id);
                    queue.seats_waiting -= seats;
                    queue.work_waiting = if queue.waiting.is_empty() { 0.0 } else { queue.work_waiting - request.work() };
                }
            }
        }
        if let Some(at) = request.queue {
            self.bound(at);
            self.active_queues -= usize::from(self.queues.get(at).is_some_and(Queue::is_idle));
        }
        self.dispatch_all(now)
    }

    /// Whether so many seats are free besides those that are spare. A request that is wider than the whole level runs alone.
    fn fits(&self, seats: u32, spare: u32) -> bool {
        let Some(limit) = self.limit else { return true };
        if seats > limit { self.executing == 0 } else { self.seats_in_use.saturating_add(seats) <= limit - spare }
    }

    /// Whether anything of a flow runs.
    fn runs(&self, flow: &Flow) -> bool {
        self.running.contains_key(&flow.hash)
    }

    /// The seats that a flow has to leave, by whether anything of it runs.
    fn spare(&self, runs: bool) -> u32 {
        if runs { self.limit.unwrap_or(0) / SPARE } else { 0 }
    }

    /// Whether there is a seat that such a flow may take.
    fn has_seat(&self, runs: bool) -> bool {
        self.limit.is_none_or(|limit| self.seats_in_use < limit - self.spare(runs))
    }

    /// Whether the next request of a queue can run now.
    fn has_room(&self, at: usize) -> bool {
        let Some(next) = self.queues[at].waiting.front().and_then(|id| self.requests.get(id)) else { return false };
        self.has_seat(false) && self.fits(next.flow.seats, self.spare(self.runs(&next.flow)))
    }

    /// Virtual time goes on at the rate at which each active queue is served.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        if self.active_queues == 0 {
            // Nothing to compare with: time may start anew, which keeps its numbers small.
            if self.is_idle() {
                self.r = 0.0;
            }
            return;
        }
        let wanted = self.seats_in_use.saturating_add(self.seats_waiting);
        let served = self.limit.map_or(wanted, |limit| wanted.min(limit));
        self.r += f64::from(served) / self.active_queues as f64 * passed.as_secs_f64();
    }

    /// The queue of a flow's hand with the least work.
    fn choose(&mut self, hash: u64, queuing: Queuing) -> Option<usize> {
        let deck = usize::try_from(queuing.queues).unwrap_or(0).min(self.queues.len());
        let hand = deal(hash, deck, usize::try_from(queuing.hand_size).unwrap_or(0));
        if hand.is_empty() {
            return None;
        }
        // Equally good queues take turns.
        let turn = self.enqueued % hand.len();
        self.enqueued = self.enqueued.wrapping_add(1);
        let in_turn = (0..hand.len()).map(|n| hand[(turn + n) % hand.len()]);
        in_turn.min_by(|a, b| self.queues[*a].work_waiting.total_cmp(&self.queues[*b].work_waiting))
    }

    fn add(&mut self, now: Instant, flow: Flow, queue: Option<usize>) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        self.requests.insert(id, Request { flow, queue, arrived: now, started: None, arrival_r: self.r });
        id
    }

    fn enqueue(&mut self, now: Instant, flow: Flow, at: usize) -> Id {
        let seats = flow.seats;
        let id = self.add(now, flow, Some(at));
        let queue = &mut self.queues[at];
        if queue.is_idle() {
            queue.next_r = self.r;
            self.active_queues += 1;
        }
        queue.waiting.push_back(id);
        queue.seats_waiting += seats;
        queue.work_waiting += f64::from(seats) * SERVICE_SECONDS;
        self.waiting += 1;
        self.seats_waiting += seats;
        self.bound(at);
        id
    }

    fn start(&mut self, now: Instant, id: Id) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.started = Some(now);
        self.executing += 1;
        *self.running.entry(request.flow.hash).or_default() += 1;
        self.seats_in_use += request.flow.seats;
        self.totals.dispatched += 1;
    }

    fn dispatch_all(&mut self, now: Instant) -> Vec<Id> {
        let mut started = Vec::new();
        while self.waiting > 0 && self.has_seat(false) {
            let Some(at) = self.next_queue() else { break };
            // The widest request waits for its seats; to let narrower ones past would starve it.
            if !self.has_room(at) {
                break;
            }
            self.robin = at;
            started.extend(self.run_next(now, at));
        }
        started
    }

    /// The queue whose next request would end first, in virtual time; of equals, the next in turn. Flows of which nothing runs come
    /// first, and alone while only spare seats are left.
    fn next_queue(&self) -> Option<usize> {
        let count = self.queues.len();
        let spare_alone = !self.has_seat(true);
        let mut best: Option<(bool, f64, usize)> = None;
        for at in (1..=count).map(|n| (self.robin + n) % count) {
            let queue = &self.queues[at];
            let Some(oldest) = queue.waiting.front().and_then(|id| self.requests.get(id)) else { continue };
            let (runs, end) = (self.runs(&oldest.flow), queue.next_r + oldest.work());
            if runs && spare_alone {
                continue;
            }
            let is_before = |(other_runs, least, _): (bool, f64, usize)| if runs == other_runs { end < least } else { other_runs };
            if best.is_none_or(is_before) {
                best = Some((runs, end, at));
            }
        }
        best.map(|(_, _, at)| at)
    }

    /// Starts the oldest request of a queue.
    fn run_next(&mut self, now: Instant, at: usize) -> Option<Id> {
        let queue = &mut self.queues[at];
        let id = queue.waiting.pop_front()?;
        let request = self.requests.get(&id)?;
        let (seats, work) = (request.flow.seats, request.work());
        queue.seats_waiting -= seats;
        queue.work_waiting = if queue.waiting.is_empty() { 0.0 } else { queue.work_waiting - work };
        queue.executing += 1;
        queue.seats_in_use += seats;
        queue.next_r += work;
        self.waiting -= 1;
        self.seats_waiting -= seats;
        self.start(now, id);
        self.bound(at);
        Some(id)
    }

    /// A queue gains nothing from the time in which it had nothing to do.
    fn bound(&mut self, at: usize) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        if let Some(oldest) = queue.waiting.front().and_then(|id| self.requests.get(id)) {
            queue.next_r = queue.next_r.max(oldest.arrival_r);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand_size: 1, queue_length_limit: 100 };

    fn flow(hash: u64, seats: u32) -> Flow {
        Flow { schema: "s".into(), distinguisher: "d".into(), hash, seats }
    }

    fn set(limit: u32, queuing: Option<Queuing>) -> (QueueSet, Instant) {
        let now = Instant::now();
        let mut set = QueueSet::new(now);
        assert!(set.configure(now, Some(limit), queuing).is_empty());
        (set, now)
    }

    fn id(arrival: Arrival) -> Id {
        match arrival {
            Arrival::Run(id) | Arrival::Wait(id) => id,
            Arrival::Refuse(reason) => panic!("{reason:?}"),
        }
    }

    #[test]
    fn a_level_without_queues_refuses_what_does_not_fit() {
        let (mut set, now) = set(2, None);
        let first = id(set.arrive(now, flow(0, 1)));
        assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Run(_)));
        assert_eq!(set.arrive(now, flow(0, 1)), Arrival::Refuse(Reason::ConcurrencyLimit));
        set.leave(now, first);
        assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Run(_)));
    }

    #[test]
    fn a_full_queue_refuses() {
        let (mut set, now) = set(1, Some(Queuing { queue_length_limit: 2, ..QUEUING }));
        assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Run(_)));
        assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Wait(_)));
        assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Wait(_)));
        assert_eq!(set.arrive(now, flow(0, 1)), Arrival::Refuse(Reason::QueueFull));
        assert!(matches!(set.arrive(now, flow(1, 1)), Arrival::Wait(_)));
    }

    #[test]
    fn a_flood_does_not_keep_another_flow_waiting() {
        let (mut set, mut now) = set(1, Some(QUEUING));
        let mut running = id(set.arrive(now, flow(0, 1)));
        for _ in 0..50 {
            assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Wait(_)));
        }
        let quiet = id(set.arrive(now, flow(1, 1)));
        let mut before = 0;
        while running != quiet {
            now += Duration::from_millis(10);
            running = set.leave(now, running)[0];
            before += 1;
        }
        assert!(before <= 2, "{before} requests of the flood went before it");
    }

    #[test]
    fn a_flow_of_which_nothing_runs_need_not_wait_for_one_that_takes_all() {
        let (mut set, now) = set(20, Some(QUEUING));
        let runs = |arrival: &Arrival| matches!(arrival, Arrival::Run(_));
        let flood: Vec<Arrival> = (0..40).map(|_| set.arrive(now, flow(0, 1))).collect();
        assert_eq!((flood.iter().filter(|a| runs(a)).count(), set.seats_in_use), (18, 18));
        let first = set.arrive(now, flow(1, 1));
        assert!(runs(&first), "a spare seat is its");
        assert!(!runs(&set.arrive(now, flow(1, 1))), "it has one already");
        assert!(runs(&set.arrive(now, flow(2, 1))));
        assert!(!runs(&set.arrive(now, flow(3, 1))), "none is left");
        assert_eq!(set.seats_in_use, 20);
        let started = set.leave(now, id(first));
        assert_eq!(started.len(), 1);
        assert_eq!(set.request(started[0]).unwrap().flow.hash, 3);
    }

    #[test]
    fn a_flow_of_which_nothing_runs_comes_before_a_wide_request_of_one_that_runs() {
        let (mut set, now) = set(20, Some(QUEUING));
        for _ in 0..10 {
            assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Run(_)));
        }
        assert!(matches!(set.arrive(now, flow(0, 9)), Arrival::Wait(_)), "it would take spare seats");
        assert!(matches!(set.arrive(now, flow(1, 1)), Arrival::Run(_)));
    }

    #[test]
    fn two_flows_with_wide_and_narrow_requests_get_equal_seat_time() {
        let (mut set, mut now) = set(4, Some(QUEUING));
        let mut running: Vec<Id> = Vec::new();
        for _ in 0..100 {
            for (hash, seats) in [(0, 4), (1, 1)] {
                if let Arrival::Run(id) = set.arrive(now, flow(hash, seats)) {
                    running.push(id);
                }
            }
        }
        let mut seat_time = [0u32; 2];
        for _ in 0..60 {
            now += Duration::from_millis(10);
            let mut next = Vec::new();
            for id in std::mem::take(&mut running) {
                let request = set.request(id).unwrap();
                seat_time[usize::from(request.flow.seats == 1)] += request.flow.seats;
                next.extend(set.leave(now, id));
            }
            running = next;
        }
        let [wide, narrow] = seat_time.map(f64::from);
        assert!(wide / narrow < 1.6 && narrow / wide < 1.6, "{seat_time:?}");
    }

    #[test]
    fn who_gives_up_leaves_no_trace() {
        let (mut set, now) = set(1, Some(QUEUING));
        let running = id(set.arrive(now, flow(0, 1)));
        let waiting = id(set.arrive(now, flow(0, 1)));
        let other = id(set.arrive(now, flow(1, 1)));
        assert!(set.leave(now, waiting).is_empty());
        assert_eq!(set.leave(now, running), [other]);
        assert!(set.leave(now, other).is_empty());
        assert!(set.is_idle() && set.seats_in_use == 0 && set.seats_waiting == 0 && set.active_queues == 0);
        assert_eq!(set.totals, Totals { dispatched: 2, rejected: 1, cancelled: 1 });
        assert!(set.leave(now, other).is_empty());
    }

    #[test]
    fn a_request_wider_than_the_level_runs_alone() {
        let (mut set, now) = set(2, Some(QUEUING));
        let wide = id(set.arrive(now, flow(0, 10)));
        assert!(set.request(wide).unwrap().started.is_some());
        let next = id(set.arrive(now, flow(1, 1)));
        assert_eq!(set.leave(now, wide), [next]);
    }

    #[test]
    fn a_level_without_seats_serves_one_at_a_time_if_it_cannot_queue() {
        let (mut set, now) = set(0, None);
        let first = id(set.arrive(now, flow(0, 1)));
        assert_eq!(set.arrive(now, flow(0, 1)), Arrival::Refuse(Reason::ConcurrencyLimit));
        assert!(set.leave(now, first).is_empty());
        assert!(set.configure(now, Some(0), Some(QUEUING)).is_empty());
        assert!(matches!(set.arrive(now, flow(0, 1)), Arrival::Wait(_)));
    }

    #[test]
    fn fewer_queues_keep_what_waits_and_more_seats_let_it_run() {
        let (mut set, now) = set(1, Some(QUEUING));
        let ids: Vec<Id> = (0..5).map(|hash| id(set.arrive(now, flow(hash, 1)))).collect();
        assert!(set.configure(now, Some(1), Some(Queuing { queues: 1, ..QUEUING })).is_empty());
        assert_eq!(set.configure(now, Some(3), Some(Queuing { queues: 1, ..QUEUING })).len(), 2);
        assert_eq!(set.configure(now, None, None).len(), 2);
        ids.iter().for_each(|id| drop(set.leave(now, *id)));
        assert!(set.is_idle());
    }
}
