//! The API server's state: everything that filters and endpoints share.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admission::{Chain, Cluster, Lookup, WriteError};
use crate::aggregation::Aggregation;
use crate::allocation::Allocator;
use crate::audit::Auditor;
use crate::backend::Backends;
use crate::catalog::{Catalog, Gvk, Resource};
use crate::discovery::Served;
use crate::encryption::Encryption;
use crate::endpoints::meta;
use crate::filters::authentication::{Authenticator, User};
use crate::filters::authorization::{Authorizer, Decision};
use crate::filters::browsers::Browsers;
use crate::filters::impersonation::Modes;
use crate::filters::request_info::RequestInfo;
use crate::flow_control::FlowControl;
use crate::loopback::{Loopback, is_overtaken};
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::parsed::Parsed;
use crate::resource_metrics::ResourceMetrics;
use crate::storage::{Stamp, Storage};
use crate::tokens::Issuer;
use crate::webhook_client::Connections;

/// Shared by all requests; cheap to reach through an `Arc`.
pub struct Api {
    pub catalog: ArcSwap<Catalog>,
    pub storage: Storage,
    pub authenticator: Authenticator,
    pub authorizer: Arc<dyn Authorizer>,
    pub issuer: Arc<Issuer>,
    pub admission: Chain,
    /// Tells of requests, if anybody wants to be told.
    pub audit: Option<Arc<Auditor>>,
    pub encryption: Arc<Encryption>,
    pub allocator: Allocator,
    pub backends: Backends,
    pub webhooks: Arc<Connections>,
    /// What extension API servers serve.
    pub aggregation: Aggregation,
    /// What nodes and pods use, where this server tells.
    pub resource_metrics: Option<ResourceMetrics>,
    /// What plugins look at with every write.
    pub parsed: Parsed,
    pub flow_control: FlowControl,
    /// Which sites may read answers, and what else browsers are told.
    pub browsers: Browsers,
    /// The longest that a request may take which is no watch or the like.
    pub request_timeout: Duration,
    pub store_timeouts: StoreTimeouts,
    pub told: Told,
    /// In which mode users last acted as others.
    pub impersonation: Modes,
    pub discovery: Served,
    pub openapi: OpenApi,
    pub metrics: Arc<Metrics>,
    /// Turns true when the server has been told to stop: it is not ready any more, and serves all the same until `shutdown`.
    pub leaving: watch::Receiver<bool>,
    /// Turns true when the server is to stop; watches end then.
    pub shutdown: watch::Receiver<bool>,
}

/// What whoever starts the server may choose and single endpoints go by. Field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct Told {
    /// How long events are kept; in whole seconds.
    pub event_ttl: Duration,
    /// A watch that does not say how long it is to last lasts this long at least, and less than twice as long.
    pub min_request_timeout: Duration,
    /// The name by which documents say that this server is reached; the address that the client has used if absent.
    pub external_hostname: Option<String>,
}

impl Default for Told {
    fn default() -> Told {
        Told { event_ttl: Duration::from_secs(3600), min_request_timeout: Duration::from_secs(1800), external_hostname: None }
    }
}

impl Told {
    /// `host:port` where clients find the server that one has reached at `local`.
    pub fn external_address(&self, local: SocketAddr) -> String {
        match self.external_hostname.as_deref() {
            // Of an address of version 6 alone is told apart what is the port.
            Some(name) if name.parse::<Ipv6Addr>().is_ok() => format!("[{name}]:{}", local.port()),
            Some(name) => format!("{name}:{}", local.port()),
            None => local.to_string(),
        }
    }
}

/// By when the store must answer to count as healthy and as ready.
#[derive(Clone, Copy, Debug)]
pub struct StoreTimeouts {
    pub health: Duration,
    pub readiness: Duration,
}

impl Default for StoreTimeouts {
    fn default() -> StoreTimeouts {
        const DEFAULT: Duration = Duration::from_secs(2);
        StoreTimeouts { health: DEFAULT, readiness: DEFAULT }
    }
}

impl Lookup for Arc<Api> {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let catalog = self.catalog.load();
        let stored = catalog.stored_resource(group, resource)?;
        Some(self.parsed.value(&stored.cache()?.get(namespace, name)?))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let catalog = self.catalog.load();
        let Some(cache) = catalog.stored_resource(group, resource).and_then(|s| s.cache()) else { return Vec::new() };
        self.parsed.values(cache.snapshot().range(namespace, None))
    }

    fn stamp(&self, group: &str, resource: &str) -> Option<Stamp> {
        let catalog = self.catalog.load();
        Some(catalog.stored_resource(group, resource)?.cache()?.stamp())
    }

    fn authorizer(&self) -> Arc<dyn Authorizer> {
        self.authorizer.clone()
    }

    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        self.authorizer.authorize(user, request)
    }

    fn resources_of_kind(&self, group: &str, version: &str, kind: &str) -> Vec<(String, bool)> {
        let catalog = self.catalog.load();
        let gvk = Gvk::new(group, version, kind);
        catalog.iter().filter(|r| r.gvk == gvk).map(|r| (r.plural.to_string(), r.namespaced)).collect()
    }

    fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.catalog.load().find(group, version, plural).cloned()
    }

    fn versions_of(&self, resource: &Resource) -> Vec<Arc<Resource>> {
        self.catalog.load().versions_of(resource)
    }

    fn webhook_connections(&self) -> &Arc<Connections> {
        &self.webhooks
    }
}

impl Cluster for Arc<Api> {
    /// As a client of this server would write it, in the server's own name.
    fn update_status<'a>(&'a self, resource: &'a str, object: Value) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let (namespace, name) = (meta::text(&object, "namespace"), meta::text(&object, "name"));
            let path = format!("/api/v1/namespaces/{namespace}/{resource}/{name}/status");
            let written = Loopback::new(self).replace(&path, object).await;
            written
                .map(|_| ())
                .map_err(|status| if is_overtaken(&status) { WriteError::Stale(status) } else { WriteError::Refused(status) })
        })
    }

    fn create_namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            Loopback::new(self).ensure("/api/v1/namespaces", namespace).await.map(drop)
        })
    }
}
