//! The CustomResourceDefinitions of projects that people use, and objects of them: they are taken from the published Go modules when the
//! test runs, and none is kept here.
//!
//! Needs `go` and its module proxy; a project that cannot be had is said to be skipped. `FERROKUBE_TEST_KUBECTL` names a kubectl, which
//! then explains the kinds.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use http::{Method, Request};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, GroupVersionKind, Patch, PatchParams, WatchEvent, WatchParams};
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::process::Cluster;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// A definition of a megabyte takes a debug build some seconds.
const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(120);

/// A published module, and where in it definitions are: a file, or a folder of them.
struct Project {
    module: &'static str,
    version: &'static str,
    definitions: &'static str,
    objects: fn() -> Vec<Value>,
}

const PROJECTS: &[Project] = &[
    Project { module: "github.com/cert-manager/cert-manager", version: "v1.21.2", definitions: "deploy/crds", objects: cert_manager },
    Project { module: "github.com/argoproj/argo-cd/v3", version: "v3.5.0", definitions: "manifests/crds", objects: argo_cd },
    Project {
        module: "github.com/argoproj/argo-workflows/v3",
        version: "v3.7.4",
        definitions: "manifests/base/crds/minimal",
        objects: argo_workflows,
    },
    Project { module: "github.com/argoproj/argo-rollouts", version: "v1.9.0", definitions: "manifests/crds", objects: argo_rollouts },
    Project {
        module: "github.com/prometheus-operator/prometheus-operator",
        version: "v0.85.0",
        definitions: "example/prometheus-operator-crd",
        objects: prometheus,
    },
    Project { module: "sigs.k8s.io/gateway-api", version: "v1.6.0", definitions: "config/crd/standard", objects: gateway },
    Project { module: "github.com/crossplane/crossplane/v2", version: "v2.1.0", definitions: "cluster/crds", objects: crossplane },
    Project { module: "knative.dev/serving", version: "v0.51.0", definitions: "config/core/300-resources", objects: knative },
    Project { module: "github.com/kedacore/keda/v2", version: "v2.21.0", definitions: "config/crd/bases", objects: keda },
    Project { module: "github.com/fluxcd/source-controller", version: "v1.8.0", definitions: "config/crd/bases", objects: flux },
    Project { module: "istio.io/api", version: "v1.32.0", definitions: "kubernetes/customresourcedefinitions.gen.yaml", objects: istio },
];

fn object(api_version: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "sample"}, "spec": spec})
}

fn cert_manager() -> Vec<Value> {
    vec![
        object("cert-manager.io/v1", "Issuer", json!({"selfSigned": {}})),
        object(
            "cert-manager.io/v1",
            "Certificate",
            json!({"secretName": "tls", "dnsNames": ["example.com"], "issuerRef": {"name": "sample"}}),
        ),
    ]
}

fn argo_cd() -> Vec<Value> {
    let here = json!({"server": "https://kubernetes.default.svc", "namespace": "default"});
    vec![
        object("argoproj.io/v1alpha1", "AppProject", json!({"sourceRepos": ["*"], "destinations": [here]})),
        // A finalizer without a path, as upstream admits for custom resources alone.
        json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {"name": "sample", "finalizers": ["resources-finalizer.argocd.argoproj.io"]},
            "spec": {
                "project": "sample",
                "destination": here,
                "source": {"repoURL": "https://example.com/r.git", "path": "app", "targetRevision": "HEAD"},
            },
        }),
    ]
}

fn argo_workflows() -> Vec<Value> {
    let steps = json!({"entrypoint": "main", "templates": [{"name": "main", "container": {"image": "busybox", "command": ["true"]}}]});
    vec![
        object("argoproj.io/v1alpha1", "Workflow", steps.clone()),
        object("argoproj.io/v1alpha1", "CronWorkflow", json!({"schedules": ["* * * * *"], "workflowSpec": steps})),
    ]
}

