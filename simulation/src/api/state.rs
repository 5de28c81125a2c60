//! The objects and their history.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::kinds::{KINDS, KindId};
use crate::object;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: KindId,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: KindId, namespace: &str, name: &str) -> Key {
        Key { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Added,
    Modified,
    Deleted,
}

/// Who changes something.
#[derive(Clone, Debug)]
pub struct Author {
    pub name: Arc<str>,
    /// Whether it will be told that the change failed.
    pub is_denied: bool,
}

impl Author {
    pub fn new(name: &str) -> Author {
        Author { name: name.into(), is_denied: false }
    }
}

/// A change of an object.
pub struct Change {
    pub revision: u64,
    pub at: Instant,
    pub key: Key,
    pub what: What,
    /// The object after the change; its last state if it went.
    pub object: Arc<Value>,
    pub old: Option<Arc<Value>>,
    pub by: Author,
    line: OnceLock<Bytes>,
}

impl Change {
    /// The change as watches tell it.
    pub fn line(&self) -> Bytes {
        let word = match self.what {
            What::Added => "ADDED",
            What::Modified => "MODIFIED",
            What::Deleted => "DELETED",
        };
        self.line.get_or_init(|| line(word, &self.object)).clone()
    }
}

impl fmt::Display for Change {
    /// Who, what, and of the object what is worth knowing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Key { kind, namespace, name }, object) = (&self.key, &*self.object);
        let word = match self.what {
            What::Added => "+",
            What::Modified => "~",
            What::Deleted => "-",
        };
        write!(f, "  {word} {} {namespace}/{name} by {}", KINDS[*kind].kind, self.by.name)?;
        for (word, pointer) in SHOWN {
            if let Some(value) = object.pointer(pointer) {
                write!(f, " {word}={value}")?;
            }
        }
        if object::is_ready(object) { f.write_str(" ready") } else { Ok(()) }
    }
}

/// What of an object is worth knowing.
const SHOWN: [(&str, &str); 10] = [
    ("owner", "/metadata/ownerReferences/0/name"),
    ("ends", "/metadata/deletionTimestamp"),
    ("finalizers", "/metadata/finalizers"),
    ("replicas", "/spec/replicas"),
    ("phase", "/status/phase"),
    ("node", "/spec/nodeName"),
    ("cpu", "/spec/containers/0/resources/requests/cpu"),
    ("active", "/status/active"),
    ("succeeded", "/status/succeeded"),
    ("failed", "/status/failed"),
];

/// A line of a watch.
pub fn line(word: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": word, "object": object}).to_string();
    text.push('\n');
    Bytes::from(text)
}

#[derive(Default)]
pub struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    log: Vec<Arc<Change>>,
    revision: u64,
}

impl State {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, kind: KindId, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&Key::new(kind, namespace, name))
    }

    /// All objects of a kind, in all namespaces if none is named.
    pub fn list<'a>(&'a self, kind: KindId, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Value>> + 'a {
        let from = self.objects.range(Key::new(kind, namespace, "")..);
        let all = from.take_while(move |(key, _)| key.kind == kind);
        all.take_while(move |(key, _)| namespace.is_empty() || key.namespace == namespace).map(|(_, object)| object)
    }

    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// The pods that an owner manages.
    pub fn controlled<'a>(&'a self, kind: KindId, namespace: &'a str, uid: &'a str) -> impl Iterator<Item = &'a Arc<Value>> + 'a {
        self.list(kind, namespace).filter(move |object| object::controller(object) == Some(uid))
    }

    /// The changes from a place in the log on.
    pub fn log(&self, from: usize) -> &[Arc<Change>] {
        self.log.get(from..).unwrap_or_default()
    }

    /// The place in the log after a revision.
    pub fn place_after(&self, revision: u64) -> usize {
        self.log.partition_point(|change| change.revision <= revision)
    }

    /// Writes an object, or takes it out. It gets the next revision.
    pub fn write(&mut self, key: Key, object: Value, gone: bool, by: &Author, at: Instant) -> Arc<Change> {
        self.revision += 1;
        let mut object = object;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let old = if gone { self.objects.remove(&key) } else { self.objects.insert(key.clone(), object.clone()) };
        let what = match (gone, &old) {
            (true, _) => What::Deleted,
            (false, Some(_)) => What::Modified,
            (false, None) => What::Added,
        };
        let change = Change { revision: self.revision, at, key, what, object, old, by: by.clone(), line: OnceLock::new() };
        let change = Arc::new(change);
        self.log.push(change.clone());
        change
    }
}
