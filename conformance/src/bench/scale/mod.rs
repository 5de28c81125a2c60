//! What a whole control plane costs with many nodes and pods: API server, store, controllers and scheduler. Nodes are played, by this
//! process and for every server alike: see `nodes` for what they send by themselves, `pods` for what they do with pods.
//!
//! The processor time and the memory are those of the servers' processes. The player shares the machine with them, so the times until
//! pods are bound and run are of two programs on it; what the player takes itself is told, too.

mod nodes;
mod pods;
mod requests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::nodes::Heartbeats;
use self::pods::{CONTAINER, Counts, IMAGE};
use self::requests::Requests;
use super::connection::{Connection, Endpoint};
use super::measure::{Better, Measure, Report, Unit};
use super::process::{memory, processor_time};
use super::servers::Running;

pub use nodes::{MAX_NODES, PODS_PER_NODE};

const NAMESPACES: u32 = 10;
const DEPLOYMENTS: u32 = 50;
const LABEL: &str = "bench-scale";
/// How often a state is asked for of which nothing else tells.
const POLL: Duration = Duration::from_millis(500);
/// An answer is counted at the latest so long after it has come.
const COUNTED: Duration = Duration::from_millis(100);

/// How much work a run is.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub nodes: u32,
    pub pods: u32,
    /// How long the servers are left alone once all pods run.
    pub settle: Duration,
    /// How long is then measured what they take.
    pub steady: Duration,
}

impl Sizes {
    pub const FULL: Sizes = Sizes { nodes: 5_000, pods: 50_000, settle: Duration::from_secs(30), steady: Duration::from_secs(60) };
    pub const QUICK: Sizes = Sizes { nodes: 50, pods: 500, settle: Duration::from_secs(5), steady: Duration::from_secs(10) };

    /// # Errors
    /// If so many nodes cannot be played, or have no room for so many pods.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=MAX_NODES).contains(&self.nodes), "between 1 and {MAX_NODES} nodes can be played");
        // One more for the pod that is made first; and scheduling is no puzzle.
        let room = self.nodes * PODS_PER_NODE;
        ensure!(self.pods > 0 && self.pods < room, "{} nodes have room for {} pods", self.nodes, room - 1);
        Ok(())
    }

    /// Who is not done with the nodes by then never will be: twenty a second.
    fn patience_nodes(&self) -> Duration {
        Duration::from_secs(120) + Duration::from_millis(50) * self.nodes
    }

    /// The same for the pods.
    fn patience_pods(&self) -> Duration {
        Duration::from_secs(120) + Duration::from_millis(50) * self.pods
    }
}

/// Measures servers that were started for it. Whatever happens, they are the caller's to end.
pub async fn measure(name: &str, running: &mut Running, sizes: Sizes, say: impl Fn(&str)) -> anyhow::Result<Report> {
    sizes.check()?;
    let servers = Servers { endpoint: running.endpoint.clone(), processes: running.ids() };
    let mut played = JoinSet::new();
    let measured = tokio::select! {
        measured = run(&servers, sizes, &mut played, &say) => measured,
        error = running.until_one_ends() => Err(error),
        asked = interrupted() => asked.and_then(|()| bail!("interrupted")),
    };
    played.shutdown().await;
    // Requests fail if a server has ended, and then that is what matters.
    running.check()?;
    Ok(Report { server: name.to_owned(), measures: measured? })
}

/// Comes back when somebody wants this process to end.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        asked = tokio::signal::ctrl_c() => asked?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The servers of one control plane.
struct Servers {
    endpoint: Endpoint,
    /// Each with its name.
    processes: Vec<(String, u32)>,
}

/// Something of each process, by its name, in the order of their start.
type Parts = Vec<(String, f64)>;

fn sum(parts: &Parts) -> f64 {
    parts.iter().map(|(_, part)| part).sum()
}

fn detail(parts: Parts) -> serde_json::Map<String, serde_json::Value> {
    parts.into_iter().map(|(name, part)| (name, part.into())).collect()
}

impl Servers {
    fn each(&self, of: impl Fn(u32) -> anyhow::Result<f64>) -> anyhow::Result<Parts> {
        self.processes.iter().map(|(name, id)| Ok((name.clone(), of(*id)?))).collect()
    }

    /// Seconds of processor time that each has taken so far.
    fn processor_seconds(&self) -> anyhow::Result<Parts> {
        self.each(|id| Ok(processor_time(id)?.as_secs_f64()))
    }

