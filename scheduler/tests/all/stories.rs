//! One thing at a time: what happens to a pod, and what is said of it.

use k8s_openapi::jiff::Timestamp;
use scheduler::core::Effect;
use scheduler::metrics::Id;

use crate::cluster::Cluster;
use crate::model::{NodeSpec, PodSpec, Rule};

fn node(name: &str) -> NodeSpec {
    NodeSpec { name: name.into(), zone: "a".into(), disk: "ssd".into(), cpu: 4000, memory: 4000, pods: 10, ..NodeSpec::default() }
}

fn pod(name: &str, cpu: i64) -> PodSpec {
    PodSpec { name: name.into(), app: "web".into(), cpu, ..PodSpec::default() }
}

fn message(cluster: &Cluster, name: &str) -> String {
    let status = cluster.pod(name).status.as_ref().expect("it has a status");
    let condition = status.conditions.as_ref().and_then(|all| all.first()).expect("it has a condition");
    format!("{} {}", condition.reason.as_deref().unwrap_or(""), condition.message.as_deref().unwrap_or(""))
}

#[test]
fn a_pod_without_nodes_is_told_so() {
    let mut cluster = Cluster::new(1);
    cluster.create(pod("a", 100));
    cluster.settle();
    assert_eq!(message(&cluster, "a"), "Unschedulable no nodes available to schedule pods");
    cluster.set_node(node("n"));
    cluster.pass(3);
    assert_eq!(cluster.model.placed["a"].1, "n");
    assert_eq!(cluster.told.last().unwrap(), "Scheduled a: Successfully assigned d/a to n");
}

#[test]
fn reasons_are_counted_by_node() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(NodeSpec { taint: Some("gpu".into()), ..node("a") });
    cluster.set_node(NodeSpec { taint: Some("gpu".into()), ..node("b") });
    cluster.set_node(node("c"));
    cluster.create(pod("p", 9000));
    cluster.settle();
    assert_eq!(
        message(&cluster, "p"),
        "Unschedulable 0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

/// Upstream's hint of NodeAffinity wakes a pod only for a node that it wants; the others make themselves known when it is tried anyway.
#[test]
fn a_node_that_a_pod_does_not_want_is_told_of_once_when_the_pod_has_waited_long() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("a"));
    cluster.create(PodSpec { disk: Some("hdd".into()), ..pod("p", 100) });
    cluster.settle();
    let reasons = |nodes: u32| {
        format!(
            "Unschedulable 0/{nodes} nodes are available: {nodes} node(s) didn't match Pod's node affinity/selector. \
             preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling."
        )
    };
    assert_eq!(message(&cluster, "p"), reasons(1));
    cluster.set_node(node("b"));
    cluster.pass(5 * 60);
    assert_eq!(message(&cluster, "p"), reasons(1));
    cluster.pass(15);
    assert_eq!(message(&cluster, "p"), reasons(2));
    // It is tried again and again, and as nothing has changed nothing is written.
    let version = cluster.pod("p").metadata.resource_version.clone();
    let tried = cluster.told.len();
    cluster.pass(15 * 60);
    assert!(cluster.told.len() > tried);
    assert_eq!(cluster.pod("p").metadata.resource_version, version);
}

#[test]
fn a_more_important_pod_takes_the_place_of_the_least_important() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.create(PodSpec { priority: 5, ..pod("middle", 2000) });
    cluster.create(PodSpec { priority: 1, ..pod("low", 2000) });
    cluster.settle();
    cluster.create(PodSpec { priority: 10, ..pod("high", 1500) });
    cluster.settle();
    cluster.pass(3);
    assert_eq!(cluster.removed, ["low"]);
    assert_eq!(cluster.model.placed["high"].1, "n");
    assert!(
        cluster.told.iter().any(|t| t
            == "FailedScheduling high: 0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node n, preempting 1 victims"),
        "{:?}",
        cluster.told
    );
    assert_eq!(cluster.metrics.get(Id::PreemptionVictims, &[]), 1.0);
}

#[test]
fn an_equally_important_pod_takes_nobodys_place() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.create(pod("first", 3000));
    cluster.settle();
    cluster.create(pod("second", 3000));
    cluster.settle();
    cluster.pass(10);
    assert!(cluster.removed.is_empty());
    assert_eq!(
        message(&cluster, "second"),
        "Unschedulable 0/1 nodes are available: 1 Insufficient cpu. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let refused = |cluster: &Cluster| cluster.metrics.get(Id::UnschedulablePods, &["NodeResourcesFit", "default-scheduler"]);
    assert_eq!(refused(&cluster), 1.0);
    cluster.delete("first");
    cluster.pass(3);
    assert_eq!(refused(&cluster), 0.0);
    assert_eq!(cluster.model.placed["second"].1, "n");
}

