//! What the kubelets of played nodes do with pods: one watch tells of all that are bound; each runs and is ready as soon as it is bound,
//! and is gone as soon as it is deleted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use super::nodes::{FIRST_POD, address, seconds, strategic_patch};
use crate::bench::connection::{Connection, Endpoint, JSON};

/// The one container of a pod, and its image, which nobody pulls.
pub const CONTAINER: &str = "pause";
pub const IMAGE: &str = "registry.k8s.io/pause:3.10.2";

const PODS: &str = "/api/v1/pods";
/// All that are bound, without an end that somebody has set.
const BOUND: &str = "/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=86400&fieldSelector=spec.nodeName%21%3D";
/// What nodes have still to do; the watch is not read on beyond that.
const MAX_DUTIES: usize = 1 << 17;
/// Requests in flight about pods: connections, and workers on each.
const CONNECTIONS: usize = 8;
const WORKERS: usize = 16;
/// How an event begins that says that a watch has failed.
const ERROR: &[u8] = b"{\"type\":\"ERROR\"";
/// No event of a watch is longer.
const MAX_EVENT_BYTES: usize = 1 << 22;
/// How long a watch that has ended is left alone before it goes on, so that one that ends at once takes nothing.
const WATCH_AGAIN: Duration = Duration::from_millis(100);

/// How many pods are bound, and how many of these run. Those that are being deleted are only in `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub all: usize,
    pub bound: usize,
    pub running: usize,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Pod<'a>,
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Cow<'a, str>,
}

/// How far a pod is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Bound,
    Running,
    Ending,
}

/// What a node has to do, of the pod at this path.
#[derive(Debug, PartialEq, Eq)]
enum Duty {
    /// Its number is how many pods were started before.
    Run {
        path: String,
        node: String,
        number: u32,
    },
    Remove {
        path: String,
    },
}

/// What all nodes know of their pods.
#[derive(Default)]
struct Known {
    stages: HashMap<String, Stage>,
    counts: Counts,
    started: u32,
}

impl Known {
    fn count(&mut self, before: Option<Stage>, now: Option<Stage>) {
        let Counts { all, bound, running } = &mut self.counts;
        if let Some(stage) = before {
            *all -= 1;
            *bound -= usize::from(stage != Stage::Ending);
            *running -= usize::from(stage == Stage::Running);
        }
        if let Some(stage) = now {
            *all += 1;
            *bound += usize::from(stage != Stage::Ending);
            *running += usize::from(stage == Stage::Running);
        }
    }

    /// Takes notice of an event and gives what is to be done about it.
    fn take(&mut self, event: &Event) -> Option<Duty> {
        let Pod { metadata, spec, status } = &event.object;
        let path = format!("/api/v1/namespaces/{}/pods/{}", metadata.namespace, metadata.name);
        let before = self.stages.get(&path).copied();
        let now = match &*event.kind {
            "ADDED" | "MODIFIED" if metadata.deletion_timestamp.is_some() => Some(Stage::Ending),
            "ADDED" | "MODIFIED" if status.phase == "Running" => Some(Stage::Running),
            "ADDED" | "MODIFIED" => Some(Stage::Bound),
            "DELETED" => None,
            _ => return None,
        };
        if before == now {
            return None;
        }
        self.count(before, now);
        match now {
            Some(stage) => self.stages.insert(path.clone(), stage),
            None => self.stages.remove(&path),
        };
        match (before, now) {
            (None, Some(Stage::Bound)) => {
                let number = self.started;
                self.started += 1;
                Some(Duty::Run { path, node: spec.node_name.clone().into_owned(), number })
            }
            (_, Some(Stage::Ending)) => Some(Duty::Remove { path }),
            _ => None,
        }
    }
}

