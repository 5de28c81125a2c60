//! How fast nodes are tainted, zone by zone: the more of a zone is down, the likelier is it the zone's fault, or ours. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Initial,
    Normal,
    PartialDisruption,
    FullDisruption,
}

/// Rates in nodes per second, and when they count.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub normal: f32,
    pub secondary: f32,
    /// The share of nodes that are down from which a zone is disrupted.
    pub unhealthy_threshold: f32,
    /// Zones up to this size stop when they are disrupted.
    pub large_cluster_threshold: usize,
}

/// The state of a zone with so many nodes, of which some are ready.
pub fn state(ready: usize, not_ready: usize, threshold: f32) -> State {
    #[expect(clippy::cast_precision_loss, reason = "a share of nodes need not be exact")]
    let share = not_ready as f32 / (ready + not_ready).max(1) as f32;
    match (ready, not_ready) {
        (0, 1..) => State::FullDisruption,
        (_, 3..) if share >= threshold => State::PartialDisruption,
        _ => State::Normal,
    }
}

impl Rates {
    fn of(&self, state: State, size: usize) -> f32 {
        match state {
            State::PartialDisruption if size > self.large_cluster_threshold => self.secondary,
            State::PartialDisruption => 0.0,
            State::Initial | State::Normal | State::FullDisruption => self.normal,
        }
    }
}

/// One zone: its state, and the nodes that wait to be tainted.
#[derive(Debug)]
struct Zone {
    state: State,
    rate: f32,
    /// When the next node may be tainted, on a clock that starts anywhere.
    next: Duration,
    waiting: VecDeque<String>,
}

/// What a change of states asks for beyond new rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Usual,
    /// All zones went down at once: it is we who see nothing. Taints come off, nobody is evicted.
    Entered,
    /// Some node is seen again: all get their full grace anew.
    Left,
}

#[derive(Debug)]
pub struct Zones {
    rates: Rates,
    zones: BTreeMap<String, Zone>,
}

impl Zones {
    pub fn new(rates: Rates) -> Zones {
        Zones { rates, zones: BTreeMap::new() }
    }

    fn zone(&mut self, name: &str) -> &mut Zone {
        let rate = self.rates.normal;
        let new = || Zone { state: State::Initial, rate, next: Duration::ZERO, waiting: VecDeque::new() };
        self.zones.entry(name.to_owned()).or_insert_with(new)
    }

    /// A node waits to be tainted; at most once.
    pub fn add(&mut self, zone: &str, node: &str) {
        let zone = self.zone(zone);
        if !zone.waiting.iter().any(|waiting| waiting == node) {
            zone.waiting.push_back(node.to_owned());
        }
    }

    pub fn remove(&mut self, zone: &str, node: &str) {
        self.zone(zone).waiting.retain(|waiting| waiting != node);
    }

    /// The nodes whose turn it is.
    pub fn due(&mut self, now: Duration) -> Vec<String> {
        let mut due = Vec::new();
        for zone in self.zones.values_mut() {
            if zone.rate > 0.0
                && zone.next <= now
                && let Some(node) = zone.waiting.pop_front()
            {
                zone.next = now + Duration::from_secs_f32(1.0 / zone.rate);
                due.push(node);
            }
        }
        due
    }

    /// The zones that are known.
    pub fn names(&self) -> Vec<String> {
        self.zones.keys().cloned().collect()
    }

    /// Sets the states by how many nodes of each zone are ready and are not.
    pub fn update(&mut self, counts: &BTreeMap<String, (usize, usize)>) -> Mode {
        let rates = self.rates;
        let new: BTreeMap<&String, State> =
            counts.iter().map(|(name, (ready, not))| (name, state(*ready, *not, rates.unhealthy_threshold))).collect();
        counts.keys().for_each(|name| {
            self.zone(name);
        });
        self.zones.retain(|name, _| counts.contains_key(name));
        let all_down = new.values().all(|state| *state == State::FullDisruption);
        let all_were_down = self.zones.values().all(|zone| zone.state == State::FullDisruption);
        if self.zones.is_empty() || (all_down && all_were_down) {
            return Mode::Usual;
        }
        for (name, zone) in &mut self.zones {
            let (Some(state), Some((ready, not))) = (new.get(name), counts.get(name)) else { continue };
            if all_down {
                (zone.state, zone.rate) = (State::FullDisruption, 0.0);
            } else if all_were_down || zone.state != *state {
                (zone.state, zone.rate) = (*state, rates.of(*state, ready + not));
            }
        }
        match (all_down, all_were_down) {
            (true, _) => Mode::Entered,
            (_, true) => Mode::Left,
            _ => Mode::Usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { normal: 0.1, secondary: 0.01, unhealthy_threshold: 0.55, large_cluster_threshold: 5 };

    fn counts(zones: &[(&str, usize, usize)]) -> BTreeMap<String, (usize, usize)> {
        zones.iter().map(|(name, ready, not)| ((*name).to_owned(), (*ready, *not))).collect()
    }

    #[test]
    fn a_zone_is_as_disrupted_as_its_nodes_are_down() {
        assert_eq!(state(0, 1, 0.55), State::FullDisruption);
        assert_eq!(state(2, 3, 0.55), State::PartialDisruption);
        assert_eq!(state(1, 2, 0.55), State::Normal);
        assert_eq!(state(9, 3, 0.55), State::Normal);
        assert_eq!(state(0, 0, 0.55), State::Normal);
    }

    #[test]
    fn one_node_goes_in_ten_seconds() {
        let mut zones = Zones::new(RATES);
        ["a", "b", "a"].iter().for_each(|node| zones.add("z", node));
        assert_eq!(zones.due(Duration::ZERO), ["a"]);
        assert_eq!(zones.due(Duration::from_secs(9)), [""; 0]);
        assert_eq!(zones.due(Duration::from_secs(11)), ["b"]);
        zones.add("z", "c");
        zones.remove("z", "c");
        assert_eq!(zones.due(Duration::from_secs(99)), [""; 0]);
    }

    #[test]
    fn a_small_disrupted_zone_stops_and_a_large_one_slows_down() {
        let mut zones = Zones::new(RATES);
        zones.add("small", "s");
        zones.add("large", "l");
        assert_eq!(zones.update(&counts(&[("small", 1, 4), ("large", 1, 9), ("other", 1, 0)])), Mode::Usual);
        assert_eq!(zones.due(Duration::ZERO), ["l"]);
        zones.add("large", "m");
        assert_eq!(zones.due(Duration::from_secs(50)), [""; 0]);
        assert_eq!(zones.due(Duration::from_secs(101)), ["m"]);
    }

    #[test]
    fn nobody_is_evicted_while_all_zones_are_down() {
        let mut zones = Zones::new(RATES);
        assert_eq!(zones.update(&counts(&[("a", 1, 0), ("b", 1, 0)])), Mode::Usual);
        assert_eq!(zones.update(&counts(&[("a", 0, 1), ("b", 0, 1)])), Mode::Entered);
        zones.add("a", "n");
        assert_eq!(zones.due(Duration::from_secs(99)), [""; 0]);
        assert_eq!(zones.update(&counts(&[("a", 0, 1), ("b", 0, 1)])), Mode::Usual);
        assert_eq!(zones.update(&counts(&[("a", 0, 1), ("b", 1, 0)])), Mode::Left);
        assert_eq!(zones.due(Duration::from_secs(99)), ["n"]);
    }
}
