//! Everything that the API keeps, and the writes that it knows. Nothing here waits: a write is done at once and in whole.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::failure::{Failure, Result};
use super::kinds::{self, KINDS, KindId};
use super::state::{Author, Change, Key, State};
use super::trace::Trace;
use super::{deletion, prepare};
use crate::faults::Faults;
use crate::object;

/// When simulated time begins, in seconds: some day in 2030.
const EPOCH: i64 = 1_900_000_000;

/// A pod that the scheduler takes to be on a node from now on: its binding, or what comes before that, has just been asked for. The
/// request may come late, or never.
#[derive(Clone, Copy, Debug)]
pub struct Assumed<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    /// Empty if the request does not say.
    pub uid: &'a str,
    pub node: &'a str,
}

/// Who hears of each change at once.
pub trait Listener: Send {
    fn changed(&mut self, state: &State, change: &Change);

    fn assumed(&mut self, _state: &State, _pod: &Assumed<'_>) {}
}

pub struct Core {
    pub state: State,
    pub rng: SmallRng,
    pub faults: Faults,
    pub trace: Trace,
    pub listeners: Vec<Box<dyn Listener>>,
    /// Of each kind: wakes those who watch it, in the order in which they wait.
    pub changed: Vec<Arc<Notify>>,
    pub start: Instant,
    /// How far clocks are from where they were without jumps.
    pub jumped: SignedDuration,
    /// The last request that says that somebody is not at rest, and when it came.
    pub last_write: Option<(Instant, String)>,
    /// When anything but leases and events was changed last, by whomever.
    pub last_change: Option<Instant>,
}

/// A part of an object that is written by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// The finalizers in a namespace's spec.
    Finalize,
}

