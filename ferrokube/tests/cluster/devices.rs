//! Devices: claims from a template are allocated by the scheduler with its own rights, and pods are bound where the devices are.

use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::components::eventually;
use crate::process::Cluster;

async fn create<K>(api: &Api<K>, object: Value)
where
    K: DeserializeOwned + Serialize + Clone + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).expect("it has the form");
    api.create(&PostParams::default(), &object).await.expect("it is created");
}

/// A node without a kubelet, with so many devices.
async fn add_node(client: &Client, name: &str, devices: usize) {
    let nodes: Api<Node> = Api::all(client.clone());
    create(&nodes, json!({ "metadata": { "name": name } })).await;
    let status = json!({ "status": {
        "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" },
        "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": "2100-01-01T00:00:00Z" }],
    } });
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await.expect("its status is written");
    let device = |place: usize| json!({ "name": format!("gpu-{place}"), "attributes": { "memory": { "int": place } } });
    let devices: Vec<Value> = (0..devices).map(device).collect();
    let pool = json!({ "name": name, "generation": 1, "resourceSliceCount": 1 });
    let spec = json!({ "driver": "gpu.example.com", "nodeName": name, "pool": pool, "devices": devices });
    create(&Api::<ResourceSlice>::all(client.clone()), json!({ "metadata": { "name": name }, "spec": spec })).await;
}

fn pod(name: &str) -> Value {
    let container = json!({ "name": "c", "image": "example.com/i:1", "resources": { "claims": [{ "name": "gpu" }] } });
    let claims = json!([{ "name": "gpu", "resourceClaimTemplateName": "one" }]);
    json!({ "metadata": { "name": name }, "spec": { "containers": [container], "resourceClaims": claims } })
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_from_a_template_get_devices_and_their_pods_go_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(&directory.path().join("data"));
    let client = cluster.client().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    eventually("the default service account", || async { accounts.get_opt("default").await.expect("an answer") }).await;
    let expression = json!({ "cel": { "expression": "device.driver == 'gpu.example.com'" } });
    create(&Api::<DeviceClass>::all(client.clone()), json!({ "metadata": { "name": "gpu" }, "spec": { "selectors": [expression] } })).await;
    let large = json!({ "cel": { "expression": "device.attributes['gpu.example.com'].memory > 0" } });
    let request = json!({ "name": "large", "exactly": { "deviceClassName": "gpu", "selectors": [large] } });
    let template = json!({ "metadata": { "name": "one" }, "spec": { "spec": { "devices": { "requests": [request] } } } });
    create(&Api::<ResourceClaimTemplate>::namespaced(client.clone(), "default"), template).await;
    add_node(&client, "small", 1).await;
    add_node(&client, "large", 2).await;

    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), "default");
    create(&pods, pod("first")).await;
    let node_of = async |name: &str| pods.get(name).await.expect("the pod").spec.and_then(|spec| spec.node_name);
    assert_eq!(eventually("a node for the first", || node_of("first")).await, "large");
    let all = claims.list(&ListParams::default()).await.expect("a list").items;
    let status = serde_json::to_value(all[0].status.clone()).expect("it is JSON");
    let result = json!({ "request": "large", "driver": "gpu.example.com", "pool": "large", "device": "gpu-1" });
    assert_eq!(status["allocation"]["devices"]["results"], json!([result]));
    assert_eq!(status["reservedFor"][0]["name"], "first");
    assert!(status["allocation"]["allocationTimestamp"].is_string(), "{status}");

    // There is one large device only; it is free again when its pod is gone and the claim with it.
    create(&pods, pod("second")).await;
    let expected = "0/2 nodes are available: 2 cannot allocate all claims. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    eventually("the reason why the second waits", || async {
        let status = pods.get("second").await.expect("the pod").status?;
        let condition = status.conditions?.into_iter().find(|condition| condition.type_ == "PodScheduled")?;
        (condition.message.as_deref() == Some(expected)).then_some(())
    })
    .await;
    pods.delete("first", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.expect("it is deleted");
    assert_eq!(eventually("a node for the second", || node_of("second")).await, "large");

    evict_by_rule(&client, &pods).await;
}

/// A rule that taints the device of the second pod makes it leave, and tells how far that is.
async fn evict_by_rule(client: &Client, pods: &Api<Pod>) {
    let rules: Api<DeviceTaintRule> = Api::all(client.clone());
    let selector = json!({ "driver": "gpu.example.com", "pool": "large", "device": "gpu-1" });
    let spec = json!({ "deviceSelector": selector, "taint": { "key": "broken", "effect": "NoExecute" } });
    create(&rules, json!({ "metadata": { "name": "broken" }, "spec": spec })).await;
    let reason = eventually("the eviction of the second", || async {
        let pod = pods.get("second").await.expect("the pod");
        pod.metadata.deletion_timestamp.as_ref()?;
        let conditions = pod.status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "DisruptionTarget")?.reason
    })
    .await;
    assert_eq!(reason, "DeletionByDeviceTaintManager");
    let condition = eventually("the rule's condition", || async {
        let conditions = rules.get("broken").await.expect("the rule").status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "EvictionInProgress")
    })
    .await;
    assert_eq!(condition.observed_generation, Some(1));
    assert!(["PodsPendingEviction", "NotStarted", "Completed"].contains(&condition.reason.as_str()), "{condition:?}");
}
