//! How long changes take to be worked out in a cluster of 10,000 pods and 1,000 policies, and how much of the table they touch:
//! `cargo run --release -p network-policy --example scale`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use client::ObjectKey;
use network_policy::engine::{Change, Difference, Engine};
use network_policy::pod::{NamedPort, Pod};
use network_policy::policy::{Policy, TCP};
use serde_json::json;

const PODS: u32 = 10_000;
const POLICIES: u32 = 1_000;
const NAMESPACES: u32 = 50;
const APPS: u32 = 20;
/// So many pods a node has.
const LOCAL: u32 = 110;
const ROUNDS: u32 = 1_000;

fn namespace(number: u32) -> String {
    format!("ns-{}", number % NAMESPACES)
}

fn pod(number: u32, app: u32) -> Change {
    let labels = BTreeMap::from([("app".to_owned(), format!("app-{}", app % APPS)), ("tier".to_owned(), format!("tier-{}", app % 3))]);
    let pod = Pod {
        namespace: namespace(number),
        labels,
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))],
        ports: vec![NamedPort { protocol: TCP, name: "http".to_owned(), number: 8080 }],
        is_local: number < LOCAL,
        created: number.into(),
    };
    Change::Pod(ObjectKey::new(&namespace(number), &format!("pod-{number}")), Some(pod))
}

/// An application is reached by another one of its namespace, by a tier of others, and by a network outside.
fn policy(number: u32, port: u32) -> Change {
    let app = number / NAMESPACES;
    let object = json!({"metadata": {"namespace": namespace(number), "name": format!("policy-{number}")}, "spec": {
        "podSelector": {"matchLabels": {"app": format!("app-{}", app % APPS)}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [
            {"podSelector": {"matchLabels": {"app": format!("app-{}", (app + 1) % APPS)}}},
            {"namespaceSelector": {"matchLabels": {"team": format!("team-{}", number % 10)}}, "podSelector": {"matchLabels": {"tier": format!("tier-{}", app % 3)}}},
            {"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.7.0/24"]}}],
            "ports": [{"port": "http"}, {"port": port, "endPort": 9010}]}],
        "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}]}});
    let policy = serde_json::from_value(object).expect("a policy");
    Change::Policy(ObjectKey::new(&namespace(number), &format!("policy-{number}")), Some(Policy::of(&policy)))
}

fn touched(difference: &Difference) -> usize {
    let elements = difference.added.values().chain(difference.removed.values()).map(Vec::len).sum::<usize>();
    elements + difference.isolation.len() + difference.new_chains.len() + difference.new_sets.len()
}

struct Measured {
    took: Vec<Duration>,
    touched: Vec<usize>,
}

fn measure(engine: &mut Engine, change: impl Fn(u32) -> Change) -> Measured {
    let mut measured = Measured { took: Vec::new(), touched: Vec::new() };
    for round in 0..ROUNDS {
        let change = change(round);
        let start = Instant::now();
        let difference = engine.update(vec![change]);
        measured.took.push(start.elapsed());
        measured.touched.push(touched(&difference));
    }
    measured.took.sort();
    measured.touched.sort_unstable();
    measured
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let mut engine = Engine::default();
    let mut changes: Vec<Change> = (0..NAMESPACES)
        .map(|number| Change::Namespace(namespace(number), Some(BTreeMap::from([("team".to_owned(), format!("team-{}", number % 10))]))))
        .collect();
    changes.extend((0..PODS).map(|number| pod(number, number / NAMESPACES)));
    changes.extend((0..POLICIES).map(|number| policy(number, 9000)));
    let start = Instant::now();
    engine.update(changes);
    let (chains, sets, elements) = engine.size();
    writeln!(
        out,
        "{PODS} pods ({LOCAL} local), {POLICIES} policies: {chains} chains, {sets} sets, {elements} elements in {:?}",
        start.elapsed()
    )?;
    let mut tell = |what: &str, measured: &Measured| {
        let middle = measured.took.len() / 2;
        let (median, worst) = (measured.took[middle], measured.took[measured.took.len() - 1]);
        let (usual, most) = (measured.touched[middle], measured.touched[measured.touched.len() - 1]);
        writeln!(out, "{what}: {median:?} (worst {worst:?}), {usual} items of the table (most {most})")
    };
    tell("a policy of local pods changes", &measure(&mut engine, |round| policy(round % LOCAL, 8000 + round)))?;
    let relabelled = measure(&mut engine, |round| pod(LOCAL + round % (PODS - LOCAL), round));
    tell("another node's pod gets other labels", &relabelled)?;
    tell("a local pod gets other labels", &measure(&mut engine, |round| pod(round % LOCAL, round)))?;
    let moved = |round: u32| Change::Pod(ObjectKey::new(&namespace(LOCAL + round), &format!("pod-{}", LOCAL + round)), None);
    tell("another node's pod goes", &measure(&mut engine, moved))
}
