//! The API server as its own client: writes that take the same steps as anybody's, without a connection.
//!
//! Requests are those of `system:apiserver` in `system:masters`; they pass admission and validation, not the filters.

use std::sync::Arc;

use apimachinery::status::Status;
use http::Method;
use serde_json::Value;

use crate::api::Api;
use crate::endpoints::create::Created;
use crate::endpoints::options::{DeleteOptions, Query, WriteOptions};
use crate::endpoints::update::{self, Change, Failure};
use crate::endpoints::{Call, create, delete, meta, patch};
use crate::filters::Authorized;
use crate::filters::audit::Own;
use crate::storage;

/// The manager of fields that the API server writes, where nothing more particular is said.
pub const MANAGER: &str = "kube-apiserver";

/// A client of this process's own API.
#[derive(Clone)]
pub struct Loopback {
    api: Arc<Api>,
    manager: &'static str,
}

impl Loopback {
    pub fn new(api: &Arc<Api>) -> Loopback {
        Loopback { api: api.clone(), manager: MANAGER }
    }

    /// The same client, writing as another field manager.
    pub fn with_manager(&self, manager: &'static str) -> Loopback {
        Loopback { api: self.api.clone(), manager }
    }

    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Whether a resource is served, by the group and plural of its stored version.
    pub fn serves(&self, group: &str, resource: &str) -> bool {
        self.api.catalog.load().stored_resource(group, resource).is_some()
    }

    /// An object as of now, in its storage version.
    pub fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        Some(self.cache(group, resource)?.get(namespace, name)?.value())
    }

    /// All objects of a resource as of now, in their storage version.
    pub fn list(&self, group: &str, resource: &str) -> Vec<Value> {
        let Some(cache) = self.cache(group, resource) else { return Vec::new() };
        cache.snapshot().range("", None).map(|object| object.value()).collect()
    }

    fn cache(&self, group: &str, resource: &str) -> Option<Arc<storage::Resource>> {
        self.api.catalog.load().stored_resource(group, resource)?.cache().cloned()
    }

    fn call(&self, method: Method, path: &str, query: &str) -> Result<Call, Status> {
        let request = Authorized::loopback(method, path, MANAGER);
        let info = &request.info;
        let catalog = self.api.catalog.load_full();
        let resource = catalog
            .find(&info.group, &info.version, &info.resource)
            .cloned()
            .ok_or_else(|| Status::internal_error(&format!("{path} is not served")))?;
        let siblings = catalog.versions_of(&resource);
        Ok(Call { api: self.api.clone(), request, resource, siblings, query: Query::parse(query), warnings: Vec::new() })
    }

    /// POST to a collection's path.
    pub async fn create(&self, collection: &str, object: Value) -> Result<Value, Status> {
        let mut call = self.call(Method::POST, collection, "")?;
        let own = Own::of(&self.api, &call.request).about(&object);
        own.tell(201, create::store(&mut call, object, self.manager, false)).await.map(value)
    }

    /// POST to a collection's path; it is no error if the object exists. Says whether it was created.
    pub async fn ensure(&self, collection: &str, object: Value) -> Result<bool, Status> {
        let call = self.call(Method::POST, collection, "")?;
        // A service that exists would be refused for another reason first: the address that it has is taken.
        let name = meta::text(&object, "name");
        if call.resource.stored.cache().is_some_and(|cache| cache.get(call.namespace(), name).is_some()) {
            return Ok(false);
        }
        match self.create(collection, object).await {
            Ok(_) => Ok(true),
            Err(status) if status.reason == "AlreadyExists" => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// PUT to an object's path (or that of a subresource).
    pub async fn replace(&self, path: &str, mut object: Value) -> Result<Value, Status> {
        let mut call = self.call(Method::PUT, path, "")?;
        call.complete(&mut object);
        let change = Change { object, reset: false, manager: self.manager.to_owned(), dry_run: false, apply: false, old: None };
        let own = Own::of(&self.api, &call.request);
        let doing = async {
            match update::put(&mut call, change).await {
                Ok(written) => Ok(value(written.outcome)),
                Err(Failure::Conflict) => Err(update::modified(&call)),
                Err(Failure::Status(status)) => Err(*status),
            }
        };
        own.tell(200, doing).await
    }

    /// Applies a configuration to an object's path, taking over what others own of it.
    pub async fn apply(&self, path: &str, config: &Value) -> Result<(), Status> {
        let mut call = self.call(Method::PATCH, path, &format!("fieldManager={}&force=true", self.manager))?;
        let options = WriteOptions::parse(&call.query, "PatchOptions", true)?;
        let text = apimachinery::json::to_string(config);
        let own = Own::of(&self.api, &call.request);
        own.tell(200, patch::apply(&mut call, text.as_bytes(), &options, self.manager)).await.map(|_| ())
    }

    /// DELETE of the object with this uid (of whatever is there, if that is empty). An absent object is no error.
    pub async fn delete(&self, path: &str, uid: &str) -> Result<(), Status> {
        let mut call = self.call(Method::DELETE, path, "")?;
        let mut options = DeleteOptions::from_query(&call.query)?;
        options.uid = (!uid.is_empty()).then(|| uid.to_owned());
        let (namespace, name) = (call.namespace().to_owned(), call.name().to_owned());
        let own = Own::of(&self.api, &call.request);
        match own.tell(200, delete::remove(&mut call, &namespace, &name, &options)).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "NotFound" => Ok(()),
            Err(status) => Err(status),
        }
    }
}

fn value(created: Created) -> Value {
    match created {
        Created::Stored(object) => object.value(),
        Created::DryRun(value) => value,
    }
}

/// Whether a write failed because the object has changed or gone meanwhile, which whoever watches it will hear of.
pub fn is_overtaken(status: &Status) -> bool {
    matches!(&*status.reason, "Conflict" | "NotFound")
}
