//! Services: by whom they are reached, and who answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{NODE, OTHER_NODE};
use crate::node::asking::{get, until};
use crate::node::place::{Place, named, one, pod, with};

/// What a server on the first node and on the second says.
const ANSWERS: [&str; 2] = ["server-1", "server-2"];

struct Setting {
    place: Place,
    nodes: [Ipv4Addr; 2],
}

pub(super) async fn story(place: Place, nodes: [Ipv4Addr; 2]) {
    let setting = Setting { place, nodes };
    let serves = "mkdir /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www";
    let ready = json!({ "ports": [{ "name": "web", "containerPort": 8080 }], "readinessProbe": { "tcpSocket": { "port": "web" }, "periodSeconds": 1 } });
    let server = |node: &str, fields: &Value| with(one(serves, fields.clone()), json!({ "nodeName": node }));
    let labelled = |name: &str, spec: Value| with(pod(name, spec), json!({ "metadata": { "labels": { "app": "server" } } }));
    for (name, node) in ANSWERS.into_iter().zip([NODE, OTHER_NODE]) {
        setting.place.create::<Pod>(labelled(name, server(node, &ready))).await;
    }
    // On the node's own port as well, at one of its addresses.
    let port = json!({ "ports": [{ "containerPort": 8080, "hostPort": 18080, "hostIP": nodes[0].to_string(), "protocol": "TCP" }] });
    setting.place.create::<Pod>(pod("host-port", server(NODE, &port))).await;
    // One that is never ready.
    let never = json!({ "readinessProbe": { "exec": { "command": ["false"] } } });
    setting.place.create::<Pod>(pod("not-ready", server(NODE, &never))).await;
    for (name, node) in [("near", NODE), ("far", OTHER_NODE)] {
        setting.place.runs(name, with(one("exec sleep 1000", json!({})), json!({ "nodeName": node }))).await;
    }
    for name in ANSWERS {
        setting.place.until_is(name, "it is ready", crate::node::place::is_ready).await;
    }
    tokio::join!(
        setting.by_name_and_address(),
        setting.asked_from_outside(),
        setting.always_the_same(),
        setting.on_the_same_node(),
        setting.without_an_address(),
        setting.by_another_name(),
        setting.behind_a_balancer(),
        setting.at_the_node(),
    );
}

impl Setting {
    async fn service(&self, name: &str, spec: Value) -> Service {
        let usual = json!({ "selector": { "app": "server" }, "ports": [{ "name": "http", "port": 80, "targetPort": "web", "appProtocol": "http" }] });
        self.place.create::<Service>(json!({ "metadata": { "name": name }, "spec": with(usual, spec) })).await
    }

    /// What a pod is answered; empty if it is not.
    async fn answer(&self, pod: &str, address: &str, port: i32) -> String {
        self.place.says(pod, &format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port} | tail -n 1")).await
    }

    /// Who answers a dozen requests.
    async fn answers(&self, pod: &str, address: &str, port: i32) -> BTreeSet<String> {
        let ask = format!(
            "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port} | tail -n 1; done"
        );
        self.place.says(pod, &ask).await.lines().map(str::to_owned).collect()
    }

    async fn by_name_and_address(&self) {
        let spec = self.service("usual", json!({ "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"] })).await.spec.expect("a spec");
        let address = cluster_ip(&spec.cluster_ip);
        assert_eq!(spec.cluster_ips.as_deref(), Some(&[address.clone()][..]));
        let all: BTreeSet<String> = ANSWERS.map(str::to_owned).into();
        for pod in ["near", "far"] {
            until("both answer", async || self.answers(pod, &address, 80).await == all).await;
        }
        let resolved = self.place.says("near", &format!("nslookup usual.{}.svc.cluster.local", self.place.namespace)).await;
        assert!(resolved.contains(&format!("Address: {address}")), "{resolved}");

