//! Policies with real packets: a node, its pods and its neighbours are network namespaces. Needs root, so these tests run only
//! where they are asked for (`make test` does, and says so where the machine cannot).

#[path = "../../src/tests/chance.rs"]
mod chance;
mod chances;
mod cluster;
#[path = "../../../kube-proxy/tests/netns/host.rs"]
#[allow(dead_code)] // Nodes have names here, no addresses.
mod host;
#[path = "../../src/tests/model.rs"]
mod model;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use cluster::{Cluster, eventually};
use host::{ask, command, on_a_host};
use serde_json::json;

const ONE: &str = "10.244.1.1:8080";
const TWO: &str = "10.244.1.2:8080";
const NEIGHBOUR: &str = "192.168.50.2:8080";

/// What a connection that is dropped comes to.
const DROPPED: Result<String, ErrorKind> = Err(ErrorKind::TimedOut);

#[test]
#[ignore = "needs root"]
fn a_pod_is_open_until_a_policy_selects_it_and_then_to_those_it_names() {
    on_a_host(|| {
        let cluster = Cluster::start();
        assert!(cluster.two.ask(ONE).is_ok() && cluster.neighbour.ask(ONE).is_ok());
        cluster.policy("deny", &json!({"podSelector": {"matchLabels": {"app": "one"}}}));
        eventually("one is isolated", || cluster.two.ask(ONE) == DROPPED);
        assert_eq!(cluster.neighbour.ask(ONE), DROPPED);
        assert_eq!(ask(ONE).map(|text| text.starts_with("one")), Ok(true), "its own node always reaches it");
        assert!(cluster.one.ask(TWO).is_ok(), "the other direction is not restricted, and answers come back");
        assert!(cluster.one.ask(ONE).is_ok(), "it reaches itself");
        let from_two = json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "two"}}}]}]});
        cluster.policy("from-two", &from_two);
        eventually("two may come", || cluster.two.ask(ONE).is_ok());
        assert_eq!(cluster.neighbour.ask(ONE), DROPPED);
        cluster.pod("two", "renamed", "10.244.1.2", "fd00:1::2");
        eventually("two is not what it was", || cluster.two.ask(ONE) == DROPPED);
        cluster.remove_policy("deny");
        cluster.remove_policy("from-two");
        eventually("one is open", || cluster.neighbour.ask(ONE).is_ok());
    });
}

#[test]
#[ignore = "needs root"]
fn egress_ends_at_blocks_and_their_exceptions() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.neighbour.serve("neighbour", 8080);
        let to_all_but = |except: &str| {
            json!({"podSelector": {"matchLabels": {"app": "one"}}, "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [except]}}]}]})
        };
        cluster.policy("p", &to_all_but("192.168.50.0/24"));
        eventually("the neighbour is excepted", || cluster.one.ask(NEIGHBOUR) == DROPPED);
        assert!(cluster.one.ask(TWO).is_ok() && cluster.two.ask(NEIGHBOUR).is_ok() && cluster.two.ask(ONE).is_ok());
        cluster.policy("p", &to_all_but("10.244.1.2/32"));
        eventually("the other pod is excepted", || cluster.one.ask(TWO) == DROPPED);
        assert!(cluster.one.ask(NEIGHBOUR).is_ok());
        let own_node = cluster.one.ask("10.244.1.254:8080");
        assert_eq!(own_node, Err(ErrorKind::ConnectionRefused), "its own node is always reached, and answers for itself");
    });
}

#[test]
#[ignore = "needs root"]
fn ports_are_told_apart_by_number_range_name_and_protocol() {
    on_a_host(|| {
        let cluster = Cluster::start();
        for port in [81, 90, 100] {
            cluster.one.serve("one", port);
            cluster.two.serve("two", port);
        }
        cluster.one.serve_udp("one", 90);
        let opens = |port: u16| cluster.two.ask(&format!("10.244.1.1:{port}")).is_ok();
        cluster.policy("p", &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"ports": [{"port": 81}]}]}));
        eventually("a number is open, others are not", || !opens(90) && opens(81) && !opens(8080));
        cluster
            .policy("p", &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"ports": [{"port": 82, "endPort": 99}]}]}));
        eventually("a range is open", || !opens(81) && opens(90) && !opens(100));
        assert!(!udp(&cluster), "of TCP only");
        cluster.policy(
            "p",
            &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"ports": [{"port": 90, "protocol": "UDP"}]}]}),
        );
        eventually("UDP is open, TCP is not", || udp(&cluster) && !opens(90));
        cluster.policy("p", &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"ports": [{"port": "http"}]}]}));
        eventually("what the pod calls http is open", || opens(8080) && !opens(90));
        // The other pod is asked by the name that it gives a port.
        cluster.remove_policy("p");
        let egress =
            json!({"podSelector": {"matchLabels": {"app": "two"}}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]});
        cluster.policy("q", &egress);
        eventually("of egress, too", || opens(8080) && !opens(90));
        cluster.named_pod("one", "one", "10.244.1.1", "fd00:1::1", "http", 90);
        eventually("the name moves", || opens(90) && !opens(8080));
    });
}