/// What must hold of an object that is to be deleted, and how it is to go.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    pub grace_seconds: Option<i64>,
    pub propagation: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl Core {
    /// The time of day, as all clocks show it.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::ZERO);
        Timestamp::from_second(EPOCH).unwrap_or(Timestamp::UNIX_EPOCH) + passed + self.jumped
    }

    pub fn time(&self) -> Value {
        self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
    }

    pub fn get(&self, kind: KindId, namespace: &str, name: &str) -> Result<Arc<Value>> {
        self.state.get(kind, namespace, name).cloned().ok_or_else(|| Failure::not_found(&shown(kind, name)))
    }

    fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5).map(|_| char::from(LETTERS[self.rng.random_range(0..LETTERS.len())])).collect()
    }

    /// Writes and tells everybody.
    fn commit(&mut self, key: Key, object: Value, gone: bool, by: &Author) -> Arc<Value> {
        let change = self.state.write(key, object, gone, by, Instant::now());
        let at = self.start.elapsed();
        match change.key.kind {
            kinds::LEASE | kinds::EVENT | kinds::SERIES_EVENT => self.trace.count(at, &change.to_string()),
            _ => {
                self.trace.note(at, &change.to_string());
                self.last_change = Some(change.at);
            }
        }
        for listener in &mut self.listeners {
            listener.changed(&self.state, &change);
        }
        self.changed[change.key.kind].notify_waiters();
        change.object.clone()
    }

    pub fn create(&mut self, by: &Author, kind: KindId, namespace: &str, mut object: Value) -> Result<Arc<Value>> {
        let described = &KINDS[kind];
        prepare::read(kind, &mut object)?;
        if described.namespaced {
            let home =
                self.state.get(kinds::NAMESPACE, "", namespace).ok_or_else(|| Failure::not_found(&format!("namespace {namespace}")))?;
            if object::is_terminating(home) {
                return Err(Failure::namespace_terminating(namespace));
            }
            object["metadata"]["namespace"] = namespace.into();
        }
        if object::name(&object).is_empty() {
            let prefix = object::text(&object, "/metadata/generateName").to_owned();
            if prefix.is_empty() {
                return Err(Failure::invalid("name or generateName is required"));
            }
            object["metadata"]["name"] = format!("{prefix}{}", self.suffix()).into();
        }
        let key = Key::new(kind, namespace, object::name(&object));
        if self.state.get(kind, namespace, &key.name).is_some() {
            return Err(Failure::already_exists(&shown(kind, &key.name)));
        }
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.rng.random::<u32>(), self.state.revision() + 1);
        let metadata = &mut object["metadata"];
        metadata["uid"] = uid.into();
        metadata["creationTimestamp"] = self.time();
        prepare::for_creation(&self.state, kind, &mut object)?;
        prepare::settle(kind, &mut object);
        Ok(self.commit(key, object, false, by))
    }

    /// Writes an object, or a part of it. One that is as it was is not written.
    pub fn update(&mut self, by: &Author, key: &Key, part: Part, mut object: Value) -> Result<Arc<Value>> {
        let old = self.get(key.kind, &key.namespace, &key.name)?;
        prepare::read(key.kind, &mut object)?;
        let said = |field: &str| object::text(&object, &format!("/metadata/{field}"));
        if !said("uid").is_empty() && said("uid") != object::uid(&old) {
            return Err(Failure::conflict(&format!("{}: another uid", shown(key.kind, &key.name))));
        }
        let version = said("resourceVersion");
        if !version.is_empty() && version != object::text(&old, "/metadata/resourceVersion") {
            return Err(Failure::conflict(&shown(key.kind, &key.name)));
        }
        self.put(by, key, part, &old, object)
    }

    fn put(&mut self, by: &Author, key: &Key, part: Part, old: &Arc<Value>, mut object: Value) -> Result<Arc<Value>> {
        prepare::for_update(key.kind, part, old, &mut object);
        if deletion::is_over(key.kind, &object) {
            return Ok(self.commit(key.clone(), object, true, by));
        }
        object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if object == **old {
            return Ok(old.clone());
        }
        Ok(self.commit(key.clone(), object, false, by))
    }

    pub fn patch(&mut self, by: &Author, key: &Key, part: Part, patch: Value, strategic: bool) -> Result<Arc<Value>> {
        let old = self.get(key.kind, &key.namespace, &key.name)?;
        let object = prepare::patched(key.kind, &old, patch, strategic)?;
        if object::uid(&object) != object::uid(&old) {
            return Err(Failure::invalid("metadata.uid: field is immutable"));
        }
        let object_version = object::text(&object, "/metadata/resourceVersion");
        if object_version != object::text(&old, "/metadata/resourceVersion") {
            return Err(Failure::conflict(&shown(key.kind, &key.name)));
        }
        self.put(by, key, part, &old, object)
    }

    /// Deletes an object, or begins to. Whether it is gone.
    pub fn delete(&mut self, by: &Author, key: &Key, how: &Deletion) -> Result<(Arc<Value>, bool)> {
        let old = self.get(key.kind, &key.namespace, &key.name)?;
        let differs = |wanted: &Option<String>, field: &str| wanted.as_deref().is_some_and(|wanted| wanted != object::text(&old, field));
        if differs(&how.uid, "/metadata/uid") || differs(&how.resource_version, "/metadata/resourceVersion") {
            return Err(Failure::conflict(&format!("{}: a precondition failed", shown(key.kind, &key.name))));
        }
        let mut object = (*old).clone();
        let now = self.now();
        deletion::begin(key.kind, &mut object, how, now);
        if deletion::is_over(key.kind, &object) {
            return Ok((self.commit(key.clone(), object, true, by), true));
        }
        prepare::settle(key.kind, &mut object);
        if object == *old {
            return Ok((old, false));
        }
        Ok((self.commit(key.clone(), object, false, by), false))
    }

    /// Puts a pod on a node, once.
    pub fn bind(&mut self, by: &Author, namespace: &str, binding: &Value) -> Result<()> {
        let key = Key::new(kinds::POD, namespace, object::name(binding));
        let old = self.get(key.kind, namespace, &key.name)?;
        let uid = object::uid(binding);
        if (!uid.is_empty() && uid != object::uid(&old)) || !object::text(&old, "/spec/nodeName").is_empty() {
            return Err(Failure::conflict(&shown(key.kind, &key.name)));
        }
        if object::is_terminating(&old) {
            return Err(Failure::conflict(&format!("{}: is being deleted, cannot be assigned to a host", key.name)));
        }
        let mut object = (*old).clone();
        object["spec"]["nodeName"] = binding["target"]["name"].clone();
        prepare::set_condition(&mut object, "PodScheduled", "True", self.time());
        prepare::settle(key.kind, &mut object);
        self.commit(key, object, false, by);
        Ok(())
    }

    /// A user's or a kubelet's change of an object; nothing if the object is not there.
    pub fn change(&mut self, by: &str, key: &Key, part: Part, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let old = self.state.get(key.kind, &key.namespace, &key.name)?.clone();
        let mut object = (*old).clone();
        change(&mut object);
        self.put(&Author::new(by), key, part, &old, object).ok()
    }

    /// A chance of so many in a hundred.
    pub fn happens(&mut self, percent: f64) -> bool {
        self.rng.random::<f64>() * 100.0 < percent
    }
}

pub(super) fn shown(kind: KindId, name: &str) -> String {
    let kind = &KINDS[kind];
    let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
    format!("{}{group} {name:?}", kind.plural)
}

/// The list of a collection.
pub(super) fn listed<'a>(kind: KindId, revision: u64, objects: impl Iterator<Item = &'a Arc<Value>>) -> Value {
    let items: Vec<&Value> = objects.map(|object| &**object).collect();
    let described = &KINDS[kind];
    json!({
        "kind": format!("{}List", described.kind), "apiVersion": described.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    })
}
