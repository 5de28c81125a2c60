//! Keeps what is known of others' groups and versions in step with the APIServices, and with what their servers tell.
//!
//! Two loops: one takes registrations in as soon as they change, so that a path is claimed (or given back) at once; the other asks the
//! servers, which may take long, in a few workers so that one that does not answer holds up only some of the others.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;

use super::registration::Shared;
use super::{Known, discovery, openapi};
use crate::api::Api;
use crate::loopback::Loopback;
use crate::system::api_services::{GROUP, PLURAL};
use crate::system::keyed::{self, Next, Reconciler, Source};
use crate::system::watched::cache;

/// How often servers are asked again.
const REFRESH: Duration = Duration::from_secs(60);
/// How often one is asked again whose OpenAPI could not be read.
const REFRESH_FAILED: Duration = Duration::from_secs(10);
const WORKERS: u64 = 4;

/// Takes in the registrations that are there, and follows them from then on.
pub fn start(api: &Arc<Api>) {
    let client = Loopback::new(api);
    if !client.serves(GROUP, PLURAL) {
        return;
    }
    let names: Vec<String> = match cache(api, GROUP, PLURAL) {
        Some(services) => services.snapshot().range("", None).map(|service| service.name().to_owned()).collect(),
        None => Vec::new(),
    };
    for name in names {
        take_in(api, &name);
    }
    keyed::spawn(&client, "aggregated-paths", vec![Source::own(GROUP, PLURAL)], Paths { api: api.clone() });
    for worker in 0..WORKERS {
        let documents = Documents { api: api.clone() };
        keyed::spawn(&client, "aggregated-documents", vec![source_of(worker, WORKERS)], documents);
    }
}

/// The APIServices whose turn it is for one worker of many.
pub fn source_of(worker: u64, workers: u64) -> Source {
    let keys = Box::new(move |object: &crate::storage::Object| match is_of(object.name(), worker, workers) {
        true => vec![object.name().to_owned()],
        false => Vec::new(),
    });
    Source { group: GROUP, resource: PLURAL, keys }
}

/// Whether a name is for one worker of many to look at.
pub fn is_of(name: &str, worker: u64, workers: u64) -> bool {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() % workers == worker
}

struct Paths {
    api: Arc<Api>,
}

impl Reconciler for Paths {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        take_in(&self.api, name);
        Ok(Next::default())
    }
}

/// Claims or gives back the paths of an APIService; gives the registration as it is now.
fn take_in(api: &Arc<Api>, name: &str) -> Option<Shared> {
    let (version, group) = name.split_once('.')?;
    let key = (group.to_owned(), version.to_owned());
    let aggregation = &api.aggregation;
    let before = aggregation.registrations().get(&key).cloned();
    let object = cache(api, GROUP, PLURAL).and_then(|services| services.get("", name)).map(|service| service.value());
    let now = object.and_then(|object| aggregation.read(&object));
    match (before, now) {
        (None, None) => None,
        (Some(before), Some(now)) if before.is_same(&now) => Some(before),
        (_, now) => {
            let now = now.map(Arc::new);
            aggregation.register(group, version, now.clone());
            publish(api);
            now
        }
    }
}

struct Documents {
    api: Arc<Api>,
}

impl Reconciler for Documents {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let Some(registration) = take_in(&self.api, name) else { return Ok(Next::default()) };
        let key = (registration.group.clone(), registration.version.clone());
        let before = self.api.aggregation.known.lock().get(&key).cloned().unwrap_or_default();
        let told = discovery::fetch(&self.api, &registration).await;
        let (resources, failure) = match told {
            Ok(entry) => (entry, None),
            Err(why) => {
                let last = before.discovery.clone().unwrap_or_else(|| discovery::unknown(&key.0, &key.1));
                (crate::discovery::GroupVersion { stale: true, ..last }, Some(why))
            }
        };
        let published = openapi::fetch(&self.api, &registration, before.openapi.as_deref()).await;
        let mut after = REFRESH;
        let documents = match published {
            Ok(documents) if before.openapi.as_ref().is_some_and(|known| known.is_same(&documents)) => before.openapi.clone(),
            Ok(documents) => Some(Arc::new(documents)),
            Err(why) => {
                tracing::debug!(apiservice = name, why, "OpenAPI could not be read");
                after = REFRESH_FAILED;
                before.openapi.clone()
            }
        };
        self.learn(&registration, &before, Known { discovery: Some(resources), openapi: documents });
        match failure {
            None => Ok(Next { after: Some(after), also: Vec::new() }),
            Some(why) => Err(Status::service_unavailable(why)),
        }
    }
}

impl Documents {
    /// Keeps what a server has told, if it is still the one that counts.
    fn learn(&self, registration: &Shared, before: &Known, now: Known) {
        let key = (registration.group.clone(), registration.version.clone());
        let same_documents = match (&before.openapi, &now.openapi) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        let changed = before.discovery != now.discovery || !same_documents;
        {
            let mut known = self.api.aggregation.known.lock();
            let registered = self.api.aggregation.registrations();
            if registered.get(&key).is_none_or(|current| current.service != registration.service) {
                return;
            }
            known.insert(key, now);
        }
        if changed {
            publish(&self.api);
        }
    }
}

/// Tells discovery and OpenAPI what others serve.
fn publish(api: &Api) {
    api.discovery.set_aggregated(api.aggregation.discovery());
    api.openapi.set_aggregated(&api.aggregation.documents());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_worker() {
        for name in ["v1.apps", "v1alpha1.wardle.example.com", "v1."] {
            assert_eq!((0..WORKERS).filter(|worker| is_of(name, *worker, WORKERS)).count(), 1);
        }
    }
}
