//! From when on a resource is short: thresholds as they are configured.

use std::collections::BTreeMap;
use std::time::Duration;

use apimachinery::quantity::Quantity;

/// What is observed. The order is that in which resources are reclaimed: memory before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    AllocatableMemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

impl Signal {
    const NAMES: [(Signal, &'static str); 7] = [
        (Signal::MemoryAvailable, "memory.available"),
        (Signal::AllocatableMemoryAvailable, "allocatableMemory.available"),
        (Signal::NodeFsAvailable, "nodefs.available"),
        (Signal::NodeFsInodesFree, "nodefs.inodesFree"),
        (Signal::ImageFsAvailable, "imagefs.available"),
        (Signal::ImageFsInodesFree, "imagefs.inodesFree"),
        (Signal::PidAvailable, "pid.available"),
    ];

    fn parse(name: &str) -> Option<Signal> {
        Signal::NAMES.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal)
    }

    /// As configurations and metrics have it.
    pub fn name(self) -> &'static str {
        Signal::NAMES.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    /// What is short.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => "memory",
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => "ephemeral-storage",
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }
}

/// An amount, or a part of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Amount(i64),
    Part(f64),
}

impl Value {
    fn parse(text: &str) -> Result<Value, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let part: f64 = percent.parse().map_err(|_| format!("{text:?} is not a percentage"))?;
            return match (0.0..=100.0).contains(&part) {
                true => Ok(Value::Part(part / 100.0)),
                false => Err(format!("a percentage must be between 0% and 100%: {text}")),
            };
        }
        let amount = Quantity::parse(text).map_err(|error| error.to_string())?;
        match amount.sign() < 0 {
            true => Err(format!("a threshold must not be negative: {text}")),
            false => Ok(Value::Amount(amount.value())),
        }
    }

    /// The amount for a capacity.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Value::Amount(amount) => amount,
            Value::Part(part) => (capacity as f64 * part) as i64,
        }
    }
}

/// Below this value the resource is short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub value: Value,
    /// How long that has to last; zero for hard thresholds.
    pub grace: Duration,
    /// How much more is to be had again before all is well.
    pub min_reclaim: Option<Value>,
}

/// How eviction is configured.
#[derive(Clone, Debug)]
pub struct Config {
    pub thresholds: Vec<Threshold>,
    /// `evictionPressureTransitionPeriod`: how long the node is said to be under pressure after it was last seen to be.
    pub transition_period: Duration,
    /// `evictionMaxPodGracePeriod`, of soft thresholds.
    pub max_pod_grace_seconds: i64,
}

/// What a kubelet keeps free unless it is told otherwise.
const DEFAULT_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// The hard thresholds that hold for a configuration.
pub fn effective_hard(configured: &BTreeMap<String, String>, merge: bool) -> BTreeMap<String, String> {
    if configured.is_empty() || merge {
        let defaults = DEFAULT_HARD.map(|(signal, value)| (signal.to_owned(), value.to_owned()));
        return defaults.into_iter().chain(configured.clone()).collect();
    }
    configured.clone()
}

impl Config {
    /// From `evictionHard`, `evictionSoft`, `evictionSoftGracePeriod` (in Go's form) and `evictionMinimumReclaim`. No hard thresholds
    /// at all mean the default ones.
    pub fn parse(
        hard: &BTreeMap<String, String>,
        soft: &BTreeMap<String, String>,
        soft_grace: &BTreeMap<String, Duration>,
        min_reclaim: &BTreeMap<String, String>,
        transition_period: Duration,
        max_pod_grace_seconds: i64,
    ) -> Result<Config, String> {
        let mut thresholds = statements(&effective_hard(hard, false))?;
        // What is kept free for the system is kept free of what all pods together may use, too.
        let memory = thresholds.iter().find(|threshold| threshold.signal == Signal::MemoryAvailable).copied();
        thresholds.extend(memory.map(|threshold| Threshold { signal: Signal::AllocatableMemoryAvailable, ..threshold }));
        for mut threshold in statements(soft)? {
            let name = Signal::NAMES.iter().find(|(signal, _)| *signal == threshold.signal).map_or("", |(_, name)| name);
            let missing = || format!("grace period must be specified for the soft eviction threshold {name}");
            threshold.grace = soft_grace.get(name).copied().ok_or_else(missing)?;
            thresholds.push(threshold);
        }
        for (name, value) in min_reclaim.iter().filter(|(name, _)| !name.starts_with("containerfs.")) {
            let signal = Signal::parse(name).ok_or_else(|| format!("unsupported eviction signal {name}"))?;
            let value = Value::parse(value)?;
            thresholds.iter_mut().filter(|threshold| threshold.signal == signal).for_each(|threshold| threshold.min_reclaim = Some(value));
        }
        Ok(Config { thresholds, transition_period, max_pod_grace_seconds })
    }
}

fn statements(statements: &BTreeMap<String, String>) -> Result<Vec<Threshold>, String> {
    let mut thresholds = Vec::new();
    for (name, value) in statements {
        // Containers' own file systems are either the node's or the images'.
        if name.starts_with("containerfs.") || value == "0%" || value == "100%" {
            continue;
        }
        let signal = Signal::parse(name).ok_or_else(|| format!("unsupported eviction signal {name}"))?;
        thresholds.push(Threshold { signal, value: Value::parse(value)?, grace: Duration::ZERO, min_reclaim: None });
    }
    Ok(thresholds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn thresholds_are_amounts_or_parts() {
        let parse = |hard, soft, reclaim| Config::parse(&map(hard), &map(soft), &BTreeMap::new(), &map(reclaim), Duration::ZERO, 0);
        let config = parse(
            &[("memory.available", "1Ki"), ("nodefs.available", "10%"), ("imagefs.available", "0%")],
            &[],
            &[("memory.available", "5")],
        );
        let config = config.expect("it is valid");
        let of = |signal, value, min_reclaim| Threshold { signal, value, grace: Duration::ZERO, min_reclaim };
        assert_eq!(
            config.thresholds,
            [
                of(Signal::MemoryAvailable, Value::Amount(1024), Some(Value::Amount(5))),
                of(Signal::NodeFsAvailable, Value::Part(0.1), None),
                of(Signal::AllocatableMemoryAvailable, Value::Amount(1024), None),
            ]
        );
        assert_eq!(Value::Part(0.1).of(1000), 100);
        let merged = effective_hard(&map(&[("memory.available", "1Gi")]), true);
        assert_eq!((merged.len(), merged["memory.available"].as_str(), merged["nodefs.available"].as_str()), (5, "1Gi", "10%"));
        assert_eq!(effective_hard(&map(&[("memory.available", "1Gi")]), false).len(), 1);
        assert!(parse(&[("memory.available", "200%")], &[], &[]).is_err());
        assert!(parse(&[("tape.available", "1")], &[], &[]).is_err_and(|error| error == "unsupported eviction signal tape.available"));
        let no_grace = parse(&[], &[("memory.available", "1")], &[]);
        assert!(no_grace.is_err_and(|error| error == "grace period must be specified for the soft eviction threshold memory.available"));
        assert_eq!(parse(&[], &[], &[]).expect("it is valid").thresholds.len(), 6);
    }
}
