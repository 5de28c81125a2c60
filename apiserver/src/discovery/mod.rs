//! What clients are told about the served groups, versions and resources.
//!
//! Pure: from entries, which come from the resource table ([`builtin`]) and from CustomResourceDefinitions ([`custom`]),
//! to documents ([`documents`], [`aggregated`]). Order is part of the answer and is decided here, never by callers.
//! Never serves HTTP and never looks into the store.

pub mod aggregated;
pub mod builtin;
pub mod custom;
pub mod documents;
pub mod priority;
pub mod serve;

use std::cmp::Reverse;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use priority::Priority;

/// A resource or subresource of one version, as discovery shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub plural: String,
    pub singular: String,
    pub namespaced: bool,
    pub kind: Kind,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// Empty where nothing is stored.
    pub storage_version_hash: String,
    pub subresources: Vec<Subresource>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: String,
    pub kind: Kind,
    pub verbs: Vec<String>,
}

/// The kind that a resource speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    pub kind: String,
    /// The kind's group and version if they are not those of the resource.
    pub foreign: Option<(String, String)>,
}

impl Kind {
    pub fn own(kind: &str) -> Kind {
        Kind { kind: kind.to_owned(), foreign: None }
    }

    pub fn of(kind: &str, group: &str, version: &str) -> Kind {
        Kind { kind: kind.to_owned(), foreign: Some((group.to_owned(), version.to_owned())) }
    }
}

/// One version of a group and its resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupVersion {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub priority: Priority,
    /// In the order in which they are listed.
    pub resources: Vec<Resource>,
    /// Aggregated discovery names the resources' own group and version with their kinds: so for custom resources, not for
    /// built-in ones.
    pub explicit_kinds: bool,
    /// The resources are known from an earlier time (an aggregated server that does not answer).
    pub stale: bool,
}

impl GroupVersion {
    /// `apps/v1`, or `v1` for the core group.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A group and version with what is made of it, once.
#[derive(Debug)]
pub struct Entry {
    version: GroupVersion,
    /// What aggregated discovery says of it.
    aggregated: OnceLock<Box<str>>,
}

impl From<GroupVersion> for Entry {
    fn from(version: GroupVersion) -> Entry {
        Entry { version, aggregated: OnceLock::new() }
    }
}

impl Deref for Entry {
    type Target = GroupVersion;
    fn deref(&self) -> &GroupVersion {
        &self.version
    }
}

/// All that is served, in order.
#[derive(Debug, Default)]
pub struct Index {
    /// By group priority, then name; versions by version priority, then stability and number.
    entries: Vec<Arc<Entry>>,
    /// The aggregated documents of the core group and of all others, made when they are first asked for.
    documents: [OnceLock<aggregated::Document>; 2],
}

impl Index {
    /// Takes entries in any order. Entries of the same group and version are joined.
    pub fn new(entries: impl IntoIterator<Item = GroupVersion>) -> Index {
        Index::of(entries.into_iter().map(|version| Arc::new(version.into())))
    }

    /// See [`Index::new`].
    fn of(entries: impl IntoIterator<Item = Arc<Entry>>) -> Index {
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        let mut group_priorities: HashMap<String, i32> = HashMap::new();
        let mut joined: Vec<Arc<Entry>> = Vec::new();
        for entry in entries {
            match group_priorities.get_mut(&entry.group) {
                Some(priority) => *priority = entry.priority.group.max(*priority),
                None => {
                    group_priorities.insert(entry.group.clone(), entry.priority.group);
                }
            }
            match places.entry((entry.group.clone(), entry.version.version.clone())) {
                Occupied(place) => {
                    let place = &mut joined[*place.get()];
                    let mut both = place.version.clone();
                    both.resources.extend(entry.resources.iter().cloned());
                    *place = Arc::new(both.into());
                }
                Vacant(place) => {
                    place.insert(joined.len());
                    joined.push(entry);
                }
            }
        }
        let mut entries: Vec<(i32, Arc<Entry>)> = joined.into_iter().map(|e| (group_priorities[&e.group], e)).collect();
        entries.sort_by(|(p, a), (q, b)| {
            let groups = Reverse(p).cmp(&Reverse(q)).then_with(|| a.group.cmp(&b.group));
            let versions = Reverse(a.priority.version).cmp(&Reverse(b.priority.version));
            groups.then(versions).then_with(|| priority::compare_versions(&b.version.version, &a.version.version))
        });
        Index { entries: entries.into_iter().map(|(_, entry)| entry).collect(), documents: Default::default() }
    }

    /// Every group and version, in order.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    pub fn get(&self, group: &str, version: &str) -> Option<&GroupVersion> {
        self.entries.iter().map(|e| &e.version).find(|e| e.group == group && e.version == version)
    }

    /// The aggregated document of `/api` or of `/apis`.
    pub fn aggregated(&self, core: bool) -> &aggregated::Document {
        self.documents[usize::from(core)].get_or_init(|| aggregated::Document::new(self, core))
    }

    /// The versions of one group, the preferred one first; empty if the group is not served.
    pub fn group(&self, group: &str) -> &[Arc<Entry>] {
        let start = self.entries.iter().position(|e| e.group == group).unwrap_or(self.entries.len());
        let count = self.entries[start..].iter().take_while(|e| e.group == group).count();
        &self.entries[start..start + count]
    }

    /// The groups, each as its versions; the core group among them, if it is served.
    pub fn groups(&self) -> impl Iterator<Item = &[Arc<Entry>]> {
        self.entries.chunk_by(|a, b| a.group == b.group)
    }
}

