//! The engine under the embedded store: which bytes lie where in the data directory.
//!
//! Owns the record format and every call into fjall. Each live key is one record
//! (`revision: u64 LE, expires_ms: u64 LE (0: never), value`), and one more keyspace holds the current revision, which is written
//! in the same atomic batch as the records. It never decides what is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _};

use super::super::store::{Entry, Key, Revision, StoreError};
use super::{Slot, Value};

/// Bump when the record format changes.
const FORMAT: u64 = 1;
/// In place of the format while a snapshot is being restored.
const UNFINISHED: u64 = u64::MAX;
const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";
const HEADER_BYTES: usize = 16;

/// The engine serves start-up and snapshots only, so its caches are small; memory belongs to the watch cache.
const CACHE_BYTES: u64 = 1024 * 1024;
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// One change to append.
pub(crate) struct Record {
    pub key: Key,
    pub value: Value,
}

/// Where the writer appends to.
pub(crate) trait Append: Send {
    /// Makes all records and the revision durable, atomically. After an error nothing may be assumed.
    fn append(&mut self, records: &[Record], revision: Revision) -> Result<(), String>;

    /// The bytes that the disk has left for everybody.
    fn room_bytes(&self) -> Result<u64, String>;
}

/// The data directory.
#[derive(Clone)]
pub(crate) struct FjallDisk {
    directory: PathBuf,
    database: Database,
    data: Keyspace,
    meta: Keyspace,
}

impl FjallDisk {
    /// What lies in the directory.
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        self.database.disk_space().map_err(|e| StoreError::Unavailable(e.to_string()))
    }

    pub fn open(directory: &Path) -> Result<FjallDisk, StoreError> {
        let failed = |e: fjall::Error| match e {
            fjall::Error::Locked => StoreError::Locked(directory.display().to_string()),
            other => StoreError::Corrupt(format!("opening {}: {other}", directory.display())),
        };
        let database = Database::builder(directory)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            // Each batch is synced by name; the engine need not push it to the system as well.
            .manual_journal_persist(true)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let data = database.keyspace("data", options).map_err(failed)?;
        let meta = database.keyspace("meta", options).map_err(failed)?;
        let disk = FjallDisk { directory: directory.to_owned(), database, data, meta };
        match disk.meta_number(FORMAT_KEY)? {
            Some(FORMAT) => {}
            None => disk.set_format(FORMAT)?,
            Some(UNFINISHED) => {
                let message = format!("a restore into {} was not finished; empty the directory and restore again", directory.display());
                return Err(StoreError::Corrupt(message));
            }
            Some(other) => return Err(StoreError::Corrupt(format!("format {other} of {} is unknown", directory.display()))),
        }
        Ok(disk)
    }

    /// While unfinished, the directory cannot be opened.
    pub fn set_unfinished(&self, unfinished: bool) -> Result<(), StoreError> {
        self.set_format(if unfinished { UNFINISHED } else { FORMAT })
    }

    fn set_format(&self, format: u64) -> Result<(), StoreError> {
        let failed = |e: fjall::Error| StoreError::Failed(e.to_string());
        self.meta.insert(FORMAT_KEY, format.to_le_bytes()).map_err(failed)?;
        self.database.persist(PersistMode::SyncAll).map_err(failed)
    }

    fn meta_number(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let bytes = self.meta.get(key).map_err(corrupt)?;
        bytes.map(|b| Ok(u64::from_le_bytes(b.as_ref().try_into().map_err(|_| corrupt("a number of the wrong size"))?))).transpose()
    }

    /// The revisions of all live keys, and the current revision.
    pub fn index(&self) -> Result<(HashMap<Key, Slot>, Revision), StoreError> {
        let revision = Revision(self.meta_number(REVISION_KEY)?.unwrap_or(1));
        let mut index = HashMap::new();
        for item in self.data.iter() {
            let (key, record) = item.into_inner().map_err(corrupt)?;
            let (slot, _) = decode(&record)?;
            if slot.revision > revision {
                return Err(corrupt(format!("{:?} is newer than the revision {revision}", text(&key)?)));
            }
            index.insert(Key::new(text(&key)?), slot);
        }
        Ok((index, revision))
    }

    /// Everything as it is now; the caller knows which revision that is.
    pub fn view(&self, revision: Revision) -> View {
        View { snapshot: self.database.snapshot(), data: self.data.clone(), revision }
    }
}

impl Append for FjallDisk {
    fn append(&mut self, records: &[Record], revision: Revision) -> Result<(), String> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for Record { key, value } in records {
            match value {
                Some((value, slot)) => batch.insert(&self.data, key.as_bytes(), encode(*slot, value)),
                None => batch.remove(&self.data, key.as_bytes()),
            }
        }
        batch.insert(&self.meta, REVISION_KEY, revision.0.to_le_bytes());
        batch.commit().map_err(|e| e.to_string())
    }

    fn room_bytes(&self) -> Result<u64, String> {
        let disk = nix::sys::statvfs::statvfs(&self.directory).map_err(|e| e.to_string())?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }
}

/// Everything at one revision, whatever is written meanwhile.
pub(crate) struct View {
    snapshot: fjall::Snapshot,
    data: Keyspace,
    pub revision: Revision,
}

impl View {
    /// The entries below a prefix, in the order of keys.
    pub fn entries(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        self.each(prefix, |key, slot, value| {
            entries.push(Entry { key, revision: slot.revision, value: Bytes::copy_from_slice(value), unreadable: None });
            Ok(())
        })?;
        Ok(entries)
    }

    /// Visits the entries below a prefix, in the order of keys.
    pub fn each(&self, prefix: &str, mut f: impl FnMut(Key, Slot, &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        for item in self.snapshot.prefix(&self.data, prefix) {
            let (key, record) = item.into_inner().map_err(corrupt)?;
            let (slot, value) = decode(&record)?;
            f(Key::new(text(&key)?), slot, value)?;
        }
        Ok(())
    }
}

fn encode(slot: Slot, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + value.len());
    out.extend_from_slice(&slot.revision.0.to_le_bytes());
    out.extend_from_slice(&slot.expires_ms.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
    out
}

fn decode(record: &[u8]) -> Result<(Slot, &[u8]), StoreError> {
    let (revision, rest) = record.split_first_chunk::<8>().ok_or_else(|| corrupt("a record is too short"))?;
    let (expires, value) = rest.split_first_chunk::<8>().ok_or_else(|| corrupt("a record is too short"))?;
    let expires = u64::from_le_bytes(*expires);
    Ok((Slot { revision: Revision(u64::from_le_bytes(*revision)), expires_ms: (expires > 0).then_some(expires) }, value))
}

fn text(key: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(key).map_err(corrupt)
}

fn corrupt(reason: impl ToString) -> StoreError {
    StoreError::Corrupt(reason.to_string())
}
