//! Attempts to get more than one was given: a table of what a developer, a node, a pod's account and nobody try, each refused.

use http::StatusCode;
use kube::Client;
use serde_json::{Value, json};

use super::{ask, with_token};
use crate::process::Cluster;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const DEFAULT: &str = "/api/v1/namespaces/default";

/// Who attempts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Edits the namespace `default`, and may write roles and bindings there without having what they grant.
    Developer,
    /// Node `n1`, and `n2` is another.
    Node,
    /// An account of a pod, with no role at all.
    Account,
    Nobody,
}

struct Attempt {
    who: Who,
    what: &'static str,
    method: &'static str,
    path: String,
    body: Value,
    headers: &'static [(&'static str, &'static str)],
}

fn attempt(who: Who, what: &'static str, method: &'static str, path: impl Into<String>, body: Value) -> Attempt {
    Attempt { who, what, method, path: path.into(), body, headers: &[] }
}

fn posing(who: Who, what: &'static str, headers: &'static [(&'static str, &'static str)]) -> Attempt {
    Attempt { who, what, method: "GET", path: format!("{DEFAULT}/configmaps"), body: Value::Null, headers }
}

fn role(kind: &str, rules: Value) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": "more" }, "rules": rules })
}

fn binding(kind: &str, role_kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": "more" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "dev" }],
    })
}

fn pod(name: &str, spec: Value) -> Value {
    let mut all = json!({ "containers": [{ "name": "c", "image": "i" }] });
    all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "annotations": { "kubernetes.io/config.mirror": "x" } }, "spec": all })
}

fn csr(signer: &str, common_name: &str, organization: &str) -> Value {
    use base64::Engine;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = parameters.serialize_request(&key).expect("a request").pem().expect("PEM");
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": { "generateName": "more-" },
        "spec": { "request": base64::engine::general_purpose::STANDARD.encode(request), "signerName": signer, "usages": ["client auth"] },
    })
}

fn token_request(extra: Value) -> Value {
    let mut spec = json!({ "audiences": [] });
    spec.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec })
}