fn udp(cluster: &Cluster) -> bool {
    cluster.two.namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time");
        socket.send_to(b"?", "10.244.1.1:90").is_ok() && socket.recv(&mut [0; 16]).is_ok()
    })
}

#[test]
#[ignore = "needs root"]
fn what_is_connected_stays_and_what_is_new_is_refused_at_once() {
    on_a_host(|| {
        let cluster = Cluster::start();
        let listener = cluster.one.namespace.run(|| TcpListener::bind("0.0.0.0:9000").expect("the port is free"));
        let mut here = cluster.two.namespace.run(|| TcpStream::connect("10.244.1.1:9000").expect("it is open"));
        let (mut there, _) = listener.accept().expect("somebody connects");
        for stream in [&here, &there] {
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a time");
        }
        let mut exchange = || {
            let mut byte = [0];
            here.write_all(b"?").expect("it goes out");
            there.read_exact(&mut byte).expect("it arrives");
            there.write_all(b"!").expect("the answer goes out");
            here.read_exact(&mut byte).expect("the answer arrives");
        };
        exchange();
        cluster.policy("deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        eventually("nothing new is let through", || cluster.two.ask(ONE) == DROPPED);
        exchange();
    });
}

#[test]
#[ignore = "needs root"]
fn both_families_are_isolated() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.policy("p", &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"from": [{"ipBlock": {"cidr": "fd00:50::/64", "except": ["fd00:50::8/125"]}}]}]}));
        eventually("of one family nobody may come", || cluster.two.ask(ONE) == DROPPED);
        assert_eq!(cluster.two.ask("[fd00:1::1]:8080"), DROPPED);
        eventually("of the other one some", || cluster.neighbour.ask("[fd00:1::1]:8080").is_ok());
        cluster.policy("p", &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"from": [{"podSelector": {}}]}]}));
        eventually("pods are let in by either address", || cluster.two.ask("[fd00:1::1]:8080").is_ok() && cluster.two.ask(ONE).is_ok());
        assert_eq!(cluster.neighbour.ask("[fd00:1::1]:8080"), DROPPED);
    });
}

#[test]
#[ignore = "needs root"]
fn a_pod_that_passes_the_gate_is_isolated_before_anybody_is_told_of_it() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.policy("deny", &json!({"podSelector": {"matchLabels": {"app": "new"}}}));
        // The server has told of no such pod; its address is the one that `two` had.
        cluster.remove_pod("two");
        eventually("there is a policy", || cluster.pass_gate("new", "10.244.1.2"));
        assert_eq!(cluster.one.ask(TWO), DROPPED);
        cluster.pod("other", "other", "10.244.1.77", "fd00:1::77");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(cluster.one.ask(TWO), DROPPED, "other news do not open it");
    });
}

#[test]
#[ignore = "needs root"]
fn a_table_that_somebody_took_away_comes_back_with_the_next_change() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.policy("deny", &json!({"podSelector": {"matchLabels": {"app": "one"}}}));
        eventually("one is isolated", || cluster.two.ask(ONE) == DROPPED);
        command("nft", &["delete", "table", "ip", "ferrokube-network-policy"]);
        assert!(cluster.two.ask(ONE).is_ok());
        cluster.policy("deny-two", &json!({"podSelector": {"matchLabels": {"app": "two"}}}));
        eventually("all is in force", || cluster.two.ask(ONE) == DROPPED && cluster.one.ask(TWO) == DROPPED);
    });
}

