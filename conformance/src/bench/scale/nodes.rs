//! Nodes that are played: their objects, and what their kubelets send when nothing happens. Each renews its lease every ten seconds and
//! tells its status every five minutes, as kubelets do; all of them together are spread evenly over that time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::POLL;
use crate::bench::connection::{Connection, Endpoint, JSON};
use crate::bench::load::{Load, Until};

/// Pods that a node may have.
pub const PODS_PER_NODE: u32 = 110;
/// The largest number of nodes: their ranges of pod addresses are parts of one range.
pub const MAX_NODES: u32 = 1 << 14;
/// How a change to a part of an object with lists is sent.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const ZONES: u32 = 10;
/// The first of the nodes' addresses, from the range for benchmarks (RFC 2544).
const FIRST_NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The first of the pods' addresses: outside of what controllers give nodes by default, so that nobody runs out of it.
pub const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// As kubelets have them by default.
pub const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_DURATION: Duration = Duration::from_secs(40);
/// How long controllers wait for a renewal by default before they take a node for dead.
pub const GRACE: Duration = Duration::from_secs(50);
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// How often a kubelet tries to renew a lease before it waits again.
const RENEW_TRIES: u32 = 5;
/// Requests in flight: connections, and tasks that share them. Kubelets do not wait for each other, so there are as many as a server that
/// takes half a second for each has to do with.
const LEASE_CONNECTIONS: usize = 4;
const LEASE_WORKERS: u32 = 256;
const STATUS_WORKERS: u32 = 8;

pub fn name(number: u32) -> String {
    format!("node-{number:05}")
}

/// The address of the node of this name, if it is a played one.
pub fn address(name: &str) -> Option<Ipv4Addr> {
    let number: u32 = name.strip_prefix("node-")?.parse().ok()?;
    Some(Ipv4Addr::from_bits(FIRST_NODE.to_bits().checked_add(number)?))
}

fn ready(now: Timestamp) -> Value {
    json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
        "lastHeartbeatTime": seconds(now),
    })
}

/// A time as the API has most of them, without a fraction of a second.
pub fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// A node as its kubelet would register it, ready and with its range of pod addresses, as a cloud would have given it.
fn node(number: u32, now: Timestamp) -> Value {
    let name = name(number);
    let range = format!("{}/24", Ipv4Addr::from_bits(FIRST_POD.to_bits() + (number << 8)));
    let resources = json!({"cpu": "32", "memory": "256Gi", "ephemeral-storage": "500Gi", "pods": PODS_PER_NODE.to_string()});
    let mut conditions = vec![ready(now)];
    for (kind, reason) in [
        ("MemoryPressure", "KubeletHasSufficientMemory"),
        ("DiskPressure", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "KubeletHasSufficientPID"),
    ] {
        conditions.push(json!({"type": kind, "status": "False", "reason": reason, "lastHeartbeatTime": seconds(now)}));
    }
    for condition in &mut conditions {
        condition["lastTransitionTime"] = json!(seconds(now));
    }
    let labels = json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": format!("zone-{}", number % ZONES),
    });
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
        "status": {
            "capacity": resources, "allocatable": resources, "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": address(&name)}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "played", "kernelVersion": "6.1.0",
                "containerRuntimeVersion": "containerd://2.0.0", "kubeletVersion": "v1.37.0", "kubeProxyVersion": "",
                "machineID": "", "systemUUID": "", "bootID": "",
            },
        },
    })
}

/// The lease of a node, and what of its object a renewal needs.
struct Lease {
    node: String,
    node_uid: String,
    resource_version: String,
    /// When in each period it is renewed.
    offset: Duration,
    renewed: Instant,
}

