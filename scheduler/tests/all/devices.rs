//! Claims and devices: the whole scheduler, over HTTP to an API server of the tests.

use client::Shutdown;
use serde_json::{Value, json};

use crate::api::Api;

fn start(api: &Api) -> (Shutdown, tokio::task::JoinHandle<Result<(), scheduler::Error>>) {
    let shutdown = Shutdown::new();
    let running = tokio::spawn(scheduler::run(api.client(), scheduler::Config::default(), shutdown.clone()));
    (shutdown, running)
}

/// A node with one device.
fn api() -> Api {
    let api = Api::default();
    let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
    api.put("nodes", json!({"metadata": {"name": "n", "uid": "n"}, "status": {"allocatable": allocatable}}));
    api.put("deviceclasses", json!({"metadata": {"name": "gpu"}, "spec": {}}));
    api.put(
        "resourceslices",
        json!({"metadata": {"name": "s"}, "spec": {"driver": "d.com", "nodeName": "n", "devices": [{"name": "x"}],
            "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}}}),
    );
    api
}

fn claim(name: &str) -> Value {
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    json!({"metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")}, "spec": {"devices": {"requests": requests}}})
}

fn pod(name: &str, claim: &str) -> Value {
    let claims = json!([{"name": "c", "resourceClaimName": claim}]);
    json!({"metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i"}], "resourceClaims": claims},
        "status": {"phase": "Pending"}})
}

