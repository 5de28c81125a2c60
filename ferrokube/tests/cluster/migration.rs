//! StorageVersionMigrations: every object of a resource is written again as it is, so that it lies in the version, and by the key, of today.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::encryption::{configure, eventually, keys};
use crate::process::Cluster;

fn gears(stored: &str, served: &[&str]) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = |name: &&str| json!({"name": name, "served": true, "storage": *name == stored, "schema": schema});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gears.svm.example.com"},
        "spec": {
            "group": "svm.example.com", "scope": "Namespaced",
            "names": {"plural": "gears", "singular": "gear", "kind": "Gear", "listKind": "GearList"},
            "versions": served.iter().map(version).collect::<Vec<_>>(),
        },
    })
}

/// The names and revisions of a list.
async fn revisions<K>(api: &Api<K>) -> Vec<(String, String)>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await.expect("a list").items;
    list.iter().map(|object| (object.name_any(), object.resource_version().expect("a revision"))).collect()
}

/// The conditions of a migration that has ended, as `type=status reason: message`.
async fn migrate(client: &Client, name: &str, group: &str, resource: &str) -> Vec<String> {
    let api: Api<StorageVersionMigration> = Api::all(client.clone());
    let wish = json!({"metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}});
    api.create(&PostParams::default(), &serde_json::from_value(wish).expect("a migration")).await.expect("created");
    let conditions = async || {
        let status = api.get_status(name).await.expect("a migration").status.unwrap_or_default();
        status.conditions.unwrap_or_default()
    };
    let is_over = async || conditions().await.iter().any(|condition| condition.type_ == "Running" && condition.status == "False");
    eventually("the migration ends", is_over).await;
    let told = conditions().await.into_iter();
    told.map(|condition| format!("{}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message)).collect()
}

const SUCCEEDED: [&str; 2] =
    ["Running=False MigrationCompleted: Migration completed", "Succeeded=True StorageVersionMigrationSucceeded: Migration completed"];

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_move_to_the_stored_version_and_the_old_one_may_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(directory.path());
    let client = cluster.client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = async |definition: Value| {
        definitions.patch("gears.svm.example.com", &PatchParams::apply("test").force(), &Patch::Apply(definition)).await
    };
    apply(gears("v1", &["v1", "v2"])).await.expect("made");
    let gears_at = |version: &str| -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("svm.example.com", version, "Gear"), "gears");
        Api::namespaced_with(client.clone(), "default", &resource)
    };
    let (v1, v2) = (gears_at("v1"), gears_at("v2"));
    eventually("gears are served", async || v1.list(&ListParams::default()).await.is_ok()).await;
    for name in ["a", "b", "c"] {
        let gear = json!({"apiVersion": "svm.example.com/v1", "kind": "Gear", "metadata": {"name": name}, "teeth": 12});
        v1.create(&PostParams::default(), &serde_json::from_value(gear).expect("a gear")).await.expect("created");
    }
    apply(gears("v2", &["v1", "v2"])).await.expect("another version is stored");
    let stored = async || {
        let definition = definitions.get("gears.svm.example.com").await.expect("the definition");
        definition.status.expect("a status").stored_versions.expect("stored versions")
    };
    eventually("both versions are known to be stored", async || stored().await == ["v1", "v2"]).await;
    let refused = apply(gears("v2", &["v2"])).await.expect_err("objects may lie there in v1");
    assert!(refused.to_string().contains("must remain in spec.versions until a storage migration"), "{refused}");

    let before = revisions(&v2).await;
    assert_eq!(migrate(&client, "first", "svm.example.com", "gears").await, SUCCEEDED);
    let after = revisions(&v2).await;
    assert!(before.iter().zip(&after).all(|(old, new)| old.0 == new.0 && old.1 != new.1), "{before:?} {after:?}");
    assert_eq!(stored().await, ["v2"]);
    let definition = serde_json::to_value(definitions.get("gears.svm.example.com").await.expect("the definition")).expect("JSON");
    let conditions = definition["status"]["conditions"].as_array().expect("conditions");
    let migrating = conditions.iter().find(|condition| condition["type"] == "StorageMigrating").expect("told");
    assert_eq!(
        (&migrating["status"], &migrating["reason"], &migrating["message"]),
        (&json!("False"), &json!("MigrationSucceeded"), &json!("The migration has succeeded and the stored versions have been updated"))
    );

    // Nothing is left to be done, and nothing is done.
    assert_eq!(migrate(&client, "second", "svm.example.com", "gears").await, SUCCEEDED);
    assert_eq!(revisions(&v2).await, after);
    apply(gears("v2", &["v2"])).await.expect("the old version may go");
    let teeth = v2.get("a").await.expect("a gear").data["teeth"].clone();
    assert_eq!(teeth, 12);

    let told = migrate(&client, "reviews", "authentication.k8s.io", "tokenreviews").await;
    let name = "authentication.k8s.io/v1, Resource=tokenreviews";
    let why = format!(
        "Failed=True StorageVersionMigrationFailed: resource \"{name}\" does not support discovery operations: [update patch list]"
    );
    assert_eq!(told, [SUCCEEDED[0].to_owned(), why]);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_move_to_the_key_of_today() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let cluster = Cluster::start(&data);
    let secrets: Api<Secret> = Api::namespaced(cluster.client().await, "default");
    let secret = json!({"metadata": {"name": "plain"}, "stringData": {"a": "b"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).expect("a secret")).await.expect("created");
    cluster.kill();

    let flag = configure(directory.path(), &format!("{}\n  - identity: {{}}", keys("aesgcm", &[("key1", 1)])));
    let cluster = Cluster::start_with(&data, &[&flag]);
    let client = cluster.client().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let before = revisions(&secrets).await;
    assert_eq!(migrate(&client, "first", "", "secrets").await, SUCCEEDED);
    let after = revisions(&secrets).await;
    assert_ne!(before, after);
    assert_eq!(migrate(&client, "second", "", "secrets").await, SUCCEEDED);
    assert_eq!(revisions(&secrets).await, after, "what lies there by the key is not written again");
    cluster.kill();

    // Nobody reads plain texts any more.
    let flag = configure(directory.path(), &keys("aesgcm", &[("key1", 1)]));
    let cluster = Cluster::start_with(&data, &[&flag]);
    let secrets: Api<Secret> = Api::namespaced(cluster.client().await, "default");
    assert!(secrets.get("plain").await.expect("a secret").data.expect("data").contains_key("a"));
}
