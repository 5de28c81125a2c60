//! The loop of one family: takes what has changed, works out the rules, and has them written.
//!
//! A change is written at once if nothing was written just before. Then changes gather for as long as the last sync took, so
//! that a storm of them costs half of the time at most; a minimum period that was asked for is kept.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Shutdown};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::changes::{BY_SERVICE, Changes, Dirty};
use crate::config::Config;
use crate::conntrack;
use crate::health::Health;
use crate::iptables::LARGE_CLUSTER_ENDPOINTS;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::node::{Node, NodePortAddresses};
use crate::ruleset::{self, Difference, Ruleset};
use crate::service_health::{self, ServiceHealth};
use crate::settings::{Settings, host_addresses};
use crate::sysctl;
use netfilter::family::{Cidr, Family};

/// Everything is written anew after this long, in case that something was lost.
const EVERYTHING_PERIOD: Duration = Duration::from_secs(3600);

/// Changes gather for so long at least after a sync, and at most, however long that took.
const GATHER_MIN: Duration = Duration::from_millis(2);
const GATHER_MAX: Duration = Duration::from_secs(1);

/// A sync that failed is tried again after this long, doubled each time, up to the sync period.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// What the loop of a family is given.
pub struct Proxier {
    pub family: Family,
    pub config: Arc<Config>,
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    pub node: watch::Receiver<Node>,
    pub service_cidrs: watch::Receiver<Vec<Cidr>>,
    pub changes: Arc<Changes>,
    pub mode: Mode,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub service_health: ServiceHealth,
    /// Whether 127.0.0.1 may be given to others' packets, which node ports there need.
    pub localhost_node_ports: bool,
}

struct State {
    ruleset: Ruleset,
    node: Node,
    needs_everything: bool,
    last_everything: Option<Instant>,
    failures: u32,
}

