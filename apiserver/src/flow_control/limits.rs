//! How many seats each priority level has: the server's, divided by shares, and what levels lend each other.
//!
//! Pure. Seats that a level does not need now go to those that do, within the bounds that both set; every level keeps what it must not lend.

use super::config::Level;

/// The seats of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// By its shares.
    pub nominal: u32,
    /// What it keeps when it lends all that it may.
    pub lower: u32,
    /// What it has when it borrows all that it may.
    pub upper: u32,
}

/// The bounds of all levels, in their order, for a server with so many seats.
pub fn bounds(levels: &[Level], seats: u32) -> Vec<Bounds> {
    let shares: f64 = levels.iter().map(|l| l.shares.max(0) as f64).sum();
    let nominal = |level: &Level| if shares > 0.0 { (f64::from(seats) * level.shares.max(0) as f64 / shares).ceil() as u32 } else { 0 };
    let sum: u32 = levels.iter().map(nominal).fold(0, u32::saturating_add);
    let part = |of: u32, percent: i64| (f64::from(of) * percent.max(0) as f64 / 100.0).round() as u32;
    let bounds = |level: &Level| {
        let nominal = nominal(level);
        let upper = level.borrowing_limit_percent.map_or(sum, |percent| nominal.saturating_add(part(nominal, percent)));
        Bounds { nominal, lower: nominal.saturating_sub(part(nominal, level.lendable_percent)), upper }
    };
    levels.iter().map(bounds).collect()
}

/// What a level that is not exempt asks for: its bounds, the most seats that it could use lately, and how many it is likely to use.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub bounds: Bounds,
    pub high_watermark: f64,
    pub smoothed: f64,
}

impl Wish {
    /// What it gets in any case: what it has used, unless that is more than its nominal seats.
    fn least(&self) -> f64 {
        self.high_watermark.min(f64::from(self.bounds.nominal)).max(f64::from(self.bounds.lower))
    }
}

/// Divides seats among levels that are not exempt. `exempt` seats are in use beyond all limits and are taken from what is lent.
pub fn divide(wishes: &[Wish], exempt: u32) -> Vec<u32> {
    let nominal: f64 = wishes.iter().map(|w| f64::from(w.bounds.nominal)).sum();
    let available = nominal - f64::from(exempt);
    let lower: f64 = wishes.iter().map(|w| f64::from(w.bounds.lower)).sum();
    let least: f64 = wishes.iter().map(Wish::least).sum();
    if available <= lower {
        return wishes.iter().map(|w| w.bounds.lower).collect();
    }
    if available <= least {
        let share = (available - lower) / (least - lower);
        let between = |w: &Wish| (f64::from(w.bounds.lower) + (w.least() - f64::from(w.bounds.lower)) * share).round() as u32;
        return wishes.iter().map(between).collect();
    }
    let fraction = fair_fraction(wishes, nominal);
    wishes.iter().map(|w| grant(w, fraction).round() as u32).collect()
}

/// The same fraction of what each level is likely to use, within its bounds.
fn grant(wish: &Wish, fraction: f64) -> f64 {
    let target = wish.smoothed.max(wish.least());
    (target * fraction).clamp(wish.least(), f64::from(wish.bounds.upper).max(wish.least()))
}

/// The fraction at which all seats are granted, found by halving: the sum grows with the fraction.
fn fair_fraction(wishes: &[Wish], seats: f64) -> f64 {
    let total = |fraction: f64| -> f64 { wishes.iter().map(|w| grant(w, fraction)).sum() };
    let smallest = wishes.iter().map(|w| w.smoothed.max(w.least())).filter(|t| *t > 0.0).fold(f64::INFINITY, f64::min);
    if !smallest.is_finite() {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, wishes.iter().map(|w| f64::from(w.bounds.upper)).fold(1.0, f64::max) / smallest);
    if total(high) <= seats {
        return high;
    }
    // Far more steps than a seat needs.
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if total(middle) > seats { high = middle } else { low = middle }
    }
    low
}

