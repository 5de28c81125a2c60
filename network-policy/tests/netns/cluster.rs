//! A cluster of objects that no API server has, and policies enforced on one of its nodes.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use client::{ObjectKey, Shutdown};
use k8s_openapi::api::core::v1::Pod;
use network_policy::{Gate, Sources, pod, run_from};
use serde_json::{Value, json};

use crate::host::{Peer, TO_NEIGHBOURS, TO_NEIGHBOURS_6, TO_PODS, TO_PODS_6, peer};

pub struct Cluster {
    sources: Sources,
    shutdown: Shutdown,
    gate: Gate,
    agent: Option<thread::JoinHandle<()>>,
    /// Pods of this node. They answer on port 8080, which they call http, with their names.
    pub one: Peer,
    pub two: Peer,
    /// Somebody outside of the cluster, who sends everything through this node.
    pub neighbour: Peer,
}

/// The agent on a thread of the host, which is the calling thread's namespace.
fn start(sources: Sources, shutdown: Shutdown) -> (Gate, thread::JoinHandle<()>) {
    let (gate, keeper) = Gate::new();
    let agent = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run_from(sources, "node-1", keeper, shutdown));
    });
    (gate, agent)
}

fn object(name: &str, app: &str, ips: &[&str], port_name: &str, port: u16) -> Value {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": app}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "ports": [{"name": port_name, "containerPort": port}]}]},
        "status": {"phase": "Running", "podIPs": ips},
    })
}

impl Cluster {
    pub fn start() -> Cluster {
        let one = peer("one", ["10.244.1.1", "fd00:1::1"], [TO_PODS, TO_PODS_6]);
        let two = peer("two", ["10.244.1.2", "fd00:1::2"], [TO_PODS, TO_PODS_6]);
        let neighbour = peer("neighbour", ["192.168.50.2", "fd00:50::2"], [TO_NEIGHBOURS, TO_NEIGHBOURS_6]);
        one.serve("one", 8080);
        two.serve("two", 8080);
        let sources = Sources::default();
        sources.namespaces.apply(serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("a namespace"));
        sources.policies.mark_synced();
        sources.pods.mark_synced();
        sources.namespaces.mark_synced();
        sources.stand_ins.mark_synced();
        let shutdown = Shutdown::new();
        let (gate, agent) = start(sources.clone(), shutdown.clone());
        let cluster = Cluster { sources, shutdown, gate, agent: Some(agent), one, two, neighbour };
        // From here on the kernel knows of connections.
        assert!(cluster.pass_gate("first", "10.244.1.9"));
        cluster.pod("one", "one", "10.244.1.1", "fd00:1::1");
        cluster.pod("two", "two", "10.244.1.2", "fd00:1::2");
        cluster
    }

    /// The agent ends, and another one starts.
    pub fn restart(self) -> Cluster {
        self.restart_without("")
    }

    /// The same, and meanwhile a policy goes.
    pub fn restart_without(mut self, policy: &str) -> Cluster {
        self.stop();
        self.remove_policy(policy);
        self.shutdown = Shutdown::new();
        let (gate, agent) = start(self.sources.clone(), self.shutdown.clone());
        (self.gate, self.agent) = (gate, Some(agent));
        self
    }

    fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(agent) = self.agent.take()
            && agent.join().is_err()
            && !thread::panicking()
        {
            panic!("the agent has failed");
        }
    }

    pub fn pod(&self, name: &str, app: &str, address: &str, address6: &str) {
        self.named_pod(name, app, address, address6, "http", 8080);
    }

    pub fn named_pod(&self, name: &str, app: &str, address: &str, address6: &str, port_name: &str, port: u16) {
        let object = object(name, app, &[address, address6], port_name, port);
        self.sources.pods.apply(serde_json::from_value(object).expect("a pod"));
    }

    pub fn remove_pod(&self, name: &str) {
        self.sources.pods.remove(&ObjectKey::new("default", name));
    }

    pub fn policy(&self, name: &str, spec: &Value) {
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        self.sources.policies.apply(serde_json::from_value(object).expect("a policy"));
    }

    pub fn remove_policy(&self, name: &str) {
        self.sources.policies.remove(&ObjectKey::new("default", name));
    }

    /// A pod whose label `app` is its name asks whether it may start.
    pub fn pass_gate(&self, name: &str, address: &str) -> bool {
        let object: Pod = serde_json::from_value(object(name, name, &[], "http", 8080)).expect("a pod");
        let starting = pod::starting(&object, &[address.to_owned()]).expect("it has an address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.gate.pass(ObjectKey::new("default", name), name, starting)).is_ok()
    }

    /// Whether `two` gets through to `one` within a moment.
    pub fn connects_soon(&self) -> bool {
        let address: SocketAddr = "10.244.1.1:8080".parse().expect("an address");
        self.two.namespace.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(5)).is_ok())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for what must come true within a few seconds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Tells whoever runs the tests with `--nocapture`.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
