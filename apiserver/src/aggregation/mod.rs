//! API aggregation: groups and versions that an APIService gives to somebody else's server behind a service of the cluster.
//!
//! Owns which paths are claimed so, how their servers are reached, and what is known of their documents. A request below a claimed path
//! has passed every filter before it comes here, and is not looked into: what it means is for the other server to say. Never writes
//! objects; the `Available` condition, without which nothing is passed on, is [`crate::system::api_availability`]'s.

pub mod connections;
pub mod discovery;
pub mod endpoint;
pub mod follow;
pub mod health;
pub mod metrics;
pub mod openapi;
pub mod proxy;
pub mod registration;
pub mod remote;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::discovery::GroupVersion;
use crate::pki;
use crate::registry::read::str_at;
use crate::tls;
use openapi::Documents;
use registration::Registration;
use remote::Identity;

/// Registrations by group and version.
type Registered = BTreeMap<(String, String), Arc<Registration>>;

/// What others serve.
pub struct Aggregation {
    /// What their servers are shown.
    identity: Identity,
    registered: ArcSwap<Registered>,
    known: Mutex<BTreeMap<(String, String), Known>>,
    /// What checks have found.
    pub availability: metrics::Availability,
}

/// What is known of the documents of a group and version.
#[derive(Clone, Default)]
struct Known {
    discovery: Option<GroupVersion>,
    openapi: Option<Arc<Documents>>,
}

impl Aggregation {
    /// `identity` is what the other servers are shown.
    pub fn new(identity: &pki::Identity) -> Result<Aggregation, tls::Error> {
        Ok(Aggregation {
            identity: Identity::new(identity)?,
            registered: ArcSwap::default(),
            known: Mutex::default(),
            availability: metrics::Availability::default(),
        })
    }

    /// Whose a path is, if it is not ours. `ours` says whether this server publishes a document of OpenAPI itself.
    pub fn claimed(&self, path: &str, ours: impl Fn(&str) -> bool) -> Option<Arc<Registration>> {
        let registered = self.registered.load();
        if registered.is_empty() {
            return None;
        }
        let Some(document) = path.strip_prefix("/openapi/v3/") else { return registered.get(&group_version(path)?).cloned() };
        let known = self.known.lock();
        let publishes =
            |key: &(String, String)| known.get(key).and_then(|k| k.openapi.as_ref()).is_some_and(|d| d.v3.contains_key(document));
        if let Some(key) = group_version(&format!("/{document}")).filter(publishes) {
            return registered.get(&key).cloned();
        }
        if ours(document) {
            return None;
        }
        registered.iter().find(|(key, _)| publishes(key)).map(|(_, registration)| registration.clone())
    }

    /// How the server of an APIService is reached, as the object has it now; `None` if this server itself is meant.
    pub fn read(&self, api_service: &serde_json::Value) -> Option<Registration> {
        let key = |path: &str| str_at(api_service, path).to_owned();
        let before = self.registered.load().get(&(key("/spec/group"), key("/spec/version"))).cloned();
        Registration::read(api_service, &self.identity, before.as_deref())
    }

    /// Every registration, by group and version.
    fn registrations(&self) -> Arc<Registered> {
        self.registered.load_full()
    }

    /// Takes in a registration, or takes it out.
    fn register(&self, group: &str, version: &str, registration: Option<Arc<Registration>>) {
        let key = (group.to_owned(), version.to_owned());
        if registration.is_none() {
            self.known.lock().remove(&key);
        }
        self.registered.rcu(|registered| {
            let mut next = Registered::clone(registered);
            match &registration {
                Some(registration) => next.insert(key.clone(), registration.clone()),
                None => next.remove(&key),
            };
            next
        });
    }

