//! What drivers say of the use of their volumes, asked for once a minute.
//!
//! Upstream: pkg/volume/csi/csi_metrics.go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::super::{Shared, Volumes};
use super::messages::{BYTES, GET_VOLUME_STATS, INODES, Stats, Usages};

/// How old numbers may become (`--volume-stats-agg-period`).
const EVERY: Duration = Duration::from_secs(60);

/// A volume and where its driver has put it for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub driver: String,
    pub handle: String,
    pub path: PathBuf,
    /// Where it is staged, if the driver does that.
    pub staging: Option<PathBuf>,
}

/// What a volume has and what of it is used: bytes, and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub time: Timestamp,
    pub available: u64,
    pub capacity: u64,
    pub used: u64,
    pub inodes_free: u64,
    pub inodes: u64,
    pub inodes_used: u64,
}

/// An answer in our words. The error is upstream's.
fn usage(answer: &Usages, time: Timestamp) -> Result<Usage, String> {
    if answer.usage.is_empty() {
        return Err("failed to get usage from response. usage is nil".to_owned());
    }
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut usage = Usage { time, available: 0, capacity: 0, used: 0, inodes_free: 0, inodes: 0, inodes_used: 0 };
    for told in &answer.usage {
        match told.unit {
            BYTES => (usage.available, usage.capacity, usage.used) = (number(told.available), number(told.total), number(told.used)),
            INODES => {
                (usage.inodes_free, usage.inodes, usage.inodes_used) = (number(told.available), number(told.total), number(told.used));
            }
            unit => tracing::warn!(unit, "unknown unit in VolumeUsage"),
        }
    }
    Ok(usage)
}

impl Volumes {
    /// Asks drivers until shutdown.
    pub(in crate::volumes) async fn measure(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.shared.measure_all().await,
                () = self.shared.config.shutdown.cancelled() => return,
            }
        }
    }

    /// What was last heard of a pod's volumes, by their names in the pod.
    pub fn measured(&self, pod_uid: &str) -> Vec<(String, Usage)> {
        let known = self.shared.csi_usage.lock();
        known.iter().filter(|((uid, _), _)| uid == pod_uid).map(|((_, name), usage)| (name.clone(), *usage)).collect()
    }
}

impl Shared {
    /// Asks about all volumes; numbers of those that are gone are forgotten.
    pub(in crate::volumes) async fn measure_all(&self) {
        let (mut places, mut busy) = (Vec::new(), BTreeSet::new());
        let pods: Vec<_> = self.pods.lock().iter().map(|(uid, entry)| (uid.clone(), entry.clone())).collect();
        for (uid, entry) in pods {
            // A pod that is being mounted keeps its old numbers until the next time.
            let Ok(state) = entry.state.try_lock() else {
                busy.insert(uid);
                continue;
            };
            for (name, mounted) in &state.mounted {
                places.extend(mounted.place.clone().map(|place| ((uid.clone(), name.clone()), place)));
            }
        }
        self.csi_usage.lock().retain(|key, _| busy.contains(&key.0) || places.iter().any(|(known, _)| known == key));
        for (key, place) in places {
            match self.measure_one(&place).await {
                Ok(Some(usage)) => drop(self.csi_usage.lock().insert(key, usage)),
                Ok(None) => {}
                Err(error) => tracing::debug!(pod = key.0, volume = key.1, error, "cannot learn what a volume takes"),
            }
        }
    }

    /// None if the driver does not tell.
    async fn measure_one(&self, place: &Place) -> Result<Option<Usage>, String> {
        let driver = self.csi.driver(&place.driver)?;
        if !driver.capabilities.contains(&GET_VOLUME_STATS) {
            return Ok(None);
        }
        let request = Stats { volume_id: place.handle.clone(), volume_path: place.path.display().to_string(), ..Stats::default() };
        let answer = driver.socket.stats(request).await?;
        usage(&answer, Timestamp::now()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn bytes_and_inodes_are_told_apart() {
        let told = |available, total, used, unit| messages::Usage { available, total, used, unit };
        let at = Timestamp::UNIX_EPOCH;
        let answer = Usages { usage: vec![told(1, 3, 2, BYTES), told(10, 30, 20, INODES), told(9, 9, 9, 5)] };
        let expect = Usage { time: at, available: 1, capacity: 3, used: 2, inodes_free: 10, inodes: 30, inodes_used: 20 };
        assert_eq!(usage(&answer, at), Ok(expect));
        assert!(usage(&Usages::default(), at).is_err());
        let device = Usages { usage: vec![told(0, 5, 0, BYTES)] };
        assert_eq!(usage(&device, at).map(|usage| (usage.capacity, usage.inodes)), Ok((5, 0)));
    }
}