        // At an address that one asks for.
        let mut parts = address.parse::<Ipv4Addr>().expect("an address").octets();
        (parts[2], parts[3]) = (251, 7);
        let wanted = Ipv4Addr::from(parts).to_string();
        self.service(
            "at-an-address",
            json!({ "clusterIP": wanted, "ports": [{ "name": "http", "port": 81, "targetPort": 8080, "protocol": "TCP" }] }),
        )
        .await;
        until("it answers there", async || ANSWERS.contains(&&*self.answer("far", &wanted, 81).await)).await;
    }

    async fn asked_from_outside(&self) {
        let spec = self.service("outside", json!({ "type": "NodePort" })).await.spec.expect("a spec");
        let port = node_port(&spec);
        for node in self.nodes {
            until("every node answers", async || outside(node, port).await.is_some()).await;
        }
        // Only where there is a pod, and by whom it is asked is not hidden.
        let of_one = json!({ "type": "NodePort", "externalTrafficPolicy": "Local", "selector": { "app": "host-port" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "nodePort": 30123 }] });
        let local = self.service("outside-local", of_one).await.spec.expect("a spec");
        assert_eq!(node_port(&local), 30123);
        until("its node answers", async || outside(self.nodes[0], 30123).await.as_deref() == Some("host-port")).await;
        assert_eq!(outside(self.nodes[1], 30123).await, None);
    }

    async fn always_the_same(&self) {
        let sticky = json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 100 } } });
        let spec = self.service("sticky", sticky).await.spec.expect("a spec");
        let address = cluster_ip(&spec.cluster_ip);
        until("it answers", async || !self.answer("near", &address, 80).await.is_empty()).await;
        let same = self.answers("near", &address, 80).await;
        assert_eq!(same.len(), 1, "{same:?}");

        // For a second, after which anybody answers.
        let forgetful = json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 1 } } });
        let spec = self.service("forgetful", forgetful).await.spec.expect("a spec");
        let address = cluster_ip(&spec.cluster_ip);
        let mut seen = BTreeSet::new();
        until("another answers", async || {
            let answer = self.answer("near", &address, 80).await;
            seen.extend((!answer.is_empty()).then_some(answer));
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            seen.len() == ANSWERS.len()
        })
        .await;
    }

    async fn on_the_same_node(&self) {
        for (name, spec) in
            [("near-only", json!({ "internalTrafficPolicy": "Local" })), ("near-first", json!({ "trafficDistribution": "PreferSameNode" }))]
        {
            let spec = self.service(name, spec).await.spec.expect("a spec");
            let address = cluster_ip(&spec.cluster_ip);
            for (pod, answer) in [("near", ANSWERS[0]), ("far", ANSWERS[1])] {
                let wanted = BTreeSet::from([answer.to_owned()]);
                until(&format!("{name}: {pod} is answered by its neighbour"), async || self.answers(pod, &address, 80).await == wanted)
                    .await;
            }
        }
        // Where there is no pod, nobody answers.
        let of_one = json!({ "internalTrafficPolicy": "Local", "selector": { "app": "host-port" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
        let spec = self.service("near-or-none", of_one).await.spec.expect("a spec");
        let address = cluster_ip(&spec.cluster_ip);
        until("the neighbour is answered", async || self.answer("near", &address, 80).await == "host-port").await;
        assert_eq!(self.answer("far", &address, 80).await, "");
    }

    async fn without_an_address(&self) {
        self.service("headless", json!({ "clusterIP": "None" })).await;
        let unready = json!({ "clusterIP": "None", "publishNotReadyAddresses": true, "selector": { "app": "not-ready" }, "ports": [{ "name": "http", "port": 8080 }] });
        self.service("unready", unready.clone()).await;
        self.service("only-ready", with(unready, json!({ "publishNotReadyAddresses": false }))).await;
        let resolved =
            async |name: &str| self.place.says("near", &format!("nslookup {name}.{}.svc.cluster.local", self.place.namespace)).await;
        let address = async |pod: &str| self.place.get::<Pod>(pod).await.status.and_then(|status| status.pod_ip).expect("an address");
        for pod in ANSWERS {
            let line = format!("Address: {}", address(pod).await);
            until("the name is known", async || resolved("headless").await.contains(&line)).await;
        }
        let line = format!("Address: {}", address("not-ready").await);
        until("the name is known", async || resolved("unready").await.contains(&line)).await;
        assert!(!resolved("only-ready").await.contains(&line));
    }

    async fn by_another_name(&self) {
        let spec = json!({ "type": "ExternalName", "externalName": format!("usual.{}.svc.cluster.local", self.place.namespace), "selector": null, "ports": null });
        self.service("alias", spec).await;
        let other = format!("alias.{}.svc.cluster.local", self.place.namespace);
        until("the name is another's", async || {
            let told = self.place.says("near", &format!("nslookup {other}")).await;
            told.contains(&format!("canonical name = usual.{}.svc.cluster.local", self.place.namespace))
        })
        .await;
    }

    /// A balancer is somebody else's; what comes by its addresses is let in from where the Service says.
    async fn behind_a_balancer(&self) {
        let near = self.place.get::<Pod>("near").await.status.and_then(|status| status.pod_ip).expect("an address");
        let spec = json!({
            "type": "LoadBalancer",
            "loadBalancerClass": "test.ferrokube.dev/none",
            "allocateLoadBalancerNodePorts": false,
            "loadBalancerSourceRanges": [format!("{near}/32")],
            "externalIPs": ["203.0.113.9"],
        });
        let made = self.service("balanced", spec).await.spec.expect("a spec");
        assert_eq!(made.ports.iter().flatten().filter_map(|port| port.node_port).count(), 0);
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } } });
        self.place.api::<Service>().patch_status("balanced", &PatchParams::default(), &Patch::Merge(status)).await.expect("a balancer");
        until("who may is answered", async || ANSWERS.contains(&&*self.answer("near", "203.0.113.7", 80).await)).await;
        assert_eq!(self.answer("far", "203.0.113.7", 80).await, "");
        until("an external address is nobody's secret", async || ANSWERS.contains(&&*self.answer("far", "203.0.113.9", 80).await)).await;

        // What asks nodes whether they have a pod of it.
        let local = json!({
            "type": "LoadBalancer",
            "loadBalancerClass": "test.ferrokube.dev/none",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31321,
            "selector": { "app": "host-port" },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        });
        self.service("asked", local).await;
        until("the node with a pod says so", async || health(self.nodes[0]).await == Some(200)).await;
        until("the other says so", async || health(self.nodes[1]).await == Some(503)).await;
    }

    async fn at_the_node(&self) {
        let node: IpAddr = self.nodes[0].into();
        until("the node's port answers", async || get(node, 18080).await.as_deref() == Some("host-port")).await;
        assert_eq!(get(self.nodes[1].into(), 18080).await, None);
        // Another for the same port has no place on this node.
        let wants = json!({ "ports": [{ "containerPort": 8080, "hostPort": 18080, "hostIP": self.nodes[0].to_string() }] });
        let spec = json!({ "nodeSelector": { "kubernetes.io/hostname": NODE }, "containers": [named("c", "exec sleep 1000", wants)] });
        self.place.create::<Pod>(pod("no-port", spec)).await;
        self.place.is_told("no-port", "FailedScheduling", "didn't have free ports for the requested pod ports").await;
    }
}

fn cluster_ip(address: &Option<String>) -> String {
    address.clone().filter(|address| address != "None").expect("a cluster IP")
}

fn node_port(spec: &k8s_openapi::api::core::v1::ServiceSpec) -> u16 {
    let port = spec.ports.iter().flatten().find_map(|port| port.node_port).expect("a node port");
    u16::try_from(port).expect("a port")
}

async fn outside(node: Ipv4Addr, port: u16) -> Option<String> {
    get(node.into(), port).await
}

/// The status of what a node says of the Service that is asked for.
async fn health(node: Ipv4Addr) -> Option<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let talk = async {
        let mut stream = tokio::net::TcpStream::connect((node, 31321)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split_whitespace().nth(1)?.parse().ok()
    };
    tokio::time::timeout(std::time::Duration::from_secs(3), talk).await.ok().flatten()
}
