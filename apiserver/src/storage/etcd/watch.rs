//! One watch of everything below the root.
//!
//! Owns the translation of etcd's watch responses, and the knowledge of which of them tell progress that can be
//! believed. It does not reconnect: whoever watches does, from where it was.

use std::collections::VecDeque;

use etcd_client::{EventType, WatchClient, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use super::super::store::{Batch, Key, Revision, StoreError, StoreEvent};
use super::{failure, signed, unsigned};

/// How a watch learns that nothing has happened up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgressBy {
    /// By asking; trustworthy from etcd 3.4.31 and 3.5.13 on.
    Request,
    /// By watching all keys, not only ours: then every revision brings an event. For older etcds.
    AllKeys,
}

impl ProgressBy {
    /// Older etcds may tell progress ahead of events that are still to come.
    pub fn for_version(version: &str) -> ProgressBy {
        let mut parts = version.split(['.', '-', '+']).map(|p| p.parse::<u32>().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        let version = (part(), part(), part());
        if version >= (3, 5, 13) || ((3, 4, 31)..(3, 5, 0)).contains(&version) { ProgressBy::Request } else { ProgressBy::AllKeys }
    }
}

pub(super) struct Watch {
    pub client: WatchClient,
    /// With its slash at the end.
    pub root: String,
    pub progress_by: ProgressBy,
    /// Changes whenever somebody wants to know the progress.
    pub requests: watch::Receiver<u64>,
    pub after: Revision,
}

struct Open {
    watch: Watch,
    streams: Option<(WatchRequestSender, WatchResponseStream)>,
    ready: VecDeque<Batch>,
    ended: bool,
}

/// Everything after a revision. Ends after an error.
pub(super) fn stream(watch: Watch) -> BoxStream<'static, Result<Batch, StoreError>> {
    let open = Open { watch, streams: None, ready: VecDeque::new(), ended: false };
    stream::unfold(open, |mut open| async move {
        if open.ended {
            return None;
        }
        let next = open.next().await;
        open.ended = next.is_err();
        Some((next, open))
    })
    .boxed()
}

impl Open {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.watch.after = batch.revision;
                return Ok(batch);
            }
            let response = self.response().await?;
            self.take(&response)?;
        }
    }

    async fn response(&mut self) -> Result<WatchResponse, StoreError> {
        let watch = &mut self.watch;
        if self.streams.is_none() {
            let options = WatchOptions::new().with_start_revision(signed(watch.after) + 1).with_progress_notify();
            let (key, options) = match watch.progress_by {
                ProgressBy::Request => (watch.root.as_str(), options.with_prefix()),
                ProgressBy::AllKeys => ("", options.with_all_keys()),
            };
            let opened = watch.client.watch(key, Some(options)).await.map_err(|e| failure(e, watch.after))?;
            self.streams = Some(opened.split());
        }
        let (sender, responses) = self.streams.as_mut().expect("opened above");
        loop {
            tokio::select! {
                response = responses.message() => {
                    let response = response.map_err(|e| failure(e, watch.after))?;
                    return response.ok_or_else(|| StoreError::Unavailable("etcd has ended the watch".to_owned()));
                }
                Ok(()) = watch.requests.changed() => {
                    if watch.progress_by == ProgressBy::Request {
                        sender.request_progress().await.map_err(|e| failure(e, watch.after))?;
                    }
                }
            }
        }
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        let after = self.watch.after;
        if response.canceled() {
            let oldest = response.compact_revision();
            if oldest > 0 {
                return Err(StoreError::Compacted { requested: after, oldest: unsigned(oldest) });
            }
            return Err(StoreError::Unavailable(format!("etcd has cancelled the watch: {}", response.cancel_reason())));
        }
        if response.events().is_empty() {
            // The answer to the watch's creation names the store's revision, not the watch's.
            let told = response.header().map_or(Revision(0), |h| unsigned(h.revision()));
            if !response.created() && self.watch.progress_by == ProgressBy::Request && told > after {
                self.ready.push_back(Batch { events: Vec::new(), revision: told });
            }
            return Ok(());
        }
        let mut batch = Batch { events: Vec::new(), revision: after };
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = unsigned(kv.mod_revision());
            batch.revision = batch.revision.max(revision);
            let Some(key) = kv.key().strip_prefix(self.watch.root.as_bytes()) else { continue };
            let key = std::str::from_utf8(key).map_err(|e| StoreError::Corrupt(format!("a key is not text: {e}")))?;
            let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec().into());
            batch.events.push(StoreEvent { key: Key::new(key), revision, value, unreadable: None, plain: None });
        }
        self.ready.push_back(batch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_etcds_that_tell_the_truth_are_asked_for_progress() {
        for (version, request) in [
            ("3.4.23", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.0", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-alpha.0", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(ProgressBy::for_version(version) == ProgressBy::Request, request, "{version}");
        }
    }
}
