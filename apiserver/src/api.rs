//! The API server's state: everything that filters and endpoints share.

use std::sync::Arc;

use apimachinery::status::Status;
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use http::Method;
use serde_json::Value;
use tokio::sync::watch;

use crate::admission::{Chain, Cluster, Lookup, WriteError};
use crate::catalog::{Catalog, Gvk};
use crate::discovery::Index;
use crate::endpoints::options::Query;
use crate::endpoints::update::{self, Change, Failure};
use crate::endpoints::{Call, meta};
use crate::filters::Authorized;
use crate::filters::authentication::{Authenticator, User};
use crate::filters::authorization::{Authorizer, Decision};
use crate::filters::request_info::RequestInfo;
use crate::flow_control::FlowControl;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::storage::Storage;

/// The manager of fields that the server writes itself.
const MANAGER: &str = "kube-apiserver";

/// Shared by all requests; cheap to reach through an `Arc`.
pub struct Api {
    pub catalog: ArcSwap<Catalog>,
    pub storage: Storage,
    pub authenticator: Authenticator,
    pub authorizer: Box<dyn Authorizer>,
    pub admission: Chain,
    pub flow_control: FlowControl,
    pub discovery: ArcSwap<Index>,
    pub openapi: OpenApi,
    pub metrics: Metrics,
    /// Turns true when the server is to stop; watches end then.
    pub shutdown: watch::Receiver<bool>,
}

impl Lookup for Arc<Api> {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let catalog = self.catalog.load();
        let stored = catalog.stored_resource(group, resource)?;
        Some(stored.cache()?.get(namespace, name)?.value())
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let catalog = self.catalog.load();
        let Some(cache) = catalog.stored_resource(group, resource).and_then(|s| s.cache()) else { return Vec::new() };
        cache.snapshot().range(namespace, None).map(|o| o.value()).collect()
    }

    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        self.authorizer.authorize(user, request)
    }

    fn resources_of_kind(&self, group: &str, version: &str, kind: &str) -> Vec<(String, bool)> {
        let catalog = self.catalog.load();
        let gvk = Gvk::new(group, version, kind);
        catalog.iter().filter(|r| r.gvk == gvk).map(|r| (r.plural.to_string(), r.namespaced)).collect()
    }
}

impl Cluster for Arc<Api> {
    /// As a client of this server would write it, in the server's own name.
    fn update_status<'a>(&'a self, resource: &'a str, object: Value) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let (namespace, name) = (meta::text(&object, "namespace"), meta::text(&object, "name"));
            let path = format!("/api/v1/namespaces/{namespace}/{resource}/{name}/status");
            let request = Authorized::loopback(Method::PUT, &path, MANAGER);
            let catalog = self.catalog.load_full();
            let unserved = || WriteError::Refused(Status::internal_error(&format!("{path} is not served")));
            let resource = catalog.find("", "v1", resource).cloned().ok_or_else(unserved)?;
            let siblings = catalog.versions_of(&resource);
            let mut call = Call { api: self.clone(), request, resource, siblings, query: Query::default(), warnings: Vec::new() };
            let change = Change { object, reset: false, manager: MANAGER.to_owned(), dry_run: false, apply: false };
            match update::put(&mut call, change).await {
                Ok(_) => Ok(()),
                Err(Failure::Conflict) => Err(WriteError::Stale(update::modified(&call))),
                Err(Failure::Status(status)) if status.code == 404 => Err(WriteError::Stale(*status)),
                Err(Failure::Status(status)) => Err(WriteError::Refused(*status)),
            }
        })
    }
}
