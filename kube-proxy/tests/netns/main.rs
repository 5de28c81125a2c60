//! kube-proxy with real packets: hosts, pods and neighbours are network namespaces. Needs root, so these tests run only where they
//! are asked for (`make test` does, and says so where the machine cannot).

mod cluster;
mod host;
mod scale;

use std::io::ErrorKind;
use std::time::Duration;

use cluster::{Cluster, Mode, eventually};
use host::{ask, command, on_a_host};

/// Every test is run in each mode.
macro_rules! in_each_mode {
    ($($name:ident)*) => {
        mod iptables { $(#[test] #[ignore = "needs root"] fn $name() { super::on_a_host(|| super::$name(super::Mode::Iptables)); })* }
        mod nftables { $(#[test] #[ignore = "needs root"] fn $name() { super::on_a_host(|| super::$name(super::Mode::Nftables)); })* }
    };
}

in_each_mode! {
    a_cluster_ip_leads_to_all_endpoints
    a_pod_reaches_itself_through_its_service
    a_service_without_endpoints_refuses_at_once
    node_ports_are_served_and_hide_the_client
    the_external_policy_local_shows_the_client_and_drops_without_endpoints
    the_internal_policy_local_keeps_to_this_node
    clients_stay_with_their_endpoint
    load_balancer_addresses_keep_strangers_out
    flows_of_udp_leave_endpoints_that_are_gone
    flushed_rules_come_back
    changes_take_effect_soon
    health_check_ports_count_local_endpoints
    another_mode_leaves_nothing_of_this_one
    both_families_are_served
}

const WEB: &str = r#"{"clusterIP":"10.96.0.10","ports":[{"name":"http","port":80}]}"#;

fn a_cluster_ip_leads_to_all_endpoints(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("web", WEB, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-1")]);
    eventually("the service answers", || ask("10.96.0.10:80").is_ok());
    let from_host: Vec<String> = (0..40).filter_map(|_| ask("10.96.0.10:80").ok()).collect();
    assert_eq!(from_host.len(), 40);
    assert!(
        from_host.iter().any(|text| text.starts_with("one ")) && from_host.iter().any(|text| text.starts_with("two ")),
        "{from_host:?}"
    );
    // A pod's own address is seen by the other pod: it is not masqueraded.
    let from_pod: Vec<String> = (0..40).filter_map(|_| cluster.one.ask("10.96.0.10:80").ok()).collect();
    assert_eq!(from_pod.len(), 40);
    assert!(from_pod.contains(&"two 10.244.1.1".to_owned()), "{from_pod:?}");
    // A neighbour's is: the answer must come back through this host.
    let seen = cluster.neighbour.ask("10.96.0.10:80").expect("neighbours may come");
    assert!(seen.ends_with(host::TO_PODS), "{seen}");
    cluster.remove_service("web");
    eventually("the service is gone", || cluster.one.ask("10.96.0.10:80").is_err());
}

fn a_pod_reaches_itself_through_its_service(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("web", WEB, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
    eventually("the pod reaches itself", || cluster.one.ask("10.96.0.10:80").is_ok());
}

fn a_service_without_endpoints_refuses_at_once(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("web", r#"{"clusterIP":"10.96.0.10","type":"NodePort","ports":[{"name":"http","port":80,"nodePort":30080}]}"#, "{}");
    eventually("the cluster IP refuses", || cluster.one.ask("10.96.0.10:80") == Err(ErrorKind::ConnectionRefused));
    assert_eq!(ask("10.96.0.10:80"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(cluster.neighbour.ask("192.168.50.1:30080"), Err(ErrorKind::ConnectionRefused));
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
    eventually("it answers", || cluster.one.ask("10.96.0.10:80").is_ok());
    cluster.endpoints("web", "http", 8080, &[]);
    eventually("it refuses again", || cluster.one.ask("10.96.0.10:80") == Err(ErrorKind::ConnectionRefused));
}

fn node_ports_are_served_and_hide_the_client(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("web", r#"{"clusterIP":"10.96.0.10","type":"NodePort","externalIPs":["203.0.113.5"],"ports":[{"name":"http","port":80,"nodePort":30080}]}"#, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
    eventually("the node port answers", || cluster.neighbour.ask("192.168.50.1:30080").is_ok());
    assert_eq!(cluster.neighbour.ask("192.168.50.1:30080").as_deref(), Ok("one 10.244.1.254"));
    assert_eq!(cluster.neighbour.ask("203.0.113.5:80").as_deref(), Ok("one 10.244.1.254"));
    assert!(cluster.two.ask("192.168.50.1:30080").is_ok());
    assert!(ask("192.168.50.1:30080").is_ok());
    if mode == Mode::Iptables {
        assert!(ask("127.0.0.1:30080").is_ok());
    }
}

fn the_external_policy_local_shows_the_client_and_drops_without_endpoints(mode: Mode) {
    let cluster = Cluster::start(mode);
    let spec = r#"{"clusterIP":"10.96.0.10","type":"NodePort","externalTrafficPolicy":"Local","ports":[{"name":"http","port":80,"nodePort":30080}]}"#;
    cluster.service("web", spec, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-2")]);
    eventually("the node port answers", || cluster.neighbour.ask("192.168.50.1:30080").is_ok());
    for _ in 0..10 {
        assert_eq!(cluster.neighbour.ask("192.168.50.1:30080").as_deref(), Ok("one 192.168.50.2"));
    }
    cluster.endpoints("web", "http", 8080, &[("10.244.1.2", "node-2")]);
    eventually("what comes from outside is dropped", || cluster.neighbour.ask("192.168.50.1:30080") == Err(ErrorKind::TimedOut));
    // Pods and the host itself are not bound to the policy.
    assert!(cluster.one.ask("192.168.50.1:30080").is_ok());
    assert!(ask("192.168.50.1:30080").is_ok());
    assert!(cluster.one.ask("10.96.0.10:80").is_ok());
}

fn the_internal_policy_local_keeps_to_this_node(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("web", r#"{"clusterIP":"10.96.0.10","internalTrafficPolicy":"Local","ports":[{"name":"http","port":80}]}"#, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-2")]);
    eventually("it answers", || cluster.two.ask("10.96.0.10:80").is_ok());
    for _ in 0..10 {
        assert_eq!(cluster.two.ask("10.96.0.10:80").as_deref(), Ok("one 10.244.1.2"));
    }
    cluster.endpoints("web", "http", 8080, &[("10.244.1.2", "node-2")]);
    eventually("it drops", || cluster.one.ask("10.96.0.10:80") == Err(ErrorKind::TimedOut));
}

fn clients_stay_with_their_endpoint(mode: Mode) {
    let cluster = Cluster::start(mode);
    let spec = r#"{"clusterIP":"10.96.0.10","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":2}},"ports":[{"name":"http","port":80}]}"#;
    cluster.service("web", spec, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-1")]);
    eventually("it answers", || cluster.neighbour.ask("10.96.0.10:80").is_ok());
    let first = cluster.neighbour.ask("10.96.0.10:80");
    for _ in 0..20 {
        assert_eq!(cluster.neighbour.ask("10.96.0.10:80"), first);
    }
    // Every pause is longer than the time, so that sooner or later the other one is met.
    let moved = (0..12).any(|_| {
        std::thread::sleep(Duration::from_millis(3100));
        cluster.neighbour.ask("10.96.0.10:80") != first
    });
    assert!(moved, "twelve times the same endpoint, after the time was over");
}

fn load_balancer_addresses_keep_strangers_out(mode: Mode) {
    let cluster = Cluster::start(mode);
    let spec = |range: &str| {
        format!(
            r#"{{"clusterIP":"10.96.0.10","type":"LoadBalancer","loadBalancerSourceRanges":["{range}"],"ports":[{{"name":"http","port":80,"nodePort":30080}}]}}"#
        )
    };
    let status = r#"{"loadBalancer":{"ingress":[{"ip":"203.0.113.9"}]}}"#;
    cluster.service("web", &spec("192.168.50.0/24"), status);
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
    eventually("who may is let in", || cluster.neighbour.ask("203.0.113.9:80").is_ok());
    cluster.service("web", &spec("198.51.100.0/24"), status);
    eventually("a stranger is not", || cluster.neighbour.ask("203.0.113.9:80") == Err(ErrorKind::TimedOut));
    assert!(cluster.neighbour.ask("192.168.50.1:30080").is_ok(), "node ports are not restricted");
}

fn flows_of_udp_leave_endpoints_that_are_gone(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.one.serve_udp("one", 5353);
    cluster.two.serve_udp("two", 5353);
    cluster.service("dns", r#"{"clusterIP":"10.96.0.53","ports":[{"name":"dns","port":53,"protocol":"UDP"}]}"#, "{}");
    cluster.udp_endpoints("dns", "dns", 5353, &[("10.244.1.1", "node-1")]);
    let socket = cluster.neighbour.namespace.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        socket
    });
    let answer = || {
        let mut buffer = [0; 16];
        socket.send_to(b"?", "10.96.0.53:53").ok()?;
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    eventually("one answers", || answer().as_deref() == Some("one"));
    cluster.udp_endpoints("dns", "dns", 5353, &[("10.244.1.2", "node-1")]);
    // The same socket: only a new flow leads to the other endpoint.
    eventually("two answers", || answer().as_deref() == Some("two"));
}

fn flushed_rules_come_back(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("web", WEB, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
    eventually("it answers", || ask("10.96.0.10:80").is_ok());
    if mode == Mode::Iptables {
        for table in ["nat", "filter", "mangle"] {
            command("iptables", &["-t", table, "-F"]);
            command("iptables", &["-t", table, "-X"]);
        }
    } else {
        command("nft", &["delete", "table", "ip", "kube-proxy"]);
    }
    assert!(ask("10.96.0.10:80").is_err());
    eventually("it answers again", || ask("10.96.0.10:80").is_ok());
}

fn changes_take_effect_soon(mode: Mode) {
    let cluster = Cluster::start(mode);
    cluster.service("first", WEB, "{}");
    eventually("the first rules are there", || ask("10.96.0.10:80") == Err(ErrorKind::ConnectionRefused));
    std::thread::sleep(Duration::from_millis(100));
    let mut took = Vec::new();
    for number in 0..10 {
        let address = format!("10.96.1.{number}:80");
        cluster.endpoints(&format!("s{number}"), "http", 8080, &[("10.244.1.1", "node-1")]);
        std::thread::sleep(Duration::from_millis(50));
        let start = std::time::Instant::now();
        let spec = format!(r#"{{"clusterIP":"10.96.1.{number}","ports":[{{"name":"http","port":80}}]}}"#);
        cluster.service(&format!("s{number}"), &spec, "{}");
        while cluster::connect(&address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(5), "no rule for {address}");
        }
        took.push(start.elapsed());
    }
    took.sort();
    // The machine may be busy; alone it takes a few milliseconds.
    assert!(took[5] < Duration::from_millis(200), "{took:?}");
    cluster::tell(&format!("{mode:?}: a new service answers after {:?} (median), {:?} (worst)", took[5], took[9]));
}

fn health_check_ports_count_local_endpoints(mode: Mode) {
    let cluster = Cluster::start(mode);
    let spec = r#"{"clusterIP":"10.96.0.10","type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":32000,"ports":[{"name":"http","port":80,"nodePort":30080}]}"#;
    cluster.service("web", spec, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-2")]);
    let get = |port: u16, path: &str| cluster.neighbour.namespace.run(|| cluster::get(port, path));
    eventually("one endpoint is local", || {
        get(32000, "/").is_some_and(|text| text.starts_with("HTTP/1.1 200") && text.contains("\"localEndpoints\": 1"))
    });
    assert!(get(32000, "/").expect("it answers").to_lowercase().contains("x-load-balancing-endpoint-weight: 1"));
    cluster.endpoints("web", "http", 8080, &[("10.244.1.2", "node-2")]);
    eventually("none is local", || {
        get(32000, "/").is_some_and(|text| text.starts_with("HTTP/1.1 503") && text.contains("\"localEndpoints\": 0"))
    });
    let healthz = get(10256, "/healthz").expect("it answers");
    assert!(healthz.starts_with("HTTP/1.1 200") && healthz.contains("\"nodeEligible\":true"), "{healthz}");
    cluster.remove_service("web");
    eventually("the port is closed", || get(32000, "/").is_none());
}

fn another_mode_leaves_nothing_of_this_one(mode: Mode) {
    let rules = || format!("{}{}", command("iptables-save", &[]), command("nft", &["list", "ruleset"]));
    let is_ours = |line: &&str| line.contains("KUBE-") && !line.contains("KUBE-FIREWALL") || line.contains("kube-proxy");
    let ours = |of: &str| rules().lines().filter(is_ours).filter(|line| line.contains(of)).count();
    let cluster = Cluster::start(mode);
    cluster.service("web", WEB, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-1")]);
    eventually("it answers", || ask("10.96.0.10:80").is_ok());
    assert!(ours("") > 0);
    let other = if mode == Mode::Iptables { Mode::Nftables } else { Mode::Iptables };
    let cluster = cluster.restart(other);
    eventually("it answers in the other mode", || {
        (if other == Mode::Iptables { ours("KUBE-SVC") } else { ours("table ip kube-proxy") }) > 0 && ask("10.96.0.10:80").is_ok()
    });
    let left = if mode == Mode::Iptables { ours("KUBE-SERVICES") } else { ours("table ip kube-proxy") };
    // `nft` shows what iptables writes, too.
    assert_eq!(left, 0, "{}", rules());
    drop(cluster);
}

fn both_families_are_served(mode: Mode) {
    let cluster = Cluster::start(mode);
    let spec = r#"{"clusterIP":"10.96.0.10","clusterIPs":["10.96.0.10","fd00:96::10"],"ipFamilies":["IPv4","IPv6"],"type":"NodePort",
        "ports":[{"name":"http","port":80,"nodePort":30080}]}"#;
    cluster.service("web", spec, "{}");
    cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
    eventually("one family answers", || cluster.one.ask("10.96.0.10:80").is_ok());
    // Some kernels do not take "port unreachable" of this family for a refusal.
    assert!(cluster.one.ask("[fd00:96::10]:80").is_err());
    cluster.endpoints_6("web", "http", 8080, &[("fd00:1::1", "node-1"), ("fd00:1::2", "node-1")]);
    // A new address of this family is not used before it has been found to be nobody else's, so for a while one pod alone answers.
    eventually("both endpoints answer", || (0..20).all(|_| cluster.one.ask("[fd00:96::10]:80").is_ok()));
    let from_pod: Vec<_> = (0..40).map(|_| cluster.one.ask("[fd00:96::10]:80").expect("every time")).collect();
    assert!(from_pod.contains(&"two fd00:1::1".to_owned()), "{from_pod:?}");
    assert!(from_pod.iter().any(|text| text.starts_with("one ")), "the pod reaches itself: {from_pod:?}");
    let from_outside = cluster.neighbour.ask("[fd00:50::1]:30080").expect("the node port answers");
    assert!(from_outside.ends_with(host::TO_PODS_6), "{from_outside}");
}

#[test]
#[ignore = "needs root"]
fn a_change_that_fails_is_mended_by_writing_everything() {
    on_a_host(|| {
        let cluster = Cluster::start(Mode::Iptables);
        cluster.service("web", WEB, "{}");
        cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1")]);
        eventually("it answers", || ask("10.96.0.10:80").is_ok());
        // The rule that the next change wants to delete is not there.
        command("iptables", &["-t", "nat", "-F", "KUBE-SERVICES"]);
        cluster.endpoints("web", "http", 8080, &[]);
        eventually("it refuses", || ask("10.96.0.10:80") == Err(ErrorKind::ConnectionRefused));
        cluster.endpoints("web", "http", 8080, &[("10.244.1.2", "node-1")]);
        eventually("it answers again", || ask("10.96.0.10:80").is_ok());
        let metrics = cluster::get_local(10249, "/metrics").expect("they are served");
        let failures = "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family=\"IPv4\"} 1";
        assert!(metrics.contains(failures), "{metrics}");
    });
}

/// People debug with `nft`, so it must understand what is in the kernel.
#[test]
#[ignore = "needs root"]
fn nft_shows_the_table() {
    on_a_host(|| {
        let cluster = Cluster::start(Mode::Nftables);
        cluster.service("web", r#"{"clusterIP":"10.96.0.10","type":"LoadBalancer","loadBalancerSourceRanges":["10.0.0.0/8"],"ports":[{"name":"http","port":80,"nodePort":30080}]}"#, r#"{"loadBalancer":{"ingress":[{"ip":"203.0.113.9"}]}}"#);
        cluster.endpoints("web", "http", 8080, &[("10.244.1.1", "node-1"), ("10.244.1.2", "node-1")]);
        cluster.service("sticky", r#"{"clusterIP":"10.96.0.11","sessionAffinity":"ClientIP","ports":[{"name":"http","port":80}]}"#, "{}");
        cluster.endpoints("sticky", "http", 8080, &[("10.244.1.1", "node-1")]);
        eventually("it answers", || ask("10.96.0.10:80").is_ok() && ask("10.96.0.11:80").is_ok());
        let shown = command("nft", &["list", "table", "ip", "kube-proxy"]);
        cluster::tell(&shown);
        for line in [
            "comment \"rules for kube-proxy\"",
            "10.96.0.10 . tcp . 80 : goto service-",
            "203.0.113.9 . tcp . 80 : goto firewall-",
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "tcp . 30080 : goto external-",
            "ip saddr 10.0.0.0/8 return",
            "ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random",
            "ip daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\"",
            "meta l4proto tcp dnat to 10.244.1.1:8080",
            "update @affinity-",
            "10.244.1.2 . 8080",
        ] {
            assert!(shown.contains(line), "{line} is missing:\n{shown}");
        }
    });
}
