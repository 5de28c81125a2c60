//! API priority and fairness (KEP-1040): which FlowSchema a request belongs to, which priority level that names, and when a
//! request may run there.
//!
//! [`config`] makes of the stored objects what requests are matched with, [`classify`] matches; [`queue_set`] is fair queuing,
//! [`gate`] the lock and the waiting around it, [`held`] bounds how long a seat is kept, [`limits`] how many seats a level has. [`bootstrap`] has the objects that every
//! cluster starts with, [`ensure`] puts them there and [`follow`] keeps all of it in step with what is stored. [`report`] tells
//! the state to people and to metrics.

pub mod bootstrap;
pub mod classify;
pub mod config;
pub mod ensure;
pub mod follow;
pub mod gate;
pub mod held;
pub mod in_flight;
pub mod limits;
pub mod queue_set;
pub mod report;
pub mod retry_after;
pub mod shuffle_shard;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;

use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;
use config::{Config, Distinguisher};
use gate::{Gate, Refusal, Seat};
use in_flight::InFlight;
use limits::{Bounds, Wish};
use queue_set::Flow;

/// The API group of the configuration, and its version.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
pub const COLLECTIONS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
pub const SCHEMAS: &str = "flowschemas";
pub const LEVELS: &str = "prioritylevelconfigurations";

/// Upstream's defaults of `--max-requests-inflight` and `--max-mutating-requests-inflight`, together.
pub const SERVER_SEATS: u32 = 600;
/// How often levels lend each other seats anew, while there is demand.
pub const LENDING_PERIOD: Duration = Duration::from_secs(10);
/// A request waits no longer for a seat: a quarter of the time that it has altogether.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The most seats that one request takes, and the most of a level's.
const MOST_SEATS: u32 = 10;
const MOST_OF_LEVEL: f64 = 0.15;
/// So many objects of a list take a seat.
const OBJECTS_PER_SEAT: usize = 100;

/// The configuration in force, and who runs and waits under it.
pub struct FlowControl {
    seats: u32,
    active: ArcSwap<Active>,
    /// What there is instead, where fairness is turned off.
    pub in_flight: Option<InFlight>,
}

/// The right to run, given back when it is dropped.
pub enum Right {
    Seat(Seat),
    Place(OwnedSemaphorePermit),
}

/// A configuration with a gate for each level, in their order.
#[derive(Default)]
struct Active {
    config: Config,
    levels: Vec<ActiveLevel>,
}

#[derive(Clone)]
struct ActiveLevel {
    gate: Arc<Gate>,
    bounds: Bounds,
}

impl Default for FlowControl {
    fn default() -> FlowControl {
        FlowControl { seats: SERVER_SEATS, active: ArcSwap::default(), in_flight: None }
    }
}

/// A request's schema and level.
pub struct Classified {
    /// Their uids, as response headers tell them.
    pub schema_uid: HeaderValue,
    pub level_uid: HeaderValue,
    gate: Arc<Gate>,
    flow: Flow,
}

impl FlowControl {
    /// For a server that works at so many seats' worth of requests at a time.
    pub fn with_seats(seats: u32) -> FlowControl {
        FlowControl { seats, ..FlowControl::default() }
    }

    /// Without levels and queues.
    pub fn counting(in_flight: InFlight) -> FlowControl {
        FlowControl { in_flight: Some(in_flight), ..FlowControl::default() }
    }

    /// Puts a configuration in force. Levels that stay keep what runs and waits in them; of one that goes, it runs to its end.
    pub fn replace(&self, config: Config) {
        let before = self.active.load();
        let gates: HashMap<&str, &Arc<Gate>> = before.levels.iter().map(|l| (l.gate.name.as_str(), &l.gate)).collect();
        let bounds = limits::bounds(&config.levels, self.seats);
        let levels = config.levels.iter().zip(bounds).map(|(level, bounds)| {
            let known = gates.get(level.name.as_str()).map(|g| (*g).clone());
            let gate = known.unwrap_or_else(|| Arc::new(Gate::new(&level.name)));
            gate.configure((!level.exempt).then_some(bounds.nominal), level.queuing);
            ActiveLevel { gate, bounds }
        });
        let levels = levels.collect();
        self.active.store(Arc::new(Active { config, levels }));
        self.lend();
    }

