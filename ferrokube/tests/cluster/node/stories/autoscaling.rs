//! A HorizontalPodAutoscaler sees by the kubelets' measurements that pods are busy, makes more of them, and takes them away when they rest.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::node::asking::{name, until};
use crate::node::place::{Place, container, with};

const MOST: i32 = 3;

fn is_true(autoscaler: &HorizontalPodAutoscaler, kind: &str, reason: &str) -> bool {
    let conditions = autoscaler.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == kind && condition.status == "True" && condition.reason.as_deref() == Some(reason))
}

async fn replicas(place: &Place) -> i32 {
    let deployment: Deployment = place.get("busy").await;
    deployment.spec.replicas.unwrap_or_default()
}

pub(super) async fn story(place: Place) {
    // As busy as its limit lets it, until it is told to rest.
    let busy = "while [ ! -e /tmp/rest ]; do :; done; exec sleep 1000";
    let resources = json!({ "requests": { "cpu": "40m", "memory": "8Mi" }, "limits": { "cpu": "100m" } });
    let deployment = json!({
        "metadata": { "name": "busy" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "busy" } },
            "template": {
                "metadata": { "labels": { "app": "busy" } },
                "spec": { "terminationGracePeriodSeconds": 0, "containers": [with(container(busy), json!({ "resources": resources }))] },
            },
        },
    });
    place.create::<Deployment>(deployment).await;
    let metric =
        json!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } });
    let autoscaler = json!({
        "metadata": { "name": "busy" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "busy" },
            "minReplicas": 1,
            "maxReplicas": MOST,
            "metrics": [metric],
            "behavior": { "scaleDown": { "stabilizationWindowSeconds": 0 } },
        },
    });
    place.create::<HorizontalPodAutoscaler>(autoscaler).await;

    until("there are as many as may be", async || replicas(&place).await == MOST).await;
    place.is_told("busy", "SuccessfulRescale", "reason: cpu resource utilization (percentage of request) above target").await;
    let seen =
        place.until_is("busy", "it knows how busy they are", |autoscaler| is_true(autoscaler, "ScalingActive", "ValidMetricFound")).await;
    let utilization = |autoscaler: &HorizontalPodAutoscaler| {
        autoscaler.status.as_ref()?.current_metrics.as_ref()?.first()?.resource.as_ref()?.current.average_utilization
    };
    assert!(utilization(&seen).is_some_and(|percent| percent > 50), "{:?}", utilization(&seen));
    assert!(is_true(&seen, "ScalingLimited", "TooManyReplicas"), "more would be better: {:?}", seen.status);

    let told = |pod: Pod| {
        let place = &place;
        async move {
            until("the pod is told to rest", async || place.says(name(&pod), "touch /tmp/rest && echo done").await == "done").await;
        }
    };
    until("all pods are there", async || {
        place.list::<Pod>("app=busy").await.iter().filter(|pod| crate::node::place::is_ready(pod)).count() == 3
    })
    .await;
    futures::future::join_all(place.list::<Pod>("app=busy").await.into_iter().map(told)).await;
    until("one is enough", async || replicas(&place).await == 1).await;
    place.is_told("busy", "SuccessfulRescale", "New size: 1; reason: All metrics below target").await;
    until("one is left", async || place.list::<Pod>("app=busy").await.len() == 1).await;
}
