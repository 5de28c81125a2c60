//! `/checkpoint`: has the runtime write a container's state to a file.

use std::path::Path;

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use super::Node;
use super::find;
use super::respond::{self, text};
use super::route::Container;
use crate::cri::v1;

/// Writes the checkpoint and says where it is.
pub async fn checkpoint(node: &dyn Node, container: &Container, query: &[(String, String)], directory: &Path) -> Response<Body> {
    let Some(pod) = node.pod(&container.pod.namespace, &container.pod.name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if !find::has_container(&pod, &container.name) {
        return text(StatusCode::NOT_FOUND, format!("container {} does not exist", container.name));
    }
    let timeout = match query.iter().rfind(|(key, _)| key == "timeout").map(|(_, value)| value.parse::<i64>()) {
        None => 0,
        Some(Ok(timeout)) => timeout,
        Some(Err(_)) => return text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter"),
    };
    // Go's RFC 3339 has no fraction.
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
    let file = format!("checkpoint-{}-{}-{now}.tar", find::full_name(&pod), container.name);
    let location = directory.join(file).to_string_lossy().into_owned();
    match write(node, &pod, &container.name, &location, timeout).await {
        Ok(()) => respond::json(&json!({ "items": [location] })),
        Err(error) => {
            let (namespace, name) = (&container.pod.namespace, &container.pod.name);
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("checkpointing of {namespace}/{name}/{} failed ({error})", container.name))
        }
    }
}

async fn write(node: &dyn Node, pod: &k8s_openapi::api::core::v1::Pod, name: &str, location: &str, timeout: i64) -> Result<(), String> {
    let runtime = node.runtime();
    let id = find::running_container(&*runtime, pod, name).await.map_err(|e| e.to_string())?;
    let container_id = id.ok_or_else(|| format!("container {name} not found"))?;
    let request = v1::CheckpointContainerRequest { container_id, location: location.to_owned(), timeout };
    runtime.checkpoint_container(request).await.map_err(|e| e.to_string())
}
