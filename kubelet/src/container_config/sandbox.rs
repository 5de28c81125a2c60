//! A pod's sandbox: what its containers share.

use std::path::PathBuf;

use k8s_cri::v1::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Error, Node, Warning, dns, hostname, labels, resources, security};

/// What the runtime is told to make of a pod: the sandbox, under the pod's cgroup; and what there is to tell about it.
pub fn sandbox_config(pod: &Pod, node: &Node, attempt: u32, cgroup_parent: &str) -> Result<(PodSandboxConfig, Vec<Warning>), Error> {
    let metadata = &pod.metadata;
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let (dns_config, warnings) = dns::pod_dns(pod, node);
    let (own, overhead) = resources::sandbox(pod, node);
    let sysctls = spec.and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.sysctls.as_ref());
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: of(&metadata.name),
            uid: of(&metadata.uid),
            namespace: of(&metadata.namespace),
            attempt,
        }),
        hostname: if host_network { String::new() } else { hostname::kernel_name(pod, &node.cluster_domain)? },
        log_directory: log_directory(pod, node).to_string_lossy().into_owned(),
        dns_config: Some(dns_config),
        port_mappings: spec.iter().flat_map(|spec| &spec.containers).flat_map(port_mappings).collect(),
        labels: labels::of_sandbox(pod),
        annotations: metadata.annotations.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security::of_sandbox(pod, node)?),
            sysctls: sysctls.into_iter().flatten().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
            overhead: Some(overhead),
            resources: Some(own),
        }),
        windows: None,
    };
    Ok((config, warnings))
}

/// `/var/log/pods/<namespace>_<name>_<uid>`
pub fn log_directory(pod: &Pod, node: &Node) -> PathBuf {
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    node.pod_logs_dir.join(format!("{}_{}_{}", of(&metadata.namespace), of(&metadata.name), of(&metadata.uid)))
}

/// The container's ports; of two with one name the first counts.
fn port_mappings(container: &Container) -> Vec<PortMapping> {
    let mut names = Vec::new();
    let mut mappings = Vec::new();
    for port in container.ports.iter().flatten() {
        let (host_ip, host_port) = (port.host_ip.clone().unwrap_or_default(), port.host_port.unwrap_or(0));
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let family = match host_ip.as_str() {
            "" => "any",
            ip if ip.contains(':') => "v6",
            _ => "v4",
        };
        let name = match port.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => format!("{family}-{protocol}-{host_ip}:{}:{host_port}", port.container_port),
        };
        if names.contains(&name) {
            continue;
        }
        names.push(name);
        let protocol = match protocol {
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        mappings.push(PortMapping { protocol: protocol.into(), container_port: port.container_port, host_port, host_ip });
    }
    mappings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container_config::test_node;

    #[test]
    fn a_sandbox_has_what_its_pod_says() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"l": "1"}, "annotations": {"a": "1"}},
            "spec": {"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}, "dnsPolicy": "Default",
                "containers": [
                    {"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 80, "hostPort": 8080}, {"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}]},
                    {"name": "b", "securityContext": {"privileged": true}}]}}))
        .expect("it is a pod");
        let (config, warnings) = sandbox_config(&pod, &test_node(), 2, "/kubepods/besteffort/podu").expect("it is valid");
        assert_eq!(warnings, []);
        assert_eq!((config.hostname.as_str(), config.log_directory.as_str()), ("p", "/var/log/pods/n_p_u"));
        assert_eq!(config.metadata.expect("there is some").attempt, 2);
        assert_eq!(config.port_mappings.iter().map(|m| (m.protocol, m.host_port)).collect::<Vec<_>>(), [(0, 8080), (1, 8080)]);
        let linux = config.linux.expect("there is some");
        assert_eq!((linux.cgroup_parent.as_str(), linux.sysctls["kernel.shm_rmid_forced"].as_str()), ("/kubepods/besteffort/podu", "1"));
        assert!(linux.security_context.expect("there is one").privileged);
        assert_eq!((config.labels["l"].as_str(), config.annotations["a"].as_str()), ("1", "1"));
    }
}
