//! What the fields of pods and Services do on real containers: one cluster of three nodes, subjects side by side, each in a namespace of
//! its own. The third node is tainted: only those run there who look at that. `FERROKUBE_STORIES=identity,volumes` looks at some alone.
//!
//! `docs/pod-fields.md` says of each field which of these tests, or of the official ones, proves it; [`table`] holds it to that.

mod endings;
mod environment;
mod identity;
mod lifecycle;
mod mounts;
mod namespaces;
mod probes;
mod resources;
mod scheduling;
mod services;
mod table;
mod volumes;

use serde_json::json;

use super::asking::Cluster;
use super::host::{Host, Inventory};
use super::image;
use super::place::{IMAGE, Stories};
use super::registry::Registry;

/// Where pods run that need to be on one certain node.
const NODE: &str = "node-1";
const OTHER_NODE: &str = "node-2";
/// An image that the registry gives to those alone who say who they are.
const GUARDED: &str = "test/guarded:1";
/// A node that is tainted.
const APART: &str = "node-3";
const TAINT: &str = "test.ferrokube.dev/apart";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_fields_of_pods_and_services() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let before = Inventory::take();
    image::put(&image::archive(directory.path(), IMAGE, "page"), &data_dir);
    let mut host = Host::start(&data_dir, 3);
    let cluster = Cluster::of(&host, 3).await;
    scheduling::taint(&cluster.client, json!([])).await;
    let registry = Registry::guarded(directory.path(), host.gateway(), &data_dir);
    registry.push(&image::archive(directory.path(), GUARDED, "for some alone"), GUARDED);
    let addresses = [host.node(1), host.node(2)];

    let mut stories = Stories::of(&cluster.client);
    stories.tell("endings", endings::story);
    stories.tell("probes", probes::story);
    stories.tell("services", move |place| services::story(place, addresses));
    stories.tell("lifecycle", lifecycle::story);
    stories.tell("identity", identity::story);
    stories.tell("mounts", mounts::story);
    stories.tell("volumes", volumes::story);
    stories.tell("resources", resources::story);
    stories.tell("namespaces", move |place| namespaces::story(place, addresses[0]));
    stories.tell("environment", environment::story);
    stories.tell("scheduling", scheduling::story);
    stories.end().await;
    drop(registry);
    host.down();
    before.assert_restored(&host);
}
