//! The objects that the work is done on: a namespace with its service account, pods, config maps. Sizes are those of ordinary objects.

use anyhow::ensure;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use super::connection::Connection;

/// The namespace of the pods.
pub const PODS: &str = "bench-pods";
/// Bytes of payload of a config map; with its metadata it is somewhat more.
const CONFIG_MAP_PAYLOAD_BYTES: usize = 512;

pub fn pods_path() -> String {
    format!("/api/v1/namespaces/{PODS}/pods")
}

pub fn pod_path(number: u64) -> String {
    format!("{}/{}", pods_path(), pod_name(number))
}

pub fn config_maps_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// Makes a namespace with a service account `default`, as the controllers would; one that is there already stays.
pub async fn namespace(connection: &mut Connection, name: &str) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    ensure_created(connection, "/api/v1/namespaces", &namespace).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    ensure_created(connection, &format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await
}

async fn ensure_created(connection: &mut Connection, path: &str, object: &serde_json::Value) -> anyhow::Result<()> {
    let (status, body) = connection.exchange(Method::POST, path, Bytes::from(object.to_string())).await?;
    ensure!(status.is_success() || status == StatusCode::CONFLICT, "POST {path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// Takes away what `namespace` and the work made there.
pub async fn remove(connection: &mut Connection, namespace: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}");
    for path in [format!("{path}/pods"), format!("{path}/configmaps"), format!("{path}/serviceaccounts"), path] {
        let (status, body) = connection.exchange(Method::DELETE, &path, Bytes::new()).await?;
        ensure!(status.is_success() || status == StatusCode::NOT_FOUND, "DELETE {path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

fn pod_name(number: u64) -> String {
    format!("web-6d4cf56db6-{number:05}")
}

/// A pod as a Deployment would make it; served with defaults and ownership it is about 3 KB of JSON.
pub fn pod(number: u64) -> Bytes {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(number),
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6", "tier": "frontend"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
        },
        "spec": {
            "containers": [{
                "name": "web",
                "image": "registry.example/web:1.27.3",
                "args": ["--listen=:8080", "--log-level=info"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "MODE", "value": "production"}
                ],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5}
            }]
        }
    });
    Bytes::from(pod.to_string())
}

/// A config map of about 1 KB as events carry it.
pub fn config_map(number: u64) -> Bytes {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": format!("settings-{number:05}")},
        "data": {"payload": "x".repeat(CONFIG_MAP_PAYLOAD_BYTES)}
    });
    Bytes::from(map.to_string())
}
