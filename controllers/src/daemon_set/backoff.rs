//! How often a failed pod of a DaemonSet is deleted on one node: after a second, then twice as long each time, up to a quarter of an hour.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// What has not failed for so long starts anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * 15 * 60);

/// The set's uid, the generation that its status tells, and the node.
pub type Key = (String, i64, String);

/// Failures by node; those that are forgotten are dropped as new ones come in.
#[derive(Default)]
pub struct FailedPods {
    failures: Mutex<HashMap<Key, (Instant, Duration)>>,
}

impl FailedPods {
    /// How long the pod has to stay; if it need not, its deletion is counted.
    pub fn delay(&self, key: Key) -> Option<Duration> {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        failures.retain(|_, (at, _)| now.duration_since(*at) <= FORGOTTEN_AFTER);
        match failures.get_mut(&key) {
            Some((at, delay)) if now.duration_since(*at) < *delay => Some(*delay - now.duration_since(*at)),
            Some(entry) => {
                *entry = (now, (entry.1 * 2).min(LONGEST));
                None
            }
            None => {
                failures.insert(key, (now, FIRST));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double_and_are_forgotten() {
        let failed = FailedPods::default();
        let delay = || failed.delay(("uid".to_owned(), 1, "node".to_owned()));
        assert_eq!(delay(), None);
        assert_eq!(delay(), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(delay(), None);
        assert_eq!(delay(), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(1801)).await;
        assert_eq!(delay(), None);
        assert_eq!(delay(), Some(Duration::from_secs(1)));
    }
}
