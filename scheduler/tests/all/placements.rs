//! Thousands of random pods, nodes and changes: no placement ever breaks a rule, and nobody waits who could go.

use scheduler::search::Dice;

use crate::cluster::Cluster;
use crate::model::{NodeSpec, PodSpec, Rule};

fn pick<'a>(dice: &mut Dice, from: &[&'a str]) -> &'a str {
    from[dice.below(from.len())]
}

fn one_in(dice: &mut Dice, n: usize) -> bool {
    dice.below(n) == 0
}

fn node(dice: &mut Dice, name: String) -> NodeSpec {
    NodeSpec {
        name,
        zone: pick(dice, &["a", "b", "c"]).into(),
        disk: pick(dice, &["ssd", "hdd"]).into(),
        cpu: 1000 * (1 + dice.below(8) as i64),
        memory: 1000 * (1 + dice.below(8) as i64),
        gpus: dice.below(4) as i64,
        pods: 3 + dice.below(20),
        taint: one_in(dice, 5).then(|| "gpu".into()),
        cordoned: one_in(dice, 10),
    }
}

const APPS: [&str; 5] = ["web", "db", "cache", "batch", "log"];

fn rule(dice: &mut Dice, app: &str) -> Rule {
    let app = if one_in(dice, 2) { app } else { pick(dice, &APPS) };
    Rule { app: app.into(), by: if one_in(dice, 2) { "zone" } else { "host" } }
}

fn pod(dice: &mut Dice, name: String, priorities: usize) -> PodSpec {
    let app = pick(dice, &APPS).to_owned();
    PodSpec {
        name,
        cpu: 100 * dice.below(15) as i64,
        memory: 100 * dice.below(15) as i64,
        gpus: if one_in(dice, 8) { 1 + dice.below(2) as i64 } else { 0 },
        port: one_in(dice, 10).then(|| 8000 + dice.below(3) as i64),
        tolerates: one_in(dice, 4).then(|| "gpu".into()),
        disk: one_in(dice, 4).then(|| pick(dice, &["ssd", "hdd"]).into()),
        priority: dice.below(priorities) as i64,
        near: one_in(dice, 8).then(|| rule(dice, &app)),
        away: one_in(dice, 8).then(|| rule(dice, &app)),
        spread: one_in(dice, 6).then(|| (if one_in(dice, 2) { "zone" } else { "host" }, 1 + dice.below(3) as i64)),
        min_domains: one_in(dice, 2).then(|| 1 + dice.below(4) as i64),
        gated: one_in(dice, 20),
        app,
    }
}

/// How many pods were bound.
fn run(seed: u64, nodes: usize, pods: usize, priorities: usize) -> usize {
    let mut dice = Dice::new(seed);
    let mut cluster = Cluster::new(seed);
    for i in 0..nodes {
        let node = node(&mut dice, format!("node-{i}"));
        cluster.set_node(node);
    }
    let mut created = 0;
    while created < pods {
        match dice.below(100) {
            0..80 => {
                let pod = pod(&mut dice, format!("pod-{created}"), priorities);
                cluster.create(pod);
                created += 1;
            }
            80..88 => {
                let names: Vec<String> = cluster.model.placed.keys().chain(cluster.waiting.keys()).cloned().collect();
                if !names.is_empty() {
                    let name = names[dice.below(names.len())].clone();
                    cluster.delete(&name);
                }
            }
            88..92 => {
                let name = format!("node-{}", dice.below(nodes));
                let mut changed = node(&mut dice, name.clone());
                // What is there must stay true: only what pods on it do not depend on may change.
                if let Some(known) = cluster.model.nodes.get(&name) {
                    (changed.zone, changed.disk) = (known.zone.clone(), known.disk.clone());
                }
                cluster.set_node(changed);
            }
            92..94 => {
                let gated = cluster.waiting.iter().find(|(_, pod)| pod.gated).map(|(name, _)| name.clone());
                if let Some(name) = gated {
                    cluster.waiting.get_mut(&name).expect("it waits").gated = false;
                    cluster.change(&name, |pod| pod.spec.get_or_insert_default().scheduling_gates = None);
                }
            }
            94..96 => cluster.failures = 2,
            _ => cluster.pass(3),
        }
        if one_in(&mut dice, 5) {
            cluster.settle();
        }
    }
    cluster.failures = 0;
    // Backoffs end, and no hint may have been missed: what is left fits nowhere, without the long wait that would mend it.
    cluster.pass(60);
    for (name, pod) in cluster.waiting.iter().filter(|(_, pod)| !pod.gated) {
        let node = cluster.model.fits_somewhere(pod);
        assert_eq!(
            node,
            None,
            "seed {seed}: {name} waits though there is room: {pod:?}\n{:?}",
            cluster.told.iter().rev().find(|t| t.contains(name.as_str()))
        );
    }
    cluster.bound
}

#[test]
fn small_clusters_keep_every_rule_and_leave_nobody_waiting_in_vain() {
    let bound: usize = (0..20).map(|seed| run(seed, 4 + seed as usize % 12, 120, 1)).sum();
    assert!(bound > 20 * 120 / 4, "only {bound} pods were bound");
}

#[test]
fn a_large_cluster_does_too() {
    let bound = run(1000, 60, 900, 1);
    assert!(bound > 300, "only {bound} pods were bound");
}

#[test]
fn the_more_important_pods_get_the_room() {
    let bound: usize = (0..20).map(|seed| run(seed, 4 + seed as usize % 8, 100, 4)).sum();
    assert!(bound > 20 * 100 / 4, "only {bound} pods were bound");
}
