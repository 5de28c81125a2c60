//! What the API server itself puts into an empty cluster before it is ready: the system's namespaces and their like.
//!
//! Everything goes through the same steps as a client's creation; an object that exists is left as it is.

use std::sync::Arc;

use apimachinery::status::Status;
use http::Method;
use serde_json::{Value, json};

use crate::api::Api;
use crate::endpoints::options::{Query, WriteOptions};
use crate::endpoints::update::{Change, Failure};
use crate::endpoints::{Call, create, patch, update};
use crate::filters::Authorized;
use crate::filters::audit::Own;
use crate::rbac;

/// Who owns what the server makes.
const MANAGER: &str = "kube-apiserver";

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Fills an empty cluster.
pub async fn run(api: &Arc<Api>) -> Result<(), Status> {
    for name in NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        ensure(api, "/api/v1/namespaces", namespace).await?;
    }
    rbac::bootstrap::run(api).await
}

/// Creates an object unless it exists. `collection` is the path that a client would POST to.
pub async fn ensure(api: &Arc<Api>, collection: &str, object: Value) -> Result<(), Status> {
    let mut call = call(api, Method::POST, collection)?;
    let name = crate::endpoints::meta::text(&object, "name");
    if call.resource.stored.cache().is_some_and(|c| c.get(call.namespace(), name).is_some()) {
        return Ok(());
    }
    let own = Own::of(api, &call.request).about(&object);
    match own.tell(201, create::store(&mut call, object, MANAGER, false)).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => Err(status),
    }
}

/// Replaces an object. `path` is the one that a client would PUT to.
pub async fn replace(api: &Arc<Api>, path: &str, mut object: Value) -> Result<(), Status> {
    let mut call = call(api, Method::PUT, path)?;
    call.complete(&mut object);
    let change = Change { object, reset: false, manager: MANAGER.to_owned(), dry_run: false, apply: false };
    let own = Own::of(api, &call.request);
    let doing = async {
        match update::put(&mut call, change).await {
            Ok(_) => Ok(()),
            Err(Failure::Conflict) => Err(update::modified(&call)),
            Err(Failure::Status(status)) => Err(*status),
        }
    };
    own.tell(200, doing).await
}

/// Applies a configuration by force. `path` is the one that a client would PATCH.
pub async fn apply(api: &Arc<Api>, path: &str, config: &Value, manager: &str) -> Result<(), Status> {
    let mut call = call(api, Method::PATCH, path)?;
    let options = WriteOptions { force: Some(true), ..WriteOptions::default() };
    let text = config.to_string();
    let own = Own::of(api, &call.request);
    own.tell(200, patch::apply(&mut call, text.as_bytes(), &options, manager)).await.map(|_| ())
}

/// A request of this server to itself.
fn call(api: &Arc<Api>, method: Method, path: &str) -> Result<Call, Status> {
    let request = Authorized::loopback(method, path, MANAGER);
    let catalog = api.catalog.load_full();
    let info = &request.info;
    let resource = catalog
        .find(&info.group, &info.version, &info.resource)
        .cloned()
        .ok_or_else(|| Status::internal_error(&format!("{path} is not served")))?;
    let siblings = catalog.versions_of(&resource);
    Ok(Call { api: api.clone(), request, resource, siblings, query: Query::default(), warnings: Vec::new() })
}
