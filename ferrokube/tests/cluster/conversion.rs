//! Custom resources whose versions a webhook converts: every way to read and write them, concurrent writers, a webhook that is down.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::conversion_webhook::{self, GROUP, KIND, PLURAL, Server};
use crate::process::Cluster;

pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn api(client: &Client, version: &str) -> Api<DynamicObject> {
    let api_version = format!("{GROUP}/{version}");
    let resource = ApiResource { group: GROUP.into(), version: version.into(), api_version, kind: KIND.into(), plural: PLURAL.into() };
    Api::namespaced_with(client.clone(), "default", &resource)
}

pub fn object(version: &str, name: &str, host: &str, port: &str) -> DynamicObject {
    let mut object = json!({ "apiVersion": format!("{GROUP}/{version}"), "kind": KIND, "metadata": { "name": name } });
    match version {
        "v1" => object["hostPort"] = format!("{host}:{port}").into(),
        "v2" => (object["host"], object["port"]) = (host.into(), port.into()),
        _ => object["endpoint"] = json!({ "host": host, "port": port }),
    }
    serde_json::from_value(object).expect("an object")
}

/// Host and port as the version has them.
pub fn shown(version: &str, object: &DynamicObject) -> String {
    assert_eq!(object.types.as_ref().map(|t| t.api_version.clone()), Some(format!("{GROUP}/{version}")));
    let text = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    match version {
        "v1" => text("/hostPort"),
        "v2" => format!("{}:{}", text("/host"), text("/port")),
        _ => format!("{}:{}", text("/endpoint/host"), text("/endpoint/port")),
    }
}

pub async fn install(client: &Client, server: &Server, stored: &str) {
    define(client, &conversion_webhook::definition(server, stored)).await;
}

async fn define(client: &Client, definition: &Value) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("test").force();
    definitions.patch(&format!("{PLURAL}.{GROUP}"), &apply, &Patch::Apply(definition)).await.expect("the definition is taken");
    let started = Instant::now();
    while api(client, "v2").list(&ListParams::default()).await.is_err() {
        assert!(started.elapsed() < DEADLINE, "the definition is not served");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn setup(stored: &str) -> (tempfile::TempDir, Cluster, Client, Server) {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.client().await;
    let server = conversion_webhook::serve().await;
    install(&client, &server, stored).await;
    (data, cluster, client, server)
}

async fn raw(client: &Client, path: &str, accept: &str) -> Value {
    let request = http::Request::get(path).header("accept", accept).body(Vec::new()).expect("a request");
    client.request(request).await.expect("an answer")
}

pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn an_object_is_read_and_written_in_every_version() {
    let (_data, _cluster, client, server) = setup("v1").await;
    let (v1, v2, v3) = (api(&client, "v1"), api(&client, "v2"), api(&client, "v3"));
    let post = PostParams::default();
    let first = v1.create(&post, &object("v1", "a", "h", "1")).await.expect("created");
    let second = v3.create(&post, &object("v3", "b", "g", "2")).await.expect("created");
    assert_eq!(shown("v3", &second), "g:2");
    assert_eq!(second.data["trail"], "v3>v1>", "stored as v1 and read back");
    for (version, api) in [("v1", &v1), ("v2", &v2), ("v3", &v3)] {
        let got = api.get("a").await.expect("got");
        assert_eq!((shown(version, &got), got.uid(), got.resource_version()), ("h:1".to_owned(), first.uid(), first.resource_version()));
        let listed = api.list(&ListParams::default()).await.expect("a list");
        assert_eq!(listed.iter().map(|o| shown(version, o)).collect::<Vec<_>>(), ["h:1", "g:2"]);
    }
    // Selectors look at the version that is asked for.
    let by = |field: &str| ListParams::default().fields(field);
    assert_eq!(v2.list(&by("port=2")).await.expect("a list").items.len(), 1);
    assert_eq!(v3.list(&by("endpoint.port=1")).await.expect("a list").items[0].name_any(), "a");
    assert_eq!(v1.list(&by("hostPort=g:2")).await.expect("a list").items[0].name_any(), "b");
    assert!(v1.list(&by("port=2")).await.is_err(), "v1 has no such field");

    let table =
        raw(&client, &format!("/apis/{GROUP}/v2/namespaces/default/{PLURAL}"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", "h", "1"]), "{table}");
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let metadata = raw(&client, &format!("/apis/{GROUP}/v3/namespaces/default/{PLURAL}/a"), partial).await;
    assert_eq!(metadata["metadata"]["uid"].as_str(), first.uid().as_deref());

    let mut changed = v2.get("a").await.expect("got");
    changed.data["port"] = "9".into();
    let changed = v2.replace("a", &post, &changed).await.expect("replaced");
    assert_eq!((shown("v2", &changed), changed.metadata.generation), ("h:9".to_owned(), Some(2)));
    let merge = Patch::Merge(json!({ "endpoint": { "host": "i" } }));
    assert_eq!(shown("v3", &v3.patch("a", &PatchParams::default(), &merge).await.expect("patched")), "i:9");
    let json_patch =
        Patch::<()>::Json(serde_json::from_value(json!([{ "op": "replace", "path": "/port", "value": "8" }])).expect("a patch"));
    assert_eq!(shown("v2", &v2.patch("a", &PatchParams::default(), &json_patch).await.expect("patched")), "i:8");
    let status = v3.patch_status("a", &PatchParams::default(), &Patch::Merge(json!({ "status": { "ready": 3 } }))).await.expect("patched");
    assert_eq!((status.data["status"]["ready"].as_i64(), shown("v3", &status)), (Some(3), "i:8".to_owned()));
    let scale = v2.patch_scale("a", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "replicas": 5 } }))).await.expect("scaled");
    assert_eq!(scale.spec.and_then(|s| s.replicas), Some(5));
    assert_eq!(v1.get("a").await.expect("got").data["spec"]["replicas"], 5);
    assert_eq!(v1.get("a").await.expect("got").data["hostPort"], "i:8");
    v3.delete("a", &DeleteParams::default()).await.expect("deleted");
    assert!(v1.get_opt("a").await.expect("an answer").is_none());
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1, "all calls went over one connection");
}

