//! How much there is of what can be short, by a summary.

use std::collections::BTreeMap;

use super::threshold::{Signal, Threshold};
use crate::stats::Summary;

/// What is left of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    pub available: i64,
    pub capacity: i64,
}

pub type Observations = BTreeMap<Signal, Observation>;

fn observation(available: u64, capacity: u64) -> Observation {
    let of = |amount| i64::try_from(amount).unwrap_or(i64::MAX);
    Observation { available: of(available), capacity: of(capacity) }
}

/// What the summary shows of each signal.
pub fn of(summary: &Summary) -> Observations {
    let mut found = Observations::new();
    let node = &summary.node;
    let mut memory = |signal, memory: Option<&crate::stats::api::MemoryStats>| {
        if let Some((memory, available)) = memory.and_then(|memory| Some((memory, memory.available_bytes?))) {
            found.insert(signal, observation(available, available + memory.working_set_bytes));
        }
    };
    memory(Signal::MemoryAvailable, node.memory.as_ref());
    let pods = node.system_containers.iter().find(|container| container.name == "pods");
    memory(Signal::AllocatableMemoryAvailable, pods.and_then(|pods| pods.memory.as_ref()));
    if let Some(fs) = &node.fs {
        found.insert(Signal::NodeFsAvailable, observation(fs.available_bytes, fs.capacity_bytes));
        found.insert(Signal::NodeFsInodesFree, observation(fs.inodes_free, fs.inodes));
    }
    if let Some(fs) = node.runtime.as_ref().and_then(|runtime| runtime.image_fs.as_ref()) {
        found.insert(Signal::ImageFsAvailable, observation(fs.available_bytes, fs.capacity_bytes));
        found.insert(Signal::ImageFsInodesFree, observation(fs.inodes_free, fs.inodes));
    }
    // A file system that does not count inodes is never short of them.
    found.retain(|_, observation| observation.capacity > 0);
    if let Some(limit) = &node.rlimit {
        found.insert(Signal::PidAvailable, Observation { available: limit.maxpid - limit.curproc, capacity: limit.maxpid });
    }
    found
}

/// The thresholds below which the observations are. `with_reclaim` asks for what is to be had beyond them.
pub fn met(thresholds: &[Threshold], observations: &Observations, with_reclaim: bool) -> Vec<Threshold> {
    let is_met = |threshold: &&Threshold| {
        let Some(observed) = observations.get(&threshold.signal) else { return false };
        let more = threshold.min_reclaim.filter(|_| with_reclaim).map_or(0, |more| more.of(observed.capacity));
        observed.available < threshold.value.of(observed.capacity).saturating_add(more)
    };
    thresholds.iter().filter(is_met).copied().collect()
}
