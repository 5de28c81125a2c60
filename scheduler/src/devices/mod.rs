//! Dynamic resources: devices of drivers, claims for them, and who has which (resource.k8s.io/v1).
//!
//! [`allocator`] finds devices for claims, from [`pool`]s of [`slice`]s; [`result`] is what is written of it into a claim's status. The
//! plugin `DynamicResources` asks for that; [`reservation`] writes it. [`extended`] is how resources of containers come from devices.
//!
//! Never here: what is off by default in v1.37 (compatibility groups, derived attributes, attributes that are lists in constraints,
//! claims of pod groups, resources of nodes that devices stand for).

pub mod allocated;
pub mod allocator;
pub mod capacity;
pub mod claims;
pub mod constraint;
pub mod extended;
pub mod pool;
pub mod request;
pub mod reservation;
pub mod result;
pub mod selector;
pub mod slice;

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::store::Store;
use client::{Object, ObjectKey};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use crate::search::Dice;
use crate::snapshot::pod::Uid;
use allocated::Allocated;
use extended::Classes;
use selector::Selectors;
use slice::SliceInfo;

/// `namespace/name`.
pub fn full_name<K: Object>(object: &K) -> String {
    format!("{}/{}", object.namespace(), object.name())
}

/// Slices by name, by node and by pool.
#[derive(Default)]
pub struct Slices {
    all: BTreeMap<String, Arc<SliceInfo>>,
    by_node: HashMap<String, BTreeSet<String>>,
    /// Those that do not name one node.
    anywhere: BTreeSet<String>,
    by_pool: HashMap<(String, String), BTreeSet<String>>,
}

impl Slices {
    pub fn set(&mut self, slice: &Arc<ResourceSlice>, rules: &[Arc<DeviceTaintRule>]) {
        self.remove(slice.name());
        let info = Arc::new(SliceInfo::new(slice, rules));
        let name = slice.name().to_owned();
        match info.node_name() {
            Some(node) => self.by_node.entry(node.to_owned()).or_default().insert(name.clone()),
            None => self.anywhere.insert(name.clone()),
        };
        let pool = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
        self.by_pool.entry(pool).or_default().insert(name.clone());
        self.all.insert(name, info);
    }

    pub fn remove(&mut self, name: &str) {
        let Some(info) = self.all.remove(name) else { return };
        self.anywhere.remove(name);
        if let Some(node) = info.node_name()
            && let Some(names) = self.by_node.get_mut(node)
        {
            names.remove(name);
            if names.is_empty() {
                self.by_node.remove(node);
            }
        }
        let pool = (info.slice.spec.driver.clone(), info.slice.spec.pool.name.clone());
        if let Some(names) = self.by_pool.get_mut(&pool) {
            names.remove(name);
            if names.is_empty() {
                self.by_pool.remove(&pool);
            }
        }
    }

    /// Slices that may have devices for a node.
    pub fn for_node(&self, node: &str) -> impl Iterator<Item = &Arc<SliceInfo>> {
        self.by_node.get(node).into_iter().flatten().chain(&self.anywhere).filter_map(|name| self.all.get(name))
    }

    pub fn of_pool(&self, driver: &str, pool: &str) -> impl Iterator<Item = &Arc<SliceInfo>> {
        let names = self.by_pool.get(&(driver.to_owned(), pool.to_owned()));
        names.into_iter().flatten().filter_map(|name| self.all.get(name))
    }
}

/// An allocation that is decided and not yet written.
#[derive(Clone, Debug)]
struct Pending {
    /// The pod that it was made for.
    pod: Uid,
    claim: ObjectKey,
    allocation: AllocationResult,
}

/// What is known of devices and claims.
pub struct Devices {
    pub claims: Store<ResourceClaim>,
    pub classes: Store<DeviceClass>,
    pub rules: Store<DeviceTaintRule>,
    pub slices: Slices,
    pub extended: Classes,
    /// Changes with everything that devices, or who has them, depend on.
    pub epoch: u64,
    /// By the claim's uid; by the pod's for a claim that is to be made.
    pending: BTreeMap<String, Pending>,
    /// Compiled when first used.
    pub(crate) selectors: Mutex<Selectors>,
    /// From which the names of shares come.
    pub dice: Dice,
    /// The time of day.
    pub clock: Timestamp,
}

