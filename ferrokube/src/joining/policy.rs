//! What a cluster publishes so that machines can join it, and what those who join, and the nodes that have, may do.

use std::sync::Arc;

use apimachinery::status::Status;
use apiserver::api::Api;
use apiserver::loopback::Loopback;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::token;
use crate::{default_storage, network_policies};

pub const CLUSTER_INFO: &str = "cluster-info";
pub const PUBLIC_NAMESPACE: &str = "kube-public";
/// The keys of the maps that are published.
pub const KUBECONFIG_KEY: &str = "kubeconfig";
pub const KUBELET_CONFIG: &str = "kubelet-config";
pub const KUBELET_KEY: &str = "kubelet";
pub const PROXY_CONFIG: &str = "kube-proxy";
pub const PROXY_KEY: &str = "config.conf";

const NODES: &str = "system:nodes";

/// What joining nodes are told.
#[derive(Clone, Debug)]
pub struct Published {
    /// The API server as other machines reach it.
    pub server: String,
    /// Who certifies it, PEM.
    pub ca: String,
    /// Where pods send their questions about names.
    pub cluster_dns: Vec<String>,
    /// Where pods get their addresses from.
    pub cluster_cidr: String,
    /// Whether nodes provide the volumes of the default storage class.
    pub default_storage: bool,
    /// Whether nodes enforce network policies.
    pub network_policy: bool,
}

/// Publishes it. The maps follow what is so now; roles and bindings that are there stay as they are.
pub async fn publish(api: &Arc<Api>, published: &Published) -> Result<(), Status> {
    let client = Loopback::new(api).with_manager("ferrokube");
    for map in maps(published) {
        let (namespace, name) = (&map["metadata"]["namespace"], &map["metadata"]["name"]);
        let path = format!("/api/v1/namespaces/{}/configmaps/{}", namespace.as_str().unwrap_or(""), name.as_str().unwrap_or(""));
        client.apply(&path, &map).await?;
    }
    for rule in rules(published) {
        client.ensure(&collection(&rule), rule).await?;
    }
    Ok(())
}

fn maps(published: &Published) -> [Value; 3] {
    let map = |namespace: &str, name: &str, key: &str, text: String| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": namespace, "name": name }, "data": { key: text } });
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "clusterDNS": published.cluster_dns,
        "clusterDomain": "cluster.local",
        "rotateCertificates": true,
        "staticPodPath": "/etc/kubernetes/manifests",
    });
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": published.cluster_cidr,
    });
    [
        map(PUBLIC_NAMESPACE, CLUSTER_INFO, KUBECONFIG_KEY, cluster_info(&published.server, &published.ca)),
        map(token::NAMESPACE, KUBELET_CONFIG, KUBELET_KEY, yaml(&kubelet)),
        map(token::NAMESPACE, PROXY_CONFIG, PROXY_KEY, yaml(&proxy)),
    ]
}

/// JSON is YAML, and these are read by programs.
fn yaml(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A kubeconfig that says where the cluster is and gives nobody's credentials.
fn cluster_info(server: &str, ca: &str) -> String {
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: \"\"\ncontexts: null\n\
         current-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n",
        STANDARD.encode(ca)
    )
}

fn collection(object: &Value) -> String {
    let plural = match object["kind"].as_str() {
        Some("Role") => "roles",
        Some("RoleBinding") => "rolebindings",
        Some("ClusterRole") => "clusterroles",
        _ => "clusterrolebindings",
    };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}"),
        None => format!("/apis/rbac.authorization.k8s.io/v1/{plural}"),
    }
}

/// A role of one namespace that lets its subjects read one map, and its binding.
fn readable(namespace: &str, role: &str, map: &str, subjects: &[(&str, &str)]) -> [Value; 2] {
    let metadata = json!({ "namespace": namespace, "name": role });
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get"] }],
        }),
        binding("RoleBinding", metadata, "Role", role, subjects),
    ]
}

fn binding(kind: &str, metadata: Value, role_kind: &str, role: &str, subjects: &[(&str, &str)]) -> Value {
    let subject = |(kind, name): &(&str, &str)| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role },
        "subjects": subjects.iter().map(subject).collect::<Vec<_>>(),
    })
}

fn rules(published: &Published) -> Vec<Value> {
    let group = |name: &str, role: &str, group: &str| {
        binding("ClusterRoleBinding", json!({ "name": name }), "ClusterRole", role, &[("Group", group)])
    };
    let of_signing = |what: &str| format!("system:certificates.k8s.io:certificatesigningrequests:{what}");
    let bootstrappers = [("Group", token::GROUP), ("Group", NODES)];
    let mut rules: Vec<Value> = Vec::new();
    rules.extend(readable(PUBLIC_NAMESPACE, "kubeadm:bootstrap-signer-clusterinfo", CLUSTER_INFO, &[("User", "system:anonymous")]));
    rules.extend(readable(token::NAMESPACE, "kubeadm:kubelet-config", KUBELET_CONFIG, &bootstrappers));
    rules.extend(readable(token::NAMESPACE, "kube-proxy", PROXY_CONFIG, &bootstrappers));
    rules.extend([
        group("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", token::GROUP),
        group("kubeadm:node-autoapprove-bootstrap", &of_signing("nodeclient"), token::GROUP),
        group("kubeadm:node-autoapprove-certificate-rotation", &of_signing("selfnodeclient"), NODES),
        // Those who have joined have one certificate, their kubelet's, and are their own proxy and provisioner.
        group("ferrokube:nodes-are-proxies", "system:node-proxier", NODES),
    ]);
    if published.default_storage {
        rules.push(group("ferrokube:nodes-are-provisioners", default_storage::USER, NODES));
    }
    if published.network_policy {
        rules.push(group("ferrokube:nodes-enforce-network-policies", network_policies::USER, NODES));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Published {
        Published {
            server: "https://10.0.0.1:6443".to_owned(),
            ca: "CA".to_owned(),
            cluster_dns: vec!["10.96.0.10".to_owned()],
            cluster_cidr: "10.244.0.0/16".to_owned(),
            default_storage: true,
            network_policy: true,
        }
    }

    #[test]
    fn cluster_info_is_a_kubeconfig_without_credentials() {
        let [map, ..] = maps(&published());
        let text = map["data"][KUBECONFIG_KEY].as_str().unwrap();
        let read = kube::config::Kubeconfig::from_yaml(text).unwrap();
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Q0E="));
        assert!(read.auth_infos.is_empty());
    }

    #[test]
    fn the_maps_are_configurations_that_components_take() {
        let [_, kubelet, proxy] = maps(&published());
        let kubelet = kubelet::KubeletConfiguration::parse(kubelet["data"][KUBELET_KEY].as_str().unwrap()).unwrap();
        assert_eq!((kubelet.cluster_dns, kubelet.rotate_certificates), (vec!["10.96.0.10".to_owned()], true));
        let proxy = kube_proxy::Config::parse(proxy["data"][PROXY_KEY].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(proxy.cluster_cidr, "10.244.0.0/16");
    }

    #[test]
    fn nobody_but_holders_of_tokens_and_nodes_gets_more_than_the_public_map() {
        for rule in rules(&published()) {
            let subjects = rule["subjects"].as_array().cloned().unwrap_or_default();
            for subject in subjects {
                let name = subject["name"].as_str().unwrap();
                let public = name == "system:anonymous" && rule["metadata"]["name"] == "kubeadm:bootstrap-signer-clusterinfo";
                assert!(public || name == token::GROUP || name == NODES, "{rule}");
            }
        }
    }
}
