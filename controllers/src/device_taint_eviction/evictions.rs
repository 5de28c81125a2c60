//! Which pods leave because of taints of their devices, and when. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRule, DeviceToleration, ResourceClaim, ResourceSlice,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::tolerations::NO_EXECUTE;
use crate::{pod_state, resource_claim};

/// Where a taint comes from, in the order in which they are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Rule {
        name: String,
        uid: String,
    },
    /// A taint of a device in the pool of a driver, by its place among the device's taints.
    Slice {
        driver: String,
        pool: String,
        device: String,
        index: usize,
    },
}

/// When pods that use a claim are to go, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    pub at: Timestamp,
    /// Each origin once.
    pub reasons: Vec<Origin>,
}

impl Eviction {
    fn new(at: Timestamp, mut reasons: Vec<Origin>) -> Eviction {
        reasons.sort();
        reasons.dedup();
        Eviction { at, reasons }
    }

    /// The earlier of two, for the reasons of both.
    fn join(self, other: Eviction) -> Eviction {
        Eviction::new(self.at.min(other.at), self.reasons.into_iter().chain(other.reasons).collect())
    }

    /// The names of the rules among the reasons.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().filter_map(|reason| match reason {
            Origin::Rule { name, .. } => Some(name.as_str()),
            Origin::Slice { .. } => None,
        })
    }

    /// Whether the rule with this uid is among the reasons.
    pub fn is_by_rule(&self, uid: &str) -> bool {
        self.reasons.iter().any(|reason| matches!(reason, Origin::Rule { uid: of, .. } if of == uid))
    }
}

/// What taints devices: slices by the driver and the pool, and rules whose taints evict.
#[derive(Default)]
pub struct Taints {
    pools: BTreeMap<(String, String), Vec<Arc<ResourceSlice>>>,
    rules: Vec<Arc<DeviceTaintRule>>,
}

impl Taints {
    pub fn new(slices: Vec<Arc<ResourceSlice>>, rules: Vec<Arc<DeviceTaintRule>>) -> Taints {
        let mut pools = BTreeMap::<_, Vec<_>>::new();
        for slice in slices {
            pools.entry((slice.spec.driver.clone(), slice.spec.pool.name.clone())).or_default().push(slice);
        }
        for slices in pools.values_mut() {
            // What an older generation says is no longer so.
            let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
            slices.retain(|slice| Some(slice.spec.pool.generation) == newest);
        }
        Taints { pools, rules: rules.into_iter().filter(|rule| rule.spec.taint.effect == NO_EXECUTE).collect() }
    }

    /// The same slices, with this rule alone as if it evicted.
    pub fn as_if(&self, rule: &DeviceTaintRule) -> Taints {
        let mut rule = rule.clone();
        rule.spec.taint.effect = NO_EXECUTE.to_owned();
        Taints { pools: self.pools.clone(), rules: vec![Arc::new(rule)] }
    }

    fn device(&self, driver: &str, pool: &str, device: &str) -> Option<&Device> {
        let slices = self.pools.get(&(driver.to_owned(), pool.to_owned()))?;
        slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten()).find(|known| known.name == device)
    }

    /// How many devices a rule selects among those that drivers tell of.
    pub fn selected(&self, rule: &DeviceTaintRule) -> usize {
        let devices = |slice: &Arc<ResourceSlice>| {
            let names = slice.spec.devices.iter().flatten().map(|device| device.name.as_str());
            names.filter(|device| selects(rule, &slice.spec.driver, &slice.spec.pool.name, device)).count()
        };
        self.pools.values().flatten().map(devices).sum()
    }

    /// The taints of an allocated device that evict, with where they come from.
    fn of<'a>(&'a self, allocated: &'a DeviceRequestAllocationResult) -> impl Iterator<Item = (Origin, &'a DeviceTaint)> {
        let DeviceRequestAllocationResult { driver, pool, device, .. } = allocated;
        let own = self.device(driver, pool, device).and_then(|device| device.taints.as_deref()).unwrap_or_default();
        let own = own.iter().enumerate().filter(|(_, taint)| taint.effect == NO_EXECUTE).map(move |(index, taint)| {
            (Origin::Slice { driver: driver.clone(), pool: pool.clone(), device: device.clone(), index }, taint)
        });
        let rules = self
            .rules
            .iter()
            .filter(move |rule| selects(rule, driver, pool, device))
            .map(|rule| (Origin::Rule { name: Object::name(&**rule).to_owned(), uid: rule.uid().to_owned() }, &rule.spec.taint));
        own.chain(rules)
    }
}

