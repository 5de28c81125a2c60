//! Questions to the API server about users: asked again when it does not answer, and answers remembered for a while.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Answers remembered at once. When there are more, the outdated ones go, and if none is, all.
const MAX_ANSWERS: usize = 4_096;
/// How often a question is asked, and the wait after the first failure, which grows by half each time.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Answers that hold until a time.
pub struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Cache<K, V> {
        Cache(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    pub fn insert(&self, key: K, value: V, until: Instant) {
        let mut answers = self.0.lock();
        if answers.len() >= MAX_ANSWERS {
            let now = Instant::now();
            answers.retain(|_, (_, until)| *until > now);
            if answers.len() >= MAX_ANSWERS {
                answers.clear();
            }
        }
        answers.insert(key, (value, until));
    }
}

/// Asks until there is an answer that more asking would not change.
pub async fn retrying<T, F: Future<Output = Result<T, kube::Error>>>(ask: impl Fn() -> F) -> Result<T, kube::Error> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        match ask().await {
            Err(error) if is_passing(&error) => {
                tracing::debug!(%error, "a review failed, asking again");
                tokio::time::sleep(wait).await;
                wait = wait * 3 / 2;
            }
            answer => return answer,
        }
    }
    ask().await
}

/// Whether the failure may be over soon.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500),
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_forgotten_in_time_and_never_too_many() {
        let cache = Cache::default();
        let now = Instant::now();
        cache.insert(0, "a", now + Duration::from_secs(1));
        assert_eq!(cache.get(&0, now), Some("a"));
        assert_eq!(cache.get(&0, now + Duration::from_secs(2)), None);
        for key in 0..2 * MAX_ANSWERS {
            cache.insert(key, "b", now + Duration::from_secs(60));
        }
        assert!(cache.0.lock().len() <= MAX_ANSWERS);
        assert_eq!(cache.get(&(2 * MAX_ANSWERS - 1), now), Some("b"));
    }
}