    /// The same since an earlier time.
    fn processor_seconds_since(&self, before: &Parts) -> anyhow::Result<Parts> {
        let now = self.processor_seconds()?;
        Ok(now.into_iter().zip(before).map(|((name, now), (_, before))| (name, now - before)).collect())
    }
}

async fn run(
    servers: &Servers,
    sizes: Sizes,
    played: &mut JoinSet<anyhow::Result<()>>,
    say: &impl Fn(&str),
) -> anyhow::Result<Vec<Measure>> {
    let mut connection = servers.endpoint.connect().await?;
    let mut measures = Vec::new();
    say(&format!("{} nodes", sizes.nodes));
    let begun = Instant::now();
    within(sizes.patience_nodes(), "the namespace kube-node-lease is there", exists(&mut connection, "/api/v1/namespaces/kube-node-lease"))
        .await?;
    let registered = nodes::register(&servers.endpoint, sizes.nodes);
    let nodes = within(sizes.patience_nodes(), "all nodes are registered", registered).await?;
    let heartbeats = nodes.play(&servers.endpoint, played).await?;
    let counts = pods::play(&servers.endpoint, played).await?;
    let work = async {
        let accepted = nodes::accepted(&servers.endpoint, sizes.nodes);
        within(sizes.patience_nodes(), "the controllers have taken the taints off all nodes", accepted).await?;
        let work = format!("{} nodes, registered until pods may go there", sizes.nodes);
        measures.push(seconds("nodes_ready", work, begun.elapsed()));
        let mut cluster = Cluster { connection, counts, sizes };
        cluster.warm_up().await?;
        heartbeats.take_late_ms();
        cluster.work(servers, say, &mut measures).await?;
        // The servers have let nodes wait, or this process is not fit to play as many.
        let late = Duration::from_millis(heartbeats.take_late_ms());
        if late + nodes::LEASE_PERIOD > nodes::GRACE {
            say("nodes were taken for dead: their leases were renewed too late");
        }
        measures.push(seconds("work_lease_late", "  a lease is renewed late by, at most", late));
        say(&format!("settling for {:?}", sizes.settle));
        tokio::time::sleep(sizes.settle).await;
        say(&format!("steady for {:?}", sizes.steady));
        steady(servers, &mut cluster.connection, &heartbeats, sizes, &mut measures).await
    };
    // Who plays nodes does so for as long as the work lasts.
    tokio::select! {
        done = work => done?,
        failed = first_failure(played) => return Err(failed.context("what plays the nodes")),
    }
    for measure in &measures {
        if !measure.detail.is_empty() {
            say(&format!("{}: {}", measure.work.trim(), serde_json::Value::from(measure.detail.clone())));
        }
    }
    Ok(measures)
}

async fn first_failure(played: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    match played.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => error.into(),
        Some(Ok(Ok(()))) | None => anyhow::anyhow!("it has ended"),
    }
}

/// Waits for a state, in words of what it is; errors tell which state was not reached.
async fn within<T>(patience: Duration, state: &str, reached: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(patience, reached).await {
        Ok(reached) => reached.with_context(|| format!("until {state}")),
        Err(_) => bail!("not reached within {patience:?}: {state}"),
    }
}

fn seconds(key: &'static str, work: impl Into<String>, time: Duration) -> Measure {
    Measure::new(key, work, time.as_secs_f64(), Unit::Seconds, Better::Lower)
}

async fn exists(connection: &mut Connection, path: &str) -> anyhow::Result<()> {
    while connection.exchange(Method::GET, path, Bytes::new()).await?.0 != StatusCode::OK {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn namespace(number: u32) -> String {
    format!("{LABEL}-{}", number % NAMESPACES)
}

/// One of all the Deployments, which have so many pods together.
fn deployment(number: u32, pods: u32) -> serde_json::Value {
    // As even as it goes.
    deployment_of(&format!("web-{number}"), (pods + number) / DEPLOYMENTS)
}

fn deployment_of(name: &str, replicas: u32) -> serde_json::Value {
    let labels = json!({"app": name, "part-of": LABEL});
    let resources = json!({"requests": {"cpu": "100m", "memory": "128Mi"}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": CONTAINER, "image": IMAGE, "resources": resources}]},
            },
        },
    })
}

fn deployments_path(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/deployments")
}

