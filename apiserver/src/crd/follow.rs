//! Keeps what is served in step with the definitions.
//!
//! Each change of a definition is looked at once; only a change of what matters here replaces its resources. The one place that
//! changes the catalog after start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::publish;
use super::resource::resources;
use crate::api::Api;
use crate::discovery;
use crate::loopback::Loopback;
use crate::registry::read::{at, list_at, str_at};
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
    let mut follower = Follower { api: api.clone(), served: BTreeMap::new(), published: BTreeSet::new() };
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
    /// By name: the definition, and what of it was served.
    served: BTreeMap<String, Served>,
    /// The groups and versions that OpenAPI has documents of.
    published: BTreeSet<(String, String)>,
}

struct Served {
    group: String,
    plural: String,
    /// What the resources depend on.
    relevant: Value,
    definition: Value,
}

/// What of a definition decides on its resources; null if it is not to be served.
fn relevant(definition: &Value) -> Value {
    let condition =
        |name: &str| list_at(definition, "/status/conditions").iter().any(|c| str_at(c, "/type") == name && str_at(c, "/status") == "True");
    if !condition("Established") {
        return Value::Null;
    }
    json!([at(definition, "/spec"), at(definition, "/status/acceptedNames"), condition("Terminating")])
}

impl Reconciler for Follower {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let definition = cache(&self.api, GROUP, PLURAL).and_then(|d| d.get("", name)).map(|d| d.value());
        let wanted = definition.as_ref().map_or(Value::Null, relevant);
        let current = self.served.get(name);
        if current.map_or(&Value::Null, |served| &served.relevant) == &wanted {
            return Ok(Next::default());
        }
        match definition.filter(|_| !wanted.is_null()) {
            Some(definition) => self.serve(name, definition, wanted).await?,
            None => self.withdraw(name),
        }
        let group = name.split_once('.').map_or("", |(_, group)| group);
        self.publish(group);
        Ok(Next::default())
    }
}

impl Follower {
    /// Serves a definition in place of what was served of it.
    async fn serve(&mut self, name: &str, definition: Value, relevant: Value) -> Result<(), Status> {
        let Some(resources) = resources(&definition) else {
            self.withdraw(name);
            return Ok(());
        };
        let (group, plural) = (str_at(&definition, "/spec/group").to_owned(), resources.stored.resource.to_string());
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
        self.served.insert(name.to_owned(), Served { group, plural, relevant, definition });
        Ok(())
    }

    fn withdraw(&mut self, name: &str) {
        let Some(served) = self.served.remove(name) else { return };
        let catalog = self.api.catalog.load_full();
        self.api.catalog.store(Arc::new(catalog.without(&served.group, &served.plural)));
        if let Some(cache) = catalog.stored_resource(&served.group, &served.plural).and_then(|s| s.cache()) {
            self.api.storage.unregister(cache);
        }
    }

    /// Tells discovery, and OpenAPI of the group that has changed.
    fn publish(&mut self, group: &str) {
        let custom = discovery::custom::group_versions(self.served.values().map(|s| &s.definition));
        let versions: BTreeSet<(String, String)> =
            custom.iter().filter(|e| e.group == group).map(|e| (e.group.clone(), e.version.clone())).collect();
        self.api.discovery.set_custom(custom);
        let gone: Vec<(String, String)> = self.published.iter().filter(|gv| gv.0 == group && !versions.contains(*gv)).cloned().collect();
        for gv in gone {
            self.api.openapi.remove_group_version(&gv.0, &gv.1);
            self.published.remove(&gv);
        }
        for (group, version) in versions {
            let definitions = self.served.values().filter(|s| s.group == group).map(|s| &s.definition);
            let (resources, own) = publish::version(definitions, &group, &version);
            self.api.openapi.set_group_version(&group, &version, resources, Some(own));
            self.published.insert((group, version));
        }
    }
}

fn unregistered(error: storage::Error) -> Status {
    Status::internal_error(&format!("loading custom resources: {error}"))
}