#[tokio::test]
async fn owners_speak_in_the_versions_that_they_wrote() {
    let (_data, _cluster, client, _server) = setup("v1").await;
    let (v2, v3) = (api(&client, "v2"), api(&client, "v3"));
    let apply = |manager: &str| PatchParams::apply(manager);
    let one = json!({ "apiVersion": format!("{GROUP}/v2"), "kind": KIND, "metadata": { "name": "a" }, "host": "h" });
    v2.patch("a", &apply("one"), &Patch::Apply(&one)).await.expect("applied");
    let two = json!({ "apiVersion": format!("{GROUP}/v3"), "kind": KIND, "metadata": { "name": "a" }, "endpoint": { "port": "1" } });
    let both = v3.patch("a", &apply("two"), &Patch::Apply(&two)).await;
    let both = both.expect("applied");
    assert_eq!(shown("v3", &both), "h:1");
    let owners: BTreeMap<String, String> = both
        .managed_fields()
        .iter()
        .map(|entry| (entry.manager.clone().unwrap_or_default(), entry.api_version.clone().unwrap_or_default()))
        .collect();
    assert_eq!(owners, BTreeMap::from([("one".to_owned(), format!("{GROUP}/v2")), ("two".to_owned(), format!("{GROUP}/v3"))]));
    let taken = json!({ "apiVersion": format!("{GROUP}/v3"), "kind": KIND, "metadata": { "name": "a" }, "endpoint": { "host": "mine" } });
    let refused = v3.patch("a", &apply("three"), &Patch::Apply(&taken)).await.expect_err("the host is another's");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 409), "{refused}");
    assert!(message(&refused).contains("conflict with \"one\": .host"), "{refused}");
}

