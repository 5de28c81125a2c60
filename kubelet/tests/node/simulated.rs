//! Pods on a simulated runtime.

use std::sync::Arc;
use std::time::Duration;

use kubelet::cri::Runtime;
use kubelet::cri::fake::{Fake, Script, Simulation};
use serde_json::{Value, json};

use crate::api::Server;
use crate::{condition, config, create, delete, events, pod_with, start, until};

fn one_container() -> Value {
    json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [{"name": "a", "image": "nginx"}]})
}

fn ended(exit_code: i32) -> Fake {
    let script = Box::new(move |_: &_| Script { runs_for: Some(Duration::from_millis(20)), exit_code });
    Fake::new(Simulation { script, ..Simulation::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_and_becomes_ready() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(Fake::default())));
    let node = until("a ready node", || {
        let node = server.get("nodes", "", "n1").unwrap_or(Value::Null);
        if condition(&node["status"], "Ready") == "True" { Ok(node) } else { Err(node) }
    })
    .await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.37.2");
    assert_eq!(node["status"]["capacity"]["pods"], "110");
    let lease = until("a lease", || server.get("leases", "kube-node-lease", "n1").ok_or(Value::Null)).await;
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_until_it_is_deleted() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let fake = Fake::default();
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(fake.clone())));
    create(&server, "p", one_container()).await;
    let pod = pod_with(&server, "p", "a ready pod", |status| condition(status, "Ready") == "True").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    let told = until("all events", || {
        let told = events(&server);
        if told.iter().any(|event| event.starts_with("Started")) { Ok(told) } else { Err(json!(told)) }
    })
    .await;
    for expected in ["Pulling: Pulling image \"nginx\"", "Created: Container created", "Started: Container started"] {
        assert!(told.iter().any(|event| event == expected), "{expected} is not among {told:#?}");
    }
    delete(&server, "p").await;
    until("that it is gone", || server.get("pods", "default", "p").map_or(Ok(()), Err)).await;
    let mut left = usize::MAX;
    for _ in 0..200 {
        left = fake.list_pod_sandboxes(None).await.expect("it answers").len() + fake.list_containers(None).await.expect("it answers").len();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(left, 0);
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_never_restarts_succeeds_or_fails() {
    for (exit_code, phase, reason) in [(0, "Succeeded", "Completed"), (3, "Failed", "Error")] {
        let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
        let kubelet = start(&server, config(directory.path()), Some(Arc::new(ended(exit_code))));
        create(&server, "p", json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "nginx"}]})).await;
        let pod = pod_with(&server, "p", "a final phase", |status| status["phase"] == phase).await;
        let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(exit_code), &json!(reason)));
        kubelet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_keeps_failing_waits() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(ended(1))));
    create(&server, "p", one_container()).await;
    let pod =
        pod_with(&server, "p", "a crash loop", |status| status["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
            .await;
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!((&pod["status"]["phase"], &container["restartCount"]), (&json!("Running"), &json!(1)));
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    let message = container["state"]["waiting"]["message"].as_str().expect("it has one");
    assert!(message.starts_with("back-off 10s restarting failed container=a pod=p_default("), "{message}");
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_end_before_the_others_start() {
    let script = Box::new(|config: &kubelet::cri::v1::ContainerConfig| {
        let is_init = config.metadata.as_ref().is_some_and(|metadata| metadata.name.starts_with('i'));
        Script { runs_for: is_init.then(|| Duration::from_millis(10)), exit_code: 0 }
    });
    let fake = Fake::new(Simulation { script, ..Simulation::default() });
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(fake)));
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "nginx"}],
        "initContainers": [{"name": "i1", "image": "nginx"}, {"name": "i2", "image": "nginx"}]});
    create(&server, "p", spec).await;
    let pod = pod_with(&server, "p", "a ready pod", |status| condition(status, "Ready") == "True").await;
    for at in 0..2 {
        assert_eq!(pod["status"]["initContainerStatuses"][at]["state"]["terminated"]["reason"], "Completed");
        assert_eq!(pod["status"]["initContainerStatuses"][at]["ready"], true);
    }
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_wait_for_whoever_has_a_word_in_when_the_network_is_ready() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let fake = Fake::default();
    let (open, is_open) = tokio::sync::watch::channel(false);
    let (asked, asks) = std::sync::mpsc::channel();
    let mut config = config(directory.path());
    config.network_gate = Some(Arc::new(move |_, addresses| {
        let (mut is_open, asked) = (is_open.clone(), asked.clone());
        Box::pin(async move {
            asked.send(addresses).map_err(|error| error.to_string())?;
            is_open.wait_for(|open| *open).await.map(drop).map_err(|error| error.to_string())
        })
    }));
    let kubelet = start(&server, config, Some(Arc::new(fake.clone())));
    create(&server, "p", one_container()).await;
    let pod = pod_with(&server, "p", "an address", |status| status["podIP"].is_string()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(fake.list_containers(None).await.expect("it answers").is_empty());
    open.send(true).expect("the kubelet waits");
    pod_with(&server, "p", "a ready pod", |status| condition(status, "Ready") == "True").await;
    assert_eq!(
        asks.try_iter().collect::<Vec<_>>(),
        [[pod["status"]["podIP"].as_str().expect("an address")]],
        "asked once, with the addresses"
    );
    create(&server, "host", json!({"hostNetwork": true, "containers": [{"name": "a", "image": "nginx"}]})).await;
    pod_with(&server, "host", "a ready pod", |status| condition(status, "Ready") == "True").await;
    assert!(asks.try_iter().next().is_none(), "nobody has a word in the host's own network");
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_starts_again_leaves_pods_running() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let fake = Fake::default();
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(fake.clone())));
    create(&server, "p", one_container()).await;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    let before = pod_with(&server, "p", "a ready pod", |status| condition(status, "Ready") == "True").await;
    kubelet.stop().await;
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(fake.clone())));
    create(&server, "q", one_container()).await;
    pod_with(&server, "q", "a ready pod", |status| condition(status, "Ready") == "True").await;
    let after = server.get("pods", "default", "p").expect("it is there");
    assert_eq!((id(&after), &after["status"]["phase"]), (id(&before), &json!("Running")));
    assert_eq!(fake.list_containers(None).await.expect("it answers").len(), 2);
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_runs_and_has_a_mirror() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let manifests = directory.path().join("manifests");
    std::fs::create_dir_all(&manifests).expect("it can be made");
    let file = manifests.join("web.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: nginx}], terminationGracePeriodSeconds: 1}\n")
        .expect("it can be written");
    let mut config = config(directory.path());
    config.configuration.static_pod_path = manifests.display().to_string();
    let kubelet = start(&server, config, Some(Arc::new(Fake::default())));
    let mirror = pod_with(&server, "web-n1", "a ready mirror", |status| condition(status, "Ready") == "True").await;
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    delete(&server, "web-n1").await;
    let uid = mirror["metadata"]["uid"].clone();
    until("another mirror", || {
        let now = server.get("pods", "default", "web-n1").unwrap_or(Value::Null);
        let came_back = now["metadata"]["uid"].is_string() && now["metadata"]["uid"] != uid;
        if came_back && condition(&now["status"], "Ready") == "True" { Ok(()) } else { Err(now) }
    })
    .await;
    std::fs::remove_file(&file).expect("it can be removed");
    until("that the mirror is gone", || server.get("pods", "default", "web-n1").map_or(Ok(()), Err)).await;
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_fit_is_rejected() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(Fake::default())));
    until("a node", || server.get("nodes", "", "n1").ok_or(Value::Null)).await;
    let spec = json!({"containers": [{"name": "a", "image": "nginx", "resources": {"requests": {"cpu": "10000"}}}]});
    create(&server, "p", spec).await;
    let pod = pod_with(&server, "p", "a failed pod", |status| status["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    delete(&server, "p").await;
    until("that it is gone", || server.get("pods", "default", "p").map_or(Ok(()), Err)).await;
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_past_its_deadline_fails() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(Fake::default())));
    let mut spec = one_container();
    spec["activeDeadlineSeconds"] = json!(1);
    create(&server, "p", spec).await;
    let pod = pod_with(&server, "p", "a failed pod", |status| status["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_ask_for_all_to_be_restarted() {
    let script = Box::new(|config: &kubelet::cri::v1::ContainerConfig| {
        let asks = config.metadata.as_ref().is_some_and(|metadata| metadata.name == "asks" && metadata.attempt == 0);
        Script { runs_for: asks.then(|| Duration::from_millis(20)), exit_code: 7 }
    });
    let fake = Fake::new(Simulation { script, ..Simulation::default() });
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(fake)));
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "other", "image": "nginx"},
        {"name": "asks", "image": "nginx", "restartPolicy": "Never", "restartPolicyRules": rules}]});
    create(&server, "p", spec).await;
    let pod = pod_with(&server, "p", "that all were restarted", |status| {
        let all = status["containerStatuses"].as_array().cloned().unwrap_or_default();
        condition(status, "Ready") == "True" && all.iter().all(|container| container["restartCount"] == 1)
    })
    .await;
    assert_eq!(condition(&pod["status"], "AllContainersRestarting"), "False");
    kubelet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_makes_room_for_a_critical_one() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let kubelet = start(&server, config(directory.path()), Some(Arc::new(Fake::default())));
    let node = until("the node's processors", || {
        server.get("nodes", "", "n1").filter(|node| node["status"]["allocatable"]["cpu"].is_string()).ok_or(Value::Null)
    })
    .await;
    // As much as the node has: a second such pod does not fit.
    let with_all = |priority: i32| {
        let mut spec = one_container();
        spec["priority"] = json!(priority);
        spec["containers"][0]["resources"] = json!({"requests": {"cpu": node["status"]["allocatable"]["cpu"]}});
        spec
    };
    create(&server, "ordinary", with_all(0)).await;
    pod_with(&server, "ordinary", "a ready pod", |status| condition(status, "Ready") == "True").await;
    create(&server, "second", with_all(0)).await;
    let second = pod_with(&server, "second", "a rejected pod", |status| status["phase"] == "Failed").await;
    assert_eq!(second["status"]["reason"], "OutOfcpu");
    create(&server, "critical", with_all(2_000_000_000)).await;
    let preempted = pod_with(&server, "ordinary", "a preempted pod", |status| status["phase"] == "Failed").await;
    let status = &preempted["status"];
    assert_eq!((&status["reason"], &status["message"]), (&json!("Preempting"), &json!("Preempted in order to admit critical pod")));
    assert_eq!(condition(status, "DisruptionTarget"), "True");
    pod_with(&server, "critical", "a ready pod", |status| condition(status, "Ready") == "True").await;
    let told = events(&server);
    assert!(told.iter().any(|event| event == "Preempting: Preempted in order to admit critical pod"), "{told:#?}");
    kubelet.stop().await;
}
