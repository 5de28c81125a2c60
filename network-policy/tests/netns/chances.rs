//! Worlds by chance with real packets: what the kernel lets through is what the model says.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use client::{ObjectKey, Shutdown};
use network_policy::pod::Pod;
use network_policy::{Gate, Sources, run_from};
use serde_json::{Value, json};

use crate::chance::{Chance, Event};
use crate::host::{Peer, on_a_host, peer};
use crate::model::{NODE, Packet, World};

const WORLDS: u64 = 8;
const STEPS: usize = 12;
/// So much happens before somebody looks again.
const CHANGES: usize = 5;
const PACKETS: usize = 40;

/// A connection that is let through is there at once; what seems to be dropped is tried again with more patience if it should not be.
const PATIENCE: Duration = Duration::from_millis(40);
const MORE_PATIENCE: Duration = Duration::from_secs(2);

const PORTS: [u16; 5] = [53, 80, 81, 8080, 65535];

/// Those of the addresses that worlds know which somebody answers at.
const PEERS: [[&str; 2]; 5] =
    [["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"], ["10.0.0.3", "fd00:9::3"], ["10.0.0.5", "fd00:9::5"], ["192.168.0.1", "fd00:9::f"]];

struct Network {
    peers: Vec<(Vec<IpAddr>, Peer)>,
}

impl Network {
    fn new() -> Network {
        let peers = PEERS.iter().zip(["p1", "p2", "p3", "p5", "p9"]).map(|(addresses, name)| {
            let peer = peer(name, *addresses, ["10.0.0.254", "fd00:9::fe"]);
            for port in PORTS {
                peer.serve(name, port);
                peer.serve_udp(name, port);
            }
            (addresses.iter().map(|address| address.parse().expect("an address")).collect(), peer)
        });
        Network { peers: peers.collect() }
    }

    fn at(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.iter().find(|(addresses, _)| addresses.contains(&address)).map(|(_, peer)| peer)
    }

    /// Whether both ends are there, and speak the protocol.
    fn can_be_tried(&self, packet: &Packet) -> bool {
        let is_spoken = packet.protocol == "TCP" || packet.protocol == "UDP" && packet.to.is_ipv4();
        is_spoken && packet.from != packet.to && self.at(packet.from).is_some() && self.at(packet.to).is_some()
    }

    fn lets_through(&self, packet: &Packet, patience: Duration) -> bool {
        let (Some(from), Some(port)) = (self.at(packet.from), packet.port) else { return false };
        let to = SocketAddr::new(packet.to, port);
        from.namespace.run(|| {
            if packet.protocol == "TCP" {
                return TcpStream::connect_timeout(&to, patience).is_ok();
            }
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            socket.set_read_timeout(Some(patience)).expect("a time");
            socket.connect(to).is_ok() && socket.send(b"?").is_ok() && socket.recv(&mut [0; 16]).is_ok()
        })
    }
}

fn named<T: serde::de::DeserializeOwned>(mut object: Value, name: &str) -> T {
    object["metadata"]["name"] = json!(name);
    serde_json::from_value(object).expect("an object")
}

fn tell(sources: &Sources, event: &Event) {
    match event {
        Event::Pod(key, Some(pod)) => sources.pods.apply(named(pod.object(), &key.name)),
        Event::Pod(key, None) => sources.pods.remove(key),
        Event::Namespace(name, Some(labels)) => sources.namespaces.apply(named(json!({"metadata": {"labels": labels}}), name)),
        Event::Namespace(name, None) => sources.namespaces.remove(&ObjectKey::new("", name)),
        Event::Policy(_, Some(policy)) => sources.policies.apply((**policy).clone()),
        Event::Policy(key, None) => sources.policies.remove(key),
    }
}

/// Everything that was told before is in force when somebody in a namespace of his own may pass.
fn wait_until_in_force(gate: &Gate) {
    let pod = Pod {
        namespace: "barrier".to_owned(),
        labels: [].into(),
        addresses: vec![IpAddr::from([10, 99, 0, 1])],
        ports: Vec::new(),
        is_local: true,
        created: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(gate.pass(ObjectKey::new("barrier", "barrier"), "barrier", pod)).expect("it passes");
}

#[test]
#[ignore = "needs root"]
fn the_kernel_lets_through_what_the_model_allows() {
    on_a_host(|| {
        let network = Network::new();
        // A new address of the younger family is not used before it has been found to be nobody else's.
        for [from, to] in [["fd00::1", "fd00::2"], ["fd00::2", "fd00::1"]].map(|pair| pair.map(|text| text.parse().expect("an address"))) {
            let packet = Packet { from, to, protocol: "TCP", port: Some(80) };
            crate::cluster::eventually("the network is there", || network.lets_through(&packet, PATIENCE));
        }
        let (mut passed, mut dropped) = (0, 0);
        for seed in 0..WORLDS {
            let (sources, shutdown) = (Sources::default(), Shutdown::new());
            sources.policies.mark_synced();
            sources.pods.mark_synced();
            sources.namespaces.mark_synced();
            sources.stand_ins.mark_synced();
            let (gate, keeper) = Gate::new();
            let (theirs, end) = (sources.clone(), shutdown.clone());
            let agent = thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(run_from(theirs, NODE, keeper, end));
            });
            let (mut chance, mut world) = (Chance::new(seed), World::default());
            for step in 0..STEPS {
                for _ in 0..CHANGES {
                    for event in chance.events(&world) {
                        tell(&sources, &event);
                        world.take(&event);
                    }
                }
                wait_until_in_force(&gate);
                let packets = std::iter::repeat_with(|| chance.packet()).take(PACKETS * 4).filter(|packet| network.can_be_tried(packet));
                for packet in packets.take(PACKETS) {
                    let allowed = world.allows(&packet);
                    let passes = network.lets_through(&packet, PATIENCE) || allowed && network.lets_through(&packet, MORE_PATIENCE);
                    assert_eq!(passes, allowed, "world {seed}, step {step}: {packet:?}\n{world:#?}");
                    *if allowed { &mut passed } else { &mut dropped } += 1;
                }
            }
            shutdown.cancel();
            agent.join().expect("the agent ends well");
        }
        crate::cluster::tell(&format!("{passed} connections were let through, {dropped} were not"));
        assert!(passed > 1000 && dropped > 200, "{passed} passed, {dropped} dropped");
    });
}
