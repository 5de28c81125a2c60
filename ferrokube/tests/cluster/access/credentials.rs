//! What administrators do with kubectl: whoever they are known as, asking what they may, handing out roles, tokens and certificates.
//!
//! Runs the real program: see [`crate::kubectl`].

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{kubeconfig, outside};
use crate::kubectl::Kubectl;
use crate::process::Cluster;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The same kubectl as somebody else.
fn as_user(kubectl: &Kubectl, cluster: &Cluster, file: &Path, user: &Value) -> Kubectl {
    kubeconfig(cluster, file, user);
    kubectl.with(file)
}

fn identity(kubectl: &Kubectl) -> Value {
    let review: Value = serde_json::from_str(&kubectl.ok(&["auth", "whoami", "-o", "json"])).expect("JSON");
    review["status"]["userInfo"].clone()
}

/// Waits until something is so.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn kubectl_works_with_every_kind_of_credential() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let outside = outside::serve().await;
    std::fs::write(path("ca.pem"), &outside.ca).expect("a file");
    let flags = [
        format!("--oidc-issuer-url={}", outside.url),
        "--oidc-client-id=ferrokube".to_owned(),
        format!("--oidc-ca-file={}", path("ca.pem").display()),
        "--oidc-username-prefix=oidc:".to_owned(),
        "--oidc-groups-claim=groups".to_owned(),
        "--oidc-signing-algs=ES256".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(&path("cluster"), &flags);
    let admin = Kubectl::new(cluster.kubeconfig(), directory.path());
    tokio::task::block_in_place(|| {
        by_certificate(&admin, &cluster, directory.path());
        let token = by_token(&admin, &cluster, directory.path());
        by_plugin(&admin, &cluster, directory.path(), &token);
        by_identity_token(&admin, &cluster, directory.path(), &outside);
        roles(&admin, &cluster, directory.path());
    });
}

/// A certificate that was asked for, approved and signed.
fn by_certificate(admin: &Kubectl, cluster: &Cluster, directory: &Path) {
    let who = identity(admin);
    assert_eq!(who["username"], "kubernetes-admin");
    assert!(who["groups"].as_array().expect("groups").contains(&json!("system:masters")));

    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "ann");
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "dev");
    let request = parameters.serialize_request(&key).expect("a request").pem().expect("PEM");
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": { "name": "ann" },
        "spec": { "request": STANDARD.encode(request), "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"] },
    });
    let file = directory.join("csr.json");
    std::fs::write(&file, object.to_string()).expect("a file");
    admin.ok(&["apply", "-f", &file.display().to_string()]);
    assert_eq!(admin.ok(&["get", "csr", "ann", "-o", "jsonpath={.status.certificate}"]), "");
    assert!(admin.ok(&["certificate", "approve", "ann"]).contains("approved"));
    let certificate = until("the certificate is not signed", || {
        Some(admin.ok(&["get", "csr", "ann", "-o", "jsonpath={.status.certificate}"])).filter(|text| !text.is_empty())
    });
    let user = json!({ "client-certificate-data": certificate, "client-key-data": STANDARD.encode(key.serialize_pem()) });
    let ann = as_user(admin, cluster, &directory.join("ann.json"), &user);
    let who = identity(&ann);
    assert_eq!((&who["username"], &who["groups"]), (&json!("ann"), &json!(["dev", "system:authenticated"])));
    assert_eq!(ann.run(&["auth", "can-i", "list", "pods"]).expect_err("not yet"), "no");
    admin.ok(&["create", "rolebinding", "dev", "--clusterrole=view", "--group=dev"]);
    until("the role takes no effect", || ann.run(&["auth", "can-i", "list", "pods"]).ok());
    let denied = ann.run(&["get", "secrets"]).expect_err("viewers see no secrets");
    assert!(denied.contains(r#"User "ann" cannot list resource "secrets" in API group "" in the namespace "default""#), "{denied}");
}

/// A token of a service account.
fn by_token(admin: &Kubectl, cluster: &Cluster, directory: &Path) -> String {
    admin.ok(&["create", "serviceaccount", "robot"]);
    let token = admin.ok(&["create", "token", "robot", "--duration=1h"]);
    assert_eq!(token.split('.').count(), 3, "{token}");
    let robot = as_user(admin, cluster, &directory.join("robot.json"), &json!({ "token": token }));
    assert_eq!(identity(&robot)["username"], "system:serviceaccount:default:robot");
    let other = admin.ok(&["create", "token", "robot", "--audience=vault"]);
    let refused = as_user(admin, cluster, &directory.join("other.json"), &json!({ "token": other })).run(&["auth", "whoami"]);
    assert!(refused.expect_err("it is for somebody else").contains("Unauthorized"));
    token
}

/// A program that kubectl runs for a token.
fn by_plugin(admin: &Kubectl, cluster: &Cluster, directory: &Path, token: &str) {
    let plugin = directory.join("plugin.sh");
    let credential = json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": { "token": token } });
    std::fs::write(&plugin, format!("#!/bin/sh\ncat <<END\n{credential}\nEND\n")).expect("a file");
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "interactiveMode": "Never" });
    let user = as_user(admin, cluster, &directory.join("plugin.json"), &json!({ "exec": exec }));
    assert_eq!(identity(&user)["username"], "system:serviceaccount:default:robot");
}