fn by_developer() -> Vec<Attempt> {
    use Who::Developer as D;
    let all = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    let secrets = json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] }]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    vec![
        attempt(D, "a role for everything", "POST", &roles, role("Role", all.clone())),
        attempt(
            D,
            "a role for a verb that one lacks",
            "POST",
            &roles,
            role("Role", json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["escalate"] }])),
        ),
        attempt(D, "a role for a resource that one lacks", "POST", &roles, role("Role", secrets)),
        attempt(D, "widening a role that one has", "PATCH", format!("{roles}/own"), json!({ "rules": all.clone() })),
        attempt(D, "a cluster role", "POST", format!("{RBAC}/clusterroles"), role("ClusterRole", all)),
        attempt(D, "binding the administrator's role", "POST", &bindings, binding("RoleBinding", "ClusterRole", "cluster-admin")),
        attempt(D, "binding a role that has more", "POST", &bindings, binding("RoleBinding", "ClusterRole", "system:node")),
        attempt(
            D,
            "binding for the whole cluster",
            "POST",
            format!("{RBAC}/clusterrolebindings"),
            binding("ClusterRoleBinding", "ClusterRole", "view"),
        ),
        attempt(
            D,
            "binding elsewhere",
            "POST",
            format!("{RBAC}/namespaces/kube-system/rolebindings"),
            binding("RoleBinding", "ClusterRole", "edit"),
        ),
        attempt(
            D,
            "changing what is aggregated",
            "PATCH",
            format!("{RBAC}/clusterroles/edit"),
            json!({ "metadata": { "labels": { "x": "y" } } }),
        ),
        posing(D, "acting as the administrator", &[("Impersonate-User", "kubernetes-admin")]),
        posing(D, "acting as a group", &[("Impersonate-User", "dev"), ("Impersonate-Group", "system:masters")]),
        posing(D, "acting as a controller", &[("Impersonate-User", "system:serviceaccount:kube-system:namespace-controller")]),
        posing(D, "acting as a node", &[("Impersonate-User", "system:node:n1"), ("Impersonate-Group", "system:nodes")]),
        attempt(D, "the secrets of the system", "GET", "/api/v1/namespaces/kube-system/secrets", Value::Null),
        attempt(
            D,
            "a token of the system's account",
            "POST",
            "/api/v1/namespaces/kube-system/serviceaccounts/default/token",
            token_request(json!({})),
        ),
        attempt(D, "a pod in the system's namespace", "POST", "/api/v1/namespaces/kube-system/pods", pod("p", json!({}))),
        attempt(D, "the kubelet behind a node", "GET", "/api/v1/nodes/n1/proxy/pods", Value::Null),
        attempt(
            D,
            "placing a pod by hand",
            "POST",
            format!("{DEFAULT}/pods/p/binding"),
            json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } }),
        ),
        attempt(
            D,
            "one's own namespace's labels",
            "PATCH",
            DEFAULT,
            json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } }),
        ),
        attempt(
            D,
            "a webhook that sees everything",
            "POST",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
            json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": { "name": "more" } }),
        ),
        attempt(
            D,
            "serving a group in the server's stead",
            "POST",
            "/apis/apiregistration.k8s.io/v1/apiservices",
            json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": "v1.more.io" },
            "spec": { "group": "more.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1 } }),
        ),
        attempt(D, "approving a certificate", "PATCH", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", json!({})),
        attempt(
            D,
            "who may do what, of others",
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": { "user": "root", "nonResourceAttributes": { "path": "/", "verb": "get" } } }),
        ),
        attempt(
            D,
            "whose token it is",
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": "x" } }),
        ),
        attempt(
            D,
            "a service with addresses of others",
            "PATCH",
            format!("{DEFAULT}/services/kubernetes/status"),
            json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }] } } }),
        ),
    ]
}

