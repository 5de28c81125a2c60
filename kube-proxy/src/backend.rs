//! Where a Service's traffic goes: the endpoints of each port, and which of them this node may use.
//!
//! Ready endpoints come first; if there is none, those that still serve while they terminate. Hints narrow the choice to the
//! node or the zone when every ready endpoint has one and one of them is for us.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::frontend::{Frontend, Protocol, port};
use crate::node::Node;
use netfilter::family::{Family, parse_ip};

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub is_local: bool,
    /// It takes new connections.
    pub ready: bool,
    /// It works, even if it is terminating.
    pub serving: bool,
    pub terminating: bool,
    pub zone_hints: Vec<String>,
    pub node_hints: Vec<String>,
}

/// The endpoints of a Service by the name and protocol of the port, in the order of their text.
pub type ByPort = BTreeMap<(String, Protocol), Vec<Endpoint>>;

/// Gathers the endpoints of one family from a Service's slices. One that is in two slices counts once.
pub fn endpoints(slices: &[Arc<EndpointSlice>], node: &Node, family: Family) -> ByPort {
    let mut found: BTreeMap<(String, Protocol), BTreeMap<String, Endpoint>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family.name()) {
        for slice_port in slice.ports.iter().flatten() {
            // A port without a name is one that no Service has; one without a number means all ports, which no rule can say.
            let (Some(name), Some(number)) = (&slice_port.name, slice_port.port.and_then(port)) else { continue };
            let Some(protocol) = Protocol::parse(slice_port.protocol.as_deref()) else { continue };
            let of_port = found.entry((name.clone(), protocol)).or_default();
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(ip) = endpoint.addresses.first().and_then(|text| parse_ip(text)) else { continue };
                let endpoint = observe(endpoint, SocketAddr::new(ip, number), node);
                match of_port.entry(endpoint.address.to_string()) {
                    Entry::Vacant(place) => {
                        place.insert(endpoint);
                    }
                    // An address is used again before the pod that had it is gone: the one that lives counts.
                    Entry::Occupied(mut place) if !endpoint.terminating => {
                        place.insert(endpoint);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
    }
    found.into_iter().map(|(port, endpoints)| (port, endpoints.into_values().collect())).collect()
}

fn observe(endpoint: &k8s_openapi::api::discovery::v1::Endpoint, address: SocketAddr, node: &Node) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    Endpoint {
        address,
        is_local: endpoint.node_name.as_ref().is_some_and(|name| *name == node.name && !name.is_empty()),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        zone_hints: hints.iter().flat_map(|h| h.for_zones.iter().flatten()).map(|zone| zone.name.clone()).collect(),
        node_hints: hints.iter().flat_map(|h| h.for_nodes.iter().flatten()).map(|node| node.name.clone()).collect(),
    }
}

/// The endpoints of one port, as this node may use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// For the traffic policy `Cluster`.
    pub cluster: Vec<SocketAddr>,
    /// For the traffic policy `Local`.
    pub local: Vec<SocketAddr>,
    /// Whether there is a usable endpoint anywhere, even if this node may not use it.
    pub any: bool,
    /// All that serve, whoever may use them; kept for UDP alone, where it says which flows may live on.
    pub serving: Vec<SocketAddr>,
    /// Those on this node that rules lead to: their own packets may come back to them.
    pub on_node: Vec<SocketAddr>,
    /// The addresses of this node's ready endpoints; kept for Services with a health check port alone.
    pub local_ready: Vec<IpAddr>,
}

impl Backends {
    /// Every endpoint that some rule of this node leads to, each once, those of `cluster` first.
    pub fn reachable(&self) -> impl Iterator<Item = SocketAddr> {
        let others = self.local.iter().filter(|address| self.cluster.binary_search_by(|c| order(c, address)).is_err());
        self.cluster.iter().chain(others).copied()
    }

