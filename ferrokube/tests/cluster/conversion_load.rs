//! Writers and watchers of three versions at the same time, while the stored version changes and the webhook comes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::api::{DynamicObject, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};

use crate::conversion::{DEADLINE, api, install, message, object, setup, shown};

const OBJECTS: usize = 6;
const WRITERS: usize = 2;
const WRITES: usize = 12;
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

/// Adds an annotation to an object, over and over until the server says that it has been written.
async fn annotate(objects: &Api<DynamicObject>, name: &str, key: &str) {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < DEADLINE, "{key} cannot be written");
        let mut current = match objects.get(name).await {
            Ok(current) => current,
            Err(error) => {
                assert!(!matches!(&error, kube::Error::Api(status) if status.code == 404), "{name} was never away: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        current.annotations_mut().insert(key.to_owned(), "x".to_owned());
        if objects.replace(name, &PostParams::default(), &current).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a watcher has been told: the annotations of each object. It goes on where it was after every end, and starts anew
/// where the server tells it to.
async fn follow(client: Client, version: &'static str, done: Arc<AtomicBool>) -> BTreeMap<String, BTreeSet<String>> {
    let objects = api(&client, version);
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        if after.is_none() {
            let Ok(list) = objects.list(&ListParams::default()).await else { continue };
            known = list.iter().map(|o| (o.name_any(), o.annotations().keys().cloned().collect())).collect();
            after = list.metadata.resource_version;
        }
        let parameters = WatchParams::default().timeout(2);
        let finishing = done.load(Ordering::SeqCst);
        let Ok(events) = objects.watch(&parameters, after.as_deref().unwrap_or("0")).await else { continue };
        let mut events = events.boxed();
        let mut last = after.as_deref().and_then(|rv| rv.parse::<u64>().ok()).unwrap_or(0);
        let ended_well = loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => break true,
                Err(_) => break false,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    assert_eq!(shown(version, &object), "h:1");
                    let revision: u64 = object.resource_version().and_then(|rv| rv.parse().ok()).expect("a revision");
                    assert!(revision > last, "events come in order");
                    last = revision;
                    after = object.resource_version();
                    let keys = object.annotations().keys().cloned().collect();
                    let before = known.insert(object.name_any(), keys).unwrap_or_default();
                    assert!(before.is_subset(&known[&object.name_any()]), "nothing that was seen is gone");
                }
                WatchEvent::Error(status) => {
                    if status.code == 410 {
                        after = None;
                    }
                    break false;
                }
                _ => {}
            }
        };
        if finishing && ended_well {
            return known;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_of_three_versions_lose_nothing() {
    let (_data, _cluster, client, server) = setup("v1").await;
    for n in 0..OBJECTS {
        let version = VERSIONS[n % VERSIONS.len()];
        api(&client, version).create(&PostParams::default(), &object(version, &format!("o{n}"), "h", "1")).await.expect("created");
    }
    let done = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = VERSIONS.iter().map(|version| tokio::spawn(follow(client.clone(), version, done.clone()))).collect();
    let writers: Vec<_> = (0..WRITERS * VERSIONS.len())
        .map(|writer| {
            let objects = api(&client, VERSIONS[writer % VERSIONS.len()]);
            tokio::spawn(async move {
                for write in 0..WRITES {
                    annotate(&objects, &format!("o{}", (writer + write) % OBJECTS), &format!("w{writer}-{write}")).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    install(&client, &server, "v3").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.seen.down.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.seen.down.store(false, Ordering::SeqCst);
    install(&client, &server, "v2").await;
    for writer in writers {
        writer.await.expect("a writer ends well");
    }
    done.store(true, Ordering::SeqCst);
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (writer, write) in (0..WRITERS * VERSIONS.len()).flat_map(|writer| (0..WRITES).map(move |write| (writer, write))) {
        expected.entry(format!("o{}", (writer + write) % OBJECTS)).or_default().insert(format!("w{writer}-{write}"));
    }
    for version in VERSIONS {
        let listed = api(&client, version).list(&ListParams::default()).await.expect("a list");
        let found: BTreeMap<String, BTreeSet<String>> =
            listed.iter().map(|o| (o.name_any(), o.annotations().keys().cloned().collect())).collect();
        assert_eq!(found, expected, "{version}");
        assert!(listed.iter().all(|o| shown(version, o) == "h:1"));
    }
    for watcher in watchers {
        assert_eq!(watcher.await.expect("a watcher ends well"), expected, "the last state was told");
    }
}

#[tokio::test]
async fn a_webhook_that_is_down_fails_only_what_needs_it() {
    let (_data, _cluster, client, server) = setup("v1").await;
    let (v1, v2) = (api(&client, "v1"), api(&client, "v2"));
    let post = PostParams::default();
    v1.create(&post, &object("v1", "a", "h", "1")).await.expect("created");
    let list = v2.list(&ListParams::default()).await.expect("a list");
    let mut events = v2.watch(&WatchParams::default(), &list.metadata.resource_version.unwrap_or_default()).await.expect("a watch").boxed();
    server.seen.down.store(true, Ordering::SeqCst);
    v1.create(&post, &object("v1", "b", "h", "2")).await.expect("needs no conversion");
    let refused = v2.create(&post, &object("v2", "c", "h", "3")).await.expect_err("needs conversion");
    assert!(message(&refused).starts_with("conversion webhook for conversion.example.com/v2, Kind=Endpoint failed: "), "{refused}");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    v1.create(&dry, &object("v1", "d", "h", "4")).await.expect("needs no conversion");
    assert!(v2.create(&dry, &object("v2", "d", "h", "4")).await.is_err(), "what would be refused is refused");
    assert!(v2.get("b").await.is_err() && v2.list(&ListParams::default()).await.is_err());
    assert!(v1.get_opt("c").await.expect("an answer").is_none(), "what was refused is not there");
    match events.try_next().await.expect("an event") {
        Some(WatchEvent::Error(status)) => assert!(status.message.contains("conversion webhook for"), "{status:?}"),
        other => panic!("{other:?}"),
    }
    assert!(events.try_next().await.expect("the end").is_none());
    server.seen.down.store(false, Ordering::SeqCst);
    assert_eq!(shown("v2", &v2.get("b").await.expect("got")), "h:2");
    let tried = v2.create(&dry, &object("v2", "d", "h", "4")).await.expect("tried");
    assert_eq!((shown("v2", &tried), &tried.data["trail"]), ("h:4".to_owned(), &"v2>v1>".into()));
    assert_eq!(v2.list(&ListParams::default()).await.expect("a list").items.len(), 2);
}

#[tokio::test]
async fn an_object_that_cannot_be_converted_ends_a_watch_after_those_before_it() {
    let (_data, _cluster, client, _server) = setup("v1").await;
    let (v1, v2) = (api(&client, "v1"), api(&client, "v2"));
    let post = PostParams::default();
    let start = v2.list(&ListParams::default()).await.expect("a list").metadata.resource_version.unwrap_or_default();
    for name in ["a", "b", "poison", "z"] {
        v1.create(&post, &object("v1", name, "h", "1")).await.expect("created");
    }
    let events: Vec<_> = v2.watch(&WatchParams::default(), &start).await.expect("a watch").boxed().collect().await;
    let told: Vec<String> = events
        .into_iter()
        .map(|event| match event.expect("an event") {
            WatchEvent::Added(object) => object.name_any(),
            WatchEvent::Error(status) => status.message,
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["a", "b", "conversion webhook for conversion.example.com/v1, Kind=Endpoint failed: poison is poisoned"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_slow_webhook_share_its_answers_and_keep_their_order() {
    const WATCHERS: usize = 8;
    const CREATED: usize = 30;
    let (_data, _cluster, client, server) = setup("v1").await;
    let v1 = api(&client, "v1");
    let start = v1.list(&ListParams::default()).await.expect("a list").metadata.resource_version.unwrap_or_default();
    server.seen.delay_ms.store(200, Ordering::SeqCst);
    let watch = |version: &'static str| {
        let (client, start) = (client.clone(), start.clone());
        tokio::spawn(async move {
            let events = api(&client, version).watch(&WatchParams::default(), &start).await.expect("a watch");
            let names = events.map(|event| match event.expect("an event") {
                WatchEvent::Added(object) => object.name_any(),
                other => panic!("{other:?}"),
            });
            names.take(CREATED).collect::<Vec<_>>().await
        })
    };
    let watchers: Vec<_> = (0..WATCHERS).map(|n| watch(if n % 2 == 0 { "v2" } else { "v3" })).collect();
    let stored = watch("v1");
    let began = Instant::now();
    let mut expected = Vec::new();
    for n in 0..CREATED {
        let name = format!("o{n}");
        v1.create(&PostParams::default(), &object("v1", &name, "h", "1")).await.expect("created");
        expected.push(name);
    }
    assert_eq!(stored.await.expect("a watcher ends well"), expected);
    let undisturbed = began.elapsed();
    for watcher in watchers {
        assert_eq!(watcher.await.expect("a watcher ends well"), expected);
    }
    assert_eq!(server.seen.objects.load(Ordering::SeqCst), 2 * CREATED, "each object was asked about once for each version");
    assert!(server.seen.calls.load(Ordering::SeqCst) < CREATED, "many at a time");
    assert!(undisturbed < Duration::from_secs(6), "who needs no conversion waits for none: {undisturbed:?}");
}
