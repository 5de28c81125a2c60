//! Leases for keys that live for a time.
//!
//! Owns the choice between an old lease and a new one: granting is expensive, so writes whose times run out about together
//! share a lease, by upstream's rule.

use std::time::{Duration, Instant};

use etcd_client::LeaseClient;
use tokio::sync::Mutex;

use super::super::store::StoreError;
use super::retry::{Repeat, repeated};

/// A lease is shared for this share of its time to live, and never for longer than is configured.
const REUSE_DIVISOR: i64 = 20;
/// Upstream's default for the longest time.
pub const REUSE_SECONDS: i64 = 60;
/// At most so many keys share a lease.
const REUSE_KEYS: u32 = 1000;

pub(super) struct Leases {
    /// The lease granted last.
    last: Mutex<Option<Lease>>,
    /// The longest that a lease is shared.
    reuse_seconds: i64,
}

#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    expires: Instant,
    keys: u32,
}

impl Leases {
    pub fn new(reuse_seconds: i64) -> Leases {
        Leases { last: Mutex::default(), reuse_seconds }
    }

    /// A lease that outlives `ttl_seconds` from now, but not by much.
    pub async fn get(&self, client: LeaseClient, ttl_seconds: u32) -> Result<i64, StoreError> {
        let ttl = i64::from(ttl_seconds);
        let slack = reuse_seconds(ttl, self.reuse_seconds);
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(lease) = last.as_mut()
            && lease.fits(now, ttl, slack)
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        // One that is granted twice ends by itself.
        let attempt = || {
            let mut client = client.clone();
            async move { client.grant(ttl + slack, None).await }
        };
        let granted = repeated(Repeat::Always, attempt).await?;
        *last = Some(Lease { id: granted.id(), expires: now + seconds(ttl + slack), keys: 1 });
        Ok(granted.id())
    }
}

impl Lease {
    fn fits(&self, now: Instant, ttl: i64, slack: i64) -> bool {
        now + seconds(ttl) < self.expires && now + seconds(ttl + slack) > self.expires && self.keys < REUSE_KEYS
    }
}

fn reuse_seconds(ttl: i64, longest: i64) -> i64 {
    (ttl / REUSE_DIVISOR).min(longest)
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shared_for_a_twentieth_of_its_time_and_a_minute_at_most() {
        assert_eq!([10, 60, 3600].map(|ttl| reuse_seconds(ttl, REUSE_SECONDS)), [0, 3, 60]);
        assert_eq!(reuse_seconds(3600, 10), 10, "or for less, if that is wanted");
        let start = Instant::now();
        let lease = Lease { id: 1, expires: start + seconds(3660), keys: 1 };
        let fits = |after: i64| lease.fits(start + seconds(after), 3600, 60);
        assert_eq!([1, 59, 60, 61].map(fits), [true, true, false, false]);
        assert!(!lease.fits(start + seconds(1), 600, 30), "it would live far too long");
        assert!(!Lease { keys: REUSE_KEYS, ..lease }.fits(start + seconds(1), 3600, 60));
    }
}
