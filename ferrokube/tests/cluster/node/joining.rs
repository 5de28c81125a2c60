//! A second machine joins the cluster, works, survives the end of its node's process, and leaves.

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use serde_json::json;

use super::asking::{Cluster, get, object, restarts, until};
use super::host::{Host, Inventory};
use super::image;
use super::machine::Machine;

const TOKEN: &str = "abcdef.0123456789abcdef";
const IMAGE: &str = "registry.test/test/web:1";

fn pod() -> Pod {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_a_second_machine_joins_works_and_leaves() {
    let directory = tempfile::tempdir().expect("a directory");
    let (data_dir, second_dir) = (directory.path().join("cluster"), directory.path().join("second"));
    let before = Inventory::take();
    let archive = image::archive(directory.path(), IMAGE, "one");
    for data_dir in [&data_dir, &second_dir] {
        std::fs::create_dir_all(data_dir.join("images")).expect("a folder");
        std::fs::copy(&archive, data_dir.join("images/web.tar")).expect("an archive");
    }
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
    cluster.pods.create(&PostParams::default(), &pod()).await.expect("a pod");
    let service = json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    let service = cluster.services.create(&PostParams::default(), &object(service)).await.expect("a service");
    let address: IpAddr = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default().parse().expect("a cluster IP");
    until("the service answers", async || get(address, 80).await.as_deref() == Some("one")).await;
    assert_eq!(cluster.pods.logs("web", &LogParams::default()).await.expect("logs"), "started\n");
    let fetch =
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $(nslookup web.default.svc.cluster.local | sed -n 's/^Address: //p') 80 | tail -n 1";
    assert_eq!(cluster.exec("web", &["sh", "-c", fetch], b"").await, ("one".to_owned(), true));
    assert_eq!(cluster.exec("web", &["cat", "/data/file"], b"").await.0, "kept\n");

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