    /// Lends seats between levels by the demand since the last time; says whether there was any.
    pub fn lend(&self) -> bool {
        let active = self.active.load();
        let mut exempt = 0;
        let mut demanded = false;
        let mut wishes = Vec::with_capacity(active.levels.len());
        for level in &active.levels {
            let closed = level.gate.close_period();
            demanded |= closed.is_some();
            let (high_watermark, smoothed) = closed.unwrap_or_default();
            match level.gate.look(|set, _| set.limit()) {
                None => exempt += high_watermark.round() as u32,
                Some(_) => wishes.push((level, Wish { bounds: level.bounds, high_watermark, smoothed })),
            }
        }
        let (levels, wishes): (Vec<_>, Vec<_>) = wishes.into_iter().unzip();
        for (level, seats) in levels.iter().zip(limits::divide(&wishes, exempt)) {
            level.gate.limit(seats);
        }
        demanded
    }

    /// The schema and the level of a request that wants so many `seats`. `None` only before the configuration has been read for
    /// the first time.
    pub fn classify(&self, user: &User, request: &RequestInfo, objects: impl FnOnce() -> usize) -> Option<Classified> {
        let active = self.active.load();
        let (schema, level) = active.config.find(user, request)?;
        let at = active.config.levels.iter().position(|l| std::ptr::eq(l, level))?;
        let ActiveLevel { gate, bounds } = active.levels.get(at)?;
        let distinguisher = match schema.distinguisher {
            _ if level.queuing.is_none() => "",
            None => "",
            Some(Distinguisher::ByUser) => &user.name,
            Some(Distinguisher::ByNamespace) => &request.namespace,
        };
        let seats = if level.exempt { 1 } else { seats(request, bounds, objects) };
        let hash = if level.queuing.is_some() { shuffle_shard::hash(&schema.name, distinguisher) } else { 0 };
        Some(Classified {
            schema_uid: schema.uid.clone(),
            level_uid: level.uid.clone(),
            gate: gate.clone(),
            flow: Flow { schema: schema.name.clone(), distinguisher: distinguisher.into(), hash, seats },
        })
    }
}

impl Classified {
    /// Waits for the right to run; it is held until it is dropped.
    pub async fn enter(self) -> Result<Seat, Refusal> {
        self.gate.enter(self.flow, LONGEST_WAIT).await
    }
}

/// How many seats a request takes: lists take more the more they look at.
fn seats(request: &RequestInfo, bounds: &Bounds, objects: impl FnOnce() -> usize) -> u32 {
    let single = !matches!(request.verb.as_str(), "list" | "watch") || !request.name.is_empty();
    if single {
        return 1;
    }
    let most = ((f64::from(bounds.nominal) * MOST_OF_LEVEL).ceil() as u32).clamp(1, MOST_SEATS);
    u32::try_from(objects().div_ceil(OBJECTS_PER_SEAT)).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::Value;

    use super::*;

    #[test]
    fn lists_take_seats_by_what_they_look_at() {
        let bounds = Bounds { nominal: 49, lower: 24, upper: 600 };
        let of = |path: &str, objects| seats(&RequestInfo::parse(&Method::GET, path, ""), &bounds, || objects);
        assert_eq!(of("/api/v1/pods/a", 5_000), 1);
        assert_eq!(of("/api/v1/pods", 0), 1);
        assert_eq!(of("/api/v1/pods", 350), 4);
        assert_eq!(of("/api/v1/pods", 1_000_000), 8);
    }

    #[tokio::test]
    async fn levels_keep_their_requests_when_the_configuration_changes() {
        let control = FlowControl::default();
        let load = || {
            let (levels, schemas): (Vec<Value>, Vec<Value>) = (bootstrap::levels().collect(), bootstrap::schemas().collect());
            control.replace(Config::digest(&schemas, &levels).0);
        };
        load();
        let user = User { name: "a".into(), groups: vec!["system:authenticated".into()], ..User::default() };
        let request = RequestInfo::parse(&Method::GET, "/api/v1/pods", "");
        let seat = control.classify(&user, &request, || 0).unwrap().enter().await.ok().unwrap();
        load();
        let running = || control.active.load().levels.iter().map(|l| l.gate.look(|set, _| set.executing)).sum::<usize>();
        assert_eq!(running(), 1);
        drop(seat);
        assert_eq!(running(), 0);
    }
}
