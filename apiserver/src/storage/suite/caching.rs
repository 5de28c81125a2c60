//! The cache over a store: what readers and watchers may rely on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::Backend;
use crate::storage::store::{Batch, Expected, Loaded, Round, Txn};
use crate::storage::{
    Config, Cursor, Error, Event, EventKind, FieldOrder, Freshness, LogLimits, Object, Resource, ResourceSpec, Revision, Scope,
    SelectableField, Snapshot, Storage, Store, StoreError,
};

fn pods() -> ResourceSpec {
    let node = SelectableField {
        name: "spec.nodeName".into(),
        value: Arc::new(|v: &Value| Cow::Borrowed(v.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or(""))),
    };
    ResourceSpec { fields: vec![node], ..ResourceSpec::json("pods", true, FieldOrder::Declared) }
}

fn pod(namespace: &str, name: &str, node: &str, generation: usize) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": generation, "labels": {"app": name}},
        "spec": {"nodeName": node},
    })
}

struct World {
    storage: Storage,
    pods: Arc<Resource>,
}

async fn world(backend: &Backend, config: Config) -> World {
    let storage = Storage::open(backend.open().await, config).await.unwrap();
    let pods = storage.register(pods()).await.unwrap();
    World { storage, pods }
}

fn small_log(events: usize) -> Config {
    Config { log: LogLimits { events, bytes: usize::MAX }, ..Config::default() }
}

type Picture = BTreeMap<String, (u64, String)>;

fn picture<'a>(objects: impl IntoIterator<Item = &'a Arc<Object>>) -> Picture {
    let entry = |o: &Arc<Object>| (o.key().to_string(), (o.revision().0, String::from_utf8(o.json().to_vec()).unwrap()));
    objects.into_iter().map(entry).collect()
}

fn all(snapshot: &Snapshot) -> Picture {
    picture(snapshot.range("", None))
}

async fn next(cursor: &mut Cursor) -> Vec<Arc<Event>> {
    tokio::time::timeout(Duration::from_secs(20), cursor.next()).await.expect("events come").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_answered_with_the_object_that_readers_then_get() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    let nodes = storage.register(ResourceSpec::json("minions", false, FieldOrder::Declared)).await.unwrap();
    let created = storage.create(&pods, &pod("ns", "a", "", 1), None).await.unwrap();
    assert_eq!(
        std::str::from_utf8(created.json()).unwrap(),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"ns","uid":"uid-a","resourceVersion":"2","generation":1,"labels":{"app":"a"}},"spec":{"nodeName":""}}"#
    );
    assert!(Arc::ptr_eq(&created, &pods.get("ns", "a").unwrap()), "the answer is the object in the cache");
    assert_eq!((created.uid(), created.labels().get("app"), created.value()["spec"]["nodeName"].as_str()), ("uid-a", Some("a"), Some("")));
    assert!(matches!(storage.create(&pods, &pod("ns", "a", "", 1), None).await, Err(Error::AlreadyExists)));
    let same = storage.update(&pods, &pod("ns", "a", "", 1), Some(Revision(2)), None).await.unwrap();
    assert!(Arc::ptr_eq(&created, &same), "what changes nothing is not written");
    let updated = storage.update(&pods, &pod("ns", "a", "n1", 2), Some(Revision(2)), None).await.unwrap();
    assert_eq!(updated.revision(), Revision(3));
    let stale = storage.update(&pods, &pod("ns", "a", "n2", 3), Some(Revision(2)), None).await;
    assert!(matches!(stale, Err(Error::Conflict { current: Revision(3) })));
    assert!(matches!(storage.update(&pods, &pod("ns", "b", "", 1), Some(Revision(2)), None).await, Err(Error::NotFound)));
    storage.create(&nodes, &json!({"metadata": {"name": "n1"}}), None).await.unwrap();
    assert_eq!(nodes.get("", "n1").unwrap().key().as_ref(), "n1");
    assert_eq!(storage.list(&pods, Freshness::Latest).await.unwrap().revision(), Revision(4), "revisions are common to all resources");
    assert!(matches!(storage.delete(&pods, "ns", "a", Some(Revision(2))).await, Err(Error::Conflict { current: Revision(3) })));
    let deleted = storage.delete(&pods, "ns", "a", None).await.unwrap();
    assert_eq!((deleted.revision(), deleted.value()["metadata"]["resourceVersion"].as_str()), (Revision(5), Some("5")));
    assert!(matches!(storage.delete(&pods, "ns", "a", None).await, Err(Error::NotFound)));
    assert!(matches!(storage.get(&pods, "ns", "a", Freshness::Latest).await, Err(Error::NotFound)));
    let before = storage.get(&pods, "ns", "a", Freshness::Exact(Revision(3))).await.unwrap();
    assert_eq!(before.json(), updated.json());
    let future = storage.list(&pods, Freshness::NotOlderThan(Revision(1_000))).await.err().unwrap();
    assert_eq!(future.to_string(), "Too large resource version: 1000, current: 5");
}

