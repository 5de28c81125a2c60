//! What goes wrong, and how often. Each seed has rates of its own, some of them zero, and after a while nothing goes wrong any more.

use std::time::Duration;

use http::Method;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::api::Life;
use crate::api::core::Core;
use crate::api::failure::Failure;
use crate::api::watch::Sight;

/// Rates, in percent of requests, changes or watches.
#[derive(Clone, Debug)]
pub struct Faults {
    pub until: Instant,
    /// Not done, and said so.
    pub refused: f64,
    /// Not done, and nothing is said.
    pub lost: f64,
    /// Done, and said not to be.
    pub denied: f64,
    /// Done, and nothing is said.
    pub unanswered: f64,
    /// Writes that are told of a conflict that is none.
    pub conflicts: f64,
    /// Changes after which a watch breaks.
    pub breaks: f64,
    /// Changes that are told twice.
    pub twice: f64,
    /// Watches that cannot go on where they were.
    pub forgotten: f64,
    /// How long requests take and how late changes are seen at most, apart from the few that take longer.
    pub slowness: Duration,
    pub lateness: Duration,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    Fair,
    Refused(Failure),
    Lost,
    Denied(Failure),
    Unanswered,
}

/// The way of a request.
pub struct Journey {
    pub there: Duration,
    pub fate: Fate,
    pub back: Duration,
    /// How long one who is cut off waits until it knows.
    pub patience: Duration,
}

/// Without faults, requests take this long and changes are seen this late at most.
const QUICK: Duration = Duration::from_millis(10);
/// Of requests and changes, so many percent take up to so many times as long.
const SLOW_PERCENT: f64 = 2.0;
const SLOW_FACTOR: u32 = 10;

impl Faults {
    /// Faults of a kind that the seed chooses.
    pub fn choose(rng: &mut SmallRng, until: Instant) -> Faults {
        let mut rate = |most: f64| if rng.random::<f64>() < 0.4 { 0.0 } else { most * rng.random::<f64>() };
        let (refused, lost, denied, unanswered, conflicts) = (rate(10.0), rate(5.0), rate(5.0), rate(5.0), rate(10.0));
        let (breaks, twice, forgotten) = (rate(5.0), rate(10.0), rate(30.0));
        let slowness = Duration::from_millis(rng.random_range(10..300));
        let lateness = Duration::from_millis(rng.random_range(10..500));
        Faults { until, refused, lost, denied, unanswered, conflicts, breaks, twice, forgotten, slowness, lateness }
    }

    fn are_on(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Core {
    fn up_to(&mut self, most: Duration) -> Duration {
        let most = if self.faults.are_on() { most } else { QUICK };
        let usual = most.mul_f64(self.rng.random());
        let is_slow = self.faults.are_on() && self.happens(SLOW_PERCENT);
        if is_slow { usual * SLOW_FACTOR } else { usual }
    }

    pub(crate) fn journey(&mut self, request: &crate::api::Request) -> Journey {
        let slowness = self.faults.slowness;
        let (there, back) = (self.up_to(slowness), self.up_to(slowness));
        let patience = Duration::from_millis(self.rng.random_range(100..5000));
        Journey { there, fate: self.fate(&request.method), back, patience }
    }

    fn fate(&mut self, method: &Method) -> Fate {
        if !self.faults.are_on() {
            return Fate::Fair;
        }
        let faults = self.faults.clone();
        if self.happens(faults.refused) {
            let failures = [Failure::internal_error(), Failure::too_many_requests("too many requests"), Failure::timeout()];
            return Fate::Refused(failures[self.rng.random_range(0..failures.len())].clone());
        }
        if self.happens(faults.lost) {
            return Fate::Lost;
        }
        if method == Method::GET {
            return Fate::Fair;
        }
        if matches!(*method, Method::PUT | Method::PATCH) && self.happens(faults.conflicts) {
            return Fate::Refused(Failure::conflict("it, says the seed"));
        }
        if self.happens(faults.denied) {
            let failures = [Failure::internal_error(), Failure::timeout()];
            return Fate::Denied(failures[self.rng.random_range(0..failures.len())].clone());
        }
        if self.happens(faults.unanswered) { Fate::Unanswered } else { Fate::Fair }
    }

    pub(crate) fn sight(&mut self, life: &Life) -> Sight {
        let (on, faults) = (self.faults.are_on(), self.faults.clone());
        let mut late = self.up_to(faults.lateness);
        if let Some(until) = life.cut_off_until() {
            late = late.max(until.duration_since(Instant::now()));
        }
        Sight { late, twice: on && self.happens(faults.twice), last: on && self.happens(faults.breaks) }
    }

    /// Whether a watch that begins now is told that history is gone.
    pub(crate) fn forgets_history(&mut self) -> bool {
        let forgotten = self.faults.forgotten;
        self.faults.are_on() && self.happens(forgotten)
    }
}
