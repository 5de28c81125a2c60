//! `ferrokube snapshot`: a saved store is restored elsewhere, object by object and revision by revision.

use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::process::Cluster;

fn snapshot(verb: &str, file: &Path, data_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrokube"));
    command.args(["snapshot", verb]).arg(file).arg("--data-dir").arg(data_dir).env("RUST_LOG", "info").output().expect("the binary runs")
}

fn refused(output: &Output, reason: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains(reason), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_restores_what_was_saved() {
    let [old, new] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let file = old.path().join("backup");
    refused(&snapshot("save", &file, new.path()), "has no store");

    let cluster = Cluster::start(old.path());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    let object: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "a" }, "data": { "k": "v" } })).expect("a ConfigMap");
    let created = maps.create(&PostParams::default(), &object).await.expect("created");
    refused(&snapshot("save", &file, old.path()), "in use by another process; stop the server that uses it first");
    cluster.kill();

    let saved = snapshot("save", &file, old.path());
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    refused(&snapshot("restore", &file, old.path()), "is not empty");
    let broken = old.path().join("broken");
    let mut bytes = std::fs::read(&file).expect("the snapshot");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&broken, bytes).expect("a file");
    refused(&snapshot("restore", &broken, new.path()), "is not a whole snapshot");

    let restored = snapshot("restore", &file, new.path());
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let cluster = Cluster::start(new.path());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    let found = maps.get("a").await.expect("the object");
    assert_eq!((found.resource_version(), found.uid(), found.data), (created.resource_version(), created.uid(), created.data));
}
