//! The server on an etcd: objects live there as upstream stores them, and losing the etcd for a while loses nothing.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::process::Cluster;

/// An etcd that was killed is back, and followed again, long before that.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;

struct EtcdServer {
    directory: tempfile::TempDir,
    client: String,
    peer: String,
    child: Child,
}

impl EtcdServer {
    /// `None`, with a message, on machines without etcd. `FERROKUBE_TEST_ETCD` names another binary.
    fn start() -> Option<EtcdServer> {
        if !Path::new(&binary()).exists() {
            writeln!(std::io::stderr(), "skipped, there is no {}", binary()).expect("stderr");
            return None;
        }
        // Both are bound at once, so that they differ.
        let [client, peer] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port")).map(|l| {
            let port = l.local_addr().expect("an address").port();
            format!("http://127.0.0.1:{port}")
        });
        let directory = tempfile::tempdir().expect("a directory");
        let child = spawn(directory.path(), &client, &peer);
        Some(EtcdServer { directory, client, peer, child })
    }

    fn kill(&mut self) {
        self.child.kill().expect("etcd can be killed");
        self.child.wait().expect("etcd can be waited for");
    }

    fn restart(&mut self) {
        self.child = spawn(self.directory.path(), &self.client, &self.peer);
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn binary() -> String {
    std::env::var("FERROKUBE_TEST_ETCD").unwrap_or_else(|_| "/usr/bin/etcd".to_owned())
}

fn spawn(directory: &Path, client: &str, peer: &str) -> Child {
    Command::new(binary())
        .arg("--data-dir")
        .arg(directory)
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "name": name } })).expect("a ConfigMap")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_in_etcd_outlive_the_server_and_a_killed_etcd() {
    let Some(mut etcd) = EtcdServer::start() else { return };
    let data = tempfile::tempdir().expect("a directory");
    let servers = etcd.client.clone();
    let flags = ["--etcd-servers", &*servers, "--etcd-prefix", "/elsewhere"];
    let cluster = Cluster::start_with(data.path(), &flags);
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");

    maps.create(&PostParams::default(), &map("kept")).await.expect("created");
    maps.create(&PostParams::default(), &map("gone")).await.expect("created");
    let patch = json!({ "data": { "more": "1" } });
    let patched = maps.patch("kept", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patched");
    maps.delete("gone", &DeleteParams::default()).await.expect("deleted");

    // Writers go on while etcd is killed and comes back; some of their writes fail, and none that was acknowledged may be lost.
    let writers = (0..WRITERS).map(|writer| {
        let maps = maps.clone();
        tokio::spawn(async move {
            let mut done: Vec<(String, String)> = Vec::new();
            let mut refused = 0;
            let end = Instant::now() + Duration::from_secs(6);
            for n in 0.. {
                if Instant::now() > end {
                    break;
                }
                let name = format!("w{writer}-{n}");
                match tokio::time::timeout(Duration::from_secs(2), maps.create(&PostParams::default(), &map(&name))).await {
                    Ok(Ok(created)) => done.push((name, created.resource_version().expect("a version"))),
                    Ok(Err(_)) | Err(_) => {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
            (done, refused)
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    etcd.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    etcd.restart();
    let mut acknowledged = vec![("kept".to_owned(), patched.resource_version().expect("a version"))];
    let mut refused = 0;
    for writer in writers {
        let (done, failures) = writer.await.expect("a writer");
        acknowledged.extend(done);
        refused += failures;
    }
    assert!(acknowledged.len() > WRITERS, "the writers were at work");
    assert!(refused > 0, "etcd was away");
    recovered(&maps).await;
    check(&maps, &acknowledged).await;

    // Another server on the same etcd sees the same.
    cluster.kill();
    let cluster = Cluster::start_with(data.path(), &flags);
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    check(&maps, &acknowledged).await;
}

/// Who is found under the service `kubernetes`, by its Endpoints and by its EndpointSlice.
async fn found(client: &Client) -> [Vec<String>; 2] {
    let endpoints = Api::<Endpoints>::namespaced(client.clone(), "default").get_opt("kubernetes").await.expect("an answer");
    let slice = Api::<EndpointSlice>::namespaced(client.clone(), "default").get_opt("kubernetes").await.expect("an answer");
    let of_endpoints = endpoints.into_iter().flat_map(|e| e.subsets.unwrap_or_default()).flat_map(|s| s.addresses.unwrap_or_default());
    let of_slice = slice.into_iter().flat_map(|s| s.endpoints.unwrap_or_default()).flat_map(|e| e.addresses);
    [of_endpoints.map(|address| address.ip).collect(), of_slice.collect()]
}

async fn finds(client: &Client, servers: &[&str]) {
    let wanted: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
    let end = Instant::now() + RECOVERY_TIMEOUT;
    loop {
        let found = found(client).await;
        if found == [wanted.clone(), wanted.clone()] {
            return;
        }
        assert!(Instant::now() < end, "{servers:?} should be found, and those that are: {found:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_etcd_are_found_as_long_as_they_live() {
    const ONE: &str = "192.0.2.1";
    const TWO: &str = "192.0.2.2";
    const THREE: &str = "192.0.2.3";
    let Some(etcd) = EtcdServer::start() else { return };
    let directories = [(); 3].map(|()| tempfile::tempdir().expect("a directory"));
    let server = |number: usize, address: &str| {
        Cluster::api_server_with(directories[number].path(), &["--etcd-servers", &etcd.client, "--advertise-address", address])
    };
    let first = server(0, ONE);
    let client = first.client().await;
    finds(&client, &[ONE]).await;
    let second = server(1, TWO);
    let third = server(2, THREE);
    finds(&client, &[ONE, TWO, THREE]).await;
    // Whoever goes says so; whoever dies is missed.
    assert!(second.stop(), "it ends well");
    assert_eq!(found(&client).await[0], [ONE, THREE], "at once");
    third.kill();
    finds(&client, &[ONE]).await;
    // The last one takes itself away too, and the next one does not believe that it serves already.
    assert!(first.stop(), "it ends well");
    let again = server(1, TWO);
    finds(&again.client().await, &[TWO]).await;
}

/// Waits until writes are taken and seen again.
async fn recovered(maps: &Api<ConfigMap>) {
    let end = Instant::now() + RECOVERY_TIMEOUT;
    while maps.create(&PostParams::default(), &map("after")).await.is_err() && maps.get("after").await.is_err() {
        assert!(Instant::now() < end, "the server does not recover from a killed etcd");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn check(maps: &Api<ConfigMap>, acknowledged: &[(String, String)]) {
    let list = maps.list(&Default::default()).await.expect("a list");
    let found: std::collections::HashMap<String, &ConfigMap> = list.iter().map(|o| (o.name_any(), o)).collect();
    for (name, version) in acknowledged {
        let object = found.get(name).unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
        assert_eq!(object.resource_version().as_ref(), Some(version), "{name}");
        assert_eq!(object.data.as_ref().and_then(|d| d.get("name")), Some(name), "{name} is half there");
    }
    assert!(!found.contains_key("gone"), "deleted objects stay deleted");
}