/// What is served now, by whom it is served.
pub struct Served(Mutex<Parts>);

struct Parts {
    builtin: Vec<Arc<Entry>>,
    /// By group.
    custom: BTreeMap<String, CustomGroup>,
    aggregated: Vec<Arc<Entry>>,
    /// Made when it is asked for, so that many changes in a row cost one.
    index: Option<Arc<Index>>,
}

/// What definitions of custom resources bring to a group.
#[derive(Default)]
struct CustomGroup {
    definitions: BTreeMap<String, Vec<GroupVersion>>,
    /// The same as entries, unless there was a change.
    entries: Option<Vec<Arc<Entry>>>,
}

impl Parts {
    fn index(&mut self) -> Arc<Index> {
        if let Some(index) = &self.index {
            return index.clone();
        }
        for group in self.custom.values_mut().filter(|group| group.entries.is_none()) {
            let joined = custom::join(group.definitions.values().flatten());
            group.entries = Some(joined.into_iter().map(|version| Arc::new(version.into())).collect());
        }
        // A version that an extension API server has is its alone.
        let taken: HashSet<(&str, &str)> = self.aggregated.iter().map(|a| (&*a.group, &*a.version.version)).collect();
        let custom = self.custom.values().flat_map(|group| group.entries.iter().flatten());
        let own = self.builtin.iter().chain(custom).filter(|entry| !taken.contains(&(&*entry.group, &*entry.version.version)));
        let index = Arc::new(Index::of(own.chain(&self.aggregated).cloned()));
        self.index = Some(index.clone());
        index
    }
}

fn entries(versions: Vec<GroupVersion>) -> Vec<Arc<Entry>> {
    versions.into_iter().map(|version| Arc::new(version.into())).collect()
}

impl Served {
    pub fn new(builtin: Vec<GroupVersion>) -> Served {
        let parts = Parts { builtin: entries(builtin), custom: BTreeMap::new(), aggregated: Vec::new(), index: None };
        Served(Mutex::new(parts))
    }

    pub fn load(&self) -> Arc<Index> {
        self.0.lock().index()
    }

    /// Replaces what a definition of custom resources brings to its group; nothing where it brings none any more.
    pub fn set_custom(&self, group: &str, definition: &str, versions: Vec<GroupVersion>) {
        self.set(|parts| {
            let here = parts.custom.entry(group.to_owned()).or_default();
            if versions.is_empty() {
                here.definitions.remove(definition);
            } else {
                here.definitions.insert(definition.to_owned(), versions);
            }
            here.entries = None;
            if here.definitions.is_empty() {
                parts.custom.remove(group);
            }
        });
    }

    /// Replaces what others serve.
    pub fn set_aggregated(&self, aggregated: Vec<GroupVersion>) {
        self.set(|parts| parts.aggregated = entries(aggregated));
    }

    fn set(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.0.lock();
        change(&mut parts);
        parts.index = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_others_hides_ours_and_comes_back() {
        let served = Served::new(vec![entry("", "v1"), entry("metrics.k8s.io", "v1beta1")]);
        served.set_aggregated(vec![GroupVersion { stale: true, ..entry("metrics.k8s.io", "v1beta1") }]);
        served.set_custom("example.com", "things.example.com", vec![entry("example.com", "v1")]);
        served.set_custom("example.org", "things.example.org", vec![entry("example.org", "v1")]);
        served.set_custom("example.org", "things.example.org", Vec::new());
        let stale = |served: &Served| served.load().entries().iter().map(|e| (e.name(), e.stale)).collect::<Vec<_>>();
        let expected = [("v1".to_owned(), false), ("example.com/v1".to_owned(), false), ("metrics.k8s.io/v1beta1".to_owned(), true)];
        assert_eq!(stale(&served), expected);
        served.set_aggregated(Vec::new());
        assert!(stale(&served).iter().all(|(_, stale)| !stale));
    }

    fn entry(group: &str, version: &str) -> GroupVersion {
        GroupVersion {
            group: group.to_owned(),
            version: version.to_owned(),
            priority: Priority::of(group, version),
            resources: Vec::new(),
            explicit_kinds: false,
            stale: false,
        }
    }

    #[test]
    fn groups_and_versions_stand_in_upstreams_order() {
        let given = [
            ("b.example.com", "v1alpha1"),
            ("storagemigration.k8s.io", "v1"),
            ("apiregistration.k8s.io", "v1"),
            ("autoscaling", "v1"),
            ("a.example.com", "v1beta1"),
            ("apps", "v1"),
            ("admissionregistration.k8s.io", "v1"),
            ("apiextensions.k8s.io", "v1"),
            ("autoscaling", "v2"),
            ("", "v1"),
            ("a.example.com", "v2"),
            ("a.example.com", "v10"),
        ];
        let index = Index::new(given.map(|(g, v)| entry(g, v)));
        let names: Vec<String> = index.entries().iter().map(|entry| entry.name()).collect();
        let expected = [
            "apiregistration.k8s.io/v1",
            "v1",
            "apps/v1",
            "autoscaling/v2",
            "autoscaling/v1",
            "admissionregistration.k8s.io/v1",
            "apiextensions.k8s.io/v1",
            "storagemigration.k8s.io/v1",
            "a.example.com/v10",
            "a.example.com/v2",
            "a.example.com/v1beta1",
            "b.example.com/v1alpha1",
        ];
        assert_eq!(names, expected);
        assert_eq!(index.group("autoscaling").len(), 2);
        assert!(index.group("nosuch").is_empty());
    }
}
