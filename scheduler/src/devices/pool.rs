//! Pools: the slices of one driver and name, as far as a node can reach them.
//!
//! Specified by upstream's `pools_incubating.go` (v1.37). Slices of older generations do not count; pools may be incomplete (slices
//! are missing) or invalid (slices contradict each other), and nothing is taken from them then.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::Slices;
use super::slice::{Amounts, SliceInfo};

#[derive(Default)]
pub struct Pool {
    /// `driver/pool`.
    pub id: String,
    pub is_incomplete: bool,
    pub is_invalid: bool,
    /// Slices with devices that the node can reach, by name.
    pub here: Vec<Arc<SliceInfo>>,
    pub elsewhere: Vec<Arc<SliceInfo>>,
    pub counters: HashMap<String, Amounts>,
}

type Key<'a> = (&'a str, &'a str);

fn key(slice: &SliceInfo) -> Key<'_> {
    (&slice.slice.spec.driver, &slice.slice.spec.pool.name)
}

/// The pools with devices for a node: by driver and name, those with devices that have to be made ready last.
pub fn gather(slices: &Slices, node: &Node) -> Vec<Pool> {
    let name = node.metadata.name.as_deref().unwrap_or("");
    let mut pools: BTreeMap<Key<'_>, Vec<&Arc<SliceInfo>>> = BTreeMap::new();
    for slice in slices.for_node(name).filter(|slice| !slice.ignored && slice.is_for(node)) {
        let pool = pools.entry(key(slice)).or_default();
        let generation = slice.slice.spec.pool.generation;
        let known = pool.first().map_or(generation, |first| first.slice.spec.pool.generation);
        if generation > known {
            pool.clear();
        }
        if generation >= known {
            pool.push(slice);
        }
    }
    let built: Vec<Pool> = pools.into_iter().filter_map(|(key, here)| build(slices, key, here)).collect();
    let waits = |slice: &Arc<SliceInfo>| slice.slice.spec.devices.iter().flatten().any(|device| device.binding_conditions.is_some());
    let (last, first): (Vec<Pool>, Vec<Pool>) = built.into_iter().partition(|pool| pool.here.iter().any(waits));
    first.into_iter().chain(last).collect()
}

