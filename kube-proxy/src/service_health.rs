//! The health check ports of Services: load balancers ask there whether this node has endpoints of a Service with the external
//! traffic policy `Local`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use client::events::{Recorder, Type};
use client::{ObjectKey, Reference, Shutdown};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::health::Health;
use crate::ruleset::ServicePort;

/// What a Service's port is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub port: u16,
    /// How many of this node's endpoints are ready.
    pub endpoints: usize,
}

/// Which ports must be served, and what they tell. An endpoint counts once, whatever number of ports it has.
pub fn wanted<'a>(ports: impl Iterator<Item = &'a ServicePort>) -> BTreeMap<ObjectKey, Wanted> {
    let mut found: BTreeMap<ObjectKey, (u16, HashSet<IpAddr>)> = BTreeMap::new();
    for port in ports {
        let Some(number) = port.frontend.health_check_node_port else { continue };
        let entry = found.entry(port.frontend.name.service.clone()).or_insert_with(|| (number, HashSet::new()));
        entry.1.extend(&port.backends.local_ready);
    }
    found.into_iter().map(|(service, (port, ips))| (service, Wanted { port, endpoints: ips.len() })).collect()
}

struct Serving {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    stop: Shutdown,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The ports that are served now.
pub struct ServiceHealth {
    node_name: String,
    health: Arc<Health>,
    recorder: Recorder,
    shutdown: Shutdown,
    serving: HashMap<ObjectKey, Serving>,
}

#[derive(Clone)]
struct Answering {
    service: ObjectKey,
    endpoints: Arc<AtomicUsize>,
    health: Arc<Health>,
}

impl ServiceHealth {
    pub fn new(node_name: &str, health: Arc<Health>, recorder: Recorder, shutdown: Shutdown) -> ServiceHealth {
        ServiceHealth { node_name: node_name.to_owned(), health, recorder, shutdown, serving: HashMap::new() }
    }

    /// Serves what is wanted, on these of the node's addresses, and nothing else. What cannot be served is told by an event.
    pub async fn sync(&mut self, wanted: &BTreeMap<ObjectKey, Wanted>, addresses: &[IpAddr]) {
        self.serving.retain(|service, serving| wanted.get(service).is_some_and(|wanted| wanted.port == serving.port));
        for (service, wanted) in wanted {
            if let Some(serving) = self.serving.get(service) {
                serving.endpoints.store(wanted.endpoints, Ordering::Relaxed);
                continue;
            }
            match self.start(service, wanted, addresses).await {
                Ok(serving) => {
                    self.serving.insert(service.clone(), serving);
                }
                Err(error) => self.complain(service, wanted.port, &error),
            }
        }
    }

    async fn start(&self, service: &ObjectKey, wanted: &Wanted, addresses: &[IpAddr]) -> std::io::Result<Serving> {
        let endpoints = Arc::new(AtomicUsize::new(wanted.endpoints));
        let stop = self.shutdown.child_token();
        let serving = Serving { port: wanted.port, endpoints: endpoints.clone(), stop: stop.clone() };
        let answering = Answering { service: service.clone(), endpoints, health: self.health.clone() };
        for address in addresses {
            let listener = crate::listen::listen(SocketAddr::new(*address, wanted.port))?;
            let router = Router::new().fallback(answer).with_state(answering.clone());
            let stopped = stop.clone().cancelled_owned();
            let service = service.clone();
            tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                    tracing::error!(%service, %error, "the health check port has ended");
                }
            });
        }
        Ok(serving)
    }

    fn complain(&self, service: &ObjectKey, port: u16, error: &std::io::Error) {
        let message = format!("node {} failed to start healthcheck {:?} on port {port}: {error}", self.node_name, service.to_string());
        tracing::error!(%service, port, %error, "cannot serve the health check port");
        let about = Reference(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            ..ObjectReference::default()
        });
        let mut event = client::events::Event::new(&about, Type::Warning, "FailedToStartServiceHealthcheck", message);
        event.action = "Listen".to_owned();
        self.recorder.tell(event);
    }
}

async fn answer(State(answering): State<Answering>) -> Response {
    let count = answering.endpoints.load(Ordering::Relaxed);
    let healthy = answering.health.is_healthy();
    let code = if count != 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::HeaderName::from_static("x-load-balancing-endpoint-weight"), HeaderValue::from(count)),
    ];
    let ObjectKey { namespace, name } = &answering.service;
    // Upstream's text, blanks and all.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    (code, headers, body).into_response()
}