#[test]
#[ignore = "needs root"]
fn rules_stay_when_the_agent_ends_and_go_with_their_policies() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.policy("deny", &json!({"podSelector": {"matchLabels": {"app": "one"}}}));
        eventually("one is isolated", || cluster.two.ask(ONE) == DROPPED);
        let cluster = cluster.restart();
        assert_eq!(cluster.two.ask(ONE), DROPPED);
        cluster.pod("two", "two", "10.244.1.2", "fd00:1::2");
        assert_eq!(cluster.two.ask(ONE), DROPPED);
        cluster.remove_policy("deny");
        eventually("one is open", || cluster.two.ask(ONE).is_ok());
        // What an agent does not see go, it finds when it starts.
        cluster.policy("deny", &json!({"podSelector": {}}));
        eventually("one is isolated", || cluster.two.ask(ONE) == DROPPED);
        let cluster = cluster.restart_without("deny");
        eventually("one is open", || cluster.two.ask(ONE).is_ok());
    });
}

#[test]
#[ignore = "needs root"]
fn chains_that_come_and_go_lead_where_they_should() {
    on_a_host(|| {
        let cluster = Cluster::start();
        let allow = json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "two"}}}]}]});
        let deny = json!({"podSelector": {"matchLabels": {"app": "one"}}});
        for round in 0..5 {
            cluster.policy("p", &deny);
            eventually(&format!("closed, round {round}"), || cluster.two.ask(ONE) == DROPPED);
            cluster.policy("p", &allow);
            eventually(&format!("open, round {round}"), || cluster.two.ask(ONE).is_ok());
        }
    });
}

#[test]
#[ignore = "needs root"]
fn changes_take_effect_soon() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.policy("deny", &json!({"podSelector": {"matchLabels": {"app": "one"}}}));
        eventually("one is isolated", || cluster.two.ask(ONE) == DROPPED);
        let mut took = Vec::new();
        for round in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            let (spec, open) = match round % 2 {
                0 => (json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": [{}]}), true),
                _ => (json!({"podSelector": {"matchLabels": {"app": "one"}}}), false),
            };
            cluster.policy("deny", &spec);
            while cluster.connects_soon() != open {
                assert!(start.elapsed() < Duration::from_secs(5), "the change does not come");
            }
            took.push(start.elapsed());
        }
        took.sort();
        // The machine may be busy; alone it takes a few milliseconds.
        assert!(took[5] < Duration::from_millis(500), "{took:?}");
        cluster::tell(&format!("a changed policy is in force after {:?} (median), {:?} (worst)", took[5], took[9]));
    });
}

/// People debug with `nft`, so it must understand what is in the kernel.
#[test]
#[ignore = "needs root"]
fn nft_shows_the_table() {
    on_a_host(|| {
        let cluster = Cluster::start();
        cluster.policy(
            "p",
            &json!({"podSelector": {"matchLabels": {"app": "one"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.50.0/24"]}}],
                "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP", "port": 53}]}],
            "egress": [{"ports": [{"port": "http"}]}]}),
        );
        eventually("one is isolated", || cluster.neighbour.ask(ONE) == DROPPED);
        let shown = command("nft", &["list", "table", "ip", "ferrokube-network-policy"]);
        cluster::tell(&shown);
        for line in [
            "type filter hook forward priority filter + 10; policy accept;",
            "ct state established,related accept",
            "ip saddr . ip daddr @selves accept",
            "ip saddr vmap @egress",
            "ip daddr vmap @ingress",
            "10.244.1.1 : jump ingress-",
            "10.244.1.1 . 10.244.1.1",
            "ip saddr @pods-",
            "ip saddr @addresses-",
            "meta l4proto . th dport @ports-",
            "ip daddr . meta l4proto . th dport @named-",
            "192.168.0.0-192.168.49.255",
            "192.168.51.0-192.168.255.255",
            "tcp . 80-90",
            "udp . 53",
            "10.244.1.2 . tcp . 8080",
            "return",
            "drop",
        ] {
            assert!(shown.contains(line), "{line} is missing:\n{shown}");
        }
        // What it shows is what it would take.
        let check = std::process::Command::new("nft").args(["-c", "-f", "/dev/stdin"]).stdin(std::process::Stdio::piped()).spawn();
        let mut check = check.expect("nft is there");
        check.stdin.take().expect("it reads").write_all(shown.as_bytes()).expect("it reads all");
        assert!(check.wait().expect("it ends").success());
    });
}