/// How many seats a level could use, watched over one period after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    now: f64,
    since: f64,
    seconds: f64,
    sum: f64,
    squares: f64,
    high: f64,
    smoothed: f64,
}

/// How much of the old estimate stays, period by period.
const SMOOTHING: f64 = 0.977;

impl Demand {
    /// The demand is so much from this second on.
    pub fn set(&mut self, second: f64, seats: u32) {
        self.pass(second);
        self.now = f64::from(seats);
        self.high = self.high.max(self.now);
    }

    fn pass(&mut self, second: f64) {
        let passed = (second - self.since).max(0.0);
        self.since = second;
        self.seconds += passed;
        self.sum += self.now * passed;
        self.squares += self.now * self.now * passed;
    }

    /// Ends a period: the most seats in it, and the estimate for the next, which rises at once and falls slowly.
    pub fn close(&mut self, second: f64) -> (f64, f64) {
        self.pass(second);
        let average = if self.seconds > 0.0 { self.sum / self.seconds } else { self.now };
        let variance = if self.seconds > 0.0 { (self.squares / self.seconds - average * average).max(0.0) } else { 0.0 };
        let envelope = average + variance.sqrt();
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
        let high = self.high;
        *self = Demand { now: self.now, since: second, high: self.now, smoothed: self.smoothed, ..Demand::default() };
        (high, self.smoothed)
    }

    /// Whether nothing is wanted and nothing is remembered: then periods need not be closed.
    pub fn is_quiet(&self) -> bool {
        self.now == 0.0 && self.high == 0.0 && self.smoothed < 0.5
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::flow_control::bootstrap;
    use crate::flow_control::config::Config;

    #[test]
    fn nominal_seats_are_those_that_upstream_gives() {
        let levels: Vec<Value> = bootstrap::levels().collect();
        let (config, _) = Config::digest(&[], &levels);
        let bounds = bounds(&config.levels, 600);
        let mut table: Vec<(&str, u32, u32)> =
            config.levels.iter().zip(&bounds).map(|(level, b)| (&*level.name, b.nominal, b.lower)).collect();
        table.sort_unstable();
        assert_eq!(
            table,
            [
                ("catch-all", 13, 13),
                ("exempt", 0, 0),
                ("global-default", 49, 24),
                ("leader-election", 25, 25),
                ("node-high", 98, 73),
                ("system", 74, 50),
                ("workload-high", 98, 49),
                ("workload-low", 245, 24),
            ]
        );
    }

    #[test]
    fn a_busy_level_borrows_what_others_do_not_use() {
        let level = |nominal, lower, upper, demand: f64| Wish {
            bounds: Bounds { nominal, lower, upper },
            high_watermark: demand,
            smoothed: demand,
        };
        let idle = [level(100, 50, 300, 0.0), level(200, 100, 300, 0.0)];
        assert_eq!(divide(&idle, 0), [100, 200]);
        let busy = [level(100, 50, 300, 400.0), level(200, 100, 300, 10.0)];
        assert_eq!(divide(&busy, 0), [200, 100]);
        let capped = [level(100, 50, 120, 400.0), level(200, 100, 300, 10.0)];
        assert_eq!(divide(&capped, 0)[0], 120);
        // Exempt requests take from what could be lent, never from what must be kept.
        assert_eq!(divide(&busy, 150), [50, 100]);
        assert_eq!(divide(&busy, 10_000), [50, 100]);
        assert!(divide(&[], 0).is_empty());
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let mut demand = Demand::default();
        demand.set(0.0, 10);
        let (high, first) = demand.close(10.0);
        assert_eq!((high, first), (10.0, 10.0));
        demand.set(10.0, 0);
        let (_, second) = demand.close(20.0);
        assert!(second > 9.5 && second < 10.0);
        assert!(!demand.is_quiet());
    }
}
