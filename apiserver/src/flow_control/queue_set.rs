//! Fair queuing of one priority level: seats, queues and virtual time (KEP-1040).
//!
//! Pure: time is an argument, and every method says which requests may run now. A request takes seats while it runs.
//! Flows share the seats fairly because a queue's next request is given out by the virtual time at which it would end,
//! were every queue served at the same rate; a request's work is not known beforehand, so it is guessed and put right when the request ends.
//! Bounded: a full queue refuses, and who waits gives up in time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::Queuing;
use super::shuffle_shard::deal;

/// The guess at how long a request runs.
const SERVICE_SECONDS: f64 = 0.003;

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
            if !self.fits(flow.seats) {
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
        if self.limit.is_some_and(|limit| self.seats_in_use >= limit) && length >= queuing.queue_length_limit {
            self.totals.rejected += 1;
            return Arrival::Refuse(Reason::QueueFull);
        }
        let nobody_waits = self.waiting == 0;
        let id = self.enqueue(now, flow, at);
        // When nobody else waits, this is the one that fairness would choose.
        if nobody_waits && self.requests.get(&id).is_some_and(|r| self.fits(r.flow.seats)) {
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

    /// Whether so many seats are free. A request that is wider than the whole level runs alone.
    fn fits(&self, seats: u32) -> bool {
        let Some(limit) = self.limit else { return true };
        if seats > limit { self.executing == 0 && limit > 0 } else { self.seats_in_use.saturating_add(seats) <= limit }
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
        self.seats_in_use += request.flow.seats;
        self.totals.dispatched += 1;
    }

    fn dispatch_all(&mut self, now: Instant) -> Vec<Id> {
        let mut started = Vec::new();
        while self.waiting > 0 && self.limit.is_none_or(|limit| self.seats_in_use < limit) {
            let Some(at) = self.next_queue() else { break };
            let seats = self.queues[at].waiting.front().and_then(|id| self.requests.get(id)).map_or(0, |r| r.flow.seats);
            // The widest request waits for its seats; to let narrower ones past would starve it.
            if !self.fits(seats) {
                break;
            }
            self.robin = at;
            started.extend(self.run_next(now, at));
        }
        started
    }

    /// The queue whose next request would end first, in virtual time; of equals, the next in turn.
    fn next_queue(&self) -> Option<usize> {
        let count = self.queues.len();
        let mut best: Option<(f64, usize)> = None;
        for at in (1..=count).map(|n| (self.robin + n) % count) {
            let queue = &self.queues[at];
            let Some(oldest) = queue.waiting.front().and_then(|id| self.requests.get(id)) else { continue };
            let end = queue.next_r + oldest.work();
            if best.is_none_or(|(least, _)| end < least) {
                best = Some((end, at));
            }
        }
        best.map(|(_, at)| at)
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

/// How long a client that is turned away should stay away: the more are turned away, the longer.
#[derive(Debug)]
pub struct RetryAfter {
    seconds: u64,
    /// (second, refusals), oldest first; no more than [`MAX_RETRY_AFTER`] of them.
    history: VecDeque<(u64, u64)>,
    raised_at: u64,
}

const MAX_RETRY_AFTER: u64 = 32;

impl Default for RetryAfter {
    fn default() -> RetryAfter {
        RetryAfter { seconds: 1, history: VecDeque::new(), raised_at: 0 }
    }
}

impl RetryAfter {
    /// Counts a refusal; says how many seconds to stay away. `now` counts from any fixed time.
    pub fn refused(&mut self, now: Duration) -> u64 {
        let second = now.as_secs();
        match self.history.back_mut() {
            Some((at, count)) if *at == second => *count += 1,
            _ => {
                self.adjust(second);
                self.history.push_back((second, 1));
            }
        }
        self.seconds
    }

    /// Doubles after three refusals a second, falls by one after less than one a second.
    fn adjust(&mut self, second: u64) {
        let keep = (2 * self.seconds).min(MAX_RETRY_AFTER);
        while self.history.front().is_some_and(|(at, _)| second.saturating_sub(*at) > keep) {
            self.history.pop_front();
        }
        let recent: u64 = self.history.iter().filter(|(at, _)| second.saturating_sub(*at) <= self.seconds).map(|(_, count)| count).sum();
        if second.saturating_sub(self.raised_at) >= self.seconds && recent >= 3 * self.seconds {
            self.seconds = (2 * self.seconds).min(MAX_RETRY_AFTER);
            self.raised_at = second;
        } else if recent < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn fewer_queues_keep_what_waits_and_more_seats_let_it_run() {
        let (mut set, now) = set(1, Some(QUEUING));
        let ids: Vec<Id> = (0..5).map(|hash| id(set.arrive(now, flow(hash, 1)))).collect();
        assert!(set.configure(now, Some(1), Some(Queuing { queues: 1, ..QUEUING })).is_empty());
        assert_eq!(set.configure(now, Some(3), Some(Queuing { queues: 1, ..QUEUING })).len(), 2);
        assert_eq!(set.configure(now, None, None).len(), 2);
        ids.iter().for_each(|id| drop(set.leave(now, *id)));
        assert!(set.is_idle());
    }

    #[test]
    fn clients_stay_away_longer_the_more_are_refused() {
        let mut retry = RetryAfter::default();
        let mut told = Vec::new();
        for second in 100..140 {
            for _ in 0..200 {
                retry.refused(Duration::from_secs(second));
            }
            told.push(retry.refused(Duration::from_secs(second)));
        }
        assert_eq!(told[0], 1);
        assert_eq!(told.last(), Some(&32));
        assert!(told.is_sorted());
        assert_eq!(retry.refused(Duration::from_secs(1000)), 31);
    }
}