/// Applies what a watcher with a filter sees to what it had.
fn watched(state: &mut Picture, events: &[Arc<Event>], matches: impl Fn(&Object) -> bool) {
    for event in events {
        let Some((kind, object)) = event.seen_by(&matches) else { continue };
        assert_eq!(object.revision(), event.revision, "an event's object carries the event's revision");
        let key = object.key().to_string();
        assert_eq!(state.contains_key(&key), kind != EventKind::Added, "{kind:?} {key}");
        if kind == EventKind::Deleted {
            state.remove(&key);
        } else {
            state.extend(picture([object]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_and_exact_lists_agree_with_a_model() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    let mut random = SmallRng::seed_from_u64(11);
    let mut pictures = vec![Picture::new(); 2];
    type Filter = fn(&Object) -> bool;
    let watchers: [(Scope, Filter); 4] = [
        (Scope::All, |_| true),
        (Scope::Namespace("ns1".into()), |o| o.namespace() == "ns1"),
        (Scope::Name("p3".into()), |o| o.name() == "p3"),
        (Scope::Field(0, "n1".into()), |o| o.field(0).is_some_and(|f| &**f == "n1")),
    ];
    let mut cursors: Vec<_> =
        watchers.iter().map(|(scope, filter)| (pods.watch(scope.clone(), Revision(1)).unwrap(), Picture::new(), filter)).collect();
    for step in 0..400 {
        let (namespace, name) = (format!("ns{}", random.random_range(0..3)), format!("p{}", random.random_range(0..5)));
        let node = ["", "n1", "n2"][random.random_range(0..3)];
        let done = if random.random_bool(0.3) {
            storage.delete(&pods, &namespace, &name, None).await.is_ok()
        } else {
            storage.update(&pods, &pod(&namespace, &name, node, step), None, None).await.is_ok()
        };
        if done {
            pictures.push(all(&storage.list(&pods, Freshness::Latest).await.unwrap()));
        }
        if random.random_bool(0.1) {
            for (cursor, state, filter) in &mut cursors {
                watched(state, &cursor.try_next().unwrap(), **filter);
            }
        }
    }
    let now = Revision(pictures.len() as u64 - 1);
    assert_eq!(storage.revision(), now, "each change is one revision");
    for (revision, expected) in pictures.iter().enumerate().skip(1) {
        let list = storage.list(&pods, Freshness::Exact(Revision(revision as u64))).await.unwrap();
        assert_eq!((list.revision().0 as usize, &all(&list)), (revision, expected));
    }
    let last = storage.list(&pods, Freshness::Any).await.unwrap();
    for (cursor, state, filter) in &mut cursors {
        loop {
            let events = cursor.try_next().unwrap();
            if events.is_empty() {
                break;
            }
            watched(state, &events, **filter);
        }
        // Objects that ceased to match and came back carry their own revision in the end.
        assert_eq!(*state, picture(last.range("", None).filter(|o| filter(o))));
        assert_eq!(cursor.bookmark(), Some(now));
    }
    // A watcher that comes late to a topic finds what it missed, wherever it starts.
    for after in (1..now.0).step_by(17) {
        for (scope, filter) in &watchers {
            let mut state: Picture =
                picture(storage.list(&pods, Freshness::Exact(Revision(after))).await.unwrap().range("", None).filter(|o| filter(o)));
            let mut cursor = pods.watch(scope.clone(), Revision(after)).unwrap();
            for _ in 0..2 {
                watched(&mut state, &cursor.try_next().unwrap(), filter);
            }
            assert_eq!(state, picture(last.range("", None).filter(|o| filter(o))), "{scope:?} after {after}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_namespaces_are_ranges_of_a_snapshot() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    for (namespace, name) in [("a", "x"), ("a", "y"), ("a-b", "x"), ("a.b", "x"), ("a0", "x"), ("b", "x")] {
        storage.create(&pods, &pod(namespace, name, "", 1), None).await.unwrap();
    }
    let snapshot = pods.snapshot();
    let keys =
        |namespace: &str, after: Option<&str>| -> Vec<String> { snapshot.range(namespace, after).map(|o| o.key().to_string()).collect() };
    assert_eq!(keys("", None), ["a-b/x", "a.b/x", "a/x", "a/y", "a0/x", "b/x"], "the order of etcd's keys");
    assert_eq!(keys("a", None), ["a/x", "a/y"]);
    assert_eq!(keys("a", Some("a/x")), ["a/y"]);
    assert_eq!(keys("a", Some("a-b/x")), ["a/x", "a/y"]);
    assert_eq!(keys("a", Some("b/x")), [""; 0]);
    assert_eq!(keys("", Some("a/x")), ["a/y", "a0/x", "b/x"]);
    assert_eq!(keys("nowhere", None), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_bounded_and_those_it_outruns_are_told() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, small_log(8)).await;
    storage.create(&pods, &pod("ns", "quiet", "n1", 0), None).await.unwrap();
    let mut slow = pods.watch(Scope::All, Revision(2)).unwrap();
    let mut quiet = pods.watch(Scope::Field(0, "n1".into()), Revision(2)).unwrap();
    let mut busy = pods.watch(Scope::Field(0, "n2".into()), Revision(2)).unwrap();
    let pinned = pods.snapshot();
    pods.pin(&pinned);
    for n in 0..20 {
        storage.update(&pods, &pod("ns", "loud", "n2", n), None, None).await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap_err().to_string(), "too old resource version: 2 (14)");
    assert!(busy.try_next().is_err());
    assert!(quiet.try_next().unwrap().is_empty(), "nothing that this watcher wants has been lost");
    storage.update(&pods, &pod("ns", "quiet", "n1", 1), None, None).await.unwrap();
    assert_eq!(next(&mut quiet).await[0].revision, Revision(23));
    assert!(matches!(pods.watch(Scope::All, Revision(5)).err(), Some(e) if e.oldest == Revision(15)));
    assert_eq!(all(&storage.list(&pods, Freshness::Exact(Revision(2))).await.unwrap()), all(&pinned), "a pinned snapshot outlives the log");
    assert!(matches!(storage.list(&pods, Freshness::Exact(Revision(4))).await, Err(Error::Expired(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_ends_exact_lists_even_of_pinned_snapshots() {
    let backend = Backend::embedded();
    let config = Config { compaction_interval: Duration::from_millis(150), ..Config::default() };
    let World { storage, pods } = world(&backend, config).await;
    storage.create(&pods, &pod("ns", "a", "", 0), None).await.unwrap();
    let first = pods.snapshot();
    pods.pin(&first);
    storage.create(&pods, &pod("ns", "b", "", 0), None).await.unwrap();
    assert_eq!(all(&storage.list(&pods, Freshness::Exact(Revision(2))).await.unwrap()), all(&first));
    let compacted = async {
        while storage.compacted() < Revision(3) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), compacted).await.unwrap();
    assert!(matches!(storage.list(&pods, Freshness::Exact(Revision(2))).await, Err(Error::Expired(_))));
    assert_eq!(storage.list(&pods, Freshness::Exact(Revision(3))).await.unwrap().len(), 2);
}

struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sleeps_until_an_event_can_match() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    let mut cursor = pods.watch(Scope::Field(0, "n7".into()), Revision(1)).unwrap();
    let count = Arc::new(CountingWaker(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut waiting = pin!(cursor.next());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    for n in 0..50 {
        storage.create(&pods, &pod("ns", &format!("p{n}"), &format!("n{}", n % 7), 0), None).await.unwrap();
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 0, "other nodes' pods wake nobody here");
    storage.update(&pods, &pod("ns", "p0", "n7", 1), None, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(Ok(events)) = waiting.poll(&mut Context::from_waker(&waker)) else { panic!("the event is here") };
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].seen_by(|o| o.field(0).is_some_and(|f| &**f == "n7")).unwrap().0, EventKind::Added);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_watchers_see_one_order() {
    const WRITERS: usize = 16;
    const EACH: usize = 40;
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    let storage = Arc::new(storage);
    let watcher = |(_, mut cursor): (Snapshot, Cursor)| async move {
        let mut revisions = Vec::new();
        while revisions.len() < WRITERS * EACH {
            revisions.extend(next(&mut cursor).await.iter().map(|e| e.revision.0));
        }
        revisions
    };
    let watchers: Vec<_> = (0..20).map(|_| tokio::spawn(watcher(pods.list_and_watch(Scope::All)))).collect();
    let writer = |w: usize| {
        let (storage, pods) = (storage.clone(), pods.clone());
        async move {
            for n in 0..EACH {
                let name = format!("p{w}-{n}");
                let made = storage.create(&pods, &pod("ns", &name, "", n), None).await.unwrap();
                assert!(Arc::ptr_eq(&made, &pods.get("ns", &name).unwrap()), "a writer reads its own write");
            }
        }
    };
    for task in (0..WRITERS).map(|w| tokio::spawn(writer(w))).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), (2..2 + (WRITERS * EACH) as u64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_run_out_are_told_as_deleted() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    let (_, mut cursor) = pods.list_and_watch(Scope::All);
    storage.create(&pods, &pod("ns", "a", "", 0), Some(1)).await.unwrap();
    assert_eq!(next(&mut cursor).await[0].kind, EventKind::Added);
    let gone = next(&mut cursor).await;
    assert_eq!((gone[0].kind, gone[0].object.name(), gone[0].revision), (EventKind::Deleted, "a", Revision(3)));
    assert!(pods.snapshot().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_serves_what_the_old_one_stored() {
    let backend = Backend::embedded();
    let World { storage, pods } = world(&backend, Config::default()).await;
    for n in 0..30 {
        storage.create(&pods, &pod("ns", &format!("p{n}"), "n1", n), None).await.unwrap();
    }
    storage.delete(&pods, "ns", "p3", None).await.unwrap();
    let before = all(&pods.snapshot());
    storage.close().await;
    drop(pods);
    let World { storage, pods } = world(&backend, Config::default()).await;
    assert_eq!(all(&pods.snapshot()), before);
    assert_eq!(storage.revision(), Revision(32));
    assert!(pods.watch(Scope::All, Revision(31)).is_err(), "the log does not outlive the process");
    let mut cursor = pods.watch(Scope::All, Revision(32)).unwrap();
    storage.delete(&pods, "ns", "p4", None).await.unwrap();
    assert_eq!(next(&mut cursor).await[0].object.name(), "p4");
}

/// A store that breaks when it is told to: its watches, once with a transient error and then for good, and its loads.
struct Breaking {
    store: Arc<dyn Store>,
    lost: Arc<AtomicBool>,
    compacted: AtomicBool,
    refuses: AtomicBool,
}

impl Breaking {
    fn over(store: Arc<dyn Store>) -> Breaking {
        Breaking { store, lost: Arc::default(), compacted: AtomicBool::new(false), refuses: AtomicBool::new(false) }
    }
}

impl Store for Breaking {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.store.commit(txn)
    }
    fn load<'a>(&'a self, prefix: &'a str, at: Option<Revision>) -> BoxFuture<'a, Result<Loaded, StoreError>> {
        if self.refuses.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("busy".to_owned())) });
        }
        self.store.load(prefix, at)
    }
    fn watch(&self, after: Revision) -> BoxStream<'static, Result<Batch, StoreError>> {
        if self.compacted.swap(false, Ordering::SeqCst) {
            let error = StoreError::Compacted { requested: after, oldest: Revision(u64::MAX) };
            return futures::stream::iter([Err(error)]).boxed();
        }
        let lost = self.lost.clone();
        let cut = move |batch: Result<Batch, StoreError>| {
            if lost.swap(false, Ordering::SeqCst) { Err(StoreError::Unavailable("leader lost".into())) } else { batch }
        };
        self.store.watch(after).map(cut).boxed()
    }
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.store.revision()
    }
    fn compact(&self, round: Round) -> BoxFuture<'_, Result<(Round, Option<Revision>), StoreError>> {
        self.store.compact(round)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_watch_is_resumed_and_lost_history_is_loaded_anew() {
    for forgets in [false, true] {
        let backend = Backend::embedded();
        let lost = Arc::new(AtomicBool::new(false));
        let store = Arc::new(Breaking { lost: lost.clone(), ..Breaking::over(backend.open().await) });
        let storage = Storage::open(store.clone(), Config::default()).await.unwrap();
        let pods = storage.register(pods()).await.unwrap();
        storage.create(&pods, &pod("ns", "a", "", 0), None).await.unwrap();
        let (_, mut cursor) = pods.list_and_watch(Scope::All);
        store.compacted.store(forgets, Ordering::SeqCst);
        lost.store(true, Ordering::SeqCst);
        storage.create(&pods, &pod("ns", "b", "", 0), None).await.unwrap();
        storage.delete(&pods, "ns", "a", None).await.unwrap();
        assert_eq!(all(&pods.snapshot()).keys().collect::<Vec<_>>(), ["ns/b"]);
        if forgets {
            assert!(cursor.next().await.is_err(), "watchers cannot know what they missed");
        } else {
            let mut kinds = Vec::new();
            while kinds.len() < 2 {
                kinds.extend(next(&mut cursor).await.iter().map(|e| (e.kind, e.object.name().to_owned())));
            }
            assert_eq!(kinds, [(EventKind::Added, "b".to_owned()), (EventKind::Deleted, "a".to_owned())]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_share_an_etcd_see_each_others_writes() {
    let Some(mut backend) = Backend::etcd("servers_that_share_an_etcd_see_each_others_writes") else { return };
    let one = world(&backend, Config::default()).await;
    let two = world(&backend, Config::default()).await;
    let (_, mut cursor) = two.pods.list_and_watch(Scope::Name("a".into()));
    for n in 0..20 {
        let made = one.storage.update(&one.pods, &pod("ns", "a", "n1", n), None, None).await.unwrap();
        let seen = two.storage.get(&two.pods, "ns", "a", Freshness::Latest).await.unwrap();
        assert_eq!(seen.json(), made.json(), "a read after a write sees it, on whichever server");
    }
    let stale = two.storage.get(&two.pods, "ns", "a", Freshness::Any).await.unwrap().revision();
    one.storage.update(&one.pods, &pod("ns", "a", "n2", 99), Some(stale), None).await.unwrap();
    let lost = two.storage.update(&two.pods, &pod("ns", "a", "n3", 99), Some(stale), None).await;
    assert!(matches!(lost, Err(Error::Conflict { .. })));
    assert_eq!(two.pods.get("ns", "a").unwrap().value()["spec"]["nodeName"], "n2", "after a conflict the cache has what won");
    // A read is answered although nothing of ours has happened since.
    one.storage.store().commit(Txn::put(crate::storage::Key::new("elsewhere/x"), "v".into(), Expected::Any)).await.unwrap();
    let list = two.storage.list(&two.pods, Freshness::Latest).await.unwrap();
    assert!(list.revision() > two.pods.get("ns", "a").unwrap().revision());
    let mut told = 0;
    while told < 21 {
        told += next(&mut cursor).await.len();
    }
    // The etcd dies and comes back; whoever followed it goes on.
    let probe = backend.open().await;
    backend.restart(probe).await;
    let made = loop {
        match one.storage.update(&one.pods, &pod("ns", "a", "n4", 100), None, None).await {
            Ok(made) => break made,
            Err(Error::Store(StoreError::Unavailable(_))) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other}"),
        }
    };
    let events = next(&mut cursor).await;
    assert_eq!(events[0].object.json(), made.json());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_is_forgotten_expires_its_watchers_and_can_come_back() {
    let backend = Backend::embedded();
    let World { storage, pods: before } = world(&backend, Config::default()).await;
    for name in ["a", "b"] {
        storage.create(&before, &pod("ns", name, "", 0), None).await.unwrap();
    }
    let mut cursors = [Scope::All, Scope::Name("a".into())].map(|scope| before.list_and_watch(scope).1);
    let mut of_the_future = before.watch(Scope::All, Revision(storage.revision().0 + 1000)).unwrap();
    assert!(Arc::ptr_eq(&before, &storage.register(pods()).await.unwrap()));
    storage.delete(&before, "ns", "a", None).await.unwrap();
    storage.unregister(&before);
    for cursor in &mut cursors {
        // What had happened before is told first.
        let last = next(cursor).await;
        assert_eq!(last.iter().map(|e| (e.kind, e.object.name())).collect::<Vec<_>>(), [(EventKind::Deleted, "a")]);
        assert!(cursor.next().await.is_err());
    }
    let end = tokio::time::timeout(Duration::from_secs(10), of_the_future.next()).await;
    assert!(end.expect("it is told").is_err());
    let after = storage.register(pods()).await.unwrap();
    assert!(!Arc::ptr_eq(&before, &after));
    assert_eq!(all(&after.snapshot()).len(), 1);
    storage.delete(&after, "ns", "b", None).await.unwrap();
    assert!(after.snapshot().is_empty());
}

/// `pods()` with another selectable field.
fn pods_by_generation() -> ResourceSpec {
    let generation = SelectableField {
        name: "metadata.generation".into(),
        value: Arc::new(|v: &Value| Cow::Owned(v["metadata"]["generation"].to_string())),
    };
    ResourceSpec { fields: vec![generation], ..pods() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_is_replaced_is_read_and_written_without_a_gap() {
    let backend = Backend::embedded();
    let World { storage, pods: first } = world(&backend, Config::default()).await;
    let storage = Arc::new(storage);
    let current = Arc::new(parking_lot::Mutex::new(first));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (storage, current, stop) = (storage.clone(), current.clone(), stop.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    let name = format!("p{writer}-{}", n % 5);
                    let resource = current.lock().clone();
                    let written = storage.update(&resource, &pod("ns", &name, "n1", n), None, None).await.unwrap();
                    let resource = current.lock().clone();
                    let read = storage.get(&resource, "ns", &name, Freshness::Latest).await.unwrap();
                    assert_eq!(read.json(), written.json(), "whoever was answered reads what was written");
                }
            })
        })
        .collect();
    for round in 0..40 {
        let old = current.lock().clone();
        let (spec, field) = if round % 2 == 0 { (pods_by_generation(), "metadata.generation") } else { (pods(), "spec.nodeName") };
        let new = storage.replace(&old, spec).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        *current.lock() = new.clone();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let (_, mut cursor) = old.list_and_watch(Scope::All);
        storage.unregister(&old);
        while let Ok(events) = cursor.try_next() {
            assert!(!events.is_empty(), "nobody waits for what will not come");
        }
        assert!(old.watch(Scope::All, Revision(u64::MAX)).is_err(), "nor begins to");
        for object in new.snapshot().range("", None) {
            let value = object.value();
            let expected = if field == "spec.nodeName" { "n1".to_owned() } else { value["metadata"]["generation"].to_string() };
            assert_eq!(object.field(0).map(|f| f.to_string()), Some(expected), "{field} after round {round}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_that_cannot_be_loaded_changes_nothing() {
    let backend = Backend::embedded();
    let store = Arc::new(Breaking::over(backend.open().await));
    let storage = Storage::open(store.clone(), Config::default()).await.unwrap();
    let old = storage.register(pods()).await.unwrap();
    let (_, mut cursor) = old.list_and_watch(Scope::All);
    store.refuses.store(true, Ordering::SeqCst);
    assert!(storage.replace(&old, pods_by_generation()).await.is_err());
    storage.create(&old, &pod("ns", "a", "n1", 1), None).await.unwrap();
    assert_eq!(next(&mut cursor).await[0].object.name(), "a");
    assert!(Arc::ptr_eq(&old, &storage.register(pods()).await.unwrap()));
    store.refuses.store(false, Ordering::SeqCst);
    let new = storage.replace(&old, pods_by_generation()).await.unwrap();
    assert_eq!(new.get("ns", "a").unwrap().field(0).map(|f| f.to_string()), Some("1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_loaded_without_a_gap_while_it_is_written() {
    let backend = Backend::embedded();
    let store = backend.open().await;
    let storage = Storage::open(store.clone(), Config::default()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    let name = format!("p{writer}-{}", n % 20);
                    let value = serde_json::to_vec(&pod("ns", &name, "n1", n)).unwrap().into();
                    let key = crate::storage::key::object("pods", "ns", &name);
                    store.commit(Txn::put(key, value, Expected::Any)).await.unwrap();
                }
            })
        })
        .collect();
    let mut watched_pods = Vec::new();
    for _ in 0..30 {
        let pods = storage.register(pods()).await.unwrap();
        let (snapshot, cursor) = pods.list_and_watch(Scope::All);
        watched_pods.push((pods.clone(), all(&snapshot), cursor));
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (resource, state, cursor) = watched_pods.last_mut().unwrap();
        let now = resource.snapshot();
        // Up to the snapshot, not further: events go on meanwhile.
        let mut events = Vec::new();
        while events.last().is_none_or(|e: &Arc<Event>| e.revision < now.revision()) && cursor.bookmark().is_none_or(|b| b < now.revision())
        {
            events.extend(next(cursor).await);
        }
        events.retain(|e| e.revision <= now.revision());
        watched(state, &events, |_| true);
        assert_eq!(*state, all(&now));
        storage.unregister(&pods);
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let pods = storage.register(pods()).await.unwrap();
    let revisions = |entries: Vec<(String, u64)>| entries.into_iter().collect::<BTreeMap<_, _>>();
    let stored = store.load("pods/", None).await.unwrap().entries;
    let stored = revisions(stored.iter().map(|e| (e.key["pods/".len()..].to_owned(), e.revision.0)).collect());
    storage.refresh().await.unwrap();
    assert_eq!(revisions(all(&pods.snapshot()).into_iter().map(|(k, (r, _))| (k, r)).collect()), stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_remembers_what_the_log_has_lost_and_lies_as_upstream_has_it() {
    let Some(backend) = Backend::etcd("etcd_remembers_what_the_log_has_lost_and_lies_as_upstream_has_it") else { return };
    let World { storage, pods } = world(&backend, small_log(2)).await;
    let mut pictures = Vec::new();
    for n in 0..10 {
        storage.update(&pods, &pod("ns", &format!("p{}", n % 3), "n1", n), None, None).await.unwrap();
        pictures.push((storage.revision(), all(&pods.snapshot())));
    }
    for (revision, expected) in &pictures {
        assert_eq!(&all(&storage.list(&pods, Freshness::Exact(*revision)).await.unwrap()), expected);
    }
    let (round, _) = storage.store().compact(Round::default()).await.unwrap();
    storage.store().compact(round).await.unwrap();
    assert!(matches!(storage.list(&pods, Freshness::Exact(pictures[0].0)).await, Err(Error::Expired(_))));
    let everything = backend.open_at("").await.load("", None).await.unwrap();
    let keys: Vec<_> = everything.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(keys, ["registry/pods/ns/p0", "registry/pods/ns/p1", "registry/pods/ns/p2"]);
}
