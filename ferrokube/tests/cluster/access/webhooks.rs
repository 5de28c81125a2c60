//! Webhooks that know tokens and permissions: when they are asked, what counts, and what happens when they are not there.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::outside::{self, Outside};
use super::{ask, who, with_token};
use crate::process::Cluster;

const TIMEOUT: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn configuration(kubeconfig: &str, failure_policy: &str) -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [
            { "type": "Node", "name": "node" },
            { "type": "Webhook", "name": "outside", "webhook": {
                "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1",
                "failurePolicy": failure_policy, "authorizedTTL": "1h", "unauthorizedTTL": "1h",
                "connectionInfo": { "type": "KubeConfigFile", "kubeConfigFile": kubeconfig },
                "matchConditions": [
                    { "expression": "has(request.resourceAttributes) && request.resourceAttributes.resource == 'configmaps'" },
                    { "expression": "!request.user.startsWith('system:')" },
                ],
            } },
            { "type": "RBAC", "name": "rbac" },
        ],
    })
    .to_string()
}

fn asked(outside: &Outside) -> Vec<Value> {
    outside.seen.access_reviews.lock().expect("no test has failed").clone()
}

#[tokio::test]
async fn webhooks_know_tokens_and_permissions() {
    let directory = tempfile::tempdir().expect("a directory");
    let outside = outside::serve().await;
    let path = |name: &str| directory.path().join(name);
    outside.webhook(&path("tokens.json"), "/tokens");
    outside.webhook(&path("access.json"), "/access");
    let access = path("access.json").display().to_string();
    std::fs::write(path("authorization.json"), configuration(&access, "NoOpinion")).expect("a file");
    let flags = [
        format!("--authentication-token-webhook-config-file={}", path("tokens.json").display()),
        "--authentication-token-webhook-version=v1".to_owned(),
        format!("--authorization-config={}", path("authorization.json").display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(&path("cluster"), &flags);

    let ann = with_token(&cluster, "known:ann:dev").await;
    let user = who(&ann).await.expect("a user");
    assert_eq!((&user["username"], &user["groups"]), (&json!("ann"), &json!(["dev", "system:authenticated"])));
    assert_eq!(user["extra"], json!({ "from": ["webhook"] }));
    who(&ann).await.expect("a user");
    assert_eq!(who(&with_token(&cluster, "stranger").await).await, Err(401));
    let reviews = outside.seen.token_reviews.lock().expect("no test has failed").clone();
    let of_ann = reviews.iter().filter(|review| review["spec"]["token"] == "known:ann:dev").count();
    assert_eq!(of_ann, 1, "what is known is not asked again: {reviews:?}");
    assert_eq!(reviews[0]["apiVersion"], "authentication.k8s.io/v1");
    assert!(!reviews[0]["spec"]["audiences"].as_array().expect("audiences").is_empty());

    // The webhook allows, refuses, or has no opinion, which leaves it to the roles.
    assert_eq!(ask(&ann, "GET", &format!("{MAPS}/open"), &Value::Null).await.0, 404);
    let (code, refused) = ask(&ann, "GET", &format!("{MAPS}/shut"), &Value::Null).await;
    assert_eq!(code, 403);
    let expect = r#"configmaps "shut" is forbidden: User "ann" cannot get resource "configmaps" in API group "" in the namespace "default": it is shut"#;
    assert_eq!(refused["message"], expect);
    let (code, refused) = ask(&ann, "GET", &format!("{MAPS}/other"), &Value::Null).await;
    let reason = refused["message"].as_str().expect("a message");
    assert!(code == 403 && reason.ends_with("in the namespace \"default\": outside: not known"), "{code} {reason}");
    assert_eq!(ask(&ann, "GET", "/api/v1/namespaces/default/secrets/open", &Value::Null).await.0, 403, "not a question for it");
    let questions = asked(&outside);
    let question = |name: &str| json!({ "namespace": "default", "verb": "get", "version": "v1", "resource": "configmaps", "name": name });
    assert!(questions.iter().any(|q| q["spec"]["resourceAttributes"] == question("open") && q["spec"]["user"] == "ann"), "{questions:?}");
    assert!(questions.iter().all(|q| q["spec"]["resourceAttributes"]["resource"] == "configmaps"), "{questions:?}");
    ask(&ann, "GET", &format!("{MAPS}/open"), &Value::Null).await;
    assert_eq!(asked(&outside).len(), questions.len(), "what was said is believed for a while");

    // Reviews ask it too, and tell what went wrong.
    let admin = cluster.client().await;
    let review = |name: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": { "user": "zoe", "resourceAttributes": { "namespace": "default", "verb": "get", "resource": "configmaps", "name": name } },
        })
    };
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let status = ask(&admin, "POST", reviews, &review("shut")).await.1["status"].clone();
    assert_eq!(status, json!({ "allowed": false, "denied": true, "reason": "it is shut" }));

    // Without an answer, roles decide, and else it cannot be told.
    outside.seen.down.store(true, Ordering::SeqCst);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "viewers" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "vic" }],
    });
    assert_eq!(ask(&admin, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.0, 201);
    outside.seen.down.store(false, Ordering::SeqCst);
    let vic = with_token(&cluster, "known:vic:dev").await;
    let eve = with_token(&cluster, "known:eve:dev").await;
    for client in [&vic, &eve] {
        who(client).await.expect("a user");
    }
    outside.seen.down.store(true, Ordering::SeqCst);
    assert_eq!(ask(&vic, "GET", &format!("{MAPS}/x"), &Value::Null).await.0, 404, "roles allow it");
    let (code, text) = ask(&eve, "GET", &format!("{MAPS}/x"), &Value::Null).await;
    assert_eq!(code, 500);
    let text = text.as_str().expect("a text");
    assert!(text.starts_with("Internal Server Error: \"/api/v1/namespaces/default/configmaps/x\": "), "{text}");

    // A policy that refuses keeps roles from being asked.
    std::fs::write(path("authorization.json"), configuration(&access, "Deny")).expect("a file");
    let deadline = Instant::now() + TIMEOUT;
    while ask(&vic, "GET", &format!("{MAPS}/x"), &Value::Null).await.0 != 500 {
        assert!(Instant::now() < deadline, "the changed configuration takes no effect");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    outside.seen.down.store(false, Ordering::SeqCst);
    assert_eq!(ask(&vic, "GET", &format!("{MAPS}/x"), &Value::Null).await.0, 404);
}

#[tokio::test]
async fn policies_of_a_file_allow() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("tokens.csv"), "t1,ann,1\nt2,bob,2\n").expect("a file");
    let policy = r#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"ann","namespace":"*","resource":"configmaps","readonly":true}}"#;
    std::fs::write(path("policy.jsonl"), format!("# readers\n{policy}\n")).expect("a file");
    let flags = [
        format!("--token-auth-file={}", path("tokens.csv").display()),
        "--authorization-mode=Node,RBAC,ABAC".to_owned(),
        format!("--authorization-policy-file={}", path("policy.jsonl").display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(&path("cluster"), &flags);
    let (ann, bob) = (with_token(&cluster, "t1").await, with_token(&cluster, "t2").await);
    assert_eq!(ask(&ann, "GET", MAPS, &Value::Null).await.0, 200);
    assert_eq!(ask(&ann, "DELETE", &format!("{MAPS}/a"), &Value::Null).await.0, 403);
    let (code, refused) = ask(&bob, "GET", MAPS, &Value::Null).await;
    let message = refused["message"].as_str().expect("a message");
    assert!(code == 403 && message.ends_with("in the namespace \"default\": abac: No policy matched."), "{message}");
}
