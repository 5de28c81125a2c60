//! The loop: takes what has changed, has it worked out, and has it written. Until there is a policy it watches nothing else.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Shutdown};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher;
use kube::{Api, Client};
use netfilter::family::Family;
use tokio::time::{Instant, MissedTickBehavior};

use crate::engine::{Change, Difference, Engine};
use crate::feed::{Feed, Starting};
use crate::gate::{Keeper, Request};
use crate::pod::SlimPod;
use crate::table::{self, Table};

/// Slices with this label say where something is that has no pod; see [`crate::pod::stand_in`].
const STAND_INS: &str = "endpointslice.kubernetes.io/managed-by=ferrokube";

/// Changes gather for so long at least after a write, and at most, however long that took.
const GATHER_MIN: Duration = Duration::from_millis(2);
const GATHER_MAX: Duration = Duration::from_millis(500);

/// How often is looked whether the tables are still there.
const LOOK_PERIOD: Duration = Duration::from_secs(30);

/// A write that failed is tried again after this long, doubled each time, up to a bound.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What of the API is looked at.
#[derive(Clone, Default)]
pub struct Sources {
    pub policies: Informer<NetworkPolicy>,
    /// Of all nodes.
    pub pods: Informer<SlimPod>,
    pub namespaces: Informer<Namespace>,
    pub stand_ins: Informer<EndpointSlice>,
}

impl Sources {
    fn policies(client: &Client, shutdown: &Shutdown) -> Informer<NetworkPolicy> {
        Informer::start(Api::all(client.clone()), watcher::Config::default().streaming_lists(), shutdown.clone())
    }

    fn start(client: &Client, policies: Informer<NetworkPolicy>, shutdown: &Shutdown) -> Sources {
        let config = || watcher::Config::default().streaming_lists();
        // Those that have run their course have no address any more.
        let pods = config().fields("status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!=");
        Sources {
            policies,
            pods: Informer::start(Api::all(client.clone()), pods, shutdown.clone()),
            namespaces: Informer::start(Api::all(client.clone()), config(), shutdown.clone()),
            stand_ins: Informer::start(Api::namespaced(client.clone(), "kube-system"), config().labels(STAND_INS), shutdown.clone()),
        }
    }
}

/// The families that the kernel has. Without the first one there is nothing to be done but to tell of it, again and again.
fn families() -> Vec<Family> {
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists() && table::is_there(Family::V6).is_ok();
    if has_v6 { Family::ALL.to_vec() } else { vec![Family::V4] }
}

fn tables() -> Vec<Table> {
    families().into_iter().map(Table::new).collect()
}

/// Keeps the kernel's rules as policies want them on the node of this name, until shutdown. The rules stay.
pub async fn run(client: Client, node_name: String, keeper: Keeper, shutdown: Shutdown) {
    let policies = Sources::policies(&client, &shutdown);
    let others = |policies| Sources::start(&client, policies, &shutdown);
    follow(policies, others, &node_name, keeper, shutdown.clone()).await;
}

/// [`run`], with informers that somebody else feeds.
pub async fn run_from(sources: Sources, node_name: &str, keeper: Keeper, shutdown: Shutdown) {
    follow(sources.policies.clone(), |_| sources, node_name, keeper, shutdown).await;
}

async fn follow(
    policies: Informer<NetworkPolicy>,
    others: impl FnOnce(Informer<NetworkPolicy>) -> Sources,
    node_name: &str,
    mut keeper: Keeper,
    shutdown: Shutdown,
) {
    let feed = Arc::new(Feed::default());
    feed.follow_policies(&policies);
    tokio::select! {
        () = policies.synced() => {}
        () = shutdown.cancelled() => return,
    }
    if policies.list().is_empty() {
        // What an earlier process has left would be in force for nobody's sake. A table without policies makes the kernel keep in
        // mind which connections there are, so that they stay when a policy comes.
        for table in &mut tables() {
            if let Err(error) = table.write_everything(&Engine::default()).await {
                tracing::warn!(family = %table.family(), %error, "no table can be written, and no network policy will be in force");
            }
        }
    }
    loop {
        tokio::select! {
            // A pod that asks after a policy has come must wait for it.
            biased;
            () = feed.wait() => break,
            // There is no policy that a pod could wait for.
            Some(request) = keeper.requests.recv() => {
                let _ = request.in_force.send(());
            }
            () = shutdown.cancelled() => return,
        }
    }
    let sources = others(policies);
    feed.follow_others(&sources, node_name);
    tokio::select! {
        _ = async { tokio::join!(sources.pods.synced(), sources.namespaces.synced(), sources.stand_ins.synced()) } => {}
        () = shutdown.cancelled() => return,
    }
    let agent = Agent {
        node_name: node_name.to_owned(),
        sources,
        feed,
        starting: Starting::default(),
        engine: Engine::default(),
        tables: tables(),
        needs_everything: true,
        failures: 0,
        waiting: Vec::new(),
    };
    agent.run(keeper, shutdown).await;
}

