//! What policies' status says of their expressions: `policy_status.json` has policies and the warnings that upstream's controller
//! manager of v1.37 wrote for them, with upstream's API server beneath.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::components::eventually;
use crate::process::Cluster;

const RECORDED: &str = include_str!("policy_status.json");
/// Loaded machines are slow; nothing waits for so long otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The kind that some of the policies are about and others take as parameters.
async fn define_limits(client: &Client) {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "limits.policy.example.com"},
        "spec": {
            "group": "policy.example.com", "scope": "Cluster", "names": {"plural": "limits", "singular": "limit", "kind": "Limit"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "max": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}},
                "port": {"x-kubernetes-int-or-string": true}, "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}}}],
        },
    });
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = serde_json::from_value(definition).expect("a definition");
    api.create(&PostParams::default(), &definition).await.expect("a definition");
    let established = await_condition(api, "limits.policy.example.com", conditions::is_crd_established());
    tokio::time::timeout(TIMEOUT, established).await.expect("in time").expect("a watch");
}

/// The status once this generation was looked at.
async fn checked(policies: &Api<ValidatingAdmissionPolicy>, name: &str, generation: i64) -> Value {
    eventually(&format!("a look at {name}"), async || {
        let policy = policies.get(name).await.expect("the policy");
        let status = serde_json::to_value(policy.status).expect("JSON");
        (status["observedGeneration"] == generation).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_status_tells_what_its_expressions_get_wrong_in_upstreams_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(directory.path());
    let client = cluster.client().await;
    define_limits(&client).await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client);
    let recorded: Vec<Value> = serde_json::from_str(RECORDED).expect("recorded policies");
    for case in &recorded {
        let policy = json!({"metadata": {"name": case["name"]}, "spec": case["spec"]});
        let policy = serde_json::from_value(policy).expect("a policy");
        policies.create(&PostParams::default(), &policy).await.expect("a policy");
    }
    let mut differing = Vec::new();
    for case in &recorded {
        let name = case["name"].as_str().expect("a name");
        let status = checked(&policies, name, 1).await;
        let found = status["typeChecking"].get("expressionWarnings").cloned().unwrap_or_else(|| json!([]));
        if found != case["warnings"] {
            differing.push(format!("{name}:\n  expected {}\n  found    {found}", case["warnings"]));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    // A new generation is looked at again.
    let mut policy = policies.get("undefined-field").await.expect("the policy");
    policy.spec.as_mut().and_then(|spec| spec.validations.as_mut()).expect("validations")[0].expression =
        "object.spec.replicas <= 5".to_owned();
    policies.replace("undefined-field", &PostParams::default(), &policy).await.expect("a policy");
    assert_eq!(checked(&policies, "undefined-field", 2).await["typeChecking"].get("expressionWarnings"), None);
}
