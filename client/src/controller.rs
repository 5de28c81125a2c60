//! The shell around a controller: workers that take keys from a queue, run one reconcile at a time for each, and try again
//! after failures. An error or a panic ends one reconcile, nothing else.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use crate::Shutdown;
use crate::queue::Queue;

/// When a key is to be looked at again if nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    After(Duration),
}

/// Works on `queue` with as many workers until shutdown; `name` is the controller's, as logs tell it.
pub async fn run<T, F, Fut, E>(name: &'static str, queue: Queue<T>, workers: usize, shutdown: Shutdown, reconcile: F)
where
    T: Clone + Eq + Hash + fmt::Display + Send + Sync + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<Outcome, E>>,
    E: fmt::Display,
{
    let work = futures::future::join_all((0..workers).map(|_| worker(name, &queue, &reconcile)));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => queue.close(),
        _ = work => {}
    }
}

async fn worker<T, F, Fut, E>(name: &'static str, queue: &Queue<T>, reconcile: &F)
where
    T: Clone + Eq + Hash + fmt::Display,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<Outcome, E>>,
    E: fmt::Display,
{
    while let Some(key) = queue.next().await {
        match AssertUnwindSafe(reconcile(key.clone())).catch_unwind().await {
            Ok(Ok(outcome)) => {
                queue.forget(&key);
                if let Outcome::After(delay) = outcome {
                    queue.add_after(key.clone(), delay);
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(controller = name, %key, %error, "reconcile failed, trying again");
                queue.add_rate_limited(key.clone());
            }
            Err(_) => {
                tracing::error!(controller = name, %key, "reconcile panicked, trying again");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_tried_again() {
        let queue = Queue::default();
        queue.add("a");
        let tries = Arc::new(AtomicU32::new(0));
        let shutdown = Shutdown::new();
        let reconcile = |_: &'static str| {
            let (tries, shutdown) = (tries.clone(), shutdown.clone());
            async move {
                match tries.fetch_add(1, Ordering::Relaxed) {
                    0 => Err("no"),
                    1 => panic!("told to"),
                    2 => Ok(Outcome::After(Duration::from_secs(3))),
                    _ => {
                        shutdown.cancel();
                        Ok(Outcome::Done)
                    }
                }
            }
        };
        run("test", queue, 2, shutdown.clone(), reconcile).await;
        assert_eq!(tries.load(Ordering::Relaxed), 4);
    }
}
