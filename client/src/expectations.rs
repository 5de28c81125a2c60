//! What a controller has asked for and its informers have not shown yet: until then it must not count what is there.
//!
//! Creations are counted, deletions are known by uid. An expectation that is never met is given up after five minutes, as upstream does.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::object::ObjectKey;

const GIVEN_UP_AFTER: Duration = Duration::from_secs(5 * 60);

struct Pending {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

/// Expectations by the key of the object whose controller has them.
#[derive(Default)]
pub struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

impl Expectations {
    /// `creations` objects are about to be created, and those with these uids deleted. Replaces what was expected before.
    pub fn expect(&self, key: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let creations = i64::try_from(creations).unwrap_or(i64::MAX);
        let pending = Pending { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.pending.lock().insert(key.clone(), pending);
    }

    /// One of the creations was seen, or has failed.
    pub fn creation_observed(&self, key: &ObjectKey) {
        if let Some(pending) = self.pending.lock().get_mut(key) {
            pending.creations -= 1;
        }
    }

    /// The deletion of this uid was seen, or has failed.
    pub fn deletion_observed(&self, key: &ObjectKey, uid: &str) {
        if let Some(pending) = self.pending.lock().get_mut(key) {
            pending.deletions.remove(uid);
        }
    }

    /// Whether everything expected was seen, or it has been too long.
    pub fn satisfied(&self, key: &ObjectKey) -> bool {
        match self.pending.lock().get(key) {
            None => true,
            Some(p) => (p.creations <= 0 && p.deletions.is_empty()) || p.since.elapsed() > GIVEN_UP_AFTER,
        }
    }

    /// The object is gone: nothing is expected for it any more.
    pub fn forget(&self, key: &ObjectKey) {
        self.pending.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_are_met_one_by_one_or_given_up() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("d", "a"));
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 1, ["u".to_owned()]);
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key, "other");
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key, "u");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, []);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(expectations.satisfied(&key));
    }
}
