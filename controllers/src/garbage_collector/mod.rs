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
use graph::{Effect, Graph, Misplaced};
use monitors::Monitors;

/// Discovery is asked this often even if nothing says that it changed.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// Definitions come in bursts, and a moment passes until they are served.
const DISCOVERY_DELAY: Duration = Duration::from_millis(200);
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);
/// Work starts after this long even if some watches cannot list.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

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
        examine: Queue::default(),
        orphan: Queue::default(),
        served: RwLock::default(),
        changed: Notify::new(),
    });
    let mut monitors = Monitors::new(context.shutdown.clone());
    while !collector.rediscover(&mut monitors).await {
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
        loop {
            if tokio::time::timeout(DISCOVERY_PERIOD, self.changed.notified()).await.is_ok() {
                tokio::time::sleep(DISCOVERY_DELAY).await;
            }
            self.rediscover(monitors).await;
        }
    }

    /// Watches what is served now. Whether anything is.
    async fn rediscover(self: &Arc<Collector>, monitors: &mut Monitors) -> bool {
        match discovery::discover(&self.client).await {
            Ok(discovered) if !discovered.resources.is_empty() => {
                let unknown: Vec<String> = discovered.failed.iter().map(|(version, _)| version.clone()).collect();
                monitors.set(&discovered.resources, &unknown, &self.client, self);
                *self.served.write() = discovered.every;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "discovery failed, resources stay as they are known");
                false
            }
        }
    }

    /// The resource behind a kind; nothing if it is not served, or not known yet.
    fn resource(&self, api_version: &str, kind: &str) -> Option<Resource> {
        self.served.read().iter().find(|resource| resource.kind == kind && resource.api_version() == api_version).cloned()
    }
}
