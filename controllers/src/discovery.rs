//! Which resources the API server serves at this moment, as discovery tells it, in the version that it prefers.
//!
//! Knows nothing of what is done with them. One group that cannot be discovered does not hide the others.

use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList, APIResourceDiscovery};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client};

/// An object of any kind of which only the metadata are asked for.
pub type Metadata = PartialObjectMeta<DynamicObject>;

/// One resource in the version that its group prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    pub fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `deployments.apps`; a core resource ends in nothing.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    fn api_resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// The metadata of all objects of this resource.
    pub fn everywhere(&self, client: &Client) -> Api<Metadata> {
        Api::all_with(client.clone(), &self.api_resource())
    }

    /// The metadata of its objects in a namespace, which is ignored if the resource has none.
    pub fn within(&self, client: &Client, namespace: &str) -> Api<Metadata> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.api_resource())
        } else {
            self.everywhere(client)
        }
    }
}

/// What discovery told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovered {
    /// Each resource in the version that its group prefers.
    pub resources: Vec<Resource>,
    /// Each in every version.
    pub every: Vec<Resource>,
    /// Group versions that could not be discovered, and why.
    pub failed: Vec<(String, String)>,
}

impl Discovered {
    /// What upstream's client says of the failed groups; nothing if there are none.
    pub fn failure(&self) -> Option<String> {
        if self.failed.is_empty() {
            return None;
        }
        let mut groups: Vec<String> = self.failed.iter().map(|(version, why)| format!("{version}: {why}")).collect();
        groups.sort();
        Some(format!("unable to retrieve the complete list of server APIs: {}", groups.join(", ")))
    }
}

/// Asks the server, which answers from memory.
pub async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let (core, groups) = futures::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated())?;
    Ok(preferred([core, groups]))
}

fn preferred(lists: impl IntoIterator<Item = APIGroupDiscoveryList>) -> Discovered {
    let mut discovered = Discovered::default();
    lists.into_iter().flat_map(|list| list.items).for_each(|group| add_group(group, &mut discovered));
    discovered
}

/// A group's versions come in the order of preference: of a resource that is in several, the first counts.
fn add_group(group: APIGroupDiscovery, discovered: &mut Discovered) {
    let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
    let first = discovered.resources.len();
    for served in group.versions {
        let version = served.version.unwrap_or_default();
        if served.freshness.as_deref() == Some("Stale") {
            let group_version = group_version(&name, &version);
            discovered.failed.push((group_version.clone(), format!("stale GroupVersion discovery: {group_version}")));
        }
        for resource in served.resources {
            let Some(resource) = resource_of(&name, &version, resource) else { continue };
            discovered.every.push(resource.clone());
            if !discovered.resources[first..].iter().any(|known| known.plural == resource.plural) {
                discovered.resources.push(resource);
            }
        }
    }
}

/// Nothing for a name that serves subresources alone.
fn resource_of(group: &str, version: &str, served: APIResourceDiscovery) -> Option<Resource> {
    Some(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: served.resource?,
        singular: served.singular_resource.unwrap_or_default(),
        kind: served.response_kind?.kind.filter(|kind| !kind.is_empty())?,
        namespaced: served.scope.as_deref() == Some("Namespaced"),
        verbs: served.verbs,
    })
}

pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(items: serde_json::Value) -> APIGroupDiscoveryList {
        serde_json::from_value(json!({"items": items})).unwrap()
    }

    fn resource(name: &str, kind: &str) -> serde_json::Value {
        json!({"resource": name, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["list"]})
    }

    #[test]
    fn a_resource_in_several_versions_is_taken_once_in_the_first() {
        let discovered = preferred([list(json!([{"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "resources": [resource("as", "A")]},
            {"version": "v1", "resources": [resource("as", "A"), resource("bs", "B")]},
        ]}]))]);
        let found: Vec<String> = discovered.resources.iter().map(|r| format!("{} {}", r.api_version(), r.group_resource())).collect();
        assert_eq!(found, ["g/v2 as.g", "g/v1 bs.g"]);
        assert_eq!(discovered.failure(), None);
    }

    #[test]
    fn a_stale_group_is_told_of_and_hides_nothing() {
        let discovered = preferred([
            list(json!([{"versions": [{"version": "v1", "resources": [resource("pods", "Pod")]}]}])),
            list(json!([{"metadata": {"name": "m.io"}, "versions": [{"version": "v1", "freshness": "Stale", "resources": []}]}])),
        ]);
        assert_eq!(discovered.resources[0].api_version(), "v1");
        let expected = "unable to retrieve the complete list of server APIs: m.io/v1: stale GroupVersion discovery: m.io/v1";
        assert_eq!(discovered.failure().as_deref(), Some(expected));
    }
}