fn argo_rollouts() -> Vec<Value> {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let strategy = json!({"canary": {"steps": [{"setWeight": 20}, {"pause": {}}]}});
    vec![object(
        "argoproj.io/v1alpha1",
        "Rollout",
        json!({"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "template": template, "strategy": strategy}),
    )]
}

fn prometheus() -> Vec<Value> {
    vec![
        object("monitoring.coreos.com/v1", "Prometheus", json!({"replicas": 2, "resources": {"requests": {"memory": "400Mi"}}})),
        object(
            "monitoring.coreos.com/v1",
            "ServiceMonitor",
            json!({"selector": {"matchLabels": {"app": "a"}}, "endpoints": [{"port": "web", "interval": "30s"}]}),
        ),
        object(
            "monitoring.coreos.com/v1",
            "PrometheusRule",
            json!({"groups": [{"name": "g", "rules": [{"alert": "Down", "expr": "up == 0", "for": "5m"}]}]}),
        ),
    ]
}

fn gateway() -> Vec<Value> {
    vec![
        object("gateway.networking.k8s.io/v1", "GatewayClass", json!({"controllerName": "example.com/controller"})),
        object(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            json!({"gatewayClassName": "sample", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}),
        ),
        object(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            json!({"parentRefs": [{"name": "sample"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}),
        ),
    ]
}

fn crossplane() -> Vec<Value> {
    vec![object("pkg.crossplane.io/v1", "Provider", json!({"package": "example.com/provider:v1"}))]
}

fn knative() -> Vec<Value> {
    vec![object("serving.knative.dev/v1", "Service", json!({"template": {"spec": {"containers": [{"image": "example.com/app"}]}}}))]
}

fn keda() -> Vec<Value> {
    let trigger =
        json!({"type": "cron", "metadata": {"timezone": "UTC", "start": "0 6 * * *", "end": "0 20 * * *", "desiredReplicas": "2"}});
    vec![object("keda.sh/v1alpha1", "ScaledObject", json!({"scaleTargetRef": {"name": "web"}, "triggers": [trigger]}))]
}

fn flux() -> Vec<Value> {
    vec![object(
        "source.toolkit.fluxcd.io/v1",
        "GitRepository",
        json!({"url": "https://example.com/r.git", "interval": "1m", "ref": {"branch": "main"}}),
    )]
}

fn istio() -> Vec<Value> {
    let route = json!({"route": [{"destination": {"host": "web", "port": {"number": 80}}}]});
    vec![
        object("networking.istio.io/v1", "VirtualService", json!({"hosts": ["web"], "http": [route]})),
        object("networking.istio.io/v1", "DestinationRule", json!({"host": "web", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}})),
    ]
}

/// The folder of a module, downloaded if need be; `None`, with a message, where it cannot be had.
fn download(directory: &Path, project: &Project) -> Option<PathBuf> {
    let module = format!("{}@{}", project.module, project.version);
    let told = Command::new("go").args(["mod", "download", "-json", &module]).current_dir(directory).output();
    let answer = told.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok()).unwrap_or_default();
    let folder = answer["Dir"].as_str().filter(|_| answer["Error"].is_null()).map(PathBuf::from);
    if folder.is_none() {
        writeln!(std::io::stderr(), "skipped, {module} cannot be had: {}", answer["Error"]).expect("stderr");
    }
    folder
}

/// The YAML documents of a project that are definitions.
fn definitions(folder: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.expect("an entry").path()).collect(),
        Err(_) => vec![folder.to_owned()],
    };
    files.sort();
    let is_definition = |text: &&str| text.lines().any(|line| line == "kind: CustomResourceDefinition");
    let texts = files.iter().filter(|f| f.extension().is_some_and(|e| e == "yaml")).map(|f| std::fs::read_to_string(f).expect("a file"));
    texts.flat_map(|text| text.split("\n---\n").filter(is_definition).map(str::to_owned).collect::<Vec<_>>()).collect()
}

