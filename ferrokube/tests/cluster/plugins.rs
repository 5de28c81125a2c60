//! Admission plugins that are off by default, and what a configuration file tells plugins: the binary with all of them on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use kube::Client;
use serde_json::{Value, json};

use crate::process::Cluster;
use crate::webhook_server::{self, Serving};

const OFF_BY_DEFAULT: &str =
    "--enable-admission-plugins=EventRateLimit,ImagePolicyWebhook,NamespaceAutoProvision,PodNodeSelector,PodTolerationRestriction";

const TIMEOUT: Duration = Duration::from_secs(30);

/// What the webhooks were shown.
type Shown = Arc<Mutex<Vec<String>>>;

/// A judge of images, and an admission webhook that lets everything pass.
async fn webhooks(shown: Shown) -> Serving {
    let images = |Json(review): Json<Value>| async move {
        let bad = review["spec"]["containers"].as_array().into_iter().flatten().any(|container| container["image"] == "bad");
        let status = if bad {
            json!({ "allowed": false, "reason": "bad is bad" })
        } else {
            json!({ "allowed": true, "auditAnnotations": { "seen": "yes" } })
        };
        Json(json!({ "kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "status": status }))
    };
    let admit = move |headers: HeaderMap, Json(review): Json<Value>| {
        let shown = shown.clone();
        async move {
            let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("nothing").to_owned();
            shown.lock().expect("a lock").push(authorization);
            let response = json!({ "uid": review["request"]["uid"], "allowed": true });
            Json(json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response }))
        }
    };
    webhook_server::serve(Router::new().route("/images", post(images)).route("/admit", post(admit)), || {}).await
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

/// The configuration of each plugin that takes one.
fn configuration(directory: &Path, webhooks: &Serving) -> PathBuf {
    let authority = write(directory, "ca.pem", &webhooks.ca);
    let kubeconfig = json!({
        "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "" } }],
        "clusters": [{ "name": "k", "cluster": { "server": format!("https://127.0.0.1:{}/images", webhooks.port), "certificate-authority": authority } }],
        "users": [{ "name": format!("127.0.0.1:{}", webhooks.port), "user": { "token": "secret" } }],
    });
    let kubeconfig = write(directory, "kubeconfig.json", &kubeconfig.to_string());
    write(
        directory,
        "events.yaml",
        "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: [{type: SourceAndObject, qps: 1, burst: 2}]\n",
    );
    let text = format!(
        r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  path: events.yaml
- name: ImagePolicyWebhook
  configuration: {{imagePolicy: {{kubeConfigFile: {kubeconfig}}}}}
- name: PodNodeSelector
  configuration: {{podNodeSelectorPluginConfig: {{clusterDefaultNodeSelector: "tier=web", strict: "tier=web"}}}}
- name: PodTolerationRestriction
  configuration:
    apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1
    kind: Configuration
    default: [{{key: tier, operator: Exists}}]
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {{enforce: baseline}}
    exemptions: {{namespaces: [exempt]}}
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources: [{{resource: services, matchContains: [services.loadbalancers]}}]
- name: ValidatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: {kubeconfig}
"#,
        kubeconfig = kubeconfig.display()
    );
    write(directory, "admission.yaml", &text)
}

/// POSTs an object; what came back, be it the object or a Status.
async fn create(client: &Client, path: &str, object: &Value) -> Value {
    let request =
        http::Request::post(path).header("content-type", "application/json").body(object.to_string().into_bytes()).expect("a request");
    let body = client.request_text(request).await;
    match body {
        Ok(text) => serde_json::from_str(&text).expect("JSON"),
        Err(kube::Error::Api(status)) => json!({ "code": status.code, "reason": status.reason, "message": status.message }),
        Err(error) => panic!("{error}"),
    }
}

/// Waits until the log has a request about which all of this is told.
async fn await_told(log: &Path, annotations: &[&str]) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if events.any(|event| annotations.iter().all(|annotation| event["annotations"].get(annotation).is_some())) {
            return;
        }
        assert!(Instant::now() < deadline, "{annotations:?} are not told together: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "good" }] } });
    for (name, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][name] = value.clone();
    }
    pod
}

fn refused(code: u16, reason: &str, message: &str) -> Value {
    json!({ "code": code, "reason": reason, "message": message })
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_are_off_by_default_do_their_work_when_they_are_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let shown = Shown::default();
    let serving = webhooks(shown.clone()).await;
    let file = configuration(directory.path(), &serving);
    let log = directory.path().join("audit.log");
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, resources: [{group: '', resources: [pods]}]}]\n";
    let policy = write(directory.path(), "audit.yaml", policy);
    let flags = [
        OFF_BY_DEFAULT,
        "--disable-admission-plugins=ServiceAccount",
        &format!("--admission-control-config-file={}", file.display()),
        &format!("--audit-policy-file={}", policy.display()),
        &format!("--audit-log-path={}", log.display()),
    ];
    let cluster = Cluster::api_server_with(&directory.path().join("data"), &flags);
    let client = cluster.impatient_client().await;

    // A namespace comes with the first object in it; pods get what the cluster has for them.
    let created = create(&client, "/api/v1/namespaces/fresh/pods", &pod(json!({}))).await;
    assert_eq!(created["spec"]["nodeSelector"], json!({ "tier": "web" }), "{created}");
    let tolerated: Vec<&str> =
        created["spec"]["tolerations"].as_array().expect("a list").iter().filter_map(|t| t["key"].as_str()).collect();
    assert!(tolerated.contains(&"tier"), "{tolerated:?}");
    let namespace = client.request::<Value>(http::Request::get("/api/v1/namespaces/fresh").body(Vec::new()).expect("a request")).await;
    assert_eq!(namespace.expect("a namespace")["status"]["phase"], "Active");

    let pods = "/api/v1/namespaces/fresh/pods";
    for (path, spec, expect) in [
        (
            pods,
            json!({ "nodeSelector": { "tier": "db" } }),
            refused(403, "Forbidden", "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector"),
        ),
        (
            "/api/v1/namespaces/strict/pods",
            json!({ "nodeSelector": { "disk": "fast" } }),
            refused(403, "Forbidden", "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist"),
        ),
        (
            pods,
            json!({ "containers": [{ "name": "c", "image": "bad" }] }),
            refused(403, "Forbidden", "pods \"p\" is forbidden: image policy webhook backend denied one or more images: bad is bad"),
        ),
        (
            pods,
            json!({ "hostNetwork": true }),
            refused(
                403,
                "Forbidden",
                "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)",
            ),
        ),
    ] {
        assert_eq!(create(&client, path, &pod(spec)).await, expect);
    }
    let exempt = create(&client, "/api/v1/namespaces/exempt/pods", &pod(json!({ "hostNetwork": true }))).await;
    assert_eq!(exempt["kind"], "Pod", "{exempt}");
    await_told(&log, &["imagepolicywebhook.image-policy.k8s.io/seen", "pod-security.kubernetes.io/exempt"]).await;

    // A namespace may narrow what its pods tolerate.
    let annotations = json!({ "scheduler.alpha.kubernetes.io/tolerationsWhitelist": r#"[{"key":"other","operator":"Exists"}]"# });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "narrow", "annotations": annotations } });
    create(&client, "/api/v1/namespaces", &namespace).await;
    let message = "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist";
    assert_eq!(create(&client, "/api/v1/namespaces/narrow/pods", &pod(json!({}))).await, refused(500, "", message));

    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" }, "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } });
    assert_eq!(
        create(&client, "/api/v1/namespaces/fresh/services", &service).await,
        refused(403, "Forbidden", "services \"s\" is forbidden: insufficient quota to consume: services.loadbalancers")
    );

    // Events of one thing come in bursts that are bounded; those of another are not their concern.
    let event = |name: &str, about: &str| {
        let involved = json!({ "kind": "Pod", "namespace": "fresh", "name": about });
        json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "name": name }, "involvedObject": involved, "source": { "component": "c" } })
    };
    let mut last = Value::Null;
    for n in 0..20 {
        last = create(&client, "/api/v1/namespaces/fresh/events", &event(&format!("e{n}"), "p")).await;
        if last["code"] == 429 {
            break;
        }
    }
    let message = "Too many requests: limit reached on type SourceAndObject for key cPodfreshp";
    assert_eq!(last, refused(429, "TooManyRequests", message));
    assert_eq!(create(&client, "/api/v1/namespaces/fresh/events", &event("other", "q")).await["kind"], "Event");

    // Webhooks are shown what the kubeconfig has for where they are.
    let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &serving.ca);
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": { "name": "h" },
        "webhooks": [{
            "name": "h.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "url": format!("https://127.0.0.1:{}/admit", serving.port), "caBundle": ca },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }],
        }],
    });
    create(&client, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &hook).await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } });
    assert_eq!(create(&client, "/api/v1/namespaces/fresh/configmaps", &map).await["kind"], "ConfigMap");
    assert_eq!(*shown.lock().expect("a lock"), ["Bearer secret"]);
}

#[test]
fn a_server_does_not_start_with_a_configuration_that_makes_no_sense() {
    let directory = tempfile::tempdir().expect("a directory");
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
    let file = write(directory.path(), "admission.yaml", &format!("{head}plugins: [{{name: A, paht: b}}]"));
    let file = format!("--admission-control-config-file={}", file.display());
    for (flags, expect) in [
        (&[file.as_str()][..], "failed to read plugin config: strict decoding error: unknown field \"plugins[0].paht\""),
        (
            &["--enable-admission-plugins=EventRateLimit"][..],
            "couldn't init admission plugin \"EventRateLimit\": limits: Invalid value: null: must not be empty",
        ),
        (
            &["--enable-admission-plugins=ImagePolicyWebhook"][..],
            "couldn't init admission plugin \"ImagePolicyWebhook\": no config specified",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrokube"));
        command.args(["apiserver", "--bind-address", "127.0.0.1", "--secure-port", "0", "--data-dir"]).arg(directory.path().join("data"));
        let output = command.args(flags).stdin(Stdio::null()).output().expect("it ends");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(&format!("failed to apply admission: {expect}")), "{said}");
    }
}
