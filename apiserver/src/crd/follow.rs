//! Keeps what is served in step with the definitions.
//!
//! Each change of a definition is looked at once; only a change of what matters here replaces its resources. The one place that
//! changes the catalog after start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::publish;
use super::resource::resources;
use super::summary::Summary;
use crate::api::Api;
use crate::discovery;
use crate::loopback::Loopback;
use crate::registry::conditions::is_true;
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::storage;
use crate::system::keyed::{self, Next, Reconciler, Source};
use crate::system::watched::cache;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// Serves the definitions that are there, and follows them from then on.
pub async fn start(api: &Arc<Api>) -> Result<(), Status> {
    let client = Loopback::new(api);
    if !client.serves(GROUP, PLURAL) {
        return Ok(());
    }
    let mut follower = Follower { api: api.clone(), served: BTreeMap::new() };
    let names: Vec<String> = match cache(api, GROUP, PLURAL) {
        Some(definitions) => definitions.snapshot().range("", None).map(|d| d.name().to_owned()).collect(),
        None => Vec::new(),
    };
    for name in names {
        follower.reconcile(&name).await?;
    }
    keyed::spawn(&client, "crd-resources", vec![Source::own(GROUP, PLURAL)], follower);
    Ok(())
}

struct Follower {
    api: Arc<Api>,
    /// By name: what of a definition is served.
    served: BTreeMap<String, Served>,
}

struct Served {
    group: String,
    plural: String,
    /// Of what the resources depend on.
    digest: Digest,
    /// The versions that OpenAPI has documents of.
    published: BTreeSet<String>,
}

/// Tells contents apart. Definitions are large: what was made of one does not keep it.
type Digest = [u8; 64];

/// What of an established definition decides on its resources.
fn relevant(definition: &Value) -> Digest {
    let mut context = ring::digest::Context::new(&ring::digest::SHA512);
    let is_terminating = Value::from(is_true(definition, "Terminating"));
    for part in [at(definition, "/spec"), at(definition, "/status/acceptedNames"), &is_terminating] {
        context.update(part.to_string().as_bytes());
    }
    context.finish().as_ref().try_into().expect("as long as such digests are")
}

impl Reconciler for Follower {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let definition = cache(&self.api, GROUP, PLURAL).and_then(|d| d.get("", name));
        let established = definition.filter(|definition| Summary::read(definition).is_true("Established"));
        let definition = established.map(|d| (d.value(), d.json().clone()));
        let wanted = definition.as_ref().map(|(definition, _)| relevant(definition));
        if self.served.get(name).map(|served| served.digest) == wanted {
            return Ok(Next::default());
        }
        match definition.zip(wanted) {
            Some(((definition, text), digest)) => self.serve(name, &definition, &text, digest).await?,
            None => self.withdraw(name),
        }
        Ok(Next::default())
    }
}

impl Follower {
    /// Serves a definition in place of what was served of it.
    async fn serve(&mut self, name: &str, definition: &Value, text: &Bytes, digest: Digest) -> Result<(), Status> {
        let Some(resources) = resources(definition, text) else {
            self.withdraw(name);
            return Ok(());
        };
        let (group, plural) = (str_at(definition, "/spec/group").to_owned(), resources.stored.resource.to_string());
        let old = self.api.catalog.load().stored_resource(&group, &plural).and_then(|s| s.cache()).cloned();
        let cache = match &old {
            Some(old) => self.api.storage.replace(old, resources.spec).await,
            None => self.api.storage.register(resources.spec).await,
        };
        // Set once: this resource is new.
        let _ = resources.stored.cache.set(cache.map_err(unregistered)?);
        let catalog = self.api.catalog.load().with(&resources.stored, resources.served);
        self.api.catalog.store(Arc::new(catalog));
        // Only now, as everybody is led to the new one: its watchers are told to start anew.
        if let Some(old) = old {
            self.api.storage.unregister(&old);
        }
        self.api.discovery.set_custom(&group, name, discovery::custom::group_versions(definition));
        let before = self.served.remove(name).map(|served| served.published).unwrap_or_default();
        let served = list_at(definition, "/spec/versions").iter().filter(|v| bool_at(v, "/served"));
        let published: BTreeSet<String> = served.map(|v| str_at(v, "/name").to_owned()).collect();
        for version in before.difference(&published) {
            self.api.openapi.remove_custom(&group, version, name);
        }
        for version in &published {
            self.api.openapi.set_custom(&group, version, name, publish::version(text, version, digest));
        }
        self.served.insert(name.to_owned(), Served { group, plural, digest, published });
        Ok(())
    }

    fn withdraw(&mut self, name: &str) {
        let Some(served) = self.served.remove(name) else { return };
        let catalog = self.api.catalog.load_full();
        self.api.catalog.store(Arc::new(catalog.without(&served.group, &served.plural)));
        if let Some(cache) = catalog.stored_resource(&served.group, &served.plural).and_then(|s| s.cache()) {
            self.api.storage.unregister(cache);
        }
        self.api.discovery.set_custom(&served.group, name, Vec::new());
        for version in &served.published {
            self.api.openapi.remove_custom(&served.group, version, name);
        }
    }
}

fn unregistered(error: storage::Error) -> Status {
    Status::internal_error(&format!("loading custom resources: {error}"))
}
