//! How far the caches have come.
//!
//! Owns the one revision up to which every cache has every change, and those who wait for it. It never goes back.

use std::time::Duration;

use tokio::sync::watch;

use super::store::Revision;

/// The caches' common revision.
#[derive(Debug)]
pub(super) struct Progress(watch::Sender<Revision>);

impl Progress {
    pub fn new(revision: Revision) -> Progress {
        Progress(watch::Sender::new(revision))
    }

    pub fn now(&self) -> Revision {
        *self.0.borrow()
    }

    pub fn advance(&self, to: Revision) {
        self.0.send_if_modified(|now| {
            let later = to > *now;
            if later {
                *now = to;
            }
            later
        });
    }

    /// Waits until every cache has every change up to a revision; calls `nudge` now and then while waiting.
    /// False if that takes longer than `timeout`.
    pub async fn reaches(&self, revision: Revision, timeout: Duration, nudge: impl Fn()) -> bool {
        /// How often upstream asks its store for progress while somebody waits.
        const NUDGE_PERIOD: Duration = Duration::from_millis(100);
        if self.now() >= revision {
            return true;
        }
        let mut receiver = self.0.subscribe();
        let nudged = async {
            loop {
                tokio::time::sleep(NUDGE_PERIOD).await;
                nudge();
            }
        };
        nudge();
        tokio::select! {
            reached = receiver.wait_for(|now| *now >= revision) => reached.is_ok(),
            () = nudged => false,
            () = tokio::time::sleep(timeout) => false,
        }
    }
}
