//! The rules that Services become, as text.

use std::sync::Arc;

use super::plan::{self, Present};
use crate::family::{Cidr, Family, parse_cidr};
use crate::node::{LocalDetector, Node, NodePortAddresses};
use crate::ruleset::{Ruleset, ruleset};
use crate::settings::Settings;
use crate::testing::{service, slice};

fn settings() -> Settings {
    Settings {
        family: Family::V4,
        masquerade_all: false,
        masquerade_mark: 0x4000,
        local: LocalDetector::Source(parse_cidr("10.0.0.0/8").unwrap()),
        node_ip: "192.168.0.2".parse().unwrap(),
        node_port_addresses: NodePortAddresses::All,
        addresses: Vec::new(),
        localhost_node_ports: false,
        conntrack_is_liberal: true,
        is_large: false,
        service_cidrs: Vec::new(),
    }
}

const PORTS: &str = r#"[{"name":"p80","port":80,"protocol":"TCP"}]"#;

fn rules(spec: &str, status: &str, endpoints: &str) -> Ruleset {
    let node = Node::new("n1", None, "0.0.0.0");
    ruleset(&[Arc::new(service(spec, status))], &[Arc::new(slice(PORTS, endpoints))], &node, Family::V4)
}

/// The lines of the plan that are about Services.
fn lines(rules: &Ruleset) -> Vec<String> {
    let plan = plan::everything(rules, &settings(), &Present::default());
    assert_eq!(plan.parts.len(), 1);
    plan.parts[0]
        .lines()
        .filter(|line| line.contains("default/web") || line.contains("-j KUBE-S") && line.starts_with("-A KUBE-EXT"))
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn expect(actual: &[String], expected: &[&str]) {
    assert_eq!(actual, expected, "\n{}", actual.join("\n"));
}

const WEB: &str = r#"{"clusterIP":"172.30.0.41","ports":[{"name":"p80","port":80}]}"#;

#[test]
fn a_cluster_ip_leads_to_its_endpoints() {
    expect(
        &lines(&rules(WEB, "{}", r#"[{"addresses":["10.180.0.1"]},{"addresses":["10.180.0.2"]}]"#)),
        &[
            r#"-A KUBE-SVC-4HWD6WD2BXF6N7ZC -m comment --comment "default/web:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SVC-4HWD6WD2BXF6N7ZC -m comment --comment "default/web:p80 -> 10.180.0.1:80" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-VEVEW2VILMMTT7KC"#,
            r#"-A KUBE-SVC-4HWD6WD2BXF6N7ZC -m comment --comment "default/web:p80 -> 10.180.0.2:80" -j KUBE-SEP-6BCFJ4HILIPEY4FF"#,
            "-A KUBE-SEP-VEVEW2VILMMTT7KC -m comment --comment default/web:p80 -s 10.180.0.1 -j KUBE-MARK-MASQ",
            "-A KUBE-SEP-VEVEW2VILMMTT7KC -m comment --comment default/web:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.0.1:80",
            "-A KUBE-SEP-6BCFJ4HILIPEY4FF -m comment --comment default/web:p80 -s 10.180.0.2 -j KUBE-MARK-MASQ",
            "-A KUBE-SEP-6BCFJ4HILIPEY4FF -m comment --comment default/web:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.0.2:80",
            r#"-A KUBE-SERVICES -m comment --comment "default/web:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-4HWD6WD2BXF6N7ZC"#,
        ],
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    expect(
        &lines(&rules(WEB, "{}", "[]")),
        &[r#"-A KUBE-SERVICES -m comment --comment "default/web:p80 has no endpoints" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j REJECT"#],
    );
}

#[test]
fn a_change_writes_only_what_differs() {
    let mut old = rules(WEB, "{}", r#"[{"addresses":["10.180.0.1"]}]"#);
    let new = rules(WEB, "{}", r#"[{"addresses":["10.180.0.1"]},{"addresses":["10.180.0.2"]}]"#);
    let key = client::ObjectKey::new("default", "web");
    let added = old.set(&key, new.of(&key).to_vec()).unwrap();
    let text = plan::changes(&[added], &settings()).parts.remove(0);
    assert!(!text.contains("KUBE-SERVICES") && !text.contains("10.180.0.1:80 -j DNAT"), "{text}");
    assert!(text.contains("--to-destination 10.180.0.2:80"), "{text}");
    let gone = old.set(&key, Vec::new()).unwrap();
    let text = plan::changes(&[gone], &settings()).parts.remove(0);
    assert_eq!(text.lines().filter(|line| line.starts_with("-X")).count(), 3, "{text}");
    assert!(text.contains("-D KUBE-SERVICES"), "{text}");
}

#[test]
fn networks_are_read() {
    assert_eq!(parse_cidr("10.0.0.0/8"), Some(Cidr { network: "10.0.0.0".parse().unwrap(), prefix: 8 }));
}
