//! What the API server itself puts into an empty cluster before it is ready: the system's namespaces and their like.
//!
//! Everything goes through the same steps as a client's creation; an object that exists is left as it is.

use std::sync::Arc;

use apimachinery::status::Status;
use http::Method;
use serde_json::{Value, json};

use crate::api::Api;
use crate::endpoints::options::Query;
use crate::endpoints::{Call, create};
use crate::filters::Authorized;

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Fills an empty cluster.
pub async fn run(api: &Arc<Api>) -> Result<(), Status> {
    for name in NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        ensure(api, "/api/v1/namespaces", namespace).await?;
    }
    Ok(())
}

/// Creates an object unless it exists. `collection` is the path that a client would POST to.
pub async fn ensure(api: &Arc<Api>, collection: &str, object: Value) -> Result<(), Status> {
    let request = Authorized::loopback(Method::POST, collection, "kube-apiserver");
    let catalog = api.catalog.load_full();
    let info = &request.info;
    let resource = catalog
        .find(&info.group, &info.version, &info.resource)
        .cloned()
        .ok_or_else(|| Status::internal_error(&format!("{collection} is not served")))?;
    let name = crate::endpoints::meta::text(&object, "name");
    let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
    if resource.stored.cache().is_some_and(|c| c.get(namespace, name).is_some()) {
        return Ok(());
    }
    let siblings = catalog.versions_of(&resource);
    let mut call = Call { api: api.clone(), request, resource, siblings, query: Query::default(), warnings: Vec::new() };
    match create::store(&mut call, object, "kube-apiserver", false).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => Err(status),
    }
}
