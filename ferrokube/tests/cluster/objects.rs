//! Objects through kube-rs: what is created is defaulted, stored, listed, patched and deleted as the API says.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::process::Cluster;

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "n": name } }, "data": { "k": name } })).expect("a ConfigMap")
}

#[tokio::test]
async fn objects_live_as_the_api_says() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(data.path());
    let client = cluster.client().await;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names: Vec<String> = namespaces.list(&ListParams::default()).await.expect("a list").iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let created = maps.create(&PostParams::default(), &config_map("a")).await.expect("created");
    assert!(created.resource_version().is_some() && created.uid().is_some());
    let again = maps.create(&PostParams::default(), &config_map("a")).await.expect_err("the name is taken");
    assert!(matches!(&again, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists"), "{again}");

    let patched =
        maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "data": { "k": null, "l": "2" } }))).await.expect("patched");
    assert_eq!(patched.data.expect("data").into_iter().collect::<Vec<_>>(), [("l".to_owned(), "2".to_owned())]);

    let stale = maps.replace("a", &PostParams::default(), &created).await.expect_err("the version is old");
    assert!(matches!(&stale, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict"), "{stale}");

    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    assert!(maps.get_opt("a").await.expect("an answer").is_none());
}

#[tokio::test]
async fn an_applied_deployment_is_defaulted_and_its_conflicts_are_told() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(data.path());
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await, "default");
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "registry.example/web:1" }] }
            }
        }
    });
    let applied = deployments.patch("web", &PatchParams::apply("one"), &Patch::Apply(&manifest)).await.expect("applied");
    let spec = applied.spec;
    assert_eq!(spec.progress_deadline_seconds, Some(600));
    assert_eq!(spec.strategy.and_then(|s| s.type_).as_deref(), Some("RollingUpdate"));
    assert_eq!(spec.template.spec.expect("a pod spec").termination_grace_period_seconds, Some(30));

    let other = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "replicas": 3 } });
    let refused = deployments.patch("web", &PatchParams::apply("two"), &Patch::Apply(&other)).await.expect_err("a conflict");
    assert!(refused.to_string().contains("conflict with \"one\": .spec.replicas"), "{refused}");
    let forced = deployments.patch("web", &PatchParams::apply("two").force(), &Patch::Apply(&other)).await.expect("forced");
    assert_eq!(forced.spec.replicas, Some(3));
}

#[tokio::test]
async fn invalid_objects_are_refused_with_every_field_error() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(data.path());
    let secrets: Api<Secret> = Api::namespaced(cluster.client().await, "default");
    // That it claims to have a revision is worth a word only when there is nothing else to say.
    let metadata = json!({ "name": "Bad_Name", "labels": { "bad key": "v" }, "resourceVersion": "1" });
    let secret: Secret = serde_json::from_value(json!({ "metadata": metadata })).expect("a Secret");
    let refused = secrets.create(&PostParams::default(), &secret).await.expect_err("invalid");
    let kube::Error::Api(status) = refused else { panic!("a Status was expected") };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let fields: Vec<String> = status.details.expect("details").causes.into_iter().map(|c| c.field).collect();
    assert_eq!(fields, ["metadata.name", "metadata.labels"]);
}