impl Proxier {
    /// Works until shutdown. The rules stay.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.health.updated(self.family);
        self.metrics.of(self.family).last_queued.set_now();
        let synced = async { tokio::join!(self.services.synced(), self.slices.synced()) };
        tokio::select! {
            _ = synced => {}
            () = shutdown.cancelled() => return,
        }
        let node = self.node.borrow_and_update().clone();
        let mut state = State { ruleset: Ruleset::default(), node, needs_everything: true, last_everything: None, failures: 0 };
        let mut ticks = tokio::time::interval(self.config.sync_period());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            let pause = self.sync(&mut state).await;
            // Whatever comes, it is not before the pause is over.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            if state.failures > 0 {
                continue;
            }
            tokio::select! {
                () = self.changes.wait() => self.queued(),
                _ = ticks.tick() => {
                    if !self.mode.look_after(&self.metrics, self.family).await {
                        tracing::warn!(family = %self.family, "rules are gone, writing all anew");
                        state.needs_everything = true;
                    }
                    let is_due = state.last_everything.is_none_or(|last| last.elapsed() > EVERYTHING_PERIOD);
                    state.needs_everything |= is_due && self.mode.is_refreshed() && state.ruleset.endpoints() <= LARGE_CLUSTER_ENDPOINTS;
                }
                Ok(()) = self.node.changed() => self.take_node(&mut state),
                Ok(()) = self.service_cidrs.changed() => state.needs_everything = true,
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn queued(&self) {
        self.health.queued(self.family);
        self.metrics.of(self.family).last_queued.set_now();
    }

    /// Another zone or other addresses may change what every Service becomes.
    fn take_node(&mut self, state: &mut State) {
        state.node = self.node.borrow_and_update().clone();
        state.ruleset = ruleset::ruleset(&self.services.list(), &self.slices.list(), &state.node, self.family);
        state.needs_everything = true;
    }

    fn settings(&self, state: &State) -> Settings {
        let mut settings = Settings::new(&self.config, &state.node, self.family);
        settings.localhost_node_ports &= self.localhost_node_ports;
        settings.conntrack_is_liberal = sysctl::get("net/netfilter/nf_conntrack_tcp_be_liberal").is_ok_and(|value| value != 0);
        settings.is_large = state.ruleset.endpoints() > LARGE_CLUSTER_ENDPOINTS;
        settings.service_cidrs = self.service_cidrs.borrow().iter().filter(|cidr| cidr.family() == self.family).copied().collect();
        if settings.node_port_addresses != NodePortAddresses::All {
            settings.addresses = host_addresses(self.family);
        }
        settings
    }

    /// Works out how the Services that have changed differ.
    fn differences(&self, dirty: &Dirty, state: &mut State) -> Vec<Difference> {
        let mut differences = Vec::new();
        for key in dirty.keys() {
            let ports = self.services.get_key(key).map_or_else(Vec::new, |service| {
                let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
                ruleset::service_ports(&service, &slices, &state.node, self.family)
            });
            differences.extend(state.ruleset.set(key, ports));
        }
        differences
    }

    /// One sync, and how long to wait before the next.
    async fn sync(&mut self, state: &mut State) -> Duration {
        let start = Instant::now();
        let dirty = self.changes.take();
        let differences = self.differences(&dirty, state);
        if differences.is_empty() && !state.needs_everything {
            self.health.updated(self.family);
            return self.pause(start.elapsed());
        }
        let settings = self.settings(state);
        let everything = state.needs_everything;
        let result = if everything {
            self.mode.write_everything(&state.ruleset, &settings, &self.metrics).await
        } else {
            self.mode.write_changes(&differences, &settings, &self.metrics).await
        };
        let took = start.elapsed();
        let metrics = self.metrics.of(self.family);
        metrics.sync.observe(took);
        if everything { &metrics.full_sync } else { &metrics.partial_sync }.observe(took);
        if let Err(error) = result {
            // A failed change is mostly somebody's else doing, and writing everything mends it.
            let pause = if everything {
                RETRY_MIN.saturating_mul(1 << state.failures.min(16)).min(self.config.sync_period())
            } else {
                Duration::ZERO
            };
            tracing::error!(family = %self.family, %error, everything, retry_after = ?pause, "cannot write rules");
            state.needs_everything = true;
            state.failures += 1;
            return pause;
        }
        tracing::debug!(family = %self.family, everything, services = dirty.len(), changed = differences.len(), ?took, "rules are written");
        state.failures = 0;
        state.needs_everything = false;
        if everything {
            state.last_everything = Some(start);
        }
        self.tell(state, &dirty);
        self.serve_health_checks(state, &settings).await;
        if everything || conntrack::concerns(&differences) {
            self.forget_flows(state).await;
        }
        self.pause(start.elapsed())
    }

    fn pause(&self, took: Duration) -> Duration {
        let asked_for = self.config.min_sync_period().map(|period| period.saturating_sub(took));
        asked_for.unwrap_or(took.clamp(GATHER_MIN, GATHER_MAX))
    }

    /// Tells metrics and health of a sync that has succeeded.
    fn tell(&self, state: &State, dirty: &Dirty) {
        let metrics = self.metrics.of(self.family);
        let now = Timestamp::now();
        for time in dirty.values().flatten() {
            metrics.network_programming.observe(Duration::try_from(now.duration_since(*time)).unwrap_or_default());
        }
        let (mut internal, mut external) = (0, 0);
        for port in state.ruleset.ports().filter(|port| port.backends.any) {
            internal += u32::from(!port.has_internal_endpoints());
            external += u32::from(!port.has_external_endpoints());
        }
        metrics.no_local_internal.set(f64::from(internal));
        metrics.no_local_external.set(f64::from(external));
        metrics.last_sync.set_now();
        self.health.updated(self.family);
    }

    async fn serve_health_checks(&mut self, state: &State, settings: &Settings) {
        let wanted = service_health::wanted(state.ruleset.ports());
        let addresses = match &settings.node_port_addresses {
            NodePortAddresses::All => vec![self.family.everything().network],
            some => some.matching(&settings.addresses),
        };
        self.service_health.sync(&wanted, &addresses).await;
    }

    async fn forget_flows(&self, state: &State) {
        let start = Instant::now();
        let allowed = conntrack::allowed(state.ruleset.ports());
        if allowed.is_empty() {
            return;
        }
        let family = self.family;
        let metrics = self.metrics.of(family);
        match tokio::task::spawn_blocking(move || conntrack::clean_up(family, &allowed)).await {
            Ok(Ok(deleted)) => metrics.conntrack_deleted.add(deleted),
            Ok(Err(error)) => tracing::error!(%family, %error, "cannot forget flows to endpoints that are gone"),
            Err(error) => tracing::error!(%family, %error, "forgetting flows has ended early"),
        }
        metrics.conntrack_sync.observe(start.elapsed());
    }
}

/// Wakes those who wait for a Node object's facts, if they have changed.
pub fn publish<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|old| {
        let changed = *old != value;
        *old = value;
        changed
    });
}
