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
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
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

/// All that is served, in order.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// By group priority, then name; versions by version priority, then stability and number.
    entries: Vec<GroupVersion>,
}

impl Index {
    /// Takes entries in any order. Entries of the same group and version are joined.
    pub fn new(entries: impl IntoIterator<Item = GroupVersion>) -> Index {
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        let mut group_priorities: HashMap<String, i32> = HashMap::new();
        let mut joined: Vec<GroupVersion> = Vec::new();
        for entry in entries {
            let priority = group_priorities.entry(entry.group.clone()).or_insert(entry.priority.group);
            *priority = entry.priority.group.max(*priority);
            match places.entry((entry.group.clone(), entry.version.clone())) {
                Entry::Occupied(place) => joined[*place.get()].resources.extend(entry.resources),
                Entry::Vacant(place) => {
                    place.insert(joined.len());
                    joined.push(entry);
                }
            }
        }
        let mut entries: Vec<(i32, GroupVersion)> = joined.into_iter().map(|e| (group_priorities[&e.group], e)).collect();
        entries.sort_by(|(p, a), (q, b)| {
            let groups = Reverse(p).cmp(&Reverse(q)).then_with(|| a.group.cmp(&b.group));
            let versions = Reverse(a.priority.version).cmp(&Reverse(b.priority.version));
            groups.then(versions).then_with(|| priority::compare_versions(&b.version, &a.version))
        });
        Index { entries: entries.into_iter().map(|(_, entry)| entry).collect() }
    }

    /// Every group and version, in order.
    pub fn entries(&self) -> &[GroupVersion] {
        &self.entries
    }

    pub fn get(&self, group: &str, version: &str) -> Option<&GroupVersion> {
        self.entries.iter().find(|e| e.group == group && e.version == version)
    }

    /// The versions of one group, the preferred one first; empty if the group is not served.
    pub fn group(&self, group: &str) -> &[GroupVersion] {
        let start = self.entries.iter().position(|e| e.group == group).unwrap_or(self.entries.len());
        let count = self.entries[start..].iter().take_while(|e| e.group == group).count();
        &self.entries[start..start + count]
    }

    /// The groups, each as its versions; the core group among them, if it is served.
    pub fn groups(&self) -> impl Iterator<Item = &[GroupVersion]> {
        self.entries.chunk_by(|a, b| a.group == b.group)
    }
}

/// What is served now, by whom it is served.
pub struct Served {
    parts: Mutex<Parts>,
    index: ArcSwap<Index>,
}

struct Parts {
    builtin: Vec<GroupVersion>,
    custom: Vec<GroupVersion>,
    aggregated: Vec<GroupVersion>,
}

impl Parts {
    /// A version that an extension API server has is its alone.
    fn index(&self) -> Index {
        let taken = |entry: &&GroupVersion| self.aggregated.iter().any(|a| a.group == entry.group && a.version == entry.version);
        let own = self.builtin.iter().chain(&self.custom).filter(|entry| !taken(entry));
        Index::new(own.chain(&self.aggregated).cloned())
    }
}

impl Served {
    pub fn new(builtin: Vec<GroupVersion>) -> Served {
        let parts = Parts { builtin, custom: Vec::new(), aggregated: Vec::new() };
        Served { index: ArcSwap::from_pointee(parts.index()), parts: Mutex::new(parts) }
    }

    pub fn load(&self) -> Guard<Arc<Index>> {
        self.index.load()
    }

    /// Replaces what custom resources there are.
    pub fn set_custom(&self, custom: Vec<GroupVersion>) {
        self.set(|parts| parts.custom = custom);
    }

    /// Replaces what others serve.
    pub fn set_aggregated(&self, aggregated: Vec<GroupVersion>) {
        self.set(|parts| parts.aggregated = aggregated);
    }

    fn set(&self, change: impl FnOnce(&mut Parts)) {
        // The lock is held until the index is there, so that the last change wins.
        let mut parts = self.parts.lock();
        change(&mut parts);
        self.index.store(Arc::new(parts.index()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_others_hides_ours_and_comes_back() {
        let served = Served::new(vec![entry("", "v1"), entry("metrics.k8s.io", "v1beta1")]);
        served.set_aggregated(vec![GroupVersion { stale: true, ..entry("metrics.k8s.io", "v1beta1") }]);
        served.set_custom(vec![entry("example.com", "v1")]);
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
        let names: Vec<String> = index.entries().iter().map(GroupVersion::name).collect();
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