#[tokio::test]
async fn objects_stored_in_an_older_version_are_read_through_conversion() {
    let (data, cluster, client, server) = setup("v1").await;
    let post = PostParams::default();
    api(&client, "v2").create(&post, &object("v2", "old", "h", "1")).await.expect("created");
    install(&client, &server, "v3").await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = definitions.get(&format!("{PLURAL}.{GROUP}")).await.expect("got");
    assert_eq!(definition.status.and_then(|s| s.stored_versions), Some(vec!["v1".to_owned(), "v3".to_owned()]));
    // The catalog follows the definition a moment later.
    let started = Instant::now();
    let mut n = 0;
    loop {
        n += 1;
        let made = api(&client, "v3").create(&post, &object("v3", &format!("new-{n}"), "g", "2")).await;
        if made.is_ok_and(|made| made.data["trail"].is_null()) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "v3 does not become the stored version");
    }
    for version in ["v1", "v2", "v3"] {
        let listed = api(&client, version).list(&ListParams::default()).await.expect("a list");
        let all: BTreeMap<String, String> = listed.iter().map(|o| (o.name_any(), shown(version, o))).collect();
        assert_eq!((all["old"].as_str(), all[&format!("new-{n}")].as_str()), ("h:1", "g:2"));
    }
    // A write moves the object to the version that is stored now; it is so after a restart too.
    let v1 = api(&client, "v1");
    let old = v1.get("old").await.expect("got");
    let before = old.resource_version();
    let moved = v1.replace("old", &post, &old).await.expect("replaced");
    assert_ne!(moved.resource_version(), before, "what is stored in an older version is written again");
    cluster.kill();
    let cluster = Cluster::api_server(data.path());
    let client = cluster.client().await;
    server.seen.down.store(true, Ordering::SeqCst);
    assert_eq!(shown("v3", &api(&client, "v3").get("old").await.expect("needs no conversion")), "h:1");
    let refused = api(&client, "v2").get("old").await.expect_err("needs conversion");
    let expected =
        "conversion webhook for conversion.example.com/v3, Kind=Endpoint failed: the server is currently unable to handle the request";
    assert!(message(&refused).starts_with(expected), "{refused}");
}

#[tokio::test]
async fn admission_webhooks_see_the_version_that_they_ask_for() {
    let (_data, _cluster, client, server) = setup("v1").await;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = serde_json::from_value(conversion_webhook::admission(&server)).expect("a configuration");
    let post = PostParams::default();
    configurations.create(&post, &configuration).await.expect("created");
    let (v1, v3) = (api(&client, "v1"), api(&client, "v3"));
    assert_eq!(shown("v1", &v1.create(&post, &object("v1", "a", "h", "1")).await.expect("created")), "h:10");
    let changed = v3.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "endpoint": { "port": "2" } }))).await.expect("patched");
    assert_eq!(shown("v3", &changed), "h:20");
    v1.delete("a", &DeleteParams::default()).await.expect("deleted");
    let v2 = Some(format!("{GROUP}/v2"));
    let admitted = server.seen.admitted.lock().expect("no test has failed").clone();
    assert_eq!(admitted, [(v2.clone(), None), (v2.clone(), v2.clone()), (None, v2)]);
}

