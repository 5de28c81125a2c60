//! What a controller has asked for and its informers have not shown yet: until then it must not count what is there.
//!
//! Creations are counted, and those that the server has answered are known by uid, as deletions are: an object whose creation was told to
//! have failed, and that is there all the same, does not stand for another that is not seen yet. (Upstream waits for the revision of its
//! last creation.) An expectation that is never met is given up after five minutes, as upstream does.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::object::ObjectKey;

const GIVEN_UP_AFTER: Duration = Duration::from_secs(5 * 60);

struct Pending {
    /// Creations that were neither seen nor have failed.
    creations: i64,
    /// Creations that the server has not answered.
    unanswered: usize,
    /// Uids of what was seen while there are such.
    early: HashSet<String>,
    /// Uids of what was created and has not been seen.
    unseen: HashSet<String>,
    deletions: HashSet<String>,
    since: Instant,
}

impl Pending {
    /// An object of this uid is, or was, there.
    fn see(&mut self, uid: &str) {
        if !self.unseen.remove(uid) && self.unanswered > 0 {
            self.early.insert(uid.to_owned());
        }
    }

    fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered == 0 {
            self.early.clear();
        }
    }

    fn is_met(&self) -> bool {
        self.creations <= 0 && self.unseen.is_empty() && self.deletions.is_empty()
    }
}

/// Expectations by the key of the object whose controller has them.
#[derive(Default)]
pub struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

impl Expectations {
    /// `creations` objects are about to be created, and those with these uids deleted. Replaces what was expected before. Each creation
    /// is to be followed by [`Expectations::created`] or [`Expectations::not_created`]; one that is followed by neither, as in a namespace
    /// that is going, is waited for until it is given up.
    pub fn expect(&self, key: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let pending = Pending {
            creations: i64::try_from(creations).unwrap_or(i64::MAX),
            unanswered: creations,
            early: HashSet::new(),
            unseen: HashSet::new(),
            deletions: deletions.into_iter().collect(),
            since: Instant::now(),
        };
        self.pending.lock().insert(key.clone(), pending);
    }

    fn with(&self, key: &ObjectKey, change: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.pending.lock().get_mut(key) {
            change(pending);
        }
    }

    /// The server says that it has created the object with this uid.
    pub fn created(&self, key: &ObjectKey, uid: &str) {
        self.with(key, |pending| {
            if !pending.early.contains(uid) {
                pending.unseen.insert(uid.to_owned());
            }
            pending.answered();
        });
    }

    /// One of the creations has failed, or is not tried any more.
    pub fn not_created(&self, key: &ObjectKey) {
        self.with(key, |pending| {
            pending.creations -= 1;
            pending.answered();
        });
    }

    /// An object that was not known before is seen.
    pub fn creation_observed(&self, key: &ObjectKey, uid: &str) {
        self.with(key, |pending| {
            pending.creations -= 1;
            pending.see(uid);
        });
    }

    /// The deletion of this uid was seen, or has failed.
    pub fn deletion_observed(&self, key: &ObjectKey, uid: &str) {
        self.with(key, |pending| {
            pending.deletions.remove(uid);
            pending.see(uid);
        });
    }

    /// Whether everything expected was seen, or it has been too long.
    pub fn satisfied(&self, key: &ObjectKey) -> bool {
        match self.pending.lock().get(key) {
            None => true,
            Some(pending) => pending.is_met() || pending.since.elapsed() > GIVEN_UP_AFTER,
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
        expectations.creation_observed(&key, "new");
        expectations.created(&key, "new");
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key, "other");
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key, "u");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, []);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(expectations.satisfied(&key));
    }

    #[test]
    fn what_was_told_to_have_failed_does_not_stand_for_what_is_not_seen() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("d", "a"));
        expectations.expect(&key, 3, []);
        expectations.created(&key, "a");
        expectations.creation_observed(&key, "a");
        // It is there all the same.
        expectations.not_created(&key);
        expectations.creation_observed(&key, "denied");
        expectations.created(&key, "b");
        assert!(!expectations.satisfied(&key));
        expectations.creation_observed(&key, "b");
        assert!(expectations.satisfied(&key));
    }

    #[test]
    fn what_is_seen_before_the_answer_is_not_waited_for() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("d", "a"));
        expectations.expect(&key, 3, []);
        expectations.not_created(&key);
        expectations.creation_observed(&key, "denied");
        expectations.creation_observed(&key, "early");
        // Seen when it went already.
        expectations.deletion_observed(&key, "gone");
        expectations.created(&key, "early");
        assert!(expectations.satisfied(&key));
        expectations.created(&key, "gone");
        assert!(expectations.satisfied(&key));
    }
}