impl Default for Devices {
    fn default() -> Devices {
        Devices {
            claims: Store::default(),
            classes: Store::default(),
            rules: Store::default(),
            slices: Slices::default(),
            extended: Classes::default(),
            epoch: 0,
            pending: BTreeMap::new(),
            selectors: Mutex::default(),
            dice: Dice::new(0),
            clock: Timestamp::UNIX_EPOCH,
        }
    }
}

fn revision(claim: &ResourceClaim) -> Option<u64> {
    claim.metadata.resource_version.as_deref()?.parse().ok()
}

impl Devices {
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    pub fn class(&self, name: &str) -> Option<&DeviceClass> {
        self.classes.get(&ObjectKey::new("", name)).map(|class| &**class)
    }

    /// Takes in what a claim is now; false if something newer is known. What was written here is known before it is seen.
    pub fn claim_is(&mut self, claim: Arc<ResourceClaim>) -> bool {
        let known = self.claims.get(&claim.key());
        let is_older = known.is_some_and(|known| known.uid() == claim.uid() && revision(&claim) < revision(known));
        if is_older {
            return false;
        }
        self.epoch += 1;
        // What was made for a pod's extended resources has its devices by itself now.
        if extended::is_made(&claim)
            && claims::allocation(&claim).is_some()
            && let Some(owner) = claim.controller()
        {
            self.pending.remove(&owner.uid);
        }
        self.claims.insert(claim);
        true
    }

    pub fn claim_gone(&mut self, key: &ObjectKey) {
        self.epoch += 1;
        self.claims.remove(key);
    }

    pub fn slice_gone(&mut self, name: &str) {
        self.epoch += 1;
        self.slices.remove(name);
    }

    /// Classes have changed.
    pub fn classes_changed(&mut self) {
        self.epoch += 1;
        self.extended.set(self.classes.iter());
    }

    /// Puts all slices together again: rules have changed.
    pub fn rules_changed(&mut self) {
        let slices: Vec<Arc<ResourceSlice>> = self.slices.all.values().map(|info| info.slice.clone()).collect();
        slices.iter().for_each(|slice| self.set_slice(slice));
    }

    pub fn set_slice(&mut self, slice: &Arc<ResourceSlice>) {
        self.epoch += 1;
        let rules: Vec<Arc<DeviceTaintRule>> = self.rules.iter().cloned().collect();
        self.slices.set(slice, &rules);
    }

    /// Whether an allocation of the claim is on its way.
    pub fn is_pending(&self, claim: &ResourceClaim) -> bool {
        self.pending.contains_key(claim.uid())
    }

    /// What a claim will have as soon as that is written.
    pub fn promise(&mut self, pod: &Uid, claim: &ResourceClaim, allocation: AllocationResult) {
        self.epoch += 1;
        let id = if claim.uid().is_empty() { pod } else { claim.uid() };
        self.pending.insert(id.to_owned(), Pending { pod: pod.clone(), claim: claim.key(), allocation });
    }

    /// What was to be written for the pod is, or never will be.
    pub fn take_back(&mut self, pod: &str) {
        let before = self.pending.len();
        self.pending.retain(|_, pending| *pending.pod != *pod);
        self.epoch += u64::from(self.pending.len() != before);
    }

    /// All that claims have, and will have.
    pub fn allocated(&self) -> Allocated {
        let mut allocated = Allocated::default();
        self.claims.iter().filter_map(|claim| claims::allocation(claim)).for_each(|allocation| allocated.add(allocation));
        // What is written counts once.
        let unwritten = |pending: &&Pending| self.claims.get(&pending.claim).is_none_or(|claim| claims::allocation(claim).is_none());
        self.pending.values().filter(unwritten).for_each(|pending| allocated.add(&pending.allocation));
        allocated
    }

    /// A name for a share of a device that no other has.
    pub fn share_id(&mut self) -> String {
        let mut part = |bits: u32| self.dice.below(1 << bits);
        let (a, b, c, d, e, f) = (part(32), part(16), part(12), part(14), part(24), part(24));
        format!("{a:08x}-{b:04x}-4{c:03x}-{:04x}-{e:06x}{f:06x}", d | 0x8000)
    }
}