#[tokio::test]
async fn a_watch_selects_by_the_fields_of_its_version() {
    let (_data, _cluster, client, _server) = setup("v1").await;
    let (v1, v3) = (api(&client, "v1"), api(&client, "v3"));
    let post = PostParams::default();
    for (name, port) in [("a", "1"), ("b", "2")] {
        v1.create(&post, &object("v1", name, "h", port)).await.expect("created");
    }
    let query = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&fieldSelector=port%3D2";
    let path = format!("/apis/{GROUP}/v2/namespaces/default/{PLURAL}?{query}");
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let mut events = client.request_events::<DynamicObject>(request).await.expect("a watch").boxed();
    let mut told = Vec::new();
    let set = |port: &str| Patch::Merge(json!({ "hostPort": format!("h:{port}") }));
    while told.len() < 6 {
        let event = events.try_next().await.expect("an event").expect("the watch goes on");
        let text = match &event {
            WatchEvent::Added(object) => format!("added {} {}", object.name_any(), shown("v2", object)),
            WatchEvent::Modified(object) => format!("modified {} {}", object.name_any(), shown("v2", object)),
            WatchEvent::Deleted(object) => format!("deleted {} {}", object.name_any(), shown("v2", object)),
            WatchEvent::Bookmark(bookmark) => {
                assert_eq!(bookmark.types.api_version, format!("{GROUP}/v2"));
                "bookmark".to_owned()
            }
            WatchEvent::Error(status) => panic!("{status:?}"),
        };
        told.push(text);
        if told.len() == 2 {
            // The initial events are over: `a` comes, `b` goes; then `a` changes in another field and is deleted.
            v1.patch("a", &PatchParams::default(), &set("2")).await.expect("patched");
            v1.patch("b", &PatchParams::default(), &set("3")).await.expect("patched");
            v3.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "endpoint": { "host": "i" } }))).await.expect("patched");
            v3.delete("a", &DeleteParams::default()).await.expect("deleted");
        }
    }
    assert_eq!(told, ["added b h:2", "bookmark", "added a h:2", "deleted b h:2", "modified a i:2", "deleted a i:2"]);
}

#[tokio::test]
async fn an_update_without_changes_moves_an_object_to_the_stored_version_once() {
    let (_data, _cluster, client, server) = setup("v1").await;
    let without_webhook = |stored: &str| {
        let mut definition = conversion_webhook::definition(&server, stored);
        definition["spec"]["conversion"] = json!({ "strategy": "None" });
        definition
    };
    define(&client, &without_webhook("v1")).await;
    let (v1, post) = (api(&client, "v1"), PostParams::default());
    // Nothing in it is another version's to drop.
    let mut plain = object("v1", "a", "h", "1");
    plain.data = json!({ "spec": { "replicas": 1 } });
    let mut same = v1.create(&post, &plain).await.expect("created");
    define(&client, &without_webhook("v2")).await;
    // The catalog follows the definition a moment later; until then nothing is to be written. In that moment a request may see the
    // objects as they were before.
    let started = Instant::now();
    loop {
        let before = same.resource_version();
        if let Ok(replaced) = v1.replace("a", &post, &same).await {
            same = replaced;
        }
        if same.resource_version() != before {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "the object is not moved");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = v1.replace("a", &post, &same).await.expect("replaced");
    assert_eq!(again.resource_version(), same.resource_version(), "there is nothing left to write");
}

#[tokio::test]
async fn an_applier_may_come_back_in_another_version() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.client().await;
    let scalers = |version: &str| {
        let (group, api_version) = ("autoscaling".to_owned(), format!("autoscaling/{version}"));
        let (kind, plural) = ("HorizontalPodAutoscaler".to_owned(), "horizontalpodautoscalers".to_owned());
        Api::<DynamicObject>::namespaced_with(
            client.clone(),
            "default",
            &ApiResource { group, version: version.into(), api_version, kind, plural },
        )
    };
    let config = |version: &str, spec: Value, labels: Value| {
        let mut spec = spec;
        spec["scaleTargetRef"] = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
        let metadata = json!({ "name": "a", "labels": labels });
        json!({ "apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec })
    };
    let apply = PatchParams::apply("one");
    let first = config("v1", json!({ "minReplicas": 2, "maxReplicas": 3 }), json!({ "x": "y" }));
    scalers("v1").patch("a", &apply, &Patch::Apply(&first)).await.expect("applied");
    let second = config("v2", json!({ "maxReplicas": 4 }), json!({}));
    let applied = scalers("v2").patch("a", &apply, &Patch::Apply(&second)).await.expect("applied");
    assert_eq!((&applied.data["spec"]["minReplicas"], &applied.data["spec"]["maxReplicas"]), (&json!(1), &json!(4)));
    assert!(applied.labels().is_empty(), "what the applier does not mention any more is gone");
}
