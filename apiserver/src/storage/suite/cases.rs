//! What every store must do. A case gets a fresh, empty store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Backend;
use crate::storage::store::{Change, Expected, Key, MAX_VALUE_BYTES, Revision, Round, Store, StoreError, StoreEvent, Txn};

pub(super) fn key(text: &str) -> Key {
    Key::new(text)
}

pub(super) async fn put(store: &dyn Store, key: &str, value: &str, expected: Expected) -> Result<Revision, StoreError> {
    store.commit(Txn::put(Key::new(key), Bytes::copy_from_slice(value.as_bytes()), expected)).await
}

async fn delete(store: &dyn Store, key: &str, expected: Expected) -> Result<Revision, StoreError> {
    store.commit(Txn::delete(Key::new(key), expected)).await
}

/// The events after a revision, up to and including another.
pub(super) async fn events(store: &dyn Store, after: Revision, upto: Revision) -> Vec<StoreEvent> {
    let mut all = Vec::new();
    let mut reached = after;
    let mut batches = store.watch(after);
    while reached < upto {
        let batch = tokio::time::timeout(Duration::from_secs(20), batches.next()).await.expect("events come").unwrap().unwrap();
        assert!(batch.revision >= reached, "progress never goes back");
        reached = batch.revision;
        all.extend(batch.events);
    }
    all
}

pub(super) async fn contents(store: &dyn Store, prefix: &str) -> BTreeMap<String, (u64, String)> {
    let loaded = store.load(prefix, None).await.unwrap();
    let entry =
        |e: &crate::storage::store::Entry| (e.key.as_str().to_owned(), (e.revision.0, String::from_utf8(e.value.to_vec()).unwrap()));
    loaded.entries.iter().map(entry).collect()
}

pub(super) async fn a_transaction_happens_only_if_its_expectation_holds(backend: Backend) {
    let store = backend.open().await;
    let store = &*store;
    assert_eq!(store.revision().await.unwrap(), Revision(1), "as an empty etcd");
    let first = put(store, "a/x", "1", Expected::Absent).await.unwrap();
    assert_eq!(first, Revision(2));
    assert!(matches!(put(store, "a/x", "2", Expected::Absent).await, Err(StoreError::Exists { .. })));
    let second = put(store, "a/x", "2", Expected::At(first)).await.unwrap();
    let refused = put(store, "a/x", "3", Expected::At(first)).await;
    assert!(matches!(refused, Err(StoreError::Changed { current, seen, .. }) if current == second && seen >= second), "{refused:?}");
    assert!(matches!(put(store, "a/y", "1", Expected::At(second)).await, Err(StoreError::Absent { .. })));
    assert!(matches!(delete(store, "a/y", Expected::Any).await, Err(StoreError::Absent { .. })));
    assert!(matches!(delete(store, "a/y", Expected::Absent).await, Err(StoreError::Absent { .. })));
    assert!(matches!(delete(store, "a/x", Expected::Absent).await, Err(StoreError::Exists { .. })));
    assert!(matches!(delete(store, "a/x", Expected::At(first)).await, Err(StoreError::Changed { .. })));
    assert_eq!(store.revision().await.unwrap(), second, "what is refused leaves no revision");
    let third = put(store, "a/x", "4", Expected::Any).await.unwrap();
    let fourth = delete(store, "a/x", Expected::At(third)).await.unwrap();
    let fifth = put(store, "a/x", "5", Expected::Absent).await.unwrap();
    assert_eq!((third, fourth, fifth), (Revision(4), Revision(5), Revision(6)));
    assert_eq!(contents(store, "a/").await, BTreeMap::from([("a/x".to_owned(), (6, "5".to_owned()))]));
}

