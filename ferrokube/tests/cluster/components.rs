//! Components in processes of their own, under upstream's names and flags, beside an API server that is alone.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;

use crate::process::{Cluster, Component};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until there is something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn deployment() -> Deployment {
    let template = json!({
        "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "example.com/web:1" }] },
    });
    serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": template },
    }))
    .expect("a deployment")
}

/// A node that takes pods, without a kubelet.
async fn add_node(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({ "metadata": { "name": "n" } })).expect("a node");
    nodes.create(&PostParams::default(), &node).await.expect("a node is created");
    let status = json!({ "status": {
        "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" },
        "capacity": { "cpu": "4", "memory": "8Gi", "pods": "110" },
        "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": "2100-01-01T00:00:00Z" }],
    } });
    nodes.patch_status("n", &PatchParams::default(), &Patch::Strategic(&status)).await.expect("its status is written");
}

fn flag(name: &str, value: &Path) -> String {
    format!("--{name}={}", value.display())
}

/// A port that nobody listens on just now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A client of a component's own server, with the administrator's certificate or without.
async fn client_of(port: u16, cluster: &Cluster, with_certificate: bool) -> Client {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    config.cluster_url = format!("https://127.0.0.1:{port}").parse().expect("a URL");
    // The server's certificate vouches for itself.
    config.accept_invalid_certs = true;
    if !with_certificate {
        config.auth_info = kube::config::AuthInfo::default();
    }
    Client::try_from(config).expect("a client")
}

