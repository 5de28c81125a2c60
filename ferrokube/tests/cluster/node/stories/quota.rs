//! A ResourceQuota refuses what is too much with words that say why, and counts pods as they come, end and go.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::node::asking::{object, until};
use crate::node::place::{Place, container, is_ready, phase, with};

fn pod_spec(command: &str, cpu: Option<&str>) -> Value {
    let resources = cpu.map_or(json!({}), |cpu| json!({ "requests": { "cpu": cpu } }));
    json!({
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 0,
        "containers": [with(container(command), json!({ "resources": resources }))],
    })
}

fn pod(name: &str, command: &str, cpu: Option<&str>) -> Value {
    json!({ "metadata": { "name": name }, "spec": with(pod_spec(command, cpu), json!({ "restartPolicy": "Never" })) })
}

async fn uses(place: &Place, pods: &str, cpu: &str) {
    let wanted = BTreeMap::from([("pods", pods), ("requests.cpu", cpu)]);
    place
        .until_is("quota", &format!("it counts {wanted:?}"), |quota: &ResourceQuota| {
            let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
            let used: BTreeMap<&str, &str> = used.into_iter().flatten().map(|(name, amount)| (name.as_str(), amount.0.as_str())).collect();
            used == wanted
        })
        .await;
}

async fn refused(place: &Place, pod: Value) -> String {
    match place.api::<Pod>().create(&PostParams::default(), &object(pod)).await {
        Err(kube::Error::Api(status)) if status.code == 403 => status.message,
        other => panic!("not refused: {other:?}"),
    }
}

pub(super) async fn story(place: Place) {
    let quota = json!({ "metadata": { "name": "quota" }, "spec": { "hard": { "pods": "2", "requests.cpu": "100m" } } });
    place.create::<ResourceQuota>(quota).await;
    uses(&place, "0", "0").await;

    place.create::<Pod>(pod("one", "exec sleep 1000", Some("30m"))).await;
    uses(&place, "1", "30m").await;
    assert_eq!(
        refused(&place, pod("greedy", "true", Some("80m"))).await,
        "pods \"greedy\" is forbidden: exceeded quota: quota, requested: requests.cpu=80m, used: requests.cpu=30m, limited: requests.cpu=100m"
    );
    assert_eq!(
        refused(&place, pod("vague", "true", None)).await,
        "pods \"vague\" is forbidden: failed quota: quota: must specify requests.cpu for: c"
    );
    place.create::<Pod>(pod("short", "true", Some("70m"))).await;
    assert_eq!(
        refused(&place, pod("third", "true", Some("10m"))).await,
        "pods \"third\" is forbidden: exceeded quota: quota, requested: pods=1,requests.cpu=10m, used: pods=2,requests.cpu=100m, limited: pods=2,requests.cpu=100m"
    );
    // One that has ended needs nothing any more, one that is gone neither.
    place.until_is("short", "it has ended", |pod: &Pod| phase(pod) == "Succeeded").await;
    uses(&place, "1", "30m").await;
    place.delete::<Pod>("one", &DeleteParams::default()).await;
    uses(&place, "0", "0").await;

    // A Deployment gets what is left, says why it has no more, and the rest when there is room.
    let deployment = json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": pod_spec("exec sleep 1000", Some("30m")) },
        },
    });
    place.create::<Deployment>(deployment).await;
    let words = "exceeded quota: quota, requested: pods=1, used: pods=2, limited: pods=2";
    place
        .until_is("web", "it says why it has too few pods", |deployment: &Deployment| {
            let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| {
                condition.type_.as_deref() == Some("ReplicaFailure")
                    && condition.status.as_deref() == Some("True")
                    && condition.message.as_deref().unwrap_or_default().contains(words)
            })
        })
        .await;
    uses(&place, "2", "60m").await;
    place.merge::<ResourceQuota>("quota", json!({ "spec": { "hard": { "pods": "3" } } })).await;
    // The controller of replica sets tries again later and later; a change of scale makes it try at once.
    place.merge::<Deployment>("web", json!({ "spec": { "replicas": 4 } })).await;
    until("the third is there", async || place.list::<Pod>("app=web").await.iter().filter(|pod| is_ready(pod)).count() == 3).await;
    uses(&place, "3", "90m").await;
}