async fn install(client: &Client, definition: String) -> CustomResourceDefinition {
    let request = Request::post(DEFINITIONS).header("Content-Type", "application/yaml").body(definition.into_bytes()).expect("a request");
    let created: CustomResourceDefinition = client.request(request).await.expect("the definition is valid");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = created.metadata.name.expect("a name");
    let deadline = Instant::now() + ESTABLISHED_TIMEOUT;
    loop {
        let now = definitions.get(&name).await.expect("it is there");
        let conditions = now.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        assert!(conditions.iter().all(|c| c.type_ != "NonStructuralSchema"), "{name}: {conditions:?}");
        if conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
            return now;
        }
        assert!(Instant::now() < deadline, "{name} is not established: {conditions:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(client: &Client, path: &str, accept: &str) -> Value {
    let request = Request::builder().method(Method::GET).uri(path).header("Accept", accept).body(Vec::new()).expect("a request");
    client.request(request).await.expect(path)
}

/// Waits until a version is served: that is told a moment after the definition is established.
async fn served(client: &Client, api_version: &str) {
    let deadline = Instant::now() + ESTABLISHED_TIMEOUT;
    while client.list_api_group_resources(api_version).await.is_err() {
        assert!(Instant::now() < deadline, "{api_version} is not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Applies an object, and looks at it in every way that clients have.
async fn live(client: &Client, definition: &CustomResourceDefinition, object: &Value) {
    let text = |field: &str| object[field].as_str().expect("a text").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').expect("a group");
    served(client, &api_version).await;
    let plural = &definition.spec.names.plural;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &kind), plural);
    let is_namespaced = definition.spec.scope == "Namespaced";
    let objects: Api<DynamicObject> = match is_namespaced {
        true => Api::namespaced_with(client.clone(), "default", &resource),
        false => Api::all_with(client.clone(), &resource),
    };
    let before = objects.list(&Default::default()).await.expect("a list").metadata.resource_version.expect("a revision");
    let params = PatchParams::apply("tests");
    let applied = objects.patch("sample", &params, &Patch::Apply(object)).await.expect("applied");
    let again = objects.patch("sample", &params, &Patch::Apply(object)).await.expect("applied again");
    assert_eq!(applied.metadata.resource_version, again.metadata.resource_version, "{kind}: nothing has changed");
    assert!(applied.metadata.managed_fields.is_some_and(|fields| fields.iter().any(|f| f.manager.as_deref() == Some("tests"))));

    let events = objects.watch(&WatchParams::default().timeout(30), &before).await.expect("a watch");
    let first = events.boxed().try_next().await.expect("an event");
    assert!(matches!(&first, Some(WatchEvent::Added(object)) if object.metadata.name.as_deref() == Some("sample")), "{kind}: {first:?}");

    let namespace = if is_namespaced { "namespaces/default/" } else { "" };
    let path = format!("/apis/{api_version}/{namespace}{plural}");
    let table = get(client, &path, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let declared = definition.spec.versions.iter().find(|v| v.name == version).expect("the version is declared");
    let mut columns = vec!["Name".to_owned()];
    match declared.additional_printer_columns.as_deref().unwrap_or_default() {
        [] => columns.push("Age".to_owned()),
        own => columns.extend(own.iter().map(|column| column.name.clone())),
    }
    let shown: Vec<&str> = table["columnDefinitions"].as_array().expect("columns").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(shown, columns, "{kind}");
    assert_eq!(table["rows"][0]["cells"].as_array().map(Vec::len), Some(columns.len()), "{kind}");
    assert_eq!(table["rows"][0]["cells"][0], "sample", "{kind}");

    let document = get(client, &format!("/openapi/v3/apis/{api_version}"), "application/json").await;
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let gvk = json!([{"group": group, "kind": kind, "version": version}]);
    let schema = schemas.values().find(|schema| schema["x-kubernetes-group-version-kind"] == gvk).expect("the kind is described");
    assert!(schema["properties"]["metadata"].is_object(), "{kind}");
}

/// What kubectl says of a kind, if there is a kubectl.
fn explain(cluster: &Cluster, definition: &CustomResourceDefinition, object: &Value) {
    let Some(kubectl) = std::env::var_os("FERROKUBE_TEST_KUBECTL") else { return };
    let api_version = object["apiVersion"].as_str().expect("a text");
    let output = Command::new(kubectl)
        .args(["explain", &definition.spec.names.plural, "--api-version", api_version, "--recursive", "--kubeconfig"])
        .arg(cluster.kubeconfig())
        .output()
        .expect("kubectl runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("FIELDS:") && told.contains("metadata\t<ObjectMeta>"), "{told}");
}

#[tokio::test]
async fn definitions_of_widely_used_projects_install_and_their_objects_live() {
    let modules = tempfile::tempdir().expect("a directory");
    std::fs::write(modules.path().join("go.mod"), "module modules\n").expect("a file");
    let projects: Vec<(&Project, PathBuf)> = PROJECTS.iter().filter_map(|p| Some((p, download(modules.path(), p)?))).collect();
    if projects.is_empty() {
        return;
    }
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.client().await;
    let mut installed = Vec::new();
    for (project, folder) in &projects {
        let definitions = definitions(&folder.join(project.definitions));
        assert!(!definitions.is_empty(), "{} has no definitions", project.module);
        let all = futures::future::join_all(definitions.into_iter().map(|definition| install(&client, definition))).await;
        installed.extend(all);
    }
    for (project, _) in &projects {
        for object in (project.objects)() {
            let of_kind = |d: &&CustomResourceDefinition| {
                object["kind"] == *d.spec.names.kind
                    && object["apiVersion"].as_str().is_some_and(|v| v.starts_with(&format!("{}/", d.spec.group)))
            };
            let definition = installed.iter().find(of_kind).expect("its definition is installed");
            live(&client, definition, &object).await;
            explain(&cluster, definition, &object);
        }
    }
}
