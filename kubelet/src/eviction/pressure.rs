//! Under which pressure the node is, over time. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::observation::{self, Observations};
use super::threshold::{Config, Signal, Threshold};
use crate::container_config::qos;
use crate::pod::is_critical;

/// Which kinds of pressure the node is under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

impl Pressure {
    fn conditions(self) -> Vec<&'static str> {
        [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.pid, "PIDPressure")]
            .into_iter()
            .filter_map(|(under, name)| under.then_some(name))
            .collect()
    }

    /// Whether a pod may start now; the error is the message of its status.
    pub fn admit(self, pod: &Pod) -> Result<(), String> {
        if self == Pressure::default() || is_critical(pod) {
            return Ok(());
        }
        let only_memory = self == Pressure { memory: true, ..Pressure::default() };
        if only_memory && (qos::class(pod) != qos::Class::BestEffort || tolerates_memory_pressure(pod)) {
            return Ok(());
        }
        Err(format!("The node had condition: [{}]. ", self.conditions().join(" ")))
    }
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let tolerates = |toleration: &Toleration| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (key, operator, effect) = (text(&toleration.key), text(&toleration.operator), text(&toleration.effect));
        let fits_key = key == "node.kubernetes.io/memory-pressure" || (key.is_empty() && operator == "Exists");
        let fits_value = operator == "Exists" || text(&toleration.value).is_empty();
        fits_key && fits_value && (effect.is_empty() || effect == "NoSchedule")
    };
    tolerations.into_iter().flatten().any(tolerates)
}

/// What was seen before.
#[derive(Default)]
pub struct Seen {
    /// Since when thresholds are met, in the order of the configuration's.
    since: Vec<(Threshold, Instant)>,
    met: Vec<Threshold>,
    /// When the node was last under each kind of pressure.
    last: BTreeMap<&'static str, Instant>,
}

impl Seen {
    /// Takes in what is observed now: the pressure that the node is under, and the thresholds that are met for long enough, most urgent first.
    pub fn update(&mut self, config: &Config, observations: &Observations, now: Instant) -> (Pressure, Vec<Threshold>) {
        let mut met = observation::met(&config.thresholds, observations, false);
        // What was met before is met until enough was reclaimed.
        let unresolved = observation::met(&self.met, observations, true);
        met.extend(unresolved.into_iter().filter(|threshold| !met.contains(threshold)).collect::<Vec<_>>());
        let began = |threshold: &Threshold| self.since.iter().find(|(known, _)| known == threshold).map_or(now, |(_, at)| *at);
        self.since = met.iter().map(|threshold| (*threshold, began(threshold))).collect();
        for threshold in &met {
            self.last.insert(condition(threshold.signal), now);
        }
        let period = config.transition_period.max(Duration::from_nanos(1));
        let under = |condition: &str| self.last.get(condition).is_some_and(|at| now.duration_since(*at) < period);
        let pressure = Pressure { memory: under("MemoryPressure"), disk: under("DiskPressure"), pid: under("PIDPressure") };
        let long_enough = self.since.iter().filter(|(threshold, at)| now.duration_since(*at) >= threshold.grace);
        self.met = long_enough.map(|(threshold, _)| *threshold).collect();
        let mut urgent = self.met.clone();
        urgent.sort_by_key(|threshold| threshold.signal);
        (pressure, urgent)
    }
}

fn condition(signal: Signal) -> &'static str {
    match signal {
        Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => "MemoryPressure",
        Signal::PidAvailable => "PIDPressure",
        _ => "DiskPressure",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eviction::observation::Observation;
    use crate::eviction::threshold::Value;

    fn seen(available: i64) -> Observations {
        Observations::from([(Signal::MemoryAvailable, Observation { available, capacity: 1000 })])
    }

    fn config(grace: Duration, min_reclaim: Option<Value>) -> Config {
        let threshold = Threshold { signal: Signal::MemoryAvailable, value: Value::Amount(100), grace, min_reclaim };
        Config { thresholds: vec![threshold], transition_period: Duration::from_secs(300), max_pod_grace_seconds: 0 }
    }

    #[test]
    fn pressure_lasts_for_the_transition_period() {
        let (config, start, mut state) = (config(Duration::ZERO, None), Instant::now(), Seen::default());
        let mut at = |seconds, available| state.update(&config, &seen(available), start + Duration::from_secs(seconds));
        assert_eq!(at(0, 100), (Pressure::default(), vec![]));
        assert_eq!(at(10, 99), (Pressure { memory: true, ..Pressure::default() }, config.thresholds.clone()));
        assert_eq!(at(309, 500), (Pressure { memory: true, ..Pressure::default() }, vec![]));
        assert_eq!(at(310, 500), (Pressure::default(), vec![]));
    }

    #[test]
    fn soft_thresholds_have_to_last_and_reclaiming_goes_beyond_them() {
        let (config, start, mut state) = (config(Duration::from_secs(30), Some(Value::Amount(50))), Instant::now(), Seen::default());
        let mut at = |seconds, available| state.update(&config, &seen(available), start + Duration::from_secs(seconds)).1.len();
        assert_eq!(at(0, 90), 0);
        assert_eq!(at(29, 90), 0);
        assert_eq!(at(30, 90), 1);
        assert_eq!(at(40, 120), 1);
        assert_eq!(at(50, 150), 0);
        assert_eq!(at(60, 120), 0);
    }

    #[test]
    fn under_pressure_only_some_are_let_in() {
        let pod = |spec: serde_json::Value| serde_json::from_value::<Pod>(json!({ "spec": spec })).expect("it is a pod");
        let best_effort = pod(json!({"containers": [{"name": "a"}]}));
        let burstable = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        let tolerating = pod(
            json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}], "containers": [{"name": "a"}]}),
        );
        let critical = pod(json!({"priority": 2_000_000_000, "containers": [{"name": "a"}]}));
        let memory = Pressure { memory: true, ..Pressure::default() };
        let both = Pressure { disk: true, ..memory };
        assert_eq!(memory.admit(&best_effort), Err("The node had condition: [MemoryPressure]. ".to_owned()));
        for pod in [&burstable, &tolerating, &critical] {
            assert_eq!(memory.admit(pod), Ok(()));
        }
        assert_eq!(both.admit(&burstable), Err("The node had condition: [MemoryPressure DiskPressure]. ".to_owned()));
        assert_eq!(both.admit(&critical), Ok(()));
        assert_eq!(Pressure::default().admit(&best_effort), Ok(()));
    }
}
