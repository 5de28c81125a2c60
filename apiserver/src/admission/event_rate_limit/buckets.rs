//! Token buckets by key, of which only those that were asked last are kept. The time is an argument.
//!
//! Keys are kept as numbers that nobody can foresee, so that long ones take no room.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

/// What a bucket is filled with and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
    /// When it was last asked, on this collection's own count.
    used: u64,
}

/// The buckets. A new one is full, so that one that was forgotten starts over.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    limit: usize,
    keys: RandomState,
    by_key: HashMap<u64, Bucket>,
    by_use: BTreeMap<u64, u64>,
    count: u64,
}

impl Buckets {
    /// At most `limit` buckets, at least one.
    pub fn new(rate: Rate, limit: usize) -> Buckets {
        Buckets { rate, limit: limit.max(1), keys: RandomState::new(), by_key: HashMap::new(), by_use: BTreeMap::new(), count: 0 }
    }

    /// Takes a token out of the key's bucket, if there is one.
    pub fn take(&mut self, key: &str, now: Timestamp) -> bool {
        let rate = self.rate;
        self.count += 1;
        let count = self.count;
        let bucket = self.touched(key, now, count);
        // A clock that was set back fills nothing.
        let elapsed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        let tokens = (bucket.tokens + elapsed * rate.per_second).min(rate.burst) - 1.0;
        if tokens < 0.0 {
            return false;
        }
        (bucket.tokens, bucket.at) = (tokens, now);
        true
    }

    fn touched(&mut self, key: &str, now: Timestamp, count: u64) -> &mut Bucket {
        let key = self.keys.hash_one(key);
        if let Some(bucket) = self.by_key.get(&key) {
            self.by_use.remove(&bucket.used);
        } else if self.by_key.len() >= self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_key.remove(&oldest);
        }
        self.by_use.insert(count, key);
        let bucket = self.by_key.entry(key).or_insert(Bucket { tokens: self.rate.burst, at: now, used: count });
        bucket.used = count;
        bucket
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start.checked_add(SignedDuration::from_millis(milliseconds)).unwrap()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_comes_in() {
        let mut buckets = Buckets::new(Rate { per_second: 2.0, burst: 3.0 }, 10);
        let taken = |buckets: &mut Buckets, ms: i64| (0..10).filter(|_| buckets.take("k", at(ms))).count();
        assert_eq!(taken(&mut buckets, 0), 3);
        assert_eq!(taken(&mut buckets, 499), 0);
        assert_eq!(taken(&mut buckets, 500), 1);
        assert_eq!(taken(&mut buckets, 100), 0, "a clock that was set back");
        assert_eq!(taken(&mut buckets, 60_000), 3);
    }

    #[test]
    fn the_bucket_that_was_asked_longest_ago_is_forgotten() {
        let mut buckets = Buckets::new(Rate { per_second: 1.0, burst: 1.0 }, 2);
        assert!(buckets.take("a", at(0)) && buckets.take("b", at(0)));
        assert!(!buckets.take("a", at(0)));
        assert!(buckets.take("c", at(0)), "in the place of b");
        assert!(!buckets.take("a", at(0)));
        assert!(buckets.take("b", at(0)), "as if it had never been");
        for n in 0..1000 {
            buckets.take(&n.to_string(), at(0));
            assert!(buckets.by_key.len() <= 2 && buckets.by_use.len() == buckets.by_key.len());
        }
    }
}