    /// How many endpoints rules lead to.
    pub fn len(&self) -> usize {
        self.cluster.len().max(self.local.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The order of endpoints is that of their text, as upstream has it, so that rules come in the same order.
fn order(a: &SocketAddr, b: &SocketAddr) -> std::cmp::Ordering {
    a.to_string().cmp(&b.to_string())
}

/// Chooses among a port's endpoints.
pub fn choose(endpoints: &[Endpoint], frontend: &Frontend, node: &Node) -> Backends {
    let mut backends = Backends::default();
    let falling_back = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
    let addresses = |keep: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        endpoints.iter().filter(|endpoint| keep(endpoint)).map(|endpoint| endpoint.address).collect()
    };
    if frontend.uses_cluster_endpoints() {
        let topology = topology(endpoints, node);
        backends.cluster = addresses(&|endpoint| endpoint.ready && topology.allows(endpoint, node));
        if backends.cluster.is_empty() {
            backends.cluster = addresses(&falling_back);
        }
        backends.any = !backends.cluster.is_empty();
    }
    if frontend.uses_local_endpoints() {
        backends.any |= endpoints.iter().any(|endpoint| endpoint.ready || falling_back(endpoint));
        backends.local = addresses(&|endpoint| endpoint.is_local && endpoint.ready);
        if backends.local.is_empty() {
            backends.local = addresses(&|endpoint| endpoint.is_local && falling_back(endpoint));
        }
    }
    let is_used = |address: &SocketAddr| backends.cluster.contains(address) || backends.local.contains(address);
    backends.on_node = endpoints.iter().filter(|e| e.is_local).map(|e| e.address).filter(is_used).collect();
    if frontend.name.protocol == Protocol::Udp {
        backends.serving = addresses(&|endpoint| endpoint.serving);
    }
    if frontend.health_check_node_port.is_some() {
        backends.local_ready = endpoints.iter().filter(|e| e.is_local && e.ready).map(|e| e.address.ip()).collect();
    }
    backends
}

/// Which hints are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    Everywhere,
    SameZone,
    SameNode,
}

impl Topology {
    fn allows(self, endpoint: &Endpoint, node: &Node) -> bool {
        match self {
            Topology::Everywhere => true,
            Topology::SameZone => endpoint.zone_hints.contains(&node.zone),
            Topology::SameNode => endpoint.node_hints.contains(&node.name),
        }
    }
}

fn topology(endpoints: &[Endpoint], node: &Node) -> Topology {
    let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
    let followed = |hints: fn(&Endpoint) -> &Vec<String>, ours: &String| {
        ready().all(|endpoint| !hints(endpoint).is_empty()) && ready().any(|endpoint| hints(endpoint).contains(ours))
    };
    if followed(|endpoint| &endpoint.node_hints, &node.name) {
        Topology::SameNode
    } else if followed(|endpoint| &endpoint.zone_hints, &node.zone) {
        Topology::SameZone
    } else {
        Topology::Everywhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::frontends;
    use crate::testing::{service, slice};

    const CLUSTER: &str = r#"{"clusterIP":"10.0.0.1","ports":[{"port":80}]}"#;
    const INTERNAL_LOCAL: &str = r#"{"clusterIP":"10.0.0.1","internalTrafficPolicy":"Local","ports":[{"port":80}]}"#;
    const EXTERNAL_LOCAL: &str =
        r#"{"clusterIP":"10.0.0.1","type":"NodePort","externalTrafficPolicy":"Local","ports":[{"port":80,"nodePort":30000}]}"#;

    fn node() -> Node {
        Node { zone: "z1".to_owned(), ..Node::new("n1", None, "0.0.0.0") }
    }

    fn chosen(spec: &str, list: &str) -> (String, String, bool) {
        let frontend = frontends(&service(spec, "{}"), Family::V4).remove(0);
        let slices = [Arc::new(slice(r#"[{"name":"","port":8080,"protocol":"TCP"}]"#, list))];
        let by_port = endpoints(&slices, &node(), Family::V4);
        let found = by_port.get(&(String::new(), Protocol::Tcp)).cloned().unwrap_or_default();
        let backends = choose(&found, &frontend, &node());
        let text = |list: &[SocketAddr]| list.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>().join(" ");
        (text(&backends.cluster), text(&backends.local), backends.any)
    }

    fn expect(spec: &str, list: &str, cluster: &str, local: &str, any: bool) {
        assert_eq!(chosen(spec, list), (cluster.to_owned(), local.to_owned(), any), "{spec} {list}");
    }

    #[test]
    fn ready_endpoints_come_before_terminating_ones() {
        let ready = r#"{"addresses":["10.1.0.1"],"nodeName":"n1"}"#;
        let terminating = r#"{"addresses":["10.1.0.2"],"nodeName":"n1","conditions":{"ready":false,"serving":true,"terminating":true}}"#;
        let unready = r#"{"addresses":["10.1.0.3"],"nodeName":"n2","conditions":{"ready":false,"serving":false,"terminating":false}}"#;
        expect(CLUSTER, &format!("[{ready},{terminating},{unready}]"), "10.1.0.1", "", true);
        expect(CLUSTER, &format!("[{terminating},{unready}]"), "10.1.0.2", "", true);
        expect(CLUSTER, &format!("[{unready}]"), "", "", false);
        expect(EXTERNAL_LOCAL, &format!("[{terminating},{unready}]"), "10.1.0.2", "10.1.0.2", true);
    }

    #[test]
    fn the_policy_local_keeps_to_this_node() {
        let list = r#"[{"addresses":["10.1.0.1"],"nodeName":"n1"},{"addresses":["10.1.0.2"],"nodeName":"n2"}]"#;
        expect(INTERNAL_LOCAL, list, "", "10.1.0.1", true);
        expect(EXTERNAL_LOCAL, list, "10.1.0.1 10.1.0.2", "10.1.0.1", true);
        expect(INTERNAL_LOCAL, r#"[{"addresses":["10.1.0.2"],"nodeName":"n2"}]"#, "", "", true);
    }

    #[test]
    fn hints_are_followed_when_all_have_them_and_one_is_for_us() {
        let zone = |ip: &str, zone: &str| format!(r#"{{"addresses":["{ip}"],"hints":{{"forZones":[{{"name":"{zone}"}}]}}}}"#);
        let node = |ip: &str, node: &str| {
            format!(r#"{{"addresses":["{ip}"],"hints":{{"forZones":[{{"name":"z1"}}],"forNodes":[{{"name":"{node}"}}]}}}}"#)
        };
        expect(CLUSTER, &format!("[{},{}]", zone("10.1.0.1", "z1"), zone("10.1.0.2", "z2")), "10.1.0.1", "", true);
        expect(CLUSTER, &format!("[{},{}]", zone("10.1.0.1", "z3"), zone("10.1.0.2", "z2")), "10.1.0.1 10.1.0.2", "", true);
        expect(CLUSTER, &format!("[{},{}]", zone("10.1.0.1", "z1"), r#"{"addresses":["10.1.0.2"]}"#), "10.1.0.1 10.1.0.2", "", true);
        expect(CLUSTER, &format!("[{},{}]", node("10.1.0.1", "n1"), node("10.1.0.2", "n2")), "10.1.0.1", "", true);
        expect(CLUSTER, &format!("[{},{}]", node("10.1.0.1", "n3"), node("10.1.0.2", "n2")), "10.1.0.1 10.1.0.2", "", true);
    }

    #[test]
    fn an_address_that_is_used_again_belongs_to_who_lives() {
        let old = r#"{"addresses":["10.1.0.1"],"conditions":{"ready":false,"serving":true,"terminating":true}}"#;
        let new = r#"{"addresses":["10.1.0.1"],"conditions":{"ready":true}}"#;
        expect(CLUSTER, &format!("[{new},{old}]"), "10.1.0.1", "", true);
        expect(CLUSTER, &format!("[{old},{new}]"), "10.1.0.1", "", true);
    }

    #[test]
    fn endpoints_that_only_one_policy_knows_are_reachable_once() {
        let address = |last: u8| SocketAddr::from(([10, 1, 0, last], 80));
        let backends = Backends { cluster: vec![address(10), address(2)], local: vec![address(2), address(3)], ..Backends::default() };
        assert_eq!(backends.reachable().collect::<Vec<_>>(), [address(10), address(2), address(3)]);
    }
}