pub(super) async fn random_operations_agree_with_a_model(mut backend: Backend) {
    let mut store = backend.open().await;
    let mut random = SmallRng::seed_from_u64(7);
    let mut model: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut history = Vec::new();
    let mut revision = 1;
    for step in 0..600 {
        if step == 300 {
            store = backend.restart(store).await;
        }
        let name = format!("r/{}", random.random_range(0..12));
        let present = model.get(&name).map(|(r, _)| *r);
        let expected = match random.random_range(0..4) {
            0 => Expected::Absent,
            1 => Expected::At(Revision(random.random_range(1..=revision))),
            2 => present.map_or(Expected::Any, |r| Expected::At(Revision(r))),
            _ => Expected::Any,
        };
        let deletes = random.random_bool(0.3);
        let allowed = match expected {
            Expected::Absent => present.is_none() && !deletes,
            Expected::At(r) => present == Some(r.0),
            Expected::Any => !deletes || present.is_some(),
        };
        let value = format!("value {step}");
        let outcome = if deletes { delete(&*store, &name, expected).await } else { put(&*store, &name, &value, expected).await };
        assert_eq!(outcome.is_ok(), allowed, "step {step}: {name} {expected:?} {present:?} {outcome:?}");
        let Ok(done) = outcome else { continue };
        revision += 1;
        assert_eq!(done, Revision(revision), "each write is one revision");
        let value = (!deletes).then_some(value);
        history.push(StoreEvent { key: key(&name), revision: done, value: value.clone().map(Bytes::from), unreadable: None, plain: None });
        match value {
            Some(value) => model.insert(name, (revision, value)),
            None => model.remove(&name),
        };
    }
    assert_eq!(contents(&*store, "r/").await, model);
    // The embedded store's window starts anew at a restart.
    let from = if matches!(backend, Backend::Embedded(_)) { history.len() / 2 + 20 } else { 0 };
    let after = Revision(history[from].revision.0 - 1);
    assert_eq!(events(&*store, after, Revision(revision)).await, history[from..]);
}

