//! How devices of dynamic resources are, as their drivers tell from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::messages;

/// What a driver told is believed for so long, unless it says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Devices of one driver whose health is kept.
const MAX_DEVICES: usize = 16_384;
/// Bytes of a message in a pod's status.
const MAX_MESSAGE: usize = 1024;

/// A pool and a device in it.
pub type Key = (String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    health: i32,
    message: String,
    timeout: Duration,
    at: Instant,
}

/// By driver and device.
#[derive(Clone, Debug, Default)]
pub struct Health {
    drivers: BTreeMap<String, BTreeMap<Key, Told>>,
}

fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

impl Health {
    /// Takes what a driver tells of all its devices; those whose health is another than before.
    pub fn update(&mut self, driver: &str, told: messages::Health, now: Instant) -> BTreeSet<Key> {
        let known = self.drivers.entry(driver.to_owned()).or_default();
        let (mut changed, mut reported) = (BTreeSet::new(), BTreeSet::new());
        for device in told.devices {
            let identifier = device.device.unwrap_or_default();
            let key = (identifier.pool_name, identifier.device_name);
            reported.insert(key.clone());
            let seconds = u64::try_from(device.health_check_timeout_seconds).ok().filter(|seconds| *seconds > 0);
            let timeout = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
            let new = Told { health: device.health, message: shortened(device.message), timeout, at: now };
            let old = known.get(&key);
            if old.is_none() && known.len() >= MAX_DEVICES {
                tracing::error!(driver, limit = MAX_DEVICES, "a driver tells of more devices than are kept");
                break;
            }
            if old.is_none_or(|old| (old.health, &old.message, old.timeout) != (new.health, &new.message, new.timeout)) {
                changed.insert(key.clone());
            }
            known.insert(key, new);
        }
        known.retain(|key, told| {
            let stays = reported.contains(key) || now.saturating_duration_since(told.at) <= told.timeout;
            if !stays && told.health != 0 {
                changed.insert(key.clone());
            }
            stays
        });
        changed
    }

    /// The driver does not tell any more.
    pub fn forget(&mut self, driver: &str) {
        self.drivers.remove(driver);
    }

    /// The API's word for a device's health, and the driver's message.
    pub fn of(&self, driver: &str, key: &Key, now: Instant) -> (&'static str, Option<String>) {
        let told = self.drivers.get(driver).and_then(|devices| devices.get(key));
        let told = told.filter(|told| now.saturating_duration_since(told.at) <= told.timeout);
        let word = match told.map(|told| told.health) {
            Some(1) => "Healthy",
            Some(2) => "Unhealthy",
            _ => "Unknown",
        };
        (word, told.map(|told| told.message.clone()).filter(|message| !message.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{DeviceHealth, DeviceIdentifier};
    use super::*;

    fn told(devices: &[(&str, i32, i64, &str)]) -> messages::Health {
        let devices = devices.iter().map(|(name, health, timeout, message)| DeviceHealth {
            device: Some(DeviceIdentifier { pool_name: "p".to_owned(), device_name: (*name).to_owned() }),
            health: *health,
            last_updated_time: 0,
            health_check_timeout_seconds: *timeout,
            message: (*message).to_owned(),
        });
        messages::Health { devices: devices.collect() }
    }

    #[test]
    fn what_was_told_is_believed_for_a_while() {
        let (start, key) = (Instant::now(), |name: &str| ("p".to_owned(), name.to_owned()));
        let mut health = Health::default();
        assert_eq!(health.update("d", told(&[("1", 1, 0, ""), ("2", 2, 100, "hot")]), start), [key("1"), key("2")].into());
        assert_eq!(health.of("d", &key("1"), start), ("Healthy", None));
        assert_eq!(health.of("d", &key("2"), start), ("Unhealthy", Some("hot".to_owned())));
        assert_eq!(health.of("d", &key("3"), start), ("Unknown", None));
        let later = start + Duration::from_secs(31);
        assert_eq!(health.of("d", &key("1"), later), ("Unknown", None));
        assert_eq!(health.of("d", &key("2"), later).0, "Unhealthy");
        // The first is not told of any more, the second is as it was.
        assert_eq!(health.update("d", told(&[("2", 2, 100, "hot")]), later), [key("1")].into());
        assert!(health.update("d", told(&[("2", 2, 100, "hot")]), later).is_empty());
        health.forget("d");
        assert_eq!(health.of("d", &key("2"), later).0, "Unknown");
    }

    #[test]
    fn long_messages_are_cut_short() {
        assert_eq!(shortened("a".repeat(1024)).len(), 1024);
        let cut = shortened("ä".repeat(600));
        assert!(cut.len() <= 1024 && cut.ends_with("ä..."), "{}", cut.len());
    }
}
