//! `kill -9` under load: what was acknowledged is there, whole, and versions never go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::process::Cluster;

/// Kills in one run of the test; `FERROKUBE_KILLS` asks for more.
const KILLS: usize = 8;
const WRITERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9() {
    let kills = std::env::var("FERROKUBE_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(KILLS);
    let data = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    let mut highest = 0;
    for round in 0..kills {
        let cluster = Cluster::api_server(data.path());
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
        highest = check(&maps, &acknowledged, highest).await;
        let counter = Arc::new(AtomicU64::new(0));
        let writers = (0..WRITERS).map(|writer| {
            let (maps, counter) = (maps.clone(), counter.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                loop {
                    let name = format!("r{round}-w{writer}-{}", counter.fetch_add(1, Ordering::Relaxed));
                    let body = json!({ "metadata": { "name": name }, "data": { "name": name, "pad": "x".repeat(2000) } });
                    let object: ConfigMap = serde_json::from_value(body).expect("a ConfigMap");
                    match maps.create(&PostParams::default(), &object).await {
                        Ok(created) => done.push((name, created.resource_version().expect("a version").parse().expect("a number"))),
                        // The server is gone: this write was not acknowledged.
                        Err(_) => return done,
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::time::sleep(Duration::from_millis(100 + 37 * (round as u64 % 11))).await;
        cluster.kill();
        for done in join_all(writers).await {
            acknowledged.extend(done.expect("a writer"));
        }
    }
    let cluster = Cluster::api_server(data.path());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    check(&maps, &acknowledged, highest).await;
    assert!(acknowledged.len() > kills, "the writers were at work");
}

/// Every acknowledged object is there at its version, every object that is there is whole, and the list's version is no
/// older than anything seen before.
async fn check(maps: &Api<ConfigMap>, acknowledged: &[(String, u64)], highest: u64) -> u64 {
    let list = maps.list(&Default::default()).await.expect("a list");
    let version: u64 = list.metadata.resource_version.as_deref().expect("a version").parse().expect("a number");
    let newest = acknowledged.iter().map(|(_, v)| *v).max().unwrap_or(0);
    assert!(version >= highest.max(newest), "{version} is older than {highest} or {newest}");
    let found: std::collections::HashMap<String, &ConfigMap> = list.iter().map(|o| (o.name_any(), o)).collect();
    for (name, version) in acknowledged {
        let object = found.get(name).unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
        assert_eq!(object.resource_version().as_deref(), Some(version.to_string().as_str()), "{name}");
    }
    for (name, object) in &found {
        assert_eq!(object.data.as_ref().and_then(|d| d.get("name")), Some(name), "{name} is half there");
    }
    version
}
