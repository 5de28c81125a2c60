//! Network policies on two nodes with real containers: who reaches whom, by address and by service, from the same node and another.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::asking::{Cluster, name, object, until};
use super::host::{Host, Inventory};
use super::image;

const IMAGE: &str = "registry.test/test/web:1";
const PAGE: &str = "page";

fn pod(name: &str, labels: &Value, node: &str, command: &str) -> Pod {
    object(json!({
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": IMAGE, "command": ["sh", "-c", command] }],
        },
    }))
}

/// A server that is asked by its kubelet, too.
fn server() -> Pod {
    let mut server = pod("server", &json!({ "app": "server" }), "node-1", "httpd -f -p 8080 -h /www");
    let container = &mut server.spec.as_mut().expect("a spec").containers[0];
    container.ports = object(json!([{ "name": "http", "containerPort": 8080 }]));
    container.readiness_probe = object(json!({ "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 }));
    server
}

fn fetch(address: &str, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port} | tail -n 1")
}

struct Setting {
    cluster: Cluster,
    policies: Api<NetworkPolicy>,
    address: String,
    service: String,
}

impl Setting {
    async fn of(host: &Host) -> Setting {
        let cluster = Cluster::of(host, 2).await;
        let policies = Api::default_namespaced(cluster.client.clone());
        let idle = "while :; do sleep 1; done";
        for pod in [server(), pod("near", &json!({ "app": "near" }), "node-1", idle), pod("far", &json!({ "app": "far" }), "node-2", idle)]
        {
            cluster.pods.create(&PostParams::default(), &pod).await.expect("a pod");
        }
        let service = json!({ "metadata": { "name": "server" }, "spec": { "selector": { "app": "server" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
        let service = cluster.services.create(&PostParams::default(), &object(service)).await.expect("a service");
        let mut setting = Setting {
            cluster,
            policies,
            address: String::new(),
            service: service.spec.and_then(|spec| spec.cluster_ip).expect("a cluster IP"),
        };
        for name in ["server", "near", "far"] {
            until("the pods run", async || setting.is_ready(name).await).await;
        }
        let server = setting.cluster.pods.get("server").await.expect("the server");
        setting.address = server.status.and_then(|status| status.pod_ip).expect("an address");
        setting
    }

    async fn is_ready(&self, name: &str) -> bool {
        let pod = self.cluster.pods.get(name).await.expect("the pod");
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    async fn says(&self, pod: &str, command: &str) -> String {
        self.cluster.try_exec(pod, &["sh", "-c", command]).await.unwrap_or_default()
    }

    /// Whether a pod gets the page by the server's own address, and whether by its service's.
    async fn reached(&self, pod: &str) -> [bool; 2] {
        let direct = self.says(pod, &fetch(&self.address, 8080)).await;
        let by_service = self.says(pod, &fetch(&self.service, 80)).await;
        [direct.trim() == PAGE, by_service.trim() == PAGE]
    }

    async fn reaches(&self, pod: &str) -> bool {
        self.reached(pod).await == [true; 2]
    }

    async fn is_cut_off(&self, pod: &str) -> bool {
        self.reached(pod).await == [false; 2]
    }

    async fn apply(&self, name: &str, spec: Value) {
        let object = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name }, "spec": spec });
        self.policies.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.expect("a policy");
    }

    /// What a pod finds that connects to the server with its first breath.
    async fn first_breath(&self, name_of: &str) -> String {
        let first = pod(name_of, &json!({ "app": "hasty" }), "node-1", &fetch(&self.address, 8080));
        let created = self.cluster.pods.create(&PostParams::default(), &first).await.expect("a pod");
        let name = name(&created);
        until("the pod has run", async || {
            let pod = self.cluster.pods.get(name).await.expect("the pod");
            pod.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
        })
        .await;
        self.cluster.pods.logs(name, &LogParams::default()).await.expect("its log")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_network_policies_are_in_force_as_they_come() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let before = Inventory::take();
    image::put(&image::archive(directory.path(), IMAGE, PAGE), &data_dir);
    let mut host = Host::start(&data_dir, 2);
    let setting = Setting::of(&host).await;
    for pod in ["near", "far"] {
        until("everybody reaches the server", async || setting.reaches(pod).await).await;
    }
    assert_eq!(setting.first_breath("hasty-1").await.trim(), PAGE);

    // Nobody comes in, but the kubelet with its probes.
    setting.apply("deny", json!({ "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"] })).await;
    for pod in ["near", "far"] {
        until("nobody reaches the server", async || setting.is_cut_off(pod).await).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(setting.is_ready("server").await, "its node reaches it");

    // One from another node, by its label.
    let from_far = json!([{ "from": [{ "podSelector": { "matchLabels": { "app": "far" } } }], "ports": [{ "port": "http" }] }]);
    setting.apply("from-far", json!({ "podSelector": { "matchLabels": { "app": "server" } }, "ingress": from_far })).await;
    until("it is let in", async || setting.reaches("far").await).await;
    assert!(setting.is_cut_off("near").await);

    // Out to cluster DNS, which has no pod, and to nobody else.
    let dns = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } }, "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } } });
    let to_dns =
        json!([{ "to": [dns], "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53 }, { "port": "dns", "protocol": "UDP" }] }]);
    setting
        .apply("to-dns", json!({ "podSelector": { "matchLabels": { "app": "far" } }, "policyTypes": ["Egress"], "egress": to_dns }))
        .await;
    until("it does not get out", async || setting.is_cut_off("far").await).await;
    let resolved = setting.says("far", "nslookup server.default.svc.cluster.local").await;
    assert!(resolved.contains(&setting.service), "{resolved}");

    // A pod that comes after its policy never was without.
    setting.apply("hasty", json!({ "podSelector": { "matchLabels": { "app": "hasty" } }, "policyTypes": ["Egress"] })).await;
    setting.policies.delete("deny", &DeleteParams::default()).await.expect("the policy goes");
    setting.policies.delete("from-far", &DeleteParams::default()).await.expect("the policy goes");
    until("the server is open", async || setting.reaches("near").await).await;
    for number in 2..6 {
        assert_eq!(setting.first_breath(&format!("hasty-{number}")).await.trim(), "nc: timed out");
    }
    host.down();
    before.assert_restored(&host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_network_policies_are_somebody_elses_where_they_are_left_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    image::put(&image::archive(directory.path(), IMAGE, PAGE), &data_dir);
    let mut host = Host::start_with(&data_dir, 2, &["--disable", "network-policy"]);
    let setting = Setting::of(&host).await;
    setting.apply("deny", json!({ "podSelector": {} })).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(setting.reaches("near").await && setting.reaches("far").await);
    host.down();
}
