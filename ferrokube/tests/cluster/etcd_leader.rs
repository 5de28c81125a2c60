//! An etcd of three members whose leader is killed again and again under load: every acknowledged write is there and whole, versions never
//! go back, and a watch tells every change once.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::etcd::binary;
use crate::process::Cluster;

/// Kills in one run of the test; `FERROKUBE_LEADER_KILLS` asks for more.
const KILLS: usize = 3;
const WRITERS: usize = 6;
const MEMBERS: usize = 3;
/// An election takes one to two seconds.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long all go on between two kills, once writes are taken again.
const BETWEEN: Duration = Duration::from_millis(500);

struct Member {
    name: String,
    directory: tempfile::TempDir,
    port: u16,
    peer: u16,
    child: Child,
}

struct Members {
    members: Vec<Member>,
    initial: String,
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn spawn(directory: &Path, name: &str, port: u16, peer: u16, initial: &str) -> Child {
    Command::new(binary())
        .arg("--data-dir")
        .arg(directory)
        .args(["--name", name, "--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)])
        .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
        .args(["--initial-cluster", initial])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts")
}

impl Members {
    /// `None`, with a message, on machines without etcd.
    fn start() -> Option<Members> {
        if !Path::new(&binary()).exists() {
            writeln!(std::io::stderr(), "skipped, there is no {}", binary()).expect("stderr");
            return None;
        }
        // All are bound at once, so that they differ.
        let ports = [(); 2 * MEMBERS].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = ports.map(|l| l.local_addr().expect("an address").port());
        let named: Vec<(String, u16, u16)> = (0..MEMBERS).map(|n| (format!("m{n}"), ports[2 * n], ports[2 * n + 1])).collect();
        let initial = named.iter().map(|(name, _, peer)| format!("{name}={}", url(*peer))).collect::<Vec<_>>().join(",");
        let start = |(name, port, peer): (String, u16, u16)| {
            let directory = tempfile::tempdir().expect("a directory");
            let child = spawn(directory.path(), &name, port, peer, &initial);
            Member { name, directory, port, peer, child }
        };
        let members = named.into_iter().map(start).collect();
        Some(Members { members, initial })
    }

    fn servers(&self) -> String {
        self.members.iter().map(|m| url(m.port)).collect::<Vec<_>>().join(",")
    }

    /// Which one leads, once all are there and agree.
    fn leader(&self) -> usize {
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        loop {
            let told: Vec<(String, String)> = self.members.iter().filter_map(status).collect();
            if let [(_, first), ..] = told.as_slice()
                && told.len() == self.members.len()
                && told.iter().all(|(_, leader)| leader == first)
                && let Some(leader) = told.iter().position(|(member, _)| member == first)
            {
                return leader;
            }
            assert!(Instant::now() < deadline, "the members of the etcd do not agree on a leader: {told:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill(&mut self, member: usize) {
        self.members[member].child.kill().expect("etcd can be killed");
        self.members[member].child.wait().expect("etcd can be waited for");
    }

    fn restart(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.child = spawn(member.directory.path(), &member.name, member.port, member.peer, &self.initial);
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have been killed already.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

/// What a member is, and which it takes for the leader.
fn status(member: &Member) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", member.port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"POST /v3/maintenance/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status: Value = serde_json::from_str(answer.get(answer.find('{')?..=answer.rfind('}')?)?).ok()?;
    Some((status["header"]["member_id"].as_str()?.to_owned(), status["leader"].as_str()?.to_owned()))
}

fn version(object: &ConfigMap) -> u64 {
    object.resource_version().expect("a version").parse().expect("a number")
}

/// What a writer knows of an object of its own.
#[derive(Default)]
struct Written {
    /// The versions of acknowledged writes.
    versions: Vec<u64>,
    /// Whether its deletion was acknowledged.
    is_deleted: bool,
    /// Whether the last thing done to it may or may not have happened.
    is_open: bool,
}

/// Creates, changes and deletes until it is told to stop. `newest` is the newest version that anybody has had acknowledged.
async fn write(maps: Api<ConfigMap>, writer: usize, stop: Arc<AtomicBool>, newest: Arc<AtomicU64>) -> HashMap<String, Written> {
    let mut all = HashMap::new();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("w{writer}-{n}");
        let written: &mut Written = all.entry(name.clone()).or_default();
        let body = json!({"metadata": {"name": name}, "data": {"name": name, "pad": "x".repeat(1000)}});
        let object: ConfigMap = serde_json::from_value(body).expect("a ConfigMap");
        let patch = Patch::Merge(json!({"data": {"changed": "yes"}}));
        let acknowledge = |written: &mut Written, object: &ConfigMap| {
            newest.fetch_max(version(object), Ordering::SeqCst);
            written.versions.push(version(object));
        };
        let done = async {
            acknowledge(written, &maps.create(&PostParams::default(), &object).await?);
            acknowledge(written, &maps.patch(&name, &PatchParams::default(), &patch).await?);
            if n % 3 == 0 {
                maps.delete(&name, &DeleteParams::default()).await?;
                written.is_deleted = true;
            }
            Ok::<(), kube::Error>(())
        };
        if done.await.is_err() {
            written.is_open = true;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    all
}

/// Lists again and again: no list is older than one before it, or than what was acknowledged before it was asked for.
async fn read(maps: Api<ConfigMap>, stop: Arc<AtomicBool>, newest: Arc<AtomicU64>) -> usize {
    let mut lists = 0;
    while !stop.load(Ordering::SeqCst) {
        let before = newest.load(Ordering::SeqCst);
        if let Ok(list) = maps.list(&ListParams::default().limit(1)).await {
            let version: u64 = list.metadata.resource_version.expect("a version").parse().expect("a number");
            assert!(version >= before, "a list at {version} after {before}");
            newest.fetch_max(version, Ordering::SeqCst);
            lists += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lists
}

/// Follows everything from a version to the object that is written last, going on where it was whenever the watch ends. Gives the state
/// that the events make, and the versions of all of them.
async fn follow(maps: Api<ConfigMap>, start: String) -> (BTreeMap<String, u64>, HashMap<u64, String>) {
    let mut state = BTreeMap::new();
    let mut told = HashMap::new();
    let (mut last, mut from) = (0, start);
    loop {
        let Ok(events) = maps.watch(&WatchParams::default().timeout(290), &from).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        pin_mut!(events);
        while let Some(event) = events.next().await {
            let (object, was_known, is_deleted) = match event {
                Ok(WatchEvent::Added(object)) => (object, false, false),
                Ok(WatchEvent::Modified(object)) => (object, true, false),
                Ok(WatchEvent::Deleted(object)) => (object, true, true),
                Ok(WatchEvent::Bookmark(_)) => continue,
                Ok(WatchEvent::Error(status)) => panic!("a watch from {from} ends with {status:?}"),
                Err(_) => break,
            };
            let (name, version) = (object.name_any(), version(&object));
            assert!(version > last, "{name} at {version} is told after {last}");
            last = version;
            from = version.to_string();
            assert_eq!(state.contains_key(&name), was_known, "{name} at {version}");
            assert_eq!(object.data.as_ref().and_then(|d| d.get("name")), Some(&name), "{name} is half there");
            told.insert(version, name.clone());
            if is_deleted {
                state.remove(&name);
            } else {
                state.insert(name.clone(), version);
            }
            if name == "last" {
                return (state, told);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_whose_leader_is_killed_again_and_again_loses_nothing_and_tells_every_change_once() {
    let Some(mut etcd) = Members::start() else { return };
    etcd.leader();
    let kills = std::env::var("FERROKUBE_LEADER_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(KILLS);
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server_with(data.path(), &["--etcd-servers", &etcd.servers()]);
    let client: Client = cluster.impatient_client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let start = maps.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
    let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let following = tokio::spawn(follow(maps.clone(), start));
    let reading = tokio::spawn(read(maps.clone(), stop.clone(), newest.clone()));
    let writing: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(write(maps.clone(), n, stop.clone(), newest.clone()))).collect();

    let mut longest = Duration::ZERO;
    for _ in 0..kills {
        tokio::time::sleep(BETWEEN).await;
        let leader = tokio::task::block_in_place(|| etcd.leader());
        tokio::task::block_in_place(|| etcd.kill(leader));
        let (killed, before) = (Instant::now(), newest.load(Ordering::SeqCst));
        // Two of three go on without the third.
        while newest.load(Ordering::SeqCst) <= before + WRITERS as u64 {
            assert!(killed.elapsed() < RECOVERY_TIMEOUT, "no writes are taken {:?} after the leader was killed", killed.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        longest = longest.max(killed.elapsed());
        etcd.restart(leader);
    }
    etcd.leader();
    tokio::time::sleep(BETWEEN).await;
    stop.store(true, Ordering::SeqCst);
    let mut written: HashMap<String, Written> = HashMap::new();
    for writer in writing {
        written.extend(writer.await.expect("a writer"));
    }
    assert!(reading.await.expect("a reader") > kills, "the reader was at work");
    let last: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "last"}, "data": {"name": "last"}})).expect("a ConfigMap");
    maps.create(&PostParams::default(), &last).await.expect("writes are taken");
    let (mut state, told) = tokio::time::timeout(RECOVERY_TIMEOUT, following).await.expect("the watch comes to the end").expect("a watch");

    let list = maps.list(&ListParams::default()).await.expect("a list");
    let found: BTreeMap<String, u64> = list.iter().map(|o| (o.name_any(), version(o))).collect();
    // What was there before is not told.
    state.extend(found.iter().filter(|(name, _)| *name == "kube-root-ca.crt").map(|(name, version)| (name.clone(), *version)));
    assert_eq!(state, found, "what the events make is what is there");
    let acknowledged: usize = written.values().map(|w| w.versions.len()).sum();
    for (name, written) in &written {
        for version in &written.versions {
            assert_eq!(told.get(version), Some(name), "an acknowledged write at {version} is not told");
        }
        if !written.is_open {
            let expected = if written.is_deleted { None } else { written.versions.last() };
            assert_eq!(found.get(name), expected, "{name} was acknowledged");
        }
    }
    let refused = written.values().filter(|w| w.is_open).count();
    writeln!(std::io::stderr(), "{kills} leaders killed, {acknowledged} writes acknowledged, {refused} not, the longest pause {longest:?}")
        .expect("stderr");
    assert!(acknowledged > kills * WRITERS, "the writers were at work");
}
