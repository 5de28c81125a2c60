//! Whether kube-proxy is well: it is, unless a change has waited too long to become rules. And the server that tells.
//!
//! `/healthz` is for load balancers and says no for a node that is about to go, too; `/livez` is for whoever restarts us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use client::Shutdown;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use crate::metrics::Metrics;
use netfilter::family::Family;

/// When the address cannot be listened on, it is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Default)]
struct OfFamily {
    updated: Option<Timestamp>,
    /// Since when a change waits.
    queued: Option<Instant>,
}

/// The health of all families' rules.
pub struct Health {
    families: Mutex<BTreeMap<Family, OfFamily>>,
    /// A change that waits longer means that something is wrong.
    timeout: Duration,
    eligible: Box<dyn Fn() -> bool + Send + Sync>,
    metrics: Arc<Metrics>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyStatus>,
}

/// Go's zero time, for what has never happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

impl Health {
    /// `eligible` says whether load balancers may send traffic to this node.
    pub fn new(timeout: Duration, metrics: Arc<Metrics>, eligible: impl Fn() -> bool + Send + Sync + 'static) -> Health {
        Health { families: Mutex::default(), timeout, eligible: Box::new(eligible), metrics }
    }

    /// The rules are as they should be.
    pub fn updated(&self, family: Family) {
        let mut families = self.families.lock();
        let of = families.entry(family).or_default();
        of.updated = Some(Timestamp::now());
        of.queued = None;
    }

    /// A change is about to become rules.
    pub fn queued(&self, family: Family) {
        self.families.lock().entry(family).or_default().queued.get_or_insert_with(Instant::now);
    }

    fn is_late(&self, of: &OfFamily) -> bool {
        of.updated.is_some() && of.queued.is_some_and(|since| since.elapsed() >= self.timeout)
    }

    pub fn is_healthy(&self) -> bool {
        !self.families.lock().values().any(|of| self.is_late(of))
    }

    fn status(&self, node_eligible: Option<bool>) -> Status {
        let families = self.families.lock();
        let now = Timestamp::now();
        let healthy = !families.values().any(|of| self.is_late(of));
        let status = families
            .iter()
            .filter(|(_, of)| of.updated.is_some())
            .map(|(family, of)| (family.name(), FamilyStatus { last_updated: text(of.updated), healthy: !self.is_late(of) }))
            .collect();
        // Once this was the time of the last look, and whoever reads it may still rely on its being recent.
        let last = if healthy && node_eligible.unwrap_or(true) { Some(now) } else { families.values().filter_map(|of| of.updated).max() };
        Status { last_updated: text(last), current_time: now.to_string(), node_eligible, healthy, status }
    }
}

fn answer(status: &Status, is_well: bool) -> Response {
    let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (code, headers, serde_json::to_string(status).unwrap_or_default()).into_response()
}

async fn healthz(State(health): State<Arc<Health>>) -> Response {
    let eligible = (health.eligible)();
    let status = health.status(Some(eligible));
    health.metrics.healthz(status.healthy && eligible);
    answer(&status, status.healthy && eligible)
}

async fn livez(State(health): State<Arc<Health>>) -> Response {
    let status = health.status(None);
    health.metrics.livez(status.healthy);
    answer(&status, status.healthy)
}

/// The paths of the health server.
pub fn router(health: Arc<Health>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(health)
}

/// Serves until shutdown. An address that cannot be listened on is tried again, or is an error if `hard_fail`.
pub async fn serve(name: &'static str, address: SocketAddr, router: Router, hard_fail: bool, shutdown: Shutdown) -> std::io::Result<()> {
    loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "serving {name}");
                let stopped = shutdown.clone().cancelled_owned();
                return axum::serve(listener, router).with_graceful_shutdown(stopped).await;
            }
            Err(error) if hard_fail => return Err(error),
            Err(error) => tracing::error!(%address, %error, "cannot serve {name}, trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let health = Health::new(Duration::from_millis(20), Arc::default(), || true);
        health.queued(Family::V4);
        std::thread::sleep(Duration::from_millis(30));
        assert!(health.is_healthy(), "before the first sync nothing is late");
        health.updated(Family::V4);
        health.queued(Family::V4);
        assert!(health.is_healthy());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!health.is_healthy());
        let status = serde_json::to_value(health.status(Some(true))).unwrap();
        assert_eq!(status["healthy"], false);
        assert_eq!(status["status"]["IPv4"]["healthy"], false);
        health.updated(Family::V4);
        assert!(health.is_healthy());
    }
}
