//! Worlds by chance, always the same for the same seed: few names, so that things meet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Map, Value, json};

use super::model::{Labels, Packet, Pod, World};

/// Something is as it says now; nothing: it is gone.
#[derive(Clone, Debug)]
pub enum Event {
    Pod(ObjectKey, Option<Pod>),
    Namespace(String, Option<Labels>),
    Policy(ObjectKey, Option<Arc<NetworkPolicy>>),
}

/// Numbers by chance (SplitMix64).
pub struct Chance {
    state: u64,
    pods_made: u32,
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const ADDRESSES: [&str; 11] =
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "fd00::1", "fd00::2", "192.168.0.1", "10.0.1.255"];
const BLOCKS: [&str; 9] =
    ["0.0.0.0/0", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.5/32", "192.168.0.0/16", "::/0", "fd00::/127", "10.0.0.0/23"];
const EXCEPTIONS: [&str; 4] = ["10.0.0.2/31", "10.0.0.5/32", "fd00::1/128", "10.0.1.0/24"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const NAMES: [&str; 3] = ["http", "dns", "other"];
const PORTS: [u16; 5] = [53, 80, 81, 8080, 65535];

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance { state: seed, pods_made: 0 }
    }

    fn below(&mut self, sides: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).expect("it is below a number of this size")
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    fn of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len())]
    }

    fn address(&mut self) -> IpAddr {
        self.of(&ADDRESSES).parse().expect("an address")
    }

    fn labels(&mut self) -> Labels {
        let mut labels = BTreeMap::new();
        for key in ["app", "tier"] {
            if !self.one_in(3) {
                labels.insert(key.to_owned(), self.of(&["x", "y"]).to_owned());
            }
        }
        labels
    }

    fn selector(&mut self) -> Value {
        let key = self.of(&["app", "tier"]);
        match self.below(6) {
            0 | 1 => json!({}),
            2 => json!({"matchLabels": {key: self.of(&["x", "y"])}}),
            3 => json!({"matchExpressions": [{"key": key, "operator": self.of(&["Exists", "DoesNotExist"])}]}),
            4 => json!({"matchLabels": {"app": "x", "tier": "y"}}),
            _ => json!({"matchExpressions": [{"key": key, "operator": self.of(&["In", "NotIn"]), "values": ["x"]}]}),
        }
    }

    fn peer(&mut self) -> Value {
        match self.below(4) {
            0 => json!({"podSelector": self.selector()}),
            1 => json!({"namespaceSelector": self.selector()}),
            2 => json!({"namespaceSelector": self.selector(), "podSelector": self.selector()}),
            _ => {
                let except: Vec<&str> = (0..self.below(3)).map(|_| self.of(&EXCEPTIONS)).collect();
                json!({"ipBlock": {"cidr": self.of(&BLOCKS), "except": except}})
            }
        }
    }

    fn port(&mut self) -> Value {
        let mut port = Map::new();
        if !self.one_in(3) {
            port.insert("protocol".to_owned(), json!(self.of(&PROTOCOLS)));
        }
        match self.below(5) {
            0 => {}
            1 | 2 => drop(port.insert("port".to_owned(), json!(self.of(&NAMES)))),
            3 => drop(port.insert("port".to_owned(), json!(self.of(&PORTS)))),
            _ => {
                port.insert("port".to_owned(), json!(60));
                port.insert("endPort".to_owned(), json!(self.of(&[80u16, 8079, 65535])));
            }
        }
        Value::Object(port)
    }

    /// Absent, empty, or of a few.
    fn list(&mut self, name: &str, rule: &mut Map<String, Value>, one: fn(&mut Chance) -> Value) {
        let count = self.below(5);
        if count > 0 {
            let items: Vec<Value> = (1..count).map(|_| one(self)).collect();
            rule.insert(name.to_owned(), json!(items));
        }
    }

    fn rules(&mut self, peers: &str) -> Vec<Value> {
        let one = |chance: &mut Chance| {
            let mut rule = Map::new();
            chance.list(peers, &mut rule, Chance::peer);
            chance.list("ports", &mut rule, Chance::port);
            Value::Object(rule)
        };
        (0..self.below(3)).map(|_| one(self)).collect()
    }

    fn policy(&mut self, key: &ObjectKey) -> NetworkPolicy {
        let mut spec = Map::new();
        spec.insert("podSelector".to_owned(), self.selector());
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            if !self.one_in(3) {
                spec.insert(direction.to_owned(), json!(self.rules(peers)));
            }
        }
        let types: &[&[&str]] = &[&[], &[], &["Ingress"], &["Egress"], &["Ingress", "Egress"]];
        let types = self.of(types);
        if !types.is_empty() {
            spec.insert("policyTypes".to_owned(), json!(types));
        }
        let metadata = json!({"namespace": key.namespace, "name": key.name});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a policy")
    }

    fn pod(&mut self, key: &ObjectKey, known: Option<&Pod>) -> Pod {
        if let Some(known) = known.filter(|_| self.one_in(2)) {
            // The same pod, with something else about it.
            let mut pod = known.clone();
            match self.below(4) {
                0 | 1 => pod.labels = self.labels(),
                2 => pod.addresses = vec![self.address()],
                _ => pod.is_over = true,
            }
            return pod;
        }
        self.pods_made += 1;
        let mut addresses: Vec<IpAddr> = (0..self.below(3)).map(|_| self.address()).collect();
        addresses.dedup();
        let ports = (0..self.below(4)).map(|_| (self.of(&NAMES).to_owned(), self.of(&PROTOCOLS), self.of(&PORTS))).collect();
        Pod {
            namespace: key.namespace.clone(),
            labels: self.labels(),
            addresses,
            ports,
            is_local: self.one_in(2),
            is_host_network: self.one_in(12),
            is_over: self.one_in(12),
            created: self.pods_made,
        }
    }

    fn event(&mut self, world: &World) -> Event {
        let namespace = self.of(&NAMESPACES);
        let is_end = self.one_in(4);
        match self.below(7) {
            0 => {
                let labels = (!is_end).then(|| self.labels());
                Event::Namespace(namespace.to_owned(), labels)
            }
            1 | 2 => {
                let key = ObjectKey::new(namespace, self.of(&["p", "q"]));
                let policy = (!is_end).then(|| Arc::new(self.policy(&key)));
                Event::Policy(key, policy)
            }
            _ => {
                let key = ObjectKey::new(namespace, self.of(&["1", "2", "3", "4"]));
                let pod = (!is_end).then(|| self.pod(&key, world.pods.get(&key)));
                Event::Pod(key, pod)
            }
        }
    }

    /// What happens at once; no two things to the same object.
    pub fn events(&mut self, world: &World) -> Vec<Event> {
        let mut events = BTreeMap::new();
        for _ in 0..=self.below(4) {
            let event = self.event(world);
            let place = match &event {
                Event::Pod(key, _) => format!("pod {key}"),
                Event::Namespace(name, _) => format!("namespace {name}"),
                Event::Policy(key, _) => format!("policy {key}"),
            };
            events.insert(place, event);
        }
        events.into_values().collect()
    }

    pub fn packet(&mut self) -> Packet {
        let from = self.address();
        let mut to = self.address();
        while to.is_ipv4() != from.is_ipv4() {
            to = self.address();
        }
        let protocol = self.of(&["TCP", "TCP", "UDP", "SCTP", "ICMP"]);
        let port = (protocol != "ICMP").then(|| self.of(&PORTS));
        Packet { from, to, protocol, port }
    }
}