/// The Deployments' own word.
#[derive(Deserialize)]
struct Deployments {
    items: Vec<Deployment>,
}

#[derive(Deserialize)]
struct Deployment {
    status: DeploymentStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeploymentStatus {
    #[serde(default)]
    available_replicas: u32,
}

impl Deployments {
    fn available(&self) -> u32 {
        self.items.iter().map(|deployment| deployment.status.available_replicas).sum()
    }
}

/// The cluster as whoever puts work on it sees it.
struct Cluster {
    connection: Connection,
    counts: watch::Receiver<Counts>,
    sizes: Sizes,
}

impl Cluster {
    /// Waits until the nodes know of as many pods as it takes.
    async fn until(&mut self, state: &str, is_reached: impl Fn(&Counts) -> bool) -> anyhow::Result<()> {
        let mut counts = self.counts.clone();
        let reached = async {
            counts.wait_for(is_reached).await.context("nobody counts the pods any more")?;
            Ok(())
        };
        let reached = within(self.sizes.patience_pods(), state, reached).await;
        reached.with_context(|| format!("{:?} of {}", *self.counts.borrow(), self.sizes.pods))
    }

    /// Makes the namespaces, and one pod that comes and goes: then every part of the control plane is known to work.
    async fn warm_up(&mut self) -> anyhow::Result<()> {
        for number in 0..NAMESPACES {
            let name = namespace(number);
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.connection.create("/api/v1/namespaces", Bytes::from(body.to_string())).await?;
            let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
            within(self.sizes.patience_nodes(), "namespaces have their account", exists(&mut self.connection, &account)).await?;
        }
        let path = deployments_path(&namespace(0));
        self.connection.create(&path, Bytes::from(deployment_of("first", 1).to_string())).await?;
        self.until("a first pod runs", |counts| counts.running == 1).await?;
        let path = format!("{path}/first?propagationPolicy=Background");
        let (status, body) = self.connection.exchange(Method::DELETE, &path, Bytes::new()).await?;
        ensure!(status.is_success(), "DELETE {path}: {status}: {}", String::from_utf8_lossy(&body));
        self.until("the first pod is gone", |counts| counts.all == 0).await
    }

    /// Makes all Deployments and waits until they are as they should be.
    async fn work(&mut self, servers: &Servers, say: &impl Fn(&str), measures: &mut Vec<Measure>) -> anyhow::Result<()> {
        let pods = self.sizes.pods;
        say(&format!("{pods} pods"));
        let (spent, own) = (servers.processor_seconds()?, processor_time(std::process::id())?);
        let begun = Instant::now();
        for number in 0..DEPLOYMENTS {
            let body = Bytes::from(deployment(number, pods).to_string());
            self.connection.create(&deployments_path(&namespace(number)), body).await?;
        }
        self.until("all pods are bound", |counts| counts.bound >= pods as usize).await?;
        let bound = begun.elapsed();
        say(&format!("all are bound after {bound:.1?}"));
        self.until("all pods run", |counts| counts.running >= pods as usize).await?;
        let running = begun.elapsed();
        within(self.sizes.patience_pods(), "all Deployments say that their pods are available", self.all_available()).await?;
        let available = begun.elapsed();
        let spent = servers.processor_seconds_since(&spent)?;
        let own = processor_time(std::process::id())?.saturating_sub(own);
        measures.push(seconds("pods_bound", format!("{pods} pods of {DEPLOYMENTS} Deployments, until all are bound"), bound));
        measures.push(Measure::per_second("pods_bound_rate", "  bound each second", f64::from(pods) / bound.as_secs_f64()));
        measures.push(seconds("pods_running", "  until all run", running));
        measures.push(seconds("pods_available", "  until their Deployments say so", available));
        let mut measure = Measure::new("work_processor", "  processor time of that", sum(&spent), Unit::Seconds, Better::Lower);
        measure.detail = detail(spent);
        measures.push(measure);
        let work = "  and of what plays the nodes";
        measures.push(Measure::new("work_player_processor", work, own.as_secs_f64(), Unit::Seconds, Better::Neither));
        Ok(())
    }