/// A token of an OpenID issuer.
fn by_identity_token(admin: &Kubectl, cluster: &Cluster, directory: &Path, outside: &outside::Outside) {
    let token = outside.token(&json!({ "sub": "zoe", "groups": ["ops"] }));
    let provider = json!({ "name": "oidc", "config": {
        "idp-issuer-url": outside.url, "client-id": "ferrokube", "id-token": token, "idp-certificate-authority": directory.join("ca.pem"),
    } });
    let zoe = as_user(admin, cluster, &directory.join("zoe.json"), &json!({ "auth-provider": provider }));
    let who = identity(&zoe);
    assert_eq!((&who["username"], &who["groups"]), (&json!("oidc:zoe"), &json!(["ops", "system:authenticated"])));
}

/// `auth reconcile` and `auth can-i --list`.
fn roles(admin: &Kubectl, cluster: &Cluster, directory: &Path) {
    let rules = |verbs: &[&str]| json!([{ "apiGroups": ["apps"], "resources": ["deployments"], "verbs": verbs }]);
    let role = |verbs: &[&str]| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": { "name": "deployer", "namespace": "default" }, "rules": rules(verbs),
        })
    };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "deployer", "namespace": "default" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer" },
        "subjects": [{ "kind": "ServiceAccount", "name": "robot", "namespace": "default" }],
    });
    let file = directory.join("rbac.json");
    let reconcile = |role: Value| {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [role, binding] });
        std::fs::write(&file, list.to_string()).expect("a file");
        admin.ok(&["auth", "reconcile", "-f", &file.display().to_string()])
    };
    reconcile(role(&["get", "list"]));
    reconcile(role(&["watch"]));
    let verbs = admin.ok(&["get", "role", "deployer", "-o", "jsonpath={.rules[*].verbs}"]);
    assert!(["get", "list", "watch"].iter().all(|verb| verbs.contains(verb)), "reconciling takes nothing away: {verbs}");
    let token = admin.ok(&["create", "token", "robot"]);
    let robot = as_user(admin, cluster, &directory.join("robot.json"), &json!({ "token": token }));
    let list =
        until("the role takes no effect", || Some(robot.ok(&["auth", "can-i", "--list"])).filter(|list| list.contains("deployments.apps")));
    assert!(list.contains("selfsubjectreviews.authentication.k8s.io") && list.contains("/healthz"), "{list}");
    assert_eq!(robot.ok(&["auth", "can-i", "watch", "deployments.apps"]), "yes");
    assert_eq!(robot.run(&["auth", "can-i", "delete", "deployments.apps"]), Err("no".to_owned()));
    assert_eq!(admin.ok(&["auth", "can-i", "delete", "nodes", "--as=system:serviceaccount:kube-system:node-controller"]), "yes");
}
