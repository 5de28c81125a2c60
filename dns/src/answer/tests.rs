//! Questions and answers, in the form in which `dig +short` has them.

use client::Informer;
use serde_json::json;

use super::*;

/// A cluster with one Service of each kind.
fn view() -> View {
    let (services, slices, namespaces) = (Informer::detached(), Informer::detached(), Informer::detached());
    for namespace in ["default", "kube-system"] {
        namespaces.apply(serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap());
    }
    for (name, spec) in [
        (
            "web",
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
        ("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]})),
        ("empty", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        ("portless", json!({"clusterIP": "None"})),
        ("outside", json!({"type": "ExternalName", "externalName": "example.com"})),
    ] {
        services.apply(serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap());
    }
    for (service, ports, endpoints) in [
        (
            "db",
            json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]),
            json!([{"addresses": ["10.1.0.1"], "hostname": "db-0"}, {"addresses": ["10.1.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.1.0.3"], "conditions": {"ready": false}}]),
        ),
        ("portless", json!([]), json!([{"addresses": ["10.1.0.9"]}])),
        ("web", json!([{"name": "http", "port": 8080, "protocol": "TCP"}]), json!([{"addresses": ["10.1.0.5"]}])),
    ] {
        let object = json!({"addressType": "IPv4", "metadata": {"namespace": "default", "name": format!("{service}-x"),
            "labels": {"kubernetes.io/service-name": service}}, "ports": ports, "endpoints": endpoints});
        slices.apply(serde_json::from_value(object).unwrap());
    }
    View::new(services, slices, namespaces)
}

fn ask(name: &str, kind: RecordType) -> String {
    let zone = Zone::new("cluster.local", 5).unwrap();
    let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.cluster.local.") };
    match answer(&Name::from_ascii(name).unwrap(), kind, &view(), &zone, 7) {
        Answer::Found { answers, additionals } => {
            let text = |records: &[Record]| records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(", ");
            if additionals.is_empty() { text(&answers) } else { format!("{} + {}", text(&answers), text(&additionals)) }
        }
        Answer::NoData => "NODATA".to_owned(),
        Answer::NxDomain => "NXDOMAIN".to_owned(),
        Answer::Alias { target, .. } => format!("-> {target}"),
        Answer::Elsewhere => "elsewhere".to_owned(),
    }
}

#[track_caller]
fn expect(name: &str, kind: RecordType, expected: &str) {
    assert_eq!(ask(name, kind), expected, "{name} {kind}");
}

#[test]
fn services_have_their_cluster_ips() {
    expect("web.default.svc", RecordType::A, "10.96.0.1");
    expect("WEB.default.svc", RecordType::AAAA, "fd00::1");
    expect("web.default.svc", RecordType::MX, "NODATA");
    expect("no.default.svc", RecordType::A, "NXDOMAIN");
    expect("web.no.svc", RecordType::A, "NXDOMAIN");
    expect("_http._tcp.web.default.svc", RecordType::A, "10.96.0.1");
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    expect("db.default.svc", RecordType::A, "10.1.0.1, 10.1.0.2");
    expect("db.default.svc", RecordType::AAAA, "NODATA");
    expect("db-0.db.default.svc", RecordType::A, "10.1.0.1");
    expect("10-1-0-2.db.default.svc", RecordType::A, "10.1.0.2");
    expect("10-1-0-3.db.default.svc", RecordType::A, "NXDOMAIN");
    expect("empty.default.svc", RecordType::A, "NXDOMAIN");
    expect("portless.default.svc", RecordType::A, "10.1.0.9");
    expect("10-1-0-5.web.default.svc", RecordType::A, "10.1.0.5");
}

#[test]
fn named_ports_have_services_records() {
    expect("_http._tcp.web.default.svc", RecordType::SRV, "0 100 80 web.default.svc.cluster.local. + 10.96.0.1, fd00::1");
    expect("_dns._udp.web.default.svc", RecordType::SRV, "0 100 53 web.default.svc.cluster.local. + 10.96.0.1, fd00::1");
    expect("_dns._tcp.web.default.svc", RecordType::SRV, "NXDOMAIN");
    expect(
        "_sql._tcp.db.default.svc",
        RecordType::SRV,
        "0 50 5432 db-0.db.default.svc.cluster.local., 0 50 5432 10-1-0-2.db.default.svc.cluster.local. + 10.1.0.1, 10.1.0.2",
    );
}

#[test]
fn external_names_are_aliases() {
    expect("outside.default.svc", RecordType::CNAME, "example.com.");
    expect("outside.default.svc", RecordType::A, "-> example.com.");
    expect("outside.default.svc", RecordType::SRV, "NODATA");
}

#[test]
fn pods_have_the_addresses_that_they_are_named_after() {
    expect("10-1-2-3.default.pod", RecordType::A, "10.1.2.3");
    expect("10-1-2-3.default.pod", RecordType::AAAA, "NODATA");
    expect("10-1-2-3.no.pod", RecordType::A, "NXDOMAIN");
    expect("x.default.pod", RecordType::A, "NXDOMAIN");
}

#[test]
fn addresses_have_names() {
    expect("1.0.96.10.in-addr.arpa.", RecordType::PTR, "web.default.svc.cluster.local.");
    expect("1.0.1.10.in-addr.arpa.", RecordType::PTR, "db-0.db.default.svc.cluster.local.");
    expect("2.0.1.10.in-addr.arpa.", RecordType::PTR, "10-1-0-2.db.default.svc.cluster.local.");
    expect("2.0.1.10.in-addr.arpa.", RecordType::A, "NODATA");
    expect("8.8.8.8.in-addr.arpa.", RecordType::PTR, "elsewhere");
}

#[test]
fn the_zone_itself_has_records() {
    expect("dns-version", RecordType::TXT, "1.1.0");
    expect("dns-version", RecordType::A, "NODATA");
    expect("cluster.local.", RecordType::SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5");
    expect("cluster.local.", RecordType::NS, "ns.dns.cluster.local.");
    expect("cluster.local.", RecordType::A, "NODATA");
    expect("svc", RecordType::A, "NODATA");
    expect("default.svc", RecordType::A, "NODATA");
    expect("no.svc", RecordType::A, "NXDOMAIN");
    expect("no", RecordType::A, "NXDOMAIN");
    expect("example.com.", RecordType::A, "elsewhere");
}
