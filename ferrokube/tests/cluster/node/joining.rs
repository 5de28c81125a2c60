//! A second machine joins the cluster, works, survives the end of its node's process, and leaves.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use serde_json::json;

use super::asking::{Cluster, get, object, restarts, until};
use super::host::{Host, Inventory};
use super::image;
use super::machine::Machine;

const TOKEN: &str = "abcdef.0123456789abcdef";
const IMAGE: &str = "registry.test/test/web:1";

/// Asks the service by its name from within a pod.
const FETCH: &str =
    "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $(nslookup web.default.svc.cluster.local | sed -n 's/^Address: //p') 80 | tail -n 1";

/// A pod of the service `web` on a node.
fn pod(name: &str, node: &str) -> Pod {
    object(json!({
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "web",
                "image": IMAGE,
                "command": ["sh", "-c", "trap 'exit 0' TERM; httpd -p 8080 -h /www; while :; do sleep 0.1; done"],
                "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
            }],
        },
    }))
}

/// A pod of the service `web` on the second machine, with a volume.
fn pod_with_volume() -> Pod {
    object(json!({
        "metadata": { "name": "web", "labels": { "app": "web" } },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": "second" },
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "web",
                "image": IMAGE,
                "command": ["sh", "-c", "trap 'exit 0' TERM; echo kept > /data/file; httpd -p 8080 -h /www; echo started; while :; do sleep 0.1; done"],
                "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
        },
    }))
}

/// Puts the image where both machines import it from.
fn put_image(directory: &Path, data_dirs: [&Path; 2]) {
    let archive = image::archive(directory, IMAGE, "one");
    for data_dir in data_dirs {
        image::put(&archive, data_dir);
    }
}

/// Makes the service `web`; its address.
async fn service(cluster: &Cluster) -> IpAddr {
    let service = json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    let service = cluster.services.create(&PostParams::default(), &object(service)).await.expect("a service");
    service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default().parse().expect("a cluster IP")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_a_second_machine_joins_works_and_leaves() {
    let directory = tempfile::tempdir().expect("a directory");
    let (data_dir, second_dir) = (directory.path().join("cluster"), directory.path().join("second"));
    let before = Inventory::take();
    put_image(directory.path(), [&data_dir, &second_dir]);
    let mut host = Host::start(&data_dir, 1);
    let cluster = Cluster::of(&host, 1).await;
    let mut machine = Machine::new(&host, &second_dir, 250);
    let nothing = machine.leftovers();

    // Whoever cannot tell that this is the cluster says nothing secret to it.
    let arguments = host.join_arguments(TOKEN);
    let mut wrong = arguments.clone();
    *wrong.last_mut().expect("a hash") = format!("sha256:{}", "0".repeat(64));
    machine.join("second", &wrong);
    assert!(!machine.wait(), "another cluster was joined");
    assert!(machine.said().contains("the public key of its CA has another hash"), "{}", machine.said());

    machine.join("second", &arguments);
    until("the machine is a node", async || cluster.ready_nodes().await.contains("second")).await;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let requests = requests.list(&ListParams::default()).await.expect("requests").items;
    let users: Vec<_> = requests.iter().filter_map(|request| request.spec.username.as_deref()).collect();
    assert_eq!(users, ["system:bootstrap:abcdef"]);

    // A pod there is reached by a service, has a volume, asks for names, and shows what it does.
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client.clone());
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } },
    });
    claims.create(&PostParams::default(), &object(claim)).await.expect("a claim");
    cluster.pods.create(&PostParams::default(), &pod_with_volume()).await.expect("a pod");
    let address = service(&cluster).await;
    until("the service answers", async || get(address, 80).await.as_deref() == Some("one")).await;
    assert_eq!(cluster.pods.logs("web", &LogParams::default()).await.expect("logs"), "started\n");
    assert_eq!(cluster.exec("web", &["sh", "-c", FETCH], b"").await, ("one".to_owned(), true));
    assert_eq!(cluster.exec("web", &["cat", "/data/file"], b"").await.0, "kept\n");

    // It enforces network policies.
    let policies: Api<NetworkPolicy> = Api::default_namespaced(cluster.client.clone());
    let deny = json!({ "metadata": { "name": "deny" }, "spec": { "podSelector": { "matchLabels": { "app": "web" } } } });
    policies.create(&PostParams::default(), &object(deny)).await.expect("a policy");
    until("the service does not answer", async || get(address, 80).await.is_none()).await;
    policies.delete("deny", &DeleteParams::default()).await.expect("the policy goes");
    until("the service answers again", async || get(address, 80).await.as_deref() == Some("one")).await;

    // The node's process is killed and started again, without a token: the pod does not notice.
    let container =
        |pod: &Pod| pod.status.as_ref().and_then(|status| status.container_statuses.clone()).map(|all| all[0].container_id.clone());
    let before_kill = container(&cluster.pods.get("web").await.expect("the pod"));
    machine.kill();
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let beat = async || leases.get("second").await.expect("a lease").spec.and_then(|spec| spec.renew_time);
    let last = beat().await;
    assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    machine.join("second", &arguments[..1]);
    until("the node is heard of again", async || beat().await > last).await;
    until("the node is ready", async || cluster.ready_nodes().await.contains("second")).await;
    let now = cluster.pods.get("web").await.expect("the pod");
    assert_eq!((container(&now), restarts(&now)), (before_kill, 0));
    assert_eq!(cluster.exec("web", &["cat", "/data/file"], b"").await.0, "kept\n");

    // Its end takes everything away, also of pods that still run there.
    machine.down();
    assert_eq!(machine.leftovers(), nothing);
    drop(machine);
    cluster.nodes.delete("second", &DeleteParams::default()).await.expect("the node is forgotten");
    host.down();
    before.assert_restored(&host);
}