    async fn all_available(&mut self) -> anyhow::Result<()> {
        let path = format!("/apis/apps/v1/deployments?labelSelector=part-of%3D{LABEL}");
        loop {
            let told: Deployments = serde_json::from_slice(&self.connection.get(&path).await?)?;
            if told.available() >= self.sizes.pods {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// What the server has answered so far, and what of that the nodes have sent that is not about leases.
async fn answered(connection: &mut Connection, heartbeats: &Heartbeats) -> anyhow::Result<(Requests, u64)> {
    let read = async {
        tokio::time::sleep(COUNTED).await;
        connection.get("/metrics").await
    };
    let (page, statuses) = heartbeats.pause(read).await;
    Ok((requests::totals(&String::from_utf8_lossy(&page?)), statuses))
}

/// What it costs that everything is as it should be, and the nodes say so.
async fn steady(
    servers: &Servers,
    connection: &mut Connection,
    heartbeats: &Arc<Heartbeats>,
    sizes: Sizes,
    measures: &mut Vec<Measure>,
) -> anyhow::Result<()> {
    heartbeats.take_late_ms();
    let (before, statuses_before) = answered(connection, heartbeats).await?;
    let (begun, spent) = (Instant::now(), servers.processor_seconds()?);
    tokio::time::sleep(sizes.steady).await;
    let (elapsed, spent) = (begun.elapsed(), servers.processor_seconds_since(&spent)?);
    let (after, statuses) = answered(connection, heartbeats).await?;
    let late = heartbeats.take_late_ms();
    let share: Parts = spent.into_iter().map(|(name, seconds)| (name, seconds / elapsed.as_secs_f64() * 100.0)).collect();
    let mut measure = Measure::new("steady_processor", "then idle: share of one core", sum(&share), Unit::Percent, Better::Lower);
    measure.detail = detail(share);
    measures.push(measure.with("lease_late_ms", late));
    // The first reading of the metrics is among what the second tells.
    let own = Requests::from([("PATCH nodes/status".to_owned(), statuses - statuses_before), ("GET".to_owned(), 1)]);
    let others = requests::between(&before, &after, &own);
    let number: u64 = others.values().sum();
    let work = format!("  requests in {:?} of its own parts, but for leases", sizes.steady);
    let mut measure = Measure::new("steady_requests", work, number as f64, Unit::Count, Better::Lower);
    measure.detail = others.into_iter().map(|(what, number)| (what, number.into())).collect();
    measures.push(measure);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let now = servers.each(|id| Ok(megabytes(memory(id)?.now_bytes)))?;
    let peak = servers.each(|id| Ok(megabytes(memory(id)?.peak_bytes)))?;
    for (key, work, parts) in [("memory_steady", "  memory", now), ("memory_peak", "memory, peak", peak)] {
        let mut measure = Measure::new(key, work, sum(&parts), Unit::Megabytes, Better::Lower);
        measure.detail = detail(parts);
        measures.push(measure);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployments_have_all_the_pods_together() {
        for pods in [1, 49, 500, 513, 50_000] {
            let replicas = |number| deployment(number, pods)["spec"]["replicas"].as_u64().unwrap();
            assert_eq!((0..DEPLOYMENTS).map(replicas).sum::<u64>(), u64::from(pods));
            let spread = (0..DEPLOYMENTS).map(replicas).max().unwrap() - (0..DEPLOYMENTS).map(replicas).min().unwrap();
            assert!(spread <= 1, "{pods}: {spread}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let check = |nodes, pods| Sizes { nodes, pods, ..Sizes::QUICK }.check();
        assert!(Sizes::FULL.check().is_ok() && Sizes::QUICK.check().is_ok());
        assert!(check(1, 109).is_ok());
        assert_eq!(check(1, 110).unwrap_err().to_string(), "1 nodes have room for 109 pods");
        assert!(check(0, 1).is_err() && check(1, 0).is_err() && check(MAX_NODES + 1, 1).is_err());
    }

    #[test]
    fn deployments_say_how_many_pods_are_available() {
        let text = r#"{"items":[{"metadata":{"name":"a"},"status":{"availableReplicas":3,"replicas":4}},{"status":{}}]}"#;
        assert_eq!(serde_json::from_str::<Deployments>(text).unwrap().available(), 3);
    }

    #[tokio::test]
    async fn a_state_that_is_not_reached_is_named() {
        let never = std::future::pending::<anyhow::Result<()>>();
        let error = within(Duration::from_millis(1), "all pods are bound", never).await.unwrap_err();
        assert_eq!(error.to_string(), "not reached within 1ms: all pods are bound");
    }
}
