//! A cluster of objects that no API server has, and kube-proxy at work on one of its nodes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use client::events::Recorder;
use client::{Informer, ObjectKey, Shutdown};
use k8s_openapi::api::core::v1::Node;
use kube_proxy::command::Runner;
use kube_proxy::config::{Config, Period};
use kube_proxy::{Sources, run_from};
use serde_json::{Value, json};

use crate::host::{Peer, TO_NEIGHBOURS, TO_NEIGHBOURS_6, TO_PODS, TO_PODS_6, host_ip, ip, peer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Nftables,
}

/// How often kube-proxy looks whether its rules are still there.
const SYNC_PERIOD: Duration = Duration::from_millis(300);

pub struct Cluster {
    sources: Sources,
    shutdown: Shutdown,
    proxy: Option<thread::JoinHandle<()>>,
    /// Pods of this node. They answer on port 8080 with their names.
    pub one: Peer,
    pub two: Peer,
    /// Somebody outside of the cluster, who sends everything through this host.
    pub neighbour: Peer,
}

fn object<K: client::Object>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's object is well formed")
}

pub fn sources() -> Sources {
    let sources = Sources {
        services: Informer::detached(),
        slices: Informer::detached(),
        nodes: Informer::detached(),
        service_cidrs: Informer::detached(),
    };
    sources.nodes.apply(object::<Node>(json!({"metadata": {"name": "node-1"}, "spec": {"podCIDR": "10.244.1.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": host_ip().to_string()}, {"type": "InternalIP", "address": TO_NEIGHBOURS_6}]}})));
    sources.nodes.mark_synced();
    sources
}

pub fn configuration(mode: Mode) -> Config {
    let mut config = Config::defaulted();
    config.mode = Some(match mode {
        Mode::Iptables => kube_proxy::config::Mode::Iptables,
        Mode::Nftables => kube_proxy::config::Mode::Nftables,
    });
    config.default_fields();
    config.cluster_cidr = "10.244.0.0/16,fd00:1::/64".to_owned();
    config.iptables.sync_period = Period(SYNC_PERIOD);
    config.nftables.sync_period = Period(SYNC_PERIOD);
    config
}

/// kube-proxy on a thread of the host, which is the calling thread's namespace.
pub fn start(sources: Sources, config: Config, shutdown: Shutdown) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (recorder, _events) = Recorder::recording();
        runtime.block_on(run_from(sources, "node-1", config, recorder, Runner::default(), shutdown)).expect("kube-proxy runs");
    })
}

impl Cluster {
    pub fn start(mode: Mode) -> Cluster {
        let one = peer("one", ["10.244.1.1", "fd00:1::1"], [TO_PODS, TO_PODS_6]);
        let two = peer("two", ["10.244.1.2", "fd00:1::2"], [TO_PODS, TO_PODS_6]);
        let neighbour = peer("neighbour", ["192.168.50.2", "fd00:50::2"], [TO_NEIGHBOURS, TO_NEIGHBOURS_6]);
        // Without a way to everywhere, packets to a cluster IP would not even leave the sender.
        ip("route add default via 192.168.50.2 dev neighbour onlink");
        ip("-6 route add default via fd00:50::2 dev neighbour onlink");
        one.serve("one", 8080);
        two.serve("two", 8080);
        let sources = sources();
        let shutdown = Shutdown::new();
        sources.services.mark_synced();
        sources.slices.mark_synced();
        sources.service_cidrs.mark_synced();
        let proxy = Some(start(sources.clone(), configuration(mode), shutdown.clone()));
        Cluster { sources, shutdown, proxy, one, two, neighbour }
    }

    /// kube-proxy ends, and another one starts in this mode.
    pub fn restart(mut self, mode: Mode) -> Cluster {
        self.stop();
        self.shutdown = Shutdown::new();
        self.proxy = Some(start(self.sources.clone(), configuration(mode), self.shutdown.clone()));
        self
    }

    fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(proxy) = self.proxy.take()
            && proxy.join().is_err()
            && !thread::panicking()
        {
            panic!("kube-proxy has failed");
        }
    }

    pub fn service(&self, name: &str, spec: &str, status: &str) {
        let (spec, status): (Value, Value) = (serde_json::from_str(spec).expect("a spec"), serde_json::from_str(status).expect("a status"));
        self.sources.services.apply(object(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status})));
    }

    pub fn remove_service(&self, name: &str) {
        self.sources.services.remove(&ObjectKey::new("default", name));
    }

    pub fn endpoints(&self, service: &str, port_name: &str, port: u16, endpoints: &[(&str, &str)]) {
        self.slice(service, "IPv4", port_name, port, "TCP", endpoints);
    }

    pub fn udp_endpoints(&self, service: &str, port_name: &str, port: u16, endpoints: &[(&str, &str)]) {
        self.slice(service, "IPv4", port_name, port, "UDP", endpoints);
    }

    pub fn endpoints_6(&self, service: &str, port_name: &str, port: u16, endpoints: &[(&str, &str)]) {
        self.slice(service, "IPv6", port_name, port, "TCP", endpoints);
    }

    fn slice(&self, service: &str, family: &str, port_name: &str, port: u16, protocol: &str, endpoints: &[(&str, &str)]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, node)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        self.sources.slices.apply(object(json!({"addressType": family,
            "metadata": {"namespace": "default", "name": format!("{service}-{}", family.to_lowercase()), "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": port_name, "port": port, "protocol": protocol}], "endpoints": endpoints})));
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

/// Whether somebody listens at the address; refusals and silence come back soon.
pub fn connect(address: &str) -> std::io::Result<()> {
    let address: SocketAddr = address.parse().expect("an address");
    TcpStream::connect_timeout(&address, Duration::from_millis(5)).map(|_| ())
}

/// The answer to a request to the host, head and body.
pub fn get(port: u16, path: &str) -> Option<String> {
    get_from(SocketAddr::new(host_ip(), port), path)
}

/// The answer to a request of the host to itself.
pub fn get_local(port: u16, path: &str) -> Option<String> {
    get_from(SocketAddr::from(([127, 0, 0, 1], port)), path)
}

fn get_from(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(400)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Tells whoever runs the tests with `--nocapture`.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