/// The text at a path.
pub async fn read(client: &Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(http::Request::get(path).body(Vec::new()).expect("a request")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_tells_everybody_that_it_is_well_and_its_metrics_to_those_who_may() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let port = free_port();
    let flags = [flag("kubeconfig", cluster.kubeconfig()), format!("--secure-port={port}"), "--bind-address=127.0.0.1".to_owned()];
    let _scheduler = Component::start(directory.path(), "kube-scheduler", &flags.each_ref().map(String::as_str));
    let (admin, anybody) = (client_of(port, &cluster, true).await, client_of(port, &cluster, false).await);
    let health = eventually("health", || async { read(&anybody, "/healthz").await.ok() }).await;
    assert_eq!(health, "ok");
    let details = read(&anybody, "/readyz?verbose").await.expect("an answer");
    assert_eq!(details, "[+]leaderElection ok\nreadyz check passed\n");
    let refused = read(&anybody, "/metrics").await.expect_err("nobody in particular may not");
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    assert_eq!((status.code, status.message.as_str()), (403, r#"forbidden: User "system:anonymous" cannot get path "/metrics""#));
    let leads = "leader_election_master_status{name=\"kube-scheduler\"} 1\n";
    eventually("metrics of a leader", || async {
        let metrics = read(&admin, "/metrics").await.expect("the administrator may");
        metrics.contains(leads).then_some(())
    })
    .await;
}

fn start_manager(directory: &Path, cluster: &Cluster) -> Component {
    start_manager_on(directory, cluster, 0)
}

/// A manager and the administrator's client of its own server.
pub async fn start_manager_at(directory: &Path, cluster: &Cluster) -> (Component, Client) {
    let port = free_port();
    (start_manager_on(directory, cluster, port), client_of(port, cluster, true).await)
}

fn start_manager_on(directory: &Path, cluster: &Cluster, port: u16) -> Component {
    let pki = directory.join("data/pki");
    let flags = [
        flag("kubeconfig", cluster.kubeconfig()),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        "--controllers=*,bootstrapsigner,tokencleaner,-ttl".to_owned(),
        flag("root-ca-file", &pki.join("ca.crt")),
        flag("cluster-signing-cert-file", &pki.join("ca.crt")),
        flag("cluster-signing-key-file", &pki.join("ca.key")),
        flag("service-account-private-key-file", &pki.join("sa.key")),
    ];
    Component::start(directory, "kube-controller-manager", &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_of_its_own_puts_aggregated_roles_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let roles: Api<ClusterRole> = Api::all(cluster.client().await);
    assert!(roles.get("admin").await.expect("the role").rules.is_none_or(|rules| rules.is_empty()), "nobody has put it together");
    let _manager = start_manager(directory.path(), &cluster);
    let reads = |role: &ClusterRole, resource: &str| {
        role.rules.iter().flatten().any(|rule| rule.resources.iter().flatten().any(|name| name == resource))
    };
    eventually("rules of admin", || async { reads(&roles.get("admin").await.expect("the role"), "secrets").then_some(()) }).await;

    let more = serde_json::from_value(json!({
        "metadata": { "name": "more", "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } },
        "rules": [{ "apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"] }],
    }))
    .expect("a role");
    roles.create(&PostParams::default(), &more).await.expect("a role is created");
    // What may be viewed may be edited and administered: these gather from each other.
    for name in ["view", "edit", "admin"] {
        eventually(name, || async { reads(&roles.get(name).await.expect("the role"), "things").then_some(()) }).await;
    }
    roles.delete("more", &DeleteParams::default()).await.expect("it is deleted");
    for name in ["view", "edit", "admin"] {
        eventually(name, || async { (!reads(&roles.get(name).await.expect("the role"), "things")).then_some(()) }).await;
    }
    let managers = roles.get("view").await.expect("the role").metadata.managed_fields.unwrap_or_default();
    assert!(managers.iter().any(|m| m.manager.as_deref() == Some("clusterrole-aggregation-controller")), "{managers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_and_scheduler_bring_a_deployment_to_a_node_and_let_go_of_their_leases() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let client = cluster.client().await;
    let kubeconfig = flag("kubeconfig", cluster.kubeconfig());
    let manager = start_manager(directory.path(), &cluster);
    let scheduler = Component::start(directory.path(), "kube-scheduler", &[&kubeconfig, "--secure-port=0", "--leader-elect"]);

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    eventually("the default service account", || async { accounts.get_opt("default").await.expect("an answer") }).await;
    add_node(&client).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment()).await.expect("a deployment is created");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    eventually("two pods on the node", || async {
        let list = pods.list(&ListParams::default().labels("app=web")).await.expect("an answer");
        let bound = list.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some("n"))).count();
        (bound == 2).then_some(())
    })
    .await;

    // Each controller wrote as its own service account, and the scheduler by the newer API for events.
    let account = "system:serviceaccount:kube-system:deployment-controller";
    assert!(Api::<ServiceAccount>::namespaced(client.clone(), "kube-system").get("deployment-controller").await.is_ok(), "{account}");
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let (scaled, scheduled) = eventually("events", || async {
        let list = events.list(&ListParams::default()).await.expect("an answer").items;
        let find = |reason: &str| list.iter().find(|event| event.reason.as_deref() == Some(reason)).cloned();
        find("ScalingReplicaSet").zip(find("Scheduled"))
    })
    .await;
    assert_eq!(scaled.source.and_then(|source| source.component).as_deref(), Some("deployment-controller"));
    assert_eq!((scheduled.action.as_deref(), scheduled.reporting_component.as_deref()), (Some("Binding"), Some("default-scheduler")));

    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let holder = async |name: &str| leases.get(name).await.expect("a lease").spec.and_then(|spec| spec.holder_identity);
    assert!(holder("kube-controller-manager").await.is_some_and(|holder| holder.contains('_')));
    assert!(manager.stop() && scheduler.stop(), "both end in order");
    for name in ["kube-controller-manager", "kube-scheduler"] {
        assert_eq!(holder(name).await.as_deref(), Some(""), "{name} has let go");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_request_is_signed_and_its_certificate_lets_its_owner_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let client = cluster.client().await;
    let _manager = start_manager(directory.path(), &cluster);

    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "alice");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "dev");
    let text = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    let mut request = CertificateSigningRequest::default();
    request.metadata.name = Some("alice".to_owned());
    request.spec.request = ByteString(text.into_bytes());
    request.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
    request.spec.usages = Some(vec!["client auth".to_owned(), "digital signature".to_owned()]);
    request.spec.expiration_seconds = Some(3600);
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut approved = requests.create(&PostParams::default(), &request).await.expect("a request is created");
    let condition = json!({ "type": "Approved", "status": "True", "reason": "Test", "message": "approved" });
    approved.status.get_or_insert_default().conditions = Some(vec![serde_json::from_value(condition).expect("a condition")]);
    requests.replace_subresource("approval", "alice", &PostParams::default(), &approved).await.expect("it is approved");
    let certificate = eventually("a certificate", || async {
        requests.get("alice").await.expect("an answer").status.and_then(|status| status.certificate)
    })
    .await;

    let mut kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let user = kubeconfig.auth_infos[0].auth_info.as_mut().expect("a user");
    user.client_certificate_data = Some(base64(&certificate.0));
    user.client_key_data = Some(base64(key.serialize_pem().as_bytes()).into());
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    let reviews: Api<SelfSubjectReview> = Api::all(Client::try_from(config).expect("a client"));
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.expect("alice is let in");
    let info = review.status.and_then(|status| status.user_info).expect("who it is");
    assert_eq!(info.username.as_deref(), Some("alice"));
    assert_eq!(info.groups, Some(vec!["dev".to_owned(), "system:authenticated".to_owned()]));
}

/// Bytes as JSON has them.
fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(ByteString(bytes.to_vec())).ok().and_then(|value| value.as_str().map(str::to_owned)).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_does_not_exist_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kube-apiserver"] {
        assert!(!Component::start(directory.path(), name, &["--no-such-flag"]).wait(), "{name}");
    }
}
