//! Where each resource lies below the store's root, exactly as upstream lays it out under `/registry`,
//! so that an existing etcd can be taken over and given back.
//!
//! Owns the prefixes. It never knows what the store's root is; only the etcd store does.

use std::borrow::Cow;

use super::store::Key;

/// The resources that upstream does not file under their plain plural. Two groups share `events` and `ingress`.
const SPECIAL: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "controllers"),
    ("", "endpoints", "services/endpoints"),
    ("", "nodes", "minions"),
    ("", "services", "services/specs"),
    ("extensions", "ingresses", "ingress"),
    ("networking.k8s.io", "ingresses", "ingress"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices", "apiregistration.k8s.io/apiservices"),
];

/// The groups whose resources lie under their plain plural. Any other group belongs to custom resources.
const BUILT_IN_GROUPS: &[&str] = &[
    "",
    "admissionregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "lifecycle.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// The prefix of a resource, without slashes at either end: `pods`, `services/specs`, `example.com/widgets`.
pub fn prefix(group: &str, resource: &str) -> Cow<'static, str> {
    if let Some((_, _, prefix)) = SPECIAL.iter().find(|(g, r, _)| *g == group && *r == resource) {
        return Cow::Borrowed(prefix);
    }
    if BUILT_IN_GROUPS.contains(&group) { Cow::Owned(resource.to_owned()) } else { Cow::Owned(format!("{group}/{resource}")) }
}

/// The key of an object. `namespace` is empty for cluster-scoped resources.
pub fn object(prefix: &str, namespace: &str, name: &str) -> Key {
    Key::new(if namespace.is_empty() { format!("{prefix}/{name}") } else { format!("{prefix}/{namespace}/{name}") })
}

/// The candidates for the prefix of a key, with what is left of the key below each: prefixes have one segment or two.
pub fn split(key: &str) -> impl Iterator<Item = (&str, &str)> {
    key.match_indices('/').take(2).map(|(at, _)| (&key[..at], &key[at + 1..])).filter(|(_, rest)| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_lies_where_upstream_puts_it() {
        let cases = [
            ("", "pods", "pods"),
            ("", "nodes", "minions"),
            ("", "services", "services/specs"),
            ("", "endpoints", "services/endpoints"),
            ("", "replicationcontrollers", "controllers"),
            ("", "events", "events"),
            ("events.k8s.io", "events", "events"),
            ("apps", "deployments", "deployments"),
            ("networking.k8s.io", "ingresses", "ingress"),
            ("networking.k8s.io", "ingressclasses", "ingressclasses"),
            ("coordination.k8s.io", "leases", "leases"),
            ("rbac.authorization.k8s.io", "clusterroles", "clusterroles"),
            ("resource.k8s.io", "resourceclaims", "resourceclaims"),
            ("apiextensions.k8s.io", "customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"),
            ("apiregistration.k8s.io", "apiservices", "apiregistration.k8s.io/apiservices"),
            ("example.com", "widgets", "example.com/widgets"),
        ];
        for (group, resource, expected) in cases {
            assert_eq!(prefix(group, resource), expected, "{group}/{resource}");
        }
    }

    #[test]
    fn a_key_is_split_at_its_first_two_slashes() {
        assert_eq!(split("pods/ns/a").collect::<Vec<_>>(), [("pods", "ns/a"), ("pods/ns", "a")]);
        assert_eq!(split("minions/n").collect::<Vec<_>>(), [("minions", "n")]);
        assert_eq!(split("minions").count(), 0);
        assert_eq!(split("minions/").count(), 0);
        assert_eq!(object("minions", "", "n").as_str(), "minions/n");
        assert_eq!(object("services/specs", "ns", "a").as_str(), "services/specs/ns/a");
    }
}