    /// What discovery says of every registration: stale where its server has not answered.
    fn discovery(&self) -> Vec<GroupVersion> {
        let known = self.known.lock();
        let entry = |(key, registration): (&(String, String), &Arc<Registration>)| {
            let found = known.get(key).and_then(|known| known.discovery.clone());
            let mut entry = found.unwrap_or_else(|| discovery::unknown(&registration.group, &registration.version));
            entry.priority = registration.priority;
            entry
        };
        self.registered.load().iter().map(entry).collect()
    }

    /// What OpenAPI has of every registration, by the path of its own document, the most important first.
    fn documents(&self) -> Vec<(String, Arc<Documents>)> {
        let known = self.known.lock();
        let registered = self.registered.load();
        let mut found: Vec<(&Arc<Registration>, Arc<Documents>)> =
            registered.iter().filter_map(|(key, registration)| Some((registration, known.get(key)?.openapi.clone()?))).collect();
        found.sort_by_key(|(registration, _)| std::cmp::Reverse((registration.priority.group, registration.priority.version)));
        let path = |registration: &Registration| registration.path().trim_start_matches('/').to_owned();
        found.into_iter().map(|(registration, documents)| (path(registration), documents)).collect()
    }
}

/// The group and version that a path names.
fn group_version(path: &str) -> Option<(String, String)> {
    let mut segments = path.strip_prefix('/')?.split('/');
    match segments.next()? {
        "api" => Some((String::new(), segments.next().filter(|v| !v.is_empty())?.to_owned())),
        "apis" => Some((segments.next()?.to_owned(), segments.next().filter(|v| !v.is_empty())?.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_paths_are_given_back_with_the_registration() {
        let directory = tempfile::tempdir().unwrap();
        let identity = pki::Pki::open(directory.path()).unwrap().front_proxy_client().unwrap();
        let aggregation = Aggregation::new(&identity).unwrap();
        let whose = |path: &str| aggregation.claimed(path, |document| document == "version").map(|r| r.name.clone());
        assert_eq!(whose("/apis/a.example.com/v1/things"), None);
        aggregation.register("a.example.com", "v1", Some(Registration::sample("a.example.com", "v1")));
        let v3 = ["version", "apis/a.example.com/v1", "apis/a.example.com"].map(|p| (p.to_owned(), String::new())).into();
        let documents = Some(Arc::new(Documents { v3, ..Documents::default() }));
        aggregation.known.lock().insert(("a.example.com".into(), "v1".into()), Known { openapi: documents, ..Known::default() });
        let theirs = Some("v1.a.example.com".to_owned());
        for (path, expect) in [
            ("/apis/a.example.com/v1/things", theirs.clone()),
            ("/apis/a.example.com/v2/things", None),
            ("/apis/a.example.com", None),
            ("/openapi/v3/apis/a.example.com/v1", theirs.clone()),
            ("/openapi/v3/apis/a.example.com", theirs.clone()),
            ("/openapi/v3/version", None),
            ("/openapi/v3/apis/apps/v1", None),
        ] {
            assert_eq!(whose(path), expect, "{path}");
        }
        assert!(aggregation.discovery()[0].stale);
        aggregation.register("a.example.com", "v1", None);
        assert_eq!(whose("/apis/a.example.com/v1/things"), None);
        assert_eq!(whose("/openapi/v3/apis/a.example.com/v1"), None);
        assert!(aggregation.discovery().is_empty());
    }

    #[test]
    fn paths_name_groups_and_versions() {
        let pair = |group: &str, version: &str| Some((group.to_owned(), version.to_owned()));
        for (path, expect) in [
            ("/apis/a.example.com/v1", pair("a.example.com", "v1")),
            ("/apis/a.example.com/v1/namespaces/n/things/t", pair("a.example.com", "v1")),
            ("/apis/a.example.com/v1/", pair("a.example.com", "v1")),
            ("/api/v1/pods", pair("", "v1")),
            ("/apis/a.example.com/", None),
            ("/apis/a.example.com", None),
            ("/version", None),
            ("/", None),
        ] {
            assert_eq!(group_version(path), expect, "{path}");
        }
    }
}