/// Nothing if the pool is being replaced.
fn build(slices: &Slices, key: Key<'_>, mut here: Vec<&Arc<SliceInfo>>) -> Option<Pool> {
    let of = &here.first()?.slice.spec.pool;
    let (count, generation) = (of.resource_slice_count, of.generation);
    let id = format!("{}/{}", key.0, key.1);
    let is_all = |slices: usize| i64::try_from(slices) == Ok(count);
    let mut others: Vec<&Arc<SliceInfo>> = Vec::new();
    if !is_all(here.len()) {
        let all: Vec<&Arc<SliceInfo>> = slices.of_pool(key.0, key.1).collect();
        if all.iter().any(|slice| slice.slice.spec.pool.generation > generation) {
            return None;
        }
        let all: Vec<_> = all.into_iter().filter(|s| s.slice.spec.pool.generation == generation && !s.ignored).collect();
        if !is_all(all.len()) {
            return Some(Pool { id, is_incomplete: true, ..Pool::default() });
        }
        others = all.into_iter().filter(|slice| here.iter().all(|known| known.name() != slice.name())).collect();
    }
    here.sort_by(|a, b| a.name().cmp(b.name()));
    let (counting, here): (Vec<_>, Vec<_>) = here.into_iter().partition(|slice| !slice.shared.is_empty());
    let (counting_too, elsewhere): (Vec<_>, Vec<_>) = others.into_iter().partition(|slice| !slice.shared.is_empty());
    let mut pool = Pool { id, ..Pool::default() };
    let mut names = HashSet::new();
    pool.is_invalid = !here.iter().flat_map(|slice| &slice.devices).all(|device| names.insert(&device.id));
    for (set, amounts) in counting.into_iter().chain(counting_too).flat_map(|slice| &slice.shared) {
        pool.is_invalid |= pool.counters.insert(set.clone(), amounts.clone()).is_some();
    }
    let consumed = here.iter().chain(&elsewhere).flat_map(|slice| &slice.devices).flat_map(|device| &device.consumes);
    for (set, amounts) in consumed {
        pool.is_invalid |= pool.counters.get(set).is_none_or(|known| amounts.keys().any(|name| !known.contains_key(name)));
    }
    pool.here = here.into_iter().cloned().collect();
    pool.elsewhere = elsewhere.into_iter().cloned().collect();
    Some(pool)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::of;

    fn slice(name: &str, node: &str, generation: i64, count: i64, devices: &[&str]) -> Value {
        let devices: Vec<Value> = devices.iter().map(|name| json!({"name": name})).collect();
        json!({"metadata": {"name": name}, "spec": {"driver": "d.com", "nodeName": node, "devices": devices,
            "pool": {"name": "p", "generation": generation, "resourceSliceCount": count}}})
    }

    fn gathered(slices: &[Value]) -> Vec<String> {
        let mut all = Slices::default();
        slices.iter().for_each(|slice| all.set(&of(slice.clone()), &[]));
        let node: Arc<Node> = of(json!({"metadata": {"name": "n"}}));
        let told = |pool: Pool| {
            let devices: Vec<String> = pool.here.iter().flat_map(|s| &s.devices).map(|device| device.id.to_string()).collect();
            let state = if pool.is_incomplete {
                "incomplete"
            } else if pool.is_invalid {
                "invalid"
            } else {
                ""
            };
            format!("{} {state} {}", pool.id, devices.join(" "))
        };
        gather(&all, &node).into_iter().map(told).collect()
    }

    #[test]
    fn a_pool_is_whole_old_or_broken() {
        for (slices, expected) in [
            (vec![slice("b", "n", 1, 2, &["y"]), slice("a", "n", 1, 2, &["x"])], vec!["d.com/p  d.com/p/x d.com/p/y"]),
            (vec![slice("a", "n", 1, 2, &["x"])], vec!["d.com/p incomplete "]),
            (vec![slice("a", "n", 1, 2, &["x"]), slice("b", "m", 1, 2, &["y"])], vec!["d.com/p  d.com/p/x"]),
            (vec![slice("a", "n", 1, 1, &["x"]), slice("b", "n", 2, 1, &["y"])], vec!["d.com/p  d.com/p/y"]),
            (vec![slice("a", "n", 1, 2, &["x"]), slice("b", "m", 2, 1, &["y"])], vec![]),
            (vec![slice("a", "n", 1, 1, &["x", "x"])], vec!["d.com/p invalid d.com/p/x d.com/p/x"]),
            (vec![slice("a", "m", 1, 1, &["x"])], vec![]),
        ] {
            assert_eq!(gathered(&slices), expected, "{slices:?}");
        }
    }

    #[test]
    fn counters_have_to_be_where_they_are_consumed() {
        let mut consuming = slice("a", "n", 1, 2, &["x"]);
        consuming["spec"]["devices"][0]["consumesCounters"] = json!([{"counterSet": "s", "counters": {"memory": {"value": "1Gi"}}}]);
        let mut sharing = slice("b", "n", 1, 2, &[]);
        sharing["spec"]["sharedCounters"] = json!([{"name": "s", "counters": {"memory": {"value": "8Gi"}}}]);
        assert_eq!(gathered(&[consuming.clone(), sharing.clone()]), ["d.com/p  d.com/p/x"]);
        sharing["spec"]["sharedCounters"][0]["counters"] = json!({"cores": {"value": "8"}});
        assert_eq!(gathered(&[consuming.clone(), sharing]), ["d.com/p invalid d.com/p/x"]);
        consuming["spec"]["devices"][0]["consumesCounters"][0]["compatibilityGroups"] = json!(["g"]);
        assert_eq!(gathered(&[consuming]), Vec::<String>::new());
    }
}
