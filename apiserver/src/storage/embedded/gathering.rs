//! How long the writer waits for more writes before it syncs those that it has.
//!
//! A sync costs the same for one write and for a hundred, so under load a moment's wait saves most of them. The writer waits only while
//! writes are announced that it does not have, and here is told how long at most: what is announced may be long in coming, and
//! what came during the last waits says whether it is. Pure: the writer does the waiting.

use std::time::Duration;

/// How often the writer looks whether all have come.
pub(super) const STEP: Duration = Duration::from_micros(100);
/// The first wait, and the last that is found not to be worth it.
const SHORTEST: Duration = Duration::from_micros(50);
/// The most that a write waits for others.
const LONGEST: Duration = Duration::from_millis(1);
/// While nobody comes, one batch of so many waits all the same, to see whether that has changed.
const SKIPPED: u32 = 32;

#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Zero while it is not worth it.
    patience: Duration,
    skipped: u32,
}

impl Gathering {
    /// How long to wait at most for more than these.
    pub fn wait(&mut self, taken: usize) -> Duration {
        if !self.patience.is_zero() {
            return self.patience;
        }
        self.skipped += 1;
        // Several came while the last batch was written.
        if taken > 1 || self.skipped >= SKIPPED {
            self.skipped = 0;
            return SHORTEST;
        }
        Duration::ZERO
    }

    /// So many came during a wait of at most so long.
    pub fn found(&mut self, waited: Duration, more: usize) {
        self.patience = match more {
            0 if waited <= SHORTEST => Duration::ZERO,
            0 => (waited / 2).max(SHORTEST),
            _ => (waited * 2).min(LONGEST),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_alone_hardly_waits() {
        let mut gathering = Gathering::default();
        let mut waited = Duration::ZERO;
        for _ in 0..320 {
            let wait = gathering.wait(1);
            if !wait.is_zero() {
                gathering.found(wait, 0);
            }
            waited += wait;
        }
        assert_eq!(waited, SHORTEST * 10);
    }

    #[test]
    fn many_wait_for_each_other_until_nobody_comes_any_more() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.wait(2), SHORTEST);
        for _ in 0..10 {
            let wait = gathering.wait(2);
            gathering.found(wait, 3);
        }
        assert_eq!(gathering.wait(1), LONGEST);
        let mut waits = 0;
        while !gathering.wait(1).is_zero() {
            let wait = gathering.patience;
            gathering.found(wait, 0);
            waits += 1;
        }
        assert!(waits < 8, "{waits}");
    }
}