/// Whether a rule means a device. One without a selector means none.
pub fn selects(rule: &DeviceTaintRule, driver: &str, pool: &str, device: &str) -> bool {
    let Some(selector) = &rule.spec.device_selector else { return false };
    let fits = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    fits(&selector.driver, driver) && fits(&selector.pool, pool) && fits(&selector.device, device)
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let key = toleration.key.as_deref().unwrap_or("");
    if toleration.effect.as_deref() != Some(NO_EXECUTE) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        "Exists" => true,
        _ => false,
    }
}

/// When a taint that is not tolerated for good evicts; nothing if it never does.
fn evicts_at(tolerations: &[DeviceToleration], taint: &DeviceTaint) -> Option<Timestamp> {
    let added = taint.time_added.as_ref()?.0;
    let mut shortest = None::<i64>;
    for toleration in tolerations.iter().filter(|toleration| tolerates(toleration, taint)) {
        let seconds = toleration.toleration_seconds?.max(0);
        shortest = Some(shortest.map_or(seconds, |other| other.min(seconds)));
    }
    // A time beyond all times never comes.
    added.checked_add(SignedDuration::from_secs(shortest.unwrap_or(0))).ok()
}

/// The devices that a claim was given.
pub fn allocated(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let devices = claim.status.as_ref().and_then(|status| status.allocation.as_ref()?.devices.as_ref());
    devices.and_then(|devices| devices.results.as_deref()).unwrap_or_default()
}

/// When pods with this claim are to go.
pub fn of_claim(claim: &ResourceClaim, taints: &Taints) -> Option<Eviction> {
    let mut found = None::<(Timestamp, Vec<Origin>)>;
    for device in allocated(claim) {
        let tolerations = device.tolerations.as_deref().unwrap_or_default();
        for (origin, taint) in taints.of(device) {
            let Some(at) = evicts_at(tolerations, taint) else { continue };
            let (earliest, reasons) = found.get_or_insert_with(|| (at, Vec::new()));
            *earliest = at.min(*earliest);
            reasons.push(origin);
        }
    }
    found.map(|(at, reasons)| Eviction::new(at, reasons))
}

