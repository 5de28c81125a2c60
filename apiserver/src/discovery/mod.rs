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

#[cfg(test)]
mod tests {
    use super::*;

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
