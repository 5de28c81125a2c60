//! `/containerLogs`: what a container has said, from the file that the runtime writes.
//!
//! Decides which container's file is meant; [`read`] reads it.

mod line;
mod options;
mod read;
mod tail;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;

pub use options::Options;

use super::respond::text;
use super::route::Container;
use super::{Node, find};

/// Chunks between the reader of a file and a slow client; the reader waits when there are more.
const MAX_CHUNKS_WAITING: usize = 16;

/// Streams the log.
pub async fn serve(node: &dyn Node, container: &Container, query: &[(String, String)]) -> Response<Body> {
    let options = match Options::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(refusal) => return text(refusal.code(), refusal.message()),
    };
    let pod_name = &container.pod.name;
    let Some(pod) = node.pod(&container.pod.namespace, pod_name) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod_name}\" does not exist"));
    };
    if !find::has_container(&pod, &container.name) {
        return text(StatusCode::NOT_FOUND, format!("container \"{}\" not found in pod \"{pod_name}\"", container.name));
    }
    let full_id = match logged_container(&pod, &container.name, options.previous) {
        Ok(id) => id,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let id = full_id.split_once("://").map_or(full_id.as_str(), |(_, id)| id).to_owned();
    let runtime = node.runtime();
    let (chunks, receiver) = mpsc::channel::<Bytes>(MAX_CHUNKS_WAITING);
    tokio::spawn(async move {
        let outcome = match runtime.container_status(id.clone(), false).await {
            Ok(answer) => {
                let path = answer.status.map(|status| status.log_path).unwrap_or_default();
                read::read(&path, &id, &options, &*runtime, &chunks).await
            }
            Err(error) => {
                tracing::debug!(%error, container = full_id, "no status of a container whose log is read");
                Err(read::Error::NoContainer(full_id))
            }
        };
        if let Err(error) = outcome {
            // The head of the answer has gone already: what is wrong can only be said in its body, as upstream does. That fails
            // if the client is gone, who then has no use for it.
            let _ = chunks.send(Bytes::from(error.to_string())).await;
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), receiver))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The id of the container whose log is meant, with the runtime's scheme; or why there is none (yet).
fn logged_container(pod: &Pod, name: &str, previous: bool) -> Result<String, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    let status = pod.status.as_ref().and_then(|status| {
        let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten().find(|status| status.name == name)
    });
    let Some(status) = status else {
        return Err(format!("container \"{name}\" in pod \"{pod_name}\" is not available"));
    };
    let terminated = || Err(format!("container \"{name}\" in pod \"{pod_name}\" is terminated"));
    let state = status.state.clone().unwrap_or_default();
    if previous {
        return last_id(status).ok_or_else(|| format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found"));
    }
    if state.running.is_some() {
        return Ok(status.container_id.clone().unwrap_or_default());
    }
    if let Some(ended) = state.terminated {
        // Empty if the next container could not be started: then the last one's log is what there is.
        return ended.container_id.filter(|id| !id.is_empty()).or_else(|| last_id(status)).map_or_else(terminated, Ok);
    }
    if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
        return last_id(status).map_or_else(terminated, Ok);
    }
    let Some(waiting) = state.waiting else {
        return Err(format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start - no logs yet"));
    };
    let why = match waiting.reason.as_deref().unwrap_or("") {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        reason => reason,
    };
    Err(format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {why}"))
}

fn last_id(status: &ContainerStatus) -> Option<String> {
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    last.container_id.clone().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn meant(status: Value, previous: bool) -> Result<String, String> {
        let mut status = status;
        status["name"] = json!("c");
        for (field, value) in [("image", json!("")), ("imageID", json!("")), ("ready", json!(false)), ("restartCount", json!(0))] {
            status[field] = value;
        }
        let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}});
        logged_container(&serde_json::from_value(pod).unwrap(), "c", previous)
    }

    #[test]
    fn the_container_that_ran_last_is_meant() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": id}});
        let check = |status: Value, previous: bool, expected: Result<&str, &str>| {
            assert_eq!(meant(status.clone(), previous), expected.map(str::to_owned).map_err(str::to_owned), "{status}");
        };
        check(json!({"state": {"running": {}}, "containerID": "containerd://2"}), false, Ok("containerd://2"));
        check(json!({"state": {"running": {}}, "containerID": "2", "lastState": ended("1")}), true, Ok("1"));
        check(
            json!({"state": {"running": {}}, "containerID": "2"}),
            true,
            Err("previous terminated container \"c\" in pod \"p\" not found"),
        );
        check(json!({"state": ended("2"), "lastState": ended("1")}), false, Ok("2"));
        check(json!({"state": ended(""), "lastState": ended("1")}), false, Ok("1"));
        check(json!({"state": ended("")}), false, Err("container \"c\" in pod \"p\" is terminated"));
        check(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended("1")}), false, Ok("1"));
        let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        check(waiting("ContainerCreating"), false, Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"));
        check(waiting("ErrImagePull"), false, Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"));
        check(
            waiting("ImagePullBackOff"),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
        );
        check(json!({}), false, Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"));
        assert_eq!(logged_container(&Pod::default(), "c", false).unwrap_err(), "container \"c\" in pod \"\" is not available");
    }
}
