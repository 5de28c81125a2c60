//! The node lifecycle controller: notices that a kubelet has fallen silent, says so in the node's conditions, and taints nodes so
//! that pods keep away or leave.
//!
//! It deletes no pods: the taint eviction controller does, by the taints set here.

pub mod conditions;
mod health;
mod zones;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, Reference, answer};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::manager::Context;
use crate::tolerations::NO_EXECUTE;
use crate::{metrics, node_state, pod_state, pods_by_node};
use conditions::{NOT_READY, UNREACHABLE, taint};
use health::{Grace, Health};
use zones::{Mode, Rates, Zones};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-disruption";
/// Nodes and pods written at the same time.
const AT_ONCE: usize = 8;
/// How often the nodes that wait to be tainted are looked at.
const TAINT_PERIOD: Duration = Duration::from_millis(100);
/// A node that becomes ready does not wait for the next round; this long between two rounds at least.
const ROUND_MIN: Duration = Duration::from_millis(100);

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    grace: Grace,
    zones: Mutex<Zones>,
    /// By the node's name; only nodes that there are.
    known: Mutex<HashMap<String, Known>>,
    started: Instant,
}

struct Known {
    uid: String,
    health: Option<Health>,
    /// The pods of the node could not all be told that it is not ready.
    pods_pending: bool,
}

pub async fn run(context: Context) {
    let config = &context.config;
    let rates = Rates {
        normal: config.node_eviction_rate,
        secondary: config.secondary_node_eviction_rate,
        unhealthy_threshold: config.unhealthy_zone_threshold,
        large_cluster_threshold: config.large_cluster_size_threshold,
    };
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        nodes: context.informers.of(),
        pods: context.informers.of(),
        leases: context.informers.of(),
        grace: Grace { monitor: config.node_monitor_grace_period, startup: config.node_startup_grace_period },
        zones: Mutex::new(Zones::new(rates)),
        known: Mutex::default(),
        started: Instant::now(),
    };
    let changed = Arc::new(Notify::new());
    let (queue, assigned) = (Queue::named("node_lifecycle_controller"), Queue::named("node_lifecycle_controller_pods"));
    controller.watch(&queue, &assigned, &changed);
    controller.nodes.synced().await;
    controller.pods.synced().await;
    controller.leases.synced().await;
    let stop = context.shutdown.clone();
    let rounds = async {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = controller.monitor(config.node_monitor_period, &changed) => {}
        }
    };
    let tainting = async {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = controller.taint_slowly() => {}
        }
    };
    let nodes = client::controller::run(context.name, queue, AT_ONCE, stop.clone(), |key: ObjectKey| controller.follow_conditions(key));
    let pods = client::controller::run(context.name, assigned, AT_ONCE / 2, stop.clone(), |key: ObjectKey| controller.follow_pod(key));
    tokio::join!(rounds, tainting, nodes, pods);
}

/// Nodes are told of by name alone, without a namespace.
fn reference(node: &Node) -> Reference {
    Reference(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    })
}

/// Tells how zones are, by how many of their nodes are ready and are not; one that was known and has no nodes is well.
fn tell_zones(known: &[String], counts: &BTreeMap<String, (usize, usize)>) {
    let gone = known.iter().filter(|zone| !counts.contains_key(*zone)).map(|zone| (zone, (0, 0)));
    for (zone, (ready, not)) in counts.iter().map(|(zone, count)| (zone, *count)).chain(gone) {
        let size = ready + not;
        let health = if size == 0 { 100.0 } else { 100.0 * ready as f64 / size as f64 };
        metrics::ZONE_SIZE.with(&[zone]).set(size as f64);
        metrics::ZONE_HEALTH.with(&[zone]).set(health);
        metrics::ZONE_UNHEALTHY.with(&[zone]).set(not as f64);
        // A zone is told of before anything happens there.
        metrics::NODE_EVICTIONS.with(&[zone]);
    }
}

impl Controller {
    fn watch(&self, queue: &Queue<ObjectKey>, assigned: &Queue<ObjectKey>, changed: &Arc<Notify>) {
        pods_by_node::index(&self.pods);
        let (sink, changed) = (queue.clone(), changed.clone());
        self.nodes.on_change(move |change| {
            let ready = |node: &Node| node_state::condition(node, "Ready").map(|condition| condition.status.clone());
            if change.old().map(|old| ready(old)) != Some(ready(change.object())) {
                changed.notify_one();
            }
            if !matches!(change, Change::Deleted(_)) {
                sink.add(change.object().key());
            }
        });
        let sink = assigned.clone();
        self.pods.on_change(move |change| {
            let name = pod_state::node_name(change.object());
            if !name.is_empty() && change.old().is_none_or(|old| pod_state::node_name(old) != name) && !matches!(change, Change::Deleted(_))
            {
                sink.add(change.object().key());
            }
        });
    }

