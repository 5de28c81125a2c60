//! What claims have of devices: those that are theirs alone, and those that are shared.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::resource::v1::AllocationResult;

use super::slice::{Amounts, device_id, quantity};

/// Devices that are given.
#[derive(Clone, Debug, Default)]
pub struct Allocated {
    whole: HashSet<String>,
    /// What all shares of a device take together.
    shared: HashMap<String, Amounts>,
}

impl Allocated {
    /// Notes what a claim has. With admin access it has nothing of its own.
    pub fn add(&mut self, allocation: &AllocationResult) {
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        for result in results.filter(|result| result.admin_access != Some(true)) {
            let id = device_id(&result.driver, &result.pool, &result.device);
            if result.share_id.is_none() {
                self.whole.insert(id);
                continue;
            }
            let shares = self.shared.entry(id).or_default();
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                let sum = shares.entry(name.clone()).or_default();
                *sum = sum.plus(&quantity(amount));
            }
        }
    }

    /// Whether a claim has the device for itself.
    pub fn has(&self, id: &str) -> bool {
        self.whole.contains(id)
    }

    pub fn is_shared(&self, id: &str) -> bool {
        self.shared.contains_key(id)
    }

    /// What is taken of a shared device.
    pub fn capacity(&self, id: &str) -> Option<&Amounts> {
        self.shared.get(id)
    }
}
