//! The `/etc/hosts` that a pod's containers share.

use k8s_openapi::api::core::v1::HostAlias;

const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The file of a pod with a network of its own.
pub fn of_pod(pod_ips: &[String], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut out = format!("# Kubernetes-managed hosts file.\n{LOCAL}");
    for ip in pod_ips {
        match domain {
            "" => out.push_str(&format!("{ip}\t{hostname}\n")),
            domain => out.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
        }
    }
    add_aliases(&mut out, aliases);
    out
}

/// The file of a pod on the host's network: the host's, and the pod's aliases.
pub fn of_host_network(host: &str, aliases: &[HostAlias]) -> String {
    let mut out = format!("# Kubernetes-managed hosts file (host network).\n{host}");
    add_aliases(&mut out, aliases);
    out
}

fn add_aliases(out: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or(&[]).join("\t")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_the_pod_and_its_aliases() {
        let aliases = [HostAlias { ip: "1.2.3.4".to_owned(), hostnames: Some(vec!["a".to_owned(), "b.c".to_owned()]) }];
        let file = of_pod(&["10.0.0.2".to_owned()], "h", "s.n.svc.cluster.local", &aliases);
        assert!(file.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(file.ends_with(
            "fe00::2\tip6-allrouters\n10.0.0.2\th.s.n.svc.cluster.local\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb.c\n"
        ));
        assert!(of_pod(&["10.0.0.2".to_owned()], "h", "", &[]).ends_with("\n10.0.0.2\th\n"));
        assert_eq!(of_host_network("127.0.0.1 x\n", &[]), "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n");
    }
}
