//! What users do with workloads from day to day, on real containers: one cluster of two nodes, all stories side by side, each in a
//! namespace of its own. `FERROKUBE_STORIES=jobs,quota` tells some of them alone.
//!
//! The second node is tainted, so that one story may drain it without disturbing the others.

mod autoscaling;
mod cascade;
mod cron_jobs;
mod daemon_sets;
mod drain;
mod jobs;
mod quota;
mod stateful_sets;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::asking::Cluster;
use super::host::{Host, Inventory};
use super::image;
use super::place::{IMAGE, Stories};

/// The node that is kept for those who tolerate it.
const APART: &str = "node-2";
const TAINT: &str = "test.ferrokube.dev/apart";

/// What a pod that may run on the node apart has in its spec.
fn tolerations() -> Value {
    json!([{ "key": TAINT, "operator": "Exists" }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_stories_of_workloads() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let before = Inventory::take();
    image::put(&image::archive(directory.path(), IMAGE, "page"), &data_dir);
    let mut host = Host::start(&data_dir, 2);
    let kubeconfig = data_dir.join("kubeconfig");
    let cluster = Cluster::of(&host, 2).await;
    let taint = json!({ "spec": { "taints": [{ "key": TAINT, "effect": "NoSchedule" }] } });
    let _: Node = cluster.nodes.patch(APART, &PatchParams::default(), &Patch::Strategic(taint)).await.expect("a taint");

    let mut stories = Stories::of(&cluster.client);
    // Those that wait for a clock come first.
    stories.tell("cron-jobs", cron_jobs::story);
    stories.tell("autoscaling", autoscaling::story);
    stories.tell("stateful-sets", stateful_sets::story);
    stories.tell("drain", move |place| drain::story(place, kubeconfig));
    stories.tell("daemon-sets", daemon_sets::story);
    stories.tell("jobs", jobs::story);
    stories.tell("quota", quota::story);
    stories.tell("cascade", cascade::story);
    stories.end().await;
    host.down();
    before.assert_restored(&host);
}