struct Agent {
    node_name: String,
    sources: Sources,
    feed: Arc<Feed>,
    starting: Starting,
    engine: Engine,
    tables: Vec<Table>,
    needs_everything: bool,
    failures: u32,
    /// Pods that wait for what is worked out now to be in force.
    waiting: Vec<Request>,
}

impl Agent {
    async fn run(mut self, mut keeper: Keeper, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(LOOK_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            let pause = self.sync().await;
            // Whatever comes, it is not before the pause is over.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            if self.failures > 0 {
                continue;
            }
            tokio::select! {
                () = self.feed.wait() => {}
                Some(request) = keeper.requests.recv() => self.waiting.push(request),
                _ = ticks.tick() => self.look_after().await,
                () = shutdown.cancelled() => return,
            }
            while let Ok(request) = keeper.requests.try_recv() {
                self.waiting.push(request);
            }
        }
    }

    /// Takes in what has changed.
    fn update(&mut self) -> Difference {
        let mut changes = self.feed.take(&self.sources, &mut self.starting, &self.node_name);
        for request in &self.waiting {
            let object = self.sources.pods.get_key(&request.key);
            let pod = self.starting.remember(&request.key, &request.uid, &request.pod, object.as_deref(), &self.node_name);
            changes.push(Change::Pod(request.key.clone(), pod));
        }
        self.engine.update(changes)
    }

    /// One sync, and how long to wait before the next.
    async fn sync(&mut self) -> Duration {
        let start = Instant::now();
        let difference = self.update();
        let worked_out = start.elapsed();
        let everything = self.needs_everything;
        for table in &mut self.tables {
            let written = if everything {
                table.write_everything(&self.engine).await
            } else if difference.is_empty() {
                Ok(())
            } else {
                table.write_changes(&self.engine, &difference).await
            };
            if let Err(error) = written {
                // A failed change is mostly somebody else's doing, and writing everything mends it.
                let pause = if everything { RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX) } else { Duration::ZERO };
                tracing::error!(family = %table.family(), %error, everything, retry_after = ?pause, "network policies are not in force");
                self.needs_everything = true;
                self.failures += 1;
                return pause;
            }
        }
        self.needs_everything = false;
        self.failures = 0;
        // Who does not wait any more has been given up by whoever starts pods.
        for request in self.waiting.drain(..) {
            let _ = request.in_force.send(());
        }
        let took = start.elapsed();
        if everything || !difference.is_empty() {
            let (chains, sets, elements) = self.engine.size();
            tracing::debug!(everything, chains, sets, elements, ?worked_out, ?took, "network policies are in force");
        }
        took.clamp(GATHER_MIN, GATHER_MAX)
    }

    async fn look_after(&mut self) {
        for table in &mut self.tables {
            if let Err(error) = table.drop_stale_chains().await {
                tracing::warn!(family = %table.family(), %error, "cannot delete stale chains, writing all anew");
                self.needs_everything = true;
            }
            match table.is_intact().await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(family = %table.family(), "the table is gone, writing all anew");
                    self.needs_everything = true;
                }
                Err(error) => tracing::warn!(family = %table.family(), %error, "cannot look for the table"),
            }
        }
    }
}

/// Takes away what was ever written on this node.
pub async fn clean_up() {
    for mut table in tables() {
        if let Err(error) = table.clean_up().await {
            tracing::debug!(family = %table.family(), %error, "no table of network policies can be taken away");
        }
    }
}
