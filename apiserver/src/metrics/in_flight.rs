//! How many requests are served at once: the most of the last second, as upstream tells it.
//!
//! Nothing runs once a second for it: whoever comes notes how many there are, under the second in which they came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use apimachinery::metrics::{head, sample};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ReadOnly,
    Mutating,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::ReadOnly, Kind::Mutating];

    pub fn of_verb(verb: &str) -> Kind {
        if matches!(verb, "get" | "list" | "watch") { Kind::ReadOnly } else { Kind::Mutating }
    }

    fn as_str(self) -> &'static str {
        match self {
            Kind::ReadOnly => "readOnly",
            Kind::Mutating => "mutating",
        }
    }
}

/// Requests that are being served.
pub struct InFlight {
    counts: [Count; 2],
    epoch: Instant,
}

#[derive(Default)]
struct Count {
    now: AtomicU64,
    /// Of an even and of an odd second: which one in the upper half, and the most that there were in the lower. What is of a later
    /// second is greater whatever there were.
    most: [AtomicU64; 2],
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight { counts: Default::default(), epoch: Instant::now() }
    }
}

impl InFlight {
    fn second(&self, at: Instant) -> u64 {
        // From 1, as 0 is before everything.
        at.saturating_duration_since(self.epoch).as_secs() + 1
    }

    /// One more, which came at an instant.
    pub fn enter(&self, kind: Kind, at: Instant) {
        let count = &self.counts[kind as usize];
        let now = count.now.fetch_add(1, Ordering::Relaxed) + 1;
        let second = self.second(at);
        let (most, seen) = (&count.most[usize::from(second % 2 == 1)], (second << 32) | now);
        if most.load(Ordering::Relaxed) < seen {
            most.fetch_max(seen, Ordering::Relaxed);
        }
    }

    pub fn leave(&self, kind: Kind) {
        self.counts[kind as usize].now.fetch_sub(1, Ordering::Relaxed);
    }

    fn most(&self, kind: Kind, at: Instant) -> u64 {
        let count = &self.counts[kind as usize];
        let second = self.second(at);
        let lately = count.most.iter().map(|most| most.load(Ordering::Relaxed)).filter(|most| (most >> 32) + 1 >= second);
        lately.map(|most| most & u64::from(u32::MAX)).chain([count.now.load(Ordering::Relaxed)]).max().unwrap_or(0)
    }

    pub fn render(&self, out: &mut String) {
        let name = "apiserver_current_inflight_requests";
        head(out, name, "gauge", "[STABLE] The most requests that were served at once in the last second, by what they do.");
        let now = Instant::now();
        for kind in Kind::ALL {
            sample(out, name, &format!("request_kind=\"{}\"", kind.as_str()), self.most(kind, now) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_most_of_the_last_second_is_told_and_then_forgotten() {
        let flight = InFlight::default();
        let after = |ms: u64| flight.epoch + Duration::from_millis(ms);
        for _ in 0..3 {
            flight.enter(Kind::ReadOnly, after(10));
        }
        flight.enter(Kind::Mutating, after(10));
        flight.leave(Kind::ReadOnly);
        flight.leave(Kind::ReadOnly);
        assert_eq!((flight.most(Kind::ReadOnly, after(500)), flight.most(Kind::Mutating, after(500))), (3, 1));
        assert_eq!(flight.most(Kind::ReadOnly, after(1500)), 3, "it is still the last full second");
        assert_eq!(flight.most(Kind::ReadOnly, after(2500)), 1, "one is being served");
        flight.leave(Kind::ReadOnly);
        assert_eq!(flight.most(Kind::ReadOnly, after(2500)), 0);
        flight.enter(Kind::ReadOnly, after(2600));
        assert_eq!(flight.most(Kind::ReadOnly, after(2600)), 1, "what was in another second does not count any more");
    }
}
