//! Watches: each is a place in the log, and what it sees it sees late, now and then twice, until it breaks.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::failure::Failure;
use super::kinds::{KINDS, KindId};
use super::request::Request;
use super::state::{Change, line};
use super::{Api, Life};

/// How long a watch goes on that does not say.
const TIMEOUT: Duration = Duration::from_secs(290);
/// Those that want bookmarks get one this often.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

pub struct Watch {
    api: Api,
    life: Arc<Life>,
    kind: KindId,
    namespace: String,
    place: usize,
    ready: VecDeque<Bytes>,
    changed: Arc<Notify>,
    /// Nothing is seen before.
    seen_from: Instant,
    ends: Instant,
    bookmark_at: Option<Instant>,
    is_over: bool,
}

fn bookmark(kind: KindId, revision: u64, is_end_of_list: bool) -> Bytes {
    let described = &KINDS[kind];
    let annotations = if is_end_of_list { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null, "annotations": annotations});
    line("BOOKMARK", &json!({"kind": described.kind, "apiVersion": described.api_version(), "metadata": metadata}))
}

impl Watch {
    pub fn open(api: &Api, life: &Arc<Life>, kind: KindId, request: &Request) -> Watch {
        let mut core = api.core();
        let now = Instant::now();
        let timeout = request.query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).map_or(TIMEOUT, Duration::from_secs);
        let mut watch = Watch {
            api: api.clone(),
            life: life.clone(),
            kind,
            namespace: request.namespace.clone(),
            place: core.state.log(0).len(),
            ready: VecDeque::new(),
            changed: core.changed[kind].clone(),
            seen_from: now,
            ends: now + timeout,
            bookmark_at: request.asks("allowWatchBookmarks").then(|| now + BOOKMARK_PERIOD),
            is_over: false,
        };
        let after = request.query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok()).unwrap_or(0);
        if request.asks("sendInitialEvents") || after == 0 {
            watch.ready.extend(core.state.list(kind, &request.namespace).map(|object| line("ADDED", object)));
            if request.asks("sendInitialEvents") {
                watch.ready.push_back(bookmark(kind, core.state.revision(), true));
            }
        } else if core.forgets_history() {
            watch.ready.push_back(line("ERROR", &Failure::expired().status()));
            watch.is_over = true;
        } else {
            watch.place = core.state.place_after(after);
        }
        drop(core);
        watch
    }

    /// The next change of this kind; nothing if there is none yet.
    fn next_change(&mut self) -> Option<Arc<Change>> {
        let core = self.api.core();
        let log = core.state.log(self.place);
        let is_mine =
            |change: &&Arc<Change>| change.key.kind == self.kind && (self.namespace.is_empty() || change.key.namespace == self.namespace);
        let found = log.iter().enumerate().find(|(_, change)| is_mine(change)).map(|(ahead, change)| (ahead, change.clone()));
        self.place += found.as_ref().map_or(log.len(), |(ahead, _)| ahead + 1);
        found.map(|(_, change)| change)
    }

    /// Fills `ready`, or ends.
    async fn fill(&mut self) {
        if Instant::now() >= self.ends {
            self.is_over = true;
            return;
        }
        let Some(change) = self.next_change() else {
            let wakes = self.bookmark_at.map_or(self.ends, |at| at.min(self.ends));
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = sleep_until(wakes) => {
                    if self.bookmark_at.is_some_and(|at| at <= Instant::now()) {
                        self.bookmark_at = Some(Instant::now() + BOOKMARK_PERIOD);
                        let revision = self.api.core().state.revision();
                        self.ready.push_back(bookmark(self.kind, revision, false));
                    }
                }
            }
            return;
        };
        let sight = self.api.core().sight(&self.life);
        // A later change is not seen before an earlier one.
        self.seen_from = self.seen_from.max(change.at + sight.late);
        sleep_until(self.seen_from).await;
        self.ready.push_back(change.line());
        if sight.twice {
            self.ready.push_back(change.line());
        }
        self.is_over = sight.last;
    }

    pub fn lines(self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            loop {
                if watch.life.is_over() {
                    std::future::pending::<()>().await;
                }
                if let Some(line) = watch.ready.pop_front() {
                    return Some((Ok(line), watch));
                }
                if watch.is_over {
                    return None;
                }
                watch.fill().await;
            }
        })
    }
}

/// How a watch comes to see a change.
pub struct Sight {
    pub late: Duration,
    pub twice: bool,
    /// The connection breaks after it.
    pub last: bool,
}
