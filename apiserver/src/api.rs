//! The API server's state: everything that filters and endpoints share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::watch;

use crate::admission::{Chain, Lookup};
use crate::allocation::Allocator;
use crate::backend::Backends;
use crate::catalog::Catalog;
use crate::discovery::Index;
use crate::filters::authentication::Authenticator;
use crate::filters::authorization::Authorizer;
use crate::flow_control::FlowControl;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::storage::Storage;
use crate::tokens::Issuer;

/// Shared by all requests; cheap to reach through an `Arc`.
pub struct Api {
    pub catalog: ArcSwap<Catalog>,
    pub storage: Storage,
    pub authenticator: Authenticator,
    pub authorizer: Arc<dyn Authorizer>,
    pub issuer: Arc<Issuer>,
    pub admission: Chain,
    pub allocator: Allocator,
    pub backends: Backends,
    pub flow_control: FlowControl,
    pub discovery: ArcSwap<Index>,
    pub openapi: OpenApi,
    pub metrics: Metrics,
    /// Turns true when the server is to stop; watches end then.
    pub shutdown: watch::Receiver<bool>,
}

impl Lookup for Api {
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
}
