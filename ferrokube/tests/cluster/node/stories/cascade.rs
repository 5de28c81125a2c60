//! What becomes of a Deployment's pods when it is deleted: they go before it, after it, or stay without an owner until another takes them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::node::asking::until;
use crate::node::place::{Place, container, is_ready, uid, with};

fn deployment(name: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 30,
                    "containers": [with(container("exec sleep 1000"), json!({
                        "lifecycle": { "preStop": { "exec": { "command": ["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done; kill -9 1"] } } },
                    }))],
                },
            },
        },
    })
}

async fn pods(place: &Place, app: &str) -> Vec<Pod> {
    place.list(&format!("app={app}")).await
}

async fn running(place: &Place, app: &str) -> Vec<String> {
    until("its pods run", async || pods(place, app).await.iter().filter(|pod| is_ready(pod)).count() == 2).await;
    let mut uids: Vec<String> = pods(place, app).await.iter().map(uid).collect();
    uids.sort();
    uids
}

/// Lets pods end that wait for it.
async fn let_go(place: &Place, app: &str) {
    for pod in pods(place, app).await {
        let name = pod.metadata.name.expect("a name");
        until("the pod is told or gone", async || {
            place.says(&name, "touch /tmp/go && echo done").await == "done" || !place.is_there::<Pod>(&name).await
        })
        .await;
    }
    until("all pods are gone", async || pods(place, app).await.is_empty()).await;
}

fn how(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }
}

pub(super) async fn story(place: Place) {
    tokio::join!(foreground(&place), background(&place), orphan(&place));
}

async fn foreground(place: &Place) {
    place.create::<Deployment>(deployment("last")).await;
    running(place, "last").await;
    place.delete::<Deployment>("last", &how(PropagationPolicy::Foreground)).await;
    until("its pods are asked to go", async || pods(place, "last").await.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())).await;
    let waiting: Deployment = place.get("last").await;
    assert_eq!(waiting.metadata.finalizers.as_deref(), Some(&["foregroundDeletion".to_owned()][..]));
    assert!(waiting.metadata.deletion_timestamp.is_some());
    let sets: Vec<ReplicaSet> = place.list("app=last").await;
    assert!(sets.len() == 1 && sets[0].metadata.deletion_timestamp.is_some(), "it waits too: {sets:?}");
    let_go(place, "last").await;
    place.until_gone::<Deployment>("last").await;
    assert!(place.list::<ReplicaSet>("app=last").await.is_empty());
}

async fn background(place: &Place) {
    place.create::<Deployment>(deployment("first")).await;
    running(place, "first").await;
    place.delete::<Deployment>("first", &how(PropagationPolicy::Background)).await;
    assert!(!place.is_there::<Deployment>("first").await, "it goes at once");
    until("its pods are asked to go", async || pods(place, "first").await.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()))
        .await;
    assert_eq!(pods(place, "first").await.len(), 2);
    assert!(place.list::<ReplicaSet>("app=first").await.is_empty());
    let_go(place, "first").await;
}

async fn orphan(place: &Place) {
    place.create::<Deployment>(deployment("alone")).await;
    let untouched = running(place, "alone").await;
    place.delete::<Deployment>("alone", &how(PropagationPolicy::Orphan)).await;
    place.until_gone::<Deployment>("alone").await;
    let set = place.list::<ReplicaSet>("app=alone").await.pop().expect("its replica set stays");
    assert_eq!(set.metadata.owner_references.unwrap_or_default(), []);
    let set = set.metadata.name.expect("a name");
    place.delete::<ReplicaSet>(&set, &how(PropagationPolicy::Orphan)).await;
    place.until_gone::<ReplicaSet>(&set).await;
    for pod in pods(place, "alone").await {
        assert_eq!(pod.metadata.owner_references.unwrap_or_default(), []);
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(running(place, "alone").await, untouched);

    // Another one with the same template takes them for its own.
    let hash = pods(place, "alone").await.first().and_then(|pod| pod.metadata.labels.clone()).expect("labels");
    assert!(hash.contains_key("pod-template-hash"), "{hash:?}");
    place.create::<Deployment>(deployment("alone")).await;
    until("they have an owner again", async || {
        let pods = pods(place, "alone").await;
        pods.len() == 2 && pods.iter().all(|pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true)))
    })
    .await;
    assert_eq!(running(place, "alone").await, untouched);
    place.delete::<Deployment>("alone", &how(PropagationPolicy::Background)).await;
    let_go(place, "alone").await;
}
