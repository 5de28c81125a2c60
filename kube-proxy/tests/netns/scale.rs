//! Ten thousand Services with a hundred thousand endpoints: how long all rules take, and how long one change. Run with
//! `cargo test -p kube-proxy --test netns scale -- --ignored --nocapture`.

use std::time::Duration;

use client::Shutdown;
use serde_json::{Value, json};

use crate::cluster::{self, Mode, configuration, eventually, get_local, sources, tell};
use crate::host::on_a_host;

const SERVICES: u32 = 10_000;
const ENDPOINTS_EACH: u32 = 10;

fn ip(base: u8, number: u32) -> String {
    format!("10.{}.{}.{}", u32::from(base) + (number >> 16), number >> 8 & 255, number & 255)
}

fn service(number: u32) -> Value {
    json!({"metadata": {"namespace": "default", "name": format!("s{number}")},
        "spec": {"clusterIP": ip(96, number), "ports": [{"name": "http", "port": 80}]}})
}

fn slice(number: u32, endpoints: u32) -> Value {
    let endpoints: Vec<Value> =
        (0..endpoints).map(|n| json!({"addresses": [ip(128, number * ENDPOINTS_EACH + n)], "nodeName": format!("node-{n}")})).collect();
    json!({"addressType": "IPv4", "metadata": {"namespace": "default", "name": format!("s{number}-1"),
            "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

/// How often a sync of this kind has succeeded, and how many seconds all of them took.
fn syncs(kind: &str) -> (f64, f64) {
    let text = get_local(10249, "/metrics").unwrap_or_default();
    let value = |what: &str| {
        let name = format!("kubeproxy_sync_{kind}_proxy_rules_duration_seconds_{what}{{ip_family=\"IPv4\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0.0)
    };
    (value("count"), value("sum"))
}

fn measure(mode: Mode, services: u32) {
    let sources = sources();
    for number in 0..services {
        sources.services.apply(serde_json::from_value(service(number)).expect("a Service"));
        sources.slices.apply(serde_json::from_value(slice(number, ENDPOINTS_EACH)).expect("a slice"));
    }
    let mut config = configuration(mode);
    config.iptables.sync_period = kube_proxy::config::Period::from_secs(3600);
    config.nftables.sync_period = kube_proxy::config::Period::from_secs(3600);
    let shutdown = Shutdown::new();
    let proxy = cluster::start(sources.clone(), config, shutdown.clone());
    sources.services.mark_synced();
    sources.slices.mark_synced();
    sources.service_cidrs.mark_synced();
    let patience = std::time::Instant::now();
    while syncs("full").0 < 1.0 {
        assert!(patience.elapsed() < Duration::from_secs(300), "no full sync");
        std::thread::sleep(Duration::from_millis(50));
    }
    let full = syncs("full").1;
    const CHANGES: u32 = 10;
    for change in 0..CHANGES {
        let before = syncs("partial").0;
        if change % 2 == 0 {
            sources.slices.apply(serde_json::from_value(slice(change, ENDPOINTS_EACH - 1)).expect("a slice"));
        } else {
            sources.services.apply(serde_json::from_value(service(services + change)).expect("a Service"));
        }
        eventually("the change is written", || syncs("partial").0 > before);
    }
    let (count, sum) = syncs("partial");
    tell(&format!(
        "{mode:?}: {services} services, {} endpoints: first sync {full:.2} s, a change {:.1} ms",
        services * ENDPOINTS_EACH,
        sum / count * 1000.0
    ));
    shutdown.cancel();
    proxy.join().expect("kube-proxy ends well");
}

#[test]
#[ignore = "takes minutes; for measuring"]
fn nftables_with_ten_thousand_services() {
    on_a_host(|| measure(Mode::Nftables, SERVICES));
}

#[test]
#[ignore = "takes minutes; for measuring"]
fn iptables_with_ten_thousand_services() {
    on_a_host(|| measure(Mode::Iptables, SERVICES));
}

#[test]
#[ignore = "needs root"]
fn a_thousand_services_are_no_burden() {
    on_a_host(|| measure(Mode::Nftables, SERVICES / 10));
}
