//! Defaults of flowcontrol.apiserver.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value};

use crate::registry::defaulting::{Hook, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.flowcontrol.v1.ExemptPriorityLevelConfiguration", |exempt| {
        set_if_unset(exempt, "nominalConcurrencyShares", 0);
        set_if_unset(exempt, "lendablePercent", 0);
    }),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaSpec", |spec| set_if_zero(spec, "matchingPrecedence", 1000)),
    ("io.k8s.api.flowcontrol.v1.LimitedPriorityLevelConfiguration", |limited| {
        set_if_unset(limited, "nominalConcurrencyShares", 30);
        set_if_unset(limited, "lendablePercent", 0);
    }),
    ("io.k8s.api.flowcontrol.v1.QueuingConfiguration", |queuing| {
        set_if_zero(queuing, "handSize", 8);
        set_if_zero(queuing, "queues", 64);
        set_if_zero(queuing, "queueLengthLimit", 50);
    }),
];

/// For numbers that are no pointers in Go.
fn set_if_zero(map: &mut Map<String, Value>, field: &str, value: i64) {
    if map.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
        map.insert(field.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_counts_as_unset() {
        let mut map = json!({"queues": 0, "handSize": 3});
        set_if_zero(map.as_object_mut().unwrap(), "queues", 64);
        set_if_zero(map.as_object_mut().unwrap(), "handSize", 8);
        assert_eq!(map, json!({"queues": 64, "handSize": 3}));
        assert!(DEFAULTS.is_sorted_by_key(|(name, _)| *name));
    }
}
