//! The rules that Services become, as text.

use std::sync::Arc;

use super::plan::{self, Present};
use crate::node::{LocalDetector, Node, NodePortAddresses};
use crate::ruleset::{Ruleset, ruleset};
use crate::settings::Settings;
use crate::testing::{service, slice};
use netfilter::family::{Cidr, Family, parse_cidr};

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

const LOCAL: &str = r#"{"clusterIP":"172.30.0.41","type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":30000,
    "loadBalancerSourceRanges":["192.168.0.0/16"],"ports":[{"name":"p80","port":80,"nodePort":3001}]}"#;
const INGRESS: &str = r#"{"loadBalancer":{"ingress":[{"ip":"1.2.3.4"}]}}"#;

/// The rules of chains whose names begin so.
fn chain_lines(rules: &Ruleset, chain: &str) -> Vec<String> {
    let plan = plan::everything(rules, &settings(), &Present::default());
    let start = format!("-A {chain}");
    plan.parts[0].lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
}

#[test]
fn the_external_policy_local_lets_pods_and_the_host_pass_it_by() {
    let rules = rules(LOCAL, INGRESS, r#"[{"addresses":["10.180.0.1"],"nodeName":"other"},{"addresses":["10.180.2.1"],"nodeName":"n1"}]"#);
    expect(
        &chain_lines(&rules, "KUBE-EXT-"),
        &[
            r#"-A KUBE-EXT-4HWD6WD2BXF6N7ZC -m comment --comment "pod traffic for default/web:p80 external destinations" -s 10.0.0.0/8 -j KUBE-SVC-4HWD6WD2BXF6N7ZC"#,
            r#"-A KUBE-EXT-4HWD6WD2BXF6N7ZC -m comment --comment "masquerade LOCAL traffic for default/web:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-EXT-4HWD6WD2BXF6N7ZC -m comment --comment "route LOCAL traffic for default/web:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-4HWD6WD2BXF6N7ZC"#,
            "-A KUBE-EXT-4HWD6WD2BXF6N7ZC -j KUBE-SVL-4HWD6WD2BXF6N7ZC",
        ],
    );
    let local = chain_lines(&rules, "KUBE-SVL-");
    assert!(local.len() == 1 && local[0].contains("10.180.2.1:80"), "{local:?}");
    let remote = super::tests::rules(LOCAL, INGRESS, r#"[{"addresses":["10.180.0.1"],"nodeName":"other"}]"#);
    assert_eq!(chain_lines(&remote, "KUBE-EXT-").len(), 3, "nothing falls through");
    let dropped = chain_lines(&remote, "KUBE-EXTERNAL-SERVICES");
    expect(
        &dropped,
        &[
            r#"-A KUBE-EXTERNAL-SERVICES -m comment --comment "default/web:p80 has no local endpoints" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j DROP"#,
            r#"-A KUBE-EXTERNAL-SERVICES -m comment --comment "default/web:p80 has no local endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 3001 -j DROP"#,
        ],
    );
}

#[test]
fn a_load_balancer_lets_in_whom_its_ranges_name() {
    let rules = rules(LOCAL, INGRESS, r#"[{"addresses":["10.180.2.1"],"nodeName":"n1"}]"#);
    expect(
        &chain_lines(&rules, "KUBE-FW-"),
        &[
            r#"-A KUBE-FW-4HWD6WD2BXF6N7ZC -m comment --comment "default/web:p80 loadbalancer IP" -s 192.168.0.0/16 -j KUBE-EXT-4HWD6WD2BXF6N7ZC"#,
            // The node's own address is in the range.
            r#"-A KUBE-FW-4HWD6WD2BXF6N7ZC -m comment --comment "default/web:p80 loadbalancer IP" -s 1.2.3.4 -j KUBE-EXT-4HWD6WD2BXF6N7ZC"#,
            r#"-A KUBE-FW-4HWD6WD2BXF6N7ZC -m comment --comment "other traffic to default/web:p80 will be dropped by KUBE-PROXY-FIREWALL""#,
        ],
    );
    expect(
        &chain_lines(&rules, "KUBE-PROXY-FIREWALL"),
        &[
            r#"-A KUBE-PROXY-FIREWALL -m comment --comment "default/web:p80 traffic not accepted by KUBE-FW-4HWD6WD2BXF6N7ZC" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j DROP"#,
        ],
    );
    let node_ports = chain_lines(&rules, "KUBE-NODEPORTS");
    expect(
        &node_ports,
        &[
            r#"-A KUBE-NODEPORTS -m comment --comment "default/web:p80 health check node port" -m tcp -p tcp --dport 30000 -j ACCEPT"#,
            "-A KUBE-NODEPORTS -m comment --comment default/web:p80 -m tcp -p tcp --dport 3001 -j KUBE-EXT-4HWD6WD2BXF6N7ZC",
        ],
    );
}

#[test]
fn clients_that_stay_are_looked_up_before_the_dice_are_thrown() {
    let spec = r#"{"clusterIP":"172.30.0.41","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},"ports":[{"name":"p80","port":80}]}"#;
    let rules = rules(spec, "{}", r#"[{"addresses":["10.180.0.1"]},{"addresses":["10.180.0.2"]}]"#);
    let lines = chain_lines(&rules, "KUBE-SVC-");
    assert!(
        lines[1].ends_with("-m recent --name KUBE-SEP-VEVEW2VILMMTT7KC --rcheck --seconds 60 --reap -j KUBE-SEP-VEVEW2VILMMTT7KC"),
        "{lines:?}"
    );
    assert!(lines[3].contains("--probability 0.5000000000"), "{lines:?}");
    assert!(chain_lines(&rules, "KUBE-SEP-V")[1].contains("-m recent --name KUBE-SEP-VEVEW2VILMMTT7KC --set -m tcp -p tcp -j DNAT"));
}

#[test]
fn what_is_there_already_is_read_from_what_was_saved() {
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-OLD - [0:0]\n:KUBE-SERVICES - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n\
        *filter\n:INPUT ACCEPT [0:0]\n:KUBE-SVC-OTHER - [0:0]\nCOMMIT\n";
    let present = Present::parse(saved);
    assert_eq!(present.service_chains.iter().collect::<Vec<_>>(), ["KUBE-SVC-OLD"]);
    let plan = plan::everything(&Ruleset::default(), &settings(), &present);
    let text = &plan.parts[0];
    assert!(text.contains("-X KUBE-SVC-OLD") && text.contains(":KUBE-SVC-OLD - [0:0]"), "{text}");
    assert!(!text.contains("-I PREROUTING") && text.contains("-I OUTPUT"), "{text}");
    let nothing = plan::nothing(saved);
    assert!(nothing.contains("-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES"), "{nothing}");
    assert!(nothing.contains("-X KUBE-SERVICES") && !nothing.contains(":INPUT"), "{nothing}");
}

#[test]
fn much_is_written_in_parts_and_led_to_last() {
    let node = Node::new("n1", None, "0.0.0.0");
    let services: Vec<_> = (0..600)
        .map(|n| {
            let spec = format!(r#"{{"clusterIP":"172.30.{}.{}","ports":[{{"name":"p80","port":80}}]}}"#, n / 250, n % 250);
            Arc::new(crate::testing::named_service(&format!("s{n}"), &spec, "{}"))
        })
        .collect();
    let slices: Vec<_> = (0..600)
        .map(|n| {
            let endpoint = format!(r#"[{{"addresses":["10.180.{}.{}"]}}]"#, n / 250, n % 250);
            Arc::new(crate::testing::named_slice(&format!("s{n}"), PORTS, &endpoint))
        })
        .collect();
    let rules = ruleset(&services, &slices, &node, Family::V4);
    let plan = plan::everything(&rules, &settings(), &Present::default());
    assert_eq!(plan.parts.len(), 2);
    assert!(!plan.parts[0].contains("KUBE-SERVICES"), "packets are led to chains when all are there");
    assert_eq!(plan.parts[1].matches("-A KUBE-SERVICES -m comment --comment \"default/").count(), 600);
    assert_eq!(plan.counts.nat, 600 * 5 + 5);
}

#[test]
fn networks_are_read() {
    assert_eq!(parse_cidr("10.0.0.0/8"), Some(Cidr { network: "10.0.0.0".parse().unwrap(), prefix: 8 }));
}