fn node_of(api: &Api, pod: &str) -> Option<String> {
    api.get("pods", &format!("d/{pod}"))?["spec"]["nodeName"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_allocated_and_reserved_before_its_pod_is_bound() {
    let api = api();
    let (shutdown, running) = start(&api);
    // The pod is not tried before its claim is there.
    api.put("pods", pod("first", "a"));
    api.put("pods", pod("second", "b"));
    api.put("resourceclaims", claim("a"));
    assert_eq!(api.until("the binding", |api| node_of(api, "first")).await, "n");
    let given = api.get("resourceclaims", "d/a").expect("it is there");
    assert_eq!(given["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    let result = json!({"request": "r", "driver": "d.com", "pool": "n", "device": "x"});
    assert_eq!(given["status"]["allocation"]["devices"]["results"], json!([result]));
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
    assert_eq!(given["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"], json!([field]));
    assert_eq!(given["status"]["reservedFor"], json!([{"resource": "pods", "name": "first", "uid": "uid-first"}]));
    let asked = api.asked();
    let place = |what: &str| asked.iter().position(|a| a == what).unwrap_or_else(|| panic!("{what} is not in {asked:?}"));
    let claims = "/apis/resource.k8s.io/v1/namespaces/d/resourceclaims/a";
    let written = place(&format!("PUT {claims}/status"));
    assert!(place(&format!("PUT {claims}")) < written && written < place("POST /api/v1/namespaces/d/pods/first/binding"), "{asked:?}");

    // The device is taken.
    api.put("resourceclaims", claim("b"));
    let told = |api: &Api| api.get("pods", "d/second")?["status"]["conditions"][0]["message"].as_str().map(str::to_owned);
    assert_eq!(
        api.until("the condition", told).await,
        "0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    // A claim that goes leaves its device to others.
    api.delete("resourceclaims", "d/a");
    assert_eq!(api.until("the binding", |api| node_of(api, "second")).await, "n");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_its_devices_to_get_ready() {
    let api = api();
    api.put(
        "resourceslices",
        json!({"metadata": {"name": "s"}, "spec": {"driver": "d.com", "nodeName": "n", "pool": {"name": "n", "generation": 2, "resourceSliceCount": 1},
            "devices": [{"name": "x", "bindingConditions": ["Attached"], "bindingFailureConditions": ["Failed"]}]}}),
    );
    api.put("resourceclaims", claim("a"));
    api.put("pods", pod("p", "a"));
    let (shutdown, running) = start(&api);
    let waiting = |api: &Api| api.events().into_iter().find(|event| event["reason"] == "BindingConditionsPending");
    let event = api.until("the event", waiting).await;
    assert_eq!((&event["action"], &event["note"]), (&json!("Scheduling"), &json!("waiting for binding conditions for device on node n")));
    assert_eq!(node_of(&api, "p"), None);
    let mut claim = api.get("resourceclaims", "d/a").expect("it is there");
    let condition =
        json!({"type": "Attached", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    claim["status"]["devices"] = json!([{"driver": "d.com", "pool": "n", "device": "x", "conditions": [condition]}]);
    api.put("resourceclaims", claim);
    assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "n");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_its_devices_already_waits_for_them_too() {
    let api = api();
    let mut claim = claim("a");
    let result = json!({"request": "r", "driver": "d.com", "pool": "n", "device": "x", "bindingConditions": ["Attached"]});
    let reserved = json!({"resource": "pods", "name": "p", "uid": "uid-p"});
    claim["status"] = json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": [reserved]});
    api.put("resourceclaims", claim);
    api.put("pods", pod("p", "a"));
    let (shutdown, running) = start(&api);
    let waiting = |api: &Api| api.events().into_iter().find(|event| event["reason"] == "BindingConditionsPending");
    api.until("the event", waiting).await;
    assert_eq!(node_of(&api, "p"), None);
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_devices_are_out_of_reach_is_given_others() {
    let api = api();
    let mut claim = claim("a");
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
    let result = json!({"request": "r", "driver": "d.com", "pool": "gone", "device": "x"});
    claim["status"] = json!({"allocation": {"nodeSelector": selector, "devices": {"results": [result]}}});
    api.put("resourceclaims", claim);
    api.put("pods", pod("p", "a"));
    let (shutdown, running) = start(&api);
    assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "n");
    let given = api.get("resourceclaims", "d/a").expect("it is there");
    assert_eq!(given["status"]["allocation"]["devices"]["results"][0]["pool"], "n");
    let told: Vec<String> = api.events().iter().filter_map(|event| event["note"].as_str().map(str::to_owned)).collect();
    let expected = "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert!(told.iter().any(|note| note == expected), "{told:?}");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

/// A pod that asks for a resource that the class `gpu` stands for.
fn extended(api: &Api, name: &str) {
    api.put("deviceclasses", json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "x.com/gpu"}}));
    let mut pod = pod(name, "none");
    pod["spec"]["resourceClaims"] = json!([]);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1", "x.com/gpu": "1"}});
    api.put("pods", pod);
}

fn made_for(api: &Api, pod: &str) -> Option<Value> {
    let name = api.get("pods", &format!("d/{pod}"))?["status"]["extendedResourceClaimStatus"]["resourceClaimName"].as_str()?.to_owned();
    api.get("resourceclaims", &format!("d/{name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_a_class_stands_for_is_claimed_and_told_of_before_the_pod_is_bound() {
    let api = api();
    extended(&api, "first");
    let (shutdown, running) = start(&api);
    assert_eq!(api.until("the binding", |api| node_of(api, "first")).await, "n");
    let claim = made_for(&api, "first").expect("the pod says which claim is its");
    assert_eq!(claim["metadata"]["annotations"], json!({"resource.kubernetes.io/extended-resource-claim": "true"}));
    assert_eq!(claim["metadata"]["generateName"], "first-extended-resources-");
    let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
    assert_eq!(claim["spec"]["devices"]["requests"], json!([{"name": "container-0-request-1", "exactly": exactly}]));
    let result = json!({"request": "container-0-request-1", "driver": "d.com", "pool": "n", "device": "x"});
    assert_eq!(claim["status"]["allocation"]["devices"]["results"], json!([result]));
    assert_eq!(claim["status"]["reservedFor"], json!([{"resource": "pods", "name": "first", "uid": "uid-first"}]));
    let mapping = json!({"containerName": "c", "resourceName": "x.com/gpu", "requestName": "container-0-request-1"});
    let pod = api.get("pods", "d/first").expect("it is there");
    assert_eq!(pod["status"]["extendedResourceClaimStatus"]["requestMappings"], json!([mapping]));

    // The device is taken.
    extended(&api, "second");
    let told = |api: &Api| api.get("pods", "d/second")?["status"]["conditions"][0]["message"].as_str().map(str::to_owned);
    assert_eq!(
        api.until("the condition", told).await,
        "0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_made_in_an_earlier_attempt_goes_before_the_next() {
    let api = api();
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true});
    let mut stale = claim("p-extended-resources-1");
    stale["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    stale["metadata"]["ownerReferences"] = json!([owner]);
    stale["metadata"]["finalizers"] = json!(["resource.kubernetes.io/delete-protection"]);
    stale["status"] = json!({"allocation": {"devices": {"results": [{"request": "r", "driver": "d.com", "pool": "n", "device": "x"}]}}});
    api.put("resourceclaims", stale);
    extended(&api, "p");
    let (shutdown, running) = start(&api);
    assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "n");
    assert_eq!(api.get("resourceclaims", "d/p-extended-resources-1"), None);
    assert!(made_for(&api, "p").is_some());
    let told: Vec<String> = api.events().iter().filter_map(|event| event["note"].as_str().map(str::to_owned)).collect();
    let expected = "0/1 nodes are available: 1 cannot schedule extended resource claim. deletion of ResourceClaim completed, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert!(told.iter().any(|note| note == expected), "{told:?}");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_made_for_a_pod_that_could_not_be_bound_goes() {
    let api = api();
    extended(&api, "p");
    api.refuse_bindings();
    let (shutdown, running) = start(&api);
    let removed = |api: &Api| api.asked().iter().find(|asked| asked.starts_with("DELETE") && asked.contains("resourceclaims")).cloned();
    let path = api.until("the removal", removed).await;
    let name = path.rsplit('/').next().expect("it has a name");
    assert!(name.starts_with("p-extended-resources-"), "{path}");
    assert_eq!(api.get("resourceclaims", &format!("d/{name}")), None);
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}
