//! The garbage collector: deletes objects whose owners are gone, and finishes deletions in the foreground and those that orphan.
//!
//! It knows objects by their metadata alone, of every resource that the API server serves, custom ones included. It never deletes an
//! object that has an owner left, and never one that changed since it was looked at.

mod collect;
mod graph;
mod monitors;

use std::sync::Arc;
use std::time::Duration;

use client::events::Recorder;
use client::{Queue, Reference};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::discovery::{self, Resource};
use crate::manager::Context;
use crate::metrics;
use graph::{Effect, Graph, Misplaced};
use monitors::Monitors;

/// When discovery is asked after a definition or an APIService changed, or a watch broke: they come in bursts, and a moment passes until
/// what they define is served. Nothing else changes what is served, so then it is not asked any more.
const DISCOVERY_DELAYS: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(10)];
/// But this often while something cannot be discovered.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
/// Work starts after this long even if some watches cannot list.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// What discovery told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Not of all groups.
    Some,
    All,
}

/// When discovery is to be asked again after it was `asked` so often since the last change; nothing if only after the next.
fn next_look(asked: usize, found: Found) -> Option<Duration> {
    let unsettled = (found != Found::All).then_some(DISCOVERY_PERIOD);
    DISCOVERY_DELAYS.get(asked).copied().or(unsettled)
}

/// What watches and workers share.
struct Collector {
    client: Client,
    recorder: Recorder,
    graph: Mutex<Graph>,
    /// Uids of objects to examine, and of those whose dependents are to be orphaned.
    examine: Queue<String>,
    orphan: Queue<String>,
    /// Every resource in every version that is served.
    served: RwLock<Vec<Resource>>,
    changed: Notify,
}

pub async fn run(context: Context) {
    if !context.config.enable_garbage_collector {
        return;
    }
    let collector = Arc::new(Collector {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        graph: Mutex::default(),
        examine: Queue::named("garbage_collector_attempt_to_delete"),
        orphan: Queue::named("garbage_collector_attempt_to_orphan"),
        served: RwLock::default(),
        changed: Notify::new(),
    });
    let mut monitors = Monitors::new(context.shutdown.clone());
    while collector.rediscover(&mut monitors).await == Found::Nothing {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep(DISCOVERY_RETRY) => {}
        }
    }
    tokio::select! {
        biased;
        () = context.shutdown.cancelled() => return,
        synced = tokio::time::timeout(SYNC_TIMEOUT, monitors.synced()) => {
            if synced.is_err() {
                metrics::COLLECTOR_SYNC_ERRORS.only().inc();
                tracing::warn!(controller = context.name, "not all resources could be listed, proceeding anyway");
            }
        }
    }
    let workers = context.config.concurrent_gc_syncs;
    let following = async {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => {}
            () = collector.follow_discovery(&mut monitors) => {}
        }
    };
    let examine = client::controller::run(context.name, collector.examine.clone(), workers, context.shutdown.clone(), |uid: String| {
        let collector = &collector;
        async move { collector.examine(&uid).await }
    });
    let orphan = client::controller::run(context.name, collector.orphan.clone(), workers, context.shutdown.clone(), |uid: String| {
        let collector = &collector;
        async move { collector.orphan(&uid).await }
    });
    tokio::join!(following, examine, orphan);
}

impl Collector {
    /// Changes the graph and sees to what follows.
    fn change(&self, change: impl FnOnce(&mut Graph) -> Vec<Effect>) {
        let effects = change(&mut self.graph.lock());
        for effect in effects {
            match effect {
                Effect::Examine(uid) => self.examine.add(uid),
                Effect::ExamineLater(uid) => self.examine.add_rate_limited(uid),
                Effect::Orphan(uid) => self.orphan.add(uid),
                Effect::InvalidNamespace(misplaced) => self.tell_invalid(&misplaced),
            }
        }
    }

    fn tell_invalid(&self, Misplaced { dependent, owner }: &Misplaced) {
        let about = Reference(ObjectReference {
            api_version: Some(dependent.api_version.clone()),
            kind: Some(dependent.kind.clone()),
            namespace: Some(dependent.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(dependent.name.clone()),
            uid: Some(dependent.uid.clone()),
            ..ObjectReference::default()
        });
        let shown =
            format!("[{}/{}, namespace: {}, name: {}, uid: {}]", owner.api_version, owner.kind, owner.namespace, owner.name, owner.uid);
        let message = format!("ownerRef {shown} does not exist in namespace {:?}", dependent.namespace);
        self.recorder.warning(&about, "OwnerRefInvalidNamespace", message);
    }

    fn resources_changed(&self) {
        self.changed.notify_one();
    }

    async fn follow_discovery(self: &Arc<Collector>, monitors: &mut Monitors) {
        let (mut asked, mut found) = (1, Found::All);
        loop {
            if self.told_within(next_look(asked, found)).await {
                asked = 0;
                tokio::time::sleep(DISCOVERY_DELAYS[0]).await;
            }
            found = self.rediscover(monitors).await;
            asked += 1;
        }
    }

    /// Waits until something changed, or for so long. Whether something did.
    async fn told_within(&self, time: Option<Duration>) -> bool {
        match time {
            Some(time) => tokio::time::timeout(time, self.changed.notified()).await.is_ok(),
            None => {
                self.changed.notified().await;
                true
            }
        }
    }

    /// Watches what is served now.
    async fn rediscover(self: &Arc<Collector>, monitors: &mut Monitors) -> Found {
        match discovery::discover(&self.client).await {
            Ok(discovered) if !discovered.resources.is_empty() => {
                let unknown: Vec<String> = discovered.failed.iter().map(|(version, _)| version.clone()).collect();
                monitors.set(&discovered.resources, &unknown, &self.client, self);
                *self.served.write() = discovered.every;
                if unknown.is_empty() { Found::All } else { Found::Some }
            }
            Ok(_) => {
                metrics::COLLECTOR_SYNC_ERRORS.only().inc();
                Found::Nothing
            }
            Err(error) => {
                metrics::COLLECTOR_SYNC_ERRORS.only().inc();
                tracing::debug!(%error, "discovery failed, resources stay as they are known");
                Found::Nothing
            }
        }
    }

    /// The resource behind a kind; nothing if it is not served, or not known yet.
    fn resource(&self, api_version: &str, kind: &str) -> Option<Resource> {
        self.served.read().iter().find(|resource| resource.kind == kind && resource.api_version() == api_version).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_is_asked_after_changes_and_while_it_is_not_whole() {
        let seconds = |asked, found| next_look(asked, found).map(|time| time.as_secs());
        assert_eq!([1, 2, 3, 9].map(|asked| seconds(asked, Found::All)), [Some(2), Some(10), None, None]);
        assert_eq!([2, 3, 9].map(|asked| seconds(asked, Found::Some)), [Some(10), Some(30), Some(30)]);
        assert_eq!(seconds(3, Found::Nothing), Some(30));
    }
}