fn by_node() -> Vec<Attempt> {
    use Who::Node as N;
    let status = json!({ "status": { "conditions": [] } });
    vec![
        attempt(N, "all secrets", "GET", "/api/v1/secrets", Value::Null),
        attempt(N, "a secret that no pod of it needs", "GET", format!("{DEFAULT}/secrets/s"), Value::Null),
        attempt(N, "another node's status", "PATCH", "/api/v1/nodes/n2/status", status),
        attempt(N, "another node's labels", "PATCH", "/api/v1/nodes/n2", json!({ "metadata": { "labels": { "a": "b" } } })),
        attempt(
            N,
            "its own role as a label",
            "PATCH",
            "/api/v1/nodes/n1",
            json!({ "metadata": { "labels": { "node-restriction.kubernetes.io/secure": "yes" } } }),
        ),
        attempt(N, "its own taints", "PATCH", "/api/v1/nodes/n1", json!({ "spec": { "taints": [] } })),
        attempt(N, "deleting another node's pod", "DELETE", format!("{DEFAULT}/pods/on-n2"), Value::Null),
        attempt(
            N,
            "another node's pod's status",
            "PATCH",
            format!("{DEFAULT}/pods/on-n2/status"),
            json!({ "status": { "phase": "Failed" } }),
        ),
        attempt(
            N,
            "a pod that reads a secret",
            "POST",
            format!("{DEFAULT}/pods"),
            pod(
                "mirror",
                json!({
            "nodeName": "n1", "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] }),
            ),
        ),
        attempt(N, "a pod on another node", "POST", format!("{DEFAULT}/pods"), pod("mirror", json!({ "nodeName": "n2" }))),
        attempt(
            N,
            "a pod with an account",
            "POST",
            format!("{DEFAULT}/pods"),
            pod("mirror", json!({ "nodeName": "n1", "serviceAccountName": "default" })),
        ),
        attempt(
            N,
            "a token of an account that it does not run",
            "POST",
            format!("{DEFAULT}/serviceaccounts/default/token"),
            token_request(json!({
            "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "on-n2", "uid": "x" } })),
        ),
        attempt(
            N,
            "a token that is bound to nothing",
            "POST",
            format!("{DEFAULT}/serviceaccounts/default/token"),
            token_request(json!({})),
        ),
        attempt(
            N,
            "another node's lease",
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
            json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "n2", "namespace": "kube-node-lease" } }),
        ),
        attempt(
            N,
            "another node's CSINode",
            "POST",
            "/apis/storage.k8s.io/v1/csinodes",
            json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": { "name": "n2" }, "spec": { "drivers": [] } }),
        ),
        attempt(
            N,
            "a certificate of another node",
            "POST",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            csr("kubernetes.io/kube-apiserver-client-kubelet", "system:node:n2", "system:nodes"),
        ),
        attempt(N, "roles", "POST", format!("{RBAC}/clusterrolebindings"), binding("ClusterRoleBinding", "ClusterRole", "cluster-admin")),
        posing(N, "acting as another node", &[("Impersonate-User", "system:node:n2"), ("Impersonate-Group", "system:nodes")]),
    ]
}

fn by_others() -> Vec<Attempt> {
    use Who::{Account, Nobody};
    vec![
        attempt(Account, "secrets of its namespace", "GET", format!("{DEFAULT}/secrets"), Value::Null),
        attempt(Account, "a token of itself", "POST", format!("{DEFAULT}/serviceaccounts/robot/token"), token_request(json!({}))),
        attempt(
            Account,
            "a role for itself",
            "POST",
            format!("{RBAC}/namespaces/default/rolebindings"),
            binding("RoleBinding", "ClusterRole", "admin"),
        ),
        posing(Account, "acting as another account", &[("Impersonate-User", "system:serviceaccount:kube-system:default")]),
        posing(Account, "headers of a front proxy", &[("X-Remote-User", "kubernetes-admin"), ("X-Remote-Group", "system:masters")]),
        attempt(Account, "metrics", "GET", "/metrics", Value::Null),
        posing(Nobody, "headers of a front proxy", &[("X-Remote-User", "kubernetes-admin"), ("X-Remote-Group", "system:masters")]),
        posing(Nobody, "acting as the administrator", &[("Impersonate-User", "kubernetes-admin"), ("Impersonate-Group", "system:masters")]),
        posing(
            Nobody,
            "a token that is none",
            &[("Authorization", "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMifQ.")],
        ),
        posing(Nobody, "basic credentials", &[("Authorization", "Basic YWRtaW46YWRtaW4=")]),
        attempt(Nobody, "secrets", "GET", "/api/v1/secrets", Value::Null),
        attempt(Nobody, "a path around the prefix", "GET", "/api/v1/namespaces/default/../../secrets", Value::Null),
    ]
}

async fn refused(client: &Client, attempt: &Attempt) -> (StatusCode, String) {
    let body = if attempt.body.is_null() { Vec::new() } else { attempt.body.to_string().into_bytes() };
    let mut request = http::Request::builder().method(attempt.method).uri(&attempt.path);
    if !body.is_empty() {
        let media_type = if attempt.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        request = request.header("content-type", media_type);
    }
    for (name, value) in attempt.headers {
        request = request.header(*name, *value);
    }
    let answer = client.send(request.body(kube::client::Body::from(body)).expect("a request")).await.expect("an answer");
    let code = answer.status();
    let text = answer.into_body().collect_bytes().await.expect("a body");
    (code, String::from_utf8_lossy(&text).into_owned())
}

/// The objects that the attempts are about, and what the developer has.
async fn prepare(admin: &Client) {
    let node = |name: &str| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } });
    let plain = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "on-n2" }, "spec": {
        "nodeName": "n2", "containers": [{ "name": "c", "image": "i" }] } });
    let writer = json!([{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "update", "patch", "get"] }]);
    let mut own = role("Role", writer);
    own["metadata"]["name"] = "own".into();
    let mut to_own = binding("RoleBinding", "Role", "own");
    to_own["metadata"]["name"] = "own".into();
    let mut to_edit = binding("RoleBinding", "ClusterRole", "edit");
    to_edit["metadata"]["name"] = "edit".into();
    for (path, object) in [
        ("/api/v1/nodes".to_owned(), node("n1")),
        ("/api/v1/nodes".to_owned(), node("n2")),
        (format!("{DEFAULT}/secrets"), json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } })),
        (format!("{DEFAULT}/serviceaccounts"), json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot" } })),
        (format!("{RBAC}/namespaces/default/roles"), own),
        (format!("{RBAC}/namespaces/default/rolebindings"), to_own),
        (format!("{RBAC}/namespaces/default/rolebindings"), to_edit),
        (format!("{DEFAULT}/pods"), plain),
    ] {
        // The account of pods is made by a controller that has just started.
        for _ in 0..100 {
            let (code, answer) = ask(admin, "POST", &path, &object).await;
            if code.is_success() || code == StatusCode::CONFLICT {
                break;
            }
            assert!(code == StatusCode::FORBIDDEN && answer["message"].to_string().contains("serviceaccount"), "{path}: {code} {answer}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn whoever_tries_to_get_more_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = directory.path().join("tokens.csv");
    std::fs::write(&tokens, "dev-token,dev,1\nnode-token,system:node:n1,2,system:nodes\n").expect("a file");
    let cluster = Cluster::start_with(&directory.path().join("cluster"), &[&format!("--token-auth-file={}", tokens.display())]);
    let admin = cluster.client().await;
    prepare(&admin).await;
    let (code, made) = ask(&admin, "POST", &format!("{DEFAULT}/serviceaccounts/robot/token"), &token_request(json!({}))).await;
    assert_eq!(code, 201, "{made}");
    let robot = made["status"]["token"].as_str().expect("a token");
    let developer = with_token(&cluster, "dev-token").await;
    let node = with_token(&cluster, "node-token").await;
    let account = with_token(&cluster, robot).await;
    let nobody = Client::try_from(cluster.anonymous().await).expect("a client");

    // What they were given, they have: so it is not for want of everything that they are refused.
    assert_eq!(ask(&developer, "GET", &format!("{DEFAULT}/secrets"), &Value::Null).await.0, 200);
    let role = role("Role", json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"] }]));
    assert_eq!(ask(&developer, "POST", &format!("{RBAC}/namespaces/default/roles"), &role).await.0, 201, "a role for what one has");
    assert_eq!(
        ask(&developer, "POST", &format!("{RBAC}/namespaces/default/rolebindings"), &binding("RoleBinding", "ClusterRole", "edit")).await.0,
        201
    );
    assert_eq!(ask(&node, "GET", "/api/v1/nodes/n1", &Value::Null).await.0, 200);
    assert_eq!(ask(&node, "PATCH", "/api/v1/nodes/n1/status", &json!({ "status": { "conditions": [] } })).await.0, 200);

    let attempts: Vec<Attempt> = by_developer().into_iter().chain(by_node()).chain(by_others()).collect();
    assert!(attempts.len() >= 40, "{}", attempts.len());
    let mut got_through = Vec::new();
    for attempt in &attempts {
        let client = match attempt.who {
            Who::Developer => &developer,
            Who::Node => &node,
            Who::Account => &account,
            Who::Nobody => &nobody,
        };
        let (code, text) = refused(client, attempt).await;
        if !matches!(code, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            got_through.push(format!("{:?}, {}: {code} {text}", attempt.who, attempt.what));
        }
    }
    assert!(got_through.is_empty(), "{}", got_through.join("\n"));
}
