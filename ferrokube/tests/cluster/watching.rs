//! Watches through kube-rs: every event once, in order, from a list and from a streaming list.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use crate::process::Cluster;

fn numbered(n: usize) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": format!("m{n}") }, "data": { "n": n.to_string() } })).expect("a ConfigMap")
}

#[tokio::test]
async fn a_watch_tells_every_change_once_and_in_order() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    let start = maps.list(&Default::default()).await.expect("a list").metadata.resource_version.expect("a version");
    let stream = maps.watch(&WatchParams::default(), &start).await.expect("a watch");
    pin_mut!(stream);
    for n in 0..50 {
        maps.create(&PostParams::default(), &numbered(n)).await.expect("created");
    }
    for n in 0..50 {
        maps.delete(&format!("m{n}"), &DeleteParams::default()).await.expect("deleted");
    }
    let mut told = Vec::new();
    let mut last = 0u64;
    while told.len() < 100 {
        let event = stream.try_next().await.expect("no error").expect("no end");
        let (what, object) = match event {
            WatchEvent::Added(o) => ("added", o),
            WatchEvent::Deleted(o) => ("deleted", o),
            other => panic!("unexpected {other:?}"),
        };
        let version: u64 = object.resource_version().expect("a version").parse().expect("a number");
        assert!(version > last, "versions grow");
        last = version;
        told.push(format!("{what} {}", object.name_any()));
    }
    let expected: Vec<String> = (0..50).map(|n| format!("added m{n}")).chain((0..50).map(|n| format!("deleted m{n}"))).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_streaming_list_ends_its_initial_events_and_goes_on() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    for n in 0..20 {
        maps.create(&PostParams::default(), &numbered(n)).await.expect("created");
    }
    let events = watcher(maps.clone(), watcher::Config::default().streaming_lists()).default_backoff();
    pin_mut!(events);
    let mut seen = BTreeMap::new();
    loop {
        match events.next().await.expect("no end").expect("no error") {
            watcher::Event::InitApply(object) => {
                seen.insert(object.name_any(), ());
            }
            watcher::Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(seen.len(), 20);
    maps.create(&PostParams::default(), &numbered(20)).await.expect("created");
    let watcher::Event::Apply(object) = events.next().await.expect("no end").expect("no error") else { panic!("an event was expected") };
    assert_eq!(object.name_any(), "m20");
}