#[test]
fn room_that_was_made_is_kept_for_whom_it_was_made() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.create(pod("low", 4000));
    cluster.settle();
    cluster.create(PodSpec { priority: 10, ..pod("high", 4000) });
    // Decides and removes the low pod; then an equally large pod of no importance comes before the high one is tried again.
    cluster.settle();
    cluster.create(pod("thief", 4000));
    cluster.settle();
    cluster.pass(5);
    assert_eq!(cluster.model.placed.keys().collect::<Vec<_>>(), ["high"]);
}

#[test]
fn the_pod_itself_may_be_the_first_that_it_wants_to_be_near() {
    let mut cluster = Cluster::new(1);
    for name in ["a", "b", "c"] {
        cluster.set_node(node(name));
    }
    for i in 0..5 {
        let near = Some(Rule { app: "web".into(), by: "host" });
        cluster.create(PodSpec { near, ..pod(&format!("p{i}"), 100) });
    }
    cluster.settle();
    let nodes: std::collections::BTreeSet<&String> = cluster.model.placed.values().map(|(_, node)| node).collect();
    assert_eq!((cluster.model.placed.len(), nodes.len()), (5, 1));
}

/// To those that come next a pod is on its node as soon as that is decided; which binding is done first is another matter.
#[test]
fn a_pod_follows_another_whose_binding_is_underway() {
    let mut cluster = Cluster::new(1);
    for name in ["a", "b", "c"] {
        cluster.set_node(node(name));
    }
    cluster.create(PodSpec { app: "db".into(), priority: 1, ..pod("first", 100) });
    cluster.create(PodSpec { near: Some(Rule { app: "db".into(), by: "host" }), ..pod("second", 100) });
    while cluster.core.schedule_one(cluster.now, Timestamp::UNIX_EPOCH) {}
    let bindings = cluster.core.take_effects().into_iter().filter_map(|effect| match effect {
        Effect::Bind(binding) => Some((binding.pod.metadata.name.clone().unwrap_or_default(), binding.node)),
        _ => None,
    });
    let bindings: Vec<_> = bindings.collect();
    let [(first, there), (second, near)] = bindings.as_slice() else { panic!("two pods are bound: {bindings:?}") };
    assert_eq!((first.as_str(), second.as_str(), there), ("first", "second", near));
}

#[test]
fn a_binding_that_failed_is_tried_again() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.failures = 2;
    cluster.create(pod("a", 4000));
    cluster.settle();
    assert_eq!(message(&cluster, "a"), "SchedulerError told to fail");
    cluster.pass(8);
    assert_eq!(cluster.model.placed["a"].1, "n");
    assert_eq!(cluster.metrics.get(Id::ScheduleAttempts, &["error", "default-scheduler"]), 2.0);
    assert_eq!(cluster.metrics.get(Id::ScheduleAttempts, &["scheduled", "default-scheduler"]), 1.0);
}

#[test]
fn pods_of_other_schedulers_are_left_alone_but_counted() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.create(pod("mine", 100));
    cluster.change("mine", |pod| pod.spec.get_or_insert_default().scheduler_name = Some("other".into()));
    cluster.create(pod("foreign", 3000));
    cluster.settle();
    assert!(cluster.model.placed.contains_key("foreign"));
}

#[test]
fn a_pod_that_is_being_deleted_is_not_placed() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.create(pod("a", 100));
    cluster.change("a", |pod| {
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
    });
    cluster.settle();
    assert_eq!(cluster.told, ["FailedScheduling a: skip schedule deleting pod: d/a"]);
    assert!(cluster.model.placed.is_empty());
}

#[test]
fn pods_spread_over_hosts_without_being_told_to_crowd() {
    let mut cluster = Cluster::new(1);
    for i in 0..10 {
        cluster.set_node(node(&format!("n{i}")));
    }
    for i in 0..10 {
        cluster.create(pod(&format!("p{i}"), 500));
    }
    cluster.settle();
    let nodes: std::collections::BTreeSet<&String> = cluster.model.placed.values().map(|(_, node)| node).collect();
    assert_eq!(nodes.len(), 10);
}

#[test]
fn a_node_that_is_gone_takes_no_pods() {
    let mut cluster = Cluster::new(1);
    cluster.set_node(node("n"));
    cluster.set_node(node("m"));
    cluster.remove_node("n");
    for i in 0..5 {
        cluster.create(pod(&format!("p{i}"), 100));
    }
    cluster.settle();
    assert!(cluster.model.placed.values().all(|(_, node)| node == "m"));
}