    /// Brings taints that forbid scheduling, and legacy labels, in line with the node.
    async fn follow_conditions(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get_key(&key) else { return Ok(Outcome::Done) };
        let (mut add, remove) = conditions::no_schedule(&node);
        if !add.is_empty() || !remove.is_empty() {
            let now = clock::now();
            add.iter_mut().for_each(|taint| taint.time_added = Some(Time(now)));
            node_state::change_taints(&self.client, &node, &add, &remove).await?;
        }
        let labels = conditions::legacy_labels(&node);
        if !labels.is_empty() {
            let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
            let api: Api<Node> = Api::all(self.client.clone());
            answer::or_absent(api.patch(&key.name, &PatchParams::default(), &patch).await)?;
        }
        Ok(Outcome::Done)
    }

    /// A pod that comes to a node that is not ready is not ready either.
    async fn follow_pod(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get_key(&key) else { return Ok(Outcome::Done) };
        let ready = {
            let known = self.known.lock();
            known
                .get(pod_state::node_name(&pod))
                .and_then(|known| known.health.as_ref()?.ready.as_ref().map(|ready| ready.status == "True"))
        };
        if ready == Some(false) {
            self.mark_not_ready(&pod).await?;
        }
        Ok(Outcome::Done)
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), kube::Error> {
        let mut pod = pod.clone();
        let generation = pod.metadata.generation;
        let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        let Some(ready) = conditions.iter_mut().find(|condition| condition.type_ == "Ready" && condition.status != "False") else {
            return Ok(());
        };
        ready.status = "False".to_owned();
        ready.last_transition_time = Some(Time(clock::now()));
        ready.observed_generation = generation.or(ready.observed_generation);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        if answer::or_absent(api.replace_status(pod.name(), &PostParams::default(), &pod).await)?.is_some() {
            self.recorder.warning(&pod.reference(), "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    async fn monitor(&self, period: Duration, changed: &Notify) {
        loop {
            self.round().await;
            tokio::time::sleep(ROUND_MIN.min(period)).await;
            // Either is a reason for a round.
            let _ = tokio::time::timeout(period.saturating_sub(ROUND_MIN), changed.notified()).await;
        }
    }

    async fn round(&self) {
        let started = Instant::now();
        self.look_at_all().await;
        metrics::ALL_NODES_HEALTH_DURATION.only().observe_time(started.elapsed());
    }

    async fn look_at_all(&self) {
        let nodes = self.nodes.list();
        self.register(&nodes).await;
        let counts = Mutex::new(BTreeMap::<String, (usize, usize)>::new());
        futures::stream::iter(&nodes)
            .for_each_concurrent(AT_ONCE, |node| async {
                let started = Instant::now();
                let checked = self.check(node).await;
                metrics::NODE_HEALTH_DURATION.only().observe_time(started.elapsed());
                match checked {
                    Ok(Some(ready)) if node.label(EXCLUDED_LABEL).is_none() => {
                        let mut counts = counts.lock();
                        let count = counts.entry(node_state::zone(node)).or_default();
                        if ready { count.0 += 1 } else { count.1 += 1 }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(node = node.name(), %error, "the node's health could not be updated"),
                }
            })
            .await;
        let counts = counts.into_inner();
        tell_zones(&self.zones.lock().names(), &counts);
        let mode = self.zones.lock().update(&counts);
        match mode {
            Mode::Usual => {}
            Mode::Entered => {
                tracing::info!("no node is ready, evictions stop");
                for node in &nodes {
                    self.untaint(node).await;
                }
            }
            Mode::Left => {
                tracing::info!("some nodes are ready again, evictions go on");
                let now = Instant::now();
                self.known.lock().values_mut().flat_map(|known| &mut known.health).for_each(|health| health.probed_at = now);
            }
        }
    }

    /// Takes note of nodes that are new or gone.
    async fn register(&self, nodes: &[Arc<Node>]) {
        let mut new = Vec::new();
        {
            let mut known = self.known.lock();
            known.retain(|name, entry| {
                let there = nodes.iter().any(|node| node.name() == name);
                if !there {
                    let mut gone = Node::default();
                    (gone.metadata.name, gone.metadata.uid) = (Some(name.clone()), Some(entry.uid.clone()));
                    let message = format!("Node {name} event: Removing Node {name} from Controller");
                    self.recorder.normal(&reference(&gone), "RemovingNode", message);
                }
                there
            });
            for node in nodes {
                if !known.contains_key(node.name()) {
                    let entry = Known { uid: node.uid().to_owned(), health: None, pods_pending: false };
                    known.insert(node.name().to_owned(), entry);
                    let name = node.name();
                    let message = format!("Node {name} event: Registered Node {name} in Controller");
                    self.recorder.normal(&reference(node), "RegisteredNode", message);
                    new.push(node);
                }
            }
        }
        for node in new {
            self.untaint(node).await;
        }
    }

    /// Looks at one node. Whether it is ready, or nothing if that cannot be told now.
    async fn check(&self, node: &Node) -> Result<Option<bool>, kube::Error> {
        let (now, clock) = (Instant::now(), clock::now());
        let lease = self.leases.get(LEASE_NAMESPACE, node.name());
        let health = {
            let mut known = self.known.lock();
            let Some(entry) = known.get_mut(node.name()) else { return Ok(None) };
            let health = health::observe(entry.health.as_ref(), node, lease.as_deref(), now, clock);
            entry.health = Some(health.clone());
            health
        };
        let was_ready = node_state::is_ready(node);
        let mut marked = None;
        if health::is_silent(&health, self.grace, now) {
            // Perhaps it is our informer that hears nothing.
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
            if health::is_news(&health, leases.get_opt(node.name()).await?.as_ref()) {
                return Ok(None);
            }
            if let Some(unknown) = health::mark_unknown(node, clock) {
                let nodes: Api<Node> = Api::all(self.client.clone());
                let written = nodes.replace_status(node.name(), &PostParams::default(), &unknown).await?;
                if let Some(entry) = self.known.lock().get_mut(node.name()) {
                    let ready = node_state::condition(&written, "Ready").cloned();
                    entry.health = Some(Health { ready, ..health });
                }
                marked = Some(written);
            }
        }
        let node = marked.as_ref().unwrap_or(node);
        let Some(ready) = node_state::condition(node, "Ready").map(|condition| condition.status.clone()) else { return Ok(Some(false)) };
        self.follow_readiness(node, &ready).await;
        self.tell_pods(node, was_ready, ready == "True").await?;
        Ok(Some(ready == "True"))
    }

    /// Taints that evict: one that is there is changed at once, a new one waits for its turn.
    async fn follow_readiness(&self, node: &Node, ready: &str) {
        let (wanted, other) = match ready {
            "True" => return self.untaint(node).await,
            "False" => (NOT_READY, UNREACHABLE),
            _ => (UNREACHABLE, NOT_READY),
        };
        let has = |key: &str| node_state::taints(node).iter().any(|taint| taint.key == key && taint.effect == NO_EXECUTE);
        if has(other) {
            // Tried again with the next look if it could not.
            let _ = self.swap(node, wanted, other).await;
        } else if !has(wanted) {
            self.zones.lock().add(&node_state::zone(node), node.name());
        }
    }

    /// Taints a node whose turn it is.
    async fn evict(&self, node: &Node, add: &str, remove: &str) {
        if self.swap(node, add, remove).await {
            metrics::NODE_EVICTIONS.with(&[&node_state::zone(node)]).inc();
        }
    }

    /// Sets one taint instead of another. Whether it could.
    async fn swap(&self, node: &Node, add: &str, remove: &str) -> bool {
        let mut add = taint(add, NO_EXECUTE);
        add.time_added = Some(Time(clock::now()));
        let changed = node_state::change_taints(&self.client, node, &[add], &[taint(remove, NO_EXECUTE)]).await;
        if let Err(error) = &changed {
            tracing::warn!(node = node.name(), %error, "the node could not be tainted, trying again");
        }
        changed.is_ok()
    }

    async fn untaint(&self, node: &Node) {
        self.zones.lock().remove(&node_state::zone(node), node.name());
        let remove = [taint(UNREACHABLE, NO_EXECUTE), taint(NOT_READY, NO_EXECUTE)];
        if let Err(error) = node_state::change_taints(&self.client, node, &[], &remove).await {
            tracing::warn!(node = node.name(), %error, "taints could not be taken off the node, trying again");
        }
    }

    /// Pods of a node that is no longer ready are not ready.
    async fn tell_pods(&self, node: &Node, was_ready: bool, is_ready: bool) -> Result<(), kube::Error> {
        let pending = self.known.lock().get(node.name()).is_some_and(|known| known.pods_pending);
        let turned = was_ready && !is_ready;
        if turned {
            let message = format!("Node {} status is now: NodeNotReady", node.name());
            self.recorder.normal(&reference(node), "NodeNotReady", message);
        }
        let mut result = Ok(());
        if !is_ready && (turned || pending) {
            for pod in pods_by_node::of(&self.pods, node.name()) {
                result = result.and(self.mark_not_ready(&pod).await);
            }
        }
        if let Some(known) = self.known.lock().get_mut(node.name()) {
            known.pods_pending = result.is_err();
        }
        result
    }

    /// Taints the nodes whose turn it is.
    async fn taint_slowly(&self) {
        loop {
            tokio::time::sleep(TAINT_PERIOD).await;
            let due = self.zones.lock().due(self.started.elapsed());
            for name in due {
                let Some(node) = self.nodes.get("", &name) else { continue };
                match node_state::condition(&node, "Ready").map(|condition| condition.status.as_str()) {
                    Some("False") => self.evict(&node, NOT_READY, UNREACHABLE).await,
                    Some("Unknown") => self.evict(&node, UNREACHABLE, NOT_READY).await,
                    _ => {}
                }
            }
        }
    }
}
