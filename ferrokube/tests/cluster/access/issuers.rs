//! Tokens of other issuers: what is believed of them, and how that changes while the server runs.

use std::time::{Duration, Instant};

use kube::Client;
use serde_json::{Value, json};

use super::outside::{self, Outside, now};
use super::{ask, who, with_token};
use crate::process::Cluster;

/// An issuer is asked within moments, a changed file is seen within seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

fn configuration(outside: &Outside, username: &str) -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": { "enabled": true, "conditions": [{ "path": "/livez" }] },
        "jwt": [{
            "issuer": { "url": outside.url, "certificateAuthority": outside.ca, "audiences": ["ferrokube", "kubernetes"], "audienceMatchPolicy": "MatchAny" },
            "claimValidationRules": [{ "expression": "claims.exp - claims.iat <= 3600", "message": "lives too long" }],
            "claimMappings": {
                "username": { "expression": username },
                "groups": { "claim": "roles", "prefix": "oidc:" },
                "extra": [{ "key": "example.org/tenant", "valueExpression": "claims.?tenant.orValue('')" }],
            },
            "userValidationRules": [{ "expression": "!user.username.startsWith('system:')", "message": "reserved" }],
        }],
    })
    .to_string()
}

/// Asks until the answer is this.
async fn becomes(cluster: &Cluster, token: &str, name: &str) -> Value {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = who(&with_token(cluster, token).await).await;
        if let Ok(user) = &found
            && user["username"] == name
        {
            return user.clone();
        }
        assert!(Instant::now() < deadline, "{found:?} is not {name}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn tokens_of_configured_issuers_are_users_and_the_configuration_is_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let outside = outside::serve().await;
    let file = directory.path().join("authentication.yaml");
    std::fs::write(&file, configuration(&outside, "'o:' + claims.sub")).expect("a file");
    let flag = format!("--authentication-config={}", file.display());
    let cluster = Cluster::start_with(&directory.path().join("cluster"), &[&flag]);

    let user = becomes(&cluster, &outside.token(&json!({ "sub": "ann", "roles": ["dev"], "tenant": "t", "jti": "7" })), "o:ann").await;
    assert_eq!(user["groups"], json!(["oidc:dev", "system:authenticated"]));
    assert_eq!(user["extra"], json!({ "authentication.kubernetes.io/credential-id": ["JTI=7"], "example.org/tenant": ["t"] }));

    for (claims, why) in [
        (json!({ "sub": "ann", "aud": "other" }), "for somebody else"),
        (json!({ "sub": "ann", "exp": now() - 1 }), "expired"),
        (json!({ "sub": "ann", "nbf": now() + 300 }), "not yet good"),
        (json!({ "sub": "ann", "exp": now() + 86400 }), "against a claim rule"),
        (json!({ "aud": "ferrokube" }), "without a name"),
        (json!({ "sub": "ann", "iss": "https://elsewhere" }), "of another issuer"),
    ] {
        assert_eq!(who(&with_token(&cluster, &outside.token(&claims)).await).await, Err(401), "{why}");
    }
    let good = outside.token(&json!({ "sub": "ann" }));
    let (signed, _) = good.rsplit_once('.').expect("a token");
    assert_eq!(who(&with_token(&cluster, &format!("{signed}.AAAA")).await).await, Err(401), "a signature that is none");

    // Why a token is refused is told to those who may review it.
    let admin = cluster.client().await;
    let review = |token: String| json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let expired = review(outside.token(&json!({ "sub": "ann", "exp": now() + 86400 })));
    let (_, answer) = ask(&admin, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", &expired).await;
    let error = answer["status"]["error"].as_str().expect("an error");
    assert!(error.ends_with("validation expression 'claims.exp - claims.iat <= 3600' failed: lives too long]"), "{error}");

    // Nobody in particular may see one path.
    let anonymous = Client::try_from(cluster.anonymous().await).expect("a client");
    assert_eq!(ask(&anonymous, "GET", "/livez", &Value::Null).await.0, 200);
    assert_eq!(ask(&anonymous, "GET", "/version", &Value::Null).await.0, 401);

    // Another key, which nobody has told the server of.
    outside.rotate("second");
    becomes(&cluster, &outside.token(&json!({ "sub": "eve" })), "o:eve").await;

    // A file that is wrong changes nothing; one that is right does.
    std::fs::write(&file, "kind: Nonsense").expect("a file");
    tokio::time::sleep(Duration::from_secs(3)).await;
    becomes(&cluster, &outside.token(&json!({ "sub": "bob" })), "o:bob").await;
    std::fs::write(&file, configuration(&outside, "'new:' + claims.sub")).expect("a file");
    becomes(&cluster, &outside.token(&json!({ "sub": "bob", "n": 2 })), "new:bob").await;
    let reserved = configuration(&outside, "claims.sub");
    std::fs::write(&file, reserved).expect("a file");
    becomes(&cluster, &outside.token(&json!({ "sub": "carl" })), "carl").await;
    let token = outside.token(&json!({ "sub": "system:admin" }));
    assert_eq!(who(&with_token(&cluster, &token).await).await, Err(401), "a reserved name");
}

#[tokio::test]
async fn an_issuer_may_be_named_by_flags() {
    let directory = tempfile::tempdir().expect("a directory");
    let outside = outside::serve().await;
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &outside.ca).expect("a file");
    let flags = [
        format!("--oidc-issuer-url={}", outside.url),
        "--oidc-client-id=ferrokube".to_owned(),
        format!("--oidc-ca-file={}", ca.display()),
        "--oidc-groups-claim=groups".to_owned(),
        "--oidc-signing-algs=ES256,RS256".to_owned(),
        "--oidc-required-claim=hd=example.com".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(&directory.path().join("cluster"), &flags);
    let token = outside.token(&json!({ "sub": "ann", "groups": "dev", "hd": "example.com" }));
    let user = becomes(&cluster, &token, &format!("{}#ann", outside.url)).await;
    assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    // A claim that is to be had elsewhere, from whoever has the access token.
    *outside.seen.claims.lock().expect("no test has failed") = outside.token(&json!({ "groups": ["far", "away"] }));
    let source = json!({ "endpoint": format!("{}/claims", outside.url), "access_token": "s3cr3t" });
    let names = json!({ "sub": "ann", "hd": "example.com", "_claim_names": { "groups": "there" }, "_claim_sources": { "there": source } });
    let user = becomes(&cluster, &outside.token(&names), &format!("{}#ann", outside.url)).await;
    assert_eq!(user["groups"], json!(["far", "away", "system:authenticated"]));
    let without = outside.token(&json!({ "sub": "ann" }));
    assert_eq!(who(&with_token(&cluster, &without).await).await, Err(401));
}
