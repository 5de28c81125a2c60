//! Requests to an etcd of several members, some of which may be gone: they are made again, of another member, where that cannot do
//! anything twice. Which those are, how often and how long apart is as upstream's client has it.

use std::error::Error as _;
use std::time::Duration;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use super::super::store::{Revision, StoreError};
use super::failure;

/// A request that takes longer, in all of its attempts, is given up; it may still have happened.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ATTEMPTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(25);

/// When a request that has failed is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Whenever the etcd, or the member that was asked, is unavailable: for what only reads.
    Always,
    /// If there was no connection to send it over: for what changes something.
    Unsent,
}

impl Repeat {
    fn allows(self, status: &Status) -> bool {
        status.code() == Code::Unavailable && (self == Repeat::Always || is_unsent(status))
    }
}

/// Whether no connection was made, so that nobody has the request.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Makes a request until it has an answer that counts, with a limit on the time of all.
pub(super) async fn repeated<T, F>(repeat: Repeat, request: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Error>>,
{
    let attempts = async {
        for _ in 1..MAX_ATTEMPTS {
            match request().await {
                Err(Error::GRpcStatus(status)) if repeat.allows(&status) => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
        request().await
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, attempts).await {
        Ok(answer) => answer.map_err(|e| failure(e, Revision(0))),
        Err(_) => Err(StoreError::Unavailable("etcdserver: request timed out".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn unsent() -> Status {
        Status::from_error(Box::new(ConnectError("refused".into())))
    }

    /// How often a request is made that fails like this twice.
    async fn attempts(repeat: Repeat, status: fn() -> Status) -> usize {
        let made = AtomicUsize::new(0);
        let request = || {
            let attempt = made.fetch_add(1, Ordering::SeqCst);
            std::future::ready(if attempt < 2 { Err(Error::GRpcStatus(status())) } else { Ok(()) })
        };
        let answer = repeated(repeat, request).await;
        let made = made.load(Ordering::SeqCst);
        assert_eq!(answer.is_ok(), made == 3);
        made
    }

    #[tokio::test]
    async fn what_nobody_has_had_is_sent_again_and_what_may_have_happened_only_if_it_reads() {
        let lost = || Status::unavailable("etcdserver: request timed out, possibly due to connection lost");
        assert_eq!(attempts(Repeat::Unsent, unsent).await, 3);
        assert_eq!(attempts(Repeat::Always, unsent).await, 3);
        assert_eq!(attempts(Repeat::Unsent, lost).await, 1);
        assert_eq!(attempts(Repeat::Always, lost).await, 3);
        assert_eq!(attempts(Repeat::Always, || Status::invalid_argument("no")).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_etcd_that_stays_away_is_given_up() {
        let request = || std::future::ready(Err::<(), _>(Error::GRpcStatus(unsent())));
        assert!(matches!(repeated(Repeat::Unsent, request).await, Err(StoreError::Unavailable(_))));
    }
}
