//! What clients that are turned away are told: how long to stay away.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a client that is turned away should stay away: the more are turned away, the longer.
#[derive(Debug)]
pub struct RetryAfter {
    seconds: u64,
    /// (second, refusals), oldest first; no more than [`MAX_RETRY_AFTER`] of them.
    history: VecDeque<(u64, u64)>,
    raised_at: u64,
}

const MAX_RETRY_AFTER: u64 = 32;

impl Default for RetryAfter {
    fn default() -> RetryAfter {
        RetryAfter { seconds: 1, history: VecDeque::new(), raised_at: 0 }
    }
}

impl RetryAfter {
    /// Counts a refusal; says how many seconds to stay away. `now` counts from any fixed time.
    pub fn refused(&mut self, now: Duration) -> u64 {
        let second = now.as_secs();
        match self.history.back_mut() {
            Some((at, count)) if *at == second => *count += 1,
            _ => {
                self.adjust(second);
                self.history.push_back((second, 1));
            }
        }
        self.seconds
    }

    /// Doubles after three refusals a second, falls by one after less than one a second.
    fn adjust(&mut self, second: u64) {
        let keep = (2 * self.seconds).min(MAX_RETRY_AFTER);
        while self.history.front().is_some_and(|(at, _)| second.saturating_sub(*at) > keep) {
            self.history.pop_front();
        }
        let recent: u64 = self.history.iter().filter(|(at, _)| second.saturating_sub(*at) <= self.seconds).map(|(_, count)| count).sum();
        if second.saturating_sub(self.raised_at) >= self.seconds && recent >= 3 * self.seconds {
            self.seconds = (2 * self.seconds).min(MAX_RETRY_AFTER);
            self.raised_at = second;
        } else if recent < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_stay_away_longer_the_more_are_refused() {
        let mut retry = RetryAfter::default();
        let mut told = Vec::new();
        for second in 100..140 {
            for _ in 0..200 {
                retry.refused(Duration::from_secs(second));
            }
            told.push(retry.refused(Duration::from_secs(second)));
        }
        assert_eq!(told[0], 1);
        assert_eq!(told.last(), Some(&32));
        assert!(told.is_sorted());
        assert_eq!(retry.refused(Duration::from_secs(1000)), 31);
    }
}
