//! The audit log: what the binary tells of requests, to a file and to a webhook, and what it makes of a policy that is wrong.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{Api, AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::process::Cluster;

const TIMEOUT: Duration = Duration::from_secs(30);

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

fn events(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The events that fit, once there are as many.
async fn await_events(log: &Path, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found: Vec<Value> = events(log).into_iter().filter(|event| fits(event)).collect();
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "{} of {count} events came: {found:#?}", found.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "k": "v" } })).expect("a config map")
}

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, users: ["system:apiserver"]}
- {level: None, userGroups: ["system:serviceaccounts"]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, resources: [{group: "", resources: [configmaps]}], namespaces: [audited]}
- {level: Request, omitStages: [RequestReceived], resources: [{group: "", resources: [namespaces, pods, pods/exec]}]}
- {level: Metadata, nonResourceURLs: ["/version"]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_what_the_policy_wants_of_each_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = write(directory.path(), "policy.yaml", POLICY);
    let log = directory.path().join("logs/audit.log");
    let data = directory.path().join("data");
    let flag = format!("--audit-log-path={}", log.display());
    let cluster = Cluster::start_with(&data, &[&format!("--audit-policy-file={policy}"), &flag, "--disable=kube-controller-manager"]);
    let client = cluster.client().await;
    let namespace = json!({ "metadata": { "name": "audited", "labels": { "pod-security.kubernetes.io/audit": "restricted" } } });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).expect("a namespace")).await.expect("created");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "audited");
    maps.create(&PostParams::default(), &config_map("a")).await.expect("created");
    maps.get("a").await.expect("there");
    maps.list(&ListParams::default()).await.expect("a list");
    let patch = Patch::Merge(json!({ "data": { "k": "w" } }));
    maps.patch("a", &PatchParams::default(), &patch).await.expect("patched");
    maps.get("absent").await.expect_err("not there");
    drop(maps.watch(&WatchParams::default(), "0").await.expect("a watch"));
    maps.delete("a", &DeleteParams::background()).await.expect("deleted");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "audited");
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "password": "hunter2" } });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).expect("a secret")).await.expect("created");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "audited");
    let account = json!({ "metadata": { "name": "default" } });
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "audited");
    accounts.create(&PostParams::default(), &serde_json::from_value(account).expect("an account")).await.expect("created");
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("created");
    assert!(pods.exec("p", ["true"], &AttachParams::default()).await.is_err(), "the pod has no node");
    client.apiserver_version().await.expect("a version");

    let of = |verb: &'static str, resource: &'static str| {
        move |event: &Value| {
            event["verb"] == verb && event["objectRef"]["resource"] == resource && event["objectRef"]["namespace"] == "audited"
        }
    };
    let created = await_events(&log, 2, of("create", "configmaps")).await;
    assert_eq!([&created[0]["stage"], &created[1]["stage"]], ["RequestReceived", "ResponseComplete"]);
    let done = &created[1];
    assert_eq!(created[0]["auditID"], done["auditID"]);
    assert_eq!(created[0]["stageTimestamp"], created[0]["requestReceivedTimestamp"]);
    assert_eq!(done["kind"], "Event");
    assert_eq!(done["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(done["level"], "RequestResponse");
    assert!(done["requestURI"].as_str().expect("a URI").starts_with("/api/v1/namespaces/audited/configmaps?"), "{done}");
    assert_eq!(done["user"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(done["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(done["objectRef"], json!({ "resource": "configmaps", "namespace": "audited", "name": "a", "apiVersion": "v1" }));
    assert_eq!(done["responseStatus"], json!({ "metadata": {}, "code": 201 }));
    assert_eq!(done["requestObject"]["data"], json!({ "k": "v" }));
    assert_eq!((&done["requestObject"]["kind"], &done["requestObject"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(done["responseObject"]["metadata"]["name"], "a");
    assert!(
        done["responseObject"]["metadata"]["uid"].is_string() && done["responseObject"]["metadata"]["managedFields"].is_null(),
        "{done}"
    );
    assert_eq!(done["annotations"]["authorization.k8s.io/decision"], "allow");

    let listed = await_events(&log, 2, of("list", "configmaps")).await;
    assert_eq!(listed[1]["responseObject"]["kind"], "ConfigMapList");
    let patched = await_events(&log, 2, of("patch", "configmaps")).await;
    assert_eq!(patched[1]["requestObject"], json!({ "data": { "k": "w" } }));
    assert_eq!(patched[1]["responseObject"]["data"]["k"], "w");
    let gets = await_events(&log, 4, of("get", "configmaps")).await;
    let missing = gets.iter().find(|event| event["responseStatus"]["code"] == 404).expect("a refusal");
    assert_eq!(missing["responseStatus"]["reason"], "NotFound");
    assert_eq!(missing["responseStatus"]["message"], "configmaps \"absent\" not found");
    let watched = await_events(&log, 3, of("watch", "configmaps")).await;
    let stages: Vec<&Value> = watched.iter().map(|event| &event["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    let deleted = await_events(&log, 2, of("delete", "configmaps")).await;
    assert_eq!(deleted[1]["requestObject"]["kind"], "DeleteOptions");
    assert_eq!(deleted[1]["requestObject"]["propagationPolicy"], "Background");

    let secret = await_events(&log, 2, of("create", "secrets")).await;
    assert_eq!(secret[1]["objectRef"]["name"], "s");
    assert!(!std::fs::read_to_string(&log).expect("a log").contains("hunter2"));
    let pod = await_events(&log, 1, |event| of("create", "pods")(event) && event["objectRef"]["subresource"].is_null()).await;
    assert_eq!(pod[0]["stage"], "ResponseComplete");
    assert!(pod[0]["requestObject"]["spec"]["containers"].is_array() && pod[0]["responseObject"].is_null(), "{pod:?}");
    assert_eq!(pod[0]["annotations"]["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violations = pod[0]["annotations"]["pod-security.kubernetes.io/audit-violations"].as_str().expect("violations");
    assert!(violations.starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"), "{violations}");
    let exec = await_events(&log, 2, |event| event["objectRef"]["subresource"] == "exec").await;
    assert_eq!([&exec[0]["stage"], &exec[1]["stage"]], ["ResponseStarted", "ResponseComplete"]);
    let version = await_events(&log, 2, |event| event["requestURI"] == "/version").await;
    assert!(version[1]["objectRef"].is_null() && version[1]["responseObject"].is_null());
    assert_eq!(version[1]["responseStatus"]["code"], 200);
    assert!(events(&log).iter().all(|event| event["user"]["username"] != "system:apiserver"));
    let metrics = client.request_text(http::Request::get("/metrics").body(Vec::new()).expect("a request")).await.expect("metrics");
    for name in
        ["apiserver_audit_event_total ", "apiserver_audit_level_total{level=\"Metadata\"} ", "apiserver_audit_requests_rejected_total 0"]
    {
        assert!(metrics.contains(name), "{name} is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_not_let_in_and_those_who_act_as_others_are_told_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Metadata, resources: [{group: \"\", resources: [secrets]}]}\n- {level: Metadata, users: [\"system:apiserver\"]}\n";
    let policy = write(directory.path(), "policy.yaml", rules);
    let log = directory.path().join("audit.log");
    let flags = [format!("--audit-policy-file={policy}"), format!("--audit-log-path={}", log.display())];
    let cluster = Cluster::start_with(&directory.path().join("data"), &[&flags[0], &flags[1], "--disable=kube-controller-manager"]);
    let mut config = cluster.anonymous().await;
    config.auth_info.token = Some("wrong".to_owned().into());
    config.default_retry = false;
    let stranger = kube::Client::try_from(config).expect("a client");
    let path = "/api/v1/namespaces/default/secrets";
    let get = |id: &str| http::Request::get(path).header("audit-id", id).body(Vec::new()).expect("a request");
    stranger.request_text(get("stranger")).await.expect_err("refused");
    let client = cluster.client().await;
    let mut request = get("acting");
    request.headers_mut().insert("impersonate-user", "alice".parse().expect("a value"));
    client.request_text(request).await.expect_err("refused");
    let refused = await_events(&log, 1, |event| event["auditID"] == "stranger").await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((&refused[0]["stage"], &refused[0]["user"]), (&json!("ResponseStarted"), &json!({})));
    assert_eq!(refused[0]["responseStatus"]["code"], 401);
    let acting = await_events(&log, 2, |event| event["auditID"] == "acting").await;
    assert!(acting[0]["impersonatedUser"].is_null());
    assert_eq!(acting[1]["impersonatedUser"], json!({ "username": "alice", "groups": ["system:authenticated"] }));
    assert_eq!(acting[1]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(acting[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
    // What the server makes for itself is told of as well.
    let own = |event: &Value| event["objectRef"]["resource"] == "namespaces" && event["objectRef"]["name"] == "kube-system";
    let own = await_events(&log, 1, |event| own(event) && event["stage"] == "ResponseComplete").await;
    assert_eq!((&own[0]["verb"], &own[0]["user"]["username"]), (&json!("create"), &json!("system:apiserver")));
    assert_eq!((&own[0]["responseStatus"]["code"], &own[0]["sourceIPs"]), (&json!(201), &json!(["::1"])));
}

#[derive(Default)]
struct Received {
    lists: Mutex<Vec<Value>>,
    refusals: Mutex<usize>,
}

async fn receive(State(received): State<Arc<Received>>, Json(list): Json<Value>) -> StatusCode {
    let mut refusals = received.refusals.lock().expect("a lock");
    if *refusals > 0 {
        *refusals -= 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    received.lists.lock().expect("a lock").push(list);
    StatusCode::OK
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_batches_again_until_it_takes_them() {
    let received = Arc::new(Received { refusals: Mutex::new(2), ..Received::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let app = Router::new().route("/events", post(receive)).with_state(received.clone());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let directory = tempfile::tempdir().expect("a directory");
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: Metadata, verbs: [create], namespaces: [default]}\n";
    let policy = write(directory.path(), "policy.yaml", rules);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: w, cluster: {{server: \"http://127.0.0.1:{port}/events\"}}}}]\ncontexts: [{{name: w, context: {{cluster: w, user: \"\"}}}}]\ncurrent-context: w\n"
    );
    let kubeconfig = write(directory.path(), "webhook.yaml", &kubeconfig);
    let flags = [
        format!("--audit-policy-file={policy}"),
        format!("--audit-webhook-config-file={kubeconfig}"),
        "--audit-webhook-batch-max-wait=300ms".to_owned(),
        "--audit-webhook-initial-backoff=50ms".to_owned(),
        "--disable=kube-controller-manager".to_owned(),
    ];
    let cluster = Cluster::start_with(&directory.path().join("data"), &flags.each_ref().map(String::as_str));
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    for n in 0..20 {
        maps.create(&PostParams::default(), &config_map(&format!("m{n}"))).await.expect("created");
    }
    let deadline = Instant::now() + TIMEOUT;
    let names = || {
        let lists = received.lists.lock().expect("a lock");
        let mut names: Vec<String> = lists
            .iter()
            .flat_map(|list| list["items"].as_array().expect("items").clone())
            .filter(|event| event["objectRef"]["resource"] == "configmaps")
            .map(|event| event["objectRef"]["name"].as_str().unwrap_or_default().to_owned())
            .filter(|name| name.starts_with('m'))
            .collect();
        names.sort();
        names
    };
    while names().len() < 20 {
        assert!(Instant::now() < deadline, "only {:?} came", names());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lists = received.lists.lock().expect("a lock").clone();
    assert_eq!((&lists[0]["kind"], &lists[0]["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    assert!(lists[0]["items"][0]["kind"].is_null());
    assert!(lists.len() < 20, "events came one by one");
    assert_eq!(*received.refusals.lock().expect("a lock"), 0);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_log_that_cannot_be_written_refuses_requests() {
    let directory = tempfile::tempdir().expect("a directory");
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: RequestResponse, namespaces: [default], resources: [{group: \"\", resources: [configmaps]}]}\n";
    let policy = write(directory.path(), "policy.yaml", rules);
    let flags =
        [format!("--audit-policy-file={policy}"), "--audit-log-path=/dev/full".to_owned(), "--audit-log-mode=blocking-strict".to_owned()];
    let flags = [&flags[0], &flags[1], &flags[2], "--audit-log-maxsize=0", "--disable=kube-controller-manager"];
    let cluster = Cluster::start_with(&directory.path().join("data"), &flags);
    let client = cluster.impatient_client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let refused = maps.create(&PostParams::default(), &config_map("a")).await.expect_err("refused").to_string();
    assert!(refused.contains("failed to store audit event"), "{refused}");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    maps.create(&PostParams::default(), &config_map("a")).await.expect("what is not told is not refused");
    let metrics = client.request_text(http::Request::get("/metrics").body(Vec::new()).expect("a request")).await.expect("metrics");
    assert!(metrics.contains("apiserver_audit_requests_rejected_total 1\n"), "{metrics}");
    assert!(metrics.contains("apiserver_audit_error_total{plugin=\"log\"} 1\n"), "{metrics}");
}

#[test]
fn a_policy_that_is_wrong_keeps_the_server_from_starting() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = write(directory.path(), "policy.yaml", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Much\n");
    let output = Command::new(env!("CARGO_BIN_EXE_ferrokube"))
        .args(["apiserver", "--bind-address", "127.0.0.1", "--secure-port", "0", "--audit-log-path=-", "--data-dir"])
        .arg(directory.path().join("data"))
        .arg(format!("--audit-policy-file={policy}"))
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let expect = format!(
        "loading audit policy file: rules[0].level: Unsupported value: \"Much\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\": from file {policy}"
    );
    assert!(said.contains(&expect), "{said}");
}