/// What a pod of one container is once it runs.
fn running(node: &str, number: u32, now: Timestamp) -> Value {
    let ip = Ipv4Addr::from_bits(FIRST_POD.to_bits().wrapping_add(number));
    let now = seconds(now);
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let conditions: Vec<Value> = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"].map(condition).into();
    let container = json!({
        "name": CONTAINER, "ready": true, "started": true, "restartCount": 0, "image": IMAGE, "imageID": IMAGE,
        "containerID": format!("played://{number}"), "state": {"running": {"startedAt": now}},
    });
    json!({"status": {
        "phase": "Running", "startTime": now, "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": address(node),
        "conditions": conditions, "containerStatuses": [container],
    }})
}

impl Duty {
    /// Does it; a pod that is gone meanwhile is nobody's concern.
    async fn perform(self, connection: &mut Connection) -> anyhow::Result<()> {
        let (what, status, body) = match self {
            Duty::Run { path, node, number } => {
                let path = format!("{path}/status");
                let body = Bytes::from(running(&node, number, Timestamp::now()).to_string());
                let answer = connection.perform(strategic_patch(), &path, body).await?;
                (format!("PATCH {path}"), answer.status, answer.body)
            }
            Duty::Remove { path } => {
                let (status, body) = connection.exchange(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), Bytes::new()).await?;
                (format!("DELETE {path}"), status.as_u16(), body)
            }
        };
        ensure!(matches!(status, 200 | 404), "{what}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}

/// Adds tasks to `played` that do with pods what kubelets do, for as long as they are let; one that ends has failed. From now on, what
/// comes back tells how many pods there are.
pub async fn play(endpoint: &Endpoint, played: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<watch::Receiver<Counts>> {
    let (duties, taken) = mpsc::channel(MAX_DUTIES);
    let taken = Arc::new(Mutex::new(taken));
    for _ in 0..CONNECTIONS {
        let connection = endpoint.connect().await?;
        for _ in 0..WORKERS {
            played.spawn(work(connection.clone(), taken.clone()));
        }
    }
    let mut connection = endpoint.connect().await?;
    let list = connection.get(&format!("{PODS}?limit=1")).await?;
    let list: List = serde_json::from_slice(&list)?;
    let (counts, told) = watch::channel(Counts::default());
    let follower = Follower {
        endpoint: endpoint.clone(),
        revision: list.metadata.resource_version.into_owned(),
        known: Known::default(),
        duties,
        counts,
    };
    // It is open before this returns: whoever makes pods now can be sure that they are seen.
    let stream = follower.open().await?;
    played.spawn(follower.follow(stream));
    Ok(told)
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

async fn work(mut connection: Connection, duties: Arc<Mutex<mpsc::Receiver<Duty>>>) -> anyhow::Result<()> {
    loop {
        let duty = duties.lock().await.recv().await.context("the watch of the pods has ended")?;
        duty.perform(&mut connection).await?;
    }
}

/// Reads the watch of all bound pods.
struct Follower {
    endpoint: Endpoint,
    /// What was seen last.
    revision: String,
    known: Known,
    duties: mpsc::Sender<Duty>,
    counts: watch::Sender<Counts>,
}

impl Follower {
    async fn open(&self) -> anyhow::Result<Incoming> {
        let path = format!("{BOUND}&resourceVersion={}", self.revision);
        let response = self.endpoint.connect().await?.send(Method::GET, &path, JSON, Bytes::new()).await?;
        ensure!(response.status().is_success(), "watch {path}: {}", response.status());
        Ok(response.into_body())
    }

    /// Servers end watches that are read too slowly, and those that have lasted long: it goes on where it was.
    async fn follow(mut self, mut stream: Incoming) -> anyhow::Result<()> {
        loop {
            self.read(stream).await.context("the watch of the pods")?;
            tokio::time::sleep(WATCH_AGAIN).await;
            stream = self.open().await?;
        }
    }

    /// Reads until the stream ends, in order or not.
    async fn read(&mut self, mut stream: Incoming) -> anyhow::Result<()> {
        let mut buffer = BytesMut::new();
        while let Some(Ok(frame)) = stream.frame().await {
            let Some(data) = frame.data_ref() else { continue };
            // Only what is new can have the end of a line.
            let mut searched = buffer.len();
            buffer.extend_from_slice(data);
            while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(searched + end + 1);
                searched = 0;
                self.take(&line).await?;
            }
            ensure!(buffer.len() <= MAX_EVENT_BYTES, "an event is longer than {MAX_EVENT_BYTES} bytes");
            self.counts.send_if_modified(|told| std::mem::replace(told, self.known.counts) != self.known.counts);
        }
        Ok(())
    }

    async fn take(&mut self, line: &[u8]) -> anyhow::Result<()> {
        if line.starts_with(ERROR) {
            bail!("it failed: {}", String::from_utf8_lossy(line));
        }
        let event: Event = serde_json::from_slice(line).context("an event")?;
        self.revision = event.object.metadata.resource_version.clone().into_owned();
        if let Some(duty) = self.known.take(&event) {
            self.duties.send(duty).await.context("nobody does what nodes have to do")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(known: &mut Known, kind: &str, name: &str, more: &str) -> Option<Duty> {
        let metadata = format!(r#"{{"name":"{name}","namespace":"n","resourceVersion":"5"{more}}}"#);
        let phase = if kind.starts_with("RUNNING") { "Running" } else { "Pending" };
        let kind = kind.trim_start_matches("RUNNING ");
        let line = format!(
            r#"{{"type":"{kind}","object":{{"kind":"Pod","metadata":{metadata},"spec":{{"nodeName":"node-00001","containers":[]}},"status":{{"phase":"{phase}"}}}}}}"#
        );
        known.take(&serde_json::from_str(&line).unwrap())
    }

    fn counts(known: &Known) -> (usize, usize, usize) {
        (known.counts.all, known.counts.bound, known.counts.running)
    }

    #[test]
    fn a_bound_pod_is_started_once_and_a_deleted_one_removed_once() {
        let mut known = Known::default();
        let path = |name: &str| format!("/api/v1/namespaces/n/pods/{name}");
        let run = |name: &str, number| Some(Duty::Run { path: path(name), node: "node-00001".to_owned(), number });
        assert_eq!(take(&mut known, "ADDED", "a", ""), run("a", 0));
        assert_eq!(take(&mut known, "MODIFIED", "a", ""), None);
        assert_eq!(take(&mut known, "ADDED", "b", ""), run("b", 1));
        assert_eq!(counts(&known), (2, 2, 0));
        assert_eq!(take(&mut known, "RUNNING MODIFIED", "a", ""), None);
        assert_eq!(take(&mut known, "RUNNING MODIFIED", "a", ""), None);
        assert_eq!(counts(&known), (2, 2, 1));
        let ends = r#","deletionTimestamp":"2026-11-29T07:08:09Z""#;
        assert_eq!(take(&mut known, "RUNNING MODIFIED", "a", ends), Some(Duty::Remove { path: path("a") }));
        assert_eq!(take(&mut known, "RUNNING MODIFIED", "a", ends), None);
        assert_eq!(counts(&known), (2, 1, 0));
        assert_eq!(take(&mut known, "DELETED", "a", ends), None);
        assert_eq!(take(&mut known, "DELETED", "b", ""), None);
        assert_eq!(counts(&known), (0, 0, 0));
    }

    #[test]
    fn a_bookmark_is_no_pod() {
        let mut known = Known::default();
        assert_eq!(take(&mut known, "BOOKMARK", "", ""), None);
        let bookmark =
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"9"},"spec":{"containers":null},"status":{}}}"#;
        assert_eq!(known.take(&serde_json::from_str(bookmark).unwrap()), None);
        assert_eq!(counts(&known), (0, 0, 0));
    }

    #[test]
    fn a_running_pod_is_ready_and_has_an_address() {
        let status = running("node-00001", 256, "2026-11-29T07:08:09Z".parse().unwrap());
        assert_eq!(status.pointer("/status/podIPs/0/ip"), Some(&json!("10.128.1.0")));
        assert_eq!(status.pointer("/status/hostIP"), Some(&json!("198.18.0.2")));
        let conditions = status.pointer("/status/conditions").and_then(Value::as_array).unwrap();
        assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    }
}
