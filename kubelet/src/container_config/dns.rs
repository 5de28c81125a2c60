//! The resolver configuration of a pod, by its policy, within the limits of common resolvers.
//!
//! Upstream: pkg/kubelet/network/dns/dns.go.

use std::path::Path;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::{Pod, PodDNSConfigOption};

use super::{HostDns, Node, Warning, pod_format};

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_NAME: usize = 253;
/// No more of a resolver configuration is read.
const MAX_FILE: u64 = 10 * 1024 * 1024;

impl HostDns {
    /// What the host's file says.
    pub fn read(path: &Path) -> std::io::Result<HostDns> {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(HostDns::parse(&text))
    }

    /// `nameserver` lines add up; of `search` lines the last one counts; options replace those of the same name.
    pub fn parse(text: &str) -> HostDns {
        let mut dns = HostDns::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let names = words.filter(|name| *name != ".");
                    dns.searches = names.map(|name| name.strip_suffix('.').unwrap_or(name).to_owned()).collect();
                }
                Some("options") => words.for_each(|option| set_option(&mut dns.options, option.to_owned())),
                _ => {}
            }
        }
        dns
    }
}

fn set_option(options: &mut Vec<String>, option: String) {
    let name = |option: &str| option.split(':').next().unwrap_or("").to_owned();
    match options.iter_mut().find(|known| name(known) == name(&option)) {
        Some(known) => *known = option,
        None => options.push(option),
    }
}

/// What the pod's resolver is told, and what had to be left out.
pub fn pod_dns(pod: &Pod, node: &Node) -> (DnsConfig, Vec<Warning>) {
    let mut warnings = Vec::new();
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let host = node.host_dns.clone().unwrap_or_default();
    let mut dns = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => HostDns::default(),
        Some("Default") => host_dns(node, host),
        Some("ClusterFirst") | None if host_network => host_dns(node, host),
        _ if !node.cluster_dns.is_empty() => cluster_dns(pod, node, host),
        _ => {
            let message = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
            warnings.push(Warning { reason: "MissingClusterDNS", message: format!("pod: {:?}. {message}", pod_format(pod)) });
            host_dns(node, host)
        }
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        dns.servers = without_duplicates(dns.servers.iter().chain(config.nameservers.iter().flatten()));
        dns.searches = without_duplicates(dns.searches.iter().chain(config.searches.iter().flatten()));
        config.options.iter().flatten().for_each(|option| set_option(&mut dns.options, written(option)));
    }
    fit(&mut dns, &mut warnings);
    (DnsConfig { servers: dns.servers, searches: dns.searches, options: dns.options }, warnings)
}

fn written(option: &PodDNSConfigOption) -> String {
    let name = option.name.clone().unwrap_or_default();
    match option.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => format!("{name}:{value}"),
        None => name,
    }
}

fn host_dns(node: &Node, mut dns: HostDns) -> HostDns {
    if node.host_dns.is_none() {
        // Nothing configured means the name server of this machine.
        let local = |ip: &String| if ip.contains(':') { "::1" } else { "127.0.0.1" }.to_owned();
        dns.servers = node.host_ips.iter().map(local).collect();
        if dns.servers.is_empty() {
            dns.servers.push("127.0.0.1".to_owned());
        }
        dns.searches = vec![".".to_owned()];
    }
    dns
}

fn cluster_dns(pod: &Pod, node: &Node, host: HostDns) -> HostDns {
    let (namespace, domain) = (pod.metadata.namespace.as_deref().unwrap_or(""), &node.cluster_domain);
    let searches = if domain.is_empty() {
        host.searches
    } else {
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        without_duplicates(own.iter().chain(&host.searches))
    };
    HostDns { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn without_duplicates<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    names.for_each(|name| {
        if !out.contains(name) {
            out.push(name.clone())
        }
    });
    out
}

fn fit(dns: &mut HostDns, warnings: &mut Vec<Warning>) {
    let mut warn = |message: String| warnings.push(Warning { reason: "DNSConfigForming", message });
    if dns.servers.len() > MAX_SERVERS {
        dns.servers.truncate(MAX_SERVERS);
        warn(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            dns.servers.join(" ")
        ));
    }
    let all = dns.searches.len();
    dns.searches.truncate(MAX_SEARCHES);
    dns.searches.retain(|name| name.len() <= MAX_NAME);
    while dns.searches.join(" ").len() > MAX_SEARCH_CHARS {
        dns.searches.pop();
    }
    if dns.searches.len() != all {
        warn(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::container_config::test_node;

    fn run(spec: Value) -> (DnsConfig, Vec<Warning>) {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).expect("it is a pod");
        pod_dns(&pod, &test_node())
    }

    fn check(spec: Value, servers: &[&str], searches: &[&str], options: &[&str]) {
        let (dns, warnings) = run(spec.clone());
        assert_eq!((dns.servers, dns.searches, dns.options), (owned(servers), owned(searches), owned(options)), "{spec}");
        assert_eq!(warnings, [], "{spec}");
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_file_is_read_as_resolvers_do() {
        let text = "# x\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch a b.\nsearch c. . d\noptions ndots:2 rotate\noptions ndots:3\n";
        let expect =
            HostDns { servers: owned(&["1.1.1.1", "2.2.2.2"]), searches: owned(&["c", "d"]), options: owned(&["ndots:3", "rotate"]) };
        assert_eq!(HostDns::parse(text), expect);
    }

    #[test]
    fn the_policy_says_whose_servers_are_asked() {
        let cluster = ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"];
        check(json!({"containers": [], "dnsPolicy": "ClusterFirst"}), &["10.96.0.10"], &cluster, &["ndots:5"]);
        check(json!({"containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true}), &["192.168.0.1"], &["lan"], &[]);
        check(
            json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            &["10.96.0.10"],
            &cluster,
            &["ndots:5"],
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), &["192.168.0.1"], &["lan"], &[]);
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            &["1.1.1.1"],
            &["x"],
            &["ndots:2", "edns0"],
        );
        check(
            json!({"containers": [], "dnsPolicy": "ClusterFirst", "dnsConfig": {"nameservers": ["10.96.0.10", "8.8.8.8"], "searches": ["lan"], "options": [{"name": "ndots", "value": "1"}]}}),
            &["10.96.0.10", "8.8.8.8"],
            &cluster,
            &["ndots:1"],
        );
    }

    #[test]
    fn what_exceeds_the_limits_is_left_out_and_told() {
        let searches: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
        let (dns, warnings) = run(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"], "searches": searches}}),
        );
        assert_eq!((dns.servers.len(), dns.searches.len(), warnings.len()), (3, 32, 2));
        assert_eq!(
            warnings[0].message,
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 1.1.1.2 1.1.1.3"
        );
    }
}
