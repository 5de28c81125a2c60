//! What the types of core/v1 are filled in with beyond their `+default` markers.

use apimachinery::quantity::Quantity;
use serde_json::{Map, Value};

use super::{endpoints, limit_range, namespace, node, persistent_volume, persistent_volume_claim, secret, service};
use crate::registry::defaulting::Hook;

/// By schema type. Pods and what they consist of have their own table.
pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.core.v1.EndpointPort", endpoints::default_port),
    ("io.k8s.api.core.v1.LimitRangeItem", |item| {
        limit_range::default_item(item);
        round_amounts(item, &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]);
    }),
    ("io.k8s.api.core.v1.Namespace", namespace::default_namespace),
    ("io.k8s.api.core.v1.NodeSpec", node::default_spec),
    ("io.k8s.api.core.v1.NodeStatus", |status| {
        node::default_status(status);
        round_amounts(status, &["capacity", "allocatable"]);
    }),
    ("io.k8s.api.core.v1.PersistentVolume", persistent_volume::default_volume),
    ("io.k8s.api.core.v1.PersistentVolumeClaim", persistent_volume_claim::default_claim),
    ("io.k8s.api.core.v1.PersistentVolumeClaimSpec", persistent_volume_claim::default_spec),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", |status| round_amounts(status, &["capacity", "allocatedResources"])),
    ("io.k8s.api.core.v1.PersistentVolumeSpec", |spec| round_amounts(spec, &["capacity"])),
    ("io.k8s.api.core.v1.ResourceQuotaSpec", |spec| round_amounts(spec, &["hard"])),
    ("io.k8s.api.core.v1.ResourceQuotaStatus", |status| round_amounts(status, &["hard", "used"])),
    ("io.k8s.api.core.v1.Secret", secret::default_secret),
    ("io.k8s.api.core.v1.Service", service::default_service),
    ("io.k8s.api.core.v1.VolumeResourceRequirements", |needs| round_amounts(needs, &["limits", "requests"])),
];

/// The power of ten of the finest amount.
const MILLI: i64 = -3;

/// Amounts of resources are never finer than a thousandth: what is finer is rounded up.
pub fn round_amounts(map: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        for amount in map.get_mut(*field).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
            let Some(before) = amount.as_str().and_then(|text| Quantity::parse(text).ok()) else { continue };
            let mut after = before.clone();
            after.round_up(MILLI);
            if after != before {
                *amount = after.canonical().into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_rounded_up_to_thousandths() {
        let mut map = json!({"hard": {"a": "1n", "b": "1500m", "c": "1Gi"}});
        round_amounts(map.as_object_mut().unwrap(), &["hard"]);
        assert_eq!(map["hard"], json!({"a": "1m", "b": "1500m", "c": "1Gi"}));
    }

    #[test]
    fn hooks_are_listed_by_type() {
        assert!(DEFAULTS.is_sorted_by_key(|(name, _)| *name));
    }
}
