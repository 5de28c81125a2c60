//! How many endpoints and slices a service has and is given by a plan, for metrics. Decides nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::{Object, ObjectKey};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use parking_lot::Mutex;

use super::pods::{PortKey, port_key};
use super::slicing::{EndpointKey, Plan, endpoint_key};

/// What a plan changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: usize,
    pub updated: usize,
    pub removed: usize,
}

/// What there is when a plan is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub endpoints: usize,
    pub slices: usize,
    /// As many slices as would do, if all but the last were full.
    pub desired: usize,
}

type Keyed<'a> = BTreeMap<(Vec<PortKey>, EndpointKey), &'a Endpoint>;

fn ports(slice: &EndpointSlice) -> Vec<PortKey> {
    let mut ports: Vec<PortKey> = slice.ports.iter().flatten().map(port_key).collect();
    ports.sort();
    ports
}

fn keyed<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Keyed<'a> {
    let of = |slice: &'a EndpointSlice| {
        let ports = ports(slice);
        slice.endpoints.iter().flatten().map(move |endpoint| ((ports.clone(), endpoint_key(endpoint)), endpoint))
    };
    slices.into_iter().flat_map(of).collect()
}

/// What the plan changes; nothing is compared where nothing is written.
pub fn changes(existing: &[Arc<EndpointSlice>], plan: &Plan) -> Changes {
    let touched: BTreeSet<&str> = plan.update.iter().chain(&plan.delete).map(|slice| slice.name()).collect();
    let before = keyed(existing.iter().map(AsRef::as_ref).filter(|slice: &&EndpointSlice| touched.contains(slice.name())));
    let after = keyed(plan.create.iter().chain(&plan.update));
    Changes {
        added: after.keys().filter(|key| !before.contains_key(*key)).count(),
        updated: after.iter().filter(|(key, endpoint)| before.get(*key).is_some_and(|old| old != *endpoint)).count(),
        removed: before.keys().filter(|key| !after.contains_key(*key)).count(),
    }
}

/// What there is when the plan is carried out, with at most `max` endpoints in a slice.
pub fn numbers(existing: &[Arc<EndpointSlice>], plan: &Plan, max: usize) -> Numbers {
    let touched: BTreeSet<&str> = plan.update.iter().chain(&plan.delete).map(|slice| slice.name()).collect();
    let kept = existing.iter().map(AsRef::as_ref).filter(|slice: &&EndpointSlice| !touched.contains(slice.name()));
    let mut groups = BTreeMap::<(&str, Vec<PortKey>), usize>::new();
    let mut numbers = Numbers::default();
    for slice in kept.chain(&plan.create).chain(&plan.update) {
        let count = slice.endpoints.as_ref().map_or(0, Vec::len);
        numbers.slices += 1;
        numbers.endpoints += count;
        *groups.entry((slice.address_type.as_str(), ports(slice))).or_default() += count;
    }
    // There is always one that says that there are no endpoints.
    numbers.desired = groups.values().map(|count| count.div_ceil(max.max(1))).sum::<usize>().max(1);
    numbers
}

/// The numbers of all services of a controller; one entry each.
#[derive(Default)]
pub struct Totals {
    services: Mutex<HashMap<ObjectKey, Numbers>>,
}

impl Totals {
    pub fn set(&self, service: &ObjectKey, numbers: Numbers) {
        self.services.lock().insert(service.clone(), numbers);
    }

    pub fn forget(&self, service: &ObjectKey) {
        self.services.lock().remove(service);
    }

    /// The sum of one of the numbers.
    pub fn sum(&self, of: fn(&Numbers) -> usize) -> f64 {
        self.services.lock().values().map(of).sum::<usize>() as f64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, addresses: &[&str], ready: bool) -> EndpointSlice {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": ready}})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints,
        }))
        .unwrap()
    }

    #[test]
    fn a_plan_is_told_by_what_it_changes_and_by_what_there_is_then() {
        let existing = [slice("a", &["1", "2"], true), slice("b", &["3"], true), slice("c", &["4", "5"], true)].map(Arc::new);
        let plan = Plan {
            create: vec![slice("", &["6"], true)],
            update: vec![slice("a", &["2", "7"], false)],
            delete: vec![slice("b", &["3"], true)],
        };
        assert_eq!(changes(&existing, &plan), Changes { added: 2, updated: 1, removed: 2 });
        assert_eq!(numbers(&existing, &plan, 2), Numbers { endpoints: 5, slices: 3, desired: 3 });
        assert_eq!(changes(&existing, &Plan::default()), Changes::default());
        assert_eq!(numbers(&[], &Plan::default(), 2), Numbers { endpoints: 0, slices: 0, desired: 1 });
        let totals = Totals::default();
        totals.set(&ObjectKey::new("n", "s"), numbers(&existing, &plan, 2));
        totals.set(&ObjectKey::new("n", "t"), numbers(&existing, &Plan::default(), 100));
        assert_eq!((totals.sum(|n| n.endpoints), totals.sum(|n| n.slices), totals.sum(|n| n.desired)), (10.0, 6.0, 4.0));
    }
}
