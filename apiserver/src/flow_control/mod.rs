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
pub mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;

use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;
use config::{Config, Distinguisher, Queuing};
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
/// The most of a level's seats that one request takes.
const MOST_OF_LEVEL: f64 = 0.15;

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

    /// The schema and the level of a request; `work` says how many of the seats that the level allows it takes. `None` only before the configuration has been read for
    /// the first time.
    pub fn classify(&self, user: &User, request: &RequestInfo, work: impl FnOnce(u32) -> u32) -> Option<Classified> {
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
        let seats = if level.exempt { 1 } else { work(most_seats(bounds.nominal, level.queuing)) };
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

/// The most seats that one request takes at a level: others must have room beside it, also where it is dealt several queues.
fn most_seats(nominal: u32, queuing: Option<Queuing>) -> u32 {
    let share = (f64::from(nominal) * MOST_OF_LEVEL).ceil() as u32;
    let hand = queuing.and_then(|queuing| u32::try_from(queuing.hand_size).ok()).filter(|hand| *hand > 0);
    share.min(hand.map_or(u32::MAX, |hand| nominal / hand)).clamp(1, work::MOST_SEATS)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::Value;

    use super::*;

    #[test]
    fn one_request_leaves_room_for_others() {
        let hand = |hand_size| Some(Queuing { queues: 64, hand_size, queue_length_limit: 50 });
        assert_eq!(most_seats(245, hand(6)), 37);
        assert_eq!(most_seats(20, hand(8)), 2);
        assert_eq!(most_seats(1, None), 1);
        assert_eq!(most_seats(10_000, None), 100);
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
        let seat = control.classify(&user, &request, |_| 1).unwrap().enter().await.ok().unwrap();
        load();
        let running = || control.active.load().levels.iter().map(|l| l.gate.look(|set, _| set.executing)).sum::<usize>();
        assert_eq!(running(), 1);
        drop(seat);
        assert_eq!(running(), 0);
    }
}