#[derive(Deserialize)]
struct Stored {
    metadata: StoredMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMetadata {
    #[serde(default)]
    uid: String,
    resource_version: String,
}

impl Lease {
    fn body(&self, now: Timestamp) -> Bytes {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.node_uid});
        let mut metadata = json!({"name": self.node, "namespace": "kube-node-lease", "ownerReferences": [owner]});
        if !self.resource_version.is_empty() {
            metadata["resourceVersion"] = json!(self.resource_version);
        }
        let spec = json!({"holderIdentity": self.node, "leaseDurationSeconds": LEASE_DURATION.as_secs(), "renewTime": format!("{now:.6}")});
        Bytes::from(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}).to_string())
    }

    /// Sends the lease with the present time; an answer that it was changed by somebody else is followed by reading it.
    async fn renew(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        let path = format!("{LEASES}/{}", self.node);
        let mut last = String::new();
        for _ in 0..RENEW_TRIES {
            let (status, body) = connection.exchange(Method::PUT, &path, self.body(Timestamp::now())).await?;
            if status.is_success() {
                self.resource_version = serde_json::from_slice::<Stored>(&body)?.metadata.resource_version;
                return Ok(());
            }
            last = format!("{status}: {}", String::from_utf8_lossy(&body));
            let stored = connection.get(&path).await?;
            self.resource_version = serde_json::from_slice::<Stored>(&stored)?.metadata.resource_version;
        }
        anyhow::bail!("PUT {path}: {last}")
    }
}