pub(super) async fn concurrent_swaps_lose_no_update(backend: Backend) {
    const TASKS: usize = 8;
    const INCREMENTS: usize = 25;
    let store = backend.open().await;
    put(&*store, "c/n", "0", Expected::Absent).await.unwrap();
    let increment = |store: Arc<dyn Store>| async move {
        let mut done = 0;
        while done < INCREMENTS {
            let (revision, value) = contents(&*store, "c/").await["c/n"].clone();
            let next = (value.parse::<usize>().unwrap() + 1).to_string();
            match put(&*store, "c/n", &next, Expected::At(Revision(revision))).await {
                Ok(_) => done += 1,
                Err(StoreError::Changed { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    futures::future::join_all((0..TASKS).map(|_| tokio::spawn(increment(store.clone())))).await.into_iter().for_each(|t| t.unwrap());
    let total = TASKS * INCREMENTS;
    assert_eq!(contents(&*store, "c/").await["c/n"], (total as u64 + 2, total.to_string()));
    let told = events(&*store, Revision(1), Revision(total as u64 + 2)).await;
    let values: Vec<_> = told.iter().map(|e| e.value.as_ref().unwrap().as_ref()).collect();
    let counted: Vec<_> = (0..=total).map(|n| n.to_string()).collect();
    assert_eq!(values, counted.iter().map(|n| n.as_bytes()).collect::<Vec<_>>());
}

pub(super) async fn a_watch_resumes_without_gap_or_repetition(backend: Backend) {
    let store = backend.open().await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..300 {
                put(&*store, &format!("w/{}", n % 7), &n.to_string(), Expected::Any).await.unwrap();
            }
        })
    };
    let mut seen = Vec::new();
    let mut after = Revision(1);
    // Each watch is dropped after one batch and the next starts where it was.
    while seen.len() < 300 {
        let batch = store.watch(after).next().await.unwrap().unwrap();
        assert!(batch.events.iter().all(|e| e.revision > after && e.revision <= batch.revision));
        seen.extend(batch.events.iter().map(|e| e.revision.0));
        after = batch.revision;
    }
    writer.await.unwrap();
    assert_eq!(seen, (2..302).collect::<Vec<_>>());
}

pub(super) async fn writes_at_once_and_what_is_announced_and_never_comes_keep_nobody(backend: Backend) {
    let store = backend.open().await;
    let _never = store.announce();
    for round in 0..20 {
        let writes = (0..round).map(|n| {
            let coming = store.announce();
            let store = &store;
            async move {
                let name = format!("t/{round}-{n}");
                store.commit(Txn::put(key(&name), Bytes::from_static(b"v"), Expected::Absent)).await.map(|_| drop(coming))
            }
        });
        futures::future::try_join_all(writes).await.unwrap();
        assert_eq!(store.load("t/", None).await.unwrap().entries.len(), round * (round + 1) / 2);
    }
}

pub(super) async fn keys_live_for_their_time(backend: Backend) {
    let store = backend.open().await;
    let mortal = |name: &str, ttl: u32| Txn {
        key: key(name),
        change: Change::Put { value: Bytes::from_static(b"v"), ttl_seconds: Some(ttl) },
        expected: Expected::Any,
        plain: None,
    };
    // Each of these voids the deadline before; more of them than are let be.
    for _ in 0..if matches!(backend, Backend::Embedded(_)) { 5000 } else { 10 } {
        store.commit(mortal("t/d", 60)).await.unwrap();
    }
    let before = store.revision().await.unwrap();
    for name in ["t/a", "t/b", "t/c", "t/d"] {
        store.commit(mortal(name, 3)).await.unwrap();
    }
    let kept = put(&*store, "t/b", "kept", Expected::Any).await.unwrap();
    let mut batches = store.watch(before);
    let mut gone = Vec::new();
    while gone.len() < 3 {
        let batch = tokio::time::timeout(Duration::from_secs(30), batches.next()).await.expect("keys run out").unwrap().unwrap();
        gone.extend(batch.events.iter().filter(|e| e.value.is_none()).map(|e| e.key.as_str().to_owned()));
    }
    gone.sort();
    assert_eq!(gone, ["t/a", "t/c", "t/d"]);
    assert_eq!(contents(&*store, "t/").await, BTreeMap::from([("t/b".to_owned(), (kept.0, "kept".to_owned()))]));
}

pub(super) async fn compacted_history_is_gone(backend: Backend) {
    let store = backend.open().await;
    // More than the embedded store's window.
    let writes = (0..1500).map(|n| {
        let store = store.clone();
        async move { put(&*store, &format!("h/{}", n % 10), &n.to_string(), Expected::Any).await.unwrap() }
    });
    let last = futures::stream::iter(writes).buffer_unordered(64).fold(Revision(0), |a, b| async move { a.max(b) }).await;
    let (round, compacted) = store.compact(Round::default()).await.unwrap();
    assert_eq!(compacted, None, "the first round compacts nothing");
    assert!(round.revision >= last);
    let seen = round.revision;
    put(&*store, "h/after", "x", Expected::Absent).await.unwrap();
    let (_, compacted) = store.compact(round).await.unwrap();
    assert_eq!(compacted, Some(seen), "the second round compacts to what the first saw");
    assert!(matches!(store.load("h/", Some(Revision(5))).await, Err(StoreError::Compacted { .. })));
    let told = store.watch(Revision(5)).next().await.unwrap();
    assert!(matches!(told, Err(StoreError::Compacted { .. })), "{told:?}");
    assert_eq!(contents(&*store, "h/").await.len(), 11, "what is live stays");
    // A latecomer to the protocol learns where it stands and compacts nothing.
    if matches!(backend, Backend::Etcd(_)) {
        let (round, compacted) = store.compact(Round::default()).await.unwrap();
        assert_eq!((round.time, compacted), (2, Some(seen)));
    }
}

pub(super) async fn a_restart_keeps_contents_and_revision(mut backend: Backend) {
    let store = backend.open().await;
    for n in 0..50 {
        put(&*store, &format!("p/{n}"), &"x".repeat(2000), Expected::Absent).await.unwrap();
    }
    delete(&*store, "p/7", Expected::Any).await.unwrap();
    let before = (contents(&*store, "p/").await, store.revision().await.unwrap());
    let store = backend.restart(store).await;
    assert_eq!((contents(&*store, "p/").await, store.revision().await.unwrap()), before);
    assert_eq!(put(&*store, "p/7", "again", Expected::Absent).await.unwrap(), Revision(before.1.0 + 1));
    assert!(matches!(put(&*store, "p/8", "x", Expected::Absent).await, Err(StoreError::Exists { .. })));
}

pub(super) async fn a_prefix_is_loaded_whole_and_in_order(backend: Backend) {
    let store = backend.open().await;
    let writes = (0..2300).map(|n| {
        let store = store.clone();
        async move { put(&*store, &format!("pods/ns-{}/p{n:04}", n % 3), "v", Expected::Absent).await.unwrap() }
    });
    futures::stream::iter(writes).buffer_unordered(64).count().await;
    for other in ["podsets/ns/a", "pods.example.com/x", "pod/a"] {
        put(&*store, other, "v", Expected::Absent).await.unwrap();
    }
    let loaded = store.load("pods/", None).await.unwrap();
    assert_eq!(loaded.entries.len(), 2300);
    assert_eq!(loaded.revision, Revision(2304));
    assert!(loaded.entries.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(store.load("pods/ns-1/", None).await.unwrap().entries.len(), 767);
    assert!(store.load("nothing/", None).await.unwrap().entries.is_empty());
}

pub(super) async fn too_large_a_value_is_refused(backend: Backend) {
    let store = backend.open().await;
    let large = Bytes::from(vec![b'x'; MAX_VALUE_BYTES + 1]);
    let refused = store.commit(Txn::put(key("l/a"), large, Expected::Absent)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.revision().await.unwrap(), Revision(1));
}
