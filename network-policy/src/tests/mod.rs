//! The engine against a slow model, on worlds that change by chance.
//!
//! [`model`] says from the objects what is allowed, as the API documentation has it; [`mirror`] is a table as the kernel would have
//! it after all differences, and says what that lets through; [`chance`] makes up worlds and what happens in them.

mod chance;
mod mirror;
mod model;

use std::collections::BTreeMap;

use client::ObjectKey;

use crate::engine::{Change, Difference, Engine};
use crate::pod::SlimPod;
use crate::policy::Policy;
use chance::{Chance, Event};
use mirror::Mirror;
use model::{NODE, World};

const WORLDS: u64 = 60;
const STEPS: usize = 40;
const PACKETS: usize = 40;

/// What the engine is told of an event.
fn change(event: &Event) -> Change {
    match event {
        Event::Pod(key, pod) => {
            let slim = pod.as_ref().and_then(|pod| serde_json::from_value::<SlimPod>(pod.object()).expect("a pod").pod(NODE));
            Change::Pod(key.clone(), slim)
        }
        Event::Namespace(name, labels) => Change::Namespace(name.clone(), labels.clone()),
        Event::Policy(key, policy) => Change::Policy(key.clone(), policy.as_ref().map(|policy| Policy::of(policy))),
    }
}

/// Everything there is, told at once to an engine that knows nothing.
fn from_scratch(world: &World) -> Mirror {
    let events = world.pods.iter().map(|(key, pod)| Event::Pod(key.clone(), Some(pod.clone())));
    let events = events.chain(world.namespaces.iter().map(|(name, labels)| Event::Namespace(name.clone(), Some(labels.clone()))));
    let events = events.chain(world.policies.iter().map(|(key, policy)| Event::Policy(key.clone(), Some(policy.clone()))));
    let mut engine = Engine::default();
    let difference = engine.update(events.map(|event| change(&event)).collect());
    let mut mirror = Mirror::default();
    mirror.apply(&engine, &difference);
    mirror
}

#[test]
fn what_is_let_through_is_what_the_documentation_says() {
    let (mut passed, mut dropped) = (0, 0);
    for seed in 0..WORLDS {
        let mut chance = Chance::new(seed);
        let (mut world, mut engine, mut mirror) = (World::default(), Engine::default(), Mirror::default());
        for step in 0..STEPS {
            let events = chance.events(&world);
            events.iter().for_each(|event| world.take(event));
            let difference = engine.update(events.iter().map(change).collect());
            mirror.apply(&engine, &difference);
            let place = format!("world {seed}, step {step}");
            assert!(mirror == from_scratch(&world), "{place}: changes lead to another table than the whole");
            for packet in std::iter::repeat_with(|| chance.packet()).take(PACKETS) {
                let allowed = world.allows(&packet);
                assert_eq!(mirror.lets_through(&packet), allowed, "{place}: {packet:?}\n{world:#?}");
                *if allowed { &mut passed } else { &mut dropped } += 1;
            }
        }
        let mut whole = Mirror::default();
        whole.apply(&engine, &engine.everything());
        assert!(whole == mirror, "world {seed}: everything written anew is another table");
    }
    assert!(passed > 10_000 && dropped > 10_000, "worlds in which something is decided: {passed} passed, {dropped} dropped");
}

fn policy(name: &str, spec: serde_json::Value) -> Change {
    let object = serde_json::json!({"metadata": {"namespace": "a", "name": name}, "spec": spec});
    Change::Policy(ObjectKey::new("a", name), Some(Policy::of(&serde_json::from_value(object).expect("a policy"))))
}

fn pod(name: &str, app: &str, address: &str) -> Change {
    let pod = model::Pod {
        namespace: "a".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        addresses: vec![address.parse().expect("an address")],
        ports: vec![("http".to_owned(), "TCP", 80)],
        is_local: true,
        ..model::Pod::default()
    };
    change(&Event::Pod(ObjectKey::new("a", name), Some(pod)))
}

fn counts(difference: &Difference) -> (usize, usize, usize) {
    let elements = difference.added.values().chain(difference.removed.values()).map(Vec::len).sum();
    (difference.new_chains.len() + difference.gone_chains.len(), elements, difference.isolation.len())
}

#[test]
fn another_replica_is_one_more_element_where_it_is_meant() {
    let mut engine = Engine::default();
    let from_db = serde_json::json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "db"}}}, {"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]}]});
    engine.update(vec![policy("p", from_db), pod("web-1", "web", "10.0.0.1"), pod("db-1", "db", "10.0.0.2")]);
    assert_eq!(engine.size(), (1, 3, 2), "one chain, two sets of pods and one of ports");
    // The chain is there; the address is led to it, and is one of those that may come.
    assert_eq!(counts(&engine.update(vec![pod("web-2", "web", "10.0.0.3")])), (0, 1, 1));
    assert_eq!(counts(&engine.update(vec![pod("db-2", "db", "10.0.0.4")])), (0, 1, 0));
    assert_eq!(counts(&engine.update(vec![pod("other", "other", "10.0.0.5")])), (0, 0, 0));
    let gone = Change::Pod(ObjectKey::new("a", "db-1"), None);
    assert_eq!(counts(&engine.update(vec![gone])), (0, 1, 0));
}

#[test]
fn a_policy_that_says_nothing_new_changes_nothing() {
    let mut engine = Engine::default();
    let deny = || serde_json::json!({"podSelector": {}});
    engine.update(vec![policy("p", deny()), pod("web-1", "web", "10.0.0.1")]);
    assert!(engine.update(vec![policy("q", deny())]).is_empty());
    assert!(engine.update(vec![Change::Policy(ObjectKey::new("a", "p"), None)]).is_empty());
    let last = engine.update(vec![Change::Policy(ObjectKey::new("a", "q"), None)]);
    assert_eq!((last.gone_chains.len(), last.no_longer_isolated.len()), (1, 1));
    assert_eq!(engine.size(), (0, 0, 0));
}
