//! A DaemonSet that surges: on each node the new pod is ready before the old one goes. A form that never gets ready takes nobody's place,
//! and going back to what a ControllerRevision holds leaves the pods that have that form alone.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::tolerations;
use crate::node::asking::{name, until};
use crate::node::place::{Place, container, is_ready, node_of, uid, variable, with};

const NODES: usize = 2;

fn set() -> Value {
    let readiness = json!({ "exec": { "command": ["sh", "-c", "[ $VERSION != bad ]"] }, "periodSeconds": 1, "timeoutSeconds": 20, "initialDelaySeconds": 1 });
    json!({
        "metadata": { "name": "agent" },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "app": "agent" } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": tolerations(),
                    "containers": [with(container("exec sleep 1000"), json!({
                        "env": [{ "name": "VERSION", "value": "1" }],
                        "readinessProbe": readiness,
                    }))],
                },
            },
        },
    })
}

/// The pods by node: version, whether it is ready, and which it is.
async fn pods(place: &Place) -> BTreeMap<String, Vec<(String, bool, String)>> {
    let mut pods: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for pod in place.list::<Pod>("app=agent").await.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let of_node = pods.entry(node_of(pod).to_owned()).or_default();
        of_node.push((variable(pod, "VERSION").unwrap_or_default(), is_ready(pod), uid(pod)));
    }
    pods
}

async fn set_version(place: &Place, version: &str) {
    let mut template = set()["spec"]["template"].clone();
    template["spec"]["containers"][0]["env"][0]["value"] = json!(version);
    place.merge::<DaemonSet>("agent", json!({ "spec": { "template": template } })).await;
}

async fn all_have(place: &Place, version: &str) -> bool {
    let pods = pods(place).await;
    pods.len() == NODES && pods.values().all(|of_node| matches!(&of_node[..], [(of_pod, true, _)] if of_pod == version))
}

/// Waits until all pods have this version; meanwhile every node has one that is ready. Says the most that a node had at once.
async fn roll_out(place: &Place, version: &str) -> usize {
    let mut most = 0;
    until("the new version is everywhere", async || {
        let now = pods(place).await;
        most = now.values().map(Vec::len).max().unwrap_or(0).max(most);
        let served = now.values().filter(|of_node| of_node.iter().any(|(_, is_ready, _)| *is_ready)).count();
        assert_eq!(served, NODES, "a node is without: {now:?}");
        all_have(place, version).await
    })
    .await;
    most
}

async fn revisions(place: &Place) -> Vec<ControllerRevision> {
    let mut revisions: Vec<ControllerRevision> = place.list("app=agent").await;
    revisions.sort_by_key(|revision| revision.revision);
    revisions
}

pub(super) async fn story(place: Place) {
    place.create::<DaemonSet>(set()).await;
    until("it runs on every node", async || all_have(&place, "1").await).await;
    set_version(&place, "2").await;
    assert_eq!(roll_out(&place, "2").await, 2, "old and new side by side");
    place
        .until_is("agent", "it says so", |set: &DaemonSet| {
            let status = set.status.clone().unwrap_or_default();
            Some(status.observed_generation.unwrap_or_default()) == set.metadata.generation
                && status.updated_number_scheduled == Some(2)
                && status.number_available == Some(2)
        })
        .await;
    let good = pods(&place).await;

    set_version(&place, "bad").await;
    // One more pod than nodes may be there at once, and it stays with that.
    until("a new pod stands beside an old one", async || pods(&place).await.values().any(|of_node| of_node.len() == 2)).await;
    let bad: Vec<Pod> = place.list("app=agent").await;
    let bad = bad.iter().find(|pod| variable(pod, "VERSION").as_deref() == Some("bad")).expect("it is there");
    place.is_told(name(bad), "Unhealthy", "Readiness probe failed").await;
    assert_eq!(pods(&place).await.values().map(Vec::len).sum::<usize>(), NODES + 1);
    for (node, of_node) in pods(&place).await {
        let ready: Vec<&str> = of_node.iter().filter(|(_, is_ready, _)| *is_ready).map(|(version, ..)| version.as_str()).collect();
        assert_eq!(ready, ["2"], "{node}");
    }

    let history = revisions(&place).await;
    assert_eq!(history.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let data = history[1].data.0.clone();
    place.api::<DaemonSet>().patch("agent", &PatchParams::default(), &Patch::Strategic(data)).await.expect("it goes back");
    until("all is as it was", async || all_have(&place, "2").await).await;
    assert_eq!(pods(&place).await, good, "nobody was started again");
    until("the revision is the newest", async || {
        let now = revisions(&place).await;
        now.last().map(|revision| (revision.metadata.name.clone(), revision.revision)) == Some((history[1].metadata.name.clone(), Some(4)))
    })
    .await;
}
