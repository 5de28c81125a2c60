//! What the embedded store does when the disk, the file or the process fails.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures::StreamExt as _;

use super::cases::{contents, put};
use crate::storage::embedded::{Append, Embedded, FjallDisk, Record, snapshot};
use crate::storage::store::{Expected, Key, Revision, Store, StoreError, Txn};

/// A disk that fails once its luck has run out: nothing of the failing batch is written.
struct FailingDisk {
    disk: FjallDisk,
    luck: Arc<AtomicI64>,
}

/// A disk that says itself how much room it has.
struct CrowdedDisk {
    disk: FjallDisk,
    room_bytes: Arc<AtomicU64>,
}

impl Append for CrowdedDisk {
    fn append(&mut self, records: &[Record], revision: Revision) -> Result<(), String> {
        self.disk.append(records, revision)
    }

    fn room_bytes(&self) -> Result<u64, String> {
        Ok(self.room_bytes.load(Ordering::SeqCst))
    }
}

impl Append for FailingDisk {
    fn append(&mut self, records: &[Record], revision: Revision) -> Result<(), String> {
        if self.luck.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err("no space left on device".to_owned());
        }
        self.disk.append(records, revision)
    }

    fn room_bytes(&self) -> Result<u64, String> {
        self.disk.room_bytes()
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_write_nothing_more_is_acknowledged_or_visible() {
    for luck in [0, 1, 5, 17] {
        let directory = tempfile::tempdir().unwrap();
        let disk = FjallDisk::open(directory.path()).unwrap();
        let failing = FailingDisk { disk: disk.clone(), luck: Arc::new(AtomicI64::new(luck)) };
        let store = Embedded::start(disk, Box::new(failing)).unwrap();
        let mut watch = store.watch(Revision(1));
        let mut acknowledged = BTreeMap::new();
        for n in 0..30 {
            match put(&store, &format!("k/{n:02}"), "v", Expected::Absent).await {
                Ok(revision) => {
                    acknowledged.insert(format!("k/{n:02}"), (revision.0, "v".to_owned()));
                }
                Err(StoreError::Failed(reason)) => assert_eq!(reason, "no space left on device"),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(acknowledged.len() as i64, luck);
        assert!(matches!(store.health().await, Err(StoreError::Failed(_))), "whoever asks after its health is told");
        // Refusals rest on what may be lost, so they are not given either.
        assert!(matches!(put(&store, "k/29", "v", Expected::At(Revision(3))).await, Err(StoreError::Failed(_))));
        assert_eq!(contents(&store, "k/").await, acknowledged);
        assert_eq!(store.revision().await.unwrap(), Revision(1 + luck as u64));
        drop(store);
        let mut told = 0;
        while let Some(batch) = watch.next().await {
            told += batch.unwrap().events.len();
        }
        assert_eq!(told as i64, luck, "what was not written is not told");
        drop(watch);
        let reopened = Embedded::open(directory.path()).unwrap();
        assert_eq!(contents(&reopened, "k/").await, acknowledged);
        put(&reopened, "k/30", "v", Expected::Absent).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_only_deletions_are_written_until_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FjallDisk::open(directory.path()).unwrap();
    let room_bytes = Arc::new(AtomicU64::new(u64::MAX));
    let store = Embedded::start(disk.clone(), Box::new(CrowdedDisk { disk, room_bytes: room_bytes.clone() })).unwrap();
    let first = put(&store, "k/1", "v", Expected::Absent).await.unwrap();
    room_bytes.store(1024 * 1024, Ordering::SeqCst);
    for (key, expected) in [("k/2", Expected::Absent), ("k/1", Expected::At(first)), ("k/1", Expected::Any)] {
        assert!(matches!(put(&store, key, "w", expected).await, Err(StoreError::Full)), "{key}");
    }
    let refused = put(&store, "k/1", "w", Expected::Absent).await;
    assert!(matches!(refused, Err(StoreError::Exists { .. })), "what is wrong with a write is still told");
    assert_eq!(contents(&store, "k/").await, BTreeMap::from([("k/1".to_owned(), (first.0, "v".to_owned()))]));
    store.health().await.unwrap();
    let gone = store.commit(Txn::delete(Key::new("k/1"), Expected::At(first))).await.unwrap();
    assert_eq!(gone, Revision(first.0 + 1), "what was refused has taken no revision");
    room_bytes.store(u64::MAX, Ordering::SeqCst);
    put(&store, "k/2", "v", Expected::Absent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_leaves_the_state_of_an_earlier_revision() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let store = Embedded::open(&live).unwrap();
    let mut states = vec![BTreeMap::new(); 2];
    for n in 0..60_u64 {
        let mut state = states.last().cloned().unwrap();
        let revision = put(&store, &format!("k/{}", n % 9), &format!("{n}-{}", "x".repeat(300)), Expected::Any).await.unwrap();
        state.insert(format!("k/{}", n % 9), (revision.0, format!("{n}-{}", "x".repeat(300))));
        states.push(state);
    }
    let journal = newest_journal(&live);
    let tail = journal_length(&live.join(&journal));
    let mut revisions = Vec::new();
    for cut in [1, 7, 200, 1_000, 5_000] {
        let torn = directory.path().join(format!("torn-{cut}"));
        copy_directory(&live, &torn);
        fs::OpenOptions::new().write(true).open(torn.join(&journal)).unwrap().set_len(tail - cut).unwrap();
        let reopened = Embedded::open(&torn).unwrap();
        let revision = reopened.revision().await.unwrap();
        assert_eq!(contents(&reopened, "").await, states[revision.0 as usize], "cut by {cut}");
        put(&reopened, "k/new", "x", Expected::Absent).await.unwrap();
        revisions.push(revision.0);
    }
    assert!(revisions[0] >= 60, "one byte costs one batch: {revisions:?}");
    assert!(revisions.is_sorted_by(|a, b| a >= b) && revisions[4] < 55, "{revisions:?}");
}

fn newest_journal(directory: &Path) -> PathBuf {
    let journals = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
    let newest = journals.filter(|p| p.extension().is_some_and(|e| e == "jnl")).max().expect("there is a journal");
    newest.file_name().unwrap().into()
}

/// Without the zeros that are laid out in advance.
fn journal_length(journal: &Path) -> u64 {
    let bytes = fs::read(journal).unwrap();
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_has_one_store_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let second = Embedded::open(directory.path()).err().unwrap();
    assert_eq!(second.to_string(), format!("the data directory {} is in use by another process", directory.path().display()));
    drop(store);
    Embedded::open(directory.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_restores_everything_or_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = Embedded::open(&path("live")).unwrap();
    for n in 0..1500 {
        put(&store, &format!("k/{n}"), &format!("value {n}"), Expected::Absent).await.unwrap();
    }
    let before = contents(&store, "").await;
    assert_eq!(store.save_snapshot(&path("online")).await.unwrap(), Revision(1501));
    put(&store, "k/later", "x", Expected::Absent).await.unwrap();
    assert!(matches!(snapshot::save(&path("live"), &path("offline")), Err(StoreError::Locked(_))));
    drop(store);
    assert_eq!(snapshot::save(&path("live"), &path("offline")).unwrap(), Revision(1502));

    assert_eq!(snapshot::restore(&path("online"), &path("restored")).unwrap(), Revision(1501));
    let restored = Embedded::open(&path("restored")).unwrap();
    assert_eq!(contents(&restored, "").await, before);
    assert_eq!(put(&restored, "k/later", "x", Expected::Absent).await.unwrap(), Revision(1502));
    drop(restored);
    assert!(snapshot::restore(&path("online"), &path("restored")).unwrap_err().to_string().contains("is not empty"));

    FjallDisk::open(&path("half")).unwrap().set_unfinished(true).unwrap();
    assert!(Embedded::open(&path("half")).err().unwrap().to_string().contains("was not finished"));

    let whole = fs::read(path("online")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for broken in [&whole[..whole.len() - 1], &whole[..10], &[], &flipped[..]] {
        fs::write(path("broken"), broken).unwrap();
        assert!(matches!(snapshot::restore(&path("broken"), &path("never")), Err(StoreError::Corrupt(_))));
        assert!(!path("never").exists());
    }
}

/// Tells the child process of the next test where to write, and what it has acknowledged.
const CHILD_DIRECTORY: &str = "FERROKUBE_TEST_KILLED_WRITER";
const KILLS: usize = 20;
/// Large enough that memtables are flushed and journals rotated on the way.
const VALUE_BYTES: usize = 16 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_kill_9() {
    if let Ok(directory) = std::env::var(CHILD_DIRECTORY) {
        return write_until_killed(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage::suite::faults::every_acknowledged_write_survives_kill_9", "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // A different number of writes each time, and then what is still in the pipe when the child is dead.
        let mut told: Vec<String> = lines.by_ref().take(5 + round * 23).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        told.extend(lines.map_while(Result::ok));
        let mut count = 0;
        for line in &told {
            let mut words = line.split_whitespace();
            let (Some("ack"), Some(key), Some(revision), Some(".")) = (words.next(), words.next(), words.next(), words.next()) else {
                continue;
            };
            acknowledged.insert(key.to_owned(), revision.parse().unwrap());
            count += 1;
        }
        assert!(count >= 5, "the child wrote: {told:?}");
        let store = Embedded::open(directory.path()).unwrap();
        let found = contents(&store, "k/").await;
        for (key, revision) in &acknowledged {
            let (there, _) = found.get(key).unwrap_or_else(|| panic!("{key} at {revision} is lost in round {round}"));
            assert!(there >= revision, "{key} is at {there}, acknowledged was {revision}");
        }
        assert!(store.revision().await.unwrap().0 >= acknowledged.values().copied().max().unwrap());
    }
}

async fn write_until_killed(directory: &Path) {
    let store = Arc::new(Embedded::open(directory).unwrap());
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0_u64.. {
                let key = format!("k/{writer}-{}", n % 50);
                let revision = put(&*store, &key, &"v".repeat(VALUE_BYTES), Expected::Any).await.unwrap();
                // One call, so that lines of different writers do not mix; a torn last line lacks its stop.
                std::io::stderr().write_all(format!("ack {key} {revision} .\n").as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}