/// Creates an object and reads it back from the answer.
async fn create(connection: &mut Connection, path: &str, body: Bytes) -> anyhow::Result<StoredMetadata> {
    let (status, body) = connection.exchange(Method::POST, path, body).await?;
    ensure!(status.is_success(), "POST {path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice::<Stored>(&body)?.metadata)
}

/// Registers so many nodes, each with its lease.
pub async fn register(endpoint: &Endpoint, count: u32) -> anyhow::Result<Nodes> {
    ensure!(count <= MAX_NODES, "at most {MAX_NODES} nodes can be played");
    let leases: Arc<Mutex<Vec<Lease>>> = Arc::default();
    let made = leases.clone();
    let load = Load { connections: 4, streams: 8, until: Until::Count(u64::from(count)) };
    load.run(endpoint, move |mut connection, number| {
        let made = made.clone();
        async move {
            let number = u32::try_from(number)?;
            let stored = create(&mut connection, NODES, Bytes::from(node(number, Timestamp::now()).to_string())).await?;
            let offset = LEASE_PERIOD * number / count;
            let mut lease =
                Lease { node: name(number), node_uid: stored.uid, resource_version: String::new(), offset, renewed: Instant::now() };
            lease.resource_version = create(&mut connection, LEASES, lease.body(Timestamp::now())).await?.resource_version;
            made.lock().await.push(lease);
            Ok(())
        }
    })
    .await?;
    let mut leases = std::mem::take(&mut *leases.lock().await);
    leases.sort_by_key(|lease| lease.offset);
    Ok(Nodes { leases })
}

/// Nodes that are registered.
pub struct Nodes {
    /// In the order in which they are renewed.
    leases: Vec<Lease>,
}

/// What the nodes have sent so far.
#[derive(Default)]
pub struct Heartbeats {
    /// Milliseconds by which a renewal of a lease was late at most, since this was last asked.
    late_ms: AtomicU64,
    /// Status patches that were answered. Held for writing, none is under way.
    statuses: RwLock<AtomicU64>,
}

impl Heartbeats {
    /// Milliseconds by which a renewal of a lease was late at most, since the last call.
    pub fn take_late_ms(&self) -> u64 {
        self.late_ms.swap(0, Ordering::Relaxed)
    }

    /// Does `work` while no node tells its status, and gives how often that was done before.
    pub async fn pause<T>(&self, work: impl Future<Output = T>) -> (T, u64) {
        let statuses = self.statuses.write().await;
        (work.await, statuses.load(Ordering::Relaxed))
    }
}

impl Nodes {
    /// Adds tasks to `played` that send what kubelets do, for as long as they are let; one that ends has failed.
    pub async fn play(mut self, endpoint: &Endpoint, played: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<Arc<Heartbeats>> {
        let heartbeats: Arc<Heartbeats> = Arc::default();
        let (count, started) = (u32::try_from(self.leases.len())?, Instant::now());
        let mut connections = Vec::with_capacity(LEASE_CONNECTIONS);
        for _ in 0..LEASE_CONNECTIONS {
            connections.push(endpoint.connect().await?);
        }
        // What registering took is no lateness.
        self.leases.iter_mut().for_each(|lease| lease.renewed = started + lease.offset);
        for (worker, leases) in dealt(self.leases, LEASE_WORKERS).into_iter().enumerate() {
            played.spawn(renew_all(connections[worker % LEASE_CONNECTIONS].clone(), leases, started, heartbeats.clone()));
        }
        for numbers in dealt((0..count).collect(), STATUS_WORKERS) {
            played.spawn(tell_all(endpoint.connect().await?, numbers, count, started, heartbeats.clone()));
        }
        Ok(heartbeats)
    }
}

/// Deals things out to so many, in turn, so that each has them from all parts of the order; who would have none is left out.
fn dealt<T>(things: Vec<T>, hands: u32) -> Vec<Vec<T>> {
    let hands = (hands as usize).min(things.len());
    let mut dealt: Vec<Vec<T>> = (0..hands).map(|_| Vec::new()).collect();
    for (index, thing) in things.into_iter().enumerate() {
        dealt[index % hands].push(thing);
    }
    dealt
}

async fn renew_all(
    mut connection: Connection,
    mut leases: Vec<Lease>,
    started: Instant,
    heartbeats: Arc<Heartbeats>,
) -> anyhow::Result<()> {
    let mut round = 0;
    loop {
        for lease in &mut leases {
            tokio::time::sleep_until(started + LEASE_PERIOD * round + lease.offset).await;
            lease.renew(&mut connection).await.context("renewing a node's lease")?;
            let late = lease.renewed.elapsed().saturating_sub(LEASE_PERIOD);
            lease.renewed = Instant::now();
            heartbeats.late_ms.fetch_max(u64::try_from(late.as_millis())?, Ordering::Relaxed);
        }
        round = next_round(round, started.elapsed());
    }
}

/// Who is late does not make up for what it has missed: a lease is renewed once, however long it was not.
fn next_round(round: u32, elapsed: Duration) -> u32 {
    let now = u32::try_from(elapsed.as_millis() / LEASE_PERIOD.as_millis()).unwrap_or(u32::MAX);
    now.max(round.saturating_add(1))
}

async fn tell_all(
    mut connection: Connection,
    numbers: Vec<u32>,
    count: u32,
    started: Instant,
    heartbeats: Arc<Heartbeats>,
) -> anyhow::Result<()> {
    for round in 0_u32.. {
        for number in &numbers {
            tokio::time::sleep_until(started + STATUS_PERIOD * round + STATUS_PERIOD * *number / count).await;
            let statuses = heartbeats.statuses.read().await;
            tell(&mut connection, *number).await?;
            statuses.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A node says that it is still ready.
async fn tell(connection: &mut Connection, number: u32) -> anyhow::Result<()> {
    let path = format!("{NODES}/{}/status", name(number));
    let body = Bytes::from(json!({"status": {"conditions": [ready(Timestamp::now())]}}).to_string());
    let answer = connection.perform(strategic_patch(), &path, body).await?;
    ensure!(answer.status == 200, "PATCH {path}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok(())
}

/// A request that changes a part of an object, lists in it by their elements' keys.
pub fn strategic_patch() -> http::request::Builder {
    Request::builder().method(Method::PATCH).header(header::CONTENT_TYPE, STRATEGIC).header(header::ACCEPT, JSON)
}

/// Waits until no node has a taint, which new ones have until the controllers have seen that they are ready; each then tells its status
/// once. So do kubelets, and there are controllers that look at a node only when it changes, and go by how many there are.
///
/// Each node is asked for by itself: lists of all of them would be what takes most memory of the whole run.
pub async fn accepted(endpoint: &Endpoint, count: u32) -> anyhow::Result<()> {
    let load = Load { connections: 2, streams: 8, until: Until::Count(u64::from(count)) };
    load.run(endpoint, |mut connection, number| async move {
        let number = u32::try_from(number)?;
        let path = format!("{NODES}/{}", name(number));
        while serde_json::from_slice::<Tainted>(&connection.get(&path).await?)?.spec.taints.is_some() {
            tokio::time::sleep(POLL).await;
        }
        tell(&mut connection, number).await
    })
    .await
    .map(drop)
}

#[derive(Deserialize)]
struct Tainted {
    spec: TaintedSpec,
}

#[derive(Deserialize)]
struct TaintedSpec {
    taints: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_registered_ready_with_a_place_and_addresses_of_its_own() {
        let now: Timestamp = "2026-11-29T07:08:09.123456Z".parse().unwrap();
        let node = node(4_321, now);
        let at = |pointer: &str| node.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(at("/metadata/name"), "node-04321");
        assert_eq!(at("/metadata/labels/kubernetes.io~1hostname"), "node-04321");
        assert_eq!(at("/metadata/labels/topology.kubernetes.io~1zone"), "zone-1");
        assert_eq!(at("/spec/podCIDR"), "10.144.225.0/24");
        assert_eq!(at("/status/addresses/0/address"), "198.18.16.226");
        assert_eq!(at("/status/allocatable/pods"), "110");
        let conditions: Vec<_> = node["status"]["conditions"].as_array().unwrap().iter().map(|c| (&c["type"], &c["status"])).collect();
        assert_eq!(conditions[0], (&json!("Ready"), &json!("True")));
        assert!(conditions[1..].iter().all(|(_, status)| **status == json!("False")));
        assert_eq!(at("/status/conditions/0/lastHeartbeatTime"), "2026-11-29T07:08:09Z");
        assert_eq!(address("somebody"), None);
    }

    #[test]
    fn the_last_node_still_has_addresses_that_are_nobody_elses() {
        assert_eq!(address(&name(MAX_NODES - 1)), Some(Ipv4Addr::new(198, 18, 64, 0)));
        assert_eq!(node(MAX_NODES - 1, Timestamp::UNIX_EPOCH)["spec"]["podCIDR"], "10.191.255.0/24");
    }

    #[test]
    fn a_lease_is_renewed_at_the_version_that_was_seen_last() {
        let mut lease =
            Lease { node: name(1), node_uid: "u".into(), resource_version: String::new(), offset: Duration::ZERO, renewed: Instant::now() };
        let body = |lease: &Lease| serde_json::from_slice::<Value>(&lease.body("2026-11-29T07:08:09.5Z".parse().unwrap())).unwrap();
        let new = body(&lease);
        assert_eq!(new.pointer("/metadata/resourceVersion"), None);
        assert_eq!(
            new["spec"],
            json!({"holderIdentity": "node-00001", "leaseDurationSeconds": 40, "renewTime": "2026-11-29T07:08:09.500000Z"})
        );
        lease.resource_version = "7".into();
        assert_eq!(body(&lease)["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn a_late_round_is_left_out() {
        let seconds = Duration::from_secs;
        assert_eq!(next_round(0, seconds(9)), 1);
        assert_eq!(next_round(0, seconds(14)), 1);
        assert_eq!(next_round(1, seconds(44)), 4);
    }

    #[test]
    fn things_are_dealt_in_turn() {
        assert_eq!(dealt(vec![0, 1, 2, 3, 4], 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(dealt(vec![0], 8), [vec![0]]);
        assert!(dealt(Vec::<u8>::new(), 8).is_empty());
    }
}
