//! How controllers end pods that others run: they say why in the pod's status, then delete it.

use client::Object;
use client::clock;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::pod_state;

const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Why a pod is ended, as its condition `DisruptionTarget` says.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    pub reason: &'static str,
    pub message: &'static str,
}

/// The patch of a pod's status; nothing if it says all that already.
fn patch(pod: &Pod, fail: bool, cause: Option<Cause>, now: Timestamp) -> Option<Value> {
    let generation = pod.metadata.generation;
    let mut status = serde_json::Map::new();
    if fail {
        status.insert("phase".to_owned(), json!("Failed"));
        status.insert("observedGeneration".to_owned(), json!(generation));
    }
    if let Some(cause) = cause {
        let old = pod_state::condition(pod, DISRUPTION_TARGET);
        let same = |old: &k8s_openapi::api::core::v1::PodCondition| {
            old.status == "True" && old.reason.as_deref() == Some(cause.reason) && old.message.as_deref() == Some(cause.message)
        };
        if !old.is_some_and(same) {
            let since = old.filter(|old| old.status == "True").and_then(|old| old.last_transition_time.as_ref()).map_or(now, |time| time.0);
            let condition = json!({
                "type": DISRUPTION_TARGET,
                "status": "True",
                "reason": cause.reason,
                "message": cause.message,
                "observedGeneration": generation,
                "lastProbeTime": null,
                "lastTransitionTime": apimachinery_time(since),
            });
            status.insert("conditions".to_owned(), json!([condition]));
        }
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": pod.metadata.uid}, "status": status}))
}

/// A time as the API writes it: whole seconds.
fn apimachinery_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn say(client: &Client, pod: &Pod, fail: bool, cause: Option<Cause>) -> Result<(), kube::Error> {
    let Some(patch) = patch(pod, fail, cause, clock::now()) else { return Ok(()) };
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
}

/// Asks for the pod's deletion, with the time that it has for that.
pub async fn delete(client: &Client, pod: &Pod, cause: Cause, params: &DeleteParams) -> Result<(), kube::Error> {
    say(client, pod, false, Some(cause)).await?;
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    api.delete(pod.name(), params).await.map(|_| ())
}

/// Deletes the pod at once. Nobody runs it any more, so it is said to have failed if it has not ended.
pub async fn fail_and_delete(client: &Client, pod: &Pod, cause: Option<Cause>) -> Result<(), kube::Error> {
    if !pod_state::is_terminal(pod) {
        say(client, pod, true, cause).await?;
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    api.delete(pod.name(), &DeleteParams::default().grace_period(0)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: Cause = Cause { reason: "R", message: "M" };

    #[test]
    fn a_pod_is_told_once_why_it_is_ended() {
        let mut pod = Pod::default();
        pod.metadata.uid = Some("u".to_owned());
        let first = patch(&pod, true, Some(CAUSE), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(first["status"]["phase"], "Failed");
        assert_eq!(first["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        pod.status = serde_json::from_value(first["status"].clone()).unwrap();
        assert_eq!(patch(&pod, false, Some(CAUSE), Timestamp::UNIX_EPOCH), None);
        let other = patch(&pod, false, Some(Cause { message: "N", ..CAUSE }), Timestamp::from_second(9).unwrap()).unwrap();
        assert_eq!(other["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}