/// When a pod is to go. `claim` finds a claim in the pod's namespace.
pub fn of_pod(pod: &Pod, claim: impl Fn(&str) -> Option<Arc<ResourceClaim>>, taints: &Taints) -> Option<Eviction> {
    // What runs nowhere has nothing to leave.
    if pod_state::node_name(pod).is_empty() {
        return None;
    }
    let names = resource_claim::claims_of(pod);
    let claims = names.into_iter().filter_map(|(name, is_made_for_it)| {
        let claim = claim(&name)?;
        let is_its = !is_made_for_it || claim.is_controlled_by(pod.uid());
        (is_its && resource_claim::is_reserved_for(&claim, pod)).then_some(claim)
    });
    claims.filter_map(|claim| of_claim(&claim, taints)).reduce(Eviction::join)
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub fn taint(key: &str, added: &str) -> Value {
        json!({"key": key, "value": "v", "effect": "NoExecute", "timeAdded": added})
    }

    pub fn slice(generation: i64, taints: Value) -> Arc<ResourceSlice> {
        let value = json!({
            "metadata": {"name": format!("s{generation}")},
            "spec": {
                "driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                "devices": [{"name": "dev", "taints": taints}, {"name": "other"}],
            },
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    pub fn rule(name: &str, selector: Value, effect: &str, added: &str) -> Arc<DeviceTaintRule> {
        let value = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1},
            "spec": {"deviceSelector": selector, "taint": {"key": "k", "effect": effect, "timeAdded": added}},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    pub fn claim(tolerations: Value) -> Arc<ResourceClaim> {
        let value = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "uc"},
            "spec": {},
            "status": {
                "allocation": {"devices": {"results": [{"driver": "d", "pool": "p", "device": "dev", "request": "r", "tolerations": tolerations}]}},
                "reservedFor": [{"resource": "pods", "name": "pod", "uid": "up"}],
            },
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    pub fn pod(node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "pod", "namespace": "n", "uid": "up"},
            "spec": {"nodeName": node, "containers": [], "resourceClaims": [{"name": "r", "resourceClaimName": "c"}]},
        }))
        .unwrap()
    }

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    const T0: &str = "2026-01-01T00:00:00Z";
    const T9: &str = "2026-01-01T00:00:09Z";

    #[test]
    fn a_claim_is_evicted_when_the_first_taint_is_no_longer_tolerated() {
        let tolerates = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let cases = [
            ("no taint", json!([]), json!([]), None),
            ("not tolerated", json!([taint("a", T0)]), json!([]), Some(0)),
            ("tolerated for good", json!([taint("a", T0)]), json!([tolerates("a", None)]), None),
            ("tolerated for some time", json!([taint("a", T0)]), json!([tolerates("a", Some(30))]), Some(30)),
            ("the shortest counts", json!([taint("a", T0)]), json!([tolerates("a", Some(30)), tolerates("", Some(5))]), Some(5)),
            ("less than no time is none", json!([taint("a", T0)]), json!([tolerates("a", Some(-5))]), Some(0)),
            ("the earliest of two taints", json!([taint("a", T0), taint("b", T9)]), json!([tolerates("a", Some(30))]), Some(9)),
            ("another's toleration", json!([taint("a", T0)]), json!([tolerates("b", None)]), Some(0)),
            ("another effect's", json!([taint("a", T0)]), json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), Some(0)),
            (
                "another value",
                json!([taint("a", T0)]),
                json!([{"key": "a", "operator": "Equal", "value": "w", "effect": "NoExecute"}]),
                Some(0),
            ),
            ("the same value", json!([taint("a", T0)]), json!([{"key": "a", "value": "v", "effect": "NoExecute"}]), None),
            ("a taint that does not evict", json!([{"key": "a", "effect": "NoSchedule", "timeAdded": T0}]), json!([]), None),
            ("a taint since never", json!([{"key": "a", "effect": "NoExecute"}]), json!([]), None),
        ];
        for (what, taints, tolerations, expected) in cases {
            let taints = Taints::new(vec![slice(1, taints)], Vec::new());
            let at = of_claim(&claim(tolerations), &taints).map(|eviction| eviction.at.as_second() - second(T0));
            assert_eq!(at, expected, "{what}");
        }
    }

    #[test]
    fn what_an_older_generation_of_the_pool_says_is_over() {
        let taints = Taints::new(vec![slice(1, json!([taint("a", T0)])), slice(2, json!([]))], Vec::new());
        assert_eq!(of_claim(&claim(json!([])), &taints), None);
    }

    #[test]
    fn a_rule_taints_what_it_selects() {
        let cases = [
            (json!({"driver": "d"}), "NoExecute", true),
            (json!({"driver": "d", "pool": "p", "device": "dev"}), "NoExecute", true),
            (json!({"pool": "q"}), "NoExecute", false),
            (json!({}), "NoExecute", true),
            (Value::Null, "NoExecute", false),
            (json!({"driver": "d"}), "None", false),
        ];
        for (selector, effect, expected) in cases {
            let rule = rule("r", selector.clone(), effect, T0);
            let taints = Taints::new(vec![slice(1, json!([]))], vec![rule.clone()]);
            let found = of_claim(&claim(json!([])), &taints);
            assert_eq!(found.as_ref().is_some_and(|eviction| eviction.is_by_rule("uid-r")), expected, "{selector} {effect}");
        }
        let would = rule("r", json!({"device": "dev"}), "None", T0);
        let taints = Taints::new(vec![slice(1, json!([taint("a", T0)]))], Vec::new());
        let found = of_claim(&claim(json!([])), &taints.as_if(&would)).unwrap();
        assert_eq!((found.rules().collect::<Vec<_>>(), found.reasons.len(), taints.selected(&would)), (vec!["r"], 2, 1));
    }

    #[test]
    fn a_pod_goes_with_the_claims_that_are_its() {
        let taints = Taints::new(vec![slice(1, json!([taint("a", T0)]))], Vec::new());
        let evicted = |pod: &Pod, claim: &Arc<ResourceClaim>| of_pod(pod, |name| (name == "c").then(|| claim.clone()), &taints).is_some();
        assert!(evicted(&pod("node"), &claim(json!([]))));
        assert!(!evicted(&pod(""), &claim(json!([]))));
        let mut others = (*claim(json!([]))).clone();
        others.status.get_or_insert_default().reserved_for.get_or_insert_default()[0].uid = "another".to_owned();
        assert!(!evicted(&pod("node"), &Arc::new(others)));
        // A claim that was made from a template has to be this very pod's.
        let mut made = pod("node");
        made.spec.get_or_insert_default().resource_claims.get_or_insert_default()[0].resource_claim_name = None;
        made.status = serde_json::from_value(json!({"resourceClaimStatuses": [{"name": "r", "resourceClaimName": "c"}]})).unwrap();
        assert!(!evicted(&made, &claim(json!([]))));
        let mut owned = (*claim(json!([]))).clone();
        owned.metadata.owner_references = Some(vec![made.controller_reference()]);
        assert!(evicted(&made, &Arc::new(owned)));
    }
}
