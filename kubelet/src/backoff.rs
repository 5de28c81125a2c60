//! How long something that failed waits before it is tried again: longer each time, forgotten after a while without failures.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// Keys that are remembered; beyond it those whose time has passed are dropped, and then the oldest.
const KEYS: usize = 10_000;

#[derive(Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays by key.
pub struct Backoff<K> {
    first: Duration,
    most: Duration,
    entries: HashMap<K, Entry>,
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

impl<K: Eq + Hash + Clone> Backoff<K> {
    pub fn new(first: Duration, most: Duration) -> Backoff<K> {
        Backoff { first, most, entries: HashMap::new() }
    }

    fn is_expired(&self, entry: &Entry, now: Timestamp) -> bool {
        since(now, entry.updated) > self.most * 2
    }

    /// Until when a key whose last failure was at `event` has to wait, if it still has to.
    pub fn waits_until(&self, key: &K, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entries.get(key).filter(|entry| !self.is_expired(entry, event))?;
        let until = event.checked_add(entry.delay).ok()?;
        (until > now).then_some(until)
    }

    /// Until when a key has to wait, counted from its last failure that was told here.
    pub fn waits(&self, key: &K, now: Timestamp) -> Option<Timestamp> {
        let updated = self.entries.get(key)?.updated;
        self.waits_until(key, updated, now)
    }

    /// The delay of a key.
    pub fn delay(&self, key: &K) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// The key has failed: the next delay is longer. `event`: when it did.
    pub fn failed(&mut self, key: &K, event: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !self.is_expired(entry, event) => (entry.delay * 2).min(self.most),
            _ => self.first,
        };
        self.entries.insert(key.clone(), Entry { delay, updated: now });
        if self.entries.len() > KEYS {
            self.shrink(now);
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }

    fn shrink(&mut self, now: Timestamp) {
        let most = self.most * 2;
        self.entries.retain(|_, entry| since(now, entry.updated) <= most);
        while self.entries.len() > KEYS {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.updated).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_are_forgotten_after_twice_that() {
        let at = |seconds| Timestamp::from_second(seconds).expect("it is a time");
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.failed(&"a", at(0), at(0));
            delays.push(backoff.delay(&"a").as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.waits_until(&"a", at(100), at(200)), Some(at(400)));
        assert_eq!(backoff.waits_until(&"a", at(100), at(400)), None);
        assert_eq!(backoff.waits(&"b", at(0)), None);
        backoff.failed(&"a", at(601), at(601));
        assert_eq!(backoff.delay(&"a").as_secs(), 10);
    }
}