/// As a machine in the same room: it sees the cluster's machine, but neither the bridge on it nor the nodes behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_a_machine_in_another_network_than_the_nodes_joins() {
    let directory = tempfile::tempdir().expect("a directory");
    let (data_dir, second_dir) = (directory.path().join("cluster"), directory.path().join("second"));
    let before = Inventory::take();
    put_image(directory.path(), [&data_dir, &second_dir]);
    // Of a range for tests of networks; the process's number keeps tests apart.
    let server = Ipv4Addr::new(198, 18, (std::process::id() % 250) as u8, 1);
    let mut host = Host::start_with(&data_dir, 1, &["--tls-san", &server.to_string()]);
    let cluster = Cluster::of(&host, 1).await;
    let mut machine = Machine::apart(&host, &second_dir, server);
    let mut arguments = host.join_arguments(TOKEN);
    let port = arguments[0].rsplit_once(':').expect("a port").1;
    arguments[0] = format!("https://{server}:{port}");
    machine.join("second", &arguments);
    until("the machine is a node", async || cluster.ready_nodes().await.contains("second")).await;
    for (name, node) in [("a", "node-1"), ("b", "second")] {
        cluster.pods.create(&PostParams::default(), &pod(name, node)).await.expect("a pod");
    }
    let address = service(&cluster).await;
    until("both pods are ready", async || cluster.running().await.len() == 2).await;
    for name in ["a", "b"] {
        // By each other's own address, and both pods behind the service by its name.
        let other = cluster.pods.get(if name == "a" { "b" } else { "a" }).await.expect("the pod");
        let other = other.status.and_then(|status| status.pod_ip).expect("an address");
        let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {other} 8080 | tail -n 1");
        assert_eq!(cluster.exec(name, &["sh", "-c", &fetch], b"").await.0, "one", "from {name}");
        for _ in 0..6 {
            assert_eq!(cluster.exec(name, &["sh", "-c", FETCH], b"").await.0, "one", "from {name}");
        }
    }
    for _ in 0..10 {
        assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    }
    machine.down();
    drop(machine);
    host.down();
    before.assert_restored(&host);
}
