//! The whole scheduler, over HTTP to an API server of the tests.

use client::Shutdown;
use serde_json::{Value, json};

use crate::api::Api;

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})
}

fn pod(name: &str, cpu: &str, priority: i64) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"schedulerName": "default-scheduler", "priority": priority,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"}})
}

fn start(api: &Api) -> (Shutdown, tokio::task::JoinHandle<Result<(), scheduler::Error>>) {
    let shutdown = Shutdown::new();
    let running = tokio::spawn(scheduler::run(api.client(), scheduler::Config::default(), shutdown.clone()));
    (shutdown, running)
}

fn node_of(api: &Api, pod: &str) -> Option<String> {
    api.get("pods", &format!("d/{pod}"))?["spec"]["nodeName"].as_str().map(str::to_owned)
}

fn condition(api: &Api, pod: &str) -> Option<Value> {
    api.get("pods", &format!("d/{pod}"))?["status"]["conditions"].as_array()?.first().cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_and_one_that_fits_nowhere_is_told_why() {
    let api = Api::default();
    api.put("nodes", node("n"));
    api.put("pods", pod("early", "1", 0));
    let (shutdown, running) = start(&api);
    api.put("pods", pod("large", "16", 0));
    assert_eq!(api.until("the binding", |api| node_of(api, "early")).await, "n");
    assert!(api.asked().contains(&"POST /api/v1/namespaces/d/pods/early/binding".to_owned()));
    let told = api.until("the condition", |api| condition(api, "large")).await;
    assert_eq!((&told["type"], &told["status"], &told["reason"]), (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable")));
    assert_eq!(told["observedGeneration"], 1);
    assert_eq!(
        told["message"],
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    // A node that is large enough comes.
    let mut larger = node("larger");
    larger["status"]["allocatable"]["cpu"] = json!("32");
    api.put("nodes", larger);
    assert_eq!(api.until("the binding", |api| node_of(api, "large")).await, "larger");
    let event = |reason: &str| {
        let reason = reason.to_owned();
        move |api: &Api| api.events().into_iter().find(|event| event["reason"] == json!(reason))
    };
    let scheduled = api.until("the event", event("Scheduled")).await;
    assert_eq!((&scheduled["action"], &scheduled["note"]), (&json!("Binding"), &json!("Successfully assigned d/early to n")));
    assert_eq!(api.until("the event", event("FailedScheduling")).await["action"], "Scheduling");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_that_was_done_and_told_to_have_failed_keeps_its_room() {
    let api = Api::default();
    api.deny_bindings();
    api.put("nodes", node("n"));
    api.put("pods", pod("first", "3", 0));
    let (shutdown, running) = start(&api);
    assert_eq!(api.until("the binding", |api| node_of(api, "first")).await, "n");
    api.put("pods", pod("second", "3", 0));
    let told = api.until("the condition", |api| condition(api, "second")).await;
    assert_eq!((&told["reason"], node_of(&api, "second")), (&json!("Unschedulable"), None));
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_made_for_an_important_pod() {
    let api = Api::default();
    api.put("nodes", node("n"));
    let mut low = pod("low", "3", 0);
    low["spec"]["nodeName"] = json!("n");
    api.put("pods", low);
    let (shutdown, running) = start(&api);
    api.put("pods", pod("high", "3", 100));
    assert_eq!(api.until("the binding", |api| node_of(api, "high")).await, "n");
    let asked = api.asked();
    let place = |what: &str| asked.iter().position(|a| a == what).unwrap_or_else(|| panic!("{what} is not in {asked:?}"));
    let (told, removed, bound) = (
        place("PATCH /api/v1/namespaces/d/pods/low/status"),
        place("DELETE /api/v1/namespaces/d/pods/low"),
        place("POST /api/v1/namespaces/d/pods/high/binding"),
    );
    assert!(told < removed && removed < bound, "{asked:?}");
    let event = api.until("the event", |api| api.events().into_iter().find(|event| event["reason"] == "Preempted")).await;
    assert_eq!((&event["action"], &event["note"]), (&json!("Preempting"), &json!("Preempted by pod uid-high on node n")));
    assert_eq!(event["related"]["name"], "high");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_for_its_pod_is_provisioned_on_the_pods_node() {
    let api = Api::default();
    api.put("nodes", node("n"));
    api.put(
        "storageclasses",
        json!({"metadata": {"name": "made"}, "provisioner": "p.example.com", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "uid-c"}, "spec": {"storageClassName": "made",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    let (shutdown, running) = start(&api);
    let mut mounting = pod("p", "1", 0);
    mounting["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    api.put("pods", mounting);
    let told = api.until("the condition", |api| condition(api, "p")).await;
    assert!(told["message"].as_str().is_some_and(|m| m.contains("persistentvolumeclaim \"c\" not found")), "{told}");
    api.put("persistentvolumeclaims", claim);
    let selected = |api: &Api| {
        api.get("persistentvolumeclaims", "d/c").filter(|c| c["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "n")
    };
    let mut claim = api.until("the selected node", selected).await;
    assert_eq!(node_of(&api, "p"), None);
    assert_eq!(
        api.until("the nomination", |api| api.get("pods", "d/p")?["status"]["nominatedNodeName"].as_str().map(str::to_owned)).await,
        "n"
    );
    // The provisioner makes the volume, the controller binds it.
    api.put(
        "persistentvolumes",
        json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}}, "status": {"phase": "Bound"}}),
    );
    claim["spec"]["volumeName"] = json!("v");
    claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
    api.put("persistentvolumeclaims", claim);
    assert_eq!(api.until("the binding", |api| node_of(api, "p")).await, "n");
    shutdown.cancel();
    running.await.expect("it does not panic").expect("it ends well");
}
